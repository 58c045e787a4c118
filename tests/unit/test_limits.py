"""How large a document is, measured before it is validated."""

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from graphql import (
    GraphQLError,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLUnionType,
    Source,
    get_introspection_query,
    parse,
)
from graphql.language import location

from lifecycle.errors import LimitExceeded
from lifecycle.runs.service import MAX_KEYS, MAX_POINTS
from schema.limits import (
    _LENGTHS,
    MAX_DEPTH,
    MAX_FIELDS,
    MAX_GIVEN,
    MAX_GIVEN_TEXTS,
    check_variables,
    refusals,
)
from schema.root import schema


def refused(document: str, **variables: object) -> list[str]:
    errors = refusals(parse(document), variables)
    assert all((error.extensions or {})["code"] == "LIMIT_EXCEEDED" for error in errors)
    return [error.message for error in errors]


def nested(levels: int) -> str:
    """A selection of so many levels."""
    return "{ a " * levels + "}" * levels


def test_as_many_levels_as_are_allowed_pass() -> None:
    assert refused(nested(MAX_DEPTH)) == []


def test_one_level_more_is_too_deep() -> None:
    assert refused(nested(MAX_DEPTH + 1)) == ["The operation is 16 levels deep; 15 are allowed."]


def test_inline_fragments_add_no_level() -> None:
    inline = "{ ... on Query " * 50 + nested(MAX_DEPTH) + "}" * 50

    assert refused(inline) == []


def test_levels_inside_of_fragments_count() -> None:
    fragment = f"fragment f on Query {nested(10)}"

    assert refused(f"{{ a {{ a {{ a {{ a {{ a {{ ...f }} }} }} }} }} }} {fragment}") == []
    assert refused(f"{{ a {{ a {{ a {{ a {{ a {{ a {{ ...f }} }} }} }} }} }} }} {fragment}") == [
        "The operation is 16 levels deep; 15 are allowed."
    ]


def test_as_many_fields_as_are_allowed_pass() -> None:
    assert refused("{" + "a " * MAX_FIELDS + "}") == []


def test_one_field_more_is_too_much_whatever_its_alias() -> None:
    message = "The operation selects 2001 fields; 2,000 are allowed."

    assert refused("{" + "a " * (MAX_FIELDS + 1) + "}") == [message]
    assert refused("{" + "".join(f"a{n}: a " for n in range(MAX_FIELDS + 1)) + "}") == [message]


def test_a_fragment_counts_as_often_as_it_is_used() -> None:
    fragment = "fragment f on Query { " + "a " * 500 + "}"

    assert refused("{ ...f ...f ...f ...f }" + fragment) == []
    assert refused("{ ...f ...f ...f ...f a }" + fragment) == [
        "The operation selects 2001 fields; 2,000 are allowed."
    ]


def test_fragments_that_multiply_are_measured_without_being_expanded() -> None:
    doubling = "".join(f"fragment f{n} on Query {{ ...f{n + 1} ...f{n + 1} }} " for n in range(100))

    assert refused("{ ...f0 }" + doubling + "fragment f100 on Query { a }") == [
        f"The operation selects {2**100} fields; 2,000 are allowed."
    ]


@pytest.mark.parametrize(
    "fragments",
    [
        "fragment f on Query { ...f }",
        "fragment f on Query { a { ...g } } fragment g on Query { a { ...f } }",
        "fragment f on Query { ...nowhere }",
        "",
    ],
)
def test_fragments_that_lead_in_circles_or_nowhere_are_left_to_the_rules_of_graphql(
    fragments: str,
) -> None:
    assert refused("{ ...f }" + fragments) == []


def test_a_chain_of_thousands_of_fragments_is_too_deep() -> None:
    chain = "".join(f"fragment f{n} on Query {{ ...f{n + 1} }} " for n in range(3_000))

    assert refused("{ ...f0 }" + chain + "fragment f3000 on Query { a }") == [
        "The operation is 3002 levels deep; 15 are allowed."
    ]


def test_each_operation_is_measured() -> None:
    assert refused(f"query a {nested(16)} query b {{ a }} query c {nested(17)}") == [
        "The operation is 16 levels deep; 15 are allowed.",
        "The operation is 17 levels deep; 15 are allowed.",
    ]


