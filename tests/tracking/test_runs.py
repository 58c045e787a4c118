"""Runs on both sides: what is logged here appears in MLflow, and what is logged there here."""

import asyncio
import math
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest
import pytest_asyncio
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from sqlalchemy import select

from lifecycle.access.origin import Origin
from lifecycle.access.rules import UNPROVEN
from lifecycle.database import WriteSession
from lifecycle.errors import Conflict
from lifecycle.runs.service import NewArtifact, UpdateRun, update
from lifecycle.runs.tables import MetricPointRow
from lifecycle.tracking import reconcile, repository, runs
from lifecycle.tracking.client import Client, Unreachable
from lifecycle.tracking.rules import Resolution, SyncState, TrackedKind
from lifecycle.tracking.service import ResolveConflict, resolve
from lifecycle.tracking.tables import MlflowItemRow
from schema import ids
from tests.client import PATIENCE, Graph, Json
from tests.conftest import Live
from tests.factories import a_run, a_version, approved
from tests.following import RUN as PROGRESS
from tests.following import items as followed
from tests.following import take, waiting
from tests.graphql.test_metrics import histories, logged
from tests.graphql.test_runs import fall_silent, transitions, until_lost
from tests.tracking.conftest import Mlflow
from tests.tracking.drive import Mirror, differences, global_id
from tests.tracking.faults import Faults

RUN = TrackedKind.RUN
FIELDS = """
    id name status statusMessage params { key value } tags { key value } source gitCommit
    datasetFacts createdBy startedAt endedAt leaseSeconds revision
    experiment { name } parent { id } dataSet { name digest }
    artifacts { name path sizeBytes digest } metrics { key value kind step timestamp }
"""
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_MS = int(NOON.timestamp() * 1000)


@pytest_asyncio.fixture
async def mirror(live: Live, mlflow: Mlflow, unique: str) -> AsyncIterator[Mirror]:
    """What is on both sides of the newest MLflow."""
    client = Client(mlflow.url)
    yield await Mirror.begin(live.database, client, unique)
    await client.close()


@pytest_asyncio.fixture
async def any_mirror(live: Live, any_mlflow: Mlflow, unique: str) -> AsyncIterator[Mirror]:
    """What is on both sides of each line of MLflow."""
    client = Client(any_mlflow.url)
    yield await Mirror.begin(live.database, client, unique)
    await client.close()


@pytest_asyncio.fixture
async def shaky(live: Live, faults: Faults, unique: str) -> AsyncIterator[Mirror]:
    """What is on both sides, over a line on which things go wrong."""
    client = Client(faults.url)
    yield await Mirror.begin(live.database, client, unique)
    await client.close()


def plain(uri: str) -> Any:
    """What training code that only knows MLflow uses. It blocks, so it must not go by `Faults`."""
    return MlflowClient(uri)


async def read(graph: Graph, run: str) -> Json:
    """A run as a client sees it; pairs as mappings."""
    query = f"query ($id: ID!) {{ run(id: $id) {{ {FIELDS} }} }}"
    found: Json = (await graph.query(query, {"id": run}))["run"]
    for pairs in ("params", "tags"):
        found[pairs] = {pair["key"]: pair["value"] for pair in found[pairs]}
    return found


async def mirrored(mirror: Mirror, run: str) -> MlflowItemRow:
    """How a run of ours stands after it was looked at."""
    return await mirror.ours(RUN, ids.decode("Run", run))


async def followed_in(mirror: Mirror, there: str) -> str:
    """The run that one of MLflow's is here, after that was looked at."""
    item = await mirror.theirs(RUN, there)
    assert item is not None
    assert (item.state, item.error, item.conflicts) == (SyncState.IN_SYNC, None, [])
    return global_id("Run", item)


async def change(graph: Graph, run: str, **input: object) -> None:
    await graph.done("updateRun", {"id": run, **input}, "run { id }")


def a_run_there(client: Any, experiment: str, **tags: str) -> str:
    """The id of a new run of the plain client, in an experiment that is made if need be."""
    found = client.get_experiment_by_name(experiment)
    id = found.experiment_id if found else client.create_experiment(experiment)
    return str(client.create_run(id, tags=tags).info.run_id)


def points_there(client: Any, run: str | None, key: str) -> list[tuple[int, str, int]]:
    """Step, value and milliseconds of each point in MLflow."""
    found = client.get_metric_history(run, key)
    return sorted((point.step, str(point.value), point.timestamp) for point in found)


async def points_here(mirror: Mirror, run: str, key: str) -> list[tuple[int, str, datetime]]:
    """Step, value and time of each point here."""
    async with mirror.database.read() as session:
        rows = await session.fetch(
            select(MetricPointRow)
            .where(MetricPointRow.run_id == ids.decode("Run", run), MetricPointRow.key == key)
            .order_by(MetricPointRow.step, MetricPointRow.timestamp)
        )
        return [(row.step, str(row.value), row.timestamp) for row in rows]


def pairs(**values: str) -> list[Json]:
    return [{"key": key, "value": value} for key, value in values.items()]


# Out.


