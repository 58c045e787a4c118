"""Stages that change at the same time."""

from asyncio import gather, sleep
from itertools import pairwise

import asyncpg
import pytest

from tests.client import Graph, Json
from tests.conftest import Live, serving
from tests.factories import a_version, a_version_in, approved
from tests.history import faults_in_history, history

STAGE_CHANGE = (
    "modelVersion { id version stage revision } displaced { id version stage }"  # as it is now
)


async def set_stage(graph: Graph, id: str, stage: str, **input: object) -> Json:
    return await graph.mutate(
        "setStage", {"modelVersion": {"id": id}, "stage": stage, **input}, STAGE_CHANGE
    )


async def staged(graph: Graph, model: str, number: int) -> list[Json]:
    """So many new versions that the policy has approved by itself."""
    metrics = [{"key": "accuracy", "value": 0.9}]
    versions = [await a_version(graph, model, metrics=metrics) for _ in range(number)]
    return [await approved(graph, version) for version in versions]


async def in_production(sql: asyncpg.Connection, model: str) -> tuple[int, int]:
    """How many versions say that they are in production, and how many the history."""
    row = await sql.fetchrow(
        "SELECT count(*) FILTER (WHERE version.stage = 'PRODUCTION'), "
        "count(*) FILTER (WHERE entry.stage = 'PRODUCTION') "
        "FROM model_version AS version JOIN stage_assignment AS entry "
        "ON model_version_id = version.id AND valid_to IS NULL WHERE model_name = $1",
        model,
    )
    return row[0], row[1]


@pytest.mark.parametrize("number", [10, pytest.param(50, marks=pytest.mark.slow)])
async def test_promotions_at_once_leave_one_in_production_at_every_moment(
    graph: Graph, live: Live, sql: asyncpg.Connection, unique: str, number: int
) -> None:
    versions = await staged(graph, unique, number)
    seen = []

    async with serving(live.database.url) as second, Graph(second.url) as other:
        work = gather(
            *(
                set_stage((graph, other)[n % 2], version["id"], "PRODUCTION")
                for n, version in enumerate(versions)
            )
        )
        while not work.done():
            seen.append(await in_production(sql, unique))
            await sleep(0)
        results = await work

    # Whoever looked saw none, and from the first on one.
    assert seen == sorted(seen)
    assert set(seen) <= {(0, 0), (1, 1)}
    # They wait for each other; none is lost.
    assert {result["__typename"] for result in results} == {"SetStageSuccess"}
    entries = [e for e in await history(graph, unique) if e["stage"] == "PRODUCTION"]
    order = [entry["modelVersion"]["version"] for entry in entries]
    assert sorted(order) == sorted(version["version"] for version in versions)
    # From the first on there was one at every moment: each ends when the next begins.
    assert [e["validTo"] for e in entries] == [*[e["validFrom"] for e in entries[1:]], None]
    # Each displaced exactly the one before it.
    displaced = {
        result["modelVersion"]["version"]: [version["version"] for version in result["displaced"]]
        for result in results
    }
    assert displaced == {
        version: [former] if former else []
        for former, version in zip([None, *order], order, strict=False)
    }
    archived = [e for e in await history(graph, unique) if e["stage"] == "ARCHIVED"]
    assert {(e["modelVersion"]["version"], e["validFrom"], e["cause"]) for e in archived} == {
        (former["modelVersion"]["version"], entry["validFrom"], "DISPLACED")
        for former, entry in pairwise(entries)
    }
    assert await faults_in_history(sql, unique) == 0
    # The journal tells the same: each displaced in the request of its successor, just before it.
    told = await sql.fetch(
        "SELECT after ->> 'version' AS version, after ->> 'cause' AS cause, request_id FROM event "
        "WHERE after ->> 'model_name' = $1 AND after ->> 'cause' IN ('DISPLACED', 'REQUESTED') "
        "ORDER BY id",
        unique,
    )
    requests = [event["request_id"] for event in told if event["cause"] == "REQUESTED"]
    assert [tuple(event) for event in told] == [
        (order[0], "REQUESTED", requests[0]),
        *(
            event
            for former, version, request in zip(order, order[1:], requests[1:], strict=False)
            for event in ((former, "DISPLACED", request), (version, "REQUESTED", request))
        ),
    ]


