"""The audit log over HTTP: what an entry says, which entries a filter gives, and its pages."""

import asyncio
from itertools import count
from typing import Any

import asyncpg
import pytest

from lifecycle.journal.chain import DIGEST, link
from schema import ids
from tests.client import PATIENCE, Graph, Json
from tests.factories import a_run, a_version
from tests.following import key_of
from tests.mutations import global_id

LOG = """
query ($filter: AuditLogFilter, $first: Int, $after: String, $last: Int, $before: String) {
  auditLog(filter: $filter, first: $first, after: $after, last: $last, before: $before) {
    nodes {
      position at actor action subjectKind subjectId before after reason requestId idempotencyKey
      policyVersion hash subject { __typename id }
    }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
    totalCount
  }
}"""


async def log(graph: Graph, filter: Json, **page: Any) -> Json:
    """A page of the audit log."""
    found: Json = (await graph.query(LOG, {"filter": filter, **page}))["auditLog"]
    return found


async def entries(graph: Graph, number: int, **filter: Any) -> list[Json]:
    """What a filter gives, as soon as it is so many."""
    async with asyncio.timeout(PATIENCE):
        for _ in count():
            found = await log(graph, filter, first=100)
            if len(found["nodes"]) == number == found["totalCount"]:
                break
    nodes: list[Json] = found["nodes"]
    return nodes


async def test_an_entry_says_who_did_what_to_what_and_why_and_what_was_there_before(
    graph: Graph, unique: str
) -> None:
    # given
    made = await a_version(graph, unique)

    # when
    input = {"modelVersion": {"id": made["id"]}, "stage": "STAGING", "reason": "Fine."}
    await graph.mutate(
        "setStage",
        {**input, "idempotencyKey": f"key-{unique}"},
        **{"X-Request-Id": f"request-{unique}", "Lifecycle-Actor": unique},
    )

    # then
    moved, registered = await entries(graph, 2, subject=made["id"])
    assert moved.pop("position") > registered.pop("position")
    assert moved.pop("at") > registered.pop("at")
    assert len(bytes.fromhex(moved.pop("hash"))) == 32
    before, after = moved.pop("before"), moved.pop("after")
    assert before.pop("stage_changed_at") < after.pop("stage_changed_at")
    assert before == {"stage": "EXPERIMENTAL"}
    assert after == {
        "stage": "STAGING", "model_name": unique, "version": "1", "cause": "REQUESTED",
        "approval_id": None, "report_id": None, "policy_version": None,
    }  # fmt: skip
    assert moved == {
        "actor": unique,
        "action": "model_version.stage_changed",
        "subjectKind": "ModelVersion",
        "subjectId": made["id"],
        "subject": {"__typename": "ModelVersion", "id": made["id"]},
        "reason": "Fine.",
        "requestId": f"request-{unique}",
        "idempotencyKey": f"key-{unique}",
        "policyVersion": None,
    }
    assert registered["action"] == "model_version.registered"
    assert registered["before"] is registered["reason"] is registered["idempotencyKey"] is None


async def test_what_is_replaced_is_kept_beside_what_replaced_it(graph: Graph, unique: str) -> None:
    # given
    model = {"name": "model", "path": "model.pkl", "sizeBytes": 1, "digest": "sha256:a"}
    facts = {"rows": 3}
    run = await a_run(graph, unique, name="one", artifacts=[model], datasetFacts=facts)
    made = await a_version(graph, unique)
    input = {"modelVersion": {"id": made["id"]}, "environment": "DEVELOPMENT", "endpoint": "here"}
    deployment = (await graph.done("createDeployment", input, "deployment { id }"))["id"]

    # when
    other = {"name": "weights", "path": "weights.bin"}
    replaced = [other, {**model, "digest": "sha256:b"}]
    await graph.done("updateRun", {"id": run, "artifacts": replaced}, "run { id }")
    for requests in (5, 9):
        metrics = {"requestCount": requests, "errorRate": 0.25, "avgLatencyMs": 1.5}
        await graph.done(
            "updateDeployment", {"id": deployment, "metrics": metrics}, "deployment { id }"
        )

    # then
    described = {"name": "model", "path": "model.pkl", "size_bytes": 1, "digest": "sha256:a"}
    as_kept = {**described, "area": None}
    again, first, created = await entries(graph, 3, subject=run)
    assert (first["before"], first["after"]) == ({"artifacts": []}, {"artifacts": [as_kept]})
    assert again["before"] == {"artifacts": [as_kept]}
    assert again["after"]["artifacts"] == [
        {**as_kept, "digest": "sha256:b"},
        {**dict.fromkeys(as_kept), "name": "weights", "path": "weights.bin"},
    ]
    assert created["after"]["name"] == "one"
    assert created["after"]["dataset_facts"] == facts
    again, first, created = await entries(graph, 3, subject=deployment)
    assert first["before"]["request_count"] == 0
    assert again["before"] == first["after"]
    assert again["after"] == {"request_count": 9, "error_rate": 0.25, "avg_latency_ms": 1.5}
    assert created["after"]["endpoint"] == "here"
    assert created["after"]["instances"] == 1


