"""Connections: keyset pages as GraphQL shows them."""

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Annotated, Any, Generic, TypeAlias, TypeVar

import strawberry
from strawberry import Private

from lifecycle.pages import Page

T = TypeVar("T")

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
class Edge(Generic[T]):
    cursor: str = strawberry.field(description="Opaque; valid for this ordering and filter only.")
    node: T = strawberry.field(description="The item.")


@strawberry.type(description="A page of a list.")
class Connection(Generic[T]):
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
    page: Page[Any],
    convert: Callable[[Any], T],
    count: Callable[[], Awaitable[int | None]],
) -> Connection[T]:
    """A page as a connection; `count` is called when the client wants the total."""
    return Connection(nodes=[convert(row) for row in page.rows], page=page, count=count)


@strawberry.enum(description="The direction of an ordering.")
class OrderDirection(Enum):
    ASC = "ASC"
    DESC = "DESC"
