"""Which documents are kept, and for how long."""

from graphql import parse

from schema.documents import MAX_CHARACTERS, MAX_DOCUMENTS, MAX_LENGTH, Document, Documents


def kept(documents: Documents, text: str) -> Document:
    document = Document(parse("{ a }"))
    documents.keep(text, document)
    return document


def test_a_document_is_found_by_its_exact_text() -> None:
    documents = Documents()
    document = kept(documents, "{ a }")

    assert documents.get("{ a }") is document
    assert documents.get("{ a  }") is None


def test_as_many_documents_are_kept_as_there_may_be_and_then_the_longest_unused_goes() -> None:
    documents = Documents()
    for number in range(MAX_DOCUMENTS):
        kept(documents, str(number))
    documents.get("0")

    kept(documents, "one more")

    assert documents.get("0") is not None
    assert documents.get("1") is None
    assert documents.get("2") is not None
    assert documents.get("one more") is not None


def test_as_much_text_is_kept_as_there_may_be() -> None:
    documents = Documents()
    texts = [f"{number:02}" * (MAX_LENGTH // 2) for number in range(MAX_CHARACTERS // MAX_LENGTH)]
    for text in texts:
        kept(documents, text)
    assert all(documents.get(text) for text in texts)

    kept(documents, "x")

    assert [documents.get(text) is None for text in texts] == [True] + [False] * (len(texts) - 1)


def test_a_text_that_is_too_long_is_not_kept() -> None:
    documents = Documents()

    kept(documents, "x" * (MAX_LENGTH + 1))

    assert documents.get("x" * (MAX_LENGTH + 1)) is None


def test_keeping_a_text_twice_counts_once() -> None:
    documents = Documents()
    for _ in range(MAX_CHARACTERS // MAX_LENGTH + 1):
        kept(documents, "x" * MAX_LENGTH)

    kept(documents, "y" * MAX_LENGTH)

    assert documents.get("x" * MAX_LENGTH) is not None


def refused(document: Document, operation: str | None = None, **variables: object) -> list[str]:
    return [error.message for error in document.refusals(operation, variables)]


def test_what_depends_on_variables_is_measured_for_each_request() -> None:
    pages = "{ a(first: 100) { nodes { b(first: 100) { nodes { c(first: $n) { d } } } } } }"
    document = Document(parse(f"query ($n: Int) {pages}"))

    assert refused(document, n=1) == []
    assert refused(document, n=99) == [
        "The operation may give 1010200 objects; 50,000 are allowed."
    ]
    assert refused(document, n=1) == []


def test_ids_in_a_variable_are_counted_for_each_request() -> None:
    each = "{ a(first: 100) { nodes { b(first: 5) { c } } } }"
    document = Document(parse(f"query ($ids: [ID!]!) {{ nodes(ids: $ids) {each} }}"))

    assert refused(document, ids=["a"]) == []
    assert refused(document, ids=["a"] * 100) == [
        "The operation may give 70100 objects; 50,000 are allowed."
    ]


def test_of_several_operations_one_must_be_named() -> None:
    document = Document(parse("query a { a } query b { b }"))

    assert refused(document, "a") == []
    assert refused(document) == ["Say by operationName which of the operations is meant."]
