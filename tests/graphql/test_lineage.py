"""Lineage: what came of what, in one query, from drift to data and back."""

from datetime import datetime, timedelta

import asyncpg
import pytest

from lifecycle.lineage.rules import MAX_NODES
from tests.client import Graph, Json
from tests.conftest import Live
from tests.factories import a_deployment, a_run, a_version
from tests.following import key_of
from tests.graphql.test_statements import recorded
from tests.mutations import global_id

NONE = "0" * 32
LINEAGE = """
    query ($of: ID!, $direction: LineageDirection! = BOTH, $depth: Int! = 5) {
      lineage(of: $of, direction: $direction, depth: $depth) {
        nodes { __typename id } edges { from to kind } truncated } }
"""


class Story:
    """Two runs on one data set, the second a part of the first, each with a version; the version of
    the second was deployed, showed drift, and was rolled back to the first one's."""

    def __init__(self, ids: dict[str, str]) -> None:
        self.ids = ids
        self.names = {id: name for name, id in ids.items()}

    async def lineage(self, graph: Graph, of: str, **arguments: object) -> Json:
        """Nodes and edges by their names, in the order of the answer."""
        found: Json = (await graph.query(LINEAGE, {"of": self.ids[of], **arguments}))["lineage"]
        assert found["truncated"] is False
        return {
            "nodes": [self.names[node["id"]] for node in found["nodes"]],
            "edges": {
                (self.names[edge["from"]], edge["kind"], self.names[edge["to"]])
                for edge in found["edges"]
            },
        }


@pytest.fixture
async def story(graph: Graph, unique: str) -> Story:
    facts = {"name": unique, "digest": "sha256:1", "rows": 5}
    params = [{"key": "depth", "value": "3"}]
    run = await a_run(graph, unique, datasetFacts=facts, params=params)
    part = await a_run(graph, unique, datasetFacts=facts, parentId=run, params=params)
    good = await a_version(graph, unique, runId=run)
    bad = await a_version(graph, unique, runId=part)
    first = await a_deployment(graph, good, status="ACTIVE")
    await graph.done("updateDeployment", {"id": first, "health": "HEALTHY"}, "deployment { id }")
    second = await a_deployment(graph, bad, status="ACTIVE")
    drift = await drift_on(graph, bad, second)
    back = await graph.done("rollbackDeployment", {"id": second}, "deployment { id }")
    later = await drift_on(graph, good, back["id"])
    data = await graph.query(
        "query ($id: ID!) { run(id: $id) { dataSet { id } experiment { id } } }", {"id": run}
    )
    return Story(
        {
            "experiment": data["run"]["experiment"]["id"],
            "data": data["run"]["dataSet"]["id"],
            "run": run,
            "part": part,
            "good": good["id"],
            "bad": bad["id"],
            "first": first,
            "second": second,
            "back": back["id"],
            "drift": drift,
            "later": later,
        }
    )


async def drift_on(graph: Graph, version: Json, deployment: str | None = None) -> str:
    """The id of a new drift event."""
    input = {"modelVersion": {"id": version["id"]}, "severity": "HIGH", "metric": "psi"}
    given = {**input, "deploymentId": deployment}
    return str((await graph.done("recordDriftEvent", given, "driftEvent { id }"))["id"])


BEFORE_PART = {
    ("experiment", "CONTAINS", "run"),
    ("experiment", "CONTAINS", "part"),
    ("data", "USED_BY", "run"),
    ("data", "USED_BY", "part"),
    ("run", "PARENT_OF", "part"),
}
OF_BAD = {
    ("part", "PRODUCED", "bad"),
    ("bad", "DEPLOYED_AS", "second"),
    ("bad", "SHOWED", "drift"),
    ("second", "SHOWED", "drift"),
}
OF_GOOD = {
    ("run", "PRODUCED", "good"),
    ("good", "DEPLOYED_AS", "first"),
    ("good", "DEPLOYED_AS", "back"),
    ("good", "SHOWED", "later"),
    ("back", "SHOWED", "later"),
}


