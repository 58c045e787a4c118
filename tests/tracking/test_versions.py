"""Versions on both sides: stages, approvals and deployments are told there, and moved only here."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from lifecycle.tracking.client import Client, Unreachable
from lifecycle.tracking.rules import Resolution, SyncState, TrackedKind, resolutions
from lifecycle.tracking.service import conflicts_of
from lifecycle.tracking.tables import MlflowItemRow
from schema import ids
from tests.client import PATIENCE, Graph, Json
from tests.conftest import Live
from tests.factories import a_deployment, a_run, a_version, a_version_in, approved
from tests.tracking.conftest import Mlflow
from tests.tracking.drive import Mirror
from tests.tracking.faults import Faults

RUN, MODEL, VERSION = TrackedKind.RUN, TrackedKind.MODEL, TrackedKind.MODEL_VERSION
SYNCED, CONFLICT = SyncState.IN_SYNC, SyncState.CONFLICT
ADMIN = {"Lifecycle-Actor": "admin"}
ALONE = "Stages change by setStage alone."

# scikit-learn, logged and registered by what knows only MLflow.
TRAINING = """
import sys, warnings
warnings.simplefilter("ignore")
import mlflow
from sklearn.linear_model import LogisticRegression
name = sys.argv[1]
mlflow.set_experiment(name)
with mlflow.start_run() as run:
    mlflow.log_metric("accuracy", 0.9)
    fitted = LogisticRegression().fit([[0], [1]], [0, 1])
    where = {"name": "model"} if int(mlflow.__version__[0]) > 2 else {"artifact_path": "model"}
    mlflow.sklearn.log_model(fitted, registered_model_name=name, **where)
    mlflow.register_model(f"runs:/{run.info.run_id}/model", name)
print(run.info.run_id)
"""


@dataclass
class Both:
    """One MLflow server and this service, for one model of one test."""

    mirror: Mirror
    mlflow: Mlflow
    plain: MlflowClient
    graph: Graph
    name: str

    async def told(self, version: Json) -> MlflowItemRow:
        """How a version of ours stands, after a look at it."""
        return await self.mirror.ours(VERSION, ids.decode("ModelVersion", version["id"]))

    async def seen(self, number: int) -> MlflowItemRow:
        """How a version of MLflow's stands, after a look at it."""
        item = await self.mirror.theirs(VERSION, f"{self.name}/{number}")
        assert item is not None
        return item

    async def item(self, version: Json) -> MlflowItemRow:
        """How a version stands, without a look at it."""
        return await self.mirror.item(VERSION, ids.decode("ModelVersion", version["id"]))

    def there(self, number: int) -> ModelVersion:
        """A version as MLflow has it."""
        return self.plain.get_model_version(self.name, str(number))

    def tags(self, number: int) -> dict[str, str]:
        """What we tell of it there, by names without our prefix."""
        ours = "lifecycle."
        tags = self.there(number).tags.items()
        return {k.removeprefix(ours): v for k, v in tags if k.startswith(ours)}

    def aliases(self) -> dict[str, int]:
        """Which version each alias means."""
        found = self.plain.get_registered_model(self.name).aliases
        return {alias: int(number) for alias, number in found.items()}

    def register(self, source: str = "s3://models/m", **more: Any) -> int:
        """A version that is registered there; its number."""
        return int(self.plain.create_model_version(self.name, source, **more).version)

    async def transition(self, number: int, stage: str) -> None:
        """Move a version there as people do in MLflow's pages."""
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=PATIENCE) as http:
            answer = await http.post(
                f"{self.mlflow.url}/api/2.0/mlflow/model-versions/transition-stage",
                json={
                    "name": self.name,
                    "version": str(number),
                    "stage": stage,
                    "archive_existing_versions": False,
                },
            )
        assert answer.status_code == 200, answer.text

    async def stage(self, version: Json, stage: str) -> None:
        """Move a version here."""
        where = {"modelVersion": {"id": version["id"]}, "stage": stage}
        await self.graph.done("setStage", where, "modelVersion { id }")

    async def versions(self) -> dict[str, Json]:
        """The versions here, by their names."""
        found = await self.graph.query(
            """query ($name: String!) { model(name: $name) { versions(first: 100) { nodes {
              id version stage description createdBy artifactPath
              tags { key value } metrics { key value } run { id }
              approval { status decidedBy notes }
              stageHistory { stage actor reason cause } } } } }""",
            {"name": self.name},
        )
        if found["model"] is None:
            return {}
        return {each["version"]: each for each in found["model"]["versions"]["nodes"]}

    async def stages(self) -> dict[str, str]:
        """The stage of each version here."""
        return {name: each["stage"] for name, each in (await self.versions()).items()}

    async def imported(self, *numbers: int) -> list[MlflowItemRow]:
        """How versions stand that have been imported on behalf of the administrator."""
        items = [await self.mirror.importing().theirs(VERSION, f"{self.name}/{n}") for n in numbers]
        assert None not in items
        return [item for item in items if item is not None]


