"""Each list reads as many rows as it shows: an index gives them in the list's order.

What is explained is what the service sends. Sequential scans and sorts are made expensive, so that
one in a plan means that there is no index to do without. An incremental sort is none: it only puts
in order the few rows that are alike in the first key.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import orjson
import pytest
import pytest_asyncio

from lifecycle.database import Database
from tests.client import Graph
from tests.conftest import Live
from tests.factories import a_deployment, a_run, a_version_in
from tests.following import connect
from tests.statements import Statement, read

# Lists of everything, in every order that they have.
LISTS = [
    "experiments(first: 3) { nodes { id } }",
    "experiments(first: 3, orderBy: [{ field: UPDATED_AT }]) { nodes { id } }",
    "experiments(first: 3, orderBy: [{ field: NAME, direction: ASC }]) { nodes { id } }",
    'experiments(first: 3, filter: { owner: "me" }) { nodes { id } }',
    "runs(first: 3) { nodes { id } }",
    "runs(first: 3, orderBy: [{ field: CREATED_AT, direction: ASC }]) { nodes { id } }",
    'runs(first: 3, filter: { experimentName: "$" }) { nodes { id } }',
    "models(first: 3) { nodes { id } }",
    "modelVersions(first: 3) { nodes { id } }",
    "modelVersions(first: 3, orderBy: [{ field: UPDATED_AT }]) { nodes { id } }",
    'modelVersions(first: 3, filter: { modelName: "$" }) { nodes { id } }',
    "deployments(first: 3) { nodes { id } }",
    "deployments(first: 3, orderBy: [{ field: UPDATED_AT }]) { nodes { id } }",
    'deployments(first: 3, filter: { modelName: "$" }) { nodes { id } }',
    "modelVersions(first: 3, filter: { approvalStatuses: [STALE] }) { nodes { id } }",
    "pendingApprovals(first: 3) { nodes { id } }",
    'stagePolicies(first: 3, modelName: "$") { nodes { id } }',
    "driftEvents(first: 3) { nodes { id } }",
    'driftEvents(first: 3, filter: { modelName: "$" }) { nodes { id } }',
    "auditLog(first: 3) { nodes { hash } }",
    'auditLog(first: 3, filter: { actors: ["me"] }) { nodes { hash } }',
    "auditLog(first: 3, filter: { subject: $run }) { nodes { hash } }",
    'auditLog(first: 3, filter: { subjectKinds: ["Run"] }) { nodes { hash } }',
    'auditLog(first: 3, filter: { actions: ["run.created"] }) { nodes { hash } }',
    'auditLog(first: 3, filter: { from: "2026-01-01T00:00:00Z" }) { nodes { hash } }',
    "dataSets(first: 3) { nodes { id } }",
    'dataSets(first: 3, filter: { name: "$" }) { nodes { id } }',
    'deployments(first: 3, filter: { activeAt: "2999-01-01T00:00:00Z" }) { nodes { id } }',
    "driftPolicies(first: 3) { nodes { id } }",
    'driftPolicies(first: 3, modelName: "$") { nodes { id } }',
]

# What belongs to one object, $, or to its version, run or deployment.
CHILDREN = [
    'experiment(name: "$") { runs(first: 3) { nodes { id } } }',
    'model(name: "$") { versions(first: 3) { nodes { id } } }',
    'model(name: "$") { stageHistory(first: 3) { nodes { stage } } }',
    "modelVersion(by: { id: $version }) { stageHistory { stage } }",
    "modelVersion(by: { id: $version }) { approval { report { passed } decisions { actor } } }",
    "modelVersion(by: { id: $version }) { approvalHistory { status } }",
    "modelVersion(by: { id: $version }) { validation { passed } }",
    "modelVersion(by: { id: $version }) { whyNot { name } }",
    "modelVersion(by: { id: $version }) { deployments(first: 3) { nodes { id } } }",
    "modelVersion(by: { id: $version }) { driftEvents(first: 3) { nodes { id } } }",
    'dataSet(name: "$") { runs(first: 3) { nodes { id } } }',
    "run(id: $run) { logs(last: 3) { nodes { line } } }",
    'run(id: $run) { metricHistory(keys: ["accuracy"]) { steps } }',
    'run(id: $run) { metricHistory(keys: ["accuracy"], maxPoints: 3) { steps } }',
    "deployment(id: $deployment) { statusHistory { to } }",
    "deployment(id: $deployment) { driftEvents(first: 3) { nodes { id } } }",
    "deployment(id: $deployment) { driftEvents(first: 3) { nodes { responses { at } } } }",
    "deployment(id: $deployment) { cause { id } }",
    "deployment(id: $deployment) { logs(last: 3) { nodes { line } } }",
]


@contextmanager
def recorded(database: Database) -> Iterator[list[Statement]]:
    """What is read while the block lasts, but for what the background reads and for the
    clock."""
    statements: list[Statement] = []
    with read(database) as found:
        yield statements
    statements += (
        (statement, values)
        for statement, values in found
        if "journal_head" not in statement and "FROM" in statement
    )


@pytest_asyncio.fixture(scope="module")
async def names(graph: Graph) -> dict[str, str]:
    """Of an object of each kind, with some others beside it."""
    name = "t-indexes"
    input = {"series": [{"key": "accuracy", "steps": [*range(20)], "values": [0.8] * 20}]}
    for _ in range(3):
        run = await a_run(graph, name, datasetFacts={"name": name})
        await graph.done("logMetrics", {"runId": run, **input}, "run { id }")
        version = await a_version_in(graph, name, "PRODUCTION", runId=run)
        deployment = await a_deployment(graph, version, status="ACTIVE")
    return {
        "$version": f'"{version["id"]}"',
        "$run": f'"{run}"',
        "$deployment": f'"{deployment}"',
        "$": name,
    }


@pytest_asyncio.fixture(scope="module")
async def explaining(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(database_url)
    await connection.execute("SET enable_seqscan = off; SET enable_sort = off")
    yield connection
    await connection.close()


def steps(plan: dict[str, Any], bounded: bool = False) -> Iterator[tuple[str, bool]]:
    """The kinds of a plan's steps, and whether each works for a step that takes only so many."""
    kind = plan["Node Type"]
    yield kind, bounded
    for inner in plan.get("Plans", ()):
        yield from steps(inner, bounded or kind == "Limit")


@pytest.mark.parametrize("field", [*LISTS, *CHILDREN])
async def test_an_index_gives_the_rows_in_their_order(
    graph: Graph,
    live: Live,
    explaining: asyncpg.Connection,
    names: dict[str, str],
    field: str,
) -> None:
    # when
    for placeholder, value in names.items():
        field = field.replace(placeholder, value)
    with recorded(live.database) as statements:
        await graph.query(f"{{ {field} }}")

    # then
    assert statements
    for statement, parameters in statements:
        answer = await explaining.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", *parameters)
        plan = orjson.loads(answer)[0]["Plan"]
        found = set(steps(plan))
        assert "Seq Scan" not in {kind for kind, _ in found}, answer
        assert ("Sort", True) not in found, answer
        assert any("Index" in kind for kind, _ in found), answer
