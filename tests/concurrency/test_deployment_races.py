"""Deployments under concurrency: whoever comes second is told so, and the books stay right."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

import pytest

from lifecycle.deployments.rules import LIVE, STATUS, DeploymentStatus
from lifecycle.promotion.rules import STAGE
from lifecycle.registry.rules import Stage
from tests import statements
from tests.client import Graph, Json
from tests.conftest import Live, serving
from tests.factories import VERSION, WAY, a_deployment, a_version, a_version_in, approved

DEPLOYMENT = "deployment { id version status createdAt revision rollbackFrom { id } }"

# A race is not lost the same way every time.
ROUNDS = 3


async def a_good_deployment(graph: Graph, version: Json, environment: str) -> str:
    """The id of a deployment that was ACTIVE and HEALTHY and has come to its end."""
    id = await a_deployment(graph, version, environment, "ACTIVE")
    for changes in ({"health": "HEALTHY"}, {"status": "TERMINATED"}):
        await graph.done("updateDeployment", {"id": id, **changes}, DEPLOYMENT)
    return id


async def rows(live: Live, statement: str, model: str) -> list[Any]:
    """What a statement about one model finds."""
    return await statements.rows(live.database, statement, model=model)


async def check_books(live: Live, model: str) -> None:
    """Whatever happened to a model, in whatever order, these hold."""
    versions = await rows(
        live,
        """SELECT id, stage, created_at, deleted_at, live_deployments,
                  (SELECT count(*) FROM deployment WHERE model_version_id = model_version.id
                   AND status IN ('PENDING', 'VALIDATING', 'DEPLOYING', 'ACTIVE')) AS counted
           FROM model_version WHERE model_name = :model""",
        model,
    )
    assert [v.id for v in versions if v.live_deployments != v.counted] == []
    assert sum(v.stage == "PRODUCTION" for v in versions) <= 1

    entries = await rows(
        live,
        """SELECT e.* FROM stage_assignment e JOIN model m ON m.id = e.model_id
           WHERE m.name = :model ORDER BY e.valid_from""",
        model,
    )
    for version in versions:
        own = [entry for entry in entries if entry.model_version_id == version.id]
        assert own[0].valid_from == version.created_at
        assert (own[-1].stage, own[-1].valid_to) == (version.stage, version.deleted_at)
        for former, latter in pairwise(own):
            assert former.valid_to == latter.valid_from
            if latter.cause == "REQUESTED":
                assert Stage(latter.stage) in STAGE.following[Stage(former.stage)]
    production = [entry for entry in entries if entry.stage == "PRODUCTION"]
    for former, latter in pairwise(production):
        assert former.valid_to is not None
        assert former.valid_to <= latter.valid_from

    deployments = await rows(live, "SELECT * FROM deployment WHERE model_name = :model", model)
    history = await rows(
        live,
        """SELECT t.* FROM deployment_transition t JOIN deployment d ON d.id = t.deployment_id
           WHERE d.model_name = :model ORDER BY t.id""",
        model,
    )
    events = await rows(
        live,
        """SELECT e.subject_id, e.before->>'status' AS from_status, e.after->>'status' AS to_status
           FROM event e JOIN deployment d ON d.id = e.subject_id WHERE d.model_name = :model
           AND (e.type = 'deployment.created' OR jsonb_exists(e.before, 'status'))""",
        model,
    )
    for deployment in deployments:
        way = [t for t in history if t.deployment_id == deployment.id]
        assert (way[0].from_status, way[0].to_status) == (None, "PENDING")
        assert way[-1].to_status == deployment.status
        for former, latter in pairwise(way):
            assert latter.from_status == former.to_status
            current, wanted = DeploymentStatus(latter.from_status), latter.to_status
            assert wanted in STATUS.following[current]
            assert latter.at >= former.at
    assert Counter((t.deployment_id, t.from_status, t.to_status) for t in history) == Counter(
        tuple(event) for event in events
    )
    replaced = Counter(d.rollback_from_id for d in deployments if d.rollback_from_id)
    assert set(replaced.values()) <= {1}
    status = {deployment.id: deployment.status for deployment in deployments}
    assert {status[id] for id in replaced} <= {"ROLLBACK", "TERMINATED"}


# Rollbacks.


@pytest.mark.parametrize("environment", ["DEVELOPMENT", "PRODUCTION"])
async def test_of_several_rollbacks_of_one_deployment_one_is_made(
    graph: Graph, live: Live, unique: str, environment: str
) -> None:
    good = await a_version_in(graph, unique, "PRODUCTION")
    await a_good_deployment(graph, good, environment)
    bad = await a_version_in(graph, unique, "PRODUCTION")
    id = await a_deployment(graph, bad, environment, "ACTIVE")

    results = await asyncio.gather(
        *(graph.mutate("rollbackDeployment", {"id": id}, DEPLOYMENT) for _ in range(4))
    )

    won = [r for r in results if r["__typename"] == "RollbackDeploymentSuccess"]
    lost = [r for r in results if r not in won]
    assert [r["deployment"]["version"] for r in won] == ["1"]
    assert (
        lost
        == [
            {
                "__typename": "InvalidTransition",
                "code": "INVALID_TRANSITION",
                "message": "ROLLBACK cannot become ROLLBACK; allowed next: TERMINATED.",
                "path": ["id"],
                "from": "ROLLBACK",
                "to": "ROLLBACK",
                "allowed": ["TERMINATED"],
            }
        ]
        * 3
    )
    made = await rows(live, "SELECT status FROM deployment WHERE model_name = :model", unique)
    assert sorted(row.status for row in made) == ["PENDING", "ROLLBACK", "TERMINATED"]
    await check_books(live, unique)


async def test_simultaneous_rollbacks_with_one_key_give_the_same_deployment(
    graph: Graph, live: Live, unique: str
) -> None:
    good, bad = await a_version(graph, unique), await a_version(graph, unique)
    await a_good_deployment(graph, good, "DEVELOPMENT")
    id = await a_deployment(graph, bad, status="ACTIVE")
    input = {"id": id, "idempotencyKey": unique}

    results = await asyncio.gather(
        *(graph.done("rollbackDeployment", input, DEPLOYMENT) for _ in range(4))
    )

    assert results == [results[0]] * 4
    made = await rows(live, "SELECT id FROM deployment WHERE model_name = :model", unique)
    assert len(made) == 3
    await check_books(live, unique)


async def test_a_rollback_and_a_promotion_at_once_leave_one_version_in_production(
    graph: Graph, live: Live, unique: str
) -> None:
    for n in range(ROUNDS):
        model = f"{unique}-{n}"
        good = await a_version_in(graph, model, "PRODUCTION")
        await a_good_deployment(graph, good, "PRODUCTION")
        bad = await a_version_in(graph, model, "PRODUCTION")
        id = await a_deployment(graph, bad, "PRODUCTION", "ACTIVE")
        third = await approved(graph, await a_version(graph, model))
        promotion = {"modelVersion": {"id": third["id"]}, "stage": "PRODUCTION"}

        new, promoted = await asyncio.gather(
            graph.done("rollbackDeployment", {"id": id}, DEPLOYMENT),
            graph.mutate("setStage", promotion, "displaced { version }"),
        )

        assert (new["version"], new["status"]) == ("1", "PENDING")
        assert promoted["__typename"] == "SetStageSuccess"
        stages = {
            row.version: row.stage
            for row in await rows(
                live, "SELECT version, stage FROM model_version WHERE model_name = :model", model
            )
        }
        if promoted["displaced"] == [{"version": "2"}]:
            assert stages == {"1": "PRODUCTION", "2": "ARCHIVED", "3": "ARCHIVED"}
        else:
            assert promoted["displaced"] == [{"version": "1"}]
            assert stages == {"1": "ARCHIVED", "2": "ARCHIVED", "3": "PRODUCTION"}
        await check_books(live, model)


async def test_a_rollback_does_not_go_to_what_is_deleted_in_the_same_moment(
    graph: Graph, live: Live, unique: str
) -> None:
    for n in range(ROUNDS):
        model = f"{unique}-{n}"
        older, good, bad = [await a_version(graph, model) for _ in range(3)]
        for version in (older, good):
            await a_good_deployment(graph, version, "DEVELOPMENT")
        id = await a_deployment(graph, bad, status="ACTIVE")

        new, deleted = await asyncio.gather(
            graph.done("rollbackDeployment", {"id": id}, DEPLOYMENT),
            graph.mutate("deleteModelVersion", {"modelVersion": {"id": good["id"]}}),
        )

        if deleted["__typename"] == "DeleteModelVersionSuccess":
            assert new["version"] == "1"
        else:
            assert (new["version"], deleted["__typename"]) == ("2", "InUse")
        await check_books(live, model)


async def test_a_rollback_does_not_go_to_what_fails_in_the_same_moment(
    graph: Graph, live: Live, unique: str
) -> None:
    for n in range(ROUNDS):
        model = f"{unique}-{n}"
        older, good, bad = [await a_version(graph, model) for _ in range(3)]
        await a_good_deployment(graph, older, "DEVELOPMENT")
        failing = await a_deployment(graph, good, status="ACTIVE")
        healthy = {"id": failing, "health": "HEALTHY"}
        await graph.done("updateDeployment", healthy, DEPLOYMENT)
        id = await a_deployment(graph, bad, status="ACTIVE")

        new, _ = await asyncio.gather(
            graph.done("rollbackDeployment", {"id": id}, DEPLOYMENT),
            graph.done("updateDeployment", {"id": failing, "status": "FAILED"}, DEPLOYMENT),
        )

        failed_first = await rows(
            live,
            """SELECT t.at < new.created_at AS first
               FROM deployment_transition t JOIN deployment d ON d.id = t.deployment_id
               JOIN deployment new ON new.model_name = :model AND new.rollback_from_id IS NOT NULL
               WHERE d.model_name = :model AND t.to_status = 'FAILED'""",
            model,
        )
        assert new["version"] == ("1" if failed_first[0].first else "2")
        await check_books(live, model)


# Status.


async def test_of_many_who_report_the_same_change_one_makes_it(
    graph: Graph, live: Live, unique: str
) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version)

    for status in ("VALIDATING", "DEPLOYING", "ACTIVE"):
        results = await asyncio.gather(
            *(graph.mutate("updateDeployment", {"id": id, "status": status}) for _ in range(8))
        )
        kinds = Counter(result["__typename"] for result in results)
        assert kinds == {"UpdateDeploymentSuccess": 1, "InvalidTransition": 7}
    await check_books(live, unique)
    found = await graph.query(
        "query ($id: ID!) { deployment(id: $id) { revision statusHistory { to } } }", {"id": id}
    )
    assert found["deployment"] == {
        "revision": 4,
        "statusHistory": [
            {"to": status} for status in ("PENDING", "VALIDATING", "DEPLOYING", "ACTIVE")
        ],
    }


async def test_contradicting_reports_make_one_legal_history(
    graph: Graph, live: Live, unique: str
) -> None:
    version = await a_version(graph, unique)
    ids = [await a_deployment(graph, version) for _ in range(3)]
    wanted = ["VALIDATING", "DEPLOYING", "ACTIVE", "FAILED", "ROLLBACK", "TERMINATED"] * 2

    results = await asyncio.gather(
        *(
            graph.mutate("updateDeployment", {"id": id, "status": status}, DEPLOYMENT)
            for status in wanted
            for id in ids
        )
    )

    assert {r["__typename"] for r in results} <= {"UpdateDeploymentSuccess", "InvalidTransition"}
    made = Counter(r["deployment"]["id"] for r in results if "deployment" in r)
    for id in ids:
        found = await graph.query(
            "query ($id: ID!) { deployment(id: $id) { revision statusHistory { to } } }",
            {"id": id},
        )
        assert found["deployment"]["revision"] == made[id] + 1
        assert len(found["deployment"]["statusHistory"]) == made[id] + 1
    await check_books(live, unique)


async def test_of_many_who_decided_on_one_revision_one_is_heard(
    graph: Graph, live: Live, unique: str
) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version)

    results = await asyncio.gather(
        *(
            graph.mutate(
                "updateDeployment", {"id": id, "endpoint": f"https://{n}", "expectedRevision": 1}
            )
            for n in range(8)
        )
    )

    lost = [r for r in results if r["__typename"] != "UpdateDeploymentSuccess"]
    assert [(r["__typename"], r["currentRevision"]) for r in lost] == [("StaleRevision", 2)] * 7


async def test_the_end_and_a_report_at_once_are_ordered_somehow(
    graph: Graph, live: Live, unique: str
) -> None:
    version = await a_version(graph, unique)
    for _ in range(ROUNDS):
        id = await a_deployment(graph, version, status="VALIDATING")

        first, second, report = await asyncio.gather(
            graph.mutate("terminateDeployment", {"id": id}),
            graph.mutate("terminateDeployment", {"id": id}),
            graph.mutate("updateDeployment", {"id": id, "status": "DEPLOYING"}),
        )

        assert sorted([first["__typename"], second["__typename"]]) == [
            "InvalidTransition",
            "TerminateDeploymentSuccess",
        ]
        if report["__typename"] != "UpdateDeploymentSuccess":
            assert (report["__typename"], report["from"]) == ("InvalidTransition", "TERMINATED")
    await check_books(live, unique)


async def test_log_lines_of_many_writers_get_numbers_without_gaps(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    id = await a_deployment(graph, version)

    await asyncio.gather(
        *(
            graph.done(
                "updateDeployment",
                {"id": id, "logLines": [{"message": f"{n} {part}"} for part in "abc"]},
                DEPLOYMENT,
            )
            for n in range(10)
        )
    )

    found = await graph.query(
        "query ($id: ID!) { deployment(id: $id) { revision logs(first: 100) { totalCount "
        "nodes { line message } } } }",
        {"id": id},
    )
    nodes = found["deployment"]["logs"]["nodes"]
    assert [node["line"] for node in nodes] == list(range(1, 31))
    # What came in one call stands together.
    for block in range(0, 30, 3):
        writer = nodes[block]["message"].split()[0]
        assert [node["message"] for node in nodes[block : block + 3]] == [
            f"{writer} {part}" for part in "abc"
        ]
    assert (found["deployment"]["revision"], found["deployment"]["logs"]["totalCount"]) == (1, 30)


# Versions.


async def test_a_version_is_either_deployed_or_deleted(
    graph: Graph, live: Live, unique: str
) -> None:
    for n in range(ROUNDS):
        version = await a_version(graph, f"{unique}-{n}")
        selector = {"modelVersion": {"id": version["id"]}}

        deployed, deleted = await asyncio.gather(
            graph.mutate("createDeployment", {**selector, "environment": "DEVELOPMENT"}),
            graph.mutate("deleteModelVersion", selector),
        )

        assert (deployed["__typename"], deleted["__typename"]) in {
            ("CreateDeploymentSuccess", "InUse"),
            ("NotFound", "DeleteModelVersionSuccess"),
        }
        await check_books(live, f"{unique}-{n}")


async def test_what_goes_to_production_was_in_its_stage_in_that_moment(
    graph: Graph, live: Live, unique: str
) -> None:
    for n in range(ROUNDS):
        model = f"{unique}-{n}"
        first = await a_version_in(graph, model, "PRODUCTION")
        second = await approved(graph, await a_version(graph, model))
        by_id = {"id": first["id"]}
        by_stage = {"inStage": {"modelName": model, "stage": "PRODUCTION"}}

        named, staged, _ = await asyncio.gather(
            graph.mutate("createDeployment", {"modelVersion": by_id, "environment": "PRODUCTION"}),
            graph.mutate(
                "createDeployment", {"modelVersion": by_stage, "environment": "PRODUCTION"}
            ),
            graph.done(
                "setStage",
                {"modelVersion": {"id": second["id"]}, "stage": "PRODUCTION"},
                "modelVersion { id }",
            ),
        )

        assert named["__typename"] in ("CreateDeploymentSuccess", "Conflict")
        # There was one in production all the time.
        assert staged["__typename"] == "CreateDeploymentSuccess"
        outside = await rows(
            live,
            """SELECT d.version FROM deployment d WHERE d.model_name = :model AND NOT EXISTS (
                 SELECT FROM stage_assignment e WHERE e.model_version_id = d.model_version_id
                 AND e.stage = 'PRODUCTION' AND e.valid_from <= d.created_at
                 AND (e.valid_to IS NULL OR e.valid_to > d.created_at))""",
            model,
        )
        assert outside == []
        await check_books(live, model)


# Everything at once.

CLIENTS = 16
OPERATIONS = 12
ENVIRONMENTS = ["DEVELOPMENT", "STAGING", "PRODUCTION"]


class Worker:
    """A client that does one thing after the other to a model that others work on too."""

    def __init__(
        self, graph: Graph, model: str, seed: int, versions: list[str], status: dict[str, str]
    ) -> None:
        self.graph, self.model, self.random = graph, model, random.Random(seed)
        # Which versions there are and where the deployments stand, as far as any worker has heard.
        self.versions, self.status = versions, status
        self.results: Counter[tuple[str, str]] = Counter()

    async def work(self) -> None:
        operations: list[Callable[[], Coroutine[Any, Any, None]]] = [
            self.promote,
            self.deploy,
            self.deploy,
            self.report,
            self.roll_back,
            self.roll_back,
            self.terminate,
            self.delete,
        ]
        # Later most are refused, because others deploy all the time: the first is not.
        await self.roll_back()
        for _ in range(OPERATIONS):
            await self.random.choice(operations)()

    async def promote(self) -> None:
        stages = ["STAGING", "STAGING", "PRODUCTION", "PRODUCTION", "ARCHIVED", "EXPERIMENTAL"]
        input = {"modelVersion": self.version(), "stage": self.random.choice(stages)}
        await self.do("setStage", input, VERSION)

    async def deploy(self) -> None:
        environment = self.random.choices(ENVIRONMENTS, [1, 2, 3])[0]
        version = self.version()
        if environment != "DEVELOPMENT" and self.random.random() < 0.7:
            version = {"inStage": {"modelName": self.model, "stage": environment}}
        input = {"modelVersion": version, "environment": environment}
        await self.bring_up(await self.do("createDeployment", input, DEPLOYMENT))

    async def bring_up(self, result: Json) -> None:
        """Make what was made ACTIVE and HEALTHY, unless somebody else changes it in between."""
        for status in WAY["ACTIVE"]:
            if "deployment" in result:
                input = {"id": result["deployment"]["id"], "status": status, "health": "HEALTHY"}
                result = await self.do("updateDeployment", input, DEPLOYMENT)

    async def report(self) -> None:
        metrics = {"requestCount": 1, "errorRate": 0.0, "avgLatencyMs": 1.0}
        input: Json = {"id": self.deployment(), "metrics": metrics, "health": "DEGRADED"}
        if self.random.random() < 0.5:
            input["status"] = self.random.choice(list(DeploymentStatus))
        await self.do("updateDeployment", input, DEPLOYMENT)

    async def roll_back(self) -> None:
        # Only the last one can be gone back from. Most are deployed elsewhere.
        environment = self.random.choices(ENVIRONMENTS, [3, 2, 1])[0]
        found = await self.graph.query(
            "query ($filter: DeploymentFilter!) { deployments(filter: $filter, first: 1) "
            "{ nodes { id } } }",
            {
                "filter": {
                    "modelName": self.model,
                    "environments": [environment],
                    "statuses": ["ACTIVE"],
                }
            },
        )
        for node in found["deployments"]["nodes"]:
            await self.bring_up(await self.do("rollbackDeployment", node, DEPLOYMENT))

    async def terminate(self) -> None:
        await self.do("terminateDeployment", {"id": self.deployment()}, DEPLOYMENT)

    async def delete(self) -> None:
        version = self.version()
        if "modelVersion" in await self.do(
            "deleteModelVersion", {"modelVersion": version}, VERSION
        ):
            self.versions.remove(version["id"])
            made = await self.do("registerModelVersion", {"modelName": self.model}, VERSION)
            self.versions.append(made["modelVersion"]["id"])

    def version(self) -> Json:
        return {"id": self.random.choice(self.versions)}

    def deployment(self) -> str:
        """One that is live, as far as is known."""
        live = [id for id, status in self.status.items() if status in LIVE]
        return self.random.choice(live or list(self.status))

    async def do(self, mutation: str, input: Json, selection: str) -> Json:
        result = await self.graph.mutate(mutation, input, selection)
        self.results[mutation, result["__typename"]] += 1
        if "deployment" in result:
            self.status[result["deployment"]["id"]] = result["deployment"]["status"]
        return result


@pytest.mark.slow
async def test_the_books_are_right_after_many_clients_did_everything_at_once(
    graph: Graph, live: Live, database_url: str, unique: str
) -> None:
    good = await a_version_in(graph, unique, "PRODUCTION")
    for environment in ENVIRONMENTS:
        await a_good_deployment(graph, good, environment)
    other = await a_version_in(graph, unique, "PRODUCTION")
    status = {
        await a_deployment(graph, other, environment, "ACTIVE"): "ACTIVE"
        for environment in ENVIRONMENTS
    }
    versions = [good["id"], other["id"]]
    for stage in ["STAGING"] * 2 + ["EXPERIMENTAL"] * 4:
        made = await a_version(graph, unique)
        versions.append((await approved(graph, made) if stage == "STAGING" else made)["id"])

    async with AsyncExitStack() as stack:
        second = await stack.enter_async_context(serving(database_url))
        urls = [live.url, second.url] * (CLIENTS // 2)
        workers = [
            Worker(await stack.enter_async_context(Graph(url)), unique, seed, versions, status)
            for seed, url in enumerate(urls)
        ]
        await asyncio.gather(*(worker.work() for worker in workers))

    results = sum((worker.results for worker in workers), Counter[tuple[str, str]]())
    mutations = {mutation for mutation, _ in results}
    assert {kind for _, kind in results} <= {
        "NotFound",
        "Conflict",
        "InUse",
        "InvalidTransition",
        "ApprovalRequired",
        *(f"{mutation[0].upper()}{mutation[1:]}Success" for mutation in mutations),
    }, results
    # It was not all refused.
    done = {mutation for mutation, kind in results if kind.endswith("Success")}
    assert (
        done
        == mutations
        == {
            "setStage",
            "createDeployment",
            "updateDeployment",
            "rollbackDeployment",
            "terminateDeployment",
            "deleteModelVersion",
            "registerModelVersion",
        }
    )
    await check_books(live, unique)