def test_introspection_does_not_count() -> None:
    assert refused(get_introspection_query()) == []
    assert refused('{ __type(name: "Query") ' + nested(20) + "}") == []


@pytest.mark.parametrize(
    "document",
    [
        "{ a(first: 100) { nodes { b(last: 100) { nodes { c(first: 99) { d } } } } } }",
        "{ a(first: 100) { nodes { b(first: 100) { nodes { c(first: $n) { d } } } } } }",
        "{ a(first: 999) { nodes { b(first: 999) { nodes { c(first: $n) { d } } } } } }",
    ],
)
def test_pages_multiply(document: str) -> None:
    # 100 times: the page, its nodes, and in each the next.
    assert refused(document, n=99) == [
        f"The operation may cost {100 * (1 + 1 + 100 * (1 + 1 + 99))}; 50,000 are allowed."
    ]


def test_a_page_has_25_items_unless_it_is_said_otherwise() -> None:
    three = "{ a { nodes { b { nodes { c { nodes { d } } } } } } }"

    assert refused(three.replace("c {", "c(first: 1) {")) == []
    assert refused(three.replace("c {", "c(first: 100) {")) != []


def test_pages_behind_fragments_multiply_too() -> None:
    pages = "{ a { ...f } } fragment f on A { nodes { b { ... on B { nodes { c { ...g } } } } } } "

    assert refused(pages + "fragment g on C { edges { node { d { e } } } }") == refused(
        "{ a { nodes { b { nodes { c { edges { node { d { e } } } } } } } } }"
    )


@pytest.mark.parametrize("first", [None, "x", [], True, 1e9])
def test_a_size_that_is_none_counts_as_the_largest_or_is_refused_elsewhere(first: object) -> None:
    document = "{ a(first: $n) { nodes { b(first: 100) { nodes { c(first: 3) { d } } } } } }"

    assert (refused(document, n=first) == []) == (first is True)


def test_as_many_objects_as_ids_are_asked_for() -> None:
    each = (
        "{ ... on Experiment { runs(first: 100) { nodes { logs(first: 5) { nodes { line } } } } } }"
    )

    assert refused(f"query ($ids: [ID!]!) {{ nodes(ids: $ids) {each} }}", ids=["a"]) == []
    assert refused(f"query ($ids: [ID!]!) {{ nodes(ids: $ids) {each} }}", ids=["a"] * 100) != []
    assert refused(f"{{ nodes(ids: {json.dumps(['a'] * 100)}) {each} }}") != []


def test_ids_that_a_document_has_for_whoever_gives_none_count_too() -> None:
    each = (
        "{ ... on Experiment { runs(first: 100) { nodes { logs(first: 5) { nodes { line } } } } } }"
    )
    document = f"query ($ids: [ID!]! = {json.dumps(['a'] * 100)}) {{ nodes(ids: $ids) {each} }}"

    assert refused(document) != []
    assert refused(document, ids=["a"]) == []
    assert refused(f"{document} query B($ids: [ID!]! = []) {{ nodes(ids: $ids) {each} }}") != []


def test_introspection_counts_what_the_schema_has() -> None:
    types = list(schema._schema.type_map.values())
    number: Counter[str] = Counter(types=len(types), directives=len(schema._schema.directives))
    for each in types:
        fields = getattr(each, "fields", {}).values()
        number["inputFields" if isinstance(each, GraphQLInputObjectType) else "fields"] += len(
            fields
        )
        number["args"] += sum(len(getattr(field, "args", ())) for field in fields)
        number["enumValues"] += len(getattr(each, "values", ()))
        number["interfaces"] += len(getattr(each, "interfaces", ()))
        if isinstance(each, GraphQLInterfaceType | GraphQLUnionType):
            number["possibleTypes"] += len(schema._schema.get_possible_types(each))

    types_, fields_ = _LENGTHS["types"], _LENGTHS["types"] * _LENGTHS["fields"]
    of = {"types": 1, "directives": 1, "args": fields_}
    assert {
        name for name in number if number[name] > of.get(name, types_) * _LENGTHS[name]
    } == set()


def test_what_graphiql_asks_at_first_is_allowed_once_but_not_a_hundred_times() -> None:
    again = " ".join(f"a{n}: __schema {{ types {{ fields {{ name }} }} }}" for n in range(100))

    assert refused(f"{{ {again} }}") != []


