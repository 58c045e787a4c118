"""The mirror at work: what is written through GraphQL appears in MLflow, by itself."""

from typing import Any

from lifecycle.database import Database
from lifecycle.journal.feed import Feed
from lifecycle.tracking.rules import Settled, TrackedKind
from lifecycle.tracking.worker import Round, running
from tests.client import Graph, Json
from tests.conftest import serving
from tests.factories import a_deployment, a_run, a_version, approved
from tests.graphql.test_metrics import logged
from tests.tracking.conftest import Mlflow, an_mlflow
from tests.tracking.working import LINK, Working, asked, working


async def a_life(graph: Graph, name: str) -> dict[str, Any]:
    """An experiment, a run with all that it may have, a version of it in production, deployed."""
    await graph.done(
        "createExperiment",
        {"name": name, "description": "About birds.", "tags": [{"key": "team", "value": "vision"}]},
        "experiment { id }",
    )
    run = await a_run(
        graph,
        name,
        name="first try",
        params=[{"key": "lr", "value": "0.01"}],
        tags=[{"key": "gpu", "value": "no"}],
    )
    await logged(graph, run, {"key": "loss", "steps": [0, 1, 2], "values": [0.5, 0.25, 0.125]})
    lines = [{"message": "epoch 1"}, {"message": "epoch 2"}]
    assert (await graph.mutate("logRunOutput", {"runId": run, "lines": lines}))[
        "__typename"
    ] == "LogRunOutputSuccess"
    await graph.done("updateRun", {"id": run, "status": "COMPLETED"}, "run { id }")
    version = await approved(graph, await a_version(graph, name, runId=run))
    where = {"modelVersion": {"id": version["id"]}, "stage": "PRODUCTION"}
    await graph.done("setStage", where, "modelVersion { id }")
    deployment = await a_deployment(graph, version, "STAGING", "ACTIVE")
    return {"run": run, "version": version["id"], "deployment": deployment}


async def links(graph: Graph, name: str, life: Json) -> dict[str, Json]:
    """How each object of a life stands with MLflow."""
    found = await graph.query(
        f"""query ($name: String!, $run: ID!, $version: ID!) {{
          experiment(name: $name) {{ {LINK} }} run(id: $run) {{ {LINK} }}
          model(name: $name) {{ {LINK} }} modelVersion(by: {{id: $version}}) {{ {LINK} }} }}""",
        {"name": name, "run": life["run"], "version": life["version"]},
    )
    return {kind: each["mlflow"] for kind, each in found.items()}


async def assert_all_there(work: Working, name: str, life: Json) -> None:
    stand = await links(work.graph, name, life)
    assert [(each["state"], each["error"], each["conflicts"]) for each in stand.values()] == [
        ("IN_SYNC", None, [])
    ] * 4, stand
    plain = work.plain
    experiment = plain.get_experiment(stand["experiment"]["id"])
    assert (experiment.name, experiment.tags["team"]) == (name, "vision")
    assert experiment.tags["mlflow.note.content"] == "About birds."
    [run] = await work.runs(name)
    assert run.info.run_id == stand["run"]["id"]
    assert (run.info.run_name, run.info.status) == ("first try", "FINISHED")
    assert run.data.params == {"lr": "0.01"}
    assert run.data.tags["gpu"] == "no"
    history = plain.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 0.25), (2, 0.125)]
    output = f"{work.mlflow_url}/get-artifact?run_uuid={run.info.run_id}"
    log = await work.graph.http.get(f"{output}&path=lifecycle/output/000001.log")
    assert [line.endswith(f"epoch {n + 1}") for n, line in enumerate(log.text.splitlines())] == [
        True,
        True,
    ]
    version = plain.get_model_version(name, "1")
    assert stand["modelVersion"]["id"] == f"{name}/1"
    assert version.run_id == run.info.run_id
    told = {key: value for key, value in version.tags.items() if key.startswith("lifecycle.")}
    assert told["lifecycle.stage"] == "PRODUCTION"
    assert told["lifecycle.approval"] == "APPROVED"
    assert told["lifecycle.deployment.staging"] == "ACTIVE"
    assert plain.get_registered_model(name).aliases == {"production": "1"}


async def test_all_that_is_written_through_graphql_appears_in_mlflow(
    own_database_url: str, any_mlflow: Mlflow, unique: str
) -> None:
    # given: something from before MLflow was configured
    before = f"{unique}-before"
    async with serving(own_database_url) as old, Graph(old.url) as graph:
        earlier = await a_life(graph, before)
        assert {each["state"] for each in (await links(graph, before, earlier)).values()} == {
            "NOT_CONFIGURED"
        }

    async with working(own_database_url, any_mlflow.url) as work:
        # when
        life = await a_life(work.graph, unique)
        ends = await a_run(work.graph, f"{unique}-ends")
        asked = f"query ($id: ID!) {{ run(id: $id) {{ {LINK} }} }}"
        link = (await work.graph.query(asked, {"id": ends}))["run"]["mlflow"]
        assert (link["state"], link["id"], link["lastSyncedAt"]) == ("PENDING", None, None)
        await work.quiet()
        await work.graph.done("updateRun", {"id": ends, "status": "CANCELLED"}, "run { id }")
        await work.quiet()

        # then
        await assert_all_there(work, before, earlier)
        await assert_all_there(work, unique, life)
        assert [run.info.status for run in await work.runs(f"{unique}-ends")] == ["KILLED"]
        server = await work.server()
        assert server.pop("version").startswith(any_mlflow.line)
        assert server == {
            "uri": any_mlflow.url,
            "answering": True,
            "error": None,
            "pending": 0,
            "failed": 0,
            "conflicts": 0,
            "behind": 0,
        }


async def test_whoever_watches_is_told_of_each_round(own_database_url: str, unique: str) -> None:
    rounds: list[Round] = []
    with an_mlflow() as mlflow:
        async with (
            serving(own_database_url) as live,
            asked(live.url, own_database_url, mlflow.url) as work,
        ):
            # Given a run whose experiment has to come first
            await a_run(work.graph, unique)
            database = Database(own_database_url)
            # When it is mirrored
            async with Feed(database).running(), running(database, mlflow.url, 1, rounds.append):
                await work.quiet()
            await database.close()

    # Then each object is done
    done = {each.kind for each in rounds if each.settled is Settled.DONE}
    assert done == {TrackedKind.EXPERIMENT, TrackedKind.RUN}
    assert {each.what for each in rounds} >= {"poll", "item"}
    assert Settled.FAILED not in {each.settled for each in rounds}
    assert all(each.seconds >= 0 for each in rounds)
