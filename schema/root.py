"""The schema: every noun's queries, mutations and subscriptions in one place."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from functools import cache
from importlib.metadata import version
from typing import Annotated, Any, cast

import strawberry
from graphql import GraphQLError, GraphQLInputObjectType
from strawberry.schema.config import StrawberryConfig
from strawberry.schema.schema import StreamResult
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType

from lifecycle.errors import InvalidInput as InvalidArgument
from lifecycle.errors import LifecycleError
from schema.access import AccessMutations, AccessQueries
from schema.admission import Admitted
from schema.artifacts import ArtifactMutations
from schema.audit import AuditQueries
from schema.context import FreshContext, Info
from schema.datasets import DataSetQueries
from schema.deployments import DeploymentMutations, DeploymentQueries, DeploymentSubscriptions
from schema.documents import Prepared
from schema.drift import DriftMutations, DriftQueries
from schema.errors import HANDLERS, TopLevelErrors, told
from schema.executor import Executor
from schema.experiments import ExperimentMutations, ExperimentQueries
from schema.lineage import LineageQueries
from schema.lookup import by_global_id
from schema.nodes import Node
from schema.policies import PolicyMutations, PolicyQueries
from schema.promotion import HANDLERS as GATE_HANDLERS
from schema.promotion import PromotionMutations, PromotionQueries
from schema.registry import RegistryMutations, RegistryQueries
from schema.runs import RunMutations, RunQueries, RunSubscriptions
from schema.scalars import BIG_INT, BigInt
from schema.subscriptions import Answer, answers
from schema.tracking import (
    MlflowServer,
    TrackingMutations,
    TrackingQueries,
    configured_server,
)

FEATURES = (
    "artifact-uploads",
    "audit-chain",
    "idempotency",
    "lineage",
    "mlflow",
    "promotion-gates",
    "resumable-subscriptions",
    "sign-in",
    "stage-history",
)
MAX_NODES = 100
# Not looked for again, which reads files.
_VERSION = version("ml-lifecycle")


@strawberry.type(description="What serves these answers.")
class ServerInfo:
    version: str = strawberry.field(description="The service's version.")
    schema_hash: str = strawberry.field(description="Changes whenever this schema changes.")
    features: list[str] = strawberry.field(description="What it can do, for clients that ask.")

    @strawberry.field(
        description="The MLflow server that everything is mirrored to; null when none is "
        "configured. What is said of it was found out lately, and not for this answer."
    )
    async def mlflow(self, info: Info) -> MlflowServer | None:
        return await configured_server(info)


@strawberry.type
class RootQueries:
    @strawberry.field(description="The object with this global id, or null.")
    async def node(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="A global id.")],
    ) -> Node | None:
        return await by_global_id(info, id)

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
        return list(await asyncio.gather(*(by_global_id(info, id) for id in ids)))

    @strawberry.field(description="What serves these answers.")
    def server_info(self) -> ServerInfo:
        return ServerInfo(version=_VERSION, schema_hash=schema_hash(), features=list(FEATURES))


@strawberry.type(
    description="What there is to know. Lists are connections: 25 items unless `first` or `last` "
    "says otherwise, 100 at most, continued by cursor. A look-up that finds nothing is null. "
    "Times are RFC 3339 with their zone."
)
class Query(
    RootQueries,
    ExperimentQueries,
    RunQueries,
    DataSetQueries,
    RegistryQueries,
    PromotionQueries,
    PolicyQueries,
    DeploymentQueries,
    DriftQueries,
    AuditQueries,
    LineageQueries,
    TrackingQueries,
    AccessQueries,
): ...


@strawberry.type(
    description="What can be done. Each answers with its success or with a failure that implements "
    "Error and has changed nothing: spread `... on Error { code message path }`. With an "
    "`idempotencyKey` a call can be repeated safely."
)
class Mutation(
    ExperimentMutations,
    RunMutations,
    ArtifactMutations,
    RegistryMutations,
    PromotionMutations,
    PolicyMutations,
    DeploymentMutations,
    DriftMutations,
    TrackingMutations,
    AccessMutations,
): ...


@strawberry.type(
    description="What happens, as it happens. Each item has a cursor; who comes back with the last "
    "one by `after` gets everything that happened since, once and in order."
)
class Subscription(DeploymentSubscriptions, RunSubscriptions): ...


class Schema(strawberry.Schema):
    """All types in one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Strawberry's own rule for inputs of one choice fails at a fragment that comes before its
        # operation. Told of them, graphql-core checks them wherever a document is validated.
        for type_ in self._schema.type_map.values():
            if isinstance(type_, GraphQLInputObjectType):
                type_.is_one_of = type_.extensions["strawberry-definition"].is_one_of

    async def execute(self, *args: Any, **kwargs: Any) -> ExecutionResult:
        """Run what has one answer; a subscription has many, and is for `stream`."""
        allowed = set(kwargs.get("allowed_operation_types") or OperationType)
        kwargs["allowed_operation_types"] = allowed - {OperationType.SUBSCRIPTION}
        return await super().execute(*args, **kwargs)

    async def stream(
        self,
        query: str | None,
        variable_values: dict[str, Any] | None = None,
        context_value: Any = None,
        root_value: Any = None,
        operation_name: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> StreamResult:
        """The answers to an operation; each of a subscription's for all who are answered the
        same."""
        variables = variable_values or {}
        try:
            shared = await answers(self, query or "", variables, operation_name, context_value)
        except LifecycleError as error:
            return _refused([told(error)])
        if isinstance(shared, Answer):
            return _refused(shared.errors or [])
        if shared is not None:
            return cast(StreamResult, shared)
        given = (query, variable_values, context_value, root_value, operation_name)
        return await super().stream(*given, *args, **kwargs)


async def _refused(errors: list[GraphQLError]) -> AsyncGenerator[PreExecutionError, None]:
    """The answer to an operation that was not begun."""
    yield PreExecutionError(None, errors)


schema = Schema(
    Query,
    Mutation,
    Subscription,
    extensions=[FreshContext, TopLevelErrors, Prepared, Admitted],
    execution_context_class=Executor,
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