async def _both(live: Live, graph: Graph, mlflow: Mlflow, unique: str) -> AsyncIterator[Both]:
    client = Client(mlflow.url)
    mirror = await Mirror.begin(live.database, client, unique)
    yield Both(mirror, mlflow, MlflowClient(mlflow.url), graph, unique)
    await client.close()


@pytest_asyncio.fixture
async def both(live: Live, graph: Graph, mlflow: Mlflow, unique: str) -> AsyncIterator[Both]:
    """The newest MLflow."""
    async for found in _both(live, graph, mlflow, unique):
        yield found


@pytest_asyncio.fixture
async def each(live: Live, graph: Graph, any_mlflow: Mlflow, unique: str) -> AsyncIterator[Both]:
    """Each line of MLflow in turn."""
    async for found in _both(live, graph, any_mlflow, unique):
        yield found


async def a_promoted(both: Both) -> tuple[Json, Json]:
    """Two versions on both sides, the first of them in PRODUCTION."""
    first = await a_version_in(both.graph, both.name, "PRODUCTION")
    second = await a_version(both.graph, both.name)
    for version in (first, second):
        assert (await both.told(version)).state is SYNCED
    assert both.aliases() == {"production": 1}
    return first, second


async def set_policy(graph: Graph, policy: Json) -> None:
    """Set a policy, as an administrator."""
    done = await graph.mutate("setStagePolicy", policy, **ADMIN)
    assert done["__typename"] == "SetStagePolicySuccess", done


# What is here appears there.


async def test_a_version_appears_there_with_all_that_it_is(each: Both) -> None:
    run = await a_run(each.graph, each.name)
    series = {"key": "loss", "steps": [1], "values": [0.25]}
    await each.graph.mutate("logMetrics", {"runId": run, "series": [series]})
    version = await a_version(
        each.graph,
        each.name,
        runId=run,
        description="The first.",
        framework="sklearn",
        hyperparameters={"depth": 3},
        tags=[{"key": "team", "value": "fraud"}],
        artifactPath="model/model.pkl",
        artifactDigest="sha256:1",
        sizeBytes=5,
    )

    item = await each.told(version)

    assert item.state is SYNCED, (item.error, item.conflicts)
    assert (item.mlflow_id, item.url) == (
        f"{each.name}/1",
        f"{each.mlflow.url}/#/models/{each.name}/versions/1",
    )
    there = each.there(1)
    run_there = await each.mirror.there(RUN, ids.decode("Run", run))
    assert there.run_id == run_there
    assert there.source == f"runs:/{run_there}/model/model.pkl"
    assert there.description == "The first."
    assert there.tags["team"] == "fraud"
    assert each.tags(1) == {
        "id": str(ids.decode("ModelVersion", version["id"])),
        "version": "1",
        "stage": "EXPERIMENTAL",
        "approval": "NOT_SUBMITTED",
        "framework": "sklearn",
        "hyperparameters": '{"depth":3}',
        "metrics": '{"loss":0.25}',
        "artifact_path": "model/model.pkl",
        "artifact_digest": "sha256:1",
        "size_bytes": "5",
    }
    assert there.current_stage == "None"


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("s3://models/fraud/1", "s3://models/fraud/1"),
        ("https://host/model.onnx", None),
        ("/srv/models/1", None),
        ("../secret", None),
        ("models:/m-0123456789abcdef0123456789abcdef", None),
        ("models:/nobody/1", None),
        ("http://[::1", None),
        ("s3://models/" + "x" * 900, None),
        (None, None),
    ],
)
async def test_what_mlflow_does_not_take_as_a_source_is_told_by_a_tag(
    both: Both, path: str | None, source: str | None
) -> None:
    version = await a_version(both.graph, both.name, artifactPath=path)
    assert (await both.told(version)).state is SYNCED
    id = ids.decode("ModelVersion", version["id"])
    assert both.there(1).source == (source or f"lifecycle:/model-versions/{id}")
    assert both.tags(1).get("artifact_path") == path


