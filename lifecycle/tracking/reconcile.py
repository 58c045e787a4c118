"""One object on both sides: look at each as it is now, bring over what changed, show conflicts.

It does not matter which side has called for it. Whatever is interrupted is begun anew, and ends
in the same way.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from lifecycle.database import Database, WriteSession
from lifecycle.errors import LifecycleError, Unavailable
from lifecycle.journal import repository as journal
from lifecycle.tracking import client, experiments, models, repository, rules, runs, versions
from lifecycle.tracking.client import Denied, Missing, MlflowError, Unanswered, Unreachable
from lifecycle.tracking.rules import (
    Agreed,
    Base,
    Changes,
    Conflict,
    FieldRule,
    Settled,
    SyncState,
    TrackedKind,
)
from lifecycle.tracking.sides import (
    ID_TAG,
    Incomplete,
    Kind,
    NoRoom,
    NotYet,
    Ours,
    Sync,
    Task,
    Theirs,
)

KINDS: Mapping[TrackedKind, Kind] = {
    TrackedKind.EXPERIMENT: experiments,
    TrackedKind.RUN: runs,
    TrackedKind.MODEL: models,
    TrackedKind.MODEL_VERSION: versions,
}


_log = structlog.get_logger(__name__)

LEASE_SECONDS = 15.0
# Who waits for another object is called when that is there; this is for what is never called.
_WAIT_SECONDS = 300.0
# What there is on either side of an object that has been deleted there.
_GONE = Agreed("here", None)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an item stands after it was reconciled. `again` says that MLflow is still to be told,
    `gone` that the object is not there any more, and `error` what could not be brought over."""

    base: Base
    conflicts: list[Conflict]
    points_seen: Mapping[str, Any]
    seen: str | None
    url: str | None
    position: int
    again: bool = False
    gone: str | None = None
    error: MlflowError | None = None


async def reconcile(sync: Sync, task: Task) -> Outcome:
    """Make both sides agree as far as they can.

    Raises NotYet when another object has to come first, MlflowError when MLflow does not do what
    is needed, LifecycleError when the object cannot be had here.
    """
    kind = KINDS[task.kind]
    sync = replace(sync, importing_for=task.importing_for)
    async with sync.database.read() as session:
        # Before anything is looked at: what comes later is told next time.
        through = (await journal.head(session)).position
    if task.mlflow_id is None:
        task = await _create_there(sync, kind, task)
    mlflow_id = task.mlflow_id
    assert mlflow_id is not None
    try:
        theirs = await kind.fetch(sync, mlflow_id)
    except Missing as error:
        return _gone(task, str(error))
    if task.object_id is None:
        task = await _create_here(sync, kind, task, theirs)
    ours = await _load(sync, kind, task)
    merged = rules.merge(task.base, ours.fields, theirs.fields, lambda f: kind.rule_of(sync, f))
    withheld = runs.withheld(ours, merged) if task.kind is TrackedKind.RUN else []
    kept_out = {conflict.field for conflict in withheld}
    base = dict(merged.base)
    conflicts = [each for each in merged.conflicts if each.field not in kept_out]
    push = dict(merged.push)
    wanted = {f: v for f, v in merged.pull.items() if f not in kept_out}
    if task.kind is TrackedKind.MODEL_VERSION:
        conflicts = [versions.explained(conflict, ours, theirs) for conflict in conflicts]
    announced = _differences(ours, theirs)
    missing = None
    try:
        # First: who follows a run is to have its last points before its end.
        points_seen = await kind.exchange(sync, task, ours, theirs, through)
    except Incomplete as incomplete:
        points_seen, missing = incomplete.points_seen, incomplete.error
    if push and points_seen != task.points_seen:
        # That may have taken long: what was changed there meanwhile must not be overwritten.
        latest = (await kind.fetch(sync, mlflow_id)).fields
        push = {f: v for f, v in push.items() if latest.get(f) == theirs.fields.get(f)}
    if sync.writes and (push or announced):
        await kind.push(sync, ours, theirs, push, announced)
        base |= {name: Agreed(value, value) for name, value in push.items()}
    if wanted:
        agreed, refused = await _pull(sync, kind, ours, theirs, wanted)
        base |= agreed
        conflicts += refused
    seen = theirs.seen
    if sync.writes and (push or announced):
        # What somebody else has changed there in the meantime must not pass for seen.
        after = await kind.fetch(sync, mlflow_id)
        expected = {**theirs.fields, **push}
        points = points_seen.get("points", {})
        if {**after.fields} == {k: v for k, v in expected.items() if v is not None} and all(
            points.get(key, [])[:3] == latest for key, latest in after.latest.items()
        ):
            seen = after.seen
    return Outcome(
        base=base,
        # Who imports may do more than who resolves conflicts.
        conflicts=[each._replace(rule=_resolved_by(sync, kind, each)) for each in conflicts]
        + withheld,
        points_seen=points_seen,
        seen=seen,
        url=theirs.url,
        position=through if sync.writes else task.position,
        again=sync.mirrored
        and not sync.writes
        and (bool(push or announced) or await _has_news(sync, task, through)),
        error=missing,
    )


