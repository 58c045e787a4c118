"""Data sets: made by the facts of runs, found by name, and the deployments that they affect."""

import asyncio
from typing import Any

import pytest

from tests.client import Graph, Json
from tests.conftest import Live
from tests.factories import a_deployment, a_run, a_version, a_version_in, approved
from tests.mutations import global_id

DATA_SET = "dataSet { id name digest createdBy createdAt }"
IMPACT = """
    query ($id: ID!, $statuses: [DeploymentStatus!], $first: Int, $after: String) {
      node(id: $id) {
        ... on Run { affectedDeployments(statuses: $statuses, first: $first, after: $after) {
          ...page } }
        ... on DataSet { affectedDeployments(statuses: $statuses, first: $first, after: $after) {
          ...page } }
      }
    }
    fragment page on DeploymentConnection {
      nodes { id } totalCount pageInfo { hasNextPage endCursor }
    }
"""


async def data_set_of(graph: Graph, run: str) -> Json | None:
    """The data set that a run is on."""
    query = f"query ($id: ID!) {{ run(id: $id) {{ {DATA_SET} }} }}"
    found: Json | None = (await graph.query(query, {"id": run}))["run"]["dataSet"]
    return found


async def change(graph: Graph, run: str, facts: object) -> Json:
    """The data set of a run after its facts have changed, and the run's revision."""
    input = {"id": run, "datasetFacts": facts}
    return await graph.done("updateRun", input, f"run {{ revision datasetFacts {DATA_SET} }}")


async def impact(graph: Graph, id: str, **arguments: object) -> Json:
    """The page of deployments that a run or a data set affects."""
    found: Json = (await graph.query(IMPACT, {"id": id, **arguments}))["node"]
    page: Json = found["affectedDeployments"]
    return page


async def affected(graph: Graph, id: str, **arguments: object) -> list[str]:
    page = await impact(graph, id, **arguments)
    assert page["totalCount"] == len(page["nodes"])
    return [node["id"] for node in page["nodes"]]


# Facts and data sets.


async def test_the_facts_of_a_run_make_a_data_set_that_later_runs_share(
    graph: Graph, live: Live, unique: str
) -> None:
    facts = {"name": unique, "digest": "sha256:1", "rows": 5}

    first = await a_run(graph, unique, datasetFacts=facts)
    async with Graph(live.url, actor="another") as other:
        second = await a_run(other, unique, datasetFacts={**facts, "rows": 6})

    found = await data_set_of(graph, first)
    assert found is not None
    assert found == {
        "id": found["id"],
        "name": unique,
        "digest": "sha256:1",
        "createdBy": "tester",
        "createdAt": found["createdAt"],
    }
    assert await data_set_of(graph, second) == found
    data = await graph.query(
        'query ($name: String!, $id: ID!) { dataSet(name: $name, digest: "sha256:1") { id '
        "runs { nodes { id } totalCount } } node(id: $id) { __typename id } }",
        {"name": unique, "id": found["id"]},
    )
    assert data == {
        "dataSet": {
            "id": found["id"],
            "runs": {"nodes": [{"id": second}, {"id": first}], "totalCount": 2},
        },
        "node": {"__typename": "DataSet", "id": found["id"]},
    }


@pytest.mark.parametrize(
    "facts",
    [
        None,
        {},
        {"rows": 5},
        {"digest": "sha256:1"},
        {"name": None},
        {"name": 5},
        {"name": ["a"]},
        {"name": ""},
        {"name": " \t\r\n"},
        {"name": "two\nlines"},
        {"name": "\x7f"},
        {"name": "x" * 251},
    ],
)
async def test_facts_without_a_name_are_kept_and_link_to_none(
    graph: Graph, unique: str, facts: Json | None
) -> None:
    run = await a_run(graph, unique, datasetFacts=facts)

    data = await graph.query(
        "query ($id: ID!) { run(id: $id) { datasetFacts dataSet { id } } }", {"id": run}
    )

    assert data["run"] == {"datasetFacts": facts, "dataSet": None}


