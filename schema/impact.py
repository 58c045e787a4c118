"""Which deployments something affects: the same argument and default wherever it is asked."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias, TypeVar
from uuid import UUID

import strawberry

from lifecycle.deployments.rules import LIVE, DeploymentStatus
from lifecycle.pages import Page, PageRequest
from schema.context import Info
from schema.inputs import choices
from schema.loaders import Batch
from schema.pagination import Connection, connection

T = TypeVar("T")

_Statuses = tuple[DeploymentStatus, ...]

Statuses: TypeAlias = Annotated[
    list[DeploymentStatus] | None,
    strawberry.argument(
        description="In any of these; by default those in which it serves its version or is about "
        "to: PENDING, VALIDATING, DEPLOYING, ACTIVE. An empty list does not restrict."
    ),
]


async def affected(
    info: Info,
    convert: Callable[[Any], T],
    pages: Batch[UUID, [_Statuses, PageRequest], Page[Any]],
    counts: Batch[UUID, [_Statuses], int],
    key: UUID,
    statuses: Sequence[DeploymentStatus] | None,
    request: PageRequest,
) -> Connection[T]:
    """The deployments that the object with this key affects."""
    wanted = tuple(sorted(LIVE)) if statuses is None else choices(statuses)
    loaders = info.context.loaders
    page = await loaders.load(pages, key, wanted, request)
    return connection(page, convert, lambda: loaders.load(counts, key, wanted))