async def settle(sync: Sync, task: Task) -> Settled:
    """Reconcile an object that the caller has taken, and put it back as it stands then.

    Raises Unreachable and Denied, which need not be the object's fault, and Unavailable when the
    database is gone; the task is still the caller's then.
    """
    try:
        async with kept(
            sync.database, lambda session: repository.extend(session, task, LEASE_SECONDS)
        ):
            outcome = await reconcile(sync, task)
    except NotYet as error:
        first = error
        await sync.database.write(
            lambda session: repository.wait(session, sync.server_id, task, first, _WAIT_SECONDS)
        )
        return Settled.LATER
    except (Unreachable, Denied):
        raise
    except Unavailable as error:
        # Of the database, or of its patience with this one: whoever cannot keep that may try again.
        await fail(sync, task, error)
    except (MlflowError, LifecycleError) as error:
        await _put_back(sync, task, None, state=SyncState.FAILED, error=str(error), attempts=0)
    except Exception as error:  # whatever it is, the others go on
        _log.exception("mlflow.item_failed", kind=task.kind, object_id=task.object_id)
        await fail(sync, task, error)
    else:
        await _record(sync, task, outcome)
        return Settled.DONE if outcome.error is None else Settled.FAILED
    return Settled.FAILED


async def fail(sync: Sync, task: Task, error: Exception, **kept: Any) -> None:
    """Put a task back whose object makes trouble, with what is to be kept of it: to be tried again
    after a pause, or, after too many attempts, parked."""
    expected = isinstance(error, MlflowError | LifecycleError)
    message = str(error) if expected else "Unexpected error; the server's log has its trace."
    attempts = task.attempts + 1
    due_in = max(rules.pause(attempts), _under_way(task, error))
    parked = attempts >= rules.MAX_ATTEMPTS
    _log.warning(
        "mlflow.parked" if parked else "mlflow.to_be_retried",
        kind=task.kind,
        object_id=task.object_id,
        mlflow_id=task.mlflow_id,
        error=message,
    )
    await _put_back(
        sync,
        task,
        None if parked else due_in,
        state=SyncState.FAILED if parked else SyncState.PENDING,
        error=message,
        attempts=attempts,
        **kept,
    )


async def hand_back(sync: Sync, task: Task, error: Exception) -> None:
    """Put a task back whose object is not to blame; it is due at once, if nothing is under way."""
    await _put_back(sync, task, _under_way(task, error), error=str(error))


def _under_way(task: Task, error: Exception) -> float:
    """For how many seconds an object that was not there may still be being made there: so long
    nobody is to look for it in vain and make it once more."""
    return 3.0 * client.TIMEOUT if task.mlflow_id is None and isinstance(error, Unanswered) else 0.0


async def _record(sync: Sync, task: Task, outcome: Outcome) -> None:
    if outcome.gone is not None and task.object_id is None:
        await sync.database.write(lambda session: repository.remove(session, task))
        return
    base = {name: list(agreed) for name, agreed in outcome.base.items()}
    conflicts = list(outcome.conflicts)
    if outcome.gone is not None and task.base.get("") != _GONE:
        conflicts.append(Conflict("", *_GONE, reason=outcome.gone))
    state = SyncState.CONFLICT if conflicts else SyncState.IN_SYNC
    due_in = None
    if outcome.again:
        due_in = 0.0
        state = state if conflicts else SyncState.PENDING
    kept: dict[str, Any] = {
        "conflicts": [conflict._asdict() for conflict in conflicts],
        "base": base,
        "points_seen": dict(outcome.points_seen),
        "position": outcome.position,
    }
    if outcome.gone is None or task.kind is not TrackedKind.EXPERIMENT:
        # Experiments alone are listed when they are deleted, and are not to look changed for ever.
        kept["seen"] = outcome.seen
    if outcome.url:
        kept["url"] = outcome.url
    if outcome.error is not None:
        await fail(sync, task, outcome.error, **kept)
        return
    await _put_back(sync, task, due_in, state=state, error=None, attempts=0, synced=True, **kept)


async def _put_back(sync: Sync, task: Task, due_in: float | None, **values: Any) -> None:
    await sync.database.write(lambda session: repository.put_back(session, task, due_in, **values))


