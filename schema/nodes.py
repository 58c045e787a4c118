"""The Node interface."""

from typing import Any

import strawberry
from strawberry import Private

from schema import ids
from schema.rows import shown_id


@strawberry.interface(description="An object with a global id.")
class Node:
    """Shows a row; see `rows`."""

    row: Private[Any]
    id: strawberry.ID = shown_id(ids.encode, description="Global and opaque; see `node`.")


@strawberry.type(description="A label.")
class Tag:
    key: str = strawberry.field(description="Unique among the object's tags.")
    value: str = strawberry.field(description="Any text.")


@strawberry.input(description="A label.")
class TagInput:
    key: str = strawberry.field(description="Unique among the object's tags.")
    value: str = strawberry.field(description="Any text.")


def tags_of(pairs: dict[str, str]) -> list[Tag]:
    """The tags of a row, by key."""
    return [Tag(key=key, value=pairs[key]) for key in sorted(pairs)]
