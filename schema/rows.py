"""Types that show a row: each field is looked up, and perhaps computed, when it is selected."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, ClassVar, Generic, Self, TypeVar
from uuid import UUID

import strawberry
from strawberry.types.field import StrawberryField

Row = TypeVar("Row")


class OfRow(Generic[Row]):
    """Made of a row, which the type declares as `row: Private[...]`.

    `keys` are the attributes of the row that its resolvers look at; without them that may be any.
    """

    keys: ClassVar[tuple[str, ...] | None] = None

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """The row as clients see it."""
        return cls(row=row)  # type: ignore[call-arg]


class HoldsRows:
    """Holds objects that show rows, and nothing of those rows by itself."""


class Lookup(property):
    """How a field is found in the row of its object. `needs` are the attributes of the row that
    this looks at; None if that may be any. `leaf` is the attribute that it shows as it is, if it
    does that, but for floats that are not finite, which are shown as null; or, if it `is_id`, as
    the global id of an object of its class."""

    needs: tuple[str, ...] | None = None
    leaf: str | None = None
    is_id = False

    def __init__(self, reader: Callable[[type], Callable[[Any], Any]]) -> None:
        super().__init__(lambda self: reader(type(self))(self.row))
        self._reader = reader

    def reader(self, kind: type) -> Callable[[Any], Any]:
        """What the field of an object of this class shows, from the row alone."""
        return self._reader(kind)


class _Column(Lookup):
    """The attribute of the row that has the field's name, which comes when the class is made."""

    def __init__(self) -> None: ...

    def __set_name__(self, owner: type, name: str) -> None:
        read = attrgetter(name)
        super().__init__(lambda kind: read)
        self.needs = (name,)
        self.leaf = name


def shown(
    read: Callable[[Any], Any] | None = None,
    *,
    needs: tuple[str, ...] | None = None,
    leaf: str | None = None,
    description: str,
    name: str | None = None,
) -> Any:
    """A field that shows what `read` makes of the row, or the row's attribute of the field's
    name. `needs` and `leaf` are those of `Lookup`."""
    look_up = _Column() if read is None else Lookup(lambda kind: read)
    look_up.leaf = leaf
    return _field(look_up, needs, description, name)


def shown_id(encode: Callable[[str, UUID], str], *, description: str) -> Any:
    """A field that shows the row's id as `encode` makes it global, with the name of the class."""
    look_up = Lookup(lambda kind: lambda row: encode(kind.__name__, row.id))
    look_up.leaf, look_up.is_id = "id", True
    return _field(look_up, ("id",), description, None)


def _field(
    look_up: Lookup, needs: tuple[str, ...] | None, description: str, name: str | None
) -> Any:
    look_up.needs = needs
    field: StrawberryField = strawberry.field(default=look_up, name=name, description=description)
    # A field that nobody gives is looked up on the class, where properties belong.
    field.init = False
    return field


def look_up(type_: type, field: str) -> Lookup | None:
    """How a field is found in the row of its object; None if it is found otherwise."""
    found = getattr(type_, field, None)
    return found if isinstance(found, Lookup) else None
