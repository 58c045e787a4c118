"""Documents: each text is parsed and validated once, over whichever transport it comes. It is
measured once, too, unless how large it is depends on variables.

A document that is kept is found again by its exact text, and is never changed. Only valid ones are
kept, so whoever sends another pays for it each time. It may take as long as many operations do to
read one: that is done in a thread beside them, one after the other, and principals take turns. How
a document is measured is in limits.py.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import strawberry
from graphql import (
    DocumentNode,
    FieldNode,
    GraphQLError,
    GraphQLIncludeDirective,
    GraphQLSkipDirective,
    OperationDefinitionNode,
    OperationType,
    VariableNode,
    Visitor,
    get_operation_ast,
    parse,
    validate,
    visit,
)
from strawberry.extensions import SchemaExtension
from strawberry.schema import BaseSchema

from lifecycle.kept import Kept
from schema.limits import LARGEST, MAX_COST, PARSING, Size, refusals, size_of

MAX_DOCUMENTS = 1_000
# In memory a parsed document is about ninety times as long as its text, and a field of a plan as
# heavy as eight characters.
MAX_KEPT_CHARACTERS = 800_000
_FIELD = 8
# To measure what is longer takes 4 to 40 ms.
_LONG = 10_000

_CONDITIONS = (GraphQLSkipDirective.name, GraphQLIncludeDirective.name)


class Document:
    """A document that parses."""

    def __init__(self, node: DocumentNode) -> None:
        self.node = node
        operations = [
            definition.operation
            for definition in node.definitions
            if isinstance(definition, OperationDefinitionNode)
        ]
        self._operations = len(operations)
        self.only_queries = set(operations) <= {OperationType.QUERY}
        self._always_small = not refusals(node, None)
        # Whether it takes long to say if it is too large, which depends on variables.
        self.is_measured_long = (
            not self._always_small and node.loc is not None and len(node.loc.source.body) > _LONG
        )
        self.conditions = _conditions(node)
        self.introspects = self.conditions is None and _introspects(node)
        # How its operations are executed; they go when it goes.
        self.plans: dict[tuple[object, ...], Any] = {}

    def keep(self, key: tuple[object, ...], plan: Any, fields: int) -> None:
        """Keep a plan, as long as the document is kept."""
        self.plans[key] = plan
        if self.node.loc is not None:
            documents.weigh_down(self.node.loc.source.body, fields * _FIELD)

    def refusals(
        self, operation_name: str | None, variables: Mapping[str, Any]
    ) -> list[GraphQLError]:
        """What is wrong with this request, whether or not the document is valid."""
        found = [] if self._always_small else refusals(self.node, variables)
        # Strawberry would take the first operation; GraphQL says that it must be named.
        if operation_name is None and self._operations > 1:
            found.append(GraphQLError("Say by operationName which of the operations is meant."))
        return found

    def size(self, operation_name: str | None, variables: Mapping[str, Any]) -> Size | None:
        """How large an operation is with these variables; None if there is no such operation."""
        operation = get_operation_ast(self.node, operation_name)
        return size_of(operation, self.node, variables) if operation else None

    @cached_property
    def inner_variables(self) -> frozenset[str]:
        """The variables on which it depends how an item of a subscription is shown: all but those
        that only the subscription's own field is given, which decide what comes."""
        found = _Variables()
        for definition in self.node.definitions:
            if not isinstance(definition, OperationDefinitionNode):
                visit(definition, found)
                continue
            for selected in definition.selection_set.selections:
                if isinstance(selected, FieldNode):
                    for directive in selected.directives or ():
                        visit(directive, found)
                    if selected.selection_set:
                        visit(selected.selection_set, found)
                else:
                    visit(selected, found)
        return frozenset(found.names)