async def test_what_changes_on_one_side_comes_to_the_other(both: Both) -> None:
    tags = [{"key": "team", "value": "fraud"}, {"key": "old", "value": "yes"}]
    version = await a_version(both.graph, both.name, description="One.", tags=tags)
    await both.told(version)

    both.plain.update_model_version(both.name, "1", "Two.")
    both.plain.set_model_version_tag(both.name, "1", "team", "risk")
    both.plain.delete_model_version_tag(both.name, "1", "old")
    assert (await both.seen(1)).state is SYNCED
    here = (await both.versions())["1"]
    assert (here["description"], here["tags"]) == ("Two.", [{"key": "team", "value": "risk"}])

    changes = {"description": "Three.", "tags": [{"key": "x", "value": ""}], "framework": "onnx"}
    where = {"modelVersion": {"id": version["id"]}}
    await both.graph.done("updateModelVersion", where | changes, "modelVersion { id }")
    assert (await both.told(version)).state is SYNCED
    there = both.there(1)
    assert there.description == "Three."
    assert {k: v for k, v in there.tags.items() if not k.startswith("lifecycle.")} == {"x": ""}
    assert both.tags(1)["framework"] == "onnx"


async def test_stages_are_told_by_aliases_and_tags(each: Both) -> None:
    first, second = await a_promoted(each)
    await approved(each.graph, second)
    await each.told(second)
    assert each.aliases() == {"production": 1, "staging": 2}
    assert each.tags(2)["stage"] == "STAGING"

    await each.stage(second, "PRODUCTION")
    items = [await each.told(second), await each.told(first)]

    assert [item.state for item in items] == [SYNCED, SYNCED]
    assert each.aliases() == {"production": 2}
    assert [each.tags(n)["stage"] for n in (1, 2)] == ["ARCHIVED", "PRODUCTION"]
    # MLflow's own stages are left alone.
    assert [each.there(n).current_stage for n in (1, 2)] == ["None", "None"]
    # Nothing more is to be done.
    assert [item.conflicts for item in (await each.seen(1), await each.seen(2))] == [[], []]


@pytest.mark.parametrize("first_told", ["displaced", "displacing"])
async def test_the_alias_is_never_away_while_it_moves(both: Both, first_told: str) -> None:
    first, second = await a_promoted(both)
    await approved(both.graph, second)
    await both.told(second)
    await both.stage(second, "PRODUCTION")
    meant: list[str] = []
    done = asyncio.Event()

    async def ask() -> None:
        client = MlflowClient(both.mlflow.url)
        while not done.is_set():
            found = await asyncio.to_thread(
                client.get_model_version_by_alias, both.name, "production"
            )
            meant.append(found.version)

    asking = asyncio.create_task(ask())
    order = (first, second) if first_told == "displaced" else (second, first)
    for version in order:
        await both.told(version)
    done.set()
    await asking

    assert both.aliases() == {"production": 2}
    assert [str(number) for number in meant] == sorted(str(number) for number in meant)
    assert both.there(2).aliases == ["production"]


async def test_the_alias_goes_when_nothing_is_in_the_stage_any_more(both: Both) -> None:
    first, second = await a_promoted(both)
    await approved(both.graph, second)
    third = await a_version_in(both.graph, both.name, "STAGING")
    for version in (second, third):
        await both.told(version)
    # The last that came into it has it.
    assert both.aliases() == {"production": 1, "staging": 3}

    await both.stage(third, "ARCHIVED")
    await both.told(third)
    assert both.aliases() == {"production": 1, "staging": 2}

    await both.stage(second, "EXPERIMENTAL")
    await both.stage(first, "ARCHIVED")
    for version in (first, second):
        item = await both.told(version)
        assert item.state is SYNCED, item.conflicts
    assert both.aliases() == {}


