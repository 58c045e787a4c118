"""What is checked of a document before it costs anything: how large it is, fragments expanded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    IntValueNode,
    ListValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
)
from graphql.validation.rules import overlapping_fields_can_be_merged

from lifecycle.lineage.rules import MAX_NODES
from lifecycle.pages import DEFAULT_SIZE, MAX_SIZE
from lifecycle.promotion.policies import MAX_RULES
from lifecycle.tracking.service import MAX_ITEMS

MAX_TOKENS = 20_000
MAX_DEPTH = 15
MAX_FIELDS = 2_000
MAX_OBJECTS = 50_000
MAX_BODY_BYTES = 8 * 1024 * 1024

# Lists that are no pages and lead on to other objects: how long each may be, or usually is.
_LENGTHS = {
    "lineage": MAX_NODES,
    "whyNot": MAX_RULES,
    "items": MAX_ITEMS,
    "checks": MAX_RULES,
    "stageHistory": DEFAULT_SIZE,
    "approvalHistory": DEFAULT_SIZE,
}

# What may be spent on comparing fields of one name with each other; graphql-core would spend a
# second.
overlapping_fields_can_be_merged.MAX_COMPLEXITY_BUDGET = 50_000

# Roughly how many types the schema has, each of which introspection shows.
_TYPES = 200


@dataclass(frozen=True, slots=True)
class Size:
    """How large a selection is: levels, fields, and the objects that it may give at the most;
    `paged` if it is one of a page."""

    depth: int = 0
    fields: int = 0
    objects: int = 0
    paged: bool = False

    def beside(self, other: "Size") -> "Size":
        """Two selections of one object."""
        return Size(
            max(self.depth, other.depth),
            self.fields + other.fields,
            self.objects + other.objects,
            self.paged or other.paged,
        )


class _Measure:
    """Measures selections of one document, each fragment once."""

    def __init__(self, document: DocumentNode, variables: Mapping[str, Any] | None) -> None:
        self._fragments = {
            node.name.value: node
            for node in document.definitions
            if isinstance(node, FragmentDefinitionNode)
        }
        self._variables = variables
        self._known: dict[str, Size] = {}

    def of(self, selections: SelectionSetNode | None) -> Size:
        size = Size()
        for node in selections.selections if selections else ():
            if isinstance(node, FieldNode):
                size = size.beside(self._of_field(node))
            elif isinstance(node, FragmentSpreadNode):
                size = size.beside(self._of_fragment(node.name.value))
            else:
                size = size.beside(self.of(getattr(node, "selection_set", None)))
        return size

    def _of_field(self, node: FieldNode) -> Size:
        below = self.of(node.selection_set)
        if node.name.value in ("__schema", "__type"):
            # Deep by nature, and the schema has an end; but aliases can repeat it.
            return Size(0, below.fields + 1, below.fields * _TYPES)
        usual = DEFAULT_SIZE if below.paged else 1
        length = self._length(node, _LENGTHS.get(node.name.value, usual))
        objects = length * (below.objects + 1) if node.selection_set else 0
        paged = node.name.value in ("nodes", "edges")
        return Size(below.depth + 1, below.fields + 1, objects, paged)

    def _of_fragment(self, name: str) -> Size:
        if name not in self._known:
            # A fragment that contains itself is another rule's business; here it must only end.
            self._known[name] = Size()
            fragment = self._fragments.get(name)
            self._known[name] = self.of(fragment.selection_set if fragment else None)
        return self._known[name]

    def _length(self, node: FieldNode, default: int) -> int:
        """How many objects a field may give: the size of its page, or as many as it names."""
        for argument in node.arguments or ():
            name, value = argument.name.value, argument.value
            given: Any = None
            if isinstance(value, VariableNode) and self._variables is not None:
                given = self._variables.get(value.name.value)
            if name == "ids":
                if isinstance(value, VariableNode) and self._variables is None:
                    return MAX_OBJECTS + 1
                ids = value.values if isinstance(value, ListValueNode) else given
                return len(ids) if isinstance(ids, list | tuple) else 1
            if name in ("first", "last"):
                if isinstance(value, IntValueNode):
                    given = int(value.value[:10])
                return min(max(given, 1), MAX_SIZE) if isinstance(given, int) else MAX_SIZE
        return default


def refusals(document: DocumentNode, variables: Mapping[str, Any] | None) -> list[GraphQLError]:
    """What is wrong with operations that are too large; without variables, with those that would be
    for some."""
    measure = _Measure(document, variables)
    found = []
    for operation in document.definitions:
        if not isinstance(operation, OperationDefinitionNode):
            continue
        try:
            size = measure.of(operation.selection_set)
        except RecursionError:  # a chain of thousands of fragments
            size = Size(depth=len(document.definitions))
        for what, is_, most in (
            ("is {} levels deep", size.depth, MAX_DEPTH),
            ("selects {} fields", size.fields, MAX_FIELDS),
            ("may give {} objects", size.objects, MAX_OBJECTS),
        ):
            if is_ > most:
                found.append(_refusal(operation, f"{what.format(is_)}; {most:,} are allowed."))
    return found


def _refusal(operation: OperationDefinitionNode, what: str) -> GraphQLError:
    return GraphQLError(f"The operation {what}", operation, extensions={"code": "LIMIT_EXCEEDED"})