class _Variables(Visitor):
    """The variables that are used."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def enter_variable(self, node: VariableNode, *_: Any) -> None:
        self.names.add(node.name.value)


def _conditions(document: DocumentNode) -> tuple[str, ...] | None:
    """The variables on which it depends what is selected; None if it does not depend on them alone,
    because there are other directives, or asks for the schema."""
    names: dict[str, None] = {}
    nodes: list[Any] = list(document.definitions)
    while nodes:
        node = nodes.pop()
        if isinstance(node, FieldNode) and node.name.value in ("__schema", "__type"):
            return None
        for directive in node.directives or ():
            if directive.name.value not in _CONDITIONS:
                return None
            for argument in directive.arguments or ():
                if isinstance(argument.value, VariableNode):
                    names[argument.value.name.value] = None
        if getattr(node, "selection_set", None):
            nodes.extend(node.selection_set.selections)
    return tuple(names)


def _introspects(document: DocumentNode) -> bool:
    """Whether it asks for the schema."""
    found: list[str] = []

    class Visited(Visitor):
        def enter_field(self, node: FieldNode, *_: Any) -> None:
            if node.name.value in ("__schema", "__type"):
                found.append(node.name.value)

    visit(document, Visited())
    return bool(found)


documents: Kept[str, Document] = Kept(MAX_DOCUMENTS, MAX_KEPT_CHARACTERS)


@dataclass(frozen=True, slots=True)
class _Read:
    """What came of reading the text of a request: the document, if it is one, and what is wrong
    with it as it is asked."""

    asked: "_Asked"
    document: Document | None
    mistakes: list[GraphQLError]


# The text, the operation's name and the variables.
_Asked = tuple[str, str | None, Mapping[str, Any]]

# Of the request that is answered.
_read: ContextVar[_Read | None] = ContextVar("read", default=None)


async def read(schema: BaseSchema, asked: Mapping[str, Any], context: Any) -> None:
    """Read the document of a request when it is the principal's turn, unless it is kept; and
    measure it, if that takes long. Raises Unavailable as gates do."""
    text = asked["query"]
    if not text or _is_at_hand(text):
        return
    admission = context.admission
    async with admission.reading(context.counted_as):
        if not _is_at_hand(text):
            given = text, asked.get("operationName"), asked.get("variables") or {}
            loop = asyncio.get_running_loop()
            kept = documents.get(text)
            found = await loop.run_in_executor(admission.reader, _look_at, schema, given, kept)
            _read.set(found)


def _is_at_hand(text: str) -> bool:
    kept = documents.get(text)
    return kept is not None and not kept.is_measured_long


def _has_been_read(asked: _Asked) -> _Read | None:
    found = _read.get()
    return found if found is not None and found.asked == asked else None


def _look_at(schema: BaseSchema, asked: _Asked, kept: Document | None) -> _Read:
    text, operation_name, variables = asked
    if kept is not None:
        return _Read(asked, kept, kept.refusals(operation_name, variables))
    try:
        document = Document(parse(text, **PARSING))
        return _Read(
            asked, document, _look_for_mistakes(schema, document, operation_name, variables)
        )
    except Exception:  # whatever it is, the document cannot be read
        return _Read(asked, None, [])


def _look_for_mistakes(
    schema: BaseSchema,
    document: Document,
    operation_name: str | None,
    variables: Mapping[str, Any],
) -> list[GraphQLError]:
    assert isinstance(schema, strawberry.Schema)
    # The rules of GraphQL take long to look through what is too large.
    return document.refusals(operation_name, variables) or validate(schema._schema, document.node)


def mistakes(
    document: Document, operation_name: str | None, variables: Mapping[str, Any]
) -> list[GraphQLError]:
    """What is wrong with this request of a document that is kept: as was found out, if it was."""
    assert document.node.loc is not None
    asked = document.node.loc.source.body, operation_name, variables
    found = _has_been_read(asked)
    return document.refusals(operation_name, variables) if found is None else found.mistakes


def accepted(
    schema: strawberry.Schema, text: str, operation_name: str | None, variables: Mapping[str, Any]
) -> Document | None:
    """The document of a request in which nothing is wrong with it; else None, and Strawberry, asked
    with `Prepared`, says what is wrong."""
    asked = text, operation_name, variables
    found = _has_been_read(asked) or _look_at(schema, asked, documents.get(text))
    if found.document is None or found.mistakes:
        return None
    documents.keep(text, found.document, len(text))
    return found.document


def wants_cost(asked: Mapping[str, Any]) -> bool:
    """Whether a request says `extensions: {"cost": true}`."""
    return (asked.get("extensions") or {}).get("cost") is True


def cost_of(asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the answer to such a request says of its cost; nothing if it is no operation."""
    text, name, variables = asked["query"], asked.get("operationName"), asked.get("variables") or {}
    found = _has_been_read((text, name, variables))
    document = found.document if found else documents.get(text)
    size = document.size(name, variables) if document else None
    if size is None:
        return None
    cost = {"value": size.cost, "limit": MAX_COST, "depth": size.depth, "fields": size.fields}
    return {"cost": {name: min(value, LARGEST) for name, value in cost.items()}}


def may_change(asked: Mapping[str, Any]) -> bool:
    """Whether such a request, if it was executed, may have changed something."""
    document = documents.get(asked["query"])
    return document is None or not document.only_queries


class WithCost(AsyncIterator[Any]):
    """The same results, which also say the cost; to be closed, as they are."""

    def __init__(self, results: Any, asked: Mapping[str, Any]) -> None:
        self._results = results
        self._extensions = cost_of(asked)

    async def __anext__(self) -> Any:
        return replace(await anext(self._results), extensions=self._extensions)

    async def aclose(self) -> None:
        """Close them."""
        await self._results.aclose()


class Prepared(SchemaExtension):
    """Parses, measures and validates, unless that was done before."""

    def on_operation(self) -> Iterator[None]:
        self.execution_context.parse_options.update(PARSING)  # type: ignore[typeddict-item]
        yield

    def on_parse(self) -> Iterator[None]:
        context = self.execution_context
        text = context.query or ""
        asked = text, context._provided_operation_name, context.variables or {}
        self._kept, self._read = documents.get(text), _has_been_read(asked)
        document = self._kept or (self._read.document if self._read else None)
        # What is no document is read again: Strawberry wants to find that out itself.
        if document is not None:
            context.graphql_document = document.node
        yield

    def on_validate(self) -> Iterator[None]:
        context = self.execution_context
        asked = context._provided_operation_name, context.variables or {}
        if self._read is not None and self._read.document is not None:
            document, found = self._read.document, self._read.mistakes
        elif self._kept is not None:
            document, found = self._kept, self._kept.refusals(*asked)
        else:
            assert context.graphql_document is not None
            document = Document(context.graphql_document)
            found = _look_for_mistakes(context.schema, document, *asked)
        if document.introspects and not context.context.admission.introspection:
            found = [*found, GraphQLError("Introspection is switched off.")]
        if self._kept is None and not found:
            text = context.query or ""
            documents.keep(text, document, len(text))
        context.pre_execution_errors = found
        yield