async def test_the_approval_is_told_by_tags(each: Both) -> None:
    graph, name = each.graph, each.name
    rules = [{"approvals": {"count": 1}}]
    policy = {"stage": "PRODUCTION", "modelName": name, "rules": rules}
    version = await a_version(graph, name, artifactDigest="sha256:1")
    await set_policy(graph, policy)
    where: Json = {"modelVersion": {"id": version["id"]}}
    boss = {"Lifecycle-Actor": "approver"}

    async def after(mutation: str, input: Json, **headers: str) -> dict[str, str]:
        done = await graph.mutate(mutation, where | input, **headers)
        assert done["__typename"].endswith("Success"), done
        assert (await each.told(version)).state is SYNCED
        return {key: tag for key, tag in each.tags(1).items() if key.startswith("appro")}

    assert await after("submitForApproval", {}) == {"approval": "PENDING"}
    assert await after("decideApproval", {"decision": "REJECT", "notes": "No."}, **boss) == {
        "approval": "REJECTED"
    }
    assert await after("submitForApproval", {}) == {"approval": "PENDING"}
    told = await after("decideApproval", {"decision": "APPROVE"}, **boss)
    by = (
        await graph.query(
            "query ($by: ModelVersionSelector!) "
            "{ modelVersion(by: $by) { approval { decidedAt } } }",
            {"by": {"id": version["id"]}},
        )
    )["modelVersion"]["approval"]
    assert told.pop("approved_at")[:19] == by["decidedAt"][:19]
    assert told == {"approval": "APPROVED", "approved_by": "approver"}
    assert await after("updateModelVersion", {"artifactDigest": "sha256:2"}) == {
        "approval": "STALE"
    }


async def test_deployments_are_told_by_tags(each: Both) -> None:
    version = await a_version(each.graph, each.name)
    await each.told(version)
    first = await a_deployment(each.graph, version, status="ACTIVE")
    await each.graph.done(
        "updateDeployment", {"id": first, "endpoint": "http://here"}, "deployment { id }"
    )

    async def told() -> dict[str, str]:
        await each.told(version)
        return {k: tag for k, tag in each.tags(1).items() if k.startswith("deployment")}

    assert await told() == {
        "deployment.development": "ACTIVE",
        "deployment.development.endpoint": "http://here",
    }
    second = await a_deployment(each.graph, version)
    assert await told() == {"deployment.development": "PENDING"}
    for id in (second, first):
        ended = {"id": id, "status": "TERMINATED"}
        await each.graph.done("updateDeployment", ended, "deployment { id }")
    assert await told() == {}


async def test_what_is_deleted_here_is_marked_there(both: Both) -> None:
    kept = await a_version(both.graph, both.name)
    version = await a_version_in(both.graph, both.name, "STAGING")
    for each_of in (kept, version):
        await both.told(each_of)
    assert both.aliases() == {"staging": 2}
    where = {"modelVersion": {"id": version["id"]}}
    await both.graph.done("deleteModelVersion", where, "modelVersion { id }")

    assert (await both.told(version)).state is SYNCED

    assert both.aliases() == {}
    tags = both.tags(2)
    assert tags["stage"] == "ARCHIVED"
    assert tags["deleted"].startswith("20")
    # What is done to it there does not matter any more.
    both.plain.update_model_version(both.name, "2", "Still there.")
    assert (await both.seen(2)).state is SYNCED


async def test_a_version_waits_for_those_before_it_and_has_the_same_number(both: Both) -> None:
    versions = await asyncio.gather(*(a_version(both.graph, both.name) for _ in range(12)))
    # The last one first, and several at once, as several workers do it.
    hands = sorted(versions, key=lambda version: -int(version["version"]))
    await asyncio.gather(*(both.told(version) for version in hands[:4]))
    for version in hands:
        assert (await both.told(version)).mlflow_id == f"{both.name}/{version['version']}"
    assert len(both.plain.search_model_versions(f"name = '{both.name}'")) == 12


async def test_a_deleted_version_keeps_its_number_free_there(both: Both) -> None:
    first, second = [await a_version(both.graph, both.name) for _ in range(2)]
    where = {"modelVersion": {"id": first["id"]}}
    await both.graph.done("deleteModelVersion", where, "modelVersion { id }")
    assert (await both.told(second)).mlflow_id == f"{both.name}/2"
    assert "deleted" in both.tags(1)


