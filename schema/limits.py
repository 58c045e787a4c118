"""How large a document may be, fragments expanded, before it costs anything to run."""

from collections.abc import Iterator
from typing import Any

from graphql import (
    ASTValidationRule,
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


class SizeRule(ASTValidationRule):
    """Refuses operations that are too deep or select too many fields."""

    def enter_document(self, node: DocumentNode, *_: Any) -> None:
        size = _Size(node)
        for operation in node.definitions:
            if not isinstance(operation, OperationDefinitionNode):
                continue
            depth, fields = size.of(operation.selection_set)
            if depth > MAX_DEPTH:
                self._refuse(operation, f"is {depth} levels deep; {MAX_DEPTH} are allowed.")
            if fields > MAX_FIELDS:
                self._refuse(operation, f"selects {fields} fields; {MAX_FIELDS:,} are allowed.")

    def _refuse(self, operation: OperationDefinitionNode, what: str) -> None:
        self.report_error(
            GraphQLError(f"The operation {what}", operation, extensions={"code": "LIMIT_EXCEEDED"})
        )


class Limits(SchemaExtension):
    """Applies the limits to each operation, over whichever transport it comes."""

    def on_operation(self) -> Iterator[None]:
        self.execution_context.parse_options["max_tokens"] = MAX_TOKENS
        self.execution_context.validation_rules = (
            *self.execution_context.validation_rules,
            SizeRule,
        )
        yield