async def test_a_run_that_was_logged_here_appears_there(
    graph: Graph, any_mirror: Mirror, unique: str
) -> None:
    # given: a run with everything that a run can have
    parent = await a_run(graph, unique, name="all of them")
    run = await a_run(
        graph,
        unique,
        name="the first",
        status="COMPLETED",
        statusMessage="Went well.",
        params=pairs(rate="0.1", empty=""),
        tags=pairs(team="a"),
        source="train.py",
        gitCommit="abc123",
        datasetFacts={"name": "churn", "digest": "d1", "rows": 5},
        parentId=parent,
        startedAt=NOON.isoformat(),
        endedAt=(NOON + timedelta(hours=1)).isoformat(),
        artifacts=[{"name": "model", "path": "s3://models/1", "sizeBytes": 7, "digest": "x"}],
    )
    times = [(NOON + timedelta(microseconds=1_500 * n)).isoformat() for n in range(4)]
    await logged(
        graph,
        run,
        {
            "key": "loss",
            "steps": [0, 1, 1, 2],
            "values": [0.5, None, None, None],
            "kinds": ["FINITE", "NAN", "NEGATIVE_INFINITY", "POSITIVE_INFINITY"],
            "timestamps": times,
        },
    )
    lines = [{"message": "begun", "timestamp": NOON.isoformat()}, {"message": "ß", "level": "WARN"}]
    await graph.done("logRunOutput", {"runId": run, "lines": lines}, "run { id }")

    # when
    item = await mirrored(any_mirror, run)

    # then
    assert (item.state, item.error, item.conflicts) == (SyncState.IN_SYNC, None, [])
    client = plain(any_mirror.client.uri)
    there = client.get_run(item.mlflow_id)
    assert client.get_experiment(there.info.experiment_id).name == unique
    assert (
        item.url
        == f"{any_mirror.client.uri}/#/experiments/{there.info.experiment_id}/runs/{item.mlflow_id}"
    )
    assert (there.info.run_name, there.info.status) == ("the first", "FINISHED")
    assert (there.info.start_time, there.info.end_time) == (NOON_MS, NOON_MS + 3_600_000)
    assert there.data.params == {"rate": "0.1", "empty": ""}
    id = str(ids.decode("Run", run))
    facts = there.data.tags.pop("lifecycle.dataset_facts")
    assert orjson.loads(facts) == {"name": "churn", "digest": "d1", "rows": 5}
    assert there.data.tags == {
        "team": "a",
        "mlflow.runName": "the first",
        "mlflow.note.content": "Went well.",
        "mlflow.source.name": "train.py",
        "mlflow.source.git.commit": "abc123",
        "mlflow.parentRunId": await any_mirror.there(RUN, ids.decode("Run", parent)),
        "lifecycle.id": id,
        "lifecycle.status": "COMPLETED",
        "lifecycle.created_by": "tester",
    }
    (used,) = there.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("churn", "d1")
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    # MLflow keeps milliseconds, and the largest number that there is for infinity.
    largest = 1.7976931348623157e308
    assert points_there(client, item.mlflow_id, "loss") == [
        (0, "0.5", NOON_MS),
        (1, f"{-largest}", NOON_MS + 3),
        (1, "nan", NOON_MS + 1),
        (2, f"{largest}", NOON_MS + 4),
    ]
    files = await any_mirror.client.files(str(item.mlflow_id))
    assert {file.path for file in files} == {
        "lifecycle/artifacts.json",
        "lifecycle/output/000001.log",
    }


async def test_files_there_say_what_artifacts_and_lines_there_are_here(
    graph: Graph, mirror: Mirror, unique: str, tmp_path: Any
) -> None:
    # given: a log of more than one part
    artifact = {"name": "model", "path": "s3://models/1", "sizeBytes": 7, "digest": "x"}
    run = await a_run(graph, unique, artifacts=[artifact])
    stamp = {"timestamp": NOON.isoformat()}
    lines = [{"message": f"line {n}", **stamp} for n in range(1, 1_001)]
    await graph.done("logRunOutput", {"runId": run, "lines": lines}, "run { id }")
    await graph.done(
        "logRunOutput", {"runId": run, "lines": [{"message": "last", **stamp}]}, "run { id }"
    )

    # when
    there = (await mirrored(mirror, run)).mlflow_id

    # then
    client = plain(mirror.client.uri)

    def written(path: str) -> str:
        with open(client.download_artifacts(there, f"lifecycle/{path}", str(tmp_path))) as file:
            return file.read()

    assert orjson.loads(written("artifacts.json")) == [
        {"name": "model", "path": "s3://models/1", "size_bytes": 7, "digest": "x", "area": None}
    ]
    first = written("output/000001.log").splitlines()
    assert (len(first), first[0]) == (1_000, "2026-03-01T12:00:00+00:00 INFO line 1")
    assert written("output/000002.log") == "2026-03-01T12:00:00+00:00 INFO last\n"

    # when: it goes on
    more = [{"message": "on", "level": "error", **stamp}]
    await graph.done("logRunOutput", {"runId": run, "lines": more}, "run { id }")
    await mirrored(mirror, run)

    # then
    assert written("output/000002.log").splitlines() == [
        "2026-03-01T12:00:00+00:00 INFO last",
        "2026-03-01T12:00:00+00:00 ERROR on",
    ]


async def test_only_what_is_new_is_sent(
    graph: Graph, mlflow: Mlflow, shaky: Mirror, faults: Faults, unique: str
) -> None:
    # given: 2,500 points of one metric and one each of a hundred others
    run = await a_run(graph, unique)
    stamps = [(NOON + timedelta(seconds=n)).isoformat() for n in range(2_500)]
    steps = list(range(2_500))
    await logged(graph, run, {"key": "m", "steps": steps, "values": steps, "timestamps": stamps})
    await logged(graph, run, *({"key": f"k{n}", "steps": [1], "values": [n]} for n in range(100)))
    item = await mirrored(shaky, run)
    assert faults.count("POST .*/runs/log-batch") == 1 + 3
    assert len(points_there(plain(mlflow.url), item.mlflow_id, "m")) == 2_500

    # when: nothing has changed
    faults.requests.clear()
    await mirrored(shaky, run)

    # then
    assert {(request.method, request.path.partition("?")[0]) for request in faults.requests} == {
        ("GET", "/api/2.0/mlflow/runs/get")
    }

    # when: one comes late, at an early step
    faults.requests.clear()
    late = {"key": "m", "steps": [3], "values": [0.5], "timestamps": [NOON.isoformat()]}
    await logged(graph, run, late)
    await mirrored(shaky, run)

    # then
    assert [r.path for r in faults.requests if r.method == "POST"] == [
        "/api/2.0/mlflow/runs/log-batch"
    ]
    there = points_there(plain(mlflow.url), item.mlflow_id, "m")
    assert there[3:5] == [(3, "0.5", NOON_MS), (3, "3.0", NOON_MS + 3_000)]


async def test_what_a_former_release_wrote_is_sent_whatever_its_steps(
    graph: Graph, sql: asyncpg.Connection, mirror: Mirror, unique: str
) -> None:
    # given: a batch in the journal that does not say which steps it reached
    run = await a_run(graph, unique)
    there = (await mirrored(mirror, run)).mlflow_id
    id = ids.decode("Run", run)
    await sql.execute("INSERT INTO metric_point VALUES ($1, 'm', 7, $2, 0.5)", id, NOON)
    await sql.execute(
        "INSERT INTO event (type, subject_kind, subject_id, actor, request_id, after) "
        "VALUES ('run.metrics_logged', 'run', $1, 'somebody', 'some request', $2)",
        id,
        '{"metrics": [["m", 0.5, 7, "2026-03-01T12:00:00Z"]], "points": 1}',
    )

    # when
    await mirrored(mirror, run)

    # then
    assert points_there(plain(mirror.client.uri), there, "m") == [(7, "0.5", NOON_MS)]


