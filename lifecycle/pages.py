"""Lists: keyset pages with their cursors, totals, and the children of many parents at once.

A cursor holds the sort values of one row, and a signature of the ordering and the filter it was
made under, so that it cannot be used with another list.
"""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import groupby
from operator import attrgetter
from typing import Any, Generic, ParamSpec, TypeVar, cast
from uuid import UUID

import orjson
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Integer,
    Select,
    Uuid,
    and_,
    any_,
    bindparam,
    func,
    inspect,
    literal,
    literal_column,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy.orm import InstrumentedAttribute, QueryableAttribute, aliased

from lifecycle.database import ReadSession
from lifecycle.errors import InvalidInput, Path
from lifecycle.kept import Kept
from lifecycle.leaves import Leaves, by_key, lists_by_key, written, written_together
from lifecycle.statements import (
    Names,
    Prepared,
    looked_at,
    names_looked_at,
    of_one_row,
    part_of,
    prepared,
)

Key = TypeVar("Key")
Row = TypeVar("Row")
Arguments = ParamSpec("Arguments")

# Longer than the longest text that is stored (`commands.Text`), and what else is said with it.
MAX_FILTER = 25_000
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
    """Sort keys, the last of which is unique, and what tells this list from others: its name, its
    filter, its order. Raises InvalidInput when that is longer than anything that is looked for."""

    def __init__(self, keys: Sequence[SortKey], *signature: object) -> None:
        self.keys = tuple(keys)
        # repr of frozen dataclasses, enums and plain values is the same in every process.
        said = repr(signature)
        self.weight = len(said)
        if self.weight > MAX_FILTER:
            raise InvalidInput(
                f"What a list is filtered and ordered by has at most {MAX_FILTER:,} characters."
            )
        self._signature = hashlib.sha256(said.encode()).hexdigest()[:12]

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

    def page(
        self, statement: Select[Any], backward: bool, resumed: bool, apart: Iterable[int]
    ) -> Select[Any]:
        """The statement with these sort values as further columns, ordered, and bounded; if it is
        resumed, beyond the values of the parameters `beyond_0` and so on."""
        if resumed:
            statement = statement.where(self._beyond(backward))
        order = [
            key.expression.desc() if key.descending != backward else key.expression.asc()
            for key in self.keys
        ]
        labelled = [self.keys[n].expression.label(f"sort_{n}") for n in apart]
        limit = bindparam("limit", type_=Integer)
        return statement.add_columns(*labelled).order_by(*order).limit(limit)

    def _beyond(self, flip: bool) -> ColumnElement[bool]:
        """Rows that come after these values. One row comparison where the directions agree,
        because an index serves it; else the lexicographic expansion."""
        bound = [
            bindparam(f"beyond_{n}", type_=key.expression.type) for n, key in enumerate(self.keys)
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


# Not frozen: it would be made three times slower, and hundreds are made for one answer.
@dataclass(slots=True)
class Page(Generic[Row]):
    """Some rows of a list, in its order, and whether there are more on either side."""

    rows: Sequence[Row]
    has_next: bool
    has_previous: bool
    listing: "Listing[Row]"
    # For each row the sort values that are not attributes of it.
    apart: Sequence[Sequence[Any]]

    def cursor(self, index: int) -> str:
        """The cursor of the row at this index."""
        return self.listing.cursor(self.rows[index], self.apart[index])


# How many different lists, each with its filter and its order, are kept, and how many characters
# those filters and orders have together.
LISTS = 1_000
MAX_KEPT_CHARACTERS = 5_000_000
# The ids of those whose children are wanted, and the id of one.
PARENTS = bindparam("parents", type_=ARRAY(Uuid))
_PARENT = bindparam("parent", type_=Uuid)


class Listing(Generic[Row]):
    """A list as clients page through it: what is in it, in which order. Its statements are made
    once, so whoever asks for the same list again should ask the same Listing.

    Where it belongs to parents, `parent` is the column that says to which.
    """

    def __init__(
        self, statement: Select[Row], ordering: Ordering, parent: Any | None = None
    ) -> None:
        self._statement = statement
        self._entity = statement.column_descriptions[0]["entity"]
        self._ordering = ordering
        self.weight = ordering.weight
        self._parent = parent
        # The sort values that are attributes of the rows are found there.
        self._sorted_by = [_attribute(key.expression, self._entity) for key in ordering.keys]
        self._apart = [n for n, name in enumerate(self._sorted_by) if name is None]
        self._always = [name for name in self._sorted_by if name is not None]

    def cursor(self, row: Row, apart: Sequence[Any]) -> str:
        """The cursor of a row, whose other sort values are these."""
        others = iter(apart)
        return self._ordering.cursor(
            [next(others) if name is None else getattr(row, name) for name in self._sorted_by]
        )

    async def page(self, session: ReadSession, request: PageRequest) -> Page[Row]:
        """One page. Raises InvalidInput when the cursor is not of this list."""
        shape = (names_looked_at(), request.backward, request.cursor is not None)
        rows = await _fetch(session, self._page, shape, self._bounds(request))
        # Of one thing selected, the rows are that thing.
        apart = [row[1:] for row in rows] if self._apart else [()] * len(rows)
        return self._cut([row[0] for row in rows] if self._apart else rows, apart, request)

    async def pages(
        self, session: ReadSession, parents: Sequence[UUID], request: PageRequest
    ) -> dict[UUID, Page[Row]]:
        """One page for each parent, in one statement: PostgreSQL runs the bounded query once per
        parent, so the cost does not depend on how many children there are. Of leaves the pages are
        texts."""
        values = self._bounds(request) | _of(parents)
        names = looked_at.get()
        shape = (names, len(parents) == 1, request.backward, request.cursor is not None)
        if isinstance(names, Leaves):
            values["limit"] = request.size
            texts = lists_by_key(await _fetch(session, self._leaves, shape, values))
            return cast("dict[UUID, Page[Row]]", texts)
        found: dict[UUID, tuple[list[Row], list[Sequence[Any]]]] = {id: ([], []) for id in parents}
        for parent, row, *others in await _fetch(session, self._pages, shape, values):
            rows, apart = found[parent]
            rows.append(row)
            apart.append(others)
        return {id: self._cut(*both, request) for id, both in found.items()}

    async def count(self, session: ReadSession) -> int:
        """How many rows there are."""
        (number,) = await _fetch(session, self._count, (), {})
        return int(number)

    async def counts(self, session: ReadSession, parents: Sequence[UUID]) -> dict[UUID, int]:
        """How many each parent has; those without any are absent."""
        return dict(await _fetch(session, self._counts, (), {"parents": list(parents)}))

    def _page(self, names: Names, backward: bool, resumed: bool) -> Select[Any]:
        statement = self._statement.with_only_columns(
            part_of(self._entity, names, *self._always), maintain_column_froms=True
        )
        return self._ordering.page(statement, backward, resumed, self._apart)

    def _pages(self, names: Names, one: bool, backward: bool, resumed: bool) -> Select[Any]:
        parent, children, child = self._children(names, one, backward, resumed)
        values = self._sort_values(children, child)
        part, apart = part_of(child, names, *self._always), [values[n] for n in self._apart]
        statement = select(parent, part, *apart).order_by(*self._ordered(values, backward))
        return statement.select_from(children) if one else statement.join(children, true())

    def _leaves(self, leaves: Leaves, one: bool, backward: bool, resumed: bool) -> Select[Any]:
        names = frozenset(leaf.attribute for leaf in leaves if leaf.attribute is not None)
        parent, children, child = self._children(names, one, backward, resumed)
        # As they are shown, also where they were looked for from the end.
        order = self._ordered(self._sort_values(children, child), backward=False)
        statement = select(parent, *written_together(child, leaves, *order))
        if one:
            return _of_any(statement.select_from(children))
        return statement.join(children, true()).group_by(parent)

    def _children(
        self, names: Names, one: bool, backward: bool, resumed: bool
    ) -> tuple[Any, Any, Any]:
        """Parents, what belongs to the page of each, and the same as entities, with these
        attributes alone."""
        parent = _PARENT if one else func.unnest(PARENTS).column_valued("parent")
        # PostgreSQL would hand on all that is selected here.
        own = self._statement.where(cast(ColumnElement[bool], self._parent == parent))
        own = own.with_only_columns(
            part_of(self._entity, names, *self._always), maintain_column_froms=True
        )
        page = self._ordering.page(own, backward, resumed, self._apart)
        children = page.subquery("child") if one else page.lateral("child")
        return parent, children, aliased(self._entity, children)

    def _sort_values(self, children: Any, child: Any) -> list[Any]:
        return [
            children.c[f"sort_{n}"] if name is None else getattr(child, name)
            for n, name in enumerate(self._sorted_by)
        ]

    def _ordered(self, values: Sequence[Any], backward: bool) -> list[Any]:
        return [
            value.desc() if key.descending != backward else value.asc()
            for key, value in zip(self._ordering.keys, values, strict=True)
        ]

    def _count(self) -> Select[Any]:
        return self._statement.with_only_columns(func.count(), maintain_column_froms=True)

    def _counts(self) -> Select[Any]:
        assert self._parent is not None
        return (
            self._statement.with_only_columns(
                self._parent, func.count(), maintain_column_froms=True
            )
            .where(cast(ColumnElement[bool], self._parent == any_(PARENTS)))
            .group_by(self._parent)
        )

    def _bounds(self, request: PageRequest) -> dict[str, Any]:
        """One row more than the page has tells whether there is another."""
        bounds: dict[str, Any] = {"limit": request.size + 1}
        if request.cursor is not None:
            path = ("before" if request.backward else "after",)
            for n, value in enumerate(self._ordering.values(request.cursor, path)):
                bounds[f"beyond_{n}"] = value
        return bounds

    def _cut(self, rows: list[Row], apart: list[Sequence[Any]], request: PageRequest) -> Page[Row]:
        more = len(rows) > request.size
        if more:
            rows, apart = rows[:-1], apart[:-1]
        if request.backward:
            rows.reverse()
            apart.reverse()
            return Page(rows, request.cursor is not None, more, self, apart)
        return Page(rows, more, request.cursor is not None, self, apart)


_lists: Kept[Any, Listing[Any]] = Kept(LISTS, MAX_KEPT_CHARACTERS)


def listing(make: Callable[Arguments, Listing[Row]]) -> Callable[Arguments, Listing[Row]]:
    """A function that makes a Listing, which gives the one that it made before for the same
    arguments as long as that is kept."""

    def listing(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Listing[Row]:
        key = (make, args, tuple(kwargs.items()))
        found = _lists.get(key)
        if found is None:
            found = make(*args, **kwargs)
            _lists.keep(key, found, found.weight)
        return found

    return listing


def _attribute(expression: Any, entity: Any) -> str | None:
    """The attribute of the entity that an expression is; None if it is something else."""
    if isinstance(expression, QueryableAttribute) and expression.parent is inspect(entity):
        return expression.key
    return None


class Lookup(Generic[Key, Row]):
    """Rows by a unique column."""

    def __init__(
        self,
        entity: type[Row],
        column: InstrumentedAttribute[Key],
        *conditions: ColumnElement[bool],
    ) -> None:
        self._entity = entity
        self._column = column
        self._conditions = conditions
        self._key = attrgetter(column.key)

    async def fetch(self, session: ReadSession, keys: Sequence[Key]) -> dict[Key, Row]:
        """The rows by their keys; those that do not exist are absent. Leaves come as texts."""
        names, one = looked_at.get(), len(keys) == 1
        wanted = {"key": keys[0]} if one else {"keys": list(keys)}
        if isinstance(names, Leaves):
            texts = by_key(await _fetch(session, self._leaves, (names, one), wanted))
            return cast("dict[Key, Row]", texts)
        rows = await _fetch(session, self._select, (names, one), wanted)
        return dict(zip(map(self._key, rows), rows, strict=True))

    def _select(self, names: Names, one: bool) -> Select[Any]:
        return self._of(one, part_of(self._entity, names, self._column.key))

    def _leaves(self, leaves: Leaves, one: bool) -> Select[Any]:
        return self._of(one, self._column, *written(self._entity, leaves))

    def _of(self, one: bool, *shown: Any) -> Select[Any]:
        type_ = self._column.type
        key: Any = (
            bindparam("key", type_=type_) if one else any_(bindparam("keys", type_=ARRAY(type_)))
        )
        statement = select(*shown).where(self._column == key, *self._conditions)
        return of_one_row(statement) if one else statement


class Children(Generic[Row]):
    """All rows that belong to parents, which the column `parent` names, in an order."""

    def __init__(self, statement: Select[Row], parent: Any, *order: Any) -> None:
        self._statement = statement
        self._parent = parent
        self._order = order

    async def fetch(
        self,
        session: ReadSession,
        parents: Sequence[UUID],
        parameters: Mapping[str, Any] | None = None,
    ) -> dict[UUID, list[Row]]:
        """The children of each parent; parents without any are absent. Leaves come as texts."""
        wanted = {**(parameters or {}), **_of(parents)}
        names, one = looked_at.get(), len(parents) == 1
        if isinstance(names, Leaves):
            texts = lists_by_key(await _fetch(session, self._leaves, (names, one), wanted))
            return cast("dict[UUID, list[Row]]", texts)
        rows = await _fetch(session, self._select, (names, one), wanted)
        parent = attrgetter(self._parent.key)
        return {parent: list(children) for parent, children in groupby(rows, parent)}

    def _select(self, names: Names, one: bool) -> Select[Any]:
        part = part_of(self._entity, names, self._parent.key)
        ordered = self._own(one).order_by(self._parent, *self._order)
        return ordered.with_only_columns(part, maintain_column_froms=True)

    def _leaves(self, leaves: Leaves, one: bool) -> Select[Any]:
        objects = written_together(self._entity, leaves, *self._order)
        parent = _PARENT if one else self._parent
        found = self._own(one).with_only_columns(parent, *objects, maintain_column_froms=True)
        return _of_any(found) if one else found.group_by(parent)

    def _own(self, one: bool) -> Select[Any]:
        parent: Any = _PARENT if one else any_(PARENTS)
        return self._statement.where(self._parent == parent)

    @property
    def _entity(self) -> Any:
        return self._statement.column_descriptions[0]["entity"]


def _of_any(statement: Select[Any]) -> Select[Any]:
    """The one row of what is aggregated, unless there is nothing to aggregate."""
    return of_one_row(statement.having(func.count() > literal_column("0")))


def _of(parents: Sequence[UUID]) -> dict[str, Any]:
    """Whose children are wanted. Of one alone it is said in a way for which PostgreSQL plans once:
    how many an array has it wants to know anew each time, and for a few children that takes longer
    than to find them."""
    return {"parents": list(parents), "parent": parents[0]} if parents else {"parents": []}


async def _fetch(
    session: ReadSession,
    make: Callable[..., Select[Any]],
    shape: tuple[Any, ...],
    values: dict[str, Any],
) -> list[Any]:
    """What the statement finds that is made for this shape, the first time."""
    statement, given = _made(make, *shape)
    return await session.fetch(statement, {**given, **values})


@lru_cache(LISTS)
def _made(make: Callable[..., Select[Any]], *shape: Any) -> tuple[Prepared[Any], Mapping[str, Any]]:
    return prepared(make(*shape))


def among(column: Any, values: Iterable[Any]) -> ColumnElement[bool]:
    """Whether the column has one of these values: as one array, so that PostgreSQL plans it once
    for however many there are."""
    return cast(ColumnElement[bool], column == any_(literal(list(values), ARRAY(column.type))))