async def test_one_query_leads_from_drift_to_the_facts_of_the_data(
    graph: Graph, unique: str, story: Story
) -> None:
    run = {
        "params": [{"key": "depth", "value": "3"}],
        "datasetFacts": {"name": unique, "digest": "sha256:1", "rows": 5},
    }

    nested = await graph.query(
        """
        query ($id: ID!) { node(id: $id) { ... on DriftEvent { metric deployment { id modelVersion {
          version run { id experiment { name } params { key value } datasetFacts
            dataSet { id name digest } } } } } } }
        """,
        {"id": story.ids["drift"]},
    )
    graphed = await graph.query(
        """
        query ($id: ID!) { lineage(of: $id, direction: UPSTREAM) { nodes { id
          ... on DriftEvent { metric } ... on Deployment { status } ... on ModelVersion { version }
          ... on Run { params { key value } datasetFacts } ... on Experiment { name }
          ... on DataSet { name digest } } } }
        """,
        {"id": story.ids["drift"]},
    )

    assert nested["node"] == {
        "metric": "psi",
        "deployment": {
            "id": story.ids["second"],
            "modelVersion": {
                "version": "2",
                "run": {
                    "id": story.ids["part"],
                    "experiment": {"name": unique},
                    **run,
                    "dataSet": {"id": story.ids["data"], "name": unique, "digest": "sha256:1"},
                },
            },
        },
    }
    by_name = {story.names[node.pop("id")]: node for node in graphed["lineage"]["nodes"]}
    assert by_name == {
        "drift": {"metric": "psi"},
        "second": {"status": "ROLLBACK"},
        "bad": {"version": "2"},
        "part": run,
        "run": run,
        "experiment": {"name": unique},
        "data": {"name": unique, "digest": "sha256:1"},
    }


async def test_upstream_is_what_an_object_came_from(graph: Graph, story: Story) -> None:
    found = await story.lineage(graph, "drift", direction="UPSTREAM")

    # Each step newest first.
    assert found["nodes"] == ["drift", "second", "bad", "part", "run", "data", "experiment"]
    assert found["edges"] == BEFORE_PART | OF_BAD


async def test_downstream_is_what_came_of_it(graph: Graph, story: Story) -> None:
    for of in ("experiment", "data"):
        found = await story.lineage(graph, of, direction="DOWNSTREAM")

        assert found["nodes"][:3] == [of, "part", "run"]
        assert found["nodes"][3:] == ["bad", "good", "later", "back", "drift", "second", "first"]
        begun = {edge for edge in BEFORE_PART if edge[0] in (of, "run")}
        rolled_back = {("second", "ROLLED_BACK_TO", "back")}
        assert found["edges"] == begun | OF_BAD | OF_GOOD | rolled_back


async def test_both_is_the_one_and_the_other_but_no_siblings(graph: Graph, story: Story) -> None:
    found = await story.lineage(graph, "part")

    assert found["nodes"] == ["part", "run", "data", "experiment", "bad", "drift", "second", "back"]
    assert found["edges"] == BEFORE_PART | OF_BAD | {("second", "ROLLED_BACK_TO", "back")}


async def test_a_rollback_is_part_of_the_lineage_but_not_what_the_other_deployment_ran(
    graph: Graph, story: Story
) -> None:
    up = await story.lineage(graph, "later", direction="UPSTREAM")
    down = await story.lineage(graph, "second", direction="DOWNSTREAM")

    assert up["nodes"] == ["later", "back", "good", "second", "run", "data", "experiment"]
    assert ("second", "ROLLED_BACK_TO", "back") in up["edges"]
    assert down["nodes"] == ["second", "back", "drift"]


@pytest.mark.parametrize(
    ("depth", "nodes"),
    [
        (1, ["drift", "second", "bad"]),
        (2, ["drift", "second", "bad", "part"]),
        (3, ["drift", "second", "bad", "part", "run", "data", "experiment"]),
        (10, ["drift", "second", "bad", "part", "run", "data", "experiment"]),
    ],
)
async def test_depth_is_how_many_edges_far(
    graph: Graph, story: Story, depth: int, nodes: list[str]
) -> None:
    assert (await story.lineage(graph, "drift", depth=depth))["nodes"] == nodes