async def test_a_run_whose_making_was_not_answered_is_one_run(
    graph: Graph, mlflow: Mlflow, shaky: Mirror, faults: Faults, unique: str
) -> None:
    # given: MLflow makes it and nobody is told
    run = await a_run(graph, unique, status="PENDING")
    faults.dropping("runs/create", times=1)
    with pytest.raises(Unreachable):
        await mirrored(shaky, run)

    # when
    item = await mirrored(shaky, run)

    # then
    client = plain(mlflow.url)
    experiment = client.get_experiment_by_name(unique).experiment_id
    (there,) = client.search_runs([experiment])
    assert (item.state, item.mlflow_id) == (SyncState.IN_SYNC, there.info.run_id)
    assert there.info.status == "SCHEDULED"
    assert (await read(graph, run))["status"] == "PENDING"


async def test_an_interruption_anywhere_loses_and_doubles_nothing(
    graph: Graph, mlflow: Mlflow, shaky: Mirror, faults: Faults, unique: str
) -> None:
    file = {"name": "model", "path": "model.pkl"}
    run = await a_run(graph, unique, params=pairs(a="1"), tags=pairs(b="2"), artifacts=[file])
    await logged(graph, run, {"key": "m", "steps": [1, 2], "values": [1, 2]})
    # when: each kind of request in turn is done without an answer
    for request in ("experiments/create", "runs/create", "runs/log-batch", "upload-artifact"):
        faults.dropping(request, times=1)
        try:
            item = await mirrored(shaky, run)
        except Unreachable:
            continue
        assert item.error is not None
        assert item.attempts == 1
    faults.passing()
    item = await shaky.retry(item)

    # then
    assert (item.state, item.error) == (SyncState.IN_SYNC, None)
    client = plain(mlflow.url)
    experiment = client.get_experiment_by_name(unique).experiment_id
    (there,) = client.search_runs([experiment])
    assert (there.data.params, there.data.tags["b"]) == ({"a": "1"}, "2")
    assert [point[:2] for point in points_there(client, there.info.run_id, "m")] == [
        (1, "1.0"),
        (2, "2.0"),
    ]


async def test_a_run_that_is_lost_says_so_in_a_tag(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    run = await followed_in(mirror, a_run_there(plain(mirror.client.uri), unique))
    await change(graph, run, status="LOST")
    item = await mirrored(mirror, run)
    there = plain(mirror.client.uri).get_run(item.mlflow_id)
    assert there.info.status == "RUNNING"
    assert there.data.tags["lifecycle.status"] == "LOST"
    # when: its training code goes on, and only MLflow hears of it
    plain(mirror.client.uri).log_metric(item.mlflow_id, "loss", 0.5)
    await mirror.theirs(RUN, str(item.mlflow_id))
    await mirrored(mirror, run)
    assert (await read(graph, run))["status"] == "RUNNING"
    there = plain(mirror.client.uri).get_run(item.mlflow_id)
    assert there.data.tags["lifecycle.status"] == "RUNNING"


async def test_what_mlflow_cannot_have_is_there_in_another_way_and_does_not_come_back(
    graph: Graph, any_mirror: Mirror, unique: str
) -> None:
    # given
    long = "@" * 250
    run = await a_run(
        graph,
        unique,
        params=[{"key": "recall@5", "value": "v" * 20_000}, {"key": long, "value": "1"}],
        tags=[{"key": "/a//b", "value": "t" * 20_000}, {"key": "lifecycle.id", "value": "mine"}],
        statusMessage="m" * 20_000,
    )
    await logged(graph, run, {"key": "f1 (macro)", "steps": [1], "values": [0.5]})
    before = await read(graph, run)

    # when
    item = await mirrored(any_mirror, run)

    # then
    there = plain(any_mirror.client.uri).get_run(item.mlflow_id)
    assert there.data.params.pop("recall_x40_5") == "v" * 5_999 + "…"
    ((key, value),) = there.data.params.items()
    assert (len(key), value) == (250, "1")
    assert there.data.tags["_x_/a/_x_/b"] == "t" * 7_999 + "…"
    assert there.data.tags["mlflow.note.content"] == "m" * 7_999 + "…"
    assert there.data.tags["lifecycle.id"] == str(ids.decode("Run", run))
    assert there.data.metrics == {"f1 _x28_macro_x29_": 0.5}

    # when: somebody logs another point of it there, and it is looked at again
    plain(any_mirror.client.uri).log_metric(item.mlflow_id, "f1 _x28_macro_x29_", 0.6, step=2)
    await any_mirror.theirs(RUN, str(item.mlflow_id))
    item = await mirrored(any_mirror, run)

    # then
    assert (item.state, item.conflicts) == (SyncState.IN_SYNC, [])
    assert await read(graph, run) == before


# In.


async def test_a_run_of_the_plain_client_appears_here(
    graph: Graph, any_mirror: Mirror, unique: str
) -> None:
    # given
    client = plain(any_mirror.client.uri)
    there = a_run_there(
        client,
        unique,
        **{
            "team": "a",
            "mlflow.runName": "theirs",
            "mlflow.source.name": "fit.py",
            "mlflow.source.git.commit": "abc123",
            "mlflow.user": "ann",
            "mlflow.note.content": "A note.",
        },
    )
    client.log_param(there, "rate", "0.1")
    same = [Metric("acc", value, NOON_MS + 5, 1) for value in (math.inf, math.nan, 0.25)]
    other = [Metric("acc", n, NOON_MS + n, n) for n in (-1, 2)]
    client.log_batch(there, metrics=[*same, *other])
    # MLflow 2 has a data set once, whatever else is said of it.
    used = Dataset(unique, "d1", "http", '{"url": "http://data"}', None, '{"rows": 5}')
    context = InputTag("mlflow.data.context", "train")
    client.log_inputs(there, [DatasetInput(used, [context])])
    client.log_text(there, "hello", "notes/hello.txt")
    client.set_terminated(there, "FINISHED", NOON_MS + 10**9)
    info = client.get_run(there).info

    # when
    run = await read(graph, await followed_in(any_mirror, there))

    # then
    assert run | {"id": "", "metrics": [], "revision": 0} == {
        "id": "",
        "name": "theirs",
        "status": "COMPLETED",
        "statusMessage": "A note.",
        "params": {"rate": "0.1"},
        "tags": {"team": "a", "mlflow.user": "ann"},
        "source": "fit.py",
        "gitCommit": "abc123",
        "datasetFacts": {
            "name": unique,
            "digest": "d1",
            "source_type": "http",
            "source": {"url": "http://data"},
            "profile": {"rows": 5},
            "context": "train",
        },
        "createdBy": "system:mlflow",
        "startedAt": shown(info.start_time),
        "endedAt": shown(max(info.start_time, NOON_MS + 10**9)),
        "leaseSeconds": 7 * 86_400,
        "experiment": {"name": unique},
        "parent": None,
        "dataSet": {"name": unique, "digest": "d1"},
        "artifacts": [
            {"name": "hello.txt", "path": "notes/hello.txt", "sizeBytes": 5, "digest": None}
        ],
        "metrics": [],
        "revision": 0,
    }
    # Values of one step and millisecond are told apart by microseconds, the greatest at last.
    assert await points_here(any_mirror, run["id"], "acc") == [
        (-1, "-1.0", NOON - timedelta(milliseconds=1)),
        (1, "0.25", NOON + timedelta(milliseconds=5)),
        (1, "inf", NOON + timedelta(milliseconds=5, microseconds=1)),
        (1, "nan", NOON + timedelta(milliseconds=5, microseconds=2)),
        (2, "2.0", NOON + timedelta(milliseconds=2)),
    ]
    # And MLflow knows what it is here.
    tags = client.get_run(there).data.tags
    assert tags["lifecycle.id"] == str(ids.decode("Run", run["id"]))
    assert tags["lifecycle.status"] == "COMPLETED"

    # when: it is looked at again
    item = await any_mirror.theirs(RUN, there)

    # then
    assert item is not None
    assert (item.state, item.conflicts) == (SyncState.IN_SYNC, [])
    assert await read(graph, run["id"]) == run
    assert client.get_run(there).data.tags == tags


def shown(milliseconds: int) -> str:
    moment = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds)
    return moment.isoformat()