async def test_a_version_whose_making_was_not_answered_is_made_once(
    live: Live, sql: asyncpg.Connection, graph: Graph, mlflow: Mlflow, faults: Faults, unique: str
) -> None:
    client = Client(faults.url)
    mirror = await Mirror.begin(live.database, client, unique)
    both = Both(mirror, mlflow, MlflowClient(mlflow.url), graph, unique)
    version = await a_version(graph, unique)
    faults.dropping("model-versions/create", times=1)

    with pytest.raises(Unreachable):
        await both.told(version)
    item = await both.told(version)

    await client.close()
    assert (item.state, item.mlflow_id) == (SYNCED, f"{unique}/1")
    assert faults.count("model-versions/create") == 1
    assert len(both.plain.search_model_versions(f"name = '{unique}'")) == 1


# What begins there comes in.


@pytest.mark.slow
async def test_versions_that_training_code_registers_come_in(each: Both) -> None:
    run_there = each.mlflow.train(TRAINING, each.name).strip().splitlines()[-1]
    each.plain.set_model_version_tag(each.name, "1", "team", "fraud")
    each.plain.set_registered_model_alias(each.name, "champion", "2")

    items = [await each.seen(2), await each.seen(1)]

    assert [(item.state, item.conflicts) for item in items] == [(SYNCED, []), (SYNCED, [])]
    here = await each.versions()
    assert sorted(here) == ["1", "2"]
    run_id = await each.mirror.here(RUN, run_there)
    assert run_id is not None
    for number, version in here.items():
        assert version["run"] == {"id": ids.encode("Run", run_id)}
        assert version["metrics"] == [{"key": "accuracy", "value": 0.9}]
        assert version["artifactPath"] == each.there(int(number)).source
        assert (version["stage"], version["createdBy"]) == ("EXPERIMENTAL", "system:mlflow")
    assert here["1"]["tags"] == [{"key": "team", "value": "fraud"}]
    assert here["2"]["tags"] == [{"key": "mlflow.alias.champion", "value": "true"}]
    assert each.tags(1)["id"] == str(ids.decode("ModelVersion", here["1"]["id"]))

    each.plain.delete_registered_model_alias(each.name, "champion")
    await each.seen(2)
    assert (await each.versions())["2"]["tags"] == []


async def test_a_number_that_is_taken_here_becomes_another(both: Both) -> None:
    ours = await a_version(both.graph, both.name)
    both.plain.create_registered_model(both.name)
    both.register("s3://models/theirs")
    await both.seen(1)
    await both.told(ours)
    here = await both.versions()
    assert here["2"]["artifactPath"] == "s3://models/theirs"
    assert (await both.item(here["2"])).mlflow_id == f"{both.name}/1"
    assert both.tags(1)["version"] == "2"
    assert (await both.item(ours)).mlflow_id == f"{both.name}/2"
    assert both.tags(2)["version"] == "1"


async def test_a_version_of_a_run_that_is_gone_comes_in_without_it(both: Both) -> None:
    experiment = both.plain.create_experiment(both.name)
    run = both.plain.create_run(experiment).info.run_id
    both.plain.create_registered_model(both.name)
    both.register(f"runs:/{run}/model", run_id=run)
    both.plain.delete_run(run)
    assert (await both.seen(1)).state is SYNCED
    here = (await both.versions())["1"]
    assert (here["run"], here["artifactPath"]) == (None, f"runs:/{run}/model")


@pytest.mark.parametrize("value", [0.6, None])
async def test_a_version_of_a_run_that_was_made_here_has_the_figures_that_it_has_here(
    live: Live, graph: Graph, mlflow: Mlflow, faults: Faults, unique: str, value: float | None
) -> None:
    # given: its mirror never comes to an end, because MLflow's files fail
    client = Client(faults.url)
    mirror = await Mirror.begin(live.database, client, unique)
    both = Both(mirror, mlflow, MlflowClient(mlflow.url), graph, unique)
    figures = [] if value is None else [{"key": "accuracy", "value": value}]
    model = {"name": "model", "path": "model.pkl"}
    run = await a_run(graph, unique, metrics=figures, artifacts=[model])
    faults.answering(500, "no such bucket", "text/plain", matching="artifact")
    item = await mirror.ours(RUN, ids.decode("Run", run))
    assert (item.state, item.synced_at) == (SyncState.PENDING, None)

    # when: somebody writes better ones there, and makes a version of it
    both.plain.log_metric(item.mlflow_id, "accuracy", 0.99, step=9)
    both.plain.log_metric(item.mlflow_id, "recall", 0.99)
    both.plain.create_registered_model(unique)
    both.register(run_id=item.mlflow_id)
    seen = await both.seen(1)

    # then
    await client.close()
    assert seen.state is SYNCED
    here = (await both.versions())["1"]
    assert (here["run"], here["metrics"]) == ({"id": run}, figures)