@pytest.mark.parametrize("digest", [None, 5, {}, "", " ", "a\nb", "x" * 251])
async def test_a_digest_that_is_none_counts_as_left_out(
    graph: Graph, unique: str, digest: Any
) -> None:
    without = await data_set_of(graph, await a_run(graph, unique, datasetFacts={"name": unique}))
    facts = {"name": f" {unique}\n", "digest": digest}

    found = await data_set_of(graph, await a_run(graph, unique, datasetFacts=facts))

    assert found == without
    assert found is not None
    assert found["digest"] is None


async def test_the_longest_names_and_digests_are_stored_and_found(
    graph: Graph, unique: str
) -> None:
    name, digest = unique + "\U0001f600" * (250 - len(unique)), "\U0001f600" * 250
    run = await a_run(graph, unique, datasetFacts={"name": name, "digest": digest})

    data = await graph.query(
        "query ($name: String!, $digest: String) { dataSet(name: $name, digest: $digest) { id } }",
        {"name": name, "digest": digest},
    )

    assert data["dataSet"]["id"] == (await data_set_of(graph, run) or {})["id"]


async def test_changed_facts_link_to_another_data_set_and_none_to_none(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)

    one = await change(graph, run, {"name": unique})
    same = await change(graph, run, {"name": unique})
    more = await change(graph, run, {"name": unique, "rows": 5})
    two = await change(graph, run, {"name": unique, "digest": "2"})
    untouched = await graph.done("updateRun", {"id": run, "name": "n"}, f"run {{ {DATA_SET} }}")
    none = await change(graph, run, None)
    back = await change(graph, run, {"name": unique})

    assert one["dataSet"]["name"] == unique
    assert same == one
    assert more["dataSet"] == one["dataSet"]
    assert (two["dataSet"]["name"], two["dataSet"]["digest"]) == (unique, "2")
    assert untouched["dataSet"] == two["dataSet"]
    assert (none["datasetFacts"], none["dataSet"]) == (None, None)
    assert back["dataSet"] == one["dataSet"]
    revisions = [run["revision"] for run in (one, same, more, two, none, back)]
    assert revisions == [2, 2, 3, 4, 6, 7]


async def test_a_run_that_is_refused_leaves_no_data_set(graph: Graph, unique: str) -> None:
    await graph.mutate("createExperiment", {"name": unique})
    input = {"experimentName": unique, "parentId": global_id("Run")}

    refused = await graph.mutate("logRun", {**input, "datasetFacts": {"name": unique}})

    assert refused["code"] == "NOT_FOUND"
    data = await graph.query("query ($n: String!) { dataSet(name: $n) { id } }", {"n": unique})
    assert data == {"dataSet": None}


async def test_many_who_name_a_new_data_set_at_once_share_it(graph: Graph, unique: str) -> None:
    await graph.mutate("createExperiment", {"name": unique})
    facts = [{"name": unique, **({"digest": "1"} if n % 2 else {})} for n in range(20)]

    runs = await asyncio.gather(
        *(
            graph.done(
                "logRun", {"experimentName": unique, "datasetFacts": f}, f"run {{ {DATA_SET} }}"
            )
            for f in facts
        )
    )

    assert {run["dataSet"]["digest"]: run["dataSet"]["id"] for run in runs} == {
        None: runs[0]["dataSet"]["id"],
        "1": runs[1]["dataSet"]["id"],
    }
    assert len({run["dataSet"]["id"] for run in runs}) == 2


# Looking for data sets.


async def test_a_data_set_is_found_by_exactly_its_name_and_digest(
    graph: Graph, unique: str
) -> None:
    await a_run(graph, unique, datasetFacts={"name": unique, "digest": "1"})
    query = (
        "query ($name: String!, $digest: String) "
        "{ dataSet(name: $name, digest: $digest) { name digest } }"
    )

    for given, found in (
        ({"name": unique, "digest": "1"}, True),
        ({"name": unique, "digest": "2"}, False),
        ({"name": unique, "digest": ""}, False),
        ({"name": unique}, False),
        ({"name": unique.upper(), "digest": "1"}, False),
    ):
        wanted = {"name": unique, "digest": "1"} if found else None
        assert await graph.query(query, given) == {"dataSet": wanted}