@asynccontextmanager
async def kept(
    database: Database, extend: Callable[[WriteSession], Awaitable[bool]]
) -> AsyncIterator[None]:
    """Extend a lease while the block lasts. Should somebody else have got it all the same, after a
    long standstill of this process, the block is cancelled and Unavailable raised."""
    holder = asyncio.current_task()
    assert holder is not None
    lost = False

    async def keep() -> None:
        nonlocal lost
        while not lost:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                lost = not await database.write(extend)
            except Unavailable:
                pass
            except Exception:  # whatever it is, the lease is to be extended next time
                _log.exception("mlflow.lease_failed")
        holder.cancel()

    keeper = asyncio.create_task(keep(), name="mlflow-lease")
    try:
        yield
    except asyncio.CancelledError:
        if lost and holder.uncancel() == 0:
            raise Unavailable("Another worker has taken it over.") from None
        raise
    finally:
        keeper.cancel()
        # Not awaited itself: its end by cancellation would pass for, and swallow, that of ours.
        await asyncio.wait([keeper])


async def _load(sync: Sync, kind: Kind, task: Task) -> Ours:
    assert task.object_id is not None
    async with sync.database.read() as session:
        ours = await kind.load(session, sync, task.object_id)
        if task.kind is not TrackedKind.RUN:
            return ours
        there = await repository.made_there(session, sync.server_id, task.kind, ours.facts)
    return replace(ours, made_there=there)


async def _create_there(sync: Sync, kind: Kind, task: Task) -> Task:
    assert task.object_id is not None
    async with sync.database.read() as session:
        ours = await kind.load(session, sync, task.object_id)
    mlflow_id = await kind.create_there(sync, ours)

    async def link(session: WriteSession) -> None:
        await repository.link(session, task, mlflow_id=mlflow_id)

    await sync.database.write(link)
    return replace(task, mlflow_id=mlflow_id)


async def _create_here(sync: Sync, kind: Kind, task: Task, theirs: Theirs) -> Task:
    async def create(session: WriteSession) -> Task:
        id = await kind.create_here(session, sync, theirs)
        await repository.link(session, task, object_id=id)
        return replace(task, object_id=id)

    return await sync.database.write(create)


async def _pull(
    sync: Sync, kind: Kind, ours: Ours, theirs: Theirs, changes: Changes
) -> tuple[dict[str, Agreed], list[Conflict]]:
    """All changes at once, or, where that is refused, each half by itself, and so on; what is
    refused alone is in conflict."""

    async def pull(session: WriteSession, wanted: Changes) -> dict[str, Agreed]:
        # What was changed here meanwhile must not be overwritten; the journal calls for it again.
        now = (await kind.load(session, sync, ours.id)).fields
        wanted = {f: v for f, v in wanted.items() if now.get(f) == ours.fields.get(f)}
        if not wanted:
            return {}
        await kind.pull(session, sync, ours.id, theirs, wanted)
        now = (await kind.load(session, sync, ours.id)).fields
        return {name: Agreed(now.get(name), value) for name, value in wanted.items()}

    agreed: dict[str, Agreed] = {}
    reasons: dict[str, str] = {}
    waiting = [list(changes)]
    while waiting:
        some = waiting.pop()
        try:
            agreed |= await sync.database.write(
                partial(pull, wanted={name: changes[name] for name in some})
            )
        except Unavailable:
            raise
        except NoRoom as error:
            reasons |= error.reasons
            waiting.append([name for name in some if name not in reasons])
        except LifecycleError as error:
            half = len(some) // 2
            if half:
                waiting += [some[half:], some[:half]]
            else:
                reasons[some[0]] = str(error)
    return agreed, [
        Conflict(name, ours.fields.get(name), value, reasons[name])
        for name, value in changes.items()
        if name in reasons
    ]


def _resolved_by(sync: Sync, kind: Kind, conflict: Conflict) -> FieldRule:
    return kind.rule_of(replace(sync, importing_for=None), conflict.field)


async def _has_news(sync: Sync, task: Task, through: int) -> bool:
    """Whether something was written here that MLflow does not know yet."""
    assert task.object_id is not None
    async with sync.database.read() as session:
        return await repository.has_news(
            session, task.object_id, task.position, through, sync.origin.request_id
        )


def _differences(ours: Ours, theirs: Theirs) -> Changes:
    """The tags of ours that are to be set or removed there; none where another service like this
    one, which shares the server, has made the object."""
    if theirs.announced.get(ID_TAG, str(ours.id)) != str(ours.id):
        return {}
    gone: Changes = dict.fromkeys(theirs.announced.keys() - ours.announced.keys())
    wrong = {k: v for k, v in ours.announced.items() if theirs.announced.get(k) != v}
    return gone | wrong


def _gone(task: Task, message: str) -> Outcome:
    return Outcome(
        base=task.base,
        conflicts=[],
        points_seen=task.points_seen,
        seen=None,
        url=None,
        position=task.position,
        gone=message,
    )
