"""Lists: keyset pages with their cursors, totals, and the children of many parents at once.

A cursor holds the sort values of one row, and a signature of the ordering and the filter it was
made under, so that it cannot be used with another list.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar, cast
from uuid import UUID

import orjson
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Select,
    Uuid,
    and_,
    any_,
    bindparam,
    func,
    literal,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy.orm import aliased

from lifecycle.database import ReadSession
from lifecycle.errors import InvalidInput, Path

Row = TypeVar("Row")

DEFAULT_SIZE = 25
MAX_SIZE = 100


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page: `size` rows after the cursor, or before it when `backward`."""

    size: int = DEFAULT_SIZE
    cursor: str | None = None
    backward: bool = False

    @classmethod
    def parse(
        cls,
        first: int | None,
        after: str | None,
        last: int | None = None,
        before: str | None = None,
    ) -> "PageRequest":
        """Read a connection's arguments. Raises InvalidInput when they do not fit together."""
        if first is not None and last is not None:
            raise InvalidInput("Give first or last, not both.", ("last",))
        backward = last is not None or (first is None and after is None and before is not None)
        if backward and after is not None:
            raise InvalidInput("last goes with before, not with after.", ("after",))
        if not backward and before is not None:
            raise InvalidInput("first goes with after, not with before.", ("before",))
        size = first if first is not None else last if last is not None else DEFAULT_SIZE
        if not 1 <= size <= MAX_SIZE:
            raise InvalidInput(
                f"A page has 1 to {MAX_SIZE} items, not {size}.", ("last" if backward else "first",)
            )
        return cls(size, before if backward else after, backward)


@dataclass(frozen=True, slots=True)
class SortKey:
    """One key of an ordering: an expression that is never null, and how cursors read it back."""

    expression: Any
    parse: Callable[[Any], Any]
    descending: bool = False


def by_time(column: Any, *, descending: bool = True) -> SortKey:
    """Order by a timestamp."""
    return SortKey(column, _moment, descending)


def by_count(column: Any, *, descending: bool = False) -> SortKey:
    """Order by a 64-bit integer."""
    return SortKey(column, _count, descending)


def by_text(column: Any, *, descending: bool = False) -> SortKey:
    """Order by a text column of collation "C", which every PostgreSQL sorts alike."""
    return SortKey(column, str, descending)


def by_number(expression: Any, *, descending: bool = False) -> SortKey:
    """Order by a floating-point number; PostgreSQL puts NaN above all others."""
    return SortKey(expression, float, descending)


def by_id(column: Any, *, descending: bool = True) -> SortKey:
    """The last key of every ordering: it makes the order total."""
    return SortKey(column, UUID, descending)


# Cursors come back from clients, so they are read with as little trust as any input.


def _moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError(value)
    return moment.astimezone(UTC)


def _count(value: Any) -> int:
    if not isinstance(value, int) or abs(value) >= 2**63:
        raise ValueError(value)
    return value


