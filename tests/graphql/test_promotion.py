"""Stages, their history, and checklists."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import uuid4

import asyncpg
import pytest

from lifecycle.registry.rules import Stage
from schema import ids
from tests.client import Graph, Json
from tests.conftest import Live
from tests.factories import VERSION, a_version, a_version_in, approved
from tests.history import faults_in_history, history

FOLLOWING = {
    "EXPERIMENTAL": ["ARCHIVED", "STAGING"],
    "STAGING": ["ARCHIVED", "EXPERIMENTAL", "PRODUCTION"],
    "PRODUCTION": ["ARCHIVED", "STAGING"],
    "ARCHIVED": ["EXPERIMENTAL", "STAGING"],
}
HISTORY = """
query ($name: String!, $after: String) {
  model(name: $name) { stageHistory(first: 3, after: $after) {
    totalCount
    nodes { stage validFrom validTo actor reason cause modelVersion { version deletedAt } }
    pageInfo { hasNextPage endCursor }
  } }
}"""
IN_STAGE = """
query ($name: String!, $stage: Stage!, $at: DateTime) {
  model(name: $name) { versionInStage(stage: $stage, at: $at) { version } }
}"""
STATE = """
query ($id: ID!) { node(id: $id) { ... on ModelVersion {
  stage revision updatedAt checklist { id title status note decidedBy decidedAt } } } }"""
ITEM = "checklistItem { id title status note decidedBy decidedAt }"


async def set_stage(graph: Graph, id: str, stage: str, **input: object) -> Json:
    return await graph.mutate(
        "setStage",
        {"modelVersion": {"id": id}, "stage": stage, **input},
        "modelVersion { id version stage revision } displaced { id version stage revision }",
    )


async def in_stage(graph: Graph, name: str, stage: str, at: str | None = None) -> str | None:
    found = await graph.query(IN_STAGE, {"name": name, "stage": stage, "at": at})
    version: Json | None = found["model"]["versionInStage"]
    return version["version"] if version else None


async def state(graph: Graph, id: str) -> Json:
    """What a stage change or a mark in the checklist can change in a version."""
    found: Json = (await graph.query(STATE, {"id": id}))["node"]
    return found


def moved(moment: str, **by: float) -> str:
    return (datetime.fromisoformat(moment) + timedelta(**by)).isoformat()


# The stage machine


@pytest.mark.parametrize("wanted", Stage)
@pytest.mark.parametrize("current", Stage)
async def test_a_version_goes_where_its_stage_allows_and_nowhere_else(
    graph: Graph, unique: str, current: Stage, wanted: Stage
) -> None:
    if (current, wanted) == (Stage.STAGING, Stage.PRODUCTION):
        made = await approved(graph, await a_version(graph, unique))
    else:
        made = await a_version_in(graph, unique, current)
    before, entries = await state(graph, made["id"]), await history(graph, unique)

    result = await set_stage(graph, made["id"], wanted)

    if wanted in FOLLOWING[current]:
        assert result == {
            "__typename": "SetStageSuccess",
            "modelVersion": {**made, "stage": wanted, "revision": made["revision"] + 1},
            "displaced": [],
        }
        assert (await state(graph, made["id"]))["stage"] == wanted
        return
    allowed = FOLLOWING[current]
    assert result == {
        "__typename": "InvalidTransition",
        "code": "INVALID_TRANSITION",
        "message": f"{current} cannot become {wanted}; allowed next: {', '.join(allowed)}.",
        "path": ["stage"],
        "from": current,
        "to": wanted,
        "allowed": allowed,
    }
    assert await state(graph, made["id"]) == before
    assert await history(graph, unique) == entries


async def test_a_promotion_archives_the_version_that_it_displaces(
    graph: Graph, unique: str
) -> None:
    old = await a_version_in(graph, unique, "PRODUCTION")
    new = await approved(graph, await a_version(graph, unique))

    result = await set_stage(graph, new["id"], "PRODUCTION", reason="better on all slices")

    assert result == {
        "__typename": "SetStageSuccess",
        "modelVersion": {**new, "stage": "PRODUCTION", "revision": 5},
        "displaced": [{**old, "stage": "ARCHIVED", "revision": 6}],
    }
    entries = {entry["stage"]: entry for entry in await history(graph, unique)}
    displaced, promoted = entries["ARCHIVED"], entries["PRODUCTION"]
    moment = promoted["validFrom"]
    assert promoted == {
        "stage": "PRODUCTION",
        "validFrom": moment,
        "validTo": None,
        "actor": "tester",
        "reason": "better on all slices",
        "cause": "REQUESTED",
        "modelVersion": {"version": "2", "deletedAt": None},
    }
    # In the same moment: nobody ever sees two of them, or none.
    assert displaced == {
        "stage": "ARCHIVED",
        "validFrom": moment,
        "validTo": None,
        "actor": "tester",
        "reason": "Displaced by version 2.",
        "cause": "DISPLACED",
        "modelVersion": {"version": "1", "deletedAt": None},
    }


async def test_a_promotion_of_one_model_displaces_nothing_of_another(
    graph: Graph, unique: str
) -> None:
    other = await a_version_in(graph, f"{unique}-other", "PRODUCTION")
    mine = await approved(graph, await a_version(graph, unique))

    result = await set_stage(graph, mine["id"], "PRODUCTION")

    assert result["displaced"] == []
    assert (await state(graph, other["id"]))["stage"] == "PRODUCTION"


async def test_what_left_production_by_itself_is_not_displaced(graph: Graph, unique: str) -> None:
    old = await a_version_in(graph, unique, "PRODUCTION")
    await set_stage(graph, old["id"], "STAGING")
    new = await approved(graph, await a_version(graph, unique))

    result = await set_stage(graph, new["id"], "PRODUCTION")

    assert result["displaced"] == []
    assert (await state(graph, old["id"]))["stage"] == "STAGING"


async def test_a_selector_by_stage_moves_the_version_that_is_there(
    graph: Graph, unique: str
) -> None:
    await a_version_in(graph, unique, "PRODUCTION")
    await approved(graph, await a_version(graph, unique))
    staging = {"inStage": {"modelName": unique, "stage": "STAGING"}}

    moved_on = await graph.done(
        "setStage", {"modelVersion": staging, "stage": "PRODUCTION"}, VERSION
    )
    none = await graph.mutate("setStage", {"modelVersion": staging, "stage": "PRODUCTION"})

    assert (moved_on["version"], moved_on["stage"]) == ("2", "PRODUCTION")
    assert none["__typename"] == "NotFound"


async def test_a_stage_change_decided_on_an_old_revision_is_refused(
    graph: Graph, unique: str
) -> None:
    made = await approved(graph, await a_version(graph, unique))
    before, entries = await state(graph, made["id"]), await history(graph, unique)

    refused = await set_stage(graph, made["id"], "PRODUCTION", expectedRevision=1)
    # Staleness is told first: the caller's picture is old, whatever was asked for.
    both = await set_stage(graph, made["id"], "STAGING", expectedRevision=1)

    assert refused == {
        "__typename": "StaleRevision",
        "code": "STALE_REVISION",
        "message": "Revision 1 was expected, but it is 4 now.",
        "path": ["expectedRevision"],
        "currentRevision": 4,
    }
    assert both == refused
    assert await state(graph, made["id"]) == before
    assert await history(graph, unique) == entries
    done = await set_stage(graph, made["id"], "PRODUCTION", expectedRevision=4)
    assert done["modelVersion"]["revision"] == 5


async def test_a_stage_change_repeated_under_its_key_says_what_it_displaced_then(
    graph: Graph, unique: str
) -> None:
    await a_version_in(graph, unique, "PRODUCTION")
    new = await approved(graph, await a_version(graph, unique))
    first = await set_stage(graph, new["id"], "PRODUCTION", idempotencyKey=unique)
    entries = await history(graph, unique)

    again = await set_stage(graph, new["id"], "PRODUCTION", idempotencyKey=unique)
    other = await set_stage(graph, new["id"], "ARCHIVED", idempotencyKey=unique)

    assert again == first
    assert [version["version"] for version in again["displaced"]] == ["1"]
    assert other["__typename"] == "IdempotencyConflict"
    assert await history(graph, unique) == entries


@pytest.mark.parametrize(
    ("input", "path"),
    [
        ({"reason": "x" * 20_001}, ["reason"]),
        ({"reason": "\x00"}, ["reason"]),
        ({"modelVersion": {"id": "?"}}, ["modelVersion", "id"]),
    ],
)
async def test_an_unacceptable_stage_change_changes_nothing(
    graph: Graph, unique: str, input: Json, path: list[str]
) -> None:
    made = await a_version(graph, unique)
    before = await state(graph, made["id"])

    refused = await set_stage(graph, made["id"], "STAGING", **input)

    assert (refused["__typename"], refused["path"]) == ("InvalidInput", path)
    assert await state(graph, made["id"]) == before


async def test_a_stage_that_does_not_exist_is_refused_before_anything_happens(
    graph: Graph, unique: str
) -> None:
    made = await a_version(graph, unique)

    error = await graph.error(
        "mutation ($input: SetStageInput!) { setStage(input: $input) { __typename } }",
        {"input": {"modelVersion": {"id": made["id"]}, "stage": "LIVE"}},
    )

    assert error["extensions"]["code"] == "INVALID_INPUT"
    assert (await state(graph, made["id"]))["stage"] == "EXPERIMENTAL"


# History


async def test_the_history_of_stages_has_no_gaps_and_no_overlaps(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    first = await approved(graph, await a_version(graph, unique))
    path = ["PRODUCTION", "ARCHIVED", "EXPERIMENTAL", "STAGING", "PRODUCTION", "STAGING"]
    for stage in path:
        await set_stage(graph, first["id"], stage, reason=f"to {stage}")
    second = await a_version_in(graph, unique, "PRODUCTION")
    await set_stage(graph, first["id"], "PRODUCTION")

    entries = await history(graph, unique)

    of_first = [entry for entry in entries if entry["modelVersion"]["version"] == "1"]
    assert [(entry["stage"], entry["reason"], entry["cause"]) for entry in of_first] == [
        ("EXPERIMENTAL", None, "REGISTERED"),
        ("STAGING", None, "APPROVED"),
        *[(stage, f"to {stage}", "REQUESTED") for stage in path],
        ("PRODUCTION", None, "REQUESTED"),
    ]
    of_second = [entry for entry in entries if entry["modelVersion"]["version"] == "2"]
    assert [(entry["stage"], entry["cause"]) for entry in of_second] == [
        ("EXPERIMENTAL", "REGISTERED"),
        ("STAGING", "APPROVED"),
        ("PRODUCTION", "REQUESTED"),
        ("ARCHIVED", "DISPLACED"),
    ]
    for of_version in (of_first, of_second):
        assert [entry["validTo"] for entry in of_version[:-1]] == [
            entry["validFrom"] for entry in of_version[1:]
        ]
        assert of_version[-1]["validTo"] is None
    for version, of_version in ((first, of_first), (second, of_second)):
        made = await graph.query(
            "query ($id: ID!) { node(id: $id) { ... on ModelVersion { createdAt } } }",
            {"id": version["id"]},
        )
        assert of_version[0]["validFrom"] == made["node"]["createdAt"]
    assert await faults_in_history(sql, unique) == 0


async def test_the_history_comes_in_pages_newest_first(graph: Graph, unique: str) -> None:
    for _ in range(2):
        await a_version_in(graph, unique, "PRODUCTION")
    nodes: list[Json] = []
    after = None
    while True:
        found = await graph.query(HISTORY, {"name": unique, "after": after})
        page = found["model"]["stageHistory"]
        assert page["totalCount"] == 7
        nodes += page["nodes"]
        if not page["pageInfo"]["hasNextPage"]:
            break
        after = page["pageInfo"]["endCursor"]

    assert nodes == (await history(graph, unique))[::-1]
    assert len(nodes) == 7
    times = [datetime.fromisoformat(node["validFrom"]) for node in nodes]
    assert all(later >= earlier for later, earlier in pairwise(times))


async def test_a_stage_begins_at_its_first_moment_and_ends_just_before_its_last(
    graph: Graph, unique: str
) -> None:
    await a_version_in(graph, unique, "PRODUCTION")
    await a_version_in(graph, unique, "PRODUCTION")
    entries = [e for e in await history(graph, unique) if e["stage"] == "PRODUCTION"]
    begin, change = entries[0]["validFrom"], entries[1]["validFrom"]
    assert entries[0]["validTo"] == change

    async def at(moment: str | None) -> str | None:
        return await in_stage(graph, unique, "PRODUCTION", moment)

    assert await at(moved(begin, days=-1)) is None
    assert await at(moved(begin, microseconds=-1)) is None
    assert await at(begin) == "1"
    assert await at(moved(change, microseconds=-1)) == "1"
    assert await at(change) == "2"
    assert await at(moved(change, days=1)) == "2"
    assert await at(None) == "2"
    # The same moment in another zone.
    zoned = datetime.fromisoformat(change) + timedelta(hours=5, minutes=30)
    assert await at(zoned.replace(tzinfo=None).isoformat() + "+05:30") == "2"


async def test_a_stage_that_was_left_is_empty_from_then_on(graph: Graph, unique: str) -> None:
    made = await a_version_in(graph, unique, "PRODUCTION")
    await set_stage(graph, made["id"], "ARCHIVED")
    left = (await history(graph, unique))[-1]["validFrom"]

    assert await in_stage(graph, unique, "PRODUCTION") is None
    assert await in_stage(graph, unique, "PRODUCTION", left) is None
    assert await in_stage(graph, unique, "PRODUCTION", moved(left, microseconds=-1)) == "1"
    assert await in_stage(graph, unique, "ARCHIVED", left) == "1"


async def test_of_several_in_a_stage_the_last_to_enter_is_told(graph: Graph, unique: str) -> None:
    first = await a_version_in(graph, unique, "STAGING")
    await a_version_in(graph, unique, "STAGING")
    assert await in_stage(graph, unique, "STAGING") == "2"
    for stage in ("EXPERIMENTAL", "STAGING"):
        await set_stage(graph, first["id"], stage)
    again = (await history(graph, unique))[-1]["validFrom"]

    assert await in_stage(graph, unique, "STAGING") == "1"
    assert await in_stage(graph, unique, "STAGING", again) == "1"
    assert await in_stage(graph, unique, "STAGING", moved(again, microseconds=-1)) == "2"


async def test_a_deleted_version_was_in_its_stages_until_it_was_deleted(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    made = await a_version_in(graph, unique, "STAGING")
    deleted = await graph.done(
        "deleteModelVersion", {"modelVersion": {"id": made["id"]}}, "modelVersion { deletedAt }"
    )
    end = deleted["deletedAt"]
    entries = await history(graph, unique)
    assert [(e["stage"], e["modelVersion"]["deletedAt"]) for e in entries] == [
        ("EXPERIMENTAL", end),
        ("STAGING", end),
        ("ARCHIVED", end),
    ]
    archived = entries[2]["validFrom"]

    assert await in_stage(graph, unique, "STAGING", entries[1]["validFrom"]) == "1"
    assert await in_stage(graph, unique, "STAGING", archived) is None
    assert await in_stage(graph, unique, "ARCHIVED", archived) == "1"
    assert await in_stage(graph, unique, "ARCHIVED", end) is None
    assert await in_stage(graph, unique, "ARCHIVED") is None
    assert await faults_in_history(sql, unique) == 0


@pytest.mark.parametrize("at", ["2026-01-01T00:00:00", "2026-01-01T00:00:00.123456"])
async def test_a_moment_without_its_zone_is_refused(graph: Graph, unique: str, at: str) -> None:
    await a_version(graph, unique)

    error = await graph.error(IN_STAGE, {"name": unique, "stage": "STAGING", "at": at})

    assert error["message"] == "Input should have timezone info"
    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["at"]}


@pytest.mark.parametrize("at", ["yesterday", "2026-13-01T00:00:00Z", "", 7])
async def test_what_is_no_moment_is_refused(graph: Graph, unique: str, at: object) -> None:
    error = await graph.error(IN_STAGE, {"name": unique, "stage": "STAGING", "at": at})

    assert error["extensions"]["code"] == "INVALID_INPUT"


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
async def test_the_ends_of_time_can_be_asked_about(graph: Graph, unique: str, at: str) -> None:
    await a_version(graph, unique)

    found = await in_stage(graph, unique, "EXPERIMENTAL", at)

    assert found == ("1" if at.startswith("9") else None)


async def test_the_history_goes_forward_even_when_the_clock_was_set_back(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    new = await approved(graph, await a_version(graph, unique))
    old = await a_version(graph, unique)
    # It was registered by a clock that was an hour ahead.
    await sql.execute(
        "UPDATE stage_assignment SET valid_from = valid_from + interval '1 hour' "
        "WHERE model_version_id = "
        "(SELECT id FROM model_version WHERE model_name = $1 AND version = '2')",
        unique,
    )
    await approved(graph, old)

    for version in (old, new):
        await set_stage(graph, version["id"], "PRODUCTION")

    entries = [e for e in await history(graph, unique) if e["stage"] == "PRODUCTION"]
    assert [e["modelVersion"]["version"] for e in entries] == ["2", "1"]
    assert entries[0]["validTo"] == entries[1]["validFrom"] > entries[0]["validFrom"]
    assert (await a_version(graph, unique))["version"] == "3"
    assert await in_stage(graph, unique, "EXPERIMENTAL") == "3"


# What the database refuses by itself

ENTRY = """
INSERT INTO stage_assignment (id, model_id, model_version_id, actor, cause,
                              stage, valid_from, valid_to, follows, approval_id)