async def test_all_of_a_name_are_listed_newest_first(graph: Graph, unique: str) -> None:
    for digest in (None, "1", "2"):
        await a_run(graph, unique, datasetFacts={"name": unique, "digest": digest})
    await a_run(graph, unique, datasetFacts={"name": f"{unique}-other"})
    query = """
        query ($name: String, $first: Int, $after: String, $last: Int) {
          dataSets(filter: { name: $name }, first: $first, after: $after, last: $last) {
            nodes { digest } totalCount pageInfo { hasNextPage endCursor } } }
    """

    page = (await graph.query(query, {"name": unique, "first": 2}))["dataSets"]
    after = {"name": unique, "first": 2, "after": page["pageInfo"]["endCursor"]}
    rest = (await graph.query(query, after))["dataSets"]
    oldest = (await graph.query(query, {"name": unique, "last": 1}))["dataSets"]

    assert page["nodes"] == [{"digest": "2"}, {"digest": "1"}]
    assert (page["totalCount"], page["pageInfo"]["hasNextPage"]) == (3, True)
    assert (rest["nodes"], rest["pageInfo"]["hasNextPage"]) == ([{"digest": None}], False)
    assert oldest["nodes"] == [{"digest": None}]
    assert (await graph.query(query, {"name": unique + "-none"}))["dataSets"]["totalCount"] == 0
    everything = (await graph.query(query, {"first": 1}))["dataSets"]
    assert everything["nodes"] == [{"digest": None}]  # of the other name


async def test_the_runs_on_a_data_set_are_filtered_and_ordered(graph: Graph, unique: str) -> None:
    facts = {"datasetFacts": {"name": unique}}
    low, high = [
        await a_run(graph, unique, **facts, metrics=[{"key": "accuracy", "value": value}])
        for value in (0.5, 0.9)
    ]
    ended = await a_run(graph, f"{unique}-2", **facts, status="COMPLETED")

    data = await graph.query(
        """
        query ($name: String!) { dataSet(name: $name) {
          all: runs { nodes { id } }
          running: runs(filter: { statuses: [RUNNING] }) { nodes { id } totalCount }
          best: runs(orderBy: [{ field: METRIC, direction: DESC, metric: "accuracy" }], first: 2) {
            nodes { id } }
          oldest: runs(last: 1) { nodes { id } }
        } }
        """,
        {"name": unique},
    )

    assert data["dataSet"] == {
        "all": {"nodes": [{"id": ended}, {"id": high}, {"id": low}]},
        "running": {"nodes": [{"id": high}, {"id": low}], "totalCount": 2},
        "best": {"nodes": [{"id": high}, {"id": low}]},
        "oldest": {"nodes": [{"id": low}]},
    }


# Impact.


async def test_a_run_affects_the_live_deployments_of_what_came_out_of_it_and_of_its_parts(
    graph: Graph, unique: str
) -> None:
    # given: a run with a part that has a part, each with a deployed version, and another run
    facts = {"datasetFacts": {"name": unique}}
    run = await a_run(graph, unique, **facts)
    part = await a_run(graph, unique, parentId=run)
    inner = await a_run(graph, unique, parentId=part, datasetFacts={"name": unique})
    other = await a_run(graph, unique)
    made = [
        await a_deployment(graph, await a_version(graph, unique, runId=id), status=status)
        for id, status in (
            (run, "PENDING"),
            (part, "ACTIVE"),
            (inner, "DEPLOYING"),
            (inner, "FAILED"),
            (part, "TERMINATED"),
            (other, "ACTIVE"),
        )
    ]

    # then
    data_set = (await data_set_of(graph, run) or {})["id"]
    for id in (run, data_set):
        assert await affected(graph, id) == [made[2], made[1], made[0]]
        assert await affected(graph, id, statuses=["TERMINATED", "FAILED"]) == [made[4], made[3]]
        assert await affected(graph, id, statuses=[]) == made[4::-1]
        assert await affected(graph, id, statuses=["ROLLBACK"]) == []
    assert await affected(graph, part) == [made[2], made[1]]
    assert await affected(graph, other) == [made[5]]


