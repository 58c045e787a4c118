"""What people can do about what is here and in MLflow. Each function is one use case in its
caller's transaction."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from lifecycle.access.origin import Origin, check
from lifecycle.access.rules import Action
from lifecycle.commands import Command, Line
from lifecycle.database import WriteSession, clock
from lifecycle.errors import Conflict, NotFound
from lifecycle.journal import service as journal
from lifecycle.tracking import repository, rules
from lifecycle.tracking.rules import FieldRule, Resolution, SyncState
from lifecycle.tracking.tables import MlflowItemRow, MlflowServerRow

MAX_ITEMS = 100
# Workers ask several times a minute.
_LATELY = timedelta(minutes=1)


class RetrySync(Command):
    """What is to be looked at again, now; without ids all that failed."""

    ids: Annotated[list[UUID], Field(min_length=1, max_length=MAX_ITEMS)] | None = None


class ResolveConflict(Command):
    """What is to become of conflicts of an item; without fields of all of them."""

    id: UUID
    resolution: Resolution
    fields: Annotated[list[Line], Field(min_length=1, max_length=1_000)] | None = None


def answers(server: MlflowServerRow) -> bool:
    """Whether the server answered when it was last asked, lately."""
    lately = server.asked_at is not None and datetime.now(UTC) - server.asked_at < _LATELY
    return lately and server.error is None


def conflicts_of(row: MlflowItemRow) -> list[rules.Conflict]:
    """The conflicts of an item that are not resolved."""
    return [
        rules.Conflict(**{**each, "rule": FieldRule(each.get("rule", FieldRule.EITHER))})
        for each in row.conflicts
    ]


async def retry(
    session: WriteSession, origin: Origin, command: RetrySync, uri: str | None
) -> MlflowServerRow:
    """Have items of the server at this address looked at as soon as a worker comes to it. Nothing
    is held against them any more; conflicts stay.

    Raises NotFound, Forbidden, Conflict when there is no such server.
    """
    check(origin, Action.SYNC)
    server = (await repository.servers_by_uris(session, [uri])).get(uri) if uri else None
    if server is None:
        raise Conflict(
            "No MLflow server is configured: set MLFLOW_TRACKING_URI."
            if uri is None
            else f"Nothing has been mirrored to {uri} yet."
        )
    if command.ids is None:
        number = await repository.retry_failed(session, server.id)
        if number:
            after = {"uri": server.uri, "items": number}
            await journal.append(session, origin, "mlflow_server.retried", server.id, after=after)
        return server
    found = await repository.lock_items(session, command.ids)
    if any(id not in found or found[id].server_id != server.id for id in command.ids):
        raise NotFound("item of the MLflow server", "with this id", ("ids",))
    for row in found.values():
        before = {"state": row.state, "attempts": row.attempts, "error": row.error}
        await _call_again(session, row)
        await _record(session, origin, "mlflow_item.retried", row, before)
    return server


async def resolve(session: WriteSession, origin: Origin, command: ResolveConflict) -> MlflowItemRow:
    """Decide conflicts; a worker then does what was decided. Where the object is not in MLflow any
    more, KEEP_OURS means that it is made there anew.

    Raises NotFound, Forbidden, Conflict when there is no such conflict, or when it cannot be
    resolved so.
    """
    row = (await repository.lock_items(session, [command.id])).get(command.id)
    if row is None:
        raise NotFound("MLflow item", "with this id")
    check(origin, Action.SYNC)
    conflicts = {each.field: each for each in conflicts_of(row)}
    if not conflicts:
        raise Conflict("Nothing of it is in conflict.", ("id",))
    for n, name in enumerate(command.fields or ()):
        if name not in conflicts:
            raise Conflict(f"{name} is not in conflict.", ("fields", n))
    chosen = [conflicts[name] for name in command.fields or conflicts]
    for conflict in chosen:
        if command.resolution not in rules.resolutions(conflict):
            raise Conflict(_instead(conflict), ("resolution",))
    before = {"state": row.state, "conflicts": row.conflicts}
    gone = any(not each.field for each in chosen)
    if gone and command.resolution is Resolution.KEEP_OURS:
        row.mlflow_id = row.url = row.seen = None
        # What has come from there is to go there again, too.
        row.base, row.points_seen, row.conflicts, row.position = {}, {}, [], -1
    else:
        settled = {each.field: list(rules.settle({}, each, command.resolution)) for each in chosen}
        row.base = {**row.base, **settled}
        row.conflicts = [each for each in row.conflicts if each["field"] not in settled]
    # Whoever is at it goes by what was there before, and is not to put that back.
    row.lease_id = row.lease_until = None
    await _call_again(session, row)
    await _record(session, origin, "mlflow_item.conflict_resolved", row, before, command.resolution)
    return row


async def _call_again(session: WriteSession, row: MlflowItemRow) -> None:
    row.state = SyncState.CONFLICT if row.conflicts else SyncState.PENDING
    row.error = row.waits_for = None
    row.attempts = 0
    row.wanted += 1
    row.due_at = await clock(session)
    await session.flush()


async def _record(
    session: WriteSession,
    origin: Origin,
    type: str,
    row: MlflowItemRow,
    before: dict[str, Any],
    resolution: Resolution | None = None,
) -> None:
    after = {
        **{name: getattr(row, name) for name in before},
        "kind": row.kind,
        "object_id": row.object_id,
        "mlflow_id": row.mlflow_id,
    }
    if resolution is not None:
        after["resolution"] = resolution
    await journal.append(session, origin, type, row.id, before=before, after=after)


def _instead(conflict: rules.Conflict) -> str:
    """What else can be done about a conflict that cannot be resolved as somebody wants."""
    if not conflict.field:
        return "What is here stays: KEEP_OURS makes it there anew, LEAVE lets it be."
    instead = " or ".join(rules.resolutions(conflict))
    if conflict.rule is FieldRule.ONCE:
        return f"{conflict.field} is set once and never changed: {instead} it."
    moved = conflict.field == "stage" or conflict.field.startswith("alias:")
    how = " Stages change by setStage alone." if moved else ""
    return f"{conflict.field} is decided here only: {instead}.{how}"
