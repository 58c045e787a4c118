"""MLflow and the service, side by side: what is mirrored, what comes in live, what is in conflict.

It speaks to the service as any client does, and to MLflow by MLflow's own client, which reads user
and password, if any, from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from time import sleep
from typing import Any
from uuid import uuid4

from lifecycle.demo import operations, training
from lifecycle.demo.client import Client, DemoFailed, Object
from lifecycle.demo.experiment import Experiment
from lifecycle.demo.screen import Screen
from lifecycle.demo.training import Training

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
# What it prints would be in the midst of the story.
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

_PATIENCE = 60.0
_POLL = 0.5
# So slow that one can watch it.
_EPOCH_SECONDS = 0.25
_ATTEMPTS = 5


async def tell(url: str, actor: str = "demo", token: str | None = None) -> None:
    """Show both sides of the service at `url`, which must mirror to an MLflow server and follow it.

    It can be told any number of times: each telling has an experiment and a model of its own.
    Raises DemoFailed, whose message is one line.
    """
    async with Client(url, actor, token) as client:
        server = (await client.query(operations.MLFLOW))["serverInfo"]["mlflow"]
        if server is None:
            raise DemoFailed(
                f"The service at {client.url} knows no MLflow server. Start it with one: "
                "MLFLOW_TRACKING_URI=http://127.0.0.1:5000 LIFECYCLE_MLFLOW_FOLLOW=2 make serve"
            )
        if not server["answering"]:
            raise DemoFailed(f"MLflow at {server['uri']} does not answer. {server['error'] or ''}")
        screen = Screen()
        screen.say(f"Service at {client.url}")
        screen.say(f"MLflow {server['version']} at {server['uri']}")
        await _Story(client, screen, server["uri"]).tell()


class _Story:
    def __init__(self, client: Client, screen: Screen, uri: str) -> None:
        self._client = client
        self._screen = screen
        self._uri = uri
        self._there = MlflowClient(tracking_uri=uri, registry_uri=uri)

    async def tell(self) -> None:
        name = f"breast-cancer-mlflow-{uuid4().hex[:6]}"
        data = await asyncio.to_thread(training.load)
        await self._mirrored(name, data)
        run_id = await self._followed(f"{name}-training-code", data)
        await self._conflict(name)
        self._screen.queries(self._client.url, operations.mlflow_to_try_next(name, run_id))

    async def _mirrored(self, name: str, data: training.Data) -> None:
        """Train and register here, and read it in MLflow."""
        self._screen.step("What happens here is in MLflow")
        folder = Path(tempfile.mkdtemp(prefix="lifecycle-demo-"))
        experiment = Experiment(self._client, name, data, folder)
        await experiment.begin()
        recipe = training.RECIPES[2]
        trained = await experiment.train(recipe, lambda metrics: None)
        candidate = await experiment.register(trained)
        self._screen.say(
            f"Run {recipe.name} is logged, and version {candidate.version} of model {name} "
            "registered: by GraphQL, to the service."
        )

        def in_sync(answer: Object) -> bool:
            links = [each["mlflow"] for each in _objects(answer)]
            all_told = answer["serverInfo"]["mlflow"]["behind"] == 0
            return all_told and all(link["state"] == "IN_SYNC" for link in links)

        variables = {"name": name, "run": trained.run_id}
        answer = await self._until(operations.MIRRORED, variables, in_sync, "being in MLflow")
        for each in _objects(answer):
            self._screen.link(each["__typename"], each["mlflow"]["url"])
        run = await _ask(self._there.get_run, answer["run"]["mlflow"]["id"])
        points = await _ask(self._there.get_metric_history, run.info.run_id, "accuracy")
        self._screen.say(
            f"MLflow's own client finds the run {run.info.status}, accuracy "
            f"{run.data.metrics['accuracy']:.3f} after {len(points)} epochs, "
            f"{len(run.data.params)} parameters"
        )
        version = await _ask(self._there.get_model_version, name, candidate.version)
        self._screen.say(
            f"and version {version.version} with stage {version.tags['lifecycle.stage']}, "
            f"approval {version.tags['lifecycle.approval']}."
        )

    async def _followed(self, name: str, data: training.Data) -> str:
        """Train with code that knows only MLflow, and watch it here. Returns the run's id."""
        self._screen.step("What training code tells MLflow is here, while it trains")
        work = asyncio.create_task(asyncio.to_thread(_train, self._uri, name, data))
        try:
            arrived = await self._until(
                operations.FOLLOWED,
                {"name": name},
                lambda answer: bool(_runs(answer)) or work.done(),
                "the run of the training code. Does the service follow MLflow "
                "(LIFECYCLE_MLFLOW_FOLLOW=2)? It",
            )
            if work.done():
                await work  # which says what is wrong, if anything is
                arrived = await self._until(
                    operations.FOLLOWED, {"name": name}, lambda a: bool(_runs(a)), "its run"
                )
            [run] = _runs(arrived)
            self._screen.say(f"{run['name']} has come in, by {run['createdBy']}: RUNNING")
            stream = self._client.subscribe(operations.RUN_PROGRESS, {"id": run["id"]})
            try:
                async with asyncio.timeout(_PATIENCE), aclosing(stream) as items:
                    async for item in items:
                        self._show(item["runProgress"])
                        if item["runProgress"].get("to") == "COMPLETED":
                            break
            except TimeoutError as error:
                raise DemoFailed("The end of the run did not come in from MLflow.") from error
        finally:
            await work
        run_id: str = run["id"]
        return run_id

    def _show(self, item: Object) -> None:
        match item["__typename"]:
            case "RunMetricsEvent":
                figures = {metric["key"]: metric for metric in item["metrics"]}
                if "accuracy" in figures:
                    step, value = figures["accuracy"]["step"], figures["accuracy"]["value"]
                    self._screen.live(item["at"], f"up to epoch {step}: accuracy {value:.3f}")
            case "RunStatusEvent":
                if item["from"] is not None:
                    self._screen.live(item["at"], f"{item['from']} → {item['to']}")

    async def _conflict(self, name: str) -> None:
        """Change a description on both sides, and say which holds."""
        self._screen.step("What is changed on both sides is shown, and neither is overwritten")
        for _ in range(_ATTEMPTS):
            # Whichever comes over before the other is written was no conflict.
            texts = f"For the clinic ({uuid4().hex[:4]}).", f"For research ({uuid4().hex[:4]})."
            here, there = texts
            await _ask(self._there.update_registered_model, name, there)
            await self._client.mutate(operations.UPDATE_MODEL, {"name": name, "description": here})
            answer = await self._until(
                operations.CONFLICT,
                {"name": name},
                lambda answer: (
                    answer["serverInfo"]["mlflow"]["behind"] == 0
                    and answer["model"]["mlflow"]["state"] != "PENDING"
                ),
                "the model being compared",
            )
            if answer["model"]["mlflow"]["conflicts"]:
                break
        else:
            raise DemoFailed("Both sides were changed, but never at the same time.")
        [conflict] = answer["model"]["mlflow"]["conflicts"]
        self._screen.say(f"Model {name}: {answer['model']['mlflow']['state']}")
        self._screen.say(f"{conflict['field']} here: “{conflict['here']}”")
        self._screen.say(f"{conflict['field']} in MLflow: “{conflict['there']}”")
        await self._client.mutate(
            operations.RESOLVE,
            {"id": answer["model"]["mlflow"]["itemId"], "resolution": "KEEP_OURS"},
        )
        await self._until(
            operations.CONFLICT,
            {"name": name},
            lambda answer: answer["model"]["mlflow"]["state"] == "IN_SYNC",
            "the conflict being resolved",
        )
        model = await _ask(self._there.get_registered_model, name)
        self._screen.say(f"resolveMlflowConflict KEEP_OURS. In MLflow now: “{model.description}”")

    async def _until(
        self, document: str, variables: Object, ready: Callable[[Object], bool], what: str
    ) -> Object:
        """Ask until the answer is as wanted. Raises DemoFailed when that takes too long."""
        try:
            async with asyncio.timeout(_PATIENCE):
                while True:
                    answer = await self._client.query(document, variables)
                    if ready(answer):
                        return answer
                    await asyncio.sleep(_POLL)
        except TimeoutError as error:
            raise DemoFailed(f"Waited for {what}: not within {_PATIENCE:.0f} s.") from error


def _objects(answer: Object) -> list[Object]:
    found = [answer["experiment"], answer["run"], answer["model"]]
    return [*found, *answer["model"]["versions"]["nodes"]]


def _runs(answer: Object) -> list[Object]:
    found: list[Object] = answer["experiment"]["runs"]["nodes"] if answer["experiment"] else []
    return found


def _train(uri: str, experiment: str, data: training.Data) -> None:
    """Training code as it is everywhere: it has not heard of this service."""
    recipe = training.RECIPES[3]
    with _reported():
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(experiment)
        with mlflow.start_run(run_name=recipe.name):
            mlflow.log_params(recipe.hyperparameters)
            work = Training(recipe, data)
            for epoch in range(1, recipe.epochs + 1):
                mlflow.log_metrics(work.epoch(), step=epoch)
                sleep(_EPOCH_SECONDS)


async def _ask(method: Callable[..., Any], *arguments: Any) -> Any:
    """What MLflow's client, which is synchronous, answers."""
    with _reported():
        return await asyncio.to_thread(method, *arguments)


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise DemoFailed(f"MLflow: {error}") from error
