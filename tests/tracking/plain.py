"""What people have made with MLflow alone: run by MLflow's own Python, never imported.

`fill` makes of everything something, odd things above all; `dump` prints what MLflow then says.
"""

import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.data.http_dataset_source import HTTPDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Param, RunTag, ViewType

PREFIX = sys.argv[2]
NEW = not mlflow.__version__.startswith("2.")
POINTS = 10_500

client = MlflowClient()


def started(experiment: str, name: str, at: int, tags: dict[str, str] | None = None) -> str:
    run = client.create_run(experiment, start_time=at, tags=tags or {}, run_name=name)
    return str(run.info.run_id)


def points(run: str, *given: tuple[str, float, int, int]) -> None:
    metrics = [Metric(key, value, at, step) for key, value, step, at in given]
    for n in range(0, len(metrics), 1_000):
        client.log_batch(run, metrics=metrics[n : n + 1_000])


def fill() -> None:
    now = int(time.time() * 1000) - 3_600_000
    # Experiments.
    training = client.create_experiment(
        f"{PREFIX}/training", tags={"team": "vision", "mlflow.note.content": "About **birds**."}
    )
    shared = client.create_experiment(f"{PREFIX}/here-too", tags={"team": "theirs"})
    client.create_experiment(f"{PREFIX}/without runs")
    deleted = client.create_experiment(f"{PREFIX}/deleted")
    started(deleted, "in a deleted experiment", now)
    client.delete_experiment(deleted)

    # Runs.
    long = started(training, "long", now, {"mlflow.source.name": "train.py", "team": "vision"})
    points(long, *(("loss", 1 / (n + 1), n, now + n) for n in range(POINTS)))
    points(long, ("accuracy", 0.5, 0, now), ("accuracy", 0.75, 1, now + 1))
    client.log_batch(
        long,
        params=[Param("lr", "0.01"), Param("layers", "3"), Param("long", "x" * 5_000)],
        tags=[RunTag("mlflow.note.content", "The long one.\nTwo lines.")],
    )
    client.set_terminated(long, end_time=now + 60_000)

    odd = started(training, "odd numbers", now)
    points(
        odd,
        ("nan", math.nan, 0, now),
        ("inf", math.inf, 0, now),
        ("inf", -math.inf, 1, now),
        ("huge", 1.7e308, 0, now),
        ("back", 2.0, 5, now + 5),
        ("back", 1.0, 3, now + 9),
        ("before zero", 1.0, -3, now),
        ("one moment", 1.0, 0, now),
        ("one moment", 2.0, 0, now),
        ("a key/with slash", 1.0, 0, now),
    )
    client.log_param(odd, "empty", "")
    client.set_tag(odd, "empty", "")
    client.set_terminated(odd, end_time=now + 1_000)

    with mlflow.start_run(experiment_id=training, run_name="sweep"):
        for n in range(2):
            with mlflow.start_run(experiment_id=training, run_name=f"trial {n}", nested=True):
                mlflow.log_metric("score", n)

    files = started(training, "files", now)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "plots" / "deep"
        folder.mkdir(parents=True)
        (folder / "roc curve.txt").write_text("0 0\n1 1\n")
        (Path(directory) / "model.bin").write_bytes(b"0123456789")
        client.log_artifacts(files, directory)
    client.set_terminated(files)

    gone = started(training, "deleted", now)
    points(gone, ("loss", 1.0, 0, now))
    client.delete_run(gone)
    for status in ("FAILED", "KILLED"):
        run = started(training, status.lower(), now)
        client.set_terminated(run, status, end_time=now + 5_000)
    running = started(training, "running", now)
    points(running, ("loss", 0.5, 0, now))
    scheduled = started(shared, "scheduled", now)
    client.update_run(scheduled, status="SCHEDULED")

    with mlflow.start_run(experiment_id=shared, run_name="with data"):
        source = HTTPDatasetSource("https://data.example/birds.csv")
        data = MetaDataset(source, name="birds", digest="d1e2f3")
        mlflow.log_input(data, context="training")
        other = MetaDataset(source, name="more birds", digest="a0a0")
        mlflow.log_input(other, context="testing")

    registry(training, long)