async def test_what_is_affected_comes_in_pages(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique, datasetFacts={"name": unique})
    version = await a_version(graph, unique, runId=run)
    made = [await a_deployment(graph, version) for _ in range(3)]

    for id in (run, (await data_set_of(graph, run) or {})["id"]):
        page = await impact(graph, id, first=2)
        rest = await impact(graph, id, first=2, after=page["pageInfo"]["endCursor"])

        assert [node["id"] for node in page["nodes"]] == [made[2], made[1]]
        assert (page["totalCount"], page["pageInfo"]["hasNextPage"]) == (3, True)
        assert [node["id"] for node in rest["nodes"]] == [made[0]]
        assert rest["pageInfo"]["hasNextPage"] is False
        # A cursor belongs to its list.
        cursor = page["pageInfo"]["endCursor"]
        error = await graph.error(IMPACT, {"id": id, "after": cursor, "statuses": ["ACTIVE"]})
        assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["after"]}


async def test_what_was_deployed_of_a_deleted_version_is_not_forgotten(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique, datasetFacts={"name": unique})
    version = await a_version(graph, unique, runId=run)
    deployment = await a_deployment(graph, version, status="TERMINATED")
    of_version = {"modelVersion": {"id": version["id"]}}
    await graph.done("deleteModelVersion", of_version, "modelVersion { id }")

    assert await affected(graph, run) == []
    assert await affected(graph, run, statuses=["TERMINATED"]) == [deployment]


IS_SETTLED = (
    "A version of this run, or of its parts, has been in PRODUCTION, or one of its parts is on the "
    "way there, so who administrates everything names its data set, or gives it another name or "
    "digest; log a new run for another."
)


async def test_what_has_been_in_production_keeps_the_data_set_that_it_was_trained_on(
    graph: Graph, unique: str
) -> None:
    # given
    facts = {"name": unique, "digest": "1", "rows": 5}
    run = await a_run(graph, unique, datasetFacts=facts)
    version = await a_version_in(
        graph, unique, "PRODUCTION", runId=run, metrics=[{"key": "accuracy", "value": 0.9}]
    )
    deployment = await a_deployment(graph, version, "PRODUCTION", "ACTIVE")
    data_set = (await data_set_of(graph, run) or {})["id"]
    others = [None, {}, {"rows": 5}, {**facts, "name": f"{unique}-b"}, {**facts, "digest": "2"}]

    # when
    refused = [await graph.mutate("updateRun", {"id": run, "datasetFacts": f}) for f in others]
    corrected = await change(graph, run, {**facts, "rows": 6})
    still = await graph.mutate("updateRun", {"id": run, "datasetFacts": others[-1]})

    # then
    for answer in (*refused, still):
        assert answer == {
            "__typename": "Conflict",
            "code": "CONFLICT",
            "message": IS_SETTLED,
            "path": ["datasetFacts"],
        }
    assert corrected["datasetFacts"] == {**facts, "rows": 6}
    assert await affected(graph, data_set) == [deployment]
    found = await graph.query(
        "query ($id: ID!, $b: String!) { node(id: $id) { ... on ModelVersion { approval { status } "
        "} } dataSet(name: $b) { id } }",
        {"id": version["id"], "b": f"{unique}-b"},
    )
    assert found == {"node": {"approval": {"status": "STALE"}}, "dataSet": None}