def test_lineage_counts_as_long_as_it_may_be() -> None:
    # 1,000 times: the lineage, its nodes, an edge, and what is selected of each node.
    few = "{ lineage(of: $of) { nodes { ... on Run { a { b } } } edges { kind } } }"
    many = "{ lineage(of: $of) { nodes { ... on Run { a(first: 50) { b } } } edges { kind } } }"

    assert refused(few) == []
    assert refused(f"query ($of: ID!) {many}") == [
        f"The operation may cost {1_000 * (1 + 1 + 50 + 1)}; 50,000 are allowed."
    ]


def test_checks_count_as_many_as_a_policy_may_have_rules() -> None:
    few = "{ a(first: 100) { nodes { whyNot { evidence { id } } } } }"
    # Each check leads to its version, and that to its checks.
    many = "{ a(first: 20) { nodes { whyNot { evidence { ... on V { whyNot { b } } } } } } }"

    assert refused(few) == []
    assert refused(many) == [
        f"The operation may cost {20 * (1 + 1 + 100 * (1 + 1 + 100))}; 50,000 are allowed."
    ]


def test_a_history_counts_as_long_as_a_page_is() -> None:
    entry = "stageHistory { modelVersion { approvalHistory { modelVersion {"

    assert refused(f"{{ a {{ {entry} b {'} ' * 6}") == []
    assert refused(f"{{ a {{ {entry} {entry} b {'} ' * 10}") != []


def test_a_checklist_counts_as_long_as_it_may_be() -> None:
    versions = "{{ a(first: 20) {{ nodes {{ {} }} }} }}"
    many = " ".join(f"a{n}: checklist {{ title }}" for n in range(400))

    assert refused(versions.format("checklist { title }")) == []
    assert refused(versions.format(many)) == ["The operation may cost 1600040; 50,000 are allowed."]


