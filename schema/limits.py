"""What is checked of a document before it costs anything: how large it is, fragments expanded,
and whether it says which operation is meant."""

from collections.abc import Iterator

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    OperationDefinitionNode,
    SelectionSetNode,
)
from strawberry.extensions import SchemaExtension

MAX_TOKENS = 20_000
MAX_DEPTH = 15
MAX_FIELDS = 2_000
MAX_BODY_BYTES = 8 * 1024 * 1024


class _Size:
    """Depth and number of fields of a selection, each fragment measured once."""

    def __init__(self, document: DocumentNode) -> None:
        self._fragments = {
            node.name.value: node
            for node in document.definitions
            if isinstance(node, FragmentDefinitionNode)
        }
        self._known: dict[str, tuple[int, int]] = {}

    def of(self, selections: SelectionSetNode | None) -> tuple[int, int]:
        """(depth, fields). Introspection is bounded by the schema itself and does not count."""
        depth = fields = 0
        for node in selections.selections if selections else ():
            if isinstance(node, FieldNode):
                if node.name.value in ("__schema", "__type"):
                    continue
                below = self.of(node.selection_set)
                depth, fields = max(depth, below[0] + 1), fields + below[1] + 1
            else:
                if isinstance(node, FragmentSpreadNode):
                    below = self._of_fragment(node.name.value)
                else:
                    below = self.of(getattr(node, "selection_set", None))
                depth, fields = max(depth, below[0]), fields + below[1]
        return depth, fields

    def _of_fragment(self, name: str) -> tuple[int, int]:
        if name not in self._known:
            # A fragment that contains itself is another rule's business; here it must only end.
            self._known[name] = (0, 0)
            fragment = self._fragments.get(name)
            self._known[name] = self.of(fragment.selection_set if fragment else None)
        return self._known[name]


def refusals(document: DocumentNode) -> list[GraphQLError]:
    """What is wrong with operations that are too deep or select too many fields."""
    size = _Size(document)
    found = []
    for operation in document.definitions:
        if not isinstance(operation, OperationDefinitionNode):
            continue
        try:
            depth, fields = size.of(operation.selection_set)
        except RecursionError:  # a chain of thousands of fragments
            depth, fields = len(document.definitions), 0
        if depth > MAX_DEPTH:
            found.append(_refusal(operation, f"is {depth} levels deep; {MAX_DEPTH} are allowed."))
        if fields > MAX_FIELDS:
            found.append(
                _refusal(operation, f"selects {fields} fields; {MAX_FIELDS:,} are allowed.")
            )
    return found


def _refusal(operation: OperationDefinitionNode, what: str) -> GraphQLError:
    return GraphQLError(f"The operation {what}", operation, extensions={"code": "LIMIT_EXCEEDED"})


class Limits(SchemaExtension):
    """Checks each operation, over whichever transport it comes."""

    def on_operation(self) -> Iterator[None]:
        self.execution_context.parse_options["max_tokens"] = MAX_TOKENS
        yield

    def on_validate(self) -> Iterator[None]:
        # Before the rules of GraphQL, which take long to look through what is too large.
        context = self.execution_context
        document = context.graphql_document
        assert document is not None
        found = refusals(document)
        # Strawberry would take the first operation; GraphQL says that it must be named.
        if context._provided_operation_name is None and _operations(document) > 1:
            found.append(GraphQLError("Say by operationName which of the operations is meant."))
        context.pre_execution_errors = found or None
        yield


def _operations(document: DocumentNode) -> int:
    return sum(isinstance(node, OperationDefinitionNode) for node in document.definitions)
