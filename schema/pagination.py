"""Connections: keyset pages as GraphQL shows them."""

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import strawberry
from strawberry import Private

from lifecycle.database import ReadSession
from lifecycle.errors import InvalidInput
from lifecycle.pages import Page
from schema.context import Info
from schema.rows import HoldsRows

T = TypeVar("T")

MAX_KEYS = 4

First: TypeAlias = Annotated[
    int | None, strawberry.argument(description="How many from the start, 1 to 100; default 25.")
]
After: TypeAlias = Annotated[
    str | None, strawberry.argument(description="Continue after this cursor; goes with `first`.")
]
Last: TypeAlias = Annotated[
    int | None, strawberry.argument(description="How many from the end, 1 to 100.")
]
Before: TypeAlias = Annotated[
    str | None, strawberry.argument(description="Continue before this cursor; goes with `last`.")
]


@strawberry.type(description="Where a page lies in its list.")
class PageInfo:
    has_next_page: bool = strawberry.field(description="There are items after this page.")
    has_previous_page: bool = strawberry.field(description="There are items before this page.")
    start_cursor: str | None = strawberry.field(description="The cursor of the first item.")
    end_cursor: str | None = strawberry.field(description="The cursor of the last item.")


@strawberry.type(description="An item of a list with its place.")
class Edge(HoldsRows, Generic[T]):
    cursor: str = strawberry.field(description="Opaque; valid for this ordering and filter only.")
    node: T = strawberry.field(description="The item.")


@strawberry.type(description="A page of a list.")
class Connection(HoldsRows, Generic[T]):
    nodes: list[T] = strawberry.field(description="The items of this page.")
    page: Private[Page[Any]]
    count: Private[Callable[[], Awaitable[int | None]]]

    @strawberry.field(description="The items of this page, each with its cursor.")
    def edges(self) -> list[Edge[T]]:
        return [
            Edge(cursor=self.page.cursor(index), node=node) for index, node in enumerate(self.nodes)
        ]

    @strawberry.field(description="Whether there is more, and how to get it.")
    def page_info(self) -> PageInfo:
        last = len(self.nodes) - 1
        return PageInfo(
            has_next_page=self.page.has_next,
            has_previous_page=self.page.has_previous,
            start_cursor=self.page.cursor(0) if self.nodes else None,
            end_cursor=self.page.cursor(last) if self.nodes else None,
        )

    @strawberry.field(description="How many items the whole list has; counted only if selected.")
    async def total_count(self) -> int:
        return await self.count() or 0


def connection(
    page: Page[Any] | None,
    convert: Callable[[Any], T],
    count: Callable[[], Awaitable[int | None]],
) -> Connection[T]:
    """A page, which each parent has, as a connection; `count` is called when the client wants the
    total."""
    assert page is not None
    return Connection(nodes=[convert(row) for row in page.rows], page=page, count=count)


async def listed(
    info: Info,
    convert: Callable[[Any], T],
    page: Callable[[ReadSession], Awaitable[Page[Any]]],
    count: Callable[[ReadSession], Awaitable[int]],
) -> Connection[T]:
    """A page of a list that has no parent, as a connection."""
    database = info.context.database
    async with database.read() as session:
        found = await page(session)

    async def total() -> int:
        async with database.read() as session:
            return await count(session)

    return connection(found, convert, total)


def directions(order_by: Sequence[Any] | None) -> tuple[tuple[Any, bool], ...]:
    """The keys of an ordering as pairs of field and descending. Raises InvalidInput."""
    if order_by and len(order_by) > MAX_KEYS:
        raise InvalidInput(f"Order by at most {MAX_KEYS} keys.", ("order_by",))
    return tuple((key.field, key.direction is OrderDirection.DESC) for key in order_by or ())


@strawberry.enum(description="The direction of an ordering.")
class OrderDirection(Enum):
    ASC = "ASC"
    DESC = "DESC"
