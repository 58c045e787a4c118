"""The schema: every noun's queries, mutations and subscriptions in one place."""

import asyncio
import hashlib
from functools import cache
from importlib.metadata import version
from typing import Annotated, Any

import strawberry
from strawberry.schema.config import StrawberryConfig
from strawberry.types import ExecutionResult
from strawberry.types.graphql import OperationType

from lifecycle.deployments import repository as deployments
from lifecycle.drift import repository as drift
from lifecycle.errors import InvalidInput as InvalidArgument
from lifecycle.experiments import repository as experiments
from lifecycle.promotion import repository as promotion
from lifecycle.registry import repository as registry
from lifecycle.runs import repository as runs
from schema import ids
from schema.context import FreshContext, Info
from schema.deployments import (
    Deployment,
    DeploymentMutations,
    DeploymentQueries,
    DeploymentSubscriptions,
)
from schema.drift import DriftEvent, DriftMutations, DriftPolicy, DriftQueries
from schema.errors import HANDLERS, TopLevelErrors
from schema.experiments import Experiment, ExperimentMutations, ExperimentQueries
from schema.limits import Limits
from schema.nodes import Node
from schema.policies import PolicyMutations, PolicyQueries, StagePolicy
from schema.promotion import HANDLERS as GATE_HANDLERS
from schema.promotion import PromotionMutations, PromotionQueries
from schema.registry import Model, ModelVersion, RegistryMutations, RegistryQueries
from schema.runs import Run, RunMutations, RunQueries, RunSubscriptions
from schema.scalars import BIG_INT, BigInt

FEATURES = ("idempotency", "promotion-gates", "resumable-subscriptions", "stage-history")
MAX_NODES = 100

_NODES: dict[str, tuple[Any, Any]] = {
    "Deployment": (deployments.by_ids, Deployment.from_row),
    "DriftEvent": (drift.by_ids, DriftEvent.from_row),
    "DriftPolicy": (drift.policies_by_ids, DriftPolicy.from_row),
    "Experiment": (experiments.by_ids, Experiment.from_row),
    "Model": (registry.models_by_ids, Model.from_row),
    "ModelVersion": (registry.versions_by_ids, ModelVersion.from_row),
    "Run": (runs.by_ids, Run.from_row),
    "StagePolicy": (promotion.policies_by_ids, StagePolicy.from_row),
}


@strawberry.type(description="What serves these answers.")
class ServerInfo:
    version: str = strawberry.field(description="The service's version.")
    schema_hash: str = strawberry.field(description="Changes whenever this schema changes.")
    features: list[str] = strawberry.field(description="What it can do, for clients that ask.")


@strawberry.type
class RootQueries:
    @strawberry.field(description="The object with this global id, or null.")
    async def node(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="A global id.")],
    ) -> Node | None:
        return await _node(info, id)

    @strawberry.field(
        description="The objects with these global ids, in their order; null if none."
    )
    async def nodes(
        self,
        info: Info,
        ids: Annotated[
            list[strawberry.ID], strawberry.argument(description="At most 100 global ids.")
        ],
    ) -> list[Node | None]:
        if len(ids) > MAX_NODES:
            raise InvalidArgument(f"Ask for at most {MAX_NODES} objects.", ("ids",))
        return list(await asyncio.gather(*(_node(info, id) for id in ids)))

    @strawberry.field(description="What serves these answers.")
    def server_info(self) -> ServerInfo:
        return ServerInfo(
            version=version("ml-lifecycle"), schema_hash=schema_hash(), features=list(FEATURES)
        )


async def _node(info: Info, global_id: str) -> Node | None:
    kind, key = ids.split(global_id)
    if kind not in _NODES:
        return None
    batch, from_row = _NODES[kind]
    row = await info.context.loaders.load(batch, key)
    return from_row(row) if row else None


@strawberry.type(
    description="What there is to know. Lists are connections: 25 items unless `first` or `last` "
    "says otherwise, 100 at most, continued by cursor. A look-up that finds nothing is null. "
    "Times are RFC 3339 with their zone."
)
class Query(
    RootQueries,
    ExperimentQueries,
    RunQueries,
    RegistryQueries,
    PromotionQueries,
    PolicyQueries,
    DeploymentQueries,
    DriftQueries,
): ...


@strawberry.type(
    description="What can be done. Each answers with its success or with a failure that implements "
    "Error and has changed nothing: spread `... on Error { code message path }`. With an "
    "`idempotencyKey` a call can be repeated safely."
)
class Mutation(
    ExperimentMutations,
    RunMutations,
    RegistryMutations,
    PromotionMutations,
    PolicyMutations,
    DeploymentMutations,
    DriftMutations,
): ...


@strawberry.type(
    description="What happens, as it happens. Each item has a cursor; who comes back with the last "
    "one by `after` gets everything that happened since, once and in order."
)
class Subscription(DeploymentSubscriptions, RunSubscriptions): ...


class _Schema(strawberry.Schema):
    async def execute(self, *args: Any, **kwargs: Any) -> ExecutionResult:
        """Run what has one answer; a subscription has many, and is for `stream`."""
        allowed = set(kwargs.get("allowed_operation_types") or OperationType)
        kwargs["allowed_operation_types"] = allowed - {OperationType.SUBSCRIPTION}
        return await super().execute(*args, **kwargs)


schema = _Schema(
    Query,
    Mutation,
    Subscription,
    extensions=[FreshContext, TopLevelErrors, Limits],
    exception_handlers=[*HANDLERS, *GATE_HANDLERS],
    config=StrawberryConfig(scalar_map={BigInt: BIG_INT}),
)


def sdl() -> str:
    """The schema as schema/schema.graphql has it."""
    return schema.as_str() + "\n"


@cache
def schema_hash() -> str:
    """A short name for exactly this schema."""
    return hashlib.sha256(sdl().encode()).hexdigest()[:12]
