"""Statements as the driver takes them: compiled once, with rows that are plain tuples.

What is asked is written with SQLAlchemy like everything else. What SQLAlchemy would do again for
each execution (finding the compiled form, keeping track of objects, layers of results) is most of
what a read costs, and nobody needs it: so here is only what a statement becomes, and what becomes
of its rows. Who executes it is `lifecycle.database`.
"""

from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property, lru_cache, partial
from typing import Any, Generic, TypeAlias, TypeVar, cast, overload

import orjson
from sqlalchemy import (
    ARRAY,
    JSON,
    ColumnElement,
    Dialect,
    Enum,
    Float,
    Insert,
    Select,
    TextClause,
    inspect,
)
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.orm import Bundle
from sqlalchemy.sql.cache_key import CacheKey
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.util import LRUCache
from typing_extensions import TypeVarTuple

from lifecycle.leaves import Leaves

Row = TypeVar("Row")
Columns = TypeVarTuple("Columns")
Values = Sequence[Any]


def to_json(value: object) -> str:
    """How JSON is stored."""
    # The driver has a UUID type of its own.
    return orjson.dumps(value, default=str).decode()


# How many statements, and how many kinds of rows, are kept.
_KEPT = 1_000
# Prepared on each connection: as many as there are in the code, and then some.
STATEMENTS = 500

_ONE_ROW = "one_row"

# The attributes of rows that whoever reads will look at; None if that may be any. What is read in
# bulk for a client is cut down to them. Leaves are not looked at, but shown as they are written.
Names: TypeAlias = frozenset[str] | None
looked_at: ContextVar[Names | Leaves] = ContextVar("looked_at", default=None)


def names_looked_at() -> Names:
    """What will be looked at of rows, which are not shown as leaves."""
    names = looked_at.get()
    assert not isinstance(names, Leaves)
    return names


@contextmanager
def looking_at(*names: str) -> Iterator[None]:
    """Of rows that are read meanwhile, only these attributes will be looked at."""
    token = looked_at.set(frozenset(names))
    try:
        yield
    finally:
        looked_at.reset(token)


_DIALECT: Dialect = asyncpg.dialect(  # type: ignore[no-untyped-call]
    json_serializer=to_json, json_deserializer=orjson.loads
)


class Prepared(Generic[Row]):
    """A statement that is made once and executed often; its parameters have names.

    Of one thing selected, an entity or a column, the rows are that thing; of several they are
    tuples with names. What stands for an entity has its attributes, and `__tablename__`, but cannot
    be changed and belongs to no session. What plain text and changes give comes as the driver has
    it.
    """

    @overload
    def __init__(self, statement: Select[Row]) -> None: ...
    @overload
    def __init__(self: "Prepared[tuple[*Columns]]", statement: Select[*Columns]) -> None: ...
    @overload
    def __init__(self: "Prepared[Any]", statement: TextClause | Insert) -> None: ...
    def __init__(self, statement: Any) -> None:
        self.statement = statement
        self._cache_key: CacheKey | None = None

    @cached_property
    def _compiled(self) -> SQLCompiler:
        compiled = self.statement.compile(dialect=_DIALECT, cache_key=self._cache_key)
        assert isinstance(compiled, SQLCompiler)
        if any(bind.expanding for bind in compiled.binds.values()):
            raise TypeError("IN takes as many parameters as values; say = ANY with an array.")
        return compiled

    @cached_property
    def sql(self) -> str:
        """The text that PostgreSQL gets."""
        return str(self._compiled)

    @cached_property
    def _parameters(self) -> list[tuple[str, Callable[[Any], Any] | None]]:
        binds = self._compiled.binds
        return [
            (name, binds[name].type.dialect_impl(_DIALECT).bind_processor(_DIALECT))
            for name in self._compiled.positiontup or ()
        ]

    @property
    def parameters(self) -> int:
        """How many parameters it has."""
        return len(self._parameters)

    @cached_property
    def _given(self) -> dict[str, Any]:
        binds = self._compiled.binds
        return {name: bind.effective_value for name, bind in binds.items() if not bind.required}

    def values(self, parameters: Mapping[str, Any]) -> list[Any]:
        """The parameters as the driver takes them, by position."""
        given = {**self._given, **parameters} if self._given else parameters
        return [
            given[name] if process is None else process(given[name])
            for name, process in self._parameters
        ]

    @cached_property
    def rows(self) -> Callable[[Sequence[Values]], list[Row]]:
        """What becomes of the rows as they come from the driver."""
        if isinstance(self.statement, Select):
            return _reader(self.statement)
        return _as_tuples

    @cached_property
    def rows_of(self) -> Callable[[Sequence[Values]], list[Row]]:
        """What becomes of the columns, where the driver gives those instead."""
        return _reader_of_columns(self.statement)

    def place(self, attribute: str) -> int:
        """Which of the columns shows this attribute of the one thing that is selected."""
        return list(self.statement.selected_columns.keys()).index(attribute)

    @cached_property
    def one_row(self) -> bool:
        """Whether it gives one row or none, as whoever made it has said (`of_one_row`)."""
        return bool(self.statement.get_execution_options().get(_ONE_ROW))

    @cached_property
    def weight(self) -> int:
        """How much it may give: 4 for JSON of many rows, 1 for other rows, nothing for one row."""
        if not isinstance(self.statement, Select) or self.one_row:
            return 0
        columns = self.statement.selected_columns
        return 4 if any(isinstance(each.type, JSON) for each in columns) else 1

    @cached_property
    def columns(self) -> int:
        """How many columns PostgreSQL can give as an array each; 0 if it cannot."""
        if not isinstance(self.statement, Select):
            return 0
        columns = list(self.statement.selected_columns)
        return 0 if any(isinstance(each.type, ARRAY) for each in columns) else len(columns)


