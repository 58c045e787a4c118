"""Runs, over GraphQL: what they record, their states, logs, leases, lists."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, update

from lifecycle.journal.tables import EventRow
from lifecycle.runs.service import mark_lost
from lifecycle.runs.tables import RunRow
from schema import ids
from tests.client import PATIENCE, Graph, Json
from tests.conftest import Live, serving
from tests.factories import a_run

STATE = """
    id name status statusMessage source gitCommit datasetFacts createdBy leaseSeconds revision
    startedAt endedAt durationSeconds
    params { key value } tags { key value } metrics { key value step }
    artifacts { name path sizeBytes digest } parent { id } experiment { name }
"""
FOLLOWING = {
    "PENDING": ["CANCELLED", "FAILED", "RUNNING"],
    "RUNNING": ["CANCELLED", "COMPLETED", "FAILED", "LOST"],
    "LOST": ["RUNNING"],
    "COMPLETED": [],
    "FAILED": [],
    "CANCELLED": [],
}
ENDED = ("COMPLETED", "FAILED", "CANCELLED")


async def state(graph: Graph, run: str) -> Json:
    found = await graph.query(f"query ($id: ID!) {{ run(id: $id) {{ {STATE} }} }}", {"id": run})
    return dict(found["run"])


async def report(graph: Graph, run: str, **input: object) -> Json:
    """The run after an update that must succeed."""
    return await graph.done("updateRun", {"id": run, **input}, f"run {{ {STATE} }}")


async def refused(graph: Graph, run: str, **input: object) -> Json:
    """What an update says that must fail and change nothing."""
    before = await state(graph, run)
    result = await graph.mutate("updateRun", {"id": run, **input})
    assert result["__typename"] != "UpdateRunSuccess"
    assert await state(graph, run) == before
    return result


async def write_lines(graph: Graph, run: str, *messages: str) -> None:
    lines = [{"message": message} for message in messages]
    await graph.done("logRunOutput", {"runId": run, "lines": lines}, "run { id }")


async def transitions(live: Live, run: str) -> list[tuple[str, str, str]]:
    """Each change of status that the journal has: from, to, by whom."""
    async with live.database.read() as session:
        rows = await session.fetch(
            select(EventRow.before, EventRow.after, EventRow.actor)
            .where(
                EventRow.subject_id == ids.decode("Run", run),
                EventRow.type == "run.status_changed",
            )
            .order_by(EventRow.id)
        )
        return [(before["status"], after["status"], actor) for before, after, actor in rows]


async def until_lost(graph: Graph, live: Live, *runs: str) -> None:
    """Wait until these runs are LOST, looking for silent runs with several sweepers at once."""
    async with asyncio.timeout(PATIENCE):
        while True:
            await asyncio.gather(*(live.database.write(mark_lost) for _ in range(4)))
            found = await graph.query(
                "query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Run { status } } }",
                {"ids": runs},
            )
            if all(node["status"] == "LOST" for node in found["nodes"]):
                return
            await asyncio.sleep(0.05)


async def fall_silent(live: Live, *runs: str) -> None:
    """As if nothing had been heard of these runs for a day: longer than the usual lease, which
    then holds for a while again, however slow the machine is."""
    keys = [ids.decode("Run", run) for run in runs]
    silent = update(RunRow).where(RunRow.id.in_(keys))

    async def age(session: Any) -> None:
        await session.execute(
            silent.values(
                started_at=RunRow.started_at - timedelta(days=1),
                last_reported_at=RunRow.last_reported_at - timedelta(days=1),
            )
        )

    await live.database.write(age)


async def found_runs(graph: Graph, unique: str, **variables: object) -> list[str]:
    """The names of the runs of an experiment in the order of the list."""
    filter = variables.pop("filter", {})
    assert isinstance(filter, dict)
    found = await graph.query(
        "query ($filter: RunFilter, $order: [RunOrder!]) { "
        "runs(filter: $filter, orderBy: $order, first: 100) { nodes { name } totalCount } }",
        {"filter": {"experimentName": unique, **filter}, **variables},
    )
    names = [node["name"] for node in found["runs"]["nodes"]]
    assert found["runs"]["totalCount"] == len(names)
    return names


async def paged(
    graph: Graph, unique: str, order: list[Json], size: int, backward: bool = False
) -> list[str]:
    """The names of all runs of an experiment, collected page by page, in the order of the list."""
    arguments = "last: $size, before: $cursor" if backward else "first: $size, after: $cursor"
    names: list[str] = []
    cursor: str | None = None
    while True:
        found = await graph.query(
            f"""query ($filter: RunFilter, $order: [RunOrder!], $size: Int, $cursor: String) {{
              runs(filter: $filter, orderBy: $order, {arguments}) {{ nodes {{ name }}
                pageInfo {{ hasNextPage hasPreviousPage startCursor endCursor }} }} }}""",
            {
                "filter": {"experimentName": unique},
                "order": order,
                "size": size,
                "cursor": cursor,
            },
        )
        page, info = [node["name"] for node in found["runs"]["nodes"]], found["runs"]["pageInfo"]
        assert 0 < len(page) <= size
        names = page + names if backward else names + page
        assert info["hasNextPage" if backward else "hasPreviousPage"] is (cursor is not None)
        if not info["hasPreviousPage" if backward else "hasNextPage"]:
            return names
        cursor = info["startCursor" if backward else "endCursor"]


async def test_a_whole_run_is_logged_in_one_call(graph: Graph, unique: str) -> None:
    parent = await a_run(graph, f"{unique}-sweep")
    facts = {"train_size": 1_000, "test_size": 250, "features": ["a", "ü"], "date": "2026-01-01"}
    await graph.mutate("createExperiment", {"name": unique})

    made = await graph.done(
        "logRun",
        {
            "experimentName": unique,
            "name": "first try",
            "status": "COMPLETED",
            "statusMessage": "converged",
            "params": [{"key": "lr", "value": "0.1"}, {"key": "depth", "value": ""}],
            "metrics": [
                {"key": "loss", "value": 0.5, "step": 1},
                {"key": "loss", "value": 0.25, "step": 2, "timestamp": "2026-01-01T00:30:00Z"},
                {"key": "acc", "value": 1},
            ],
            "tags": [{"key": "team", "value": "vision"}],
            "artifacts": [
                {"name": "model", "path": "s3://b/model", "sizeBytes": 2**40, "digest": "sha256:1"},
                {"name": "log", "path": "log"},
            ],
            "source": "train.py",
            "gitCommit": "abc123",
            "datasetFacts": facts,
            "parentId": parent,
            "startedAt": "2026-01-01T00:00:00Z",
            "endedAt": "2026-01-01T02:00:00+01:00",
            "leaseSeconds": 60,
        },
        f"run {{ {STATE} }}",
    )

    assert made == {
        "id": made["id"],
        "name": "first try",
        "status": "COMPLETED",
        "statusMessage": "converged",
        "source": "train.py",
        "gitCommit": "abc123",
        "datasetFacts": facts,
        "createdBy": "tester",
        "leaseSeconds": 60,
        "revision": 1,
        "startedAt": "2026-01-01T00:00:00+00:00",
        "endedAt": "2026-01-01T01:00:00+00:00",
        "durationSeconds": 3_600,
        "params": [{"key": "depth", "value": ""}, {"key": "lr", "value": "0.1"}],
        "tags": [{"key": "team", "value": "vision"}],
        "metrics": [
            {"key": "acc", "value": 1, "step": 0},
            {"key": "loss", "value": 0.25, "step": 2},
        ],
        "artifacts": [
            {"name": "log", "path": "log", "sizeBytes": None, "digest": None},
            {"name": "model", "path": "s3://b/model", "sizeBytes": 2**40, "digest": "sha256:1"},
        ],
        "parent": {"id": parent},
        "experiment": {"name": unique},
    }
    assert await state(graph, made["id"]) == made


async def test_the_beginning_of_a_run_is_all_that_is_needed(graph: Graph, unique: str) -> None:
    began = datetime.now(UTC)

    run = await state(graph, await a_run(graph, unique))

    assert began <= datetime.fromisoformat(run["startedAt"]) <= datetime.now(UTC)
    assert run == {
        "id": run["id"],
        "name": None,
        "status": "RUNNING",
        "statusMessage": None,
        "source": None,
        "gitCommit": None,
        "datasetFacts": None,
        "createdBy": "tester",
        "leaseSeconds": 3_600,
        "revision": 1,
        "startedAt": run["startedAt"],
        "endedAt": None,
        "durationSeconds": None,
        "params": [],
        "tags": [],
        "metrics": [],
        "artifacts": [],
        "parent": None,
        "experiment": {"name": unique},
    }


async def test_a_run_that_waits_starts_when_it_runs(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique, status="PENDING")
    waiting = await state(graph, run)
    assert (waiting["status"], waiting["startedAt"]) == ("PENDING", None)

    running = await report(graph, run, status="RUNNING")
    done = await report(graph, run, status="COMPLETED")

    assert (running["status"], running["endedAt"]) == ("RUNNING", None)
    assert done["startedAt"] == running["startedAt"] is not None
    lasted = datetime.fromisoformat(done["endedAt"]) - datetime.fromisoformat(done["startedAt"])
    assert done["durationSeconds"] == lasted.total_seconds() > 0


async def test_a_run_of_an_unknown_experiment_is_refused(graph: Graph, unique: str) -> None:
    assert await graph.mutate("logRun", {"experimentName": unique}) == {
        "__typename": "NotFound",
        "code": "NOT_FOUND",
        "message": f"There is no experiment {unique}.",
        "path": ["experimentName"],
    }


@pytest.mark.parametrize("status", ["ARCHIVED", "COMPLETED"])
async def test_an_experiment_that_is_not_active_takes_no_runs(
    graph: Graph, unique: str, status: str
) -> None:
    await graph.mutate("createExperiment", {"name": unique})
    await graph.mutate("updateExperiment", {"name": unique, "status": status})

    assert await graph.mutate("logRun", {"experimentName": unique}) == {
        "__typename": "Conflict",
        "code": "CONFLICT",
        "message": f"Experiment {unique} is {status}; set its status to ACTIVE to log runs again.",
        "path": ["experimentName"],
    }
    assert await found_runs(graph, unique) == []


async def test_no_run_joins_while_its_experiment_is_archived(graph: Graph, unique: str) -> None:
    await graph.mutate("createExperiment", {"name": unique})

    archived, *results = await asyncio.gather(
        graph.mutate("updateExperiment", {"name": unique, "status": "ARCHIVED"}),
        *(
            graph.mutate("logRun", {"experimentName": unique}, "run { createdAt }")
            for _ in range(8)
        ),
    )

    assert archived["__typename"] == "UpdateExperimentSuccess"
    kinds = [result["__typename"] for result in results]
    assert set(kinds) <= {"LogRunSuccess", "Conflict"}
    found = await graph.query(
        "query ($name: String!) { experiment(name: $name) { updatedAt "
        "runs { nodes { createdAt } } } }",
        {"name": unique},
    )
    runs = found["experiment"]["runs"]["nodes"]
    assert len(runs) == kinds.count("LogRunSuccess")
    assert all(run["createdAt"] < found["experiment"]["updatedAt"] for run in runs)


@pytest.mark.parametrize(
    ("input", "path", "message"),
    [
        ({"status": "LOST"}, ["status"], "A run cannot begin as LOST."),
        (
            {"endedAt": "2026-01-01T00:00:00Z"},
            ["endedAt"],
            "A run that is RUNNING has not ended.",
        ),
        (
            {"status": "PENDING", "endedAt": "2026-01-01T00:00:00Z"},
            ["endedAt"],
            "A run that is PENDING has not ended.",
        ),
        (
            {
                "status": "COMPLETED",
                "startedAt": "2026-01-01T00:00:00.000001Z",
                "endedAt": "2026-01-01T00:00:00Z",
            },
            ["endedAt"],
            "A run cannot end before it started.",
        ),
        (
            {"startedAt": "2026-01-01T00:00:00"},
            ["startedAt"],
            "startedAt: Input should have timezone info",
        ),
        ({"leaseSeconds": 0}, ["leaseSeconds"], None),
        ({"leaseSeconds": 604_801}, ["leaseSeconds"], None),
        ({"name": ""}, ["name"], None),
        ({"params": [{"key": "a", "value": "1"}] * 2}, ["params"], None),
        ({"tags": [{"key": "a", "value": "1"}] * 2}, ["tags"], None),
        (
            {"artifacts": [{"name": "m", "path": "m", "sizeBytes": -1}]},
            ["artifacts", "0", "sizeBytes"],
            None,
        ),
        ({"artifacts": [{"name": "m", "path": ""}]}, ["artifacts", "0", "path"], None),
        (
            {"artifacts": [{"name": f"{n}", "path": f"{n}"} for n in range(1_001)]},
            ["artifacts"],
            None,
        ),
        ({"metrics": [{"key": "a", "value": 1}] * 1_001}, ["metrics"], None),
        ({"datasetFacts": [1]}, ["datasetFacts"], "datasetFacts: must be a JSON object"),
        ({"parentId": "nonsense"}, ["parentId"], "This is not an id that this service gave."),
    ],
)
async def test_what_a_run_cannot_be_made_of_is_refused(
    graph: Graph, unique: str, input: Json, path: list[str], message: str | None
) -> None:
    await graph.mutate("createExperiment", {"name": unique})

    result = await graph.mutate("logRun", {"experimentName": unique, **input})

    assert result == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": message or result["message"],
        "path": path,
    }
    assert await found_runs(graph, unique) == []


async def test_a_parent_must_be_a_run_that_exists(graph: Graph, unique: str) -> None:
    run = ids.decode("Run", await a_run(graph, unique))
    unknown = ids.encode("Run", UUID(int=run.int ^ 1))
    input = {"experimentName": unique, "parentId": unknown}

    assert await graph.mutate("logRun", input) == {
        "__typename": "NotFound",
        "code": "NOT_FOUND",
        "message": "There is no run with this id.",
        "path": ["parentId"],
    }
    assert len(await found_runs(graph, unique)) == 1


@pytest.mark.parametrize("path", ["p" * 1_000, "".join(chr(0x20000 + n) for n in range(625))])
async def test_the_longest_path_of_an_artifact_may_consist_of_any_characters(
    graph: Graph, unique: str, path: str
) -> None:
    run = await a_run(graph, unique, artifacts=[{"name": "model", "path": path}])

    assert [artifact["path"] for artifact in (await state(graph, run))["artifacts"]] == [path]
    assert await refused(graph, run, artifacts=[{"name": "model", "path": path + path[-1]}]) == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": "artifacts.0.path: must not be longer than 2,500 bytes"
        if len(path) < 1_000
        else "artifacts.0.path: String should have at most 1000 characters",
        "path": ["artifacts", "0", "path"],
    }


async def test_an_unknown_run_is_null(graph: Graph, unique: str) -> None:
    run = ids.decode("Run", await a_run(graph, unique))
    unknown = ids.encode("Run", UUID(int=run.int ^ 1))

    found = await graph.query("query ($i: ID!) { run(id: $i) { id } }", {"i": unknown})

    assert found == {"run": None}
    assert await graph.mutate("updateRun", {"id": unknown, "name": "a"}) == {
        "__typename": "NotFound",
        "code": "NOT_FOUND",
        "message": "There is no run with this id.",
        "path": ["id"],
    }


@pytest.mark.parametrize("current", FOLLOWING)
async def test_a_status_follows_another_when_the_contract_says_so_and_else_nothing_changes(
    graph: Graph, unique: str, current: str
) -> None:
    async def a_run_that_is() -> str:
        if current != "LOST":
            return await a_run(graph, unique, status=current)
        run = await a_run(graph, unique)
        await report(graph, run, status="LOST")
        return run

    # What a lost run's writer reports, it reports of a running one.
    reported = [*FOLLOWING["LOST"], *ENDED] if current == "LOST" else FOLLOWING[current]
    for wanted in FOLLOWING:
        run = await a_run_that_is()
        input = {"status": wanted, "name": "changed", "metrics": [{"key": "a", "value": 1}]}
        if wanted in reported:
            after = await report(graph, run, **input)
            assert (after["status"], after["name"]) == (wanted, "changed")
            assert (after["endedAt"] is not None) is (wanted in ENDED)
            continue
        result = await refused(graph, run, **input)
        came = "RUNNING" if (current, wanted) == ("LOST", "PENDING") else current
        then = ", ".join(FOLLOWING[came]) or "nothing: it is final"
        assert result == {
            "__typename": "InvalidTransition",
            "code": "INVALID_TRANSITION",
            "message": f"{came} cannot become {wanted}; allowed next: {then}.",
            "path": ["status"],
            "from": came,
            "to": wanted,
            "allowed": FOLLOWING[came],
        }


async def test_of_many_that_end_a_run_one_succeeds(graph: Graph, live: Live, unique: str) -> None:
    run = await a_run(graph, unique)

    results = await asyncio.gather(
        *(graph.mutate("updateRun", {"id": run, "status": ENDED[n % 3]}) for n in range(9))
    )

    kinds = [result["__typename"] for result in results]
    assert sorted(kinds) == ["InvalidTransition"] * 8 + ["UpdateRunSuccess"]
    winner = ENDED[kinds.index("UpdateRunSuccess") % 3]
    after = await state(graph, run)
    assert (after["status"], after["revision"]) == (winner, 2)
    assert await transitions(live, run) == [("RUNNING", winner, "tester")]


async def test_an_update_is_one_change(graph: Graph, live: Live, unique: str) -> None:
    run = await a_run(graph, unique, metrics=[{"key": "loss", "value": 0.5, "step": 1}])

    after = await report(
        graph,
        run,
        name="named",
        status="FAILED",
        statusMessage="out of memory",
        tags=[{"key": "a", "value": "1"}],
        metrics=[{"key": "loss", "value": 0.25, "step": 2}, {"key": "acc", "value": 0.75}],
        artifacts=[{"name": "core", "path": "core", "sizeBytes": 0}],
        endedAt="2126-01-01T00:00:00Z",
        expectedRevision=1,
    )

    assert after["revision"] == 2
    assert (after["name"], after["status"]) == ("named", "FAILED")
    assert after["statusMessage"] == "out of memory"
    assert after["endedAt"] == "2126-01-01T00:00:00+00:00"
    assert after["tags"] == [{"key": "a", "value": "1"}]
    assert after["metrics"] == [
        {"key": "acc", "value": 0.75, "step": 0},
        {"key": "loss", "value": 0.25, "step": 2},
    ]
    assert after["artifacts"] == [{"name": "core", "path": "core", "sizeBytes": 0, "digest": None}]
    assert await transitions(live, run) == [("RUNNING", "FAILED", "tester")]


async def test_what_an_update_leaves_out_stays_and_null_clears(graph: Graph, unique: str) -> None:
    tags = [{"key": "a", "value": "1"}, {"key": "b", "value": "2"}]
    run = await a_run(graph, unique, name="named", statusMessage="warming up", tags=tags)
    before = await state(graph, run)

    assert await report(graph, run) == before
    assert await report(graph, run, status=None, tags=None) == before
    cleared = await report(graph, run, statusMessage=None)
    assert cleared == {**before, "statusMessage": None, "revision": 2}
    unnamed = await report(graph, run, name=None, tags=[{"key": "c", "value": "3"}])
    assert unnamed == {
        **cleared,
        "name": None,
        "tags": [{"key": "c", "value": "3"}],
        "revision": 3,
    }
    assert (await report(graph, run, tags=[]))["tags"] == []


async def test_a_status_keeps_its_message_unless_another_is_given(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique, status="PENDING", statusMessage="in the queue")

    assert (await report(graph, run, status="RUNNING"))["statusMessage"] == "in the queue"
    done = await report(graph, run, status="COMPLETED", statusMessage=None)

    assert done["statusMessage"] is None


async def test_artifacts_are_told_apart_by_their_paths(graph: Graph, unique: str) -> None:
    run = await a_run(
        graph,
        unique,
        artifacts=[
            {"name": "model", "path": "a", "sizeBytes": 1, "digest": "sha256:1"},
            {"name": "plot", "path": "b", "sizeBytes": 2},
        ],
    )

    after = await report(
        graph,
        run,
        artifacts=[
            {"name": "twice", "path": "c", "sizeBytes": 3},
            {"name": "model 2", "path": "a", "sizeBytes": 5},
            {"name": "last", "path": "c", "sizeBytes": 4},
        ],
    )

    assert after["artifacts"] == [
        {"name": "model 2", "path": "a", "sizeBytes": 5, "digest": None},
        {"name": "plot", "path": "b", "sizeBytes": 2, "digest": None},
        {"name": "last", "path": "c", "sizeBytes": 4, "digest": None},
    ]
    assert after["revision"] == 1


async def test_two_that_log_the_same_artifacts_at_once_do_not_disturb_each_other(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)
    artifacts = [{"name": f"{n}", "path": f"{n:02}"} for n in range(50)]

    await asyncio.gather(
        *(
            report(graph, run, artifacts=order)
            for order in (artifacts, artifacts[::-1], artifacts, artifacts[::-1])
        )
    )

    found = (await state(graph, run))["artifacts"]
    assert [artifact["path"] for artifact in found] == [f"{n:02}" for n in range(50)]


async def test_a_report_decided_on_an_old_revision_is_refused(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique)
    await report(graph, run, name="named", expectedRevision=1)

    result = await refused(
        graph,
        run,
        status="COMPLETED",
        metrics=[{"key": "a", "value": 1}],
        artifacts=[{"name": "a", "path": "a"}],
        expectedRevision=1,
    )

    assert result == {
        "__typename": "StaleRevision",
        "code": "STALE_REVISION",
        "message": "Revision 1 was expected, but it is 2 now.",
        "path": ["expectedRevision"],
        "currentRevision": 2,
    }


@pytest.mark.parametrize(
    ("input", "message"),
    [
        (
            {"endedAt": "2026-06-01T00:00:00Z"},
            "The end of a run comes with the status that ends it.",
        ),
        (
            {"endedAt": "2026-06-01T00:00:00Z", "status": "LOST"},
            "The end of a run comes with the status that ends it.",
        ),
        (
            {"endedAt": "2025-12-31T00:00:00Z", "status": "COMPLETED"},
            "A run cannot end before it started.",
        ),
    ],
)
async def test_the_end_of_a_run_has_its_time(
    graph: Graph, unique: str, input: Json, message: str
) -> None:
    run = await a_run(graph, unique, startedAt="2026-01-01T00:00:00Z")

    assert await refused(graph, run, name="changed", **input) == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": message,
        "path": ["endedAt"],
    }


async def test_a_run_that_has_ended_still_takes_what_was_under_way(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique, status="COMPLETED")

    after = await report(graph, run, metrics=[{"key": "late", "value": 1}], name="renamed")
    await write_lines(graph, run, "the end")

    assert (after["status"], after["name"]) == ("COMPLETED", "renamed")
    assert after["metrics"] == [{"key": "late", "value": 1, "step": 0}]


# Log lines


async def lines(graph: Graph, run: str, arguments: str) -> Json:
    found = await graph.query(
        f"query ($id: ID!) {{ run(id: $id) {{ logs({arguments}) {{ totalCount "
        "nodes { line level message } edges { cursor node { line } } "
        "pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } } }",
        {"id": run},
    )
    return dict(found["run"]["logs"])


async def test_lines_are_numbered_in_their_order(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique)

    await write_lines(graph, run, "one", "two\twith a tab\nand a second half")
    await graph.done(
        "logRunOutput",
        {
            "runId": run,
            "lines": [
                {"message": "", "level": "error", "timestamp": "2026-01-01T00:00:00Z"},
                {"message": "four", "level": "step 4"},
            ],
        },
        "run { id }",
    )

    found = await lines(graph, run, "first: 10")
    assert found["totalCount"] == 4
    assert found["nodes"] == [
        {"line": 1, "level": "INFO", "message": "one"},
        {"line": 2, "level": "INFO", "message": "two\twith a tab\nand a second half"},
        {"line": 3, "level": "ERROR", "message": ""},
        {"line": 4, "level": "STEP 4", "message": "four"},
    ]
    assert (await state(graph, run))["revision"] == 1


@pytest.mark.parametrize(
    ("lines", "path"),
    [
        ([], ["lines"]),
        ([{"message": "m"}] * 1_001, ["lines"]),
        ([{"message": "m"}, {"message": "m" * 20_001}], ["lines", "1", "message"]),
        ([{"message": "m\u0000"}], ["lines", "0", "message"]),
        ([{"message": "m", "level": ""}], ["lines", "0", "level"]),
        ([{"message": "m", "level": "l" * 21}], ["lines", "0", "level"]),
        ([{"message": "m", "timestamp": "2026-01-01T00:00:00"}], ["lines", "0", "timestamp"]),
    ],
)
async def test_what_is_no_line_is_refused_as_a_whole(
    graph: Graph, unique: str, lines: list[Json], path: list[str]
) -> None:
    run = await a_run(graph, unique)

    result = await graph.mutate("logRunOutput", {"runId": run, "lines": lines})

    assert (result["__typename"], result["path"]) == ("InvalidInput", path)
    found = await graph.query(
        "query ($id: ID!) { run(id: $id) { logs { totalCount nodes { line } } } }", {"id": run}
    )
    assert found["run"]["logs"] == {"totalCount": 0, "nodes": []}


async def test_lines_of_an_unknown_run_are_refused(graph: Graph, unique: str) -> None:
    run = ids.decode("Run", await a_run(graph, unique))
    unknown = ids.encode("Run", UUID(int=run.int ^ 1))

    result = await graph.mutate("logRunOutput", {"runId": unknown, "lines": [{"message": "m"}]})

    assert result == {
        "__typename": "NotFound",
        "code": "NOT_FOUND",
        "message": "There is no run with this id.",
        "path": ["runId"],
    }


async def test_lines_of_several_writers_are_numbered_without_gaps(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)

    async def write(writer: str) -> None:
        for batch in range(8):
            await write_lines(graph, run, *(f"{writer} {4 * batch + n}" for n in range(4)))

    await asyncio.gather(write("a"), write("b"), write("c"))

    found = await lines(graph, run, "first: 100")
    assert [node["line"] for node in found["nodes"]] == list(range(1, 97))
    said = [node["message"] for node in found["nodes"]]
    for writer in "abc":
        mine = [message for message in said if message.startswith(writer)]
        assert mine == [f"{writer} {n}" for n in range(32)]
    # The lines of one call stay together.
    assert all(len({message[0] for message in said[n : n + 4]}) == 1 for n in range(0, 96, 4))


async def test_pages_of_lines_go_forward_and_backward(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique)
    await write_lines(graph, run, *(f"line {n}" for n in range(1, 6)))

    async def walk(arguments: str, cursor: str, more: str) -> list[list[int]]:
        pages, place = [], ""
        while True:
            found = await lines(graph, run, arguments + place)
            numbers = [node["line"] for node in found["nodes"]]
            assert [edge["node"]["line"] for edge in found["edges"]] == numbers
            assert found["edges"][0]["cursor"] == found["pageInfo"]["startCursor"]
            assert found["edges"][-1]["cursor"] == found["pageInfo"]["endCursor"]
            assert found["totalCount"] == 5
            pages.append(numbers)
            if not found["pageInfo"][more]:
                return pages
            word = "after" if cursor == "endCursor" else "before"
            place = f', {word}: "{found["pageInfo"][cursor]}"'

    assert await walk("first: 2", "endCursor", "hasNextPage") == [[1, 2], [3, 4], [5]]
    assert await walk("last: 2", "startCursor", "hasPreviousPage") == [[4, 5], [2, 3], [1]]


async def test_what_is_written_meanwhile_comes_on_later_pages(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique)
    await write_lines(graph, run, "one", "two")
    page = await lines(graph, run, "first: 2")
    assert page["pageInfo"]["hasNextPage"] is False

    await write_lines(graph, run, "three")

    cursor = page["pageInfo"]["endCursor"]
    found = await lines(graph, run, f'first: 2, after: "{cursor}"')
    assert [node["line"] for node in found["nodes"]] == [3]
    assert found["pageInfo"]["hasPreviousPage"] is True


# Leases


async def test_a_run_whose_writer_falls_silent_is_lost_once(
    graph: Graph, live: Live, unique: str
) -> None:
    silent = await a_run(graph, unique, leaseSeconds=1)
    patient = await a_run(graph, unique, leaseSeconds=3_600)
    others = [await a_run(graph, unique, leaseSeconds=1, status=s) for s in (*ENDED, "PENDING")]
    began = (
        await graph.query("query ($i: ID!) { run(id: $i) { lastReportedAt } }", {"i": silent})
    )["run"]["lastReportedAt"]

    await until_lost(graph, live, silent)
    await asyncio.gather(*(live.database.write(mark_lost) for _ in range(4)))

    assert await transitions(live, silent) == [("RUNNING", "LOST", "system:leases")]
    lost = await state(graph, silent)
    assert (lost["status"], lost["revision"], lost["endedAt"]) == ("LOST", 2, None)
    assert lost["statusMessage"] == "Nothing was heard of it for 1 seconds."
    times = await graph.query(
        "query ($i: ID!) { run(id: $i) { lastReportedAt updatedAt } }", {"i": silent}
    )
    assert times["run"]["lastReportedAt"] == began
    silence = datetime.fromisoformat(times["run"]["updatedAt"]) - datetime.fromisoformat(began)
    assert silence.total_seconds() > 1
    for run in (patient, *others):
        assert await transitions(live, run) == []


async def test_a_lost_run_goes_on_when_it_reports_again(
    graph: Graph, live: Live, unique: str
) -> None:
    runs = [await a_run(graph, unique) for _ in range(6)]
    await fall_silent(live, *runs)
    await until_lost(graph, live, *runs)
    by_metrics, by_output, by_nothing, by_running, by_completed, by_message = runs

    points = {"runId": by_metrics, "series": [{"key": "a", "steps": [1], "values": [1]}]}
    await graph.done("logMetrics", points, "run { id }")
    await write_lines(graph, by_output, "still here")
    await report(graph, by_nothing)
    await report(graph, by_running, status="RUNNING", name="back")
    await report(graph, by_completed, status="COMPLETED")
    await report(graph, by_message, statusMessage="was asleep")

    lost, back = ("RUNNING", "LOST", "system:leases"), ("LOST", "RUNNING", "tester")
    for run in (by_metrics, by_output, by_nothing, by_running, by_message):
        after = await state(graph, run)
        assert after["status"] == "RUNNING"
        assert after["statusMessage"] == ("was asleep" if run == by_message else None)
        assert await transitions(live, run) == [lost, back]
    assert (await state(graph, by_running))["name"] == "back"
    done = await state(graph, by_completed)
    assert (done["status"], done["statusMessage"]) == ("COMPLETED", None)
    completed = ("RUNNING", "COMPLETED", "tester")
    assert await transitions(live, by_completed) == [lost, back, completed]


async def test_a_service_that_starts_finds_the_runs_that_were_lost_meanwhile(
    graph: Graph, live: Live, database_url: str, unique: str
) -> None:
    run = await a_run(graph, unique, leaseSeconds=1)
    await asyncio.sleep(1)

    async with (
        serving(database_url) as other,
        Graph(other.url) as client,
        asyncio.timeout(PATIENCE),
    ):
        while True:
            if (await state(client, run))["status"] == "LOST":
                break
            await asyncio.sleep(0.05)

    assert await transitions(live, run) == [("RUNNING", "LOST", "system:leases")]


async def test_a_run_may_be_lost_again(graph: Graph, live: Live, unique: str) -> None:
    run = await a_run(graph, unique, leaseSeconds=1)
    await until_lost(graph, live, run)
    await report(graph, run)
    await until_lost(graph, live, run)

    lost, back = ("RUNNING", "LOST", "system:leases"), ("LOST", "RUNNING", "tester")
    assert await transitions(live, run) == [lost, back, lost]


async def test_a_report_that_meets_the_sweeper_leaves_the_run_running(
    graph: Graph, live: Live, unique: str
) -> None:
    runs = [await a_run(graph, unique) for _ in range(4)]
    await fall_silent(live, *runs)

    await asyncio.gather(
        *(live.database.write(mark_lost) for _ in range(4)),
        *(report(graph, run, metrics=[{"key": "a", "value": 1}]) for run in runs),
    )

    lost, back = ("RUNNING", "LOST", "system:leases"), ("LOST", "RUNNING", "tester")
    for run in runs:
        assert (await state(graph, run))["status"] == "RUNNING"
        assert await transitions(live, run) in ([], [lost, back])


# Lists


async def test_runs_are_filtered(graph: Graph, live: Live, unique: str) -> None:
    def loss(**number: object) -> list[Json]:
        return [{"key": "loss", **number}]

    async with Graph(live.url, "grace") as grace:
        await a_run(
            grace,
            unique,
            name="a",
            status="COMPLETED",
            params=[{"key": "lr", "value": "0.1"}, {"key": "n", "value": "1"}],
            tags=[{"key": "env", "value": "dev"}],
            metrics=loss(value=0.1),
        )
    await a_run(
        graph,
        unique,
        name="b",
        params=[{"key": "lr", "value": "0.10"}],
        tags=[{"key": "env", "value": "prod"}],
        metrics=loss(value=0.5),
    )
    await a_run(graph, unique, name="c", status="FAILED", metrics=loss(kind="NAN"))
    await a_run(graph, unique, name="d", status="PENDING", metrics=loss(kind="POSITIVE_INFINITY"))
    await a_run(graph, unique, name="e", metrics=loss(kind="NEGATIVE_INFINITY"))
    await a_run(graph, unique, name="f", tags=[{"key": "lr", "value": "0.1"}])
    await a_run(graph, f"{unique}-other", name="x", metrics=loss(value=0.1))

    async def found(**filter: object) -> str:
        order = [{"field": "CREATED_AT"}]
        return "".join(await found_runs(graph, unique, order=order, filter=filter))

    assert await found() == "abcdef"
    assert await found(statuses=["COMPLETED"]) == "a"
    assert await found(statuses=["COMPLETED", "RUNNING"]) == "abef"
    assert await found(statuses=[]) == "abcdef"
    assert await found(createdBy="grace") == "a"
    assert await found(createdBy="nobody") == ""
    assert await found(param={"key": "lr", "equals": "0.1"}) == "a"
    assert await found(param={"key": "n", "equals": "1"}) == "a"
    assert await found(param={"key": "env", "equals": "dev"}) == ""
    assert await found(tag={"key": "env", "equals": "prod"}) == "b"
    assert await found(tag={"key": "lr", "equals": "0.1"}) == "f"
    assert await found(metric={"key": "loss"}) == "abde"
    assert await found(metric={"key": "loss", "gte": 0.1}) == "abd"
    assert await found(metric={"key": "loss", "gte": 0.11}) == "bd"
    assert await found(metric={"key": "loss", "lte": 0.5}) == "abe"
    assert await found(metric={"key": "loss", "gte": 0.1, "lte": 0.1}) == "a"
    assert await found(metric={"key": "loss", "gte": 0.6, "lte": 0.5}) == ""
    assert await found(metric={"key": "other"}) == ""
    assert await found(statuses=["RUNNING"], metric={"key": "loss", "lte": 1}) == "be"
    assert await found_runs(graph, f"{unique}-unknown") == []


async def test_a_metric_filters_by_its_latest_value(graph: Graph, unique: str) -> None:
    values = [{"key": "loss", "value": value, "step": n} for n, value in enumerate([0.9, 0.1])]
    await a_run(graph, unique, name="a", metrics=values)

    assert await found_runs(graph, unique, filter={"metric": {"key": "loss", "gte": 0.5}}) == []
    assert await found_runs(graph, unique, filter={"metric": {"key": "loss", "lte": 0.5}}) == ["a"]


async def test_runs_are_ordered_by_time_and_pages_concatenate(
    graph: Graph, live: Live, unique: str
) -> None:
    runs = {name: await a_run(graph, unique, name=name) for name in "abcdefg"}

    async def as_if_made_at_once(session: Any) -> None:
        keys = [ids.decode("Run", runs[name]) for name in "bcdef"]
        moment = select(RunRow.created_at).where(RunRow.id == keys[0]).scalar_subquery()
        await session.execute(update(RunRow).where(RunRow.id.in_(keys)).values(created_at=moment))

    await live.database.write(as_if_made_at_once)

    up = [{"field": "CREATED_AT"}]
    down = [{"field": "CREATED_AT", "direction": "DESC"}]
    for order, expected in ((up, "abcdefg"), (down, "gfedcba"), ([], "gfedcba")):
        assert "".join(await found_runs(graph, unique, order=order)) == expected
        assert "".join(await paged(graph, unique, order, 2)) == expected
        assert "".join(await paged(graph, unique, order, 2, backward=True)) == expected


async def test_runs_are_ordered_by_a_metric_and_those_without_it_come_last(
    graph: Graph, unique: str
) -> None:
    numbers: dict[str, Json | None] = {
        "a": {"value": 0.5},
        "b": {"kind": "NAN"},
        "c": {"kind": "NEGATIVE_INFINITY"},
        "d": None,
        "e": {"value": 0.5},
        "f": {"value": -0.25},
        "g": {"kind": "POSITIVE_INFINITY"},
        "h": {"value": 0.5},
        "i": {"kind": "NAN"},
        "j": None,
        "k": {"kind": "NEGATIVE_INFINITY"},
    }
    for name, number in numbers.items():
        metrics = [{"key": "other", "value": 1}, *([{"key": "m", **number}] if number else [])]
        await a_run(graph, unique, name=name, metrics=metrics)

    up = {"field": "METRIC", "metric": "m"}
    down = {**up, "direction": "DESC"}
    newest = {"field": "CREATED_AT", "direction": "DESC"}
    oldest = {"field": "CREATED_AT"}
    for order, expected in (
        ([up], "ckfaehgbdij"),
        ([down], "gheafkcjidb"),
        ([up, newest], "kcfheagjidb"),
        ([down, oldest], "gaehfckbdij"),
    ):
        assert "".join(await found_runs(graph, unique, order=order)) == expected
        assert "".join(await paged(graph, unique, order, 2)) == expected
        assert "".join(await paged(graph, unique, order, 2, backward=True)) == expected
    found = await graph.query(
        "query ($name: String!, $order: [RunOrder!]) { experiment(name: $name) { "
        "runs(orderBy: $order, first: 100) { nodes { name } } } }",
        {"name": unique, "order": [down]},
    )
    nodes = found["experiment"]["runs"]["nodes"]
    assert "".join(node["name"] for node in nodes) == "gheafkcjidb"


@pytest.mark.parametrize("order", [{"field": "METRIC"}, {"field": "CREATED_AT", "metric": "loss"}])
async def test_a_metric_is_named_exactly_when_it_orders(graph: Graph, order: Json) -> None:
    error = await graph.error(
        "query ($order: [RunOrder!]) { runs(orderBy: $order) { nodes { id } } }",
        {"order": [order]},
    )

    assert error["message"] == "METRIC, and only METRIC, needs a metric."
    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["orderBy"]}


async def test_a_cursor_of_another_ordering_or_filter_is_refused(graph: Graph, unique: str) -> None:
    for _ in range(2):
        await a_run(graph, unique, metrics=[{"key": "m", "value": 1}])
    query = (
        "query ($filter: RunFilter, $order: [RunOrder!], $after: String) { "
        "runs(filter: $filter, orderBy: $order, first: 1, after: $after) "
        "{ pageInfo { endCursor } } }"
    )
    filter = {"experimentName": unique}
    order = [{"field": "METRIC", "metric": "m"}]
    found = await graph.query(query, {"filter": filter, "order": order})
    cursor = found["runs"]["pageInfo"]["endCursor"]
    assert await graph.query(query, {"filter": filter, "order": order, "after": cursor})

    for variables in (
        {"filter": filter},
        {"filter": filter, "order": [{**order[0], "direction": "DESC"}]},
        {"filter": filter, "order": [{**order[0], "metric": "n"}]},
        {"filter": {**filter, "statuses": ["RUNNING"]}, "order": order},
        {"order": order},
    ):
        error = await graph.error(query, {**variables, "after": cursor})
        assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["after"]}


async def test_the_params_of_a_run_are_bounded_in_all(graph: Graph, unique: str) -> None:
    def text(*keys: str) -> list[Json]:
        return [{"key": f"{key:4}".replace(" ", "_"), "value": "v" * 9_996} for key in keys]

    await graph.mutate("createExperiment", {"name": unique})
    too_much = {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": "A run has at most 2,000 parameters, of 250,000 characters in all.",
        "path": ["params"],
    }
    numbers = [str(n) for n in range(26)]

    # Exactly as much, in one piece or in several, is taken; sent again it is no more than that.
    refused = await graph.mutate("logRun", {"experimentName": unique, "params": text(*numbers)})
    assert refused == too_much
    run = await a_run(graph, unique, params=text(*numbers[:15]))
    for some in (numbers[15:25], numbers[:25]):
        await graph.done("updateRun", {"id": run, "params": text(*some)}, "run { id }")
    assert await graph.mutate("updateRun", {"id": run, "params": text(numbers[25])}) == too_much

    # Nor are there more than so many.
    run = await a_run(graph, unique)
    for n in range(0, 2_000, 1_000):
        params = [{"key": str(key), "value": ""} for key in range(n, n + 1_000)]
        await graph.done("updateRun", {"id": run, "params": params}, "run { id }")
    params = [{"key": "another", "value": ""}]
    assert await graph.mutate("updateRun", {"id": run, "params": params}) == too_much