SELECT gen_random_uuid(), model_id, id, 'sql', 'REQUESTED', $3, $4, $5, $6,
    (SELECT id FROM approval WHERE approval.model_version_id = model_version.id)
FROM model_version WHERE model_name = $1 AND version = $2
"""


async def refusal(sql: asyncpg.Connection, statement: str, *args: object) -> str:
    """The constraint that refuses a statement."""
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
        async with sql.transaction():
            await sql.execute(statement, *args)
    return str(refused.value.constraint_name)


async def test_the_database_refuses_a_stepversion_in_production(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    await a_version_in(graph, unique, "PRODUCTION")
    await a_version_in(graph, unique, "STAGING")

    promote_all = "UPDATE model_version SET stage = 'PRODUCTION' WHERE model_name = $1"

    assert await refusal(sql, promote_all, unique) == "uq_model_version_production"


@pytest.mark.parametrize("table", ["model_version", "stage_assignment"])
async def test_the_database_knows_the_stages(
    graph: Graph, sql: asyncpg.Connection, unique: str, table: str
) -> None:
    await a_version(graph, unique)
    invent = (
        f"UPDATE {table} SET stage = 'LIVE' WHERE model_id = (SELECT id FROM model WHERE name = $1)"
    )

    assert await refusal(sql, invent, unique) == f"ck_{table}_stage"


async def test_the_database_refuses_overlaps_and_gaps_in_the_history_of_a_version(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    await a_version_in(graph, unique, "STAGING")
    first, second = await history(graph, unique)
    start = datetime.fromisoformat(first["validFrom"])
    change = datetime.fromisoformat(second["validFrom"])
    step = timedelta(seconds=1)

    async def entry(begin: datetime, end: datetime | None, follows: datetime | None) -> str:
        return await refusal(sql, ENTRY, unique, "1", "ARCHIVED", begin, end, follows)

    # Overlaps: with the open entry, with both, and another open one.
    within = change + step
    assert await entry(within, within + step, within) == "ex_stage_assignment_model_version"
    again = await entry(start, within, start)
    assert again == "uq_stage_assignment_model_version_id_valid_from"
    assert await entry(start - step, None, start - step) == "uq_stage_assignment_open"
    # No length, or less.
    early = start - step
    assert await entry(early, early, early) == "ck_stage_assignment_valid_to"
    assert await entry(early, early - step, early) == "ck_stage_assignment_valid_to"
    # Gaps: an entry before the first, a second first one, one that follows another moment.
    assert await entry(early - step, early, early - step) == "fk_stage_assignment_follows"
    assert await entry(early - step, early, None) == "uq_stage_assignment_first"
    assert await entry(early - step, early, start) == "ck_stage_assignment_follows"
    shorten = (
        "UPDATE stage_assignment SET valid_to = valid_to - interval '1 microsecond' "
        "WHERE valid_to IS NOT NULL "
        "AND model_id = (SELECT id FROM model WHERE name = $1)"
    )
    assert await refusal(sql, shorten, unique) == "fk_stage_assignment_follows"
    assert await history(graph, unique) == [first, second]


async def test_the_database_refuses_two_in_production_at_any_moment_of_the_past(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    for model in (unique, f"{unique}-other"):
        await approved(graph, await a_version(graph, model))
        await approved(graph, await a_version(graph, model))
    forget = "DELETE FROM stage_assignment WHERE model_id IN (SELECT id FROM model WHERE name = $1)"

    def produced(model: str, version: str, first: int, last: int) -> tuple[object, ...]:
        begin, end = (datetime(2020, 1, day, tzinfo=UTC) for day in (first, last))
        return model, version, "PRODUCTION", begin, end, None

    transaction = sql.transaction()
    await transaction.start()
    for model in (unique, f"{unique}-other"):
        await sql.execute(forget, model)
    await sql.execute(ENTRY, *produced(unique, "1", 10, 20))
    await sql.execute(ENTRY, *produced(f"{unique}-other", "1", 10, 20))

    for first, last in ((19, 21), (9, 11), (12, 13), (5, 25)):
        refused = await refusal(sql, ENTRY, *produced(unique, "2", first, last))
        assert refused == "ex_stage_assignment_production"
    # One may begin where the other ends.
    await sql.execute(ENTRY, *produced(unique, "2", 20, 25))
    await transaction.rollback()


async def test_the_database_keeps_entries_with_the_model_of_their_version(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    await a_version(graph, unique)
    await a_version(graph, f"{unique}-other")
    give_away = (
        "UPDATE stage_assignment SET model_id = (SELECT id FROM model WHERE name = $2) "
        "WHERE model_id = (SELECT id FROM model WHERE name = $1)"
    )

    refused = await refusal(sql, give_away, unique, f"{unique}-other")

    assert refused == "fk_stage_assignment_model_version"


# Checklists


async def test_items_are_appended_in_order_and_count_as_changes_of_the_version(
    graph: Graph, unique: str
) -> None:
    made = await a_version(graph, unique, checklist=["first"])
    before = await state(graph, made["id"])

    result = await graph.mutate(
        "appendChecklistItem",
        {"modelVersion": {"id": made["id"]}, "title": "second", "expectedRevision": 1},
        f"{ITEM} modelVersion {{ id revision }}",
    )

    item = result["checklistItem"]
    assert result == {
        "__typename": "AppendChecklistItemSuccess",
        "checklistItem": {
            "id": item["id"],
            "title": "second",
            "status": "PENDING",
            "note": None,
            "decidedBy": None,
            "decidedAt": None,
        },
        "modelVersion": {"id": made["id"], "revision": 2},
    }
    after = await state(graph, made["id"])
    assert after["checklist"] == [*before["checklist"], item]
    assert after["updatedAt"] > before["updatedAt"]


async def test_an_item_is_decided_with_who_and_when_and_can_be_opened_again(
    graph: Graph, live: Live, unique: str
) -> None:
    made = await a_version(graph, unique, checklist=["data", "card"])
    data, card = (await state(graph, made["id"]))["checklist"]

    async def mark(status: str, **input: object) -> Json:
        async with Graph(live.url, actor="ada") as ada:
            return await ada.mutate(
                "markChecklistItem",
                {"id": data["id"], "status": status, **input},
                f"{ITEM} modelVersion {{ id revision }}",
            )

    approved = await mark("APPROVED", note="balanced", expectedRevision=1)
    item = approved["checklistItem"]
    assert item == {
        "id": data["id"],
        "title": "data",
        "status": "APPROVED",
        "note": "balanced",
        "decidedBy": "ada",
        "decidedAt": item["decidedAt"],
    }
    assert item["decidedAt"] is not None
    assert approved["modelVersion"] == {"id": made["id"], "revision": 2}
    assert (await state(graph, made["id"]))["checklist"] == [item, card]

    # The same again is no change, whoever says it.
    assert await mark("APPROVED", note="balanced") == approved

    rejected = await mark("REJECTED")
    assert rejected["checklistItem"] == {
        **item,
        "status": "REJECTED",
        "note": None,
        "decidedAt": rejected["checklistItem"]["decidedAt"],
    }
    assert rejected["checklistItem"]["decidedAt"] > item["decidedAt"]
    assert rejected["modelVersion"]["revision"] == 3

    opened = await mark("PENDING", note="look again")
    assert opened["checklistItem"] == {**data, "note": "look again"}
    assert opened["modelVersion"]["revision"] == 4
    assert (await state(graph, made["id"]))["checklist"] == [{**data, "note": "look again"}, card]


async def test_changes_of_a_checklist_decided_on_an_old_revision_are_refused(
    graph: Graph, unique: str
) -> None:
    made = await a_version_in(graph, unique, "STAGING", checklist=["data"])
    before = await state(graph, made["id"])
    item = before["checklist"][0]["id"]

    appended = await graph.mutate(
        "appendChecklistItem",
        {"modelVersion": {"id": made["id"]}, "title": "more", "expectedRevision": 1},
    )
    marked = await graph.mutate(
        "markChecklistItem", {"id": item, "status": "APPROVED", "expectedRevision": 1}
    )

    assert (appended["__typename"], appended["currentRevision"]) == ("StaleRevision", 2)
    assert (marked["__typename"], marked["currentRevision"]) == ("StaleRevision", 2)
    assert await state(graph, made["id"]) == before


async def test_an_unknown_item_is_not_found_and_the_id_of_something_else_is_refused(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    made = await a_version(graph, unique)

    unknown = await graph.mutate(
        "markChecklistItem", {"id": ids.encode("ChecklistItem", uuid4()), "status": "APPROVED"}
    )
    other = await graph.mutate("markChecklistItem", {"id": made["id"], "status": "APPROVED"})

    assert unknown == {
        "__typename": "NotFound",
        "code": "NOT_FOUND",
        "message": "There is no checklist item with this id.",
        "path": ["id"],
    }
    assert other == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": "This is the id of a ModelVersion; that of a ChecklistItem is needed.",
        "path": ["id"],
    }


@pytest.mark.parametrize(
    "title",
    ["", " ", "two\nlines", "x" * 1_001, "\x00"],
    ids=["empty", "space", "lines", "long", "nul"],
)
async def test_an_item_needs_a_title_of_one_line(graph: Graph, unique: str, title: str) -> None:
    made = await a_version(graph, unique)
    before = await state(graph, made["id"])

    refused = await graph.mutate(
        "appendChecklistItem", {"modelVersion": {"id": made["id"]}, "title": title}
    )

    assert (refused["__typename"], refused["path"]) == ("InvalidInput", ["title"])
    assert await state(graph, made["id"]) == before


async def test_a_checklist_is_full_with_two_hundred_items(graph: Graph, unique: str) -> None:
    made = await a_version(graph, unique, checklist=[f"item {n}" for n in range(199)])

    async def append() -> Json:
        input = {"modelVersion": {"id": made["id"]}, "title": "one more"}
        return await graph.mutate("appendChecklistItem", input)

    last, beyond = await append(), await append()

    assert last["__typename"] == "AppendChecklistItemSuccess"
    assert beyond == {
        "__typename": "Conflict",
        "code": "CONFLICT",
        "message": "A checklist has at most 200 items.",
        "path": ["title"],
    }
    after = await state(graph, made["id"])
    assert after["revision"] == 2
    assert [item["title"] for item in after["checklist"]] == [
        *[f"item {n}" for n in range(199)],
        "one more",
    ]


async def test_the_database_keeps_decisions_of_items_whole(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    await a_version(graph, unique, checklist=["data"])
    for change in (
        "status = 'APPROVED'",
        "decided_by = 'eve', decided_at = now()",
        "status = 'APPROVED', decided_at = now()",
    ):
        statement = (
            f"UPDATE checklist_item SET {change} WHERE model_version_id = "
            "(SELECT id FROM model_version WHERE model_name = $1)"
        )
        assert await refusal(sql, statement, unique) == "ck_checklist_item_decided"