async def test_edges_between_the_farthest_nodes_are_there_too(graph: Graph, story: Story) -> None:
    found = await story.lineage(graph, "experiment", depth=1)

    assert found["nodes"] == ["experiment", "part", "run"]
    assert ("run", "PARENT_OF", "part") in found["edges"]


async def test_a_chain_of_rollbacks_is_followed_either_way(graph: Graph, unique: str) -> None:
    # given: of two versions by turns, so that every other is reached by its version, too
    versions = {name: await a_version(graph, unique) for name in ("one", "two")}
    good = {}
    for name, version in versions.items():
        id = good[f"good {name}"] = await a_deployment(graph, version, status="ACTIVE")
        await graph.done("updateDeployment", {"id": id, "health": "HEALTHY"}, "deployment { id }")
    chain = [await a_deployment(graph, versions["one"], status="FAILED")]
    for _ in range(3):
        back = await graph.done("rollbackDeployment", {"id": chain[-1]}, "deployment { id }")
        failed = {"id": back["id"], "status": "FAILED"}
        await graph.done("updateDeployment", failed, "deployment { id }")
        chain.append(back["id"])
    named = {name: version["id"] for name, version in versions.items()}
    story = Story({**named, **good, **dict(zip("abcd", chain, strict=True))})
    links = {(a, "ROLLED_BACK_TO", b) for a, b in ("ab", "bc", "cd")}
    deployed = {("one", "DEPLOYED_AS", name) for name in ("good one", "a", "c")}

    # then
    whole = await story.lineage(graph, "one")
    assert whole["nodes"] == ["one", "c", "a", "good one", "d", "b"]
    assert whole["edges"] == deployed | links
    up = await story.lineage(graph, "d", direction="UPSTREAM")
    assert up["nodes"] == ["d", "c", "two", "b", "a"]
    assert (await story.lineage(graph, "a", direction="DOWNSTREAM"))["nodes"] == [*"abcd"]
    middle = await story.lineage(graph, "c", depth=1)
    assert middle["nodes"] == ["c", "b", "one", "d"]


async def test_deleted_versions_stay(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique)
    version = await a_version(graph, unique, runId=run)
    drift = await drift_on(graph, version)
    of_version = {"modelVersion": {"id": version["id"]}}
    await graph.done("deleteModelVersion", of_version, "modelVersion { id }")

    for of in (run, drift, version["id"]):
        data = await graph.query(
            "query ($of: ID!) { lineage(of: $of) "
            "{ nodes { id ... on ModelVersion { version deletedAt } } } }",
            {"of": of},
        )
        nodes = {node.pop("id"): node for node in data["lineage"]["nodes"]}
        assert {run, drift, version["id"]} <= set(nodes)
        assert nodes[version["id"]]["version"] == "1"
        assert nodes[version["id"]]["deletedAt"] is not None


async def test_an_object_may_be_alone(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)

    data = await graph.query(LINEAGE, {"of": version["id"]})

    assert data["lineage"] == {
        "nodes": [{"__typename": "ModelVersion", "id": version["id"]}],
        "edges": [],
        "truncated": False,
    }


# Bounds.

RUNS = """
INSERT INTO run (id, experiment_id, status, params, tags, lease_seconds, last_reported_at,
    log_lines, revision, created_by, created_at)
SELECT gen_random_uuid(), experiment_id, 'PENDING', '{}', '{}', 60, now(), 0, 1, 'me',
    created_at - n * interval '1 second'
FROM run, generate_series(1, $2) AS n WHERE id = $1
"""


