"""Types that show a row: each field is looked up, and perhaps computed, when it is selected."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Generic, Self, TypeVar

import strawberry
from strawberry.types.field import StrawberryField

Row = TypeVar("Row")


class OfRow(Generic[Row]):
    """Made of a row, which the type declares as `row: Private[...]`."""

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """The row as clients see it."""
        return cls(row=row)  # type: ignore[call-arg]


class _Column(property):
    """The attribute of the row that has the field's name."""

    def __set_name__(self, owner: type, name: str) -> None:
        super().__init__(attrgetter(f"row.{name}"))


def computed(look_up: Callable[[Any], Any], *, description: str) -> Any:
    """A field that is looked up on the object when it is selected."""
    return _looked_up(property(look_up), description)


def shown(
    read: Callable[[Any], Any] | None = None, *, description: str, name: str | None = None
) -> Any:
    """A field that shows what `read` makes of the row, or the row's attribute of the field's
    name."""
    look_up = _Column() if read is None else property(lambda self: read(self.row))
    return _looked_up(look_up, description, name)


def _looked_up(look_up: property, description: str, name: str | None = None) -> Any:
    field: StrawberryField = strawberry.field(default=look_up, name=name, description=description)
    # A field that nobody gives is looked up on the class, where properties belong.
    field.init = False
    return field
