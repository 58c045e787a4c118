"""Trains the models, logs each run as it goes, registers what comes out."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sklearn  # type: ignore[import-untyped]

from lifecycle.demo import operations, training
from lifecycle.demo.client import Client, DemoFailed, Object
from lifecycle.demo.training import Artifact, Data, Recipe, Training

_EPOCHS_PER_CALL = 10

CHECKLIST = [
    "The file is as logged",
    "Read back, it shows the same figures",
    "The test was on unseen tumours",
]

Progress = Callable[[dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a finished run has left: a model, its file, its figures on the test sample."""

    run_id: str
    recipe: Recipe
    model: Any
    file: Artifact
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A registered version of the model. `checklist` has the ids of its items by title."""

    id: str
    version: str
    trained: Trained
    checklist: dict[str, str]


@dataclass(frozen=True, slots=True)
class Epoch:
    """What an epoch has come to."""

    number: int
    at: str
    metrics: dict[str, float]


class Experiment:
    """One experiment on the service: a run for each recipe, a version for each run.

    The model that the versions are of has the experiment's name.
    """

    def __init__(self, client: Client, name: str, data: Data, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self._client = client
        self._data = data

    async def begin(self) -> None:
        """Create it. The name must be new."""
        await self._client.mutate(
            operations.CREATE_EXPERIMENT,
            {
                "name": self.name,
                "description": "Which model tells malignant from benign breast tumours best? "
                f"Images whose {training.COVARIATE} is at most {self._data.limit:.2f}.",
                "owner": self._client.actor,
                "tags": pairs({"dataset": "wisconsin-diagnostic-breast-cancer", "by": "demo"}),
            },
        )

    async def complete(self) -> None:
        """Say that there will be no further runs."""
        await self._client.mutate(
            operations.COMPLETE_EXPERIMENT, {"name": self.name, "status": "COMPLETED"}
        )

    async def train(self, recipe: Recipe, progress: Progress) -> Trained:
        """Train one model and log it as one run, from RUNNING to COMPLETED.

        `progress` gets the metrics of every epoch. A run that is interrupted becomes CANCELLED.
        """
        run_id = await self._start_run(recipe)
        try:
            return await self._train(run_id, recipe, progress)
        except asyncio.CancelledError:
            stop = {"id": run_id, "status": "CANCELLED", "statusMessage": "Interrupted."}
            with suppress(DemoFailed):
                await self._client.mutate(operations.UPDATE_RUN, stop)
            raise

    async def register(self, trained: Trained) -> Candidate:
        """Register the model as the next version; the service gives the number."""
        success = await self._client.mutate(
            operations.REGISTER_MODEL_VERSION,
            {
                "modelName": self.name,
                "runId": trained.run_id,
                "description": trained.recipe.description,
                "framework": f"scikit-learn {sklearn.__version__}",
                "hyperparameters": trained.recipe.hyperparameters,
                "metrics": pairs(trained.metrics),
                "tags": pairs({"by": "demo"}),
                "artifactPath": str(trained.file.path),
                "artifactDigest": trained.file.digest,
                "sizeBytes": trained.file.size_bytes,
                "checklist": CHECKLIST,
            },
        )
        version = success["modelVersion"]
        checklist = {item["title"]: item["id"] for item in version["checklist"]}
        return Candidate(version["id"], version["version"], trained, checklist)

    async def _start_run(self, recipe: Recipe) -> str:
        data = self._data
        params = {key: str(value) for key, value in recipe.hyperparameters.items()}
        success = await self._client.mutate(
            operations.LOG_RUN,
            {
                "experimentName": self.name,
                "name": recipe.name,
                "status": "RUNNING",
                "params": pairs({**params, "epochs": str(recipe.epochs)}),
                "tags": pairs({"model": recipe.hyperparameters["model"]}),
                "source": "lifecycle/demo/training.py",
                "gitCommit": await _git_commit(),
                "datasetFacts": {
                    "name": "Wisconsin Diagnostic Breast Cancer (scikit-learn)",
                    "digest": data.digest,
                    "train_size": len(data.train),
                    "test_size": len(data.test),
                    "feature_count": len(data.feature_names),
                    "training_date": datetime.now(UTC).date().isoformat(),
                    "malignant_share": round(float(data.train.malignant.mean()), 4),
                    "selection": f"{training.COVARIATE} <= {data.limit:.2f}",
                },
            },
        )
        run_id: str = success["run"]["id"]
        return run_id

    async def _train(self, run_id: str, recipe: Recipe, progress: Progress) -> Trained:
        session = Training(recipe, self._data)
        untold: list[Epoch] = []
        metrics: dict[str, float] = {}
        for number in range(1, recipe.epochs + 1):
            metrics = await asyncio.to_thread(session.epoch)
            untold.append(Epoch(number, now(), metrics))
            progress(metrics)
            if number % _EPOCHS_PER_CALL == 0 or number == recipe.epochs:
                await self._log(run_id, untold)
                untold = []

        files = await asyncio.to_thread(session.save, self.folder / recipe.name)
        latency = await asyncio.to_thread(training.serve, session.model, self._data.test)
        await self._client.mutate(
            operations.UPDATE_RUN,
            {
                "id": run_id,
                "status": "COMPLETED",
                "statusMessage": f"{recipe.epochs} epochs, accuracy {metrics['accuracy']:.3f}.",
                "metrics": pairs({"inference_time_ms": latency}),
                "artifacts": [
                    {
                        "name": file.name,
                        "path": str(file.path),
                        "sizeBytes": file.size_bytes,
                        "digest": file.digest,
                    }
                    for file in files
                ],
            },
        )
        quality = {key: metrics[key] for key in ("accuracy", "precision", "recall", "f1")}
        figures = {**quality, "inference_time_ms": latency}
        return Trained(run_id, recipe, session.model, files[0], figures)

    async def _log(self, run_id: str, epochs: list[Epoch]) -> None:
        """Send some epochs at once, as columns, and a log line for each."""
        series = [
            {
                "key": key,
                "steps": [epoch.number for epoch in epochs],
                "values": [epoch.metrics[key] for epoch in epochs],
                "timestamps": [epoch.at for epoch in epochs],
            }
            for key in epochs[0].metrics
        ]
        lines = [
            {
                "message": f"epoch {epoch.number}: "
                + ", ".join(f"{key} {value:.4f}" for key, value in epoch.metrics.items()),
                "level": "INFO",
                "timestamp": epoch.at,
            }
            for epoch in epochs
        ]
        await self._client.mutate(operations.LOG_METRICS, {"runId": run_id, "series": series})
        await self._client.mutate(operations.LOG_RUN_OUTPUT, {"runId": run_id, "lines": lines})


def findings(trained: Trained, data: Data) -> list[tuple[bool, str]]:
    """Go through the checklist: of each item whether it holds, and what shows it."""
    reloaded = training.scores(training.load_model(trained.file), data.test)
    twice = training.known(data.train, data.test)
    return [
        (training.is_intact(trained.file), trained.file.digest),
        (
            all(trained.metrics[key] == figure for key, figure in reloaded.items()),
            f"accuracy {reloaded['accuracy']}, recall {reloaded['recall']}",
        ),
        (twice == 0, f"{twice} of {len(data.test)} tumours of the test are in training"),
    ]


def now() -> str:
    """Return the time as the API takes it."""
    return datetime.now(UTC).isoformat()


def pairs(values: dict[str, Any]) -> list[Object]:
    """Return tags, parameters or metrics as the API takes them."""
    return [{"key": key, "value": value} for key, value in values.items()]


async def _git_commit() -> str | None:
    """Return the last commit that changed the training code, or None when git cannot tell."""
    code = Path(training.__file__)
    try:
        git = await asyncio.create_subprocess_exec(
            *("git", "-C", str(code.parent), "log", "-1", "--format=%H", "--", code.name),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    output, _ = await git.communicate()
    return output.decode().strip() or None
