"""Points of metrics as training code sends them: a thousand at a time, of five keys, by eight
writers, each to a run of its own, at steps that are new each time."""

from collections.abc import Iterator
from itertools import count

from tests.bench import data
from tests.bench.cases import Bench
from tests.bench.load import Request, post
from tests.bench.measure import Bound, Outcome, in_rounds

WANTED = ("service", "mlflow", "limit")
BOUNDS = (Bound("service", "mlflow", 10), Bound("service", "limit", 0.5))

WRITERS = 8
POINTS = 1_000
_STEPS = POINTS // len(data.KEYS)

# Runs that are on no page of the other cases, and for each who writes others.
RUNS = {
    "service": range(1_001, 1_001 + WRITERS),
    "mlflow": range(1_001, 1_001 + WRITERS),
    "limit": range(1_101, 1_101 + WRITERS),
    "memory": range(1_201, 1_201 + WRITERS),
}

_LOG_METRICS = """mutation ($input: LogMetricsInput!) {
  logMetrics(input: $input) { __typename ... on Error { message } }
}"""

# The limit: what `logMetrics` has to store, and nothing of what else it does.
STORE = """
WITH given AS (
    SELECT * FROM unnest($2::text[], $3::bigint[], $4::float8[]) AS point (key, step, value)
), stored AS (
    INSERT INTO metric_point (run_id, key, step, "timestamp", value)
    SELECT $1, key, step, now(), value FROM given
    ON CONFLICT (run_id, key, step, "timestamp") DO UPDATE SET value = excluded.value
)
INSERT INTO latest_metric AS latest (run_id, experiment_id, key, value, step, "timestamp")
SELECT DISTINCT ON (key) $1, (SELECT experiment_id FROM run WHERE id = $1), key, value, step, now()
FROM given ORDER BY key, step DESC
ON CONFLICT (run_id, key) DO UPDATE
    SET value = excluded.value, step = excluded.step, "timestamp" = excluded.timestamp
    WHERE latest.step <= excluded.step
"""


def _series() -> Iterator[list[dict[str, object]]]:
    for n in count(1):
        steps = list(range(n * _STEPS, (n + 1) * _STEPS))
        values = [step / 7 for step in steps]
        yield [{"key": key, "steps": steps, "values": values} for key in data.KEYS]


def service(port: int, run: int) -> Iterator[Request]:
    """What a writer sends to this service."""
    run_id = data.global_id("Run", run)
    for series in _series():
        variables = {"input": {"runId": run_id, "series": series}}
        content = {"query": _LOG_METRICS, "variables": variables}
        yield post(port, "/graphql", content, contains=b"LogMetricsSuccess")


def _mlflow(port: int, run: int) -> Iterator[Request]:
    run_id = data.row_id("Run", run).hex
    for n in count(1):
        metrics = [
            {"key": key, "value": step / 7, "step": step, "timestamp": step}
            for key in data.KEYS
            for step in range(n * _STEPS, (n + 1) * _STEPS)
        ]
        content = {"run_id": run_id, "metrics": metrics, "params": [], "tags": []}
        yield post(port, "/api/2.0/mlflow/runs/log-batch", content)


def _limit(port: int, run: int) -> Iterator[Request]:
    run_id = str(data.row_id("Run", run))
    for series in _series():
        yield post(port, "/ingest", {"run_id": run_id, "series": series}, contains=b"INSERT")


async def run(bench: Bench) -> Outcome:
    """Points a second."""
    turns = {}
    for name, requests in (("service", service), ("mlflow", _mlflow), ("limit", _limit)):
        port = bench.servers[name].port
        # A writer goes on in the next round where it was.
        writers = [requests(port, run) for run in RUNS[name]]
        turns[name] = bench.turn(port, writers, POINTS)
    figures = await in_rounds(turns, bench.rounds, bench.random)
    return Outcome("ingest", "points/s", figures, BOUNDS)
