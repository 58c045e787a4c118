"""Whether a process grows: how much memory it has under load, after as many requests as it may get
in an hour.

The load is what the other cases ask, writes among it, and questions that nobody has asked before,
so that whoever keeps something of each question is seen. The first quarter is left out: until then
caches and pools fill.
"""

from collections.abc import Iterator, Mapping
from itertools import count, cycle, islice

from tests.bench.cases import Bench, detail, ingest, nested, page, tiny
from tests.bench.cases.reads import held
from tests.bench.contenders import CONNECTIONS
from tests.bench.load import Request, exhaust, post
from tests.bench.measure import Bound, Outcome

WANTED = ("service",)
BOUNDS = (Bound("last quarter", "second quarter", 1.05, at_most=True),)

# Ten a second for an hour.
_REQUESTS, _QUICK_REQUESTS = 36_000, 1_600
_PARTS = 20
# Of twenty requests; the rest are small.
_DETAILS, _PAGES, _OVERVIEWS, _WRITES, _NEW = 4, 2, 1, 1, 3


def _requests(port: int, writer: int, reads: Mapping[str, list[Request]]) -> Iterator[Request]:
    known = {name: cycle(requests) for name, requests in reads.items()}
    points = ingest.service(port, ingest.RUNS["memory"][writer])
    for n in count():
        yield from islice(known["detail"], _DETAILS)
        yield from islice(known["page"], _PAGES)
        yield from islice(known["nested"], _OVERVIEWS)
        yield from islice(points, _WRITES)
        for new in range(_NEW):
            query = f"{tiny.QUESTION.service} # {writer} {n} {new}"
            content = {"query": query, "variables": tiny.QUESTION.variables[0]}
            yield post(port, "/graphql", content, contains=b'"data"')
        yield from islice(known["tiny"], 20 - _DETAILS - _PAGES - _OVERVIEWS - _WRITES - _NEW)


async def run(bench: Bench) -> Outcome:
    """Megabytes after each part of the load."""
    server = bench.servers["service"]
    reads = {
        each.name: await held(server.port, each.requests("service", server.port))
        for each in (detail.QUESTION, page.QUESTION, nested.QUESTION, tiny.QUESTION)
    }
    streams = [_requests(server.port, writer, reads) for writer in range(CONNECTIONS)]
    each = (_QUICK_REQUESTS if bench.quick else _REQUESTS) // _PARTS // CONNECTIONS
    resident = []
    for _ in range(_PARTS):
        await exhaust(server.port, [islice(stream, each) for stream in streams])
        resident.append(server.resident() / 2**20)
    quarter = _PARTS // 4
    figures = {
        "second quarter": resident[quarter : 2 * quarter],
        "last quarter": resident[-quarter:],
    }
    return Outcome("memory", "MiB", figures, BOUNDS, {"at first": resident[0]})