def registry(experiment: str, run: str) -> None:
    name = f"{PREFIX}-birds"
    client.create_registered_model(name, {"team": "vision"}, "Knows birds.")
    source = f"{client.get_run(run).info.artifact_uri}/model"
    for n in range(1, 8):
        client.create_model_version(
            name,
            source,
            run,
            tags={"n": str(n)},
            description=f"The {n}. try.",
            await_creation_for=0,
        )
    client.delete_model_version(name, "2")
    for number, stage in (
        ("1", "Archived"),
        ("3", "Production"),
        ("4", "Production"),
        ("5", "Staging"),
    ):
        client.transition_model_version_stage(name, number, stage)
    client.set_registered_model_alias(name, "champion", "4")
    client.set_registered_model_alias(name, "shadow", "6")

    by_alias = f"{PREFIX}-aliases"
    client.create_registered_model(by_alias)
    for _ in range(3):
        client.create_model_version(by_alias, "s3://bucket/aliases", await_creation_for=0)
    client.set_registered_model_alias(by_alias, "production", "1")
    client.set_registered_model_alias(by_alias, "staging", "3")

    client.create_registered_model(f"{PREFIX}-without-versions")
    mlflow.set_experiment(experiment_id=experiment)
    if NEW:
        mlflow.genai.register_prompt(f"{PREFIX}-prompt", "Say {{what}}.")
        logged = client.create_logged_model(experiment, f"{PREFIX}-logged", source_run_id=run)
        client.finalize_logged_model(logged.model_id, "READY")
        client.create_registered_model(f"{PREFIX}-from-logged")
        client.create_model_version(
            f"{PREFIX}-from-logged",
            f"models:/{logged.model_id}",
            run,
            model_id=logged.model_id,
            await_creation_for=0,
        )


def number(value: float) -> float | str:
    """JSON has no names for some; MLflow gives the largest number in place of infinity."""
    if abs(value) == sys.float_info.max:
        value *= 2
    return value if math.isfinite(value) else str(value)


def pages(search: Any, **asked: Any) -> Any:
    token = None
    while True:
        page = search(**asked, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def dump() -> None:
    found: dict[str, Any] = {"experiments": {}, "runs": {}, "models": {}, "versions": {}}
    experiments = [
        each
        for each in pages(client.search_experiments, view_type=ViewType.ACTIVE_ONLY)
        if each.name.startswith(PREFIX)
    ]
    for experiment in experiments:
        found["experiments"][experiment.name] = dict(experiment.tags)
        asked = {
            "experiment_ids": [experiment.experiment_id],
            "run_view_type": ViewType.ACTIVE_ONLY,
        }
        for run in pages(client.search_runs, **asked):
            found["runs"][run.info.run_id] = {
                "experiment": experiment.name,
                "name": run.info.run_name,
                "status": run.info.status,
                "started": run.info.start_time,
                "ended": run.info.end_time,
                "params": run.data.params,
                "tags": run.data.tags,
                "points": {
                    key: [
                        [point.step, point.timestamp, number(point.value)]
                        for point in client.get_metric_history(run.info.run_id, key)
                    ]
                    for key in run.data.metrics
                },
                "files": dict(files(run.info.run_id, None)),
            }
    for model in client.search_registered_models(max_results=1_000):
        if model.name.startswith(PREFIX) and "mlflow.prompt.is_prompt" not in model.tags:
            full = client.get_registered_model(model.name)
            found["models"][model.name] = {
                "description": model.description,
                "tags": dict(model.tags),
                "aliases": full.aliases,
            }
            for version in client.search_model_versions(f"name = '{model.name}'"):
                found["versions"][f"{model.name}/{version.version}"] = {
                    "description": version.description,
                    "tags": dict(version.tags),
                    "source": version.source,
                    "run": version.run_id,
                    "stage": version.current_stage,
                }
    sys.stdout.write(json.dumps(found))


def files(run: str, folder: str | None) -> Any:
    for each in client.list_artifacts(run, folder):
        if each.is_dir:
            yield from files(run, each.path)
        else:
            yield each.path, each.file_size


{"fill": fill, "dump": dump}[sys.argv[1]]()
