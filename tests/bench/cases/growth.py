"""Whether it matters how much there is: the same questions where there is ten times, and a hundred
times as much.

Three databases, each with a service of its own. What a run itself has is the same in all of them.
What must hold is that the largest is as fast as the smallest but for what the machine drifts
within a run, a fifth; what grows with the data would be slower by a factor.
"""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from zlib import crc32

import asyncpg
from sqlalchemy import make_url

from lifecycle import migrate
from tests.bench import contenders, data
from tests.bench.cases import Bench, detail, page
from tests.bench.cases.reads import held
from tests.bench.contenders import CONNECTIONS
from tests.bench.load import post, staggered
from tests.bench.measure import Bound, Outcome, in_rounds
from tests.conftest import a_database, in_thread

WANTED = ()

_SIZES = (data.Size(10_000, 2), data.Size(100_000, 2), data.Size(1_000_000, 2))
_QUICK_SIZES = (data.Size(2_000, 2), data.Size(10_000, 2), data.Size(50_000, 2))

_MADE_BY = crc32(Path(data.__file__).read_bytes())

_HISTORY = """query ($id: ID!, $keys: [String!]!) {
  run(id: $id) { metricHistory(keys: $keys) { key steps values totalPoints } }
}"""


def _contents() -> dict[str, list[object]]:
    """What is asked, by the name of the question."""
    history = {"id": data.global_id("Run", data.LONG_RUN), "keys": [data.LONG_KEY]}
    return {
        "page": [{"query": page.QUESTION.service, "variables": v} for v in page.QUESTION.variables],
        "detail": [
            {"query": detail.QUESTION.service, "variables": v} for v in detail.QUESTION.variables
        ],
        "history": [{"query": _HISTORY, "variables": history}],
    }


def _name(question: str, size: data.Size) -> str:
    if question == "history":
        return f"{question}, {size.points:,} points"
    return f"{question}, {size.runs:,} runs"


async def _filled(postgres_url: str, size: data.Size) -> str:
    """A database of a size. Filling the largest takes minutes, and nothing is written to it: it is
    kept for the next time, under a name that says what made it."""
    name = f"growth_{size.runs}_{migrate.head()}_{_MADE_BY:x}"
    server = make_url(postgres_url)
    connection = await asyncpg.connect(postgres_url.replace("+asyncpg", ""))
    if not await connection.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", name):
        with a_database(postgres_url) as url:
            in_thread(partial(migrate.upgrade, url))
            await data.fill_lifecycle(url, size)
            filled = make_url(url).database
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {filled} STRATEGY file_copy")
    await connection.close()
    return server.set(database=name).render_as_string(hide_password=False)


async def run(bench: Bench) -> Outcome:
    """Answers a second for each size."""
    turns = {}
    sizes = _QUICK_SIZES if bench.quick else _SIZES
    with ExitStack() as stack:
        for size in sizes:
            url = await _filled(bench.postgres_url, size)
            server = stack.enter_context(contenders.service(url, f"growth-{size.runs}"))
            for question, contents in _contents().items():
                asked = [post(server.port, "/graphql", content) for content in contents]
                requests = await held(server.port, asked)
                turns[_name(question, size)] = bench.turn(
                    server.port, staggered(requests, CONNECTIONS)
                )
        figures = await in_rounds(turns, bench.rounds, bench.random)
    bounds = [
        Bound(_name(question, sizes[-1]), _name(question, sizes[0]), 0.8)
        for question in _contents()
    ]
    return Outcome("growth", "answers/s", figures, bounds)