class Ordering:
    """Sort keys, the last of which is unique, and a name that tells this list from others."""

    def __init__(self, keys: Sequence[SortKey], *signature: object) -> None:
        self.keys = tuple(keys)
        # repr of frozen dataclasses, enums and plain values is the same in every process.
        self._signature = hashlib.sha256(repr(signature).encode()).hexdigest()[:12]

    def cursor(self, values: Sequence[Any]) -> str:
        """The cursor of a row, from its sort values."""
        plain = [str(value) if isinstance(value, float | UUID) else value for value in values]
        return urlsafe_b64encode(orjson.dumps([self._signature, *plain])).decode()

    def values(self, cursor: str, path: Path = ("after",)) -> list[Any]:
        """The sort values in a cursor. Raises InvalidInput when it is not one of this list."""
        try:
            signature, *values = orjson.loads(urlsafe_b64decode(cursor.encode()))
            known = signature == self._signature
            parsed = [key.parse(value) for key, value in zip(self.keys, values, strict=known)]
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise InvalidInput("This is not a cursor of this list.", path) from error
        if not known:
            raise InvalidInput("This cursor belongs to another ordering or filter.", path)
        return parsed

    def page(self, statement: Select[Any], request: PageRequest) -> Select[Any]:
        """The statement with the sort values as further columns, ordered, and bounded to one row
        more than the page, which tells whether there is another page."""
        flip = request.backward
        if request.cursor is not None:
            statement = statement.where(
                self._beyond(self.values(request.cursor, ("before" if flip else "after",)), flip)
            )
        order = [
            key.expression.desc() if key.descending != flip else key.expression.asc()
            for key in self.keys
        ]
        labelled = [key.expression.label(f"sort_{n}") for n, key in enumerate(self.keys)]
        return statement.add_columns(*labelled).order_by(*order).limit(request.size + 1)

    def _beyond(self, values: list[Any], flip: bool) -> ColumnElement[bool]:
        """Rows that come after these values. One row comparison where the directions agree,
        because an index serves it; else the lexicographic expansion."""
        bound = [
            literal(value, key.expression.type)
            for key, value in zip(self.keys, values, strict=True)
        ]
        directions = {key.descending for key in self.keys}
        if len(directions) == 1:
            left, right = tuple_(*(key.expression for key in self.keys)), tuple_(*bound)
            return left < right if directions.pop() != flip else left > right
        alternatives = []
        for n, key in enumerate(self.keys):
            same = [k.expression == b for k, b in zip(self.keys[:n], bound[:n], strict=True)]
            lower = key.descending != flip
            alternatives.append(
                and_(*same, key.expression < bound[n] if lower else key.expression > bound[n])
            )
        return or_(*alternatives)


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows of a list, in its order, and whether there are more on either side."""

    rows: Sequence[Row]
    has_next: bool
    has_previous: bool
    ordering: Ordering
    sort_values: Sequence[Sequence[Any]]

    def cursor(self, index: int) -> str:
        """The cursor of the row at this index."""
        return self.ordering.cursor(self.sort_values[index])


async def fetch(
    session: ReadSession, statement: Select[Any], ordering: Ordering, request: PageRequest
) -> Page[Any]:
    """One page of a statement that selects one entity."""
    found = (await session.execute(ordering.page(statement, request))).all()
    return _page([(row[0], row[1:]) for row in found], ordering, request)


async def fetch_each(
    session: ReadSession,
    parents: Sequence[UUID],
    entity: type[Row],
    parent_column: Any,
    statement: Select[Any],
    ordering: Ordering,
    request: PageRequest,
) -> dict[UUID, Page[Row]]:
    """One page for each parent, in one statement: PostgreSQL runs the bounded query once per
    parent, so the cost does not depend on how many children there are."""
    parent = func.unnest(bindparam("parents", list(parents), ARRAY(Uuid))).column_valued("parent")
    children = ordering.page(statement.where(parent_column == parent), request).lateral("child")
    values = [children.c[f"sort_{n}"] for n in range(len(ordering.keys))]
    order = [
        value.desc() if key.descending != request.backward else value.asc()
        for key, value in zip(ordering.keys, values, strict=True)
    ]
    rows = await session.execute(
        select(parent, aliased(entity, children), *values).join(children, true()).order_by(*order)
    )
    found: dict[UUID, list[tuple[Row, Sequence[Any]]]] = {}
    for row in rows:
        found.setdefault(row[0], []).append((row[1], row[2:]))
    return {id: _page(found.get(id, []), ordering, request) for id in parents}


async def fetch_all(
    session: ReadSession, parents: Sequence[UUID], parent_column: Any, statement: Select[Any]
) -> dict[UUID, list[Any]]:
    """All children of each parent, in the statement's order; parents without any are absent."""
    found: dict[UUID, list[Any]] = {}
    for row in await session.scalars(statement.where(among(parent_column, parents))):
        found.setdefault(getattr(row, parent_column.key), []).append(row)
    return found


async def total(session: ReadSession, statement: Select[Any]) -> int:
    """How many rows the statement would give."""
    counted = statement.with_only_columns(func.count(), maintain_column_froms=True)
    return int((await session.scalars(counted)).one())


async def totals(
    session: ReadSession, parents: Sequence[UUID], parent_column: Any, statement: Select[Any]
) -> dict[UUID, int]:
    """How many rows the statement would give for each parent; those without any are absent."""
    counted = (
        statement.with_only_columns(parent_column, func.count(), maintain_column_froms=True)
        .where(among(parent_column, parents))
        .group_by(parent_column)
    )
    return {parent: number for parent, number in await session.execute(counted)}  # noqa: C416


def among(column: Any, ids: Sequence[UUID]) -> ColumnElement[bool]:
    """Whether the column has one of these values: as one array, so that PostgreSQL plans it once
    for however many there are."""
    return cast(ColumnElement[bool], column == any_(literal(list(ids), ARRAY(Uuid))))


def _page(
    found: Sequence[tuple[Row, Sequence[Any]]], ordering: Ordering, request: PageRequest
) -> Page[Row]:
    more = len(found) > request.size
    kept = list(found[: request.size])
    if request.backward:
        kept.reverse()
    resumed = request.cursor is not None
    return Page(
        rows=[row for row, _ in kept],
        has_next=resumed if request.backward else more,
        has_previous=more if request.backward else resumed,
        ordering=ordering,
        sort_values=[values for _, values in kept],
    )
