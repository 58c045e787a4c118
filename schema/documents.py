"""Documents: each text is parsed, measured and validated once, over whichever transport it comes.

What is kept is found again by the exact text, and is never changed. Only valid documents are kept,
so whoever sends another pays for it each time. How a document is measured is in limits.py.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from graphql import DocumentNode, GraphQLError, OperationDefinitionNode
from strawberry.extensions import SchemaExtension

from schema.limits import MAX_TOKENS, refusals

MAX_DOCUMENTS = 1_000
# In memory a parsed document is about ninety times as long as its text.
MAX_CHARACTERS = 400_000
MAX_LENGTH = 20_000


class Document:
    """A document that parses."""

    def __init__(self, node: DocumentNode) -> None:
        self.node = node
        self._operations = sum(
            isinstance(definition, OperationDefinitionNode) for definition in node.definitions
        )
        self._always_small = not refusals(node, None)

    def refusals(
        self, operation_name: str | None, variables: Mapping[str, Any]
    ) -> list[GraphQLError]:
        """What is wrong with this request, whether or not the document is valid."""
        found = [] if self._always_small else refusals(self.node, variables)
        # Strawberry would take the first operation; GraphQL says that it must be named.
        if operation_name is None and self._operations > 1:
            found.append(GraphQLError("Say by operationName which of the operations is meant."))
        return found


class Documents:
    """The valid documents that were last asked for, by their text."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Document] = OrderedDict()
        self._characters = 0

    def get(self, text: str) -> Document | None:
        """The document of this text, if it is kept."""
        document = self._known.get(text)
        if document is not None:
            self._known.move_to_end(text)
        return document

    def keep(self, text: str, document: Document) -> None:
        """Keep a document, unless it is too long, and let go of those that were not asked for the
        longest time where there are too many."""
        if len(text) > MAX_LENGTH or text in self._known:
            return
        self._known[text] = document
        self._characters += len(text)
        while len(self._known) > MAX_DOCUMENTS or self._characters > MAX_CHARACTERS:
            former, _ = self._known.popitem(last=False)
            self._characters -= len(former)


_documents = Documents()


class Prepared(SchemaExtension):
    """Parses, measures and validates, unless that was done before."""

    def on_operation(self) -> Iterator[None]:
        self.execution_context.parse_options["max_tokens"] = MAX_TOKENS
        yield

    def on_parse(self) -> Iterator[None]:
        context = self.execution_context
        self._known = _documents.get(context.query or "")
        if self._known is not None:
            context.graphql_document = self._known.node
        yield

    def on_validate(self) -> Iterator[None]:
        context = self.execution_context
        assert context.graphql_document is not None
        document = self._known or Document(context.graphql_document)
        # Before the rules of GraphQL, which take long to look through what is too large.
        found = document.refusals(context._provided_operation_name, context.variables or {})
        if found or self._known is not None:
            context.pre_execution_errors = found
            yield
            return
        yield
        if not context.pre_execution_errors:
            _documents.keep(context.query or "", document)
