"""Fields that show what an access path finds, for their object or for their arguments: they are
declared, not written as resolvers.

Strawberry resolves them object by object, like all others. The compiled execution sees what is
declared, and asks for all objects of a level without a call for each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeVar, cast

import strawberry
from graphql import (
    GraphQLObjectType,
    GraphQLOutputType,
    get_named_type,
    get_nullable_type,
    is_list_type,
)
from strawberry.types.base import StrawberryObjectDefinition
from strawberry.types.field import StrawberryField
from strawberry.types.fields.resolver import StrawberryResolver

from lifecycle.pages import Page, PageRequest
from schema.context import Info
from schema.loaders import Batch, Loaders
from schema.pagination import After, Before, Connection, First, Last, connection
from schema.rows import OfRow

Key = TypeVar("Key")


class Further(NamedTuple):
    """What a batch is asked besides keys: `which` objects are meant, and, where it gives pages,
    which `page` of them in which order."""

    which: tuple[Any, ...] = ()
    page: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Access:
    """How what a field shows is found: `batch` gives a row, or a list of rows, for the attribute
    `by` of the object's row, and nothing where that is null. `given` makes the batch's further
    arguments of the field's, or raises InvalidInput. If there are `counts`, which give the length
    of a whole list, the batch gives pages. With `leaves` what it gives may come written as well."""

    batch: Batch[Any, ..., Any]
    by: str
    given: Callable[..., Further]
    counts: Batch[Any, ..., int] | None = None
    leaves: bool = False

    def kind(self, type_: GraphQLOutputType) -> type[OfRow[Any]]:
        """The class of the objects that a field of this type shows."""
        named = cast(GraphQLObjectType, get_named_type(type_))
        if self.counts is not None:
            named = cast(GraphQLObjectType, get_named_type(named.fields["nodes"].type))
        definition: StrawberryObjectDefinition = named.extensions["strawberry-definition"]
        return definition.origin

    def connection(
        self,
        kind: type[OfRow[Any]],
        page: Page[Any] | None,
        loaders: Loaders,
        key: Any,
        further: Further,
    ) -> Connection[Any]:
        """A page that was found."""
        counts = self.counts
        assert counts is not None
        return connection(page, kind.from_row, lambda: loaders.load(counts, key, *further.which))

    async def resolve(self, row: Any, info: Info, arguments: dict[str, Any]) -> Any:
        """What the field shows for one object's row."""
        key, further = getattr(row, self.by), self.given(**arguments)
        found = None
        if key is not None:
            found = await info.context.loaders.load(self.batch, key, *further.which, *further.page)
        type_ = info._raw_info.return_type
        kind = self.kind(type_)
        if self.counts is not None:
            return self.connection(kind, found, info.context.loaders, key, further)
        if is_list_type(get_nullable_type(type_)):
            return [kind.from_row(each) for each in found or ()]
        return None if found is None else kind.from_row(found)


@dataclass(frozen=True, slots=True)
class Finding:
    """How the one object is found that a field shows whatever its own object is: `batch` gives its
    row for the key that `key` makes of the field's arguments, or raises InvalidInput for. With
    `leaves` what it gives may come written as well."""

    batch: Batch[Any, [], Any]
    key: Callable[..., Any]
    leaves: bool = False

    async def resolve(self, info: Info, arguments: dict[str, Any]) -> Any:
        """What the field shows."""
        row = await info.context.loaders.load(self.batch, self.key(**arguments))
        definition: StrawberryObjectDefinition = get_named_type(
            info._raw_info.return_type
        ).extensions["strawberry-definition"]
        return None if row is None else definition.origin.from_row(row)


_declared: dict[Callable[..., Any], Access | Finding] = {}


def declared(resolver: StrawberryResolver[Any]) -> Access | Finding | None:
    """How a field is declared; None if it is written as a resolver."""
    return _declared.get(cast("Callable[..., Any]", resolver.wrapped_func))


def loaded(
    batch: Batch[Any, ..., Any],
    *,
    by: str,
    given: Callable[..., Further] | None = None,
    counts: Batch[Any, ..., int] | None = None,
    leaves: bool = False,
    description: str,
) -> Any:
    """A field, of the type that the class says, that shows what `Access` finds. Its arguments are
    those of `given`."""
    access = Access(batch, by, given or _nothing, counts, leaves)

    async def resolve(self, info: Info, **arguments: Any):  # type: ignore[no-untyped-def]
        return await access.resolve(self.row, info, arguments)

    return _field(resolve, access, access.given, description)


def found(
    batch: Batch[Key, [], Any], *, key: Callable[..., Key], leaves: bool = False, description: str
) -> Any:
    """A field, of the type that the class says or null, that shows what `Finding` finds. Its
    arguments are those of `key`."""
    finding = Finding(batch, key, leaves)

    async def resolve(self, info: Info, **arguments: Any):  # type: ignore[no-untyped-def]
        return await finding.resolve(info, arguments)

    return _field(resolve, finding, key, description)


def _field(
    resolve: Callable[..., Any],
    how: Access | Finding,
    arguments: Callable[..., Any],
    description: str,
) -> StrawberryField:
    _declared[resolve] = how
    field: StrawberryField = strawberry.field(resolver=resolve, description=description)
    field.arguments = StrawberryResolver(arguments).arguments
    return field


Name = Annotated[str, strawberry.argument(description="Its name.")]


def its_name(name: Name) -> str:
    """The key of what has a name."""
    return name


def _nothing() -> Further:
    return Further()


def forward(first: First = None, after: After = None) -> Further:
    """Which page, of a list that is read from its beginning."""
    return Further(page=(PageRequest.parse(first, after),))


def either_way(
    first: First = None, after: After = None, last: Last = None, before: Before = None
) -> Further:
    """Which page, of a list that is read from either end."""
    return Further(page=(PageRequest.parse(first, after, last, before),))