async def test_a_copy_of_a_version_is_another_version(both: Both) -> None:
    version = await a_version_in(both.graph, both.name, "PRODUCTION")
    await both.told(version)
    copied = f"{both.name}-copy"
    both.plain.copy_model_version(f"models:/{both.name}/1", copied)
    copy = Both(both.mirror, both.mlflow, both.plain, both.graph, copied)
    assert copy.tags(1)["stage"] == "PRODUCTION"

    item = await copy.seen(1)

    assert item.state is SYNCED
    here = (await copy.versions())["1"]
    assert here["stage"] == "EXPERIMENTAL"
    assert ids.decode("ModelVersion", here["id"]) == item.object_id
    # What we had told of the one is not true of the other.
    assert (copy.tags(1)["stage"], copy.tags(1)["approval"]) == ("EXPERIMENTAL", "NOT_SUBMITTED")
    assert copy.tags(1)["id"] == str(item.object_id)
    assert (await both.told(version)).state is SYNCED


async def test_a_version_that_is_deleted_there_stays_here_as_it_was(each: Both) -> None:
    version = await a_version(each.graph, each.name, artifactPath="s3://models/1")
    await each.told(version)
    each.plain.delete_model_version(each.name, "1")
    item = await each.told(version)
    assert item.state is CONFLICT
    (conflict,) = item.conflicts
    assert "not found" in conflict["reason"]
    here = (await each.versions())["1"]
    assert here["artifactPath"] == "s3://models/1"

    # One that nobody knows of does not come in at all.
    each.register()
    each.plain.delete_model_version(each.name, "2")
    assert await each.mirror.theirs(VERSION, f"{each.name}/2") is None


async def test_another_version_that_gets_the_number_of_one_is_not_taken_for_it(
    both: Both,
) -> None:
    version = await a_version_in(both.graph, both.name, "PRODUCTION", artifactPath="s3://models/1")
    await both.told(version)
    both.plain.delete_registered_model(both.name)
    both.plain.create_registered_model(both.name)
    both.register("s3://elsewhere/1")

    item = await both.told(version)

    assert item.state is CONFLICT
    (conflict,) = item.conflicts
    assert conflict["reason"] == (
        f"Version 1 of model {both.name} was deleted in MLflow; it is another now."
    )
    assert both.there(1).tags == {}
    assert both.aliases() == {}


# What is moved there moves nothing here.


@pytest.mark.parametrize("resolution", [Resolution.KEEP_OURS, Resolution.LEAVE])
async def test_an_alias_that_is_moved_there_is_a_conflict_of_both_versions(
    each: Both, resolution: Resolution
) -> None:
    await a_promoted(each)
    each.plain.set_registered_model_alias(each.name, "production", "2")

    items = [await each.seen(1), await each.seen(2)]

    assert [item.state for item in items] == [CONFLICT, CONFLICT]
    assert [[c["field"] for c in item.conflicts] for item in items] == [["alias:production"]] * 2
    assert [item.conflicts[0]["reason"] for item in items] == [
        "In MLflow the alias production is not on it any more; here it is in PRODUCTION. " + ALONE,
        "In MLflow the alias production is on it; here version 1 is in PRODUCTION, and this one in "
        "EXPERIMENTAL. " + ALONE,
    ]
    assert resolutions(conflicts_of(items[0])[0]) == (Resolution.KEEP_OURS, Resolution.LEAVE)
    assert await each.stages() == {"1": "PRODUCTION", "2": "EXPERIMENTAL"}
    assert each.aliases() == {"production": 2}

    items = [await each.mirror.resolve(item, resolution) for item in items]

    assert [item.state for item in items] == [SYNCED, SYNCED]
    assert await each.stages() == {"1": "PRODUCTION", "2": "EXPERIMENTAL"}
    kept = resolution is Resolution.KEEP_OURS
    assert each.aliases() == {"production": 1 if kept else 2}


async def test_what_is_resolved_by_setting_the_stage_here_is_no_conflict_any_more(
    both: Both,
) -> None:
    first, second = await a_promoted(both)
    both.plain.set_registered_model_alias(both.name, "production", "2")
    assert (await both.seen(2)).state is CONFLICT
    await approved(both.graph, second)
    await both.stage(second, "PRODUCTION")
    assert [(await both.told(version)).state for version in (first, second)] == [SYNCED, SYNCED]
    assert both.aliases() == {"production": 2}


