"""What is checked of a document before it costs anything: how large it is, fragments expanded.

Its cost is what others call its type cost: an object counts 1, a scalar nothing, a list as much as
it may hold; and what a field is given counts as often as the field is executed, if it is much. Who
may ask how often, and for how long, is in admission.py.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    IntValueNode,
    ListValueNode,
    NamedTypeNode,
    NonNullTypeNode,
    ObjectValueNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    Source,
    SourceLocation,
    ValueNode,
    VariableDefinitionNode,
    VariableNode,
)
from graphql.language import location
from graphql.language.parser import MAX_NESTING_DEPTH
from graphql.validation.rules import overlapping_fields_can_be_merged

from lifecycle.errors import LimitExceeded
from lifecycle.lineage.rules import MAX_NODES
from lifecycle.logs.repository import MAX_LINES
from lifecycle.pages import DEFAULT_SIZE, MAX_SIZE
from lifecycle.promotion.policies import MAX_RULES
from lifecycle.promotion.review import MAX_ITEMS as MAX_CHECKLIST
from lifecycle.tracking.service import MAX_ITEMS

MAX_TOKENS = 20_000
# Of a document; its variables have what the body may have.
MAX_CHARACTERS = 500_000
PARSING: dict[str, Any] = {"max_tokens": MAX_TOKENS, "max_source_length": MAX_CHARACTERS}
MAX_DEPTH = 15
MAX_FIELDS = 2_000
MAX_COST = 50_000
# That an answer shows in lists: lists that are no pages may be longer than they are thought to be.
MAX_OBJECTS = 100_000
# Of texts, JSON and names in an answer, as often as it shows them; numbers count, too.
MAX_SHOWN = 16_000_000

# Nobody else gets a turn while they are compared, which takes a quarter of a second.
MAX_VALUES_COMPARED = 150_000
# As many mistakes as graphql-core finds before it stops looking.
MAX_ERRORS = 100
MAX_BODY_BYTES = 8 * 1024 * 1024
# Of a subscription with its variables, which are held as long as it lasts; a document takes about
# ninety times as much.
MAX_SUBSCRIPTION = 10_000

# In the variables of a request: lists and objects, texts, and values in lists and objects. Nobody
# else gets a turn while they are read. The largest input, points of a thousand metrics with all
# columns, has 5,000, 21,000 and 50,000; JSON of 256 KiB may have 130,000 values.
MAX_GIVEN = 8_000
MAX_GIVEN_TEXTS = 50_000
MAX_GIVEN_VALUES = 150_000

# Lists that are no pages: how long each may be, or usually is.
_LENGTHS = {
    **dict.fromkeys(("params", "tags", "metrics", "artifacts", "decisions"), 5),
    "lineage": MAX_NODES,
    "whyNot": MAX_RULES,
    "items": MAX_ITEMS,
    "checks": MAX_RULES,
    "rules": MAX_RULES,
    "checklist": MAX_CHECKLIST,
    "stageHistory": DEFAULT_SIZE,
    "approvalHistory": DEFAULT_SIZE,
    "modelVersions": DEFAULT_SIZE,
    # Of the schema, how many there are of each at the most, or are of those before on the average.
    "types": 350,
    "fields": 4,
    "inputFields": 2,
    **dict.fromkeys(("args", "enumValues", "possibleTypes", "interfaces"), 1),
    "directives": 10,
}
# The type with the most fields has so many times as many as the others.
_WIDEST = 12

# What takes longer than its objects: what is signed, and each version that is compared.
_COSTS = {
    **dict.fromkeys(("artifactUrl", "downloadUrl", "uploadUrl"), 10),
    "compareModelVersions": 50,
}

# Arguments that name what is wanted; they are refused elsewhere when they name more.
_NAMED = ("ids", "keys", "versions")
_MAX_NAMED = 100
# Points are numbers in columns, less than objects; but they are in memory while they are read.
_MAX_POINTS = 10_000
_POINTS_SHOWN = 1_000
_POINTS_AN_OBJECT = 25

# What a field is given is read each time that the field is executed: a list or an object takes as
# long as six objects take to be shown, a hundred values in them as one. So much is usual.
_USUAL_LISTS = 10
_USUAL_VALUES = 100
_OBJECTS_A_LIST = 6
_VALUES_AN_OBJECT = 100
# Types of variables that hold neither.
_SINGLE = frozenset(("BigInt", "Boolean", "DateTime", "Float", "ID", "Int", "String"))

# A mutation locks, writes and is journalled.
_MUTATION = 10

# The largest number that every reader of JSON has exactly.
LARGEST = 2**53 - 1

# What may be spent on comparing fields of one name with each other; graphql-core would spend a
# second.
MAX_COMPARISONS = 50_000
overlapping_fields_can_be_merged.MAX_COMPLEXITY_BUDGET = MAX_COMPARISONS


@dataclass(frozen=True, slots=True)
class Size:
    """How large a selection is: levels, fields, and the objects that it may give at the most, which
    is its cost; `paged` if it is one of a page."""

    depth: int = 0
    fields: int = 0
    cost: int = 0
    paged: bool = False

    def beside(self, other: "Size") -> "Size":
        """Two selections of one object."""
        return Size(
            max(self.depth, other.depth),
            self.fields + other.fields,
            self.cost + other.cost,
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
        self._definitions = _definitions(document)
        self._known: dict[str, Size] = {}
        self._held: dict[str, _Held] = {}
        self._defaults: dict[str, int] = {}

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
            times = _WIDEST if node.name.value == "__type" else 1
            return Size(0, below.fields + 1, times * (below.cost + 1))
        usual = DEFAULT_SIZE if below.paged else 1
        length = self._length(node, _LENGTHS.get(node.name.value, usual))
        each = (below.cost + 1 if node.selection_set else 0) + _COSTS.get(node.name.value, 0)
        cost = length * each
        cost += self._of_given(node)
        paged = node.name.value in ("nodes", "edges")
        return Size(below.depth + 1, below.fields + 1, cost, paged)

    def _of_fragment(self, name: str) -> Size:
        if name not in self._known:
            # A fragment that contains itself is another rule's business; here it must only end.
            self._known[name] = Size()
            fragment = self._fragments.get(name)
            self._known[name] = self.of(fragment.selection_set if fragment else None)
        return self._known[name]

    def _length(self, node: FieldNode, default: int) -> int:
        """How many objects a field may give: the size of its page, or as many as it names."""
        length, most = default, MAX_LINES if node.name.value == "logs" else MAX_SIZE
        each = _POINTS_SHOWN // _POINTS_AN_OBJECT if node.name.value == "metricHistory" else 1
        for argument in node.arguments or ():
            name, value = argument.name.value, argument.value
            if name in _NAMED:
                length = self._number(value)
            elif name in ("first", "last"):
                length = self._size(value, most)
            elif name == "maxPoints":
                each = 1 + self._size(value, _MAX_POINTS) // _POINTS_AN_OBJECT
        return length * each

    def _of_given(self, node: FieldNode) -> int:
        """What a field is given."""
        lists = values = 0
        for argument in node.arguments or ():
            held = self._in(argument.value)
            lists, values = lists + held.lists, values + held.values
        beyond = max(lists - _USUAL_LISTS, 0), max(values - _USUAL_VALUES, 0)
        return _OBJECTS_A_LIST * beyond[0] + beyond[1] // _VALUES_AN_OBJECT

    def _in(self, value: ValueNode) -> "_Held":
        """What an argument holds."""
        lists = values = 0
        waiting = [value]
        while waiting:
            node = waiting.pop()
            if isinstance(node, VariableNode):
                held = self._in_variable(node.name.value)
                lists, values = lists + held.lists, values + held.values
            elif isinstance(node, ListValueNode):
                lists, values = lists + 1, values + len(node.values)
                waiting += node.values
            elif isinstance(node, ObjectValueNode):
                lists, values = lists + 1, values + len(node.fields)
                waiting += [field.value for field in node.fields]
        return _Held(lists, values)

    def _in_variable(self, name: str) -> "_Held":
        if name not in self._held:
            definitions = self._definitions.get(name, ())
            if self._variables is None:
                many = any(not _is_single(each) for each in definitions)
                held = _Held(MAX_GIVEN, MAX_GIVEN_TEXTS) if many else _Held()
            elif name in self._variables:
                held = _in_json(self._variables[name])
            else:
                defaults = [each.default_value for each in definitions if each.default_value]
                held = max(map(self._in, defaults), default=_Held())
            self._held[name] = held
        return self._held[name]

    def _number(self, value: ValueNode) -> int:
        """How many a list names."""
        if isinstance(value, VariableNode):
            name = value.name.value
            if self._variables is None:
                return _MAX_NAMED
            if name not in self._variables:
                return self._by_default(name)
            given = self._variables[name]
            return len(given) if isinstance(given, list | tuple) else 1
        return len(value.values) if isinstance(value, ListValueNode) else 1

    def _by_default(self, name: str) -> int:
        """How many a variable names where a request does not give it; of several operations, the
        one that names the most."""
        if name not in self._defaults:
            defaults = [each.default_value for each in self._definitions.get(name, ())]
            lists = [each for each in defaults if isinstance(each, ListValueNode)]
            self._defaults[name] = max((len(each.values) for each in lists), default=1)
        return self._defaults[name]

    def _size(self, value: ValueNode, most: int) -> int:
        """What an argument says, or the most that it may say."""
        given: Any = None
        if isinstance(value, IntValueNode):
            given = int(value.value[:10])
        elif isinstance(value, VariableNode) and self._variables is not None:
            given = self._variables.get(value.name.value)
        return min(max(given, 1), most) if isinstance(given, int) else most


class _Held(NamedTuple):
    """How many lists and objects are in a value, and how many values in those."""

    lists: int = 0
    values: int = 0


def _in_json(value: Any) -> _Held:
    lists = values = 0
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            lists, values = lists + 1, values + len(inner)
            if not {dict, list}.isdisjoint(map(type, inner)):
                waiting += [each for each in inner if isinstance(each, dict | list)]
    return _Held(lists, values)


def _is_single(definition: VariableDefinitionNode) -> bool:
    """Whether a variable holds neither list nor object."""
    type_ = definition.type
    if isinstance(type_, NonNullTypeNode):
        type_ = type_.type
    return isinstance(type_, NamedTypeNode) and type_.name.value in _SINGLE


def _definitions(document: DocumentNode) -> dict[str, list[VariableDefinitionNode]]:
    """The definitions of each variable, of all operations."""
    found: dict[str, list[VariableDefinitionNode]] = {}
    for node in document.definitions:
        if isinstance(node, OperationDefinitionNode):
            for each in node.variable_definitions or ():
                found.setdefault(each.variable.name.value, []).append(each)
    return found


def size_of(
    operation: OperationDefinitionNode,
    document: DocumentNode,
    variables: Mapping[str, Any] | None,
) -> Size:
    """How large an operation is; without variables, at the most."""
    return _size_of(operation, _Measure(document, variables), len(document.definitions))


def _size_of(operation: OperationDefinitionNode, measure: _Measure, definitions: int) -> Size:
    try:
        size = measure.of(operation.selection_set)
    except RecursionError:  # a chain of thousands of fragments
        return Size(depth=definitions)
    if operation.operation is OperationType.MUTATION:
        return replace(size, cost=size.cost + _MUTATION * len(operation.selection_set.selections))
    return size


def refusals(document: DocumentNode, variables: Mapping[str, Any] | None) -> list[GraphQLError]:
    """What is wrong with operations that are too large; without variables, with those that would be
    for some."""
    measure = _Measure(document, variables)
    found = []
    for operation in document.definitions:
        if not isinstance(operation, OperationDefinitionNode):
            continue
        size = _size_of(operation, measure, len(document.definitions))
        for name, says, value, limit in (
            ("depth", "is {} levels deep", size.depth, MAX_DEPTH),
            ("fields", "selects {} fields", size.fields, MAX_FIELDS),
            ("cost", "may cost {}", size.cost, MAX_COST),
        ):
            if value > limit:
                message = f"The operation {says.format(value)}; {limit:,} are allowed."
                extensions = exceeded(name, limit, value)
                found.append(GraphQLError(message, operation, extensions=extensions))
    return found


def exceeded(name: str, limit: int, value: int) -> dict[str, Any]:
    """What the error of a limit says to programs: the limit's name, what it allows, and what there
    was; where nobody counted on, the first that was too much."""
    shown = min(value, LARGEST)
    return {"code": "LIMIT_EXCEEDED", "name": name, "limit": limit, "value": shown}


def aborted(error: GraphQLError) -> None:
    """Say of an error with which graphql-core has given up which limit that was."""
    for ending, name, limit, message in _ABORTED:
        if error.message.endswith(ending):
            error.message = message.format(limit)
            error.extensions = exceeded(name, limit, limit + 1)
            return


# By how graphql-core ends its messages; it says no more of how much there was.
_ABORTED = (
    ("tokens. Parsing aborted.", "tokens", MAX_TOKENS, "The document may have {:,} tokens."),
    (
        "code points. Parsing aborted.",
        "characters",
        MAX_CHARACTERS,
        "The document may have {:,} characters; what is long belongs into variables.",
    ),
    (
        "deeply. Parsing aborted.",
        "nesting",
        MAX_NESTING_DEPTH,
        "The document may be nested {:,} levels deep.",
    ),
    (
        "error limit reached. Validation aborted.",
        "errors",
        MAX_ERRORS,
        "There are more than {:,} mistakes in the document.",
    ),
    (
        "Validation aborted.",
        "comparisons",
        MAX_COMPARISONS,
        "More than {:,} fields that have one name would have to be compared.",
    ),
)


def check_variables(variables: Any) -> None:
    """Raise LimitExceeded where there are more lists and objects, texts, or values in a request's
    variables than anything takes."""
    if not variables or {dict, list}.isdisjoint(map(type, variables.values())):
        return
    given = texts = number = 0
    waiting = [variables]
    while waiting:
        values = waiting.pop()
        given += 1
        inner = values.values() if isinstance(values, dict) else values
        number += len(inner)
        if number > MAX_GIVEN_VALUES:
            raise _too_many("values", MAX_GIVEN_VALUES, number)
        kinds = set(map(type, inner))
        if str in kinds:
            texts += len(inner)
        if dict in kinds or list in kinds:
            waiting += [value for value in inner if isinstance(value, dict | list)]
        if given + len(waiting) > MAX_GIVEN:
            raise _too_many("lists and objects", MAX_GIVEN, given + len(waiting))
        if texts > MAX_GIVEN_TEXTS:
            raise _too_many("texts", MAX_GIVEN_TEXTS, texts)


def _too_many(what: str, most: int, value: int) -> LimitExceeded:
    message = f"The variables of a request may have {most:,} {what}."
    return LimitExceeded(message, "variables", most, value)


def _get_location(self: Source, position: int) -> SourceLocation:
    """What graphql-core's own method gives, which goes through the whole text for each error."""
    starts: list[int] | None = self.__dict__.get("line_starts")
    if starts is None:
        ends = (found.end() for found in re.finditer("\r\n|[\n\r]", self.body))
        starts = self.__dict__["line_starts"] = [0, *ends]
    line = bisect_right(starts, position)
    return SourceLocation(line, position + 1 - starts[line - 1])


def _get_locations(locations: Sequence[tuple[Source, int]]) -> list[SourceLocation]:
    return [source.get_location(position) for source, position in locations]


Source.get_location = _get_location  # type: ignore[method-assign]
location.get_locations = _get_locations
