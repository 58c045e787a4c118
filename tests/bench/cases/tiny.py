"""The smallest question: one field of one run. What the way through the server costs."""

from tests.bench import data
from tests.bench.cases import Bench
from tests.bench.cases.reads import Question, compare
from tests.bench.measure import Bound, Outcome

WANTED = ("service", "stock", "postgraphile", "limit")
BOUNDS = (Bound("service", "postgraphile", 0.9), Bound("service", "stock", 1.7))

_RUNS = range(1, 101)

QUESTION = Question(
    "tiny",
    service="query ($id: ID!) { run(id: $id) { name } }",
    postgraphile="query ($id: UUID!) { run(rowId: $id) { name } }",
    limit="""
    SELECT json_build_object('data',
        json_build_object('run', json_build_object('name', name)))::text
    FROM run WHERE id = $1
    """,
    variables=[{"id": data.global_id("Run", n)} for n in _RUNS],
    row_variables=[{"id": str(data.row_id("Run", n))} for n in _RUNS],
)


async def run(bench: Bench) -> Outcome:
    """Answers a second."""
    return await compare(bench, QUESTION, BOUNDS)