async def test_a_mutation_that_was_refused_or_repeated_leaves_no_entry(
    graph: Graph, unique: str
) -> None:
    made = await a_version(graph, unique)
    input = {"modelVersion": {"id": made["id"]}, "stage": "PRODUCTION"}
    assert (await graph.mutate("setStage", input))["__typename"] == "InvalidTransition"
    input |= {"stage": "STAGING", "idempotencyKey": unique}
    for _ in range(2):
        await graph.done("setStage", input, "modelVersion { id }")

    found = await entries(graph, 2, subject=made["id"])
    assert [each["action"] for each in found] == [
        "model_version.stage_changed",
        "model_version.registered",
    ]


async def test_each_filter_and_all_of_them_together(graph: Graph, unique: str) -> None:
    # given
    async with Graph(graph.url, f"{unique}-a") as alice, Graph(graph.url, f"{unique}-b") as bob:
        of_alice = await a_version(alice, unique)
        of_bob = await a_version(bob, unique)
        run = await a_run(bob, unique)
    both = [f"{unique}-a", f"{unique}-b"]
    registered = "model_version.registered"

    # then
    all_ = await entries(graph, 5, actors=both)
    assert [(each["actor"][-1], each["action"]) for each in all_] == [
        ("b", "run.created"),
        ("b", "experiment.created"),
        ("b", registered),
        ("a", registered),
        ("a", "model.created"),
    ]
    by_bob = all_[:3]
    assert await entries(graph, 3, actors=[both[1]]) == by_bob
    assert await entries(graph, 1, subject=run) == all_[:1]
    assert await entries(graph, 1, subject=of_bob["id"]) == [all_[2]]
    assert await entries(graph, 2, actors=both, actions=[registered]) == all_[2:4]
    assert await entries(graph, 3, actors=both, actions=[registered, "run.created"]) == [
        all_[0],
        *all_[2:4],
    ]
    assert await entries(graph, 2, actors=both, subjectKinds=["ModelVersion"]) == all_[2:4]
    assert await entries(graph, 2, actors=both, subjectKinds=["Run", "Model"]) == [
        all_[0],
        all_[4],
    ]
    at = all_[2]["at"]
    assert await entries(graph, 3, actors=both, **{"from": at}) == by_bob
    assert await entries(graph, 2, actors=both, to=at) == all_[3:]
    assert await entries(graph, 1, actors=both, **{"from": at, "to": all_[1]["at"]}) == [all_[2]]
    one: Json = {
        "actors": both, "subject": of_alice["id"], "subjectKinds": ["ModelVersion"],
        "actions": [registered], "from": all_[3]["at"], "to": at,
    }  # fmt: skip
    assert await entries(graph, 1, **one) == [all_[3]]

    # and what contradicts itself, or is not there, gives nothing
    for wanted in (
        {**one, "subjectKinds": ["Run"]},
        {**one, "actors": both[1:]},
        {"actors": [f"{unique}-c"]},
        {"subject": global_id("Run")},
        {"subject": ids.encode("Model", key_of(run))},
        {"subjectKinds": ["Nonsense"]},
    ):
        assert await entries(graph, 0, **wanted) == []


