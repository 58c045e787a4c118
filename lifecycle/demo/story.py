"""The life of a model: runs, versions, production, drift, rollback."""

import asyncio
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from rich.progress import TaskID

from lifecycle.demo import drift, operations, training
from lifecycle.demo.client import Client, Object
from lifecycle.demo.experiment import MODEL_NAME, Candidate, Experiment
from lifecycle.demo.production import Production
from lifecycle.demo.screen import Screen
from lifecycle.demo.training import Data
from lifecycle.demo.watch import Watch


async def tell(url: str, actor: str = "demo") -> None:
    """Play the whole life of a model against the service at `url`, as `actor`.

    It can be told any number of times, also by several at once: each has an experiment and
    versions of its own, and all share one model. Raises DemoFailed, whose message is one line.
    """
    async with Client(url, actor) as client:
        server = await client.query(operations.SERVER, {"modelName": MODEL_NAME})
        screen = Screen()
        screen.say(f"Service {server['serverInfo']['version']} at {client.url}")
        screen.say(f"Model {MODEL_NAME}, in production: {_in_production(server) or 'nothing yet'}")
        data = await asyncio.to_thread(training.load)
        await _Story(client, screen, data).tell()


class _Story:
    def __init__(self, client: Client, screen: Screen, data: Data) -> None:
        self._client = client
        self._screen = screen
        self._data = data

    async def tell(self) -> None:
        name = f"{MODEL_NAME}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid4().hex[:4]}"
        folder = Path(tempfile.mkdtemp(prefix="lifecycle-demo-"))
        experiment = Experiment(self._client, name, self._data, folder)
        candidates = await self._train(experiment)
        modest, best = await self._compare(candidates)
        by_version = {candidate.version: candidate for candidate in candidates}
        async with Watch(self._client, MODEL_NAME, self._screen.event) as watch:
            production = Production(self._client, watch, self._data, by_version)

            self._screen.step(f"Version {modest.version} goes to production: a modest first one")
            first = await self._release(production, modest, "Something to learn from.")
            for deployment_id in await production.superseded():
                await production.retire(deployment_id)

            self._screen.step(f"Version {best.version} goes to production: the best one")
            second = await self._release(production, best, "The best of its experiment.")

            self._screen.step("What comes in has drifted")
            drifts = await self._measure(modest, best)
            event = await production.record_drift(second, drifts)
            self._screen.say(f"Drift event {event['severity']}, {event['status']}")
            await production.degrade(second, f"{drifts[0].feature}: PSI {drifts[0].psi:.2f}.")

            self._screen.step("Roll back")
            third = await self._roll_back(production, second, event)
            for deployment in (third["rollbackFrom"], first):
                await production.retire(deployment["id"])

        outcome = await self._client.query(
            operations.OUTCOME,
            {"experiment": name, "modelName": MODEL_NAME, "deployment": third["id"]},
        )
        self._screen.summary(_facts(outcome, candidates, event, folder))
        first_run = candidates[0].trained.run_id
        self._screen.queries(
            self._client.url,
            operations.to_try_next(MODEL_NAME, at=second["updatedAt"], run_id=first_run),
        )

    async def _train(self, experiment: Experiment) -> list[Candidate]:
        """Return a registered version for each recipe, in their order."""
        self._screen.step(f"Experiment {experiment.name}")
        self._screen.say(
            f"{len(self._data.train)} tumours to train on, {len(self._data.test)} to test on, "
            f"{len(self._data.feature_names)} features"
        )
        await experiment.begin()
        candidates = []
        with self._screen.epochs() as bars:
            for recipe in training.RECIPES:
                bar = bars.add_task(recipe.name, total=recipe.epochs, accuracy=0.0, recall=0.0)

                def progress(metrics: dict[str, float], bar: TaskID = bar) -> None:
                    bars.update(
                        bar, advance=1, accuracy=metrics["accuracy"], recall=metrics["recall"]
                    )

                trained = await experiment.train(recipe, progress)
                candidates.append(await experiment.register(trained))
        await experiment.complete()
        return candidates

    async def _compare(self, candidates: list[Candidate]) -> tuple[Candidate, Candidate]:
        """Show the versions side by side; return the least and the most accurate one."""
        self._screen.step("Compare the versions")
        versions = [candidate.version for candidate in candidates]
        data = await self._client.query(
            operations.COMPARE_MODEL_VERSIONS, {"modelName": MODEL_NAME, "versions": versions}
        )
        self._screen.comparison(data["compareModelVersions"])
        ranked = sorted(candidates, key=lambda candidate: candidate.trained.metrics["accuracy"])
        return ranked[0], ranked[-1]

    async def _release(self, production: Production, candidate: Candidate, reason: str) -> Object:
        """Checklist, STAGING, PRODUCTION, deployment; return the healthy deployment."""
        await production.approve(candidate)
        self._screen.say(f"Checklist: {len(candidate.checklist)} items approved on evidence")
        displaced = await production.promote(candidate.version, reason)
        self._screen.say(
            f"EXPERIMENTAL → STAGING → PRODUCTION; displaced: {', '.join(displaced) or 'none'}"
        )
        return await production.deploy(candidate.version)

    async def _measure(self, modest: Candidate, best: Candidate) -> list[drift.FeatureDrift]:
        """Compare what comes in with the training sample; return the features, worst first."""
        data, incoming = self._data, self._data.incoming
        self._screen.say(
            f"{len(incoming)} tumours come from coarser images: {training.COVARIATE} above "
            f"{data.limit:.2f}, in training at most that. What else has moved?"
        )
        columns = data.monitored()
        drifts = await asyncio.to_thread(
            drift.by_feature,
            [data.feature_names[column] for column in columns],
            data.train.features[:, columns],
            data.test.features[:, columns],
            incoming.features[:, columns],
        )
        self._screen.drifts(drifts[:5])
        beyond = [each for each in drifts if each.psi >= drift.ACTION_THRESHOLD]
        self._screen.say(
            f"{len(beyond)} of {len(drifts)} features are beyond the limit of "
            f"{drift.ACTION_THRESHOLD}."
        )
        for candidate in (best, modest):
            model = candidate.trained.model
            accuracy = training.scores(model, incoming)["accuracy"]
            self._screen.say(
                f"Version {candidate.version}: accuracy {candidate.trained.metrics['accuracy']:.3f}"
                f" in the test, {accuracy:.3f} here; misses {training.missed(model, incoming)} of "
                f"{int(incoming.malignant.sum())} malignant tumours"
            )
        return drifts

    async def _roll_back(self, production: Production, deployment: Object, event: Object) -> Object:
        """Return the deployment that stands in for `deployment`; the drift event is RESOLVED."""
        created = await production.roll_back(
            deployment, "Drift: back until there is a version that has learnt from such images."
        )
        origin = created["rollbackFrom"]
        self._screen.say(
            f"Version {created['version']} serves again, rollbackFrom: version "
            f"{origin['version']} ({origin['status']})"
        )
        await production.follow_up(event["id"], "MITIGATED")
        resolution = f"Rolled back from version {origin['version']} to {created['version']}."
        resolved = await production.follow_up(event["id"], "RESOLVED", resolution)
        self._screen.say(f"Drift event MITIGATED, then {resolved['status']}: {resolution}")
        return created


def _facts(
    outcome: Object, candidates: list[Candidate], event: Object, folder: Path
) -> dict[str, str]:
    """Return what the service says there is now, line by line."""
    experiment, deployment = outcome["experiment"], outcome["deployment"]
    best, origin = experiment["bestRun"], deployment["rollbackFrom"]
    way = " → ".join(step["to"] for step in deployment["statusHistory"])
    return {
        "Experiment": f"{experiment['name']}, {experiment['status']}",
        "Runs": f"{experiment['runCount']}, the best by accuracy: {best['name']}, "
        f"{best['metrics'][0]['value']:.3f}",
        "Versions": f"{', '.join(candidate.version for candidate in candidates)} of {MODEL_NAME}",
        "In production": f"version {_in_production(outcome) or '-'}",
        "Deployment": f"version {deployment['version']}: {way}, {deployment['health']}; "
        f"rolled back from version {origin['version']}",
        "Drift event": f"{event['severity']}, RESOLVED",
        "Model files": str(folder),
    }


def _in_production(data: Object) -> str | None:
    model = data["model"]
    if not model or not model["versionInStage"]:
        return None
    version: str = model["versionInStage"]["version"]
    return version