async def test_of_too_many_the_newest_are_shown(
    graph: Graph, unique: str, sql: asyncpg.Connection
) -> None:
    run = await a_run(graph, unique)
    await a_version(graph, unique, runId=run)
    await sql.execute(RUNS, key_of(run), MAX_NODES - 3)
    of = (await graph.query(f'{{ experiment(name: "{unique}") {{ id }} }}'))["experiment"]["id"]

    # The experiment, as many runs, and the version.
    full = (await graph.query(LINEAGE, {"of": of}))["lineage"]
    assert (len(full["nodes"]), full["truncated"]) == (MAX_NODES, False)
    assert full["nodes"][-1]["__typename"] == "ModelVersion"

    # One more run takes the version's place.
    newest = await a_run(graph, unique)
    cut = (await graph.query(LINEAGE, {"of": of}))["lineage"]
    assert (len(cut["nodes"]), cut["truncated"]) == (MAX_NODES, True)
    assert [node["id"] for node in cut["nodes"][:3]] == [of, newest, run]
    assert {node["__typename"] for node in cut["nodes"][1:]} == {"Run"}
    assert len(cut["edges"]) == MAX_NODES - 1

    # Another is too many for the step itself: the oldest is missing.
    await a_run(graph, unique)
    again = (await graph.query(LINEAGE, {"of": of}))["lineage"]
    assert (len(again["nodes"]), again["truncated"]) == (MAX_NODES, True)
    assert [node["id"] for node in again["nodes"][2:]] == [
        node["id"] for node in cut["nodes"][1:-1]
    ]
    # Nearer, there are not too many.
    near = (await graph.query(LINEAGE, {"of": run}))["lineage"]
    assert (len(near["nodes"]), near["truncated"]) == (3, False)


async def test_a_step_takes_one_statement_however_many_objects_it_finds(
    live: Live, graph: Graph, unique: str, story: Story
) -> None:
    async def cost(of: str, depth: int, direction: str) -> tuple[int, int]:
        with recorded(live.database) as statements:
            arguments = {"of": of, "depth": depth, "direction": direction}
            data = await graph.query(LINEAGE, arguments)
        nodes = data["lineage"]["nodes"]
        kinds = {node["__typename"] for node in nodes}
        # What the object is, and a statement for each kind that was found.
        return len(nodes), len(statements) - 1 - len(kinds)

    async def costs() -> list[tuple[int, int]]:
        return [
            await cost(story.ids["experiment"], depth, way)
            for way in ("DOWNSTREAM", "BOTH")
            for depth in (1, 2, 3, 4)
        ]

    few = await costs()
    for _ in range(5):
        run = await a_run(graph, unique, parentId=story.ids["part"])
        for _ in range(2):
            version = await a_version(graph, unique, runId=run)
            await drift_on(graph, version, await a_deployment(graph, version))
    many = await costs()

    # Nothing is upstream of an experiment, which takes a step to find out.
    assert [steps for _, steps in few] == [1, 2, 3, 4, 2, 3, 4, 5]
    assert [steps for _, steps in many] == [1, 2, 3, 4, 2, 3, 4, 5]
    assert all(after > before for (before, _), (after, _) in zip(few, many, strict=True))


async def test_an_answer_is_measured_as_if_it_were_as_long_as_it_may_be(
    graph: Graph, story: Story
) -> None:
    query = "query ($of: ID!) { lineage(of: $of) { nodes { ... on Experiment { SELECTION } } } }"
    few = query.replace("SELECTION", "runs(first: 20) { nodes { id } }")
    many = query.replace("SELECTION", "runs(first: 50) { nodes { id } }")

    assert await graph.query(few, {"of": story.ids["drift"]})
    error = await graph.error(many, {"of": story.ids["drift"]})
    assert error["extensions"]["code"] == "LIMIT_EXCEEDED"


# Bad arguments.


@pytest.mark.parametrize(
    "kind", ["Experiment", "DataSet", "Run", "ModelVersion", "Deployment", "DriftEvent"]
)
async def test_an_object_that_does_not_exist_has_none(graph: Graph, kind: str) -> None:
    assert await graph.query(LINEAGE, {"of": global_id(kind)}) == {"lineage": None}


@pytest.mark.parametrize(
    "of",
    [
        "",
        "garbage",
        "a\x00b",
        *(global_id(*of) for of in (("Run", "0"), ("Model", NONE), ("X", NONE))),
    ],
)
async def test_what_has_no_lineage_is_refused(graph: Graph, of: str) -> None:
    error = await graph.error(LINEAGE, {"of": of})

    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["of"]}


