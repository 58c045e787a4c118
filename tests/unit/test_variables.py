"""Variables are read as graphql-core reads them, whether or not there are columns in them."""

from typing import Any

from graphql import Executor as Stock
from graphql import parse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schema.root import schema
from schema.variables import ReadsColumns

DOCUMENT = parse("""
mutation ($input: LogMetricsInput!, $values: [Float], $steps: [BigInt!], $id: ID, $on: Boolean!) {
  logMetrics(input: $input) { __typename @include(if: $on) }
}
""")
# As long as columns are, and longer than what is read number by number.
LONG = 20

numbers = st.one_of(
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**400, 2**53 + 1, -0.0]),
)
odd = st.one_of(
    numbers, st.none(), st.booleans(), st.just("1"), st.just([]), st.just({}), st.floats()
)


def columns(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Columns in which all is usual, but for one item perhaps, and what is no column."""
    column = st.lists(usual, min_size=LONG, max_size=2 * LONG)
    spoilt = st.builds(
        lambda column, n, item: [*column[: n % LONG], item, *column[n % LONG :]],
        column,
        st.integers(0, LONG),
        odd,
    )
    return st.one_of(column, column, spoilt, st.lists(odd, max_size=3), odd)


steps = columns(st.integers(-(2**63), 2**63 - 1))
values = columns(st.floats(allow_nan=False, allow_infinity=False))
gaps = columns(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)))
series = st.fixed_dictionaries(
    {"key": st.just("loss"), "steps": steps, "values": values | gaps},
    optional={
        "kinds": st.just(["NAN"]),
        "timestamps": st.just(["2026-01-01T00:00:00Z"]),
        "unknown": steps,
    },
)
variables = st.fixed_dictionaries(
    {"on": st.just(True)},
    optional={
        "input": st.fixed_dictionaries({"runId": st.just("r"), "series": st.lists(series) | odd}),
        "values": gaps,
        "steps": steps,
        "id": odd,
    },
)


def read(executor: type[Stock[Any]], sent: dict[str, Any]) -> Any:
    """The values, with their classes, or what is said of them."""
    built = executor.build(schema._schema, DOCUMENT, raw_variable_values=sent)
    if isinstance(built, list):
        return [error.formatted for error in built]
    return repr(built.variable_values.coerced), repr(built.variable_values.sources)


@settings(
    max_examples=500,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(variables)
def test_columns_or_not_values_and_errors_are_those_of_graphql_core(sent: dict[str, Any]) -> None:
    before = repr(sent)

    assert read(ReadsColumns, sent) == read(Stock, sent)

    assert repr(sent) == before


def test_columns_of_numbers_are_taken_as_they_are() -> None:
    steps, values = list(range(LONG)), [None, *(n / 7 for n in range(LONG))]
    series = {"key": "loss", "steps": steps, "values": values}
    sent = {"input": {"runId": "r", "series": [series, series]}, "on": True}

    built = ReadsColumns.build(schema._schema, DOCUMENT, raw_variable_values=sent)

    assert isinstance(built, Stock)
    for found in built.variable_values.coerced["input"]["series"]:
        assert found["steps"] is steps
        assert found["values"] is values