async def test_of_those_who_expect_the_same_version_in_production_one_comes_in(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    former = await a_version_in(
        graph, unique, "PRODUCTION", metrics=[{"key": "accuracy", "value": 0.9}]
    )
    versions = await staged(graph, unique, 3)
    expected = {"expectedInProduction": former["version"]}

    rehearsed = await set_stage(graph, versions[0]["id"], "PRODUCTION", **expected, dryRun=True)
    results = await gather(
        *(set_stage(graph, version["id"], "PRODUCTION", **expected) for version in versions)
    )
    late = await set_stage(graph, former["id"], "EXPERIMENTAL", expectedInProduction="9")

    assert rehearsed["__typename"] == "SetStageSuccess"
    (won,) = [each for each in results if each["__typename"] == "SetStageSuccess"]
    lost = [each for each in results if each["__typename"] == "Conflict"]
    assert len(lost) == 2
    for refused in lost:
        assert refused == {
            "__typename": "Conflict",
            "code": "CONFLICT",
            "message": f"Version {former['version']} was expected in PRODUCTION, but version "
            f"{won['modelVersion']['version']} is there now.",
            "path": ["expectedInProduction"],
        }
    assert late["__typename"] == "Conflict"
    assert await faults_in_history(sql, unique) == 0


async def test_promotions_and_withdrawals_at_once_keep_the_history_whole(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    versions = await staged(graph, unique, 4)
    stages = ["PRODUCTION", "STAGING", "ARCHIVED", "EXPERIMENTAL"]

    results = await gather(
        *(
            set_stage(graph, version["id"], stages[(n + step) % 4])
            for step in range(12)
            for n, version in enumerate(versions)
        )
    )

    kinds = {result["__typename"] for result in results}
    assert kinds <= {"SetStageSuccess", "InvalidTransition"}
    entries = await history(graph, unique)
    made = [r for r in results if r["__typename"] == "SetStageSuccess"]
    displaced = [e for e in entries if e["cause"] == "DISPLACED"]
    assert len([e for e in entries if e["cause"] == "REQUESTED"]) == len(made)
    assert sum(len(r["displaced"]) for r in made) == len(displaced)
    assert await faults_in_history(sql, unique) == 0


async def test_a_version_is_moved_or_deleted_in_one_order_or_the_other(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    versions = await staged(graph, unique, 10)

    async def both(n: int, id: str) -> tuple[Json, Json]:
        move = set_stage(graph, id, "PRODUCTION")
        delete = graph.mutate("deleteModelVersion", {"modelVersion": {"id": id}})
        if n % 2:
            moved, deleted = await gather(move, delete)
        else:
            deleted, moved = await gather(delete, move)
        return moved, deleted

    results = await gather(*(both(n, version["id"]) for n, version in enumerate(versions)))

    for moved, deleted in results:
        kinds = (moved["__typename"], deleted["__typename"])
        assert kinds in (
            ("SetStageSuccess", "InUse"),
            ("NotFound", "DeleteModelVersionSuccess"),
            # It was displaced before it was deleted.
            ("SetStageSuccess", "DeleteModelVersionSuccess"),
        )
    assert await faults_in_history(sql, unique) == 0


async def test_of_stage_changes_decided_on_one_revision_at_once_one_is_made(
    graph: Graph, unique: str
) -> None:
    [made] = await staged(graph, unique, 1)
    revision, entries = made["revision"], len(await history(graph, unique))

    results = await gather(
        *(
            set_stage(graph, made["id"], stage, expectedRevision=revision)
            for stage in ("PRODUCTION", "ARCHIVED", "EXPERIMENTAL") * 3
        )
    )

    (won,) = (result for result in results if result["__typename"] == "SetStageSuccess")
    assert won["modelVersion"]["revision"] == revision + 1
    stale = [result for result in results if result is not won]
    assert {(r["__typename"], r["currentRevision"]) for r in stale} == {
        ("StaleRevision", revision + 1)
    }
    assert len(await history(graph, unique)) == entries + 1


async def test_the_same_stage_change_at_once_without_a_key_is_made_once(
    graph: Graph, unique: str
) -> None:
    made = await a_version(graph, unique)

    results = await gather(*(set_stage(graph, made["id"], "STAGING") for _ in range(8)))

    kinds = sorted(result["__typename"] for result in results)
    assert kinds == ["InvalidTransition"] * 7 + ["SetStageSuccess"]
    assert len(await history(graph, unique)) == 2


async def test_a_stage_change_under_one_key_twice_at_once_is_one(
    graph: Graph, live: Live, unique: str
) -> None:
    old = await a_version_in(graph, unique, "PRODUCTION")
    [new] = await staged(graph, unique, 1)

    async with serving(live.database.url) as second, Graph(second.url) as other:
        results = await gather(
            *(
                set_stage(server, new["id"], "PRODUCTION", idempotencyKey=unique)
                for server in (graph, other) * 5
            )
        )

    assert results == [results[0]] * 10
    assert results[0] == {
        "__typename": "SetStageSuccess",
        "modelVersion": {**new, "stage": "PRODUCTION", "revision": new["revision"] + 1},
        "displaced": [{"id": old["id"], "version": "1", "stage": "ARCHIVED"}],
    }
    production = [e for e in await history(graph, unique) if e["stage"] == "PRODUCTION"]
    assert [e["modelVersion"]["version"] for e in production] == ["1", "2"]


async def test_what_is_in_production_is_found_while_it_changes(graph: Graph, unique: str) -> None:
    await a_version_in(graph, unique, "PRODUCTION")
    versions = await staged(graph, unique, 6)
    production = {"inStage": {"modelName": unique, "stage": "PRODUCTION"}}
    one = "query ($by: ModelVersionSelector!) { modelVersion(by: $by) { stage } }"

    async def deploy() -> Json:
        input = {"modelVersion": production, "environment": "PRODUCTION"}
        return await graph.mutate("createDeployment", input)

    async def read() -> Json:
        return await graph.query(one, {"by": production})

    work = [(set_stage(graph, v["id"], "PRODUCTION"), deploy(), deploy(), read()) for v in versions]
    results = await gather(*(action for actions in work for action in actions))

    # There was one at every moment, so there is always one to deploy and to read.
    assert [result["__typename"] for result in results[0::4]] == ["SetStageSuccess"] * 6
    deployed = [*results[1::4], *results[2::4]]
    assert deployed == [{"__typename": "CreateDeploymentSuccess"}] * 12
    assert results[3::4] == [{"modelVersion": {"stage": "PRODUCTION"}}] * 6


async def test_items_appended_at_once_are_all_on_the_list_in_places_of_their_own(
    graph: Graph, unique: str
) -> None:
    made = await a_version(graph, unique, checklist=["0"])

    results = await gather(
        *(
            graph.mutate(
                "appendChecklistItem", {"modelVersion": {"id": made["id"]}, "title": f"{n}"}
            )
            for n in range(1, 21)
        )
    )

    assert {result["__typename"] for result in results} == {"AppendChecklistItemSuccess"}
    found = await graph.query(
        "query ($id: ID!) { node(id: $id) { "
        "... on ModelVersion { revision checklist { title } } } }",
        {"id": made["id"]},
    )
    assert found["node"]["revision"] == 21
    titles = [item["title"] for item in found["node"]["checklist"]]
    assert titles[0] == "0"
    assert sorted(titles, key=int) == [str(n) for n in range(21)]