async def test_a_stage_that_is_set_there_is_a_conflict(each: Both) -> None:
    _, second = await a_promoted(each)
    await each.transition(2, "Production")

    item = await each.seen(2)

    assert item.state is CONFLICT
    (conflict,) = item.conflicts
    assert conflict == {
        "field": "stage",
        "ours": None,
        "theirs": "PRODUCTION",
        "rule": "WATCHED",
        "reason": f"In MLflow its stage is Production; here it is in EXPERIMENTAL. {ALONE}",
    }
    assert await each.stages() == {"1": "PRODUCTION", "2": "EXPERIMENTAL"}
    assert each.aliases() == {"production": 1}

    # It is left as it is; and again a conflict when it is changed again.
    assert (await each.mirror.resolve(item, Resolution.LEAVE)).state is SYNCED
    assert (await each.seen(2)).state is SYNCED
    await each.transition(2, "Archived")
    assert (await each.seen(2)).state is CONFLICT
    # Somebody acts here, and both sides are the same.
    await each.stage(second, "ARCHIVED")
    assert (await each.told(second)).state is SYNCED


async def test_a_version_that_has_a_stage_when_it_is_first_seen_has_none_here(each: Both) -> None:
    each.plain.create_registered_model(each.name)
    each.register()
    await each.transition(1, "Production")
    each.plain.set_registered_model_alias(each.name, "production", "1")

    item = await each.seen(1)

    assert item.state is CONFLICT
    assert [c["reason"] for c in item.conflicts] == [
        f"In MLflow the alias production is on it; here nothing is in PRODUCTION. {ALONE}",
        f"In MLflow its stage is Production; here it is in EXPERIMENTAL. {ALONE}",
    ]
    assert await each.stages() == {"1": "EXPERIMENTAL"}


# Only an import takes stages over, on behalf of an administrator.


async def test_an_import_takes_stages_over_in_the_name_of_an_administrator(each: Both) -> None:
    each.plain.create_registered_model(each.name)
    for stage in ("Archived", "Production", "Staging", "None"):
        number = each.register()
        await each.transition(number, stage)

    items = await each.imported(1, 2, 3, 4)

    assert [item.conflicts for item in items] == [[]] * 4
    assert await each.stages() == {
        "1": "ARCHIVED",
        "2": "PRODUCTION",
        "3": "STAGING",
        "4": "EXPERIMENTAL",
    }
    why = f"In stage Production on MLflow at {each.mlflow.url} when it was imported."
    here = (await each.versions())["2"]
    assert here["approval"] == {"status": "BYPASSED", "decidedBy": "admin", "notes": why}
    last = here["stageHistory"][-1]
    assert last == {"stage": "PRODUCTION", "actor": "admin", "reason": why, "cause": "BYPASSED"}
    log = await each.graph.query(
        """query ($subject: ID!) { auditLog(first: 50, filter: {subject: $subject}) {
          nodes { action actor reason } } }""",
        {"subject": here["id"]},
    )
    said = [
        (entry["action"], entry["actor"], entry["reason"]) for entry in log["auditLog"]["nodes"]
    ]
    assert ("model_version.approval_decided", "admin", why) in said
    assert ("model_version.stage_changed", "admin", why) in said
    assert ("model_version.registered", "system:mlflow", None) in said
    assert {actor for action, actor, _ in said if action != "model_version.registered"} == {"admin"}
    # Nothing is written there, until it is mirrored.
    assert (each.there(2).tags, each.aliases()) == ({}, {})

    # Again, and nothing happens again.
    before = await each.versions()
    await each.imported(1, 2, 3, 4)
    assert await each.versions() == before

    for number in (1, 2, 3, 4):
        assert (await each.seen(number)).state is SYNCED
    assert each.aliases() == {"production": 2, "staging": 3}
    assert each.there(2).current_stage == "Production"


async def test_an_alias_is_taken_over_as_a_stage(both: Both) -> None:
    both.plain.create_registered_model(both.name)
    for _ in range(2):
        both.register()
    both.plain.set_registered_model_alias(both.name, "production", "1")
    both.plain.set_registered_model_alias(both.name, "staging", "2")
    items = await both.imported(1, 2)
    assert [item.conflicts for item in items] == [[], []]
    assert await both.stages() == {"1": "PRODUCTION", "2": "STAGING"}
    assert (await both.versions())["1"]["approval"]["notes"] == (
        f"With alias production on MLflow at {both.mlflow.url} when it was imported."
    )


