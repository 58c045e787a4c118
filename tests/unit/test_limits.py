"""How large a document is, measured before it is validated."""

import pytest
from graphql import get_introspection_query, parse

from schema.limits import MAX_DEPTH, MAX_FIELDS, refusals


def refused(document: str) -> list[str]:
    errors = refusals(parse(document), {})
    assert all(error.extensions == {"code": "LIMIT_EXCEEDED"} for error in errors)
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