def test_where_an_error_is_is_said_as_graphql_says_it() -> None:
    body = "a\nbc\r\nd\r\r\n\n  é\u2028e\n"
    source = Source(body)

    starts = [n for n in range(len(body) + 1) if body[n - 1 : n + 1] != "\r\n"]
    found = location.get_locations([(source, n) for n in starts])

    # Lines end at \n, at \r, and at both together, and nowhere else.
    assert [(each.line, each.column) for each in found] == [
        *((1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (4, 1), (5, 1), (6, 1)),
        *((6, 2), (6, 3), (6, 4), (6, 5), (6, 6), (7, 1)),
    ]
    assert [source.get_location(n) for n in starts] == found


def test_a_thousand_errors_in_a_long_document_are_found_in_it() -> None:
    """graphql-core counts the lines for each; that takes minutes."""
    source = Source("\n" * 480_000 + " a" * 20_000)

    errors = [GraphQLError("", source=source, positions=[n]) for n in range(480_000, 500_000)]

    assert [error.locations[0].line for error in errors if error.locations] == [480_001] * 20_000
    columns = [error.locations[0].column for error in errors if error.locations]
    assert all(later == column + 1 for column, later in pairwise(columns))


def nested_list(levels: int) -> Any:
    found: Any = []
    for _ in range(levels - 1):
        found = [found]
    return found


@pytest.mark.parametrize(
    "variables",
    [
        None,
        {},
        {"ids": [{}] * (MAX_GIVEN - 2)},
        {"x": nested_list(MAX_GIVEN - 1)},
        {"series": [{"values": [1.5, None] * 49_000, "times": ["t"] * MAX_GIVEN_TEXTS}]},
    ],
)
def test_variables_may_be_as_large_as_anything_takes(variables: Any) -> None:
    check_variables(variables)


@pytest.mark.parametrize(
    ("variables", "said", "limit"),
    [
        ({"ids": [{}] * (MAX_GIVEN - 1)}, "8,000 lists and objects", MAX_GIVEN),
        ({"x": nested_list(MAX_GIVEN)}, "8,000 lists and objects", MAX_GIVEN),
        ({"x": [1, {"y": [[]] * MAX_GIVEN}]}, "8,000 lists and objects", MAX_GIVEN),
        ({"x": ["a"] * (MAX_GIVEN_TEXTS + 1)}, "50,000 texts", MAX_GIVEN_TEXTS),
        ({"x": {str(n): "a" for n in range(MAX_GIVEN_TEXTS + 1)}}, "50,000 texts", 50_000),
        ({"x": {str(n): 1 for n in range(150_000)}}, "150,000 values", 150_000),
        ({"x": [1] * 100_000, "y": {"z": [None] * 49_998}}, "150,000 values", 150_000),
    ],
)
def test_variables_of_more_than_anything_takes_are_refused(
    variables: Any, said: str, limit: int
) -> None:
    with pytest.raises(LimitExceeded) as refused:
        check_variables(variables)

    assert str(refused.value) == f"The variables of a request may have {said}."
    assert (refused.value.name, refused.value.limit) == ("variables", limit)


def test_points_of_as_many_metrics_as_may_be_logged_fit_and_no_more_lists_at_all() -> None:
    each = MAX_POINTS // MAX_KEYS
    series = {
        "key": "loss",
        "steps": [1] * each,
        "values": [0.5] * each,
        "kinds": ["FINITE"] * each,
        "timestamps": ["2026-01-01T00:00:00Z"] * each,
    }
    input = {"runId": "r", "series": [series] * MAX_KEYS}
    log = "mutation ($input: LogMetricsInput!) { logMetrics(input: $input) { __typename } }"
    keys = [{"field": "CREATED_AT"}] * (MAX_GIVEN - 2)
    once = "query ($keys: [RunOrder!]) { a: runs(orderBy: $keys) { totalCount } "

    check_variables({"input": input})
    assert refused(log, input=input) == []
    check_variables({"keys": keys})
    assert refused(once + "}", keys=keys) == []
    assert len(refused(once + "b: runs(orderBy: $keys) { totalCount } }", keys=keys)) == 1


def test_what_a_field_is_given_costs_as_often_as_it_is_read() -> None:
    keys: list[Any] = [{"field": "CREATED_AT"}] * 2_000
    cost = 6 * (2_001 - 10) + (4_000 - 100) // 100
    document = "query ($keys: [RunOrder!]) {" + "".join(
        f"a{n}: runs(orderBy: $keys) {{ totalCount }} " for n in range(13)
    )

    # In a variable, by default or in the document itself, and what is unknown costs the most.
    once = "query ($keys: [RunOrder!]) { runs(orderBy: $keys) { totalCount } }"
    assert refused(once, keys=keys) == []
    assert refused(document + "}", keys=keys[:20]) == []
    assert refused(document + "}", keys=keys) == [
        f"The operation may cost {13 * (cost + 1)}; 50,000 are allowed."
    ]
    literal = "[" + "{field: CREATED_AT} " * 2_000 + "]"
    assert refused(document.replace("!])", f"!] = {literal})") + "}") == [
        f"The operation may cost {13 * (cost + 1)}; 50,000 are allowed."
    ]
    fragment = f"fragment f on Query {{ runs(orderBy: {literal}) {{ totalCount }} }}"
    spread = "".join(f"a{n}: node(id: 1) {{ ...f }} " for n in range(13))
    assert refused(f"{{ {spread} }} {fragment}") == [
        f"The operation may cost {13 * (cost + 2)}; 50,000 are allowed."
    ]
    assert refusals(parse(once), None) == []
    assert len(refusals(parse(document + "}"), None)) == 1
    # Below a list that is so for each of its objects.
    page = "query ($keys: [RunOrder!]) { experiments(first: 100) { nodes { runs(orderBy: $keys) "
    assert refused(page + "{ totalCount } } } }", keys=keys[:80]) == []
    assert refused(page + "{ totalCount } } } }", keys=keys[:400]) == [
        "The operation may cost 235600; 50,000 are allowed."
    ]


def test_many_values_that_a_field_is_given_cost_as_often_as_they_are_read() -> None:
    document = "query ($statuses: [RunStatus!]) {" + "".join(
        f"a{n}: runs(filter: {{ statuses: $statuses }}) {{ totalCount }} " for n in range(900)
    )

    assert refused(document + "}", statuses=["RUNNING"] * 100) == []
    assert refused(document + "}", statuses=["RUNNING"] * 10_000) == [
        f"The operation may cost {900 * (99 + 1)}; 50,000 are allowed."
    ]
