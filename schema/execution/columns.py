"""Columns: the values of one field for many objects, and how they become what the answer shows.

Each class completes columns of one GraphQL type, as graphql-core's `complete_value` does value by
value. Whatever would be an error there raises Unusual here.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import chain, islice
from math import isfinite
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import orjson
from graphql import (
    GraphQLEnumType,
    GraphQLLeafType,
    GraphQLOutputType,
    GraphQLScalarType,
    get_nullable_type,
)

from schema.executor import JSON, NUMBER, TEXTS, Length, too_many_objects

if TYPE_CHECKING:
    from schema.execution.plan import Selection

Column = Sequence[Any]
Kinds = set[type]


class Part:
    """Objects of one selection, whose fields are still to be found, and what of the answer is to
    hold them. Objects that show a row are there as such, as their rows, or as both."""

    __slots__ = ("_objects", "_rows", "answers", "selection")

    def __init__(
        self,
        selection: "Selection",
        answers: list[dict[str, Any]],
        objects: Column | None = None,
        rows: Column | None = None,
    ) -> None:
        self.selection = selection
        self.answers = answers
        self._objects = objects
        self._rows = rows

    @property
    def objects(self) -> Column:
        if self._objects is None:
            assert self._rows is not None
            kind: Any = self.selection.kind
            self._objects = list(map(kind.from_row, self._rows))
        return self._objects

    @property
    def rows(self) -> Column:
        if self._rows is None:
            self._rows = list(map(_row, self.objects))
        return self._rows


class Rest(list[Part]):
    """The parts of a level, how many more objects there may be in the lists of the answer, and how
    long it is so far."""

    def __init__(self, room: int, length: Length, parts: Iterable[Part] = ()) -> None:
        super().__init__(parts)
        self.room = room
        self.length = length

    def take(self, objects: int) -> None:
        """So many objects come in. Raises LimitExceeded when they are too many."""
        self.room -= objects
        if self.room < 0:
            raise too_many_objects()


_row = attrgetter("row")

_SMALLEST_INT, _LARGEST_INT = -(2**31), 2**31 - 1
_NULL = type(None)


class Unusual(Exception):
    """This is for graphql-core to execute: it knows how to answer all that there is."""


class Type:
    """A type that may be null unless it says otherwise."""

    # Of the rows behind the values, the attributes that will be looked at; None if that may be any.
    looked_at: frozenset[str] | None = None

    def __init__(self, nullable: bool) -> None:
        self._nullable = nullable

    def complete(self, values: Column, rest: Rest) -> Column:
        """What the answer shows for each value. Raises Unusual, or what a serializer raises."""
        if not values:
            return values
        kinds = set(map(type, values))
        if _NULL not in kinds:
            return self._complete(values, kinds, rest)
        if not self._nullable:
            raise Unusual("null for a type that is not nullable")
        kinds.discard(_NULL)
        present = [value for value in values if value is not None]
        completed = iter(self._complete(present, kinds, rest) if present else ())
        return [None if value is None else next(completed) for value in values]

    def _complete(self, values: Column, kinds: Kinds, rest: Rest) -> Column:
        """The same for values of these kinds, none of which is None."""
        raise NotImplementedError


class Scalar(Type):
    """A scalar or an enum."""

    def __init__(self, nullable: bool, type_: GraphQLLeafType) -> None:
        super().__init__(nullable)
        self._coerce = type_.coerce_output_value
        self._kind, self._convert = _conversion(type_)
        self._is_text = type_.name in TEXTS
        self._is_json = type_.name == JSON

    def _complete(self, values: Column, kinds: Kinds, rest: Rest) -> Column:
        if kinds == {self._kind}:
            length = sum(map(len, values)) if self._is_text else NUMBER * len(values)
            rest.length.add(length)
            return self._convert(values)
        if any(issubclass(kind, Exception) or hasattr(kind, "__await__") for kind in kinds):
            raise Unusual("an error or an awaitable for a value")
        completed = list(map(self._coerce, values))
        if None in completed:
            raise Unusual("a value without a representation")
        if self._is_json:
            rest.length.add_json(completed)
        else:
            length = sum(map(len, completed)) if self._is_text else NUMBER * len(completed)
            rest.length.add(length)
        return completed


def _conversion(type_: GraphQLLeafType) -> tuple[type | None, Callable[[Column], Column]]:
    """How values of the class that a type usually has become what its serializer makes of each."""
    if isinstance(type_, GraphQLEnumType):
        members = type_.wrapped_cls  # type: ignore[attr-defined]
        names = {members(value.value): name for name, value in type_.values.items()}
        return members, lambda values: [names[value] for value in values]
    return _CONVERSIONS.get(type_.name, (None, _as_they_are))


def _as_they_are(values: Column) -> Column:
    return values


def _ints(values: Column) -> Column:
    if min(values) < _SMALLEST_INT or max(values) > _LARGEST_INT:
        raise Unusual("an Int of more than 32 bits")
    return values


def _floats(values: Column) -> Column:
    if not all(map(isfinite, values)):
        raise Unusual("a Float that is not finite")
    return values


_CONVERSIONS: dict[str, tuple[type, Callable[[Column], Column]]] = {
    "Boolean": (bool, _as_they_are),
    "Float": (float, _floats),
    "ID": (str, _as_they_are),
    "Int": (int, _ints),
    "String": (str, _as_they_are),
    "BigInt": (int, _as_they_are),
    # Written by orjson as isoformat() would, in a tenth of the time.
    "DateTime": (datetime, _as_they_are),
}


def is_written(type_: GraphQLOutputType) -> bool:
    """Whether PostgreSQL writes values of a type as they are shown. It would show a float that is
    not finite as null."""
    of = get_nullable_type(type_)
    if isinstance(of, GraphQLEnumType):
        return all(value.value == name for name, value in of.values.items())
    if not isinstance(of, GraphQLScalarType):
        return False
    return of.name in _WRITTEN or (of.name == "Float" and of is type_)


_WRITTEN = {"String", "Boolean", "BigInt", "DateTime"}


class List(Type):
    """A list: its items are completed together with those of all other lists of the column."""

    def __init__(self, nullable: bool, of: Type) -> None:
        super().__init__(nullable)
        self._of = of
        self._counts = not isinstance(of, Scalar)
        self.looked_at = of.looked_at

    def _complete(self, values: Column, kinds: Kinds, rest: Rest) -> Column:
        if not kinds <= {list, tuple}:
            raise Unusual("something else than a list")
        if self._counts:
            rest.take(sum(map(len, values)))
        items = iter(self._of.complete(list(chain.from_iterable(values)), rest))
        return [list(islice(items, len(value))) for value in values]


class Objects(Type):
    """Objects of one type. Their fields are found with those of all others of the next level."""

    def __init__(self, nullable: bool, selection: "Selection") -> None:
        super().__init__(nullable)
        self.selection = selection
        self.looked_at = selection.looked_at

    def _complete(self, values: Column, kinds: Kinds, rest: Rest) -> Column:
        if self.selection.required and kinds != {self.selection.kind}:
            raise Unusual("an object of another class")
        answers: list[dict[str, Any]] = [{} for _ in values]
        rest.append(Part(self.selection, answers, objects=values))
        return answers


class Rows(Objects):
    """The same, where the values are the rows that the objects show."""

    def _complete(self, values: Column, kinds: Kinds, rest: Rest) -> Column:
        answers: list[dict[str, Any]] = [{} for _ in values]
        rest.append(Part(self.selection, answers, rows=values))
        return answers


class Written(Type):
    """An object of so many fields that comes as the text that is shown."""

    def __init__(self, nullable: bool, fields: int) -> None:
        super().__init__(nullable)
        self._fields = fields

    def _complete(self, values: Column, kinds: Kinds, rest: Rest) -> Column:
        rest.length.add_written(sum(map(len, values)), self._fields * len(values))
        return list(map(orjson.Fragment, values))


class WrittenList(Type):
    """A list of objects of so many fields that comes as the text that is shown, with its length;
    where it is empty, as nothing."""

    def __init__(self, fields: int) -> None:
        super().__init__(nullable=False)
        self._fields = fields

    def complete(self, values: Column, rest: Rest) -> Column:
        objects = sum(value[1] for value in values if value)
        rest.take(objects)
        characters = sum(len(value[0]) for value in values if value)
        rest.length.add_written(characters, self._fields * objects)
        return [orjson.Fragment(value[0] if value else "[]") for value in values]


class Nodes(Type):
    """Connections of which nothing is shown but the nodes: they come as those."""

    def __init__(self, name: str, of: Type) -> None:
        super().__init__(nullable=False)
        self._name = name
        self._of = of
        self.looked_at = of.looked_at

    def complete(self, values: Column, rest: Rest) -> Column:
        rest.length.add(len(self._name) * len(values))
        return [{self._name: nodes} for nodes in self._of.complete(values, rest)]


class Abstract(Type):
    """Objects of an interface or a union: each is of the type that has its class."""

    def __init__(self, nullable: bool, selections: dict[type, "Selection"]) -> None:
        super().__init__(nullable)
        self._selections = selections

    def _complete(self, values: Column, kinds: Kinds, rest: Rest) -> Column:
        answers: list[dict[str, Any]] = [{} for _ in values]
        for kind in kinds:
            selection = self._selections.get(kind)
            if selection is None:
                raise Unusual("an object of an unknown class")
            chosen = [index for index, value in enumerate(values) if type(value) is kind]
            chosen_answers = [answers[index] for index in chosen]
            rest.append(Part(selection, chosen_answers, objects=[values[i] for i in chosen]))
        return answers