@pytest.mark.parametrize(("alias", "winner"), [(None, 1), (2, 2)])
async def test_of_several_in_production_there_one_is_and_the_others_are_archived(
    each: Both, alias: int | None, winner: int
) -> None:
    each.plain.create_registered_model(each.name)
    for _ in range(3):
        await each.transition(each.register(), "Production")
    each.plain.update_model_version(each.name, "1", "Changed last.")
    if alias is not None:
        each.plain.set_registered_model_alias(each.name, "production", str(alias))
    items = await each.imported(3, 1, 2)
    assert [item.conflicts for item in items] == [[]] * 3
    stages = dict.fromkeys(["1", "2", "3"], "ARCHIVED") | {str(winner): "PRODUCTION"}
    assert await each.stages() == stages


async def test_an_import_replaces_nothing_that_is_in_production_here(both: Both) -> None:
    ours = await a_version_in(both.graph, both.name, "PRODUCTION", version="ours")
    both.plain.create_registered_model(both.name)
    await both.transition(both.register(), "Production")

    (item,) = await both.imported(1)

    assert item.state is CONFLICT
    assert [c["reason"] for c in item.conflicts] == [
        "In MLflow it is in production; here version ours is. "
        "What is in PRODUCTION here is replaced by setStage alone."
    ]
    assert await both.stages() == {"ours": "PRODUCTION", "1": "EXPERIMENTAL"}
    assert (await both.told(ours)).mlflow_id == f"{both.name}/2"


@pytest.mark.parametrize("came_in", [False, True])
async def test_an_import_brings_nothing_into_production_of_a_run_that_was_not_made_there(
    live: Live, both: Both, came_in: bool
) -> None:
    # given a version of MLflow's, of the mirror of a run
    if came_in:
        other = await Mirror.begin(live.database, both.mirror.client, f"{both.name}-elsewhere")
        elsewhere = both.plain.create_run(both.plain.create_experiment(both.name)).info.run_id
        from_there = await other.theirs(RUN, elsewhere)
        assert from_there is not None
        assert from_there.object_id is not None
        run = from_there.object_id
    else:
        run = ids.decode("Run", await a_run(both.graph, both.name))
    mirrored = await both.mirror.ours(RUN, run)
    both.plain.create_registered_model(both.name)
    both.register(run_id=mirrored.mlflow_id)
    both.plain.set_registered_model_alias(both.name, "production", "1")

    # when
    (item,) = await both.imported(1)

    # then
    assert [c["reason"] for c in item.conflicts] == [
        "In MLflow it is in production; it, or the run that it came out of, was not made there, so "
        "it comes into PRODUCTION by setStage alone."
    ]
    assert await both.stages() == {"1": "EXPERIMENTAL"}


async def test_an_import_moves_nothing_out_of_production(both: Both) -> None:
    both.plain.create_registered_model(both.name)
    await both.transition(both.register(), "Production")
    await both.imported(1)
    await both.transition(1, "Archived")
    await both.transition(both.register(), "Production")

    items = await both.imported(1, 2)

    assert [item.state for item in items] == [CONFLICT, CONFLICT]
    assert items[0].conflicts[0]["reason"] == (
        "In MLflow it is not in production any more; here it is. "
        "What is in PRODUCTION here is moved by setStage alone."
    )
    assert await both.stages() == {"1": "PRODUCTION", "2": "EXPERIMENTAL"}


async def test_an_import_passes_the_policy_of_staging_or_not_at_all(both: Both) -> None:
    policy = {
        "stage": "STAGING",
        "modelName": both.name,
        "rules": [{"metric": {"key": "accuracy", "atLeast": 0.5, "required": True}}],
    }
    await a_version(both.graph, both.name)
    await set_policy(both.graph, policy)
    both.plain.create_registered_model(both.name)
    both.register()
    await both.transition(both.register(), "Staging")
    (item,) = await both.imported(2)
    assert item.state is CONFLICT
    assert [c["field"] for c in item.conflicts] == ["stage"]
    assert (await both.versions())["2"]["stage"] == "EXPERIMENTAL"