@pytest.mark.parametrize("depth", [-1, 0, 11, 2**31 - 1])
async def test_depth_has_bounds(graph: Graph, depth: int) -> None:
    error = await graph.error(LINEAGE, {"of": global_id("Run"), "depth": depth})

    assert error["message"] == f"Look 1 to 10 steps far, not {depth}."
    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["depth"]}


# Memory.


async def active_at(
    graph: Graph, model: str, moment: str | datetime, **filter: object
) -> list[str]:
    """Ids of the model's deployments that were ACTIVE at a moment, newest first."""
    at = moment if isinstance(moment, str) else moment.isoformat()
    found = await graph.query(
        "query ($filter: DeploymentFilter) { deployments(filter: $filter) "
        "{ nodes { id } totalCount } }",
        {"filter": {"modelName": model, "activeAt": at, **filter}},
    )
    ids = [node["id"] for node in found["deployments"]["nodes"]]
    assert found["deployments"]["totalCount"] == len(ids)
    return ids


async def came_to(graph: Graph, id: str) -> dict[str, datetime]:
    """When a deployment came to each of its statuses."""
    data = await graph.query(
        "query ($id: ID!) { deployment(id: $id) { statusHistory { to at } } }", {"id": id}
    )
    history = data["deployment"]["statusHistory"]
    return {entry["to"]: datetime.fromisoformat(entry["at"]) for entry in history}


JUST = timedelta(microseconds=1)


async def test_which_deployments_were_active_then(graph: Graph, unique: str) -> None:
    # given: one that was replaced and rolled back to, one that failed, one that never came so far
    version, other = [await a_version(graph, unique) for _ in range(2)]
    good = await a_deployment(graph, version, status="ACTIVE")
    await graph.done("updateDeployment", {"id": good, "health": "HEALTHY"}, "deployment { id }")
    bad = await a_deployment(graph, other, status="ACTIVE")
    await a_deployment(graph, version, environment="DEVELOPMENT", status="TERMINATED")
    back = (await graph.done("rollbackDeployment", {"id": bad}, "deployment { id }"))["id"]
    for status in ("VALIDATING", "DEPLOYING", "ACTIVE"):
        await graph.done("updateDeployment", {"id": back, "status": status}, "deployment { id }")
    await graph.done("terminateDeployment", {"id": good}, "deployment { id }")
    times = {id: await came_to(graph, id) for id in (good, bad, back)}

    # then: from the moment on at which it becomes ACTIVE, up to that at which it ceases to be
    for moment, before, after in (
        (times[good]["PENDING"], [], []),
        (times[good]["DEPLOYING"], [], []),
        (times[good]["ACTIVE"], [], [good]),
        (times[bad]["ACTIVE"], [good], [bad, good]),
        (times[bad]["ROLLBACK"], [bad, good], [good]),
        (times[back]["PENDING"], [good], [good]),
        (times[back]["ACTIVE"], [good], [back, good]),
        (times[good]["TERMINATED"], [back, good], [back]),
    ):
        assert await active_at(graph, unique, moment - JUST) == before
        assert await active_at(graph, unique, moment) == after
    assert await active_at(graph, unique, "2001-01-01T00:00:00Z") == []
    # The future is now.
    assert await active_at(graph, unique, "2999-01-01T00:00:00Z") == [back]
    # Filters go together: what they are now, and what they were then.
    then = times[bad]["ACTIVE"]
    assert await active_at(graph, unique, then, statuses=["TERMINATED"]) == [good]
    assert await active_at(graph, unique, then, environments=["STAGING"]) == []


@pytest.mark.parametrize("moment", ["2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00"])
async def test_a_moment_needs_a_zone_and_must_exist_in_utc(graph: Graph, moment: str) -> None:
    error = await graph.error(
        f'{{ deployments(filter: {{ activeAt: "{moment}" }}) {{ nodes {{ id }} }} }}'
    )

    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["filter", "activeAt"]}