def of_one_row(statement: Select[Row]) -> Select[Row]:
    """The same statement, of which it is known that it gives one row or none."""
    return statement.execution_options(**{_ONE_ROW: True})


def _as_tuples(found: Iterable[Values]) -> list[Any]:
    return list(map(tuple, found))


def part_of(entity: Any, names: frozenset[str] | None, *always: str) -> Any:
    """What to select of an entity, or of an alias of one, of which only these attributes, its key
    and those that are `always` there will be looked at."""
    if names is None:
        return entity
    mapper = inspect(entity).mapper
    known = {attribute.key for attribute in mapper.column_attrs}
    wanted = known & names | {str(column.key) for column in mapper.primary_key} | {*always}
    return Bundle(mapper.local_table.name, *(getattr(entity, name) for name in sorted(wanted)))


def _reader(statement: Select[Any]) -> Callable[[Sequence[Values]], list[Any]]:
    things, conversions = _things(statement), _conversions(statement)
    if not conversions and len(things) == 1:
        return things[0][1]
    if not conversions and all(make is _only for _, make in things):
        return _maker(None, *(str(each["name"]) for each in statement.column_descriptions))
    read = _reader_of_columns(statement)
    return lambda found: read(list(zip(*found, strict=True))) if found else []


def _reader_of_columns(statement: Select[Any]) -> Callable[[Sequence[Values]], list[Any]]:
    things, conversions = _things(statement), _conversions(statement)
    together = _maker(None, *(str(each["name"]) for each in statement.column_descriptions))

    def read(columns: Sequence[Iterable[Any]]) -> list[Any]:
        converted = list(columns)
        for place, convert in conversions:
            converted[place] = map(convert, columns[place])
        made = [make(zip(*converted[part], strict=True)) for part, make in things]
        return made[0] if len(made) == 1 else together(zip(*made, strict=True))

    return read


def _conversions(statement: Select[Any]) -> list[tuple[int, Callable[[Any], Any]]]:
    """Which columns become something else, and how."""
    columns = enumerate(statement.selected_columns)
    return [(place, convert) for place, column in columns if (convert := _conversion(column))]


def _things(statement: Select[Any]) -> list[tuple[slice, Callable[[Iterable[Any]], list[Any]]]]:
    """Of what is selected each entity, bundle or column: which columns it has, and what they make
    of it."""
    columns = list(statement.selected_columns)
    things: list[tuple[slice, Callable[[Iterable[Any]], list[Any]]]] = []
    for each in statement.column_descriptions:
        first = things[-1][0].stop if things else 0
        expression = each["expr"]
        if isinstance(expression, Bundle):
            length, table = len(expression.columns), expression.name
        elif expression is each.get("entity"):
            mapper = inspect(expression).mapper
            length, table = len(mapper.column_attrs), mapper.local_table.name
        else:
            things.append((slice(first, first + 1), _only))
            continue
        keys = (str(column.key) for column in columns[first : first + length])
        things.append((slice(first, first + length), _maker(table, *keys)))
    return things


def _only(found: Iterable[Values]) -> list[Any]:
    return [value for (value,) in found]


@lru_cache(_KEPT)
def _maker(table: str | None, *attributes: str) -> Callable[[Iterable[Values]], list[Any]]:
    row = namedtuple("row", attributes, rename=True)  # type: ignore[misc]
    cast(Any, row).__tablename__ = table
    make = partial(tuple.__new__, row)
    return lambda found: list(map(make, found))


def _conversion(column: ColumnElement[Any]) -> Callable[[Any], Any] | None:
    """What a value of a column becomes; None if it is right as it comes."""
    implementation = column.type.dialect_impl(_DIALECT)
    if isinstance(implementation, Enum) and implementation.enum_class is not None:
        members = {member.value: member for member in implementation.enum_class}
        return {None: None, **members}.__getitem__
    if isinstance(implementation, Float):  # of which SQLAlchemy does not know what the driver makes
        return None
    return implementation.result_processor(_DIALECT, None)


_known: LRUCache[Any, Prepared[Any]] = LRUCache(_KEPT)


def prepared(statement: Select[*Columns]) -> tuple[Prepared[Any], Mapping[str, Any]]:
    """The prepared form of a statement that is made anew for each execution, and the values that it
    was made with. Statements that differ in nothing but values share it."""
    # By the key that SQLAlchemy has for its own cache.
    key = statement._generate_cache_key()
    assert key is not None, "all our statements can be told apart"
    found = _known.get(key.key)
    if found is None:
        found = Prepared(statement)
        found._cache_key = key
        _known[key.key] = found
    values = found._compiled.construct_params(extracted_parameters=key.bindparams, _check=False)
    return found, values
