"""What the journal says has changed, as objects that MLflow is to be told about."""

from collections.abc import Sequence
from uuid import UUID

from lifecycle.database import ReadSession, WriteSession
from lifecycle.deployments import repository as deployments
from lifecycle.deployments.service import OUTPUT_LOGGED
from lifecycle.tracking import repository
from lifecycle.tracking.repository import NewEvent
from lifecycle.tracking.rules import TrackedKind
from lifecycle.tracking.sides import Sync

BATCH = 1_000

_KINDS = {
    "experiment": TrackedKind.EXPERIMENT,
    "run": TrackedKind.RUN,
    "model": TrackedKind.MODEL,
    "model_version": TrackedKind.MODEL_VERSION,
}
# What came in from MLflow, it knows already. Not the status and facts of runs, of which tags tell.
_ECHOES = frozenset(
    {
        "experiment.created",
        "experiment.updated",
        "run.created",
        "run.metrics_logged",
        "run.artifacts_logged",
        "model.created",
        "model.updated",
        "model_version.registered",
        "model_version.updated",
    }
)


async def read(session: WriteSession, sync: Sync) -> int:
    """Have a look taken at what the next events are about. Returns how many events those were; 0
    also when another process is reading."""
    server = await repository.lock_server(session, sync.server_id)
    if server is None or server.position is None:
        return 0
    events = await repository.events_after(session, server.position, BATCH)
    if not events:
        return 0
    objects = await _changed(session, sync, events)
    await repository.want_ours(session, sync.server_id, objects)
    server.position = events[-1].position
    return len(events)


async def _changed(
    session: ReadSession, sync: Sync, events: Sequence[NewEvent]
) -> set[tuple[TrackedKind, UUID]]:
    objects: set[tuple[TrackedKind, UUID]] = set()
    moved: set[UUID] = set()
    deployed: set[UUID] = set()
    for event in events:
        if event.type in _ECHOES and event.request_id == sync.origin.request_id:
            continue
        if event.type == OUTPUT_LOGGED:
            # MLflow is not told of deployments' logs.
            continue
        if event.subject_kind == "deployment":
            deployed.add(event.subject_id)
        elif event.subject_kind in _KINDS:
            objects.add((_KINDS[event.subject_kind], event.subject_id))
        if event.type == "model_version.stage_changed":
            moved.add(event.subject_id)
    # A deployment is told of as a tag of its version.
    of_versions = await deployments.by_ids(session, sorted(deployed))
    found = {row.model_version_id for row in of_versions.values()}
    # Whoever leaves a stage may leave its alias to another version.
    found |= await repository.rivals(session, sorted(moved))
    return objects | {(TrackedKind.MODEL_VERSION, id) for id in found}