async def test_an_import_leaves_to_the_worker_what_mlflow_does_not_know_yet(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    # given: a run on both sides, with points that are here only
    run = await a_run(graph, unique)
    there = (await mirrored(mirror, run)).mlflow_id
    assert there is not None
    await logged(
        graph, run, {"key": "m", "steps": [0], "values": [1.0], "timestamps": [NOON.isoformat()]}
    )
    await mirror.numbered()

    # when: an import gets to it first
    server = mirror.sync.server_id
    wanted = {there: "another digest"}
    await mirror.do(repository.want_theirs, server, RUN, wanted, new=True, importing_for="admin")
    task = await mirror.do(repository.take, server, 60.0, RUN)
    assert task is not None
    await reconcile.settle(replace(mirror.sync, writes=False), task)

    # then
    assert await mirror.do(repository.take, server, 60.0, RUN) is None
    assert points_there(plain(mirror.client.uri), there, "m") == []
    await mirror.settle()
    assert points_there(plain(mirror.client.uri), there, "m") == [(0, "1.0", NOON_MS)]


async def test_what_was_deleted_there_is_made_there_anew_if_somebody_says_so(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    # given: a run that began there, and is deleted there
    client = plain(mirror.client.uri)
    there = a_run_there(client, unique)
    client.log_metric(there, "m", 0.5, timestamp=NOON_MS, step=1)
    run = await followed_in(mirror, there)
    client.delete_run(there)
    item = await mirrored(mirror, run)
    assert item.state is SyncState.CONFLICT

    # when
    command = ResolveConflict(id=item.id, resolution=Resolution.KEEP_OURS)
    await mirror.do(resolve, Origin("ada", "a request", rights=UNPROVEN), command)
    await mirror.settle()

    # then: another run, with all that is here
    again = await mirrored(mirror, run)
    assert (again.state, again.mlflow_id == there) == (SyncState.IN_SYNC, False)
    assert points_there(client, again.mlflow_id, "m") == [(1, "0.5", NOON_MS)]


async def test_importing_writes_nothing_there(
    graph: Graph, mlflow: Mlflow, shaky: Mirror, faults: Faults, unique: str
) -> None:
    client = plain(mlflow.url)
    there = a_run_there(client, unique)
    client.log_metric(there, "m", 1.0)
    tags = client.get_run(there).data.tags
    faults.requests.clear()
    run = await followed_in(shaky.importing(), there)
    assert [m["value"] for m in (await read(graph, run))["metrics"]] == [1.0]
    assert client.get_run(there).data.tags == tags
    assert faults.count("POST .*/(create|update|log-batch|set-tag|set-experiment-tag)") == 0


async def test_nested_runs_come_after_the_run_that_they_are_nested_in(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    client = plain(mirror.client.uri)
    parent = a_run_there(client, unique)
    child = a_run_there(client, unique, **{"mlflow.parentRunId": parent})
    itself = a_run_there(client, unique)
    client.set_tag(itself, "mlflow.parentRunId", itself)
    gone = a_run_there(client, unique)
    orphan = a_run_there(client, unique, **{"mlflow.parentRunId": gone})
    client.delete_run(gone)

    # when: the child is seen first
    run = await read(graph, await followed_in(mirror, child))

    # then
    assert run["parent"] == {"id": await followed_in(mirror, parent)}
    # What is nested in itself, or in a run that is deleted, is nested in none here.
    assert (await read(graph, await followed_in(mirror, itself)))["parent"] is None
    assert (await read(graph, await followed_in(mirror, orphan)))["parent"] is None


async def test_progress_there_reaches_those_who_follow_the_run_here(
    graph: Graph, live: Live, mirror: Mirror, unique: str
) -> None:
    # given: somebody follows a run of the plain client
    client = plain(mirror.client.uri)
    there = a_run_there(client, unique)
    run = await followed_in(mirror, there)
    async with aclosing(followed("sse", live.url, PROGRESS, id=run)) as stream:  # type: ignore[type-var]
        assert [item["__typename"] for item in await take(stream, 2)] == [
            "RunStatusEvent",
            "CaughtUp",
        ]

        # when
        client.log_metric(there, "loss", 0.5, step=1)
        await mirror.theirs(RUN, there)
        (progress,) = await take(stream, 1)
        client.log_metric(there, "loss", 0.25, step=2)
        client.set_terminated(there)
        await mirror.theirs(RUN, there)
        last, ended = await take(stream, 2)

    # then
    assert progress["metrics"] == [{"key": "loss", "value": 0.5, "kind": "FINITE", "step": 1}]
    assert (ended["from"], ended["to"]) == ("RUNNING", "COMPLETED")
    assert last["metrics"] == [{"key": "loss", "value": 0.25, "kind": "FINITE", "step": 2}]


async def test_points_that_we_sent_do_not_come_back_as_others(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    # given: several within one millisecond, two of them corrected since
    there = a_run_there(plain(mirror.client.uri), unique)
    run = await followed_in(mirror, there)
    stamps = [(NOON + timedelta(microseconds=n)).isoformat() for n in range(3)]
    column = {"key": "m", "steps": [1, 1, 1], "timestamps": stamps}
    await logged(graph, run, {**column, "values": [1, 2, 3]})
    await mirrored(mirror, run)
    await logged(graph, run, {**column, "values": [1, 4, 5]})
    await mirrored(mirror, run)

    # when: somebody else logs the same metric, so that it is read
    plain(mirror.client.uri).log_batch(there, metrics=[Metric("m", 9, NOON_MS + 1, 1)])
    await mirror.theirs(RUN, there)
    await mirrored(mirror, run)

    # then
    assert [value for _, value, _ in await points_here(mirror, run, "m")] == [
        "1.0",
        "4.0",
        "5.0",
        "9.0",
    ]


async def test_points_that_come_late_at_early_steps_are_in_when_the_run_has_ended(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    client = plain(mirror.client.uri)
    there = a_run_there(client, unique)
    client.log_batch(there, metrics=[Metric("m", n, NOON_MS + n, n) for n in (1, 5)])
    run = await followed_in(mirror, there)
    client.log_batch(there, metrics=[Metric("m", 3, NOON_MS + 9, 3)])
    client.set_terminated(there)
    assert await followed_in(mirror, there) == run
    assert [step for step, *_ in await points_here(mirror, run, "m")] == [1, 3, 5]


async def test_what_we_cannot_have_comes_in_as_the_nearest_that_we_can(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    # given
    client = plain(mirror.client.uri)
    there = a_run_there(client, unique, **{"mlflow.runName": " two\nlines ", "a": "x\x01y"})
    client.log_batch(
        there,
        params=[Param(" p", "1"), Param("recall_x40_5", "2")],
        metrics=[Metric("late", 1, 10**15, 2**62), Metric(" m ", 2, 0, 0)],
    )
    client.set_terminated(there, "KILLED", 1)  # before it began

    # when
    run = await read(graph, await followed_in(mirror, there))

    # then
    assert (run["name"], run["status"]) == ("two lines", "CANCELLED")
    assert run["endedAt"] == run["startedAt"]
    assert run["tags"] == {"a": "x\ufffdy"}
    assert run["params"] == {"_x_ p": "1", "recall@5": "2"}
    metrics = {m["key"]: (m["value"], m["step"], m["timestamp"]) for m in run["metrics"]}
    assert metrics == {
        "late": (1.0, 2**62, "9999-12-31T23:59:59.999000+00:00"),
        "_x_ m _x_": (2.0, 0, "1970-01-01T00:00:00+00:00"),
    }

    # when: it is looked at again
    assert await followed_in(mirror, there) == run["id"]

    # then
    assert await read(graph, run["id"]) == run
    assert client.get_run(there).data.params == {" p": "1", "recall_x40_5": "2"}


async def test_more_params_than_a_report_may_have_come_in_all_the_same(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    client = plain(mirror.client.uri)
    there = a_run_there(client, unique)
    given = {f"p{n}": str(n) for n in range(1_500)}
    for n in range(0, 1_500, 100):
        client.log_batch(there, params=[Param(k, v) for k, v in [*given.items()][n : n + 100]])
    run = await followed_in(mirror, there)
    assert (await read(graph, run))["params"] == given


async def test_of_more_params_than_a_run_may_have_the_first_by_name_come_in(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    # given
    client = plain(mirror.client.uri)
    there = a_run_there(client, unique)
    given = {f"p{n:03}": "v" * 5_996 for n in range(50)}
    client.log_batch(there, params=[Param(k, v) for k, v in [*given.items()][:35]])
    run = await followed_in(mirror, there)
    assert (await read(graph, run))["params"] == {k: given[k] for k in [*given][:35]}

    # when
    client.log_batch(there, params=[Param(k, v) for k, v in [*given.items()][35:]])
    client.set_tag(there, "after", "all")
    assert await followed_in(mirror, there) == run

    # then
    found = await read(graph, run)
    assert found["params"] == {k: given[k] for k in [*given][:41]}
    assert found["tags"]["after"] == "all"


async def test_of_more_tags_than_a_run_may_have_the_first_by_name_come_in_and_the_rest_is_told(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    # given
    client = plain(mirror.client.uri)
    there = a_run_there(client, unique)
    given = {f"t{n:02}": "v" * 4_997 for n in range(52)}
    client.log_batch(there, tags=[RunTag(key, value) for key, value in given.items()])

    # when
    item = await mirror.theirs(RUN, there)

    # then
    assert item is not None
    reason = "tags: must not have more than 250,000 characters in all."
    assert (item.state, [(each["field"], each["reason"]) for each in item.conflicts]) == (
        SyncState.CONFLICT,
        [("tag:t50", reason), ("tag:t51", reason)],
    )
    found = await read(graph, global_id("Run", item))
    assert found["tags"] == {key: given[key] for key in [*given][:50]}
    kept = client.get_run(there).data.tags
    assert {key: kept.get(key) for key in given} == given


async def test_tags_for_which_there_is_no_room_are_told_without_trying_each(
    graph: Graph,
    sql: asyncpg.Connection,
    mirror: Mirror,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given
    client = plain(mirror.client.uri)
    there = a_run_there(client, unique)
    item = await mirror.theirs(RUN, there)
    assert item is not None
    given = {f"t{n:04}": "v" for n in range(1_010)}
    pairs = [RunTag(key, value) for key, value in given.items()]
    for n in range(0, len(pairs), 100):
        client.log_batch(there, tags=pairs[n : n + 100])
    tries = counted(monkeypatch)

    # when
    item = await mirror.theirs(RUN, there)

    # then
    assert item is not None
    found = (await read(graph, global_id("Run", item)))["tags"]
    assert len(found) == 1_000
    assert {key: found[key] for key in given if key in found} == dict(
        [*given.items()][: len(found)]
    )
    reason = "tags: must not be more than 1,000 in all."
    assert [(each["field"], each["reason"]) for each in item.conflicts] == [
        (f"tag:{key}", reason) for key in given if key not in found
    ]
    assert [len(each) for each in tries] == [1_010, len(found)]
    changed = "SELECT count(*) FROM event WHERE subject_id = $1 AND type = 'run.updated'"
    assert await sql.fetchval(changed, item.object_id) == 1


async def test_one_change_that_is_refused_is_found_among_many_by_halves(
    graph: Graph, mirror: Mirror, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = plain(mirror.client.uri)
    there = a_run_there(client, unique)
    await mirror.theirs(RUN, there)
    given = {f"t{n:02}": "v" for n in range(64)}
    client.log_batch(there, tags=[RunTag(key, value) for key, value in given.items()])
    tries = counted(monkeypatch, refused="tag:t17")

    item = await mirror.theirs(RUN, there)

    assert item is not None
    assert [(each["field"], each["reason"]) for each in item.conflicts] == [("tag:t17", "No.")]
    found = (await read(graph, global_id("Run", item)))["tags"]
    assert {**found, "t17": "v"} == given
    assert [len(each) for each in tries] == [64, 32, 16, 16, 8, 4, 2, 1, 1, 2, 4, 8, 32]


def counted(monkeypatch: pytest.MonkeyPatch, refused: str = "") -> list[Json]:
    """The changes of runs that it is tried to bring in; one with this field is refused."""
    tries: list[Json] = []
    pull = runs.pull

    async def tried(*given: Any) -> None:
        tries.append(given[-1])
        if refused in given[-1]:
            raise Conflict("No.")
        await pull(*given)

    monkeypatch.setattr(runs, "pull", tried)
    return tries


# Both.


async def test_changes_on_both_sides_meet(graph: Graph, mirror: Mirror, unique: str) -> None:
    # given
    client = plain(mirror.client.uri)
    there = a_run_there(client, unique)
    run = await followed_in(mirror, there)
    await change(graph, run, name="old", tags=pairs(a="1", b="1", c="1"))
    await mirrored(mirror, run)

    # when
    await change(graph, run, name="new", tags=pairs(a="2", b="1", d="1"), params=pairs(p="1"))
    client.set_tag(there, "b", "2")
    client.set_tag(there, "e", "1")
    client.set_tag(there, "mlflow.note.content", "From there.")
    client.log_param(there, "q", "2")
    item = await mirrored(mirror, run)

    # then
    assert (item.state, item.conflicts) == (SyncState.IN_SYNC, [])
    here = await read(graph, run)
    assert here["tags"] == {"a": "2", "b": "2", "d": "1", "e": "1"}
    assert here["params"] == {"p": "1", "q": "2"}
    assert (here["name"], here["statusMessage"]) == ("new", "From there.")
    found = client.get_run(there)
    assert found.info.run_name == "new"
    assert found.data.params == here["params"]
    assert {k: v for k, v in found.data.tags.items() if "." not in k} == here["tags"]


async def test_a_param_with_two_values_is_in_conflict_and_both_stay(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    run = await a_run(graph, unique)
    there = str((await mirrored(mirror, run)).mlflow_id)
    plain(mirror.client.uri).log_param(there, "rate", "0.2")
    await change(graph, run, params=pairs(rate="0.1", depth="3"))

    # when
    item = await mirrored(mirror, run)

    # then
    assert item.state is SyncState.CONFLICT
    assert differences(item) == [("param:rate", "0.1", "0.2", None)]
    assert (await read(graph, run))["params"] == {"rate": "0.1", "depth": "3"}
    assert plain(mirror.client.uri).get_run(there).data.params == {"rate": "0.2", "depth": "3"}

    # when: that is how it is to be
    item = await mirror.resolve(item, Resolution.LEAVE)

    # then
    assert (item.state, item.conflicts) == (SyncState.IN_SYNC, [])


async def test_a_tag_that_was_changed_on_both_sides_is_as_somebody_decides(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    run = await a_run(graph, unique, tags=pairs(a="1"))
    there = str((await mirrored(mirror, run)).mlflow_id)
    client = plain(mirror.client.uri)
    for resolution, wanted in ((Resolution.KEEP_OURS, "2"), (Resolution.TAKE_THEIRS, "3")):
        client.set_tag(there, "a", "3")
        await change(graph, run, tags=pairs(a="2"))
        item = await mirrored(mirror, run)
        assert differences(item) == [("tag:a", "2", "3", None)]
        item = await mirror.resolve(item, resolution)
        assert (item.state, item.conflicts) == (SyncState.IN_SYNC, [])
        assert (await read(graph, run))["tags"] == {"a": wanted}
        assert client.get_run(there).data.tags["a"] == wanted
        await change(graph, run, tags=pairs(a="1"))
        await mirrored(mirror, run)


async def test_a_run_that_ended_differently_on_both_sides_is_in_conflict(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    run = await a_run(graph, unique)
    there = str((await mirrored(mirror, run)).mlflow_id)
    plain(mirror.client.uri).set_terminated(there, "FAILED")
    await change(graph, run, status="COMPLETED")
    item = await mirrored(mirror, run)
    assert differences(item) == [("status", "FINISHED", "FAILED", None)]
    assert plain(mirror.client.uri).get_run(there).info.status == "FAILED"
    assert (await read(graph, run))["status"] == "COMPLETED"

    # when
    item = await mirror.resolve(item, Resolution.KEEP_OURS)

    # then
    assert item.state is SyncState.IN_SYNC
    assert plain(mirror.client.uri).get_run(there).info.status == "FINISHED"


async def test_a_run_that_is_resumed_there_after_its_end_is_in_conflict_until_it_ends(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    client = plain(mirror.client.uri)
    there = a_run_there(client, unique)
    client.set_terminated(there)
    run = await followed_in(mirror, there)

    # when
    client.update_run(there, "RUNNING")
    client.log_metric(there, "m", 1.0)
    item = await mirror.theirs(RUN, there)

    # then: but what it logs comes in
    assert item is not None
    why = "COMPLETED cannot become RUNNING; allowed next: nothing: it is final."
    assert differences(item) == [("status", "FINISHED", "RUNNING", why)]
    assert [m["key"] for m in (await read(graph, run))["metrics"]] == ["m"]

    # when
    client.set_terminated(there)

    # then
    assert await followed_in(mirror, there) == run


async def test_who_is_further_on_is_right_about_a_status_that_changed_on_both_sides(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    run = await a_run(graph, unique, status="PENDING")
    there = str((await mirrored(mirror, run)).mlflow_id)
    client = plain(mirror.client.uri)
    client.update_run(there, "RUNNING")
    await change(graph, run, status="CANCELLED")
    assert (await mirrored(mirror, run)).state is SyncState.IN_SYNC
    assert client.get_run(there).info.status == "KILLED"

    # A run that was planned and has ended when somebody looks:
    there = a_run_there(client, unique)
    client.update_run(there, "SCHEDULED")
    planned = await followed_in(mirror, there)
    assert (await read(graph, planned))["status"] == "PENDING"
    client.set_terminated(there, "FINISHED")
    assert await followed_in(mirror, there) == planned
    assert (await read(graph, planned))["status"] == "COMPLETED"


async def test_a_run_that_is_deleted_there_stays_here_and_is_in_conflict(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    run = await a_run(graph, unique, name="mine")
    there = str((await mirrored(mirror, run)).mlflow_id)
    plain(mirror.client.uri).delete_run(there)

    # when
    item = await mirrored(mirror, run)

    # then
    assert item.state is SyncState.CONFLICT
    assert [conflict["reason"] for conflict in item.conflicts] == ["Run mine is deleted in MLflow."]
    assert plain(mirror.client.uri).get_run(there).info.lifecycle_stage == "deleted"
    assert (await read(graph, run))["status"] == "RUNNING"

    # when
    plain(mirror.client.uri).restore_run(there)

    # then
    assert (await mirrored(mirror, run)).state is SyncState.IN_SYNC


async def test_a_copy_of_a_mirrored_run_is_not_taken_for_it(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    run = await a_run(graph, unique)
    there = str((await mirrored(mirror, run)).mlflow_id)
    id = str(ids.decode("Run", run))
    copy = a_run_there(plain(mirror.client.uri), unique, **{"lifecycle.id": id})
    assert await mirror.theirs(RUN, copy) is None
    (item,) = [item for item in await mirror.items() if item.mlflow_id == copy]
    assert (item.state, item.error) == (
        SyncState.FAILED,
        f"Its tag lifecycle.id names a run that is mirrored as {there}: delete it in MLflow, or "
        "remove the tag, and try again.",
    )


async def test_params_from_there_make_an_approval_stale(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    # given: an approval of what came out of a run that was made there
    there = a_run_there(plain(mirror.client.uri), unique)
    run = await followed_in(mirror, there)
    version = await a_version(graph, unique, runId=run)
    await approved(graph, version)

    # when
    plain(mirror.client.uri).log_param(there, "rate", "0.1")
    await mirrored(mirror, run)

    # then
    found = await graph.query(
        "query ($id: ID!) { modelVersion(by: { id: $id }) { approval { status } } }",
        {"id": version["id"]},
    )
    assert found["modelVersion"]["approval"]["status"] == "STALE"


async def test_what_approvals_rest_on_does_not_come_to_a_run_that_was_made_here(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    # given: an approval of what came out of it
    run = await a_run(graph, unique, params=pairs(rate="0.1"))
    await logged(graph, run, {"key": "accuracy", "steps": [1], "values": [0.8]})
    there = str((await mirrored(mirror, run)).mlflow_id)
    version = await a_version(graph, unique, runId=run)
    await approved(graph, version)
    await mirrored(mirror, run)
    before = await read(graph, run)
    client = plain(mirror.client.uri)

    async def decide(resolution: Resolution) -> None:
        command = ResolveConflict(id=again.id, fields=["status"], resolution=resolution)
        await mirror.do(resolve, Origin("ada", "a request", rights=UNPROVEN), command)

    # when: somebody writes to its mirror
    client.log_batch(
        there,
        metrics=[Metric("accuracy", 0.99, NOON_MS, 2), Metric("recall", 0.99, NOON_MS, 2)],
        params=[Param("depth", "3")],
    )
    data = [DatasetInput(Dataset("others", "d1", "local", "{}"), [])]
    client.log_inputs(there, data)
    client.set_terminated(there)
    client.set_tag(there, "team", "blue")
    item = await mirror.theirs(RUN, there)
    assert item is not None
    again = await mirrored(mirror, run)

    # then: what nothing rests on has come over, and the rest is shown
    why = "The run was not made there, so what is written to its mirror does not count."
    others = '{"name":"others","digest":"d1"}'
    assert differences(item) == [
        ("dataset", None, others, why),
        ("param:depth", None, "3", why),
        ("status", "RUNNING", "FINISHED", why),
    ]
    assert differences(again) == differences(item)
    after = {**before, "tags": {"team": "blue"}, "revision": before["revision"] + 1}
    assert await read(graph, run) == after
    found = await graph.query(
        """query ($id: ID!) { modelVersion(by: { id: $id }) {
             metrics { value } approval { status } } }""",
        {"id": version["id"]},
    )
    assert found["modelVersion"] == {
        "metrics": [{"value": 0.8}],
        "approval": {"status": "APPROVED"},
    }
    # A status can be told there again, what is set once cannot be taken back.
    with pytest.raises(Conflict, match="status is decided here only: KEEP_OURS or LEAVE"):
        await decide(Resolution.TAKE_THEIRS)
    await decide(Resolution.KEEP_OURS)
    settled = await mirrored(mirror, run)
    assert [field for field, *_ in differences(settled)] == ["dataset", "param:depth"]
    assert client.get_run(there).info.status == "RUNNING"
    left = await mirror.resolve(settled, Resolution.LEAVE)
    assert (left.state, left.conflicts) == (SyncState.IN_SYNC, [])
    assert (await read(graph, run))["metrics"] == before["metrics"]

    # when: it goes on here
    await logged(graph, run, {"key": "accuracy", "steps": [2, 3], "values": [0.85, 0.9]})
    await change(graph, run, status="COMPLETED")

    # then
    assert (await mirrored(mirror, run)).state is SyncState.IN_SYNC
    assert [value for _, value, _ in await points_here(mirror, run, "accuracy")] == [
        "0.8",
        "0.85",
        "0.9",
    ]
    assert client.get_run(there).info.status == "FINISHED"


async def test_a_run_that_came_in_from_another_server_takes_nothing_from_its_mirror(
    live: Live, graph: Graph, mirror: Mirror, unique: str
) -> None:
    # given: a run of one server, and one of another that was known before it
    client, elsewhere = plain(mirror.client.uri), f"{unique}-elsewhere"
    other = await Mirror.begin(live.database, mirror.client, elsewhere)
    copy = a_run_there(client, elsewhere)
    await other.do(repository.want_theirs, other.sync.server_id, RUN, {copy: "a digest"}, new=True)
    there = a_run_there(client, unique)
    run = await followed_in(mirror, there)

    # when: somebody has that pass for its mirror, and writes to both
    client.set_tag(copy, "lifecycle.id", str(ids.decode("Run", run)))
    client.log_param(copy, "depth", "3")
    client.log_metric(copy, "accuracy", 0.99)
    client.log_param(there, "rate", "0.1")
    client.log_metric(there, "accuracy", 0.8)
    item = await other.theirs(RUN, copy)
    assert await followed_in(mirror, there) == run

    # then
    assert item is not None
    assert global_id("Run", item) == run
    assert [field for field, *_ in differences(item)] == ["name", "param:depth"]
    assert (await read(graph, run))["params"] == {"rate": "0.1"}
    assert [value for _, value, _ in await points_here(mirror, run, "accuracy")] == ["0.8"]


async def test_files_that_are_written_there_are_not_those_of_a_run_that_was_made_here(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    # given: one that has described a file, and is to write another one
    described = {"name": "report", "path": "report.html", "sizeBytes": 100, "digest": None}
    run = await a_run(graph, unique, artifacts=[described])
    there = str((await mirrored(mirror, run)).mlflow_id)
    client = plain(mirror.client.uri)

    # when: somebody is faster, and a version is registered before it is written
    client.log_text(there, "x", "report.html")
    client.log_text(there, "x", "model.pkl")
    # By this a look is taken at the files.
    client.set_tag(there, "mlflow.log-model.history", "[]")
    item = await mirror.theirs(RUN, there)
    version = await a_version(graph, unique, runId=run, artifactPath="model.pkl")

    # then
    assert item is not None
    assert (item.state, item.conflicts) == (SyncState.IN_SYNC, [])
    assert (await read(graph, run))["artifacts"] == [described]

    # and it is decided about what the run has written
    digest = f"sha256:{'0' * 64}"
    model = {"name": "model", "path": "model.pkl", "sizeBytes": 5_000, "digest": digest}
    await change(graph, run, artifacts=[model])
    await approved(graph, version)
    found = await graph.query(
        "query ($id: ID!) { modelVersion(by: { id: $id }) { artifactDigest sizeBytes } }",
        {"id": version["id"]},
    )
    assert found["modelVersion"] == {"artifactDigest": digest, "sizeBytes": 5_000}


async def test_a_file_that_is_described_here_while_those_there_are_read_stays_as_described(
    live: Live, sql: asyncpg.Connection, graph: Graph, mirror: Mirror, unique: str
) -> None:
    # given: a run that was made there, and a file in it
    client = plain(mirror.client.uri)
    there = a_run_there(client, unique)
    run = await followed_in(mirror, there)
    client.log_text(there, "x", "model.pkl")
    client.set_tag(there, "mlflow.log-model.history", "[]")
    file = {"name": "model", "path": "model.pkl", "sizeBytes": 5_000, "digest": "sha256:d"}
    described, looking = asyncio.Event(), asyncio.Event()

    async def describe(session: WriteSession) -> None:
        new = NewArtifact(name="model", path="model.pkl", size_bytes=5_000, digest="sha256:d")
        command = UpdateRun(id=ids.decode("Run", run), artifacts=[new])
        await update(session, Origin("ada", "a request", rights=UNPROVEN), command)
        described.set()
        await looking.wait()

    # when
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        group.create_task(live.database.write(describe))
        await described.wait()
        group.create_task(mirror.theirs(RUN, there))
        await waiting(sql, 1)
        looking.set()

    # then
    assert (await read(graph, run))["artifacts"] == [file]


async def test_what_is_written_there_is_no_sign_of_life_of_a_run_that_was_made_here(
    live: Live, graph: Graph, mirror: Mirror, unique: str
) -> None:
    # given: one that lives and one that is lost, and one that was made there and is lost, too
    client = plain(mirror.client.uri)
    alive, lost = [await a_run(graph, unique) for _ in range(2)]
    there = {run: str((await mirrored(mirror, run)).mlflow_id) for run in (alive, lost)}
    of_mlflow = a_run_there(client, unique)
    there[await followed_in(mirror, of_mlflow)] = of_mlflow
    *_, theirs = there
    for _ in range(8):
        await fall_silent(live, lost, theirs)
    await until_lost(graph, live, lost, theirs)

    async def heard_of() -> dict[str, Json]:
        query = "query ($i: ID!) { run(id: $i) { status lastReportedAt } }"
        return {run: (await graph.query(query, {"i": run}))["run"] for run in there}

    before = await heard_of()

    # when
    for id in there.values():
        client.set_tag(id, "team", "blue")
        assert await mirror.theirs(RUN, id) is not None

    # then: it has come over, and of the one alone it is its writer's
    for run in there:
        assert (await read(graph, run))["tags"]["team"] == "blue"
    after = await heard_of()
    revived = after.pop(theirs)
    assert after == {run: before[run] for run in (alive, lost)}
    assert (before[lost]["status"], revived["status"]) == ("LOST", "RUNNING")
    was_lost = ("RUNNING", "LOST", "system:leases")
    assert await transitions(live, lost) == [was_lost]
    back = ("LOST", "RUNNING", "system:mlflow")
    assert await transitions(live, theirs) == [was_lost, back]


async def test_a_failing_artifact_store_does_not_keep_the_rest_back(
    graph: Graph, mlflow: Mlflow, shaky: Mirror, faults: Faults, unique: str
) -> None:
    # given
    run = await a_run(graph, unique, tags=pairs(a="1"))
    await graph.done("logRunOutput", {"runId": run, "lines": [{"message": "x"}]}, "run { id }")
    await logged(graph, run, {"key": "m", "steps": [1], "values": [1]})
    faults.answering(500, "no such bucket", "text/plain", matching="artifact")

    # when
    item = await mirrored(shaky, run)

    # then
    assert item.state is SyncState.PENDING
    assert item.error == f"MLflow at {faults.url}: answered 500 no such bucket"
    client = plain(mlflow.url)
    assert client.get_run(item.mlflow_id).data.metrics == {"m": 1.0}

    # when: a tag is changed there in the meantime, and the store is back
    client.set_tag(item.mlflow_id, "a", "2")
    faults.passing()
    item = await shaky.retry(item)

    # then
    assert (item.state, item.error, item.conflicts) == (SyncState.IN_SYNC, None, [])
    assert (await read(graph, run))["tags"] == {"a": "2"}
    assert [f.path for f in client.list_artifacts(item.mlflow_id, "lifecycle/output")] == [
        "lifecycle/output/000001.log"
    ]


@pytest.mark.slow
async def test_a_hundred_thousand_points_go_there_and_come_here_in_pages(
    graph: Graph, mirror: Mirror, unique: str
) -> None:
    # given
    total = 100_000
    run = await a_run(graph, unique)
    for n in range(0, total, 10_000):
        steps = list(range(n, n + 10_000))
        await logged(graph, run, {"key": "m", "steps": steps, "values": steps})

    # when
    tracemalloc.start()
    there = str((await mirrored(mirror, run)).mlflow_id)
    _, sending = tracemalloc.get_traced_memory()
    # then: another service takes them in
    other = await Mirror.begin(mirror.database, mirror.client, f"{unique}-other")
    plain(mirror.client.uri).delete_tag(there, "lifecycle.id")
    tracemalloc.reset_peak()
    copy = await followed_in(other, there)
    _, taking = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (await histories(graph, copy, "m", points=2))["m"]["totalPoints"] == total
    assert max(sending, taking) < 40_000_000