@pytest.mark.parametrize("ends", ["withdrawApproval", "deleteModelVersion"])
async def test_what_came_out_of_a_part_keeps_its_data_set_while_it_is_approved(
    graph: Graph, unique: str, ends: str
) -> None:
    run = await a_run(graph, unique, datasetFacts={"name": unique})
    part = await a_run(graph, unique, parentId=run)
    metrics = [{"key": "accuracy", "value": 0.9}]
    version = await a_version(graph, unique, runId=part, metrics=metrics)
    of_version = {"modelVersion": {"id": version["id"]}}
    await graph.done("submitForApproval", of_version, "approval { status }")

    refused = await graph.mutate("updateRun", {"id": run, "datasetFacts": None})
    ended = await graph.mutate(ends, of_version)
    done = await graph.mutate("updateRun", {"id": run, "datasetFacts": None})

    assert [each["__typename"] for each in (refused, ended, done)] == [
        "Conflict",
        f"{ends[0].upper()}{ends[1:]}Success",
        "UpdateRunSuccess",
    ]


async def test_what_has_left_production_and_was_deleted_keeps_its_data_set_too(
    graph: Graph, unique: str
) -> None:
    # given: a version of a part of a part of the run that names the data set
    run = await a_run(graph, unique, datasetFacts={"name": unique})
    part = await a_run(graph, unique, parentId=run)
    inner = await a_run(graph, unique, parentId=part)
    metrics = [{"key": "accuracy", "value": 0.9}]
    version = await a_version_in(graph, unique, "PRODUCTION", runId=inner, metrics=metrics)
    of_version = {"modelVersion": {"id": version["id"]}}
    await graph.done("setStage", {**of_version, "stage": "ARCHIVED"}, "modelVersion { id }")
    await graph.done("deleteModelVersion", of_version, "modelVersion { id }")

    refused = await graph.mutate("updateRun", {"id": run, "datasetFacts": None})

    assert (refused["code"], refused["path"]) == ("CONFLICT", ["datasetFacts"])


async def test_what_has_not_been_in_production_may_yet_name_another_data_set(
    graph: Graph, unique: str
) -> None:
    metrics = [{"key": "accuracy", "value": 0.9}]
    run = await a_run(graph, unique, datasetFacts={"name": unique})
    await approved(graph, await a_version(graph, unique, runId=run, metrics=metrics))

    other = await change(graph, run, {"name": f"{unique}-b"})

    assert other["dataSet"]["name"] == f"{unique}-b"


@pytest.mark.parametrize("whose", ["its own", "its parent's"])
async def test_who_administrates_everything_says_late_what_data_production_was_trained_on(
    graph: Graph, unique: str, whose: str
) -> None:
    # given: what is in PRODUCTION of a run that named no data set
    run = await a_run(graph, unique, datasetFacts={"rows": 5})
    out_of = run if whose == "its own" else await a_run(graph, unique, parentId=run)
    metrics = [{"key": "accuracy", "value": 0.9}]
    version = await a_version_in(graph, unique, "PRODUCTION", runId=out_of, metrics=metrics)
    deployment = await a_deployment(graph, version, "PRODUCTION", "ACTIVE")
    others: list[Json] = [{"name": f"{unique}-x"}, {"name": unique}, {"rows": 5}, {"name": unique}]

    async def say(facts: Json, actor: str) -> Json:
        given = {"id": run, "datasetFacts": facts}
        return await graph.mutate("updateRun", given, "run { id }", **{"Lifecycle-Actor": actor})

    # when: somebody would name one, and an administrator does, at last the right one
    refused = await say(others[0], "tester")
    unnamed = await data_set_of(graph, run)
    said = [(await say(facts, "admin"))["__typename"] for facts in others]

    # then
    assert (refused["code"], refused["message"], unnamed) == ("CONFLICT", IS_SETTLED, None)
    assert said == ["UpdateRunSuccess"] * 4
    data_set = (await data_set_of(graph, run) or {})["id"]
    assert await affected(graph, data_set) == [deployment]
    log = await graph.query(
        "query ($id: ID!) { auditLog(filter: { subject: $id }, first: 4) { nodes { actor after } "
        "} }",
        {"id": run},
    )
    told = [(entry["actor"], entry["after"]["dataset_facts"]) for entry in log["auditLog"]["nodes"]]
    assert told == [("admin", facts) for facts in reversed(others)]
