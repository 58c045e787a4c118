"""MLflow as clients see it: how each object stands there, and what people can do about it."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Self
from uuid import UUID

import strawberry
from strawberry import Private

import schema.experiments
import schema.registry
import schema.runs
from lifecycle.errors import InvalidInput as InvalidArgument
from lifecycle.experiments import repository as experiments
from lifecycle.pages import PageRequest
from lifecycle.registry import repository as registry
from lifecycle.runs import repository as runs
from lifecycle.tracking import repository, rules, service
from lifecycle.tracking.repository import ItemFilter
from lifecycle.tracking.rules import Resolution, SyncState, TrackedKind
from lifecycle.tracking.sides import ACTOR
from lifecycle.tracking.tables import MlflowItemRow, MlflowServerRow
from schema import ids
from schema.context import Info
from schema.errors import Conflict, IdempotencyConflict, InvalidInput, NotFound, Unavailable
from schema.inputs import Given, WriteInput, choices, parse
from schema.nodes import Node
from schema.pagination import After, Before, Connection, First, Last, listed
from schema.rows import OfRow, shown
from schema.scalars import BigInt


@strawberry.enum(
    description="How an object stands with MLflow. PENDING: there is something to bring over, or "
    "to look at. IN_SYNC: both sides were the same when they were last compared. CONFLICT: both "
    "were changed, and somebody has to say what holds. FAILED: it was tried in vain, and is not "
    "any more. NOT_CONFIGURED: there is no MLflow server."
)
class MlflowState(StrEnum):
    IN_SYNC = "IN_SYNC"
    PENDING = "PENDING"
    FAILED = "FAILED"
    CONFLICT = "CONFLICT"
    NOT_CONFIGURED = "NOT_CONFIGURED"


@strawberry.type(description="Something that is not the same here and in MLflow.")
class MlflowConflict:
    field: str | None = strawberry.field(
        description="Which field, as MLflow calls it: description, status, tag:team, param:lr, …; "
        "null where the object itself is not there any more."
    )
    here: str | None = strawberry.field(description="What it is here; null if it is not set.")
    there: str | None = strawberry.field(description="The same in MLflow.")
    reason: str | None = strawberry.field(
        description="Why it is a conflict, where that is not because both sides were changed."
    )
    resolutions: list[Resolution] = strawberry.field(
        description="What resolveMlflowConflict can do about it."
    )

    @classmethod
    def from_conflict(cls, conflict: rules.Conflict) -> Self:
        return cls(
            field=conflict.field or None,
            here=conflict.ours,
            there=conflict.theirs,
            reason=conflict.reason,
            resolutions=list(rules.resolutions(conflict)),
        )


@strawberry.type(description="How an object stands with MLflow.")
class MlflowLink:
    id: str | None = strawberry.field(
        description="MLflow's id of it: of a model its name, of a version the model's name, a "
        "slash and the version there. Null until it is there."
    )
    url: str | None = strawberry.field(description="Its page in MLflow.")
    state: MlflowState = strawberry.field(description="Whether both sides are the same.")
    last_synced_at: datetime | None = strawberry.field(
        description="When both sides were last compared, and what could be brought over was."
    )
    error: str | None = strawberry.field(description="Why it is not there yet, or not all of it.")
    conflicts: list[MlflowConflict] = strawberry.field(
        description="What somebody has to decide about: resolveMlflowConflict."
    )
    item_id: strawberry.ID | None = strawberry.field(
        description="The id of its MlflowItem, for retryMlflowSync and resolveMlflowConflict."
    )

    @classmethod
    def from_row(cls, row: MlflowItemRow) -> Self:
        return cls(
            id=row.mlflow_id,
            url=row.url,
            state=MlflowState(row.state),
            last_synced_at=row.synced_at,
            error=row.error,
            conflicts=[MlflowConflict.from_conflict(each) for each in service.conflicts_of(row)],
            item_id=ids.encode("MlflowItem", row.id),
        )


async def link_of(info: Info, kind: TrackedKind, id: UUID) -> MlflowLink:
    """How an object stands with the configured server."""
    uri = info.context.mlflow_uri
    row = (
        await info.context.loaders.load(repository.items_of_objects, (kind, id), uri)
        if uri
        else None
    )
    if row is not None:
        return MlflowLink.from_row(row)
    return MlflowLink(
        id=None,
        url=None,
        state=MlflowState.PENDING if uri else MlflowState.NOT_CONFIGURED,
        last_synced_at=None,
        error=None,
        conflicts=[],
        item_id=None,
    )


async def file_of(info: Info, run_id: UUID, path: str) -> str | None:
    """Where MLflow serves a file of a run; None unless the run has come from there."""
    server = info.context.mlflow_uri
    if server is None:
        return None
    run = await info.context.loaders.load(runs.by_ids, run_id)
    if run is None or run.created_by != ACTOR:
        return None
    there = (await link_of(info, TrackedKind.RUN, run_id)).id
    return rules.file_url(server, there, path) if there else None


async def page_of(info: Info, artifact: str, version_id: UUID, run_id: UUID | None) -> str | None:
    """MLflow's page that shows the file of a version, if MLflow has it: where the URI does not say
    enough, the page of the version."""
    server = info.context.mlflow_uri
    if server is None or not rules.is_of_mlflow(artifact):
        return None
    pages = {}
    if run_id is not None:
        run = await link_of(info, TrackedKind.RUN, run_id)
        if run.id and run.url:
            pages[run.id] = run.url
    found = rules.page_of(server, artifact, pages)
    return found or (await link_of(info, TrackedKind.MODEL_VERSION, version_id)).url


def _look_up(kind: TrackedKind) -> tuple[Any, Callable[[Any], Node]]:
    """The batch function that finds objects of a kind, and how they are shown."""
    match kind:
        case TrackedKind.EXPERIMENT:
            return experiments.by_ids, schema.experiments.Experiment.from_row
        case TrackedKind.RUN:
            return runs.by_ids, schema.runs.Run.from_row
        case TrackedKind.MODEL:
            return registry.models_by_ids, schema.registry.Model.from_row
        case TrackedKind.MODEL_VERSION:
            return registry.versions_by_ids, schema.registry.ModelVersion.from_row


@strawberry.type(description="An object that is, or is to be, both here and in MLflow.")
class MlflowItem(Node, OfRow[MlflowItemRow]):
    row: Private[MlflowItemRow]
    kind: TrackedKind = shown(description="What it is.")
    mlflow: MlflowLink = shown(MlflowLink.from_row, description="How it stands.")
    attempts: int = shown(description="How often in a row it has been tried in vain.")
    next_attempt_at: datetime | None = shown(
        lambda row: row.due_at,
        description="From when on it is looked at again; null when nothing calls for that.",
    )

    @strawberry.field(description="The object; null while it is only there.")
    async def object(self, info: Info) -> Node | None:
        if self.row.object_id is None:
            return None
        batch, from_row = _look_up(self.kind)
        row = await info.context.loaders.load(batch, self.row.object_id)
        return from_row(row) if row else None


@strawberry.type(description="The MLflow server that everything is mirrored to.")
class MlflowServer:
    uri: str = strawberry.field(description="Its address, without user and password.")
    version: str | None = strawberry.field(description="Its version, as it last said.")
    answering: bool = strawberry.field(
        description="Whether it answered when it was last asked. While it does not, everything "
        "here goes on, and is brought over later."
    )
    answered_at: datetime | None = strawberry.field(description="When it last answered.")
    error: str | None = strawberry.field(description="Why it does not answer.")
    key: Private[UUID | None]

    @classmethod
    def from_row(cls, row: MlflowServerRow) -> Self:
        return cls(
            uri=row.uri,
            version=row.version,
            answering=service.answers(row),
            answered_at=row.answered_at,
            error=row.error,
            key=row.id,
        )

    @strawberry.field(description="How many objects are to be brought over, or to be looked at.")
    async def pending(self, info: Info) -> int:
        return await self._count(info, SyncState.PENDING)

    @strawberry.field(description="How many objects failed: mlflowItems lists them.")
    async def failed(self, info: Info) -> int:
        return await self._count(info, SyncState.FAILED)

    @strawberry.field(description="How many objects are in conflict: mlflowItems lists them.")
    async def conflicts(self, info: Info) -> int:
        return await self._count(info, SyncState.CONFLICT)

    @strawberry.field(
        description="How many entries of the audit log have not been read for it yet; null as long "
        "as it is not mirrored to."
    )
    async def behind(self, info: Info) -> BigInt | None:
        if self.key is None:
            return None
        number = await info.context.loaders.load(repository.behind, self.key)
        return None if number is None else BigInt(number)

    async def _count(self, info: Info, state: SyncState) -> int:
        if self.key is None:
            return 0
        found = await info.context.loaders.load(repository.counts_by_state, self.key)
        return (found or {}).get(state, 0)


async def configured_server(info: Info) -> MlflowServer | None:
    """The server that everything is mirrored to, if there is one."""
    uri = info.context.mlflow_uri
    if uri is None:
        return None
    row = await info.context.loaders.load(repository.servers_by_uris, uri)
    if row is not None:
        return MlflowServer.from_row(row)
    return MlflowServer(
        uri=uri, version=None, answering=False, answered_at=None, error=None, key=None
    )


@strawberry.input(name="MlflowItemFilter", description="What is left out does not restrict.")
class MlflowItemFilterInput:
    states: list[MlflowState] | None = strawberry.field(
        default=None, description="In any of these."
    )
    kinds: list[TrackedKind] | None = strawberry.field(
        default=None, description="Of any of these kinds."
    )


@strawberry.input(description="What is to be brought over after all.")
class RetryMlflowSyncInput(WriteInput):
    ids: list[strawberry.ID] | None = strawberry.field(
        default=None, description="Ids of at most 100 MlflowItems; by default all that FAILED."
    )


@strawberry.input(description="What holds, of what is in conflict.")
class ResolveMlflowConflictInput(WriteInput):
    id: strawberry.ID = strawberry.field(description="Which MlflowItem: the `itemId` of `mlflow`.")
    resolution: Resolution = strawberry.field(description="What holds.")
    fields: list[str] | None = strawberry.field(
        default=None, description="For which fields; by default for all that are in conflict."
    )


@strawberry.type(description="It will be tried again as soon as MLflow answers.")
class RetryMlflowSyncSuccess:
    mlflow_server: MlflowServer = strawberry.field(description="The server as it stands now.")
    items: list[MlflowItem] = strawberry.field(
        description="The items whose ids were given, in their order."
    )


@strawberry.type(description="What was decided will be done as soon as MLflow answers.")
class ResolveMlflowConflictSuccess:
    mlflow_item: MlflowItem = strawberry.field(description="The item as it stands now.")


RetryMlflowSyncResult = Annotated[
    RetryMlflowSyncSuccess | NotFound | Conflict | InvalidInput | IdempotencyConflict | Unavailable,
    strawberry.union("RetryMlflowSyncResult", description="What came of retryMlflowSync."),
]
ResolveMlflowConflictResult = Annotated[
    ResolveMlflowConflictSuccess
    | NotFound
    | Conflict
    | InvalidInput
    | IdempotencyConflict
    | Unavailable,
    strawberry.union(
        "ResolveMlflowConflictResult", description="What came of resolveMlflowConflict."
    ),
]


@strawberry.type
class TrackingQueries:
    @strawberry.field(
        description="What is, or is to be, both here and in MLflow, with how it stands; nothing "
        "when no MLflow server is configured. What needs somebody is in the states FAILED and "
        "CONFLICT."
    )
    async def mlflow_items(
        self,
        info: Info,
        filter: Annotated[
            MlflowItemFilterInput | None, strawberry.argument(description="Which of it.")
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[MlflowItem]:
        request = PageRequest.parse(first, after, last, before)
        given = filter or MlflowItemFilterInput()
        states = choices(given.states)
        if MlflowState.NOT_CONFIGURED in states:
            raise InvalidArgument("An item is never NOT_CONFIGURED.", ("filter", "states"))
        wanted = ItemFilter(
            info.context.mlflow_uri, tuple(map(SyncState, states)), choices(given.kinds)
        )
        return await listed(
            info,
            MlflowItem.from_row,
            lambda session: repository.page(session, wanted, request),
            lambda session: repository.count(session, wanted),
        )


@strawberry.type
class TrackingMutations:
    @strawberry.mutation(
        description="Look again, now, at objects that could not be brought over to or from MLflow."
    )
    async def retry_mlflow_sync(
        self, info: Info, input: Given[RetryMlflowSyncInput]
    ) -> RetryMlflowSyncResult:
        command = parse(service.RetrySync, input, ids="MlflowItem")
        retry = partial(service.retry, uri=info.context.mlflow_uri)
        row = await info.context.write(retry, command)
        loaders = info.context.loaders
        found = await asyncio.gather(
            *(loaders.load(repository.items_by_ids, id) for id in command.ids or ())
        )
        return RetryMlflowSyncSuccess(
            mlflow_server=MlflowServer.from_row(row),
            items=[MlflowItem.from_row(item) for item in found if item],
        )

    @strawberry.mutation(
        description="Say what holds where an object was changed both here and in MLflow. It is "
        "brought over soon after; should either side have changed again by then, it is in conflict "
        "once more."
    )
    async def resolve_mlflow_conflict(
        self, info: Info, input: Given[ResolveMlflowConflictInput]
    ) -> ResolveMlflowConflictResult:
        command = parse(service.ResolveConflict, input, id="MlflowItem")
        row = await info.context.write(service.resolve, command)
        return ResolveMlflowConflictSuccess(mlflow_item=MlflowItem.from_row(row))
