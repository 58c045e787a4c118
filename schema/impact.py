"""Which deployments something affects: the same argument and default wherever it is asked."""

from typing import Annotated, TypeAlias

import strawberry

from lifecycle.deployments.rules import LIVE, DeploymentStatus
from lifecycle.pages import PageRequest
from schema.inputs import choices
from schema.loaded import Further
from schema.pagination import After, First

Statuses: TypeAlias = Annotated[
    list[DeploymentStatus] | None,
    strawberry.argument(
        description="In any of these; by default those in which it serves its version or is about "
        "to: PENDING, VALIDATING, DEPLOYING, ACTIVE. An empty list does not restrict."
    ),
]


def affected(statuses: Statuses = None, first: First = None, after: After = None) -> Further:
    """Which of the deployments that an object affects."""
    wanted = tuple(sorted(LIVE)) if statuses is None else choices(statuses)
    return Further((wanted,), (PageRequest.parse(first, after),))
