"""What is known of a document besides what it says."""

import pytest
from graphql import parse

from schema.documents import Document


def refused(document: Document, operation: str | None = None, **variables: object) -> list[str]:
    return [error.message for error in document.refusals(operation, variables)]


def test_what_depends_on_variables_is_measured_for_each_request() -> None:
    pages = "{ a(first: 100) { nodes { b(first: 100) { nodes { c(first: $n) { d } } } } } }"
    document = Document(parse(f"query ($n: Int) {pages}"))

    assert refused(document, n=1) == []
    assert refused(document, n=99) == ["The operation may cost 1010200; 50,000 are allowed."]
    assert refused(document, n=1) == []


def test_ids_in_a_variable_are_counted_for_each_request() -> None:
    each = "{ a(first: 100) { nodes { b(first: 5) { c } } } }"
    document = Document(parse(f"query ($ids: [ID!]!) {{ nodes(ids: $ids) {each} }}"))

    assert refused(document, ids=["a"]) == []
    assert refused(document, ids=["a"] * 100) == [
        "The operation may cost 70100; 50,000 are allowed."
    ]


def test_of_several_operations_one_must_be_named() -> None:
    document = Document(parse("query a { a } query b { b }"))

    assert refused(document, "a") == []
    assert refused(document) == ["Say by operationName which of the operations is meant."]


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("{ a b { c } }", ()),
        ("query ($n: Int) { a(first: $n) }", ()),
        ("{ a @skip(if: true) @include(if: false) }", ()),
        ("query ($x: Boolean!) { a @skip(if: $x) b { c @include(if: $x) } }", ("x",)),
        ("query ($x: Boolean!) { ...f } fragment f on A { ... @skip(if: $x) { a } }", ("x",)),
        ("{ a @unknown }", None),
        ("query @unknown { a }", None),
        ("{ a { b } __schema { queryType { name } } }", None),
        ('{ ...f } fragment f on Query { a: __type(name: "A") { name } }', None),
    ],
)
def test_the_variables_that_decide_what_is_selected(
    text: str, conditions: tuple[str, ...] | None
) -> None:
    assert Document(parse(text)).conditions == conditions


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ("s(id: $id, after: $after) { a }", set()),
        ("s(id: $id) { a(first: $n) { b @include(if: $x) } }", {"n", "x"}),
        ("s(id: $id) { a(in: {list: [{n: $n}]}) }", {"n"}),
        ("s(id: $id) @include(if: $x) { a }", {"x"}),
        ("s(id: $id) { ...f }", {"m"}),
        # More than need be, which only costs.
        ("... on S { s(id: $id) { a } }", {"id"}),
    ],
)
def test_the_variables_that_decide_how_an_item_is_shown(selection: str, names: set[str]) -> None:
    document = Document(parse(f"subscription {{ {selection} }} fragment f on A {{ a(m: $m) }}"))

    assert document.inner_variables == names | {"m"}
