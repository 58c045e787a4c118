"""What has changed in MLflow since somebody last looked: every object that has is to be reconciled.

MLflow tells neither when a run was last written to nor that a tag was set. So a look is at what is
running, what has ended lately, and what counts its changes; and now and then at everything.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from lifecycle.database import WriteSession
from lifecycle.tracking import repository
from lifecycle.tracking.client import named
from lifecycle.tracking.rules import TrackedKind
from lifecycle.tracking.sides import Sync, digest

# Everything is compared so often.
_COMPARE = timedelta(minutes=15)
# Runs say when they ended by the clocks of the machines that they ran on.
_SKEW = timedelta(minutes=2)
# As many experiments at once as a search may name.
_EXPERIMENTS = 100
_RUNNING = "attributes.status = 'RUNNING'"
_SCHEDULED = "attributes.status = 'SCHEDULED'"


class Follower:
    """Looks at one server for one worker. With `new`, what is only there comes in, too."""

    def __init__(self, sync: Sync, *, new: bool) -> None:
        self._sync = sync
        self._new = new
        # A model says that there is a new version, but only once.
        self._models: dict[str, str] = {}

    async def look(
        self, looked_at: datetime | None, compared_at: datetime | None, now: datetime
    ) -> bool:
        """Have whatever has changed looked at. Says whether that was everything. `looked_at` and
        `compared_at` are the times of the former looks. Raises MlflowError."""
        everything = compared_at is None or looked_at is None or now - compared_at > _COMPARE
        await self._experiments_and_runs(None if everything else looked_at)
        await self._models_and_versions(everything)
        return everything

    async def _experiments_and_runs(self, since: datetime | None) -> None:
        ids: list[str] = []
        async for page in self._sync.client.experiments():
            await self._want(
                TrackedKind.EXPERIMENT, {experiment.id: digest(experiment) for experiment in page}
            )
            ids += [experiment.id for experiment in page if not experiment.deleted]
        if not self._new:
            async with self._sync.database.read() as session:
                known = await repository.linked(
                    session, self._sync.server_id, TrackedKind.EXPERIMENT, ids
                )
            ids = sorted(known)
        filters = [""]
        if since is not None:
            ended = int((since - _SKEW).timestamp() * 1000)
            filters = [_RUNNING, _SCHEDULED, f"attributes.end_time >= {ended}"]
        for n in range(0, len(ids), _EXPERIMENTS):
            for filter in filters:
                await self._runs(ids[n : n + _EXPERIMENTS], filter)

    async def _runs(self, experiment_ids: Sequence[str], filter: str) -> None:
        async for page in self._sync.client.runs(experiment_ids, filter):
            await self._want(TrackedKind.RUN, {run.id: digest(run) for run in page})

    async def _models_and_versions(self, everything: bool) -> None:
        changed: dict[str, str] = {}
        async for page in self._sync.client.models():
            seen = {model.name: digest(model) for model in page}
            await self._want(TrackedKind.MODEL, seen)
            changed |= {
                name: value for name, value in seen.items() if self._models.get(name) != value
            }
        if everything:
            await self._versions("")
        else:
            for name in changed:
                await self._versions(named(name))
        # Only now, so that a look which fails is made good by the next.
        self._models |= changed

    async def _versions(self, filter: str) -> None:
        async for page in self._sync.client.versions(filter):
            seen = {f"{version.model_name}/{version.number}": digest(version) for version in page}
            await self._want(TrackedKind.MODEL_VERSION, seen)

    async def _want(self, kind: TrackedKind, seen: dict[str, str]) -> None:
        async def want(session: WriteSession) -> None:
            await repository.want_theirs(session, self._sync.server_id, kind, seen, new=self._new)

        await self._sync.database.write(want)