async def test_pages_go_back_in_time_and_return(graph: Graph, unique: str) -> None:
    async with Graph(graph.url, unique) as client:
        for n in range(5):
            await client.mutate("createExperiment", {"name": f"{unique}-{n}"})
    wanted: Json = {"actors": [unique]}
    all_ = await entries(graph, 5, **wanted)
    positions = [each["position"] for each in all_]
    assert positions == sorted(positions, reverse=True)

    first = await log(graph, wanted, first=2)
    second = await log(graph, wanted, first=2, after=first["pageInfo"]["endCursor"])
    third = await log(graph, wanted, first=2, after=second["pageInfo"]["endCursor"])
    assert first["nodes"] + second["nodes"] + third["nodes"] == all_
    assert [page["pageInfo"]["hasNextPage"] for page in (first, second, third)] == [
        True,
        True,
        False,
    ]
    back = await log(graph, wanted, last=2, before=third["pageInfo"]["startCursor"])
    assert back["nodes"] == second["nodes"]
    assert (await log(graph, wanted, last=1))["nodes"] == all_[-1:]

    # An entry that comes meanwhile moves nothing.
    await graph.mutate("createExperiment", {"name": f"{unique}-5"}, **{"Lifecycle-Actor": unique})
    await entries(graph, 6, **wanted)
    assert await log(graph, wanted, first=2, after=first["pageInfo"]["endCursor"]) == {
        **second,
        "totalCount": 6,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filter": {"subject": "x"}}, "not an id that this service gave"),
        ({"filter": {"from": "2026-01-01T00:00:00"}}, "timezone"),
        ({"filter": {"to": "2026-01-01T00:00:00"}}, "timezone"),
        ({"filter": {"actors": ["x"] * 101}}, "at most 100"),
        ({"filter": {"actions": ["x"] * 101}}, "at most 100"),
        ({"filter": {"subjectKinds": ["x"] * 101}}, "at most 100"),
        ({"first": 0}, "1 to 100"),
        ({"after": "x"}, "not a cursor of this list"),
    ],
)
async def test_what_makes_no_sense_is_refused(graph: Graph, arguments: Json, message: str) -> None:
    error = await graph.error(LOG, arguments)
    assert error["extensions"]["code"] == "INVALID_INPUT"
    assert message in error["message"]


async def test_a_cursor_of_one_filter_is_refused_with_another(graph: Graph, unique: str) -> None:
    async with Graph(graph.url, unique) as client:
        await client.mutate("createExperiment", {"name": unique})
    await entries(graph, 1, actors=[unique])
    page = await log(graph, {"actors": [unique]})
    error = await graph.error(LOG, {"filter": {}, "after": page["pageInfo"]["endCursor"]})
    assert error["message"] == "This cursor belongs to another ordering or filter."


async def test_the_version_of_the_policy_is_shown_and_a_subject_that_is_unknown_is_null(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    # given: as promotion will write it, and of a kind that clients cannot look up
    await sql.execute(
        "INSERT INTO event (type, subject_kind, subject_id, actor, request_id, after) VALUES "
        "('stage_policy.changed', 'stage_policy', gen_random_uuid(), $1, 'r', $2)",
        unique,
        '{"policy_version": 7}',
    )

    # then
    [entry] = await entries(graph, 1, actors=[unique])
    assert entry["policyVersion"] == 7
    assert (entry["subjectKind"], entry["subject"]) == ("StagePolicy", None)
    assert await entries(graph, 1, actors=[unique], subjectKinds=["StagePolicy"]) == [entry]


async def test_each_hash_covers_the_entry_and_the_hash_before_it(
    graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    # when
    run = await a_run(graph, unique)
    [entry] = await entries(graph, 1, subject=run)
    head = (await graph.query("{ auditHead { position hash anchor } }"))["auditHead"]

    # then
    digest, previous = await sql.fetchrow(
        f"SELECT {DIGEST}, (SELECT hash FROM event WHERE position = $1 - 1) "
        "FROM event AS entry WHERE position = $1",
        entry["position"],
    )
    assert entry["hash"] == link(previous, entry["position"], digest).hex()
    assert head["position"] >= entry["position"]
    assert head["anchor"] == f"{head['position']}:{head['hash']}"
    hash = await sql.fetchval("SELECT hash FROM event WHERE position = $1", head["position"])
    assert head["hash"] == hash.hex()
