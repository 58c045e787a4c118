"""Leaves: objects of which nothing is shown but columns, as JSON that PostgreSQL itself writes.

Where `looked_at` is set to Leaves, objects and lists of them are given as texts instead of rows.
They are, byte for byte, what orjson makes of the same values: an answer must not depend on who
wrote it.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

import orjson
from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Enum,
    Float,
    Text,
    case,
    cast,
    false,
    func,
    literal_column,
    or_,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by

Key = TypeVar("Key")

# Numbers within these, and zero, PostgreSQL writes without an exponent, as orjson does.
_SMALLEST: ColumnElement[float] = literal_column("float8 '1e-4'")
_LARGEST: ColumnElement[float] = literal_column("float8 '1e15'")
_INFINITY: ColumnElement[float] = literal_column("float8 'infinity'")
_FIRST: ColumnElement[datetime] = literal_column("timestamptz '0001-01-01 00:00Z'")
_LAST: ColumnElement[datetime] = literal_column("timestamptz '9999-12-31 23:59:59.999999Z'")


class Leaf(NamedTuple):
    """A field of each object: its name in the answer, and the attribute that it shows. With a
    `kind` it shows the global id of an object of that kind, or, without an attribute, the kind."""

    name: str
    attribute: str | None
    kind: str | None = None


class Leaves(tuple[Leaf, ...]):
    """The fields of each object, in their order."""

    __slots__ = ()


def written(entity: Any, leaves: Leaves) -> tuple[ColumnElement[Any], ...]:
    """Two columns: each row's object as JSON, and what `by_key` has to know of it. A float that is
    not finite is null. Raises TypeError for a column whose values cannot be written."""
    text, before = _constant(""), "{"
    unusual: list[ColumnElement[bool]] = []
    for name, attribute, kind in leaves:
        before += f'"{name}":'
        if attribute is None:
            before += f'"{kind}",'
            continue
        column = getattr(entity, attribute)
        text = text + _constant(before) + (_text(column) if kind is None else _id(column, kind))
        before = ","
        if isinstance(column.type, Float):
            unusual.append(_unusual(column))
    return text + _constant(before.removesuffix(",") + "}"), or_(false(), *unusual)


def written_together(entity: Any, leaves: Leaves, *order: Any) -> tuple[ColumnElement[Any], ...]:
    """Aggregates: the same for the JSON array of all objects, in this order, and their number."""
    text, unusual = written(entity, leaves)
    objects = func.string_agg(text, aggregate_order_by(_constant(","), *order))
    return _constant("[") + objects + _constant("]"), func.bool_or(unusual), func.count()


def by_key(found: Sequence[tuple[Key, str, bool]]) -> dict[Key, str]:
    """The text of each key, from rows with what is written."""
    return {key: _as_shown(text) if unusual else text for key, text, unusual in found}


def lists_by_key(found: Sequence[tuple[Key, str, bool, int]]) -> dict[Key, tuple[str, int]]:
    """The text of each key and of how many objects it is, from rows with what is written
    together."""
    return {
        key: (_as_shown(text) if unusual else text, number) for key, text, unusual, number in found
    }


def _as_shown(text: str) -> str:
    return orjson.dumps(orjson.loads(text)).decode()


def _constant(text: str) -> ColumnElement[str]:
    # Not as a parameter: there are a hundred, which would be sent and read with each execution.
    return literal_column("'" + text.replace("'", "''") + "'", Text())


def _id(column: Any, kind: str) -> ColumnElement[str]:
    """As `schema.ids` encodes it."""
    plain = func.replace(cast(column, Text), _constant("-"), _constant(""))
    form = func.convert_to(_constant(f"{kind}:") + plain, _constant("UTF8"))
    encoded = func.encode(form, _constant("base64"))
    # What is long PostgreSQL breaks into lines.
    usual = func.translate(encoded, _constant("+/\n"), _constant("-_"))
    return _constant('"') + usual + _constant('"')


def _text(column: Any) -> ColumnElement[str]:
    for kind, write in _WRITERS.items():
        if isinstance(column.type, kind):
            return func.coalesce(write(column), _constant("null"))
    raise TypeError(f"{column} cannot be written as JSON.")


def _string(column: Any) -> ColumnElement[str]:
    return cast(func.to_json(cast(column, Text)), Text)


def _plain(column: Any) -> ColumnElement[str]:
    return cast(column, Text)


def _moment(column: Any) -> ColumnElement[str]:
    # The driver takes the first and the last moment that Python knows for the infinities.
    known = func.greatest(func.least(column, _LAST), _FIRST)
    moment = func.timezone(_constant("UTC"), case((column.is_not(None), known)))
    utc = func.to_char(moment, _constant('YYYY-MM-DD"T"HH24:MI:SS.US'))
    return (
        _constant('"')
        + func.replace(utc, _constant(".000000"), _constant(""))
        + _constant('+00:00"')
    )


def _float(column: Any) -> ColumnElement[str]:
    text, size = cast(column, Text), func.abs(column)
    whole = (size == func.trunc(size)) & (size < _LARGEST)
    # PostgreSQL takes NaN for larger than infinity.
    return case((whole, text + _constant(".0")), (size < _INFINITY, text))


def _unusual(column: Any) -> ColumnElement[bool]:
    size = func.abs(column)
    return or_(size >= _LARGEST, (size > literal_column("0")) & (size < _SMALLEST))


_WRITERS: dict[type, Callable[[Any], ColumnElement[str]]] = {
    Enum: _string,
    Text: _string,
    BigInteger: _plain,
    Boolean: _plain,
    DateTime: _moment,
    Float: _float,
}
