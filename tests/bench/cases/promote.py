"""Versions into production and back to staging, through the gates, by eight writers, each with a
model of its own.

Of a model two versions take turns: the one that comes into production displaces the other, which
then comes back to staging. MLflow has no gates and no history; what it can do is to move an alias
and to set a tag for the stage of each version concerned, which are six calls for two moves. What
its client would have to read to decide by itself is not counted.
"""

import asyncio
from collections.abc import Iterator
from itertools import cycle

from tests.bench.cases import Bench
from tests.bench.load import Request, ask, post
from tests.bench.measure import Bound, Outcome, in_rounds
from tests.client import Graph
from tests.factories import a_version, approved

WANTED = ("service", "mlflow")
BOUNDS = (Bound("service", "mlflow", 5),)

WRITERS = 8
_METRICS = {
    "accuracy": 0.9,
    "precision": 0.9,
    "recall": 0.9,
    "data_quality_score": 0.9,
    "inference_time_ms": 12.5,
}

_SET_STAGE = """mutation ($input: SetStageInput!) {
  setStage(input: $input) { __typename ... on Error { message } }
}"""


def _model(writer: int) -> str:
    return f"promoted-{writer}"


async def _prepare_service(url: str, writer: int) -> list[str]:
    """Two versions of a model, one in production and one approved for it; their ids."""
    model = _model(writer)
    async with Graph(url) as graph:
        metrics = [{"key": key, "value": value} for key, value in _METRICS.items()]
        facts = {"metrics": metrics, "artifactPath": "s3://models/a", "artifactDigest": "sha256:ab"}
        versions = [await a_version(graph, model, **facts) for _ in range(2)]
        # Into production lead the general policy and an approval; into staging these.
        rules = [{"metric": {"key": "accuracy", "atLeast": 0.75}}, {"artifactDigest": {}}]
        policy = {"stage": "STAGING", "modelName": model, "rules": rules}
        admin = {"Lifecycle-Actor": "admin"}
        set_ = await graph.mutate("setStagePolicy", policy, **admin)
        assert set_["__typename"] == "SetStagePolicySuccess", set_
        for version in versions:
            await approved(graph, version)
        first = {"modelVersion": {"id": versions[0]["id"]}, "stage": "PRODUCTION"}
        await graph.done("setStage", first, "modelVersion { stage }")
    return [str(version["id"]) for version in versions]


def _service(port: int, ids: list[str]) -> Iterator[Request]:
    first, second = ids
    for id, stage in cycle(
        [(second, "PRODUCTION"), (first, "STAGING"), (first, "PRODUCTION"), (second, "STAGING")]
    ):
        variables = {"input": {"modelVersion": {"id": id}, "stage": stage, "reason": "it is time"}}
        content = {"query": _SET_STAGE, "variables": variables}
        yield post(port, "/graphql", content, contains=b"SetStageSuccess")


_API = "/api/2.0/mlflow"


async def _prepare_mlflow(port: int, writer: int) -> None:
    name = _model(writer)
    await ask(port, post(port, f"{_API}/registered-models/create", {"name": name}))
    for _ in range(2):
        version = {"name": name, "source": "s3://models/a"}
        await ask(port, post(port, f"{_API}/model-versions/create", version))


def _mlflow(port: int, writer: int) -> Iterator[Request]:
    name = _model(writer)

    def alias(alias: str, version: str) -> Request:
        content = {"name": name, "alias": alias, "version": version}
        return post(port, f"{_API}/registered-models/alias", content)

    def no_alias(alias: str) -> Request:
        content = {"name": name, "alias": alias}
        return post(port, f"{_API}/registered-models/alias", content, method="DELETE")

    def tag(version: str, stage: str) -> Request:
        content = {"name": name, "version": version, "key": "stage", "value": stage}
        return post(port, f"{_API}/model-versions/set-tag", content)

    for mine, other in cycle([("2", "1"), ("1", "2")]):
        # Nothing is in staging until the other is.
        yield no_alias("staging")
        yield alias("production", mine)
        yield tag(mine, "PRODUCTION")
        yield tag(other, "ARCHIVED")
        yield alias("staging", other)
        yield tag(other, "STAGING")


async def run(bench: Bench) -> Outcome:
    """Moves a second."""
    service, mlflow = bench.servers["service"], bench.servers["mlflow"]
    writers = range(WRITERS)
    ids = [await _prepare_service(service.url, writer) for writer in writers]
    await asyncio.gather(*(_prepare_mlflow(mlflow.port, writer) for writer in writers))
    turns = {
        "service": bench.turn(service.port, [_service(service.port, each) for each in ids]),
        "mlflow": bench.turn(
            mlflow.port, [_mlflow(mlflow.port, writer) for writer in writers], per_answer=2 / 6
        ),
    }
    figures = await in_rounds(turns, bench.rounds, bench.random)
    return Outcome("promote", "moves/s", figures, BOUNDS)
