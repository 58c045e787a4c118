"""What has changed in MLflow since somebody last looked: every object that has is to be reconciled.

MLflow tells neither when a run was last written to nor that a tag was set. So a look is at what is
running, what has ended lately, and what counts its changes; and now and then at everything.
"""

import time
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta

from lifecycle.database import WriteSession
from lifecycle.tracking import repository
from lifecycle.tracking.client import DEFAULT_EXPERIMENT, named
from lifecycle.tracking.rules import TrackedKind
from lifecycle.tracking.sides import Sync, digest

# Everything is compared so often.
_COMPARE = timedelta(minutes=15)
# Runs say when they ended by the clocks of the machines that they ran on.
_SKEW = timedelta(minutes=2)
# As many experiments at once as a search may name.
_EXPERIMENTS = 100
# Of more models than these the versions are searched for all at once.
_MODELS = 20
_RUNNING = "attributes.status = 'RUNNING'"
_SCHEDULED = "attributes.status = 'SCHEDULED'"


class Follower:
    """Looks at one server for one worker. With `new`, what is only there comes in, too; `every` is
    how many seconds there are between looks."""

    def __init__(self, sync: Sync, *, new: bool, every: float) -> None:
        self._sync = sync
        self._new = new
        self._every = every
        # Digests of the models whose versions have been searched for since.
        self._searched: dict[str, str] = {}

    async def look(
        self, looked_at: datetime | None, compared_at: datetime | None, now: datetime
    ) -> bool:
        """Have whatever has changed looked at. Says whether that was everything. `looked_at` and
        `compared_at` are the times of the former looks. Raises MlflowError."""
        since = looked_at or now
        if looked_at is not None:
            await self._lately(since)
        if compared_at is not None and now - compared_at < _COMPARE:
            return False
        await self._everything(since)
        return True

    async def _lately(self, since: datetime) -> None:
        ids = await self._experiments()
        ended = int((since - _SKEW).timestamp() * 1000)
        for filter in (_RUNNING, _SCHEDULED, f"attributes.end_time >= {ended}"):
            async for seen in self._runs(ids, filter):
                await self._want(TrackedKind.RUN, seen)
        await self._models()

    async def _everything(self, since: datetime) -> None:
        """This may take minutes, in which what runs is to be followed all the same."""
        looked = time.monotonic()
        for kind, pages in (
            (TrackedKind.RUN, self._runs(await self._experiments(), "")),
            (TrackedKind.MODEL_VERSION, self._versions("")),
        ):
            async for seen in pages:
                await self._want(kind, seen)
                if time.monotonic() - looked > self._every:
                    await self._lately(since)
                    looked = time.monotonic()
        await self._models()

    async def _experiments(self) -> list[str]:
        """Those whose runs are to be looked at."""
        ids: list[str] = []
        async for page in self._sync.client.experiments():
            # What is deleted, or MLflow's own, does not come in by itself.
            seen: dict[bool, dict[str, str]] = {True: {}, False: {}}
            for each in page:
                comes_in = not each.deleted and each.id != DEFAULT_EXPERIMENT
                seen[comes_in][each.id] = digest(each)
            for comes_in, of_page in seen.items():
                await self._want(TrackedKind.EXPERIMENT, of_page, new=comes_in)
            ids += [experiment.id for experiment in page if not experiment.deleted]
        if self._new:
            return ids
        async with self._sync.database.read() as session:
            return sorted(
                await repository.linked(session, self._sync.server_id, TrackedKind.EXPERIMENT, ids)
            )

    async def _runs(
        self, experiment_ids: Sequence[str], filter: str
    ) -> AsyncIterator[dict[str, str]]:
        for n in range(0, len(experiment_ids), _EXPERIMENTS):
            async for page in self._sync.client.runs(experiment_ids[n : n + _EXPERIMENTS], filter):
                yield {run.id: digest(run) for run in page}

    async def _models(self) -> None:
        """A model changes when it gets a version. That it has been compared since then does not say
        that its versions have been: one may have come just before."""
        seen: dict[str, str] = {}
        async for page in self._sync.client.models():
            of_page = {model.name: digest(model) for model in page}
            await self._want(TrackedKind.MODEL, of_page)
            seen |= of_page
        changed = sorted(name for name in seen if self._searched.get(name) != seen[name])
        for filter in _of_models(changed):
            async for found in self._versions(filter):
                await self._want(TrackedKind.MODEL_VERSION, found)
        self._searched = seen

    async def _versions(self, filter: str) -> AsyncIterator[dict[str, str]]:
        async for page in self._sync.client.versions(filter):
            yield {f"{version.model_name}/{version.number}": digest(version) for version in page}

    async def _want(self, kind: TrackedKind, seen: dict[str, str], *, new: bool = True) -> None:
        wanted = new and self._new

        async def want(session: WriteSession) -> None:
            await repository.want_theirs(session, self._sync.server_id, kind, seen, new=wanted)

        await self._sync.database.write(want)


def _of_models(names: Sequence[str]) -> list[str]:
    """Filters by which the versions of these models are found; perhaps others, too."""
    filters = [named(name) for name in names]
    return [""] if len(names) > _MODELS or "" in filters else filters
