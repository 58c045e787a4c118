"""How things stand with MLflow, over GraphQL, and what people can do about it. No MLflow is needed:
what a worker has found out is in the database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from lifecycle.journal import repository as journal
from lifecycle.runs.service import LogRun, NewArtifact, log_run
from lifecycle.tracking import repository
from lifecycle.tracking.rules import Conflict, FieldRule, Resolution, SyncState, TrackedKind, merge
from lifecycle.tracking.sides import origin_of
from schema import ids
from tests.client import Graph, Json
from tests.conftest import Live, serving
from tests.factories import a_deployment, a_run, a_version
from tests.graphql.test_audit import entries
from tests.mirror import Mirror, a_mirror, agreed
from tests.mutations import contents, global_id

LINK = """mlflow {
  id url state lastSyncedAt error itemId conflicts { field here there reason resolutions }
}"""
ITEM = f"id kind attempts nextAttemptAt object {{ __typename id }} {LINK}"
LIST = f"""
query (
  $filter: MlflowItemFilter, $first: Int, $after: String, $last: Int, $before: String
) {{
  mlflowItems(filter: $filter, first: $first, after: $after, last: $last, before: $before) {{
    nodes {{ {ITEM} }} edges {{ cursor }} totalCount
    pageInfo {{ hasNextPage hasPreviousPage startCursor endCursor }}
  }}
}}"""
SERVER = "uri version answering answeredAt error pending failed conflicts behind"
EITHER, OURS, WATCHED, ONCE = (
    FieldRule.EITHER,
    FieldRule.OURS,
    FieldRule.WATCHED,
    FieldRule.ONCE,
)
KEEP, TAKE, LEAVE = Resolution


@dataclass(frozen=True)
class Mirrored:
    """A service that mirrors to a server which only this test knows, and its client."""

    graph: Graph
    mirror: Mirror

    async def items(self, **arguments: Any) -> Json:
        found: Json = (await self.graph.query(LIST, arguments))["mlflowItems"]
        return found

    async def listed(self, **filter: Any) -> list[str]:
        """The ids of the items that a filter gives."""
        return [node["id"] for node in (await self.items(filter=filter))["nodes"]]

    async def link(self, object: str) -> Json:
        """How an object stands."""
        kind = ids.split(object)[0]
        query = f"query ($id: ID!) {{ node(id: $id) {{ ... on {kind} {{ {LINK} }} }} }}"
        found: Json = (await self.graph.query(query, {"id": object}))["node"]["mlflow"]
        return found

    async def server(self) -> Json:
        """What `serverInfo` says of the server."""
        found: Json = (await self.graph.query(f"{{ serverInfo {{ mlflow {{ {SERVER} }} }} }}"))[
            "serverInfo"
        ]["mlflow"]
        return found

    async def retry(self, **input: Any) -> Json:
        selection = f"mlflowServer {{ {SERVER} }} items {{ {ITEM} }}"
        return await self.graph.mutate("retryMlflowSync", input, selection)

    async def resolve(self, item: str, resolution: Resolution, **input: Any) -> Json:
        return await self.graph.mutate(
            "resolveMlflowConflict",
            {"id": item, "resolution": resolution, **input},
            f"mlflowItem {{ {ITEM} }}",
        )


@asynccontextmanager
async def mirrored_to(live: Live, uri: str, shown: str) -> AsyncIterator[Mirrored]:
    async with serving(live.database.url, mlflow_uri=uri) as service, Graph(service.url) as graph:
        yield Mirrored(graph, await a_mirror(live.database, shown))


@pytest_asyncio.fixture
async def mirrored(live: Live, unique: str) -> AsyncIterator[Mirrored]:
    uri = f"http://{unique}.invalid"
    async with mirrored_to(live, uri, uri) as found:
        yield found


@pytest_asyncio.fixture
async def objects(graph: Graph, unique: str) -> dict[str, str]:
    """The ids of one object of each kind, by the kind."""
    run = await a_run(graph, unique)
    version = await a_version(graph, unique, runId=run)
    data = await graph.query(
        f'{{ experiment(name: "{unique}") {{ id }} model(name: "{unique}") {{ id }} }}'
    )
    return {
        "EXPERIMENT": data["experiment"]["id"],
        "RUN": run,
        "MODEL": data["model"]["id"],
        "MODEL_VERSION": version["id"],
    }


def recent(time: str) -> bool:
    """Whether this was just now."""
    return abs(datetime.now(UTC) - datetime.fromisoformat(time)) < timedelta(minutes=5)


# How each object stands.


async def test_without_a_server_every_object_says_so(graph: Graph, objects: dict[str, str]) -> None:
    for id in objects.values():
        kind = ids.split(id)[0]
        query = f"query ($id: ID!) {{ node(id: $id) {{ ... on {kind} {{ {LINK} }} }} }}"
        assert (await graph.query(query, {"id": id}))["node"]["mlflow"] == {
            "id": None, "url": None, "state": "NOT_CONFIGURED", "lastSyncedAt": None,
            "error": None, "itemId": None, "conflicts": [],
        }  # fmt: skip


async def test_what_nobody_has_looked_at_yet_is_pending(
    mirrored: Mirrored, objects: dict[str, str]
) -> None:
    for id in objects.values():
        assert await mirrored.link(id) == {
            "id": None, "url": None, "state": "PENDING", "lastSyncedAt": None,
            "error": None, "itemId": None, "conflicts": [],
        }  # fmt: skip


@pytest.mark.parametrize("kind", TrackedKind)
async def test_an_object_that_is_on_both_sides_says_where(
    mirrored: Mirrored, objects: dict[str, str], kind: TrackedKind
) -> None:
    item = await mirrored.mirror.item(
        objects[kind], mlflow_id="17", url="http://mlflow/#/17", synced=True
    )

    link = await mirrored.link(objects[kind])

    assert recent(link.pop("lastSyncedAt"))
    assert link == {
        "id": "17", "url": "http://mlflow/#/17", "state": "IN_SYNC", "error": None,
        "itemId": item, "conflicts": [],
    }  # fmt: skip


async def test_a_deployment_stands_as_its_version_does(
    mirrored: Mirrored, objects: dict[str, str]
) -> None:
    deployment = await a_deployment(mirrored.graph, {"id": objects["MODEL_VERSION"]})
    await mirrored.mirror.item(objects["MODEL_VERSION"], mlflow_id="m/1", synced=True)

    link = await mirrored.link(deployment)

    assert link == await mirrored.link(objects["MODEL_VERSION"])
    assert (link["id"], link["state"]) == ("m/1", "IN_SYNC")


async def test_what_cannot_be_brought_over_says_why_and_when_it_is_tried_again(
    mirrored: Mirrored, objects: dict[str, str]
) -> None:
    waiting = await mirrored.mirror.item(
        objects["RUN"], SyncState.PENDING, due_in=3600, error="No answer.", attempts=3
    )
    parked = await mirrored.mirror.item(
        objects["MODEL"], SyncState.FAILED, error="No such name.", attempts=10
    )

    found = {node["id"]: node for node in (await mirrored.items())["nodes"]}

    assert (found[waiting]["attempts"], found[parked]["attempts"]) == (3, 10)
    due = datetime.fromisoformat(found[waiting]["nextAttemptAt"]) - timedelta(hours=1)
    assert recent(due.isoformat())
    assert found[parked]["nextAttemptAt"] is None
    for item, state, error in (
        (waiting, "PENDING", "No answer."),
        (parked, "FAILED", "No such name."),
    ):
        assert found[item]["mlflow"]["state"] == state
        assert found[item]["mlflow"]["error"] == error


async def test_a_conflict_shows_both_sides_and_what_can_be_done(
    mirrored: Mirrored, objects: dict[str, str]
) -> None:
    item = await mirrored.mirror.item(
        objects["MODEL_VERSION"],
        SyncState.CONFLICT,
        conflicts=[
            ("description", "ours", None),
            ("stage", "STAGING", "PRODUCTION", "Only changed here.", WATCHED),
            ("name", "a", "b", "Only changed here.", OURS),
            ("param:lr", "0.1", "0.2", None, ONCE),
            ("", "here", None, "It is deleted there."),
        ],
    )

    link = await mirrored.link(objects["MODEL_VERSION"])

    assert (link["state"], link["itemId"]) == ("CONFLICT", item)
    assert link["conflicts"] == [
        {
            "field": "description", "here": "ours", "there": None, "reason": None,
            "resolutions": ["KEEP_OURS", "TAKE_THEIRS", "LEAVE"],
        },
        {
            "field": "stage", "here": "STAGING", "there": "PRODUCTION",
            "reason": "Only changed here.", "resolutions": ["LEAVE"],
        },
        {
            "field": "name", "here": "a", "there": "b", "reason": "Only changed here.",
            "resolutions": ["KEEP_OURS", "LEAVE"],
        },
        {
            "field": "param:lr", "here": "0.1", "there": "0.2", "reason": None,
            "resolutions": ["LEAVE"],
        },
        {
            "field": None, "here": "here", "there": None, "reason": "It is deleted there.",
            "resolutions": ["KEEP_OURS", "LEAVE"],
        },
    ]  # fmt: skip


async def test_how_things_stand_with_another_server_does_not_matter(
    live: Live, mirrored: Mirrored, objects: dict[str, str], unique: str
) -> None:
    other = await a_mirror(live.database, f"http://{unique}.elsewhere.invalid")
    item = await other.item(objects["RUN"], SyncState.FAILED)

    assert (await mirrored.link(objects["RUN"]))["state"] == "PENDING"
    assert (await mirrored.items())["totalCount"] == 0
    assert (await mirrored.server())["failed"] == 0
    found = await mirrored.graph.query(
        "query ($id: ID!) { node(id: $id) { ... on MlflowItem { mlflow { state } } } }",
        {"id": item},
    )
    assert found == {"node": {"mlflow": {"state": "FAILED"}}}


# The list.


async def test_an_item_leads_to_its_object_which_leads_back(
    mirrored: Mirrored, objects: dict[str, str]
) -> None:
    items = {kind: await mirrored.mirror.item(id) for kind, id in objects.items()}

    nodes = (await mirrored.items())["nodes"]

    assert {node["kind"]: (node["id"], node["object"]["id"]) for node in nodes} == {
        kind: (items[kind], objects[kind]) for kind in objects
    }
    for kind, id in objects.items():
        assert (await mirrored.link(id))["itemId"] == items[kind]


async def test_what_is_only_there_has_no_object_yet(mirrored: Mirrored) -> None:
    await mirrored.mirror.only_there(TrackedKind.RUN, "a1")

    [node] = (await mirrored.items())["nodes"]

    assert (node["kind"], node["object"]) == ("RUN", None)
    assert (node["mlflow"]["id"], node["mlflow"]["state"]) == ("a1", "PENDING")


async def test_each_filter_and_both_together(mirrored: Mirrored, objects: dict[str, str]) -> None:
    make = mirrored.mirror.item
    failed = await make(objects["EXPERIMENT"], SyncState.FAILED)
    run = await make(objects["RUN"], SyncState.FAILED)
    conflict = await make(objects["MODEL"], SyncState.CONFLICT)
    done = await make(objects["MODEL_VERSION"])
    all_ = [done, conflict, run, failed]

    assert await mirrored.listed() == all_
    assert await mirrored.listed(states=[], kinds=None) == all_
    assert await mirrored.listed(states=["FAILED"]) == [run, failed]
    assert await mirrored.listed(states=["CONFLICT", "IN_SYNC"]) == [done, conflict]
    assert await mirrored.listed(states=["PENDING"]) == []
    assert await mirrored.listed(kinds=["RUN", "MODEL"]) == [conflict, run]
    assert await mirrored.listed(kinds=["RUN"], states=["FAILED"]) == [run]
    assert await mirrored.listed(kinds=["RUN"], states=["CONFLICT"]) == []


async def test_no_item_is_not_configured(mirrored: Mirrored) -> None:
    query = "{ mlflowItems(filter: { states: [FAILED, NOT_CONFIGURED] }) { totalCount } }"

    error = await mirrored.graph.error(query)

    assert error["message"] == "An item is never NOT_CONFIGURED."
    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["filter", "states"]}


async def test_pages_put_together_are_the_whole_list_in_both_directions(
    mirrored: Mirrored,
) -> None:
    for n in range(5):
        await mirrored.mirror.only_there(TrackedKind.RUN, f"r{n}")
    whole = [node["mlflow"]["id"] for node in (await mirrored.items())["nodes"]]
    assert whole == ["r4", "r3", "r2", "r1", "r0"]

    for size, cursor, forward in (("first", "after", True), ("last", "before", False)):
        found: list[str] = []
        bounds: Json = {size: 2}
        for number in range(3):
            page = await mirrored.items(**bounds)
            shown = [node["mlflow"]["id"] for node in page["nodes"]]
            found = found + shown if forward else shown + found
            info = page["pageInfo"]
            ahead, behind = ("hasNextPage", "hasPreviousPage")[:: 1 if forward else -1]
            assert (info[ahead], info[behind]) == (number < 2, number > 0)
            assert page["totalCount"] == 5
            bounds[cursor] = info["endCursor" if forward else "startCursor"]
        assert found == whole


async def test_a_cursor_of_another_filter_is_refused(mirrored: Mirrored) -> None:
    await mirrored.mirror.only_there(TrackedKind.RUN, "r")
    cursor = (await mirrored.items())["pageInfo"]["endCursor"]

    error = await mirrored.graph.error(
        f'{{ mlflowItems(filter: {{ kinds: [RUN] }}, after: "{cursor}") {{ totalCount }} }}'
    )

    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["after"]}


async def test_without_a_server_the_list_is_empty_and_nothing_can_be_retried(
    live: Live, graph: Graph, objects: dict[str, str], unique: str
) -> None:
    other = await a_mirror(live.database, f"http://{unique}.invalid")
    item = await other.item(objects["RUN"], SyncState.FAILED)

    found = (await graph.query(LIST))["mlflowItems"]

    assert found == {
        "nodes": [], "edges": [], "totalCount": 0,
        "pageInfo": {
            "hasNextPage": False, "hasPreviousPage": False, "startCursor": None, "endCursor": None,
        },
    }  # fmt: skip
    for input in ({}, {"ids": [item]}):
        assert await graph.mutate("retryMlflowSync", input) == {
            "__typename": "Conflict",
            "code": "CONFLICT",
            "message": "No MLflow server is configured: set MLFLOW_TRACKING_URI.",
            "path": [],
        }


# The server.


async def test_without_a_server_there_is_none_to_speak_of(graph: Graph) -> None:
    data = await graph.query("{ serverInfo { features mlflow { uri } } }")

    assert data["serverInfo"]["mlflow"] is None
    assert "mlflow" in data["serverInfo"]["features"]


async def test_a_server_that_nobody_has_asked_yet_does_not_answer(live: Live, unique: str) -> None:
    uri = f"http://{unique}.invalid"
    unknown = {
        "uri": uri, "version": None, "answering": False, "answeredAt": None, "error": None,
        "pending": 0, "failed": 0, "conflicts": 0, "behind": None,
    }  # fmt: skip

    async with serving(live.database.url, mlflow_uri=uri) as service, Graph(service.url) as graph:
        before = Mirrored(graph, Mirror(live.database, UUID(int=0), uri))
        assert await before.server() == unknown
        assert await before.retry() == {
            "__typename": "Conflict",
            "code": "CONFLICT",
            "message": f"Nothing has been mirrored to {uri} yet.",
            "path": [],
        }
        await a_mirror(live.database, uri)
        assert await before.server() == unknown


async def test_whether_the_server_answers_is_told(mirrored: Mirrored) -> None:
    await mirrored.mirror.answered("3.17.2")
    well = await mirrored.server()
    await mirrored.mirror.answered(None, "MLflow does not answer.")
    silent = await mirrored.server()
    await mirrored.mirror.answered("3.18.0")
    again = await mirrored.server()

    told = ("answering", "version", "error")
    assert [well[name] for name in told] == [True, "3.17.2", None]
    assert recent(well["answeredAt"])
    assert [silent[name] for name in told] == [False, "3.17.2", "MLflow does not answer."]
    assert silent["answeredAt"] == well["answeredAt"]
    assert [again[name] for name in told] == [True, "3.18.0", None]
    assert again["answeredAt"] > well["answeredAt"]


async def test_a_server_that_never_answered_does_not_answer(mirrored: Mirrored) -> None:
    await mirrored.mirror.answered(None, "Nobody is there.")

    server = await mirrored.server()

    assert (server["answering"], server["answeredAt"]) == (False, None)
    assert server["error"] == "Nobody is there."


async def test_the_server_says_how_much_is_to_be_done(
    mirrored: Mirrored, objects: dict[str, str]
) -> None:
    await mirrored.mirror.item(objects["EXPERIMENT"], SyncState.FAILED)
    await mirrored.mirror.item(objects["RUN"], SyncState.FAILED)
    await mirrored.mirror.item(objects["MODEL"], SyncState.CONFLICT)
    await mirrored.mirror.item(objects["MODEL_VERSION"])
    for n in range(3):
        await mirrored.mirror.only_there(TrackedKind.RUN, f"r{n}")

    server = await mirrored.server()

    assert [server[name] for name in ("pending", "failed", "conflicts")] == [3, 2, 1]


async def test_the_server_says_how_far_behind_the_journal_it_is(
    live: Live, mirrored: Mirrored, unique: str
) -> None:
    async def told(behind: int) -> None:
        async def read(session: Any) -> None:
            row = await repository.lock_server(session, mirrored.mirror.server_id, wait=True)
            assert row is not None
            row.position = (await journal.head(session)).position - behind

        await live.database.write(read)

    await entries(mirrored.graph, 1, subject=await a_run(mirrored.graph, unique))

    assert (await mirrored.server())["behind"] is None
    await told(2)
    assert (await mirrored.server())["behind"] == 2
    await told(0)
    assert (await mirrored.server())["behind"] == 0
    await entries(mirrored.graph, 1, subject=await a_run(mirrored.graph, unique))
    assert (await mirrored.server())["behind"] == 1


async def test_readiness_tells_whether_mlflow_answers_and_does_not_depend_on_it(
    mirrored: Mirrored,
) -> None:
    async def ready() -> Any:
        response = await mirrored.graph.http.get("/readyz")
        assert response.status_code == 200
        found = response.json()
        assert found["ready"] is True
        assert found["checks"]["database"] is found["checks"]["migrations"] is True
        return found["checks"]["mlflow"]

    assert await ready() is False
    await mirrored.mirror.answered("3.17.2")
    assert await ready() is True
    await mirrored.mirror.answered(None, "No answer.")
    assert await ready() is False


async def test_credentials_are_never_shown(live: Live, objects: dict[str, str]) -> None:
    uri = "http://me:secret@MLflow.Invalid:5000/behind/"

    async with mirrored_to(live, uri, "http://mlflow.invalid:5000/behind") as mirrored:
        await mirrored.mirror.item(objects["RUN"], SyncState.FAILED)
        server, items = await mirrored.server(), await mirrored.items()
        retried = await mirrored.retry()
        ready = await mirrored.graph.http.get("/readyz")

    assert server["uri"] == "http://mlflow.invalid:5000/behind"
    assert server["failed"] == items["totalCount"] == 1
    assert retried["mlflowServer"]["failed"] == 0
    assert "secret" not in f"{server} {items} {retried} {ready.text}"


# Where files are read.


async def test_a_file_of_a_run_that_came_from_mlflow_is_read_there(
    live: Live, graph: Graph, mirrored: Mirrored, unique: str
) -> None:
    own = await a_run(mirrored.graph, unique, artifacts=[{"name": "f", "path": "a b/c.txt"}])
    command = LogRun(experiment_name=unique, artifacts=[NewArtifact(name="f", path="a b/c.txt")])
    origin = origin_of(mirrored.mirror.server_id)
    row = await live.database.write(lambda session: log_run(session, origin, command))
    came = ids.encode("Run", row.id)
    query = (
        "query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Run { artifacts { downloadUrl } } } "
        f'experiment(name: "{unique}") {{ artifacts {{ downloadUrl }} }} }}'
    )

    async def links(graph: Graph) -> list[str | None]:
        data = await graph.query(query, {"ids": [own, came]})
        found = [node["artifacts"][0]["downloadUrl"] for node in data["nodes"]]
        of_all = [each["downloadUrl"] for each in data["experiment"]["artifacts"]]
        assert sorted(of_all, key=str) == sorted(found, key=str)
        return found

    assert await links(mirrored.graph) == [None, None]
    await mirrored.mirror.item(own, mlflow_id="r1")
    await mirrored.mirror.item(came, mlflow_id="r2")
    url = f"{mirrored.mirror.uri}/get-artifact?run_uuid=r2&path=a%20b/c.txt"
    assert await links(mirrored.graph) == [None, url]
    assert await links(graph) == [None, None]


async def test_where_mlflow_keeps_a_version_its_page_shows(
    graph: Graph, mirrored: Mirrored, unique: str
) -> None:
    uri = mirrored.mirror.uri
    run = await a_run(mirrored.graph, unique)
    await mirrored.mirror.item(run, mlflow_id="r1", url=f"{uri}/#/experiments/1/runs/r1")
    pages = {
        "runs:/r1/model": f"{uri}/#/experiments/1/runs/r1/artifacts/model",
        "runs:/r2/model": f"{uri}/#/runs/r2",
        "models:/churn/3": f"{uri}/#/models/churn/versions/3",
        "mlflow-artifacts:/1/r3/artifacts/model": f"{uri}/#/experiments/1/runs/r3/artifacts/model",
        "models:/m-17": f"{uri}/#/own",
        "https://example.com/model": "https://example.com/model",
        "model.pkl": None,
        "ftp://host/model": None,
    }
    shown: dict[str, str | None] = {}
    elsewhere: dict[str, str | None] = {}

    for path in pages:
        version = await a_version(mirrored.graph, unique, runId=run, artifactPath=path)
        await mirrored.mirror.item(version["id"], mlflow_id=version["id"], url=f"{uri}/#/own")
        query = "query ($id: ID!) { node(id: $id) { ... on ModelVersion { artifactUrl } } }"
        for service, found in ((mirrored.graph, shown), (graph, elsewhere)):
            data = await service.query(query, {"id": version["id"]})
            found[path] = data["node"]["artifactUrl"]

    assert shown == pages
    of_the_web = {path: path for path in pages if path.startswith("https")}
    assert elsewhere == {**dict.fromkeys(pages), **of_the_web}


# Retrying.


async def test_all_that_failed_is_tried_again(mirrored: Mirrored, objects: dict[str, str]) -> None:
    make = mirrored.mirror.item
    failed = [
        await make(objects[kind], SyncState.FAILED, error="No.", attempts=10)
        for kind in ("EXPERIMENT", "RUN")
    ]
    conflict = await make(objects["MODEL"], SyncState.CONFLICT, conflicts=[("name", "a", "b")])
    waiting = await make(
        objects["MODEL_VERSION"], SyncState.PENDING, due_in=3600, error="Later.", attempts=2
    )

    result = await mirrored.retry()

    assert result["__typename"] == "RetryMlflowSyncSuccess"
    assert result["items"] == []
    assert [result["mlflowServer"][name] for name in ("pending", "failed", "conflicts")] == [
        3,
        0,
        1,
    ]
    found = {node["id"]: node for node in (await mirrored.items())["nodes"]}
    for id in failed:
        assert found[id]["mlflow"]["state"] == "PENDING"
        assert (found[id]["mlflow"]["error"], found[id]["attempts"]) == (None, 0)
        await mirrored.mirror.take(id)
    assert found[conflict]["mlflow"]["state"] == "CONFLICT"
    assert found[conflict]["nextAttemptAt"] is None
    assert (found[waiting]["mlflow"]["error"], found[waiting]["attempts"]) == ("Later.", 2)


async def test_those_whose_ids_are_given_are_tried_again_at_once(
    mirrored: Mirrored, objects: dict[str, str]
) -> None:
    make = mirrored.mirror.item
    failed = await make(objects["EXPERIMENT"], SyncState.FAILED, error="No.", attempts=10)
    other = await make(objects["RUN"], SyncState.FAILED, error="No.", attempts=10)
    conflict = await make(objects["MODEL"], SyncState.CONFLICT, conflicts=[("name", "a", "b")])
    waiting = await make(
        objects["MODEL_VERSION"], SyncState.PENDING, due_in=3600, error="Later.", attempts=2
    )
    given = [waiting, failed, conflict, failed]

    result = await mirrored.retry(ids=given)

    items = result["items"]
    assert [item["id"] for item in items] == given
    assert [item["mlflow"]["state"] for item in items] == [
        "PENDING", "PENDING", "CONFLICT", "PENDING",
    ]  # fmt: skip
    assert items[2]["mlflow"]["conflicts"][0]["field"] == "name"
    assert {(item["attempts"], item["mlflow"]["error"]) for item in items} == {(0, None)}
    assert all(recent(item["nextAttemptAt"]) for item in items)
    assert await mirrored.listed(states=["FAILED"]) == [other]


async def test_a_retry_is_not_lost_on_whoever_is_at_it(
    mirrored: Mirrored, objects: dict[str, str]
) -> None:
    item = await mirrored.mirror.wanted(objects["RUN"])
    task = await mirrored.mirror.take(item)

    await mirrored.retry(ids=[item])
    await mirrored.mirror.put_back(task, state=SyncState.FAILED, error="No.", attempts=10)

    await mirrored.mirror.take(item)


async def test_retrying_is_in_the_audit_log(mirrored: Mirrored, objects: dict[str, str]) -> None:
    item = await mirrored.mirror.item(
        objects["RUN"], SyncState.FAILED, mlflow_id="r", error="No.", attempts=10
    )
    await mirrored.retry(ids=[item], idempotencyKey="again")

    [entry] = await entries(mirrored.graph, 1, subject=item)

    assert entry["action"] == "mlflow_item.retried"
    assert (entry["actor"], entry["idempotencyKey"]) == ("tester", "again")
    assert entry["subject"] == {"__typename": "MlflowItem", "id": item}
    assert entry["before"] == {"state": "FAILED", "attempts": 10, "error": "No."}
    assert entry["after"] == {
        "state": "PENDING", "attempts": 0, "error": None, "kind": "RUN",
        "object_id": str(ids.split(objects["RUN"])[1]), "mlflow_id": "r",
    }  # fmt: skip


async def test_retrying_everything_is_one_entry_and_none_if_there_is_nothing(
    mirrored: Mirrored, objects: dict[str, str]
) -> None:
    server = ids.encode("MlflowServer", mirrored.mirror.server_id)
    for kind in ("RUN", "MODEL"):
        await mirrored.mirror.item(objects[kind], SyncState.FAILED)

    for _ in range(2):
        await mirrored.retry()

    [entry] = await entries(mirrored.graph, 1, subject=server)
    assert (entry["action"], entry["subject"]) == ("mlflow_server.retried", None)
    assert entry["after"] == {"uri": mirrored.mirror.uri, "items": 2}


async def test_a_retry_that_is_refused_changes_nothing(
    live: Live, mirrored: Mirrored, objects: dict[str, str], unique: str
) -> None:
    item = await mirrored.mirror.item(objects["RUN"], SyncState.FAILED)
    other = await a_mirror(live.database, f"http://{unique}.elsewhere.invalid")
    elsewhere = await other.item(objects["RUN"], SyncState.FAILED)
    before = await contents(live.database)

    for unknown in (elsewhere, global_id("MlflowItem")):
        assert await mirrored.retry(ids=[item, unknown]) == {
            "__typename": "NotFound",
            "code": "NOT_FOUND",
            "message": "There is no item of the MLflow server with this id.",
            "path": ["ids"],
        }
    for ids_, path in (([], ["ids"]), ([item] * 101, ["ids"]), ([item, "?"], ["ids", "1"])):
        result = await mirrored.retry(ids=ids_)
        assert (result["__typename"], result["path"]) == ("InvalidInput", path)
    assert await contents(live.database) == before


# Resolving.


async def test_what_is_resolved_is_what_the_next_comparison_does(
    mirrored: Mirrored, objects: dict[str, str]
) -> None:
    ours = {"description": "ours", "tag:team": "a", "tag:gone": "x"}
    theirs = {"description": "theirs", "tag:team": "b", "tag:new": "y"}
    conflicts = [(name, ours.get(name), theirs.get(name)) for name in sorted({*ours, *theirs})]
    expected: dict[Resolution, tuple[Json, Json]] = {
        KEEP: ({**dict.fromkeys(theirs), **ours}, {}),
        TAKE: ({}, {**dict.fromkeys(ours), **theirs}),
        LEAVE: ({}, {}),
    }
    for kind, resolution in zip(("EXPERIMENT", "RUN", "MODEL"), Resolution, strict=True):
        item = await mirrored.mirror.item(
            objects[kind], SyncState.CONFLICT, mlflow_id=kind, conflicts=conflicts
        )

        result = await mirrored.resolve(item, resolution)

        assert result["__typename"] == "ResolveMlflowConflictSuccess"
        shown = result["mlflowItem"]
        assert shown["mlflow"]["state"] == "PENDING"
        assert (shown["mlflow"]["conflicts"], shown["mlflow"]["id"]) == ([], kind)
        assert recent(shown["nextAttemptAt"])
        merged = merge(agreed(await mirrored.mirror.row(item)), ours, theirs, lambda _: EITHER)
        assert (merged.push, merged.pull) == expected[resolution]
        assert merged.conflicts == []


async def test_one_field_may_be_resolved_and_the_others_later(
    mirrored: Mirrored, objects: dict[str, str]
) -> None:
    item = await mirrored.mirror.item(
        objects["RUN"],
        SyncState.CONFLICT,
        base={"name": ["same", "same"]},
        conflicts=[("description", "a", "b"), ("tag:x", "1", "2"), ("tag:y", "3", "4")],
    )

    first = await mirrored.resolve(item, KEEP, fields=["tag:x", "description"])
    second = await mirrored.resolve(item, TAKE)

    assert first["mlflowItem"]["mlflow"]["state"] == "CONFLICT"
    assert [each["field"] for each in first["mlflowItem"]["mlflow"]["conflicts"]] == ["tag:y"]
    assert recent(first["mlflowItem"]["nextAttemptAt"])
    assert second["mlflowItem"]["mlflow"]["state"] == "PENDING"
    merged = merge(
        agreed(await mirrored.mirror.row(item)),
        {"name": "same", "description": "a", "tag:x": "1", "tag:y": "3"},
        {"name": "same", "description": "b", "tag:x": "2", "tag:y": "4"},
        lambda _: EITHER,
    )
    assert (merged.push, merged.pull) == ({"description": "a", "tag:x": "1"}, {"tag:y": "4"})


async def test_what_has_changed_again_meanwhile_is_in_conflict_once_more(
    mirrored: Mirrored, objects: dict[str, str]
) -> None:
    item = await mirrored.mirror.item(
        objects["RUN"], SyncState.CONFLICT, conflicts=[("description", "a", "b")]
    )
    await mirrored.resolve(item, KEEP)

    base = agreed(await mirrored.mirror.row(item))
    merged = merge(base, {"description": "a"}, {"description": "c"}, lambda _: EITHER)

    assert merged.conflicts == [Conflict("description", "a", "c")]
    assert (merged.push, merged.pull) == ({}, {})


@pytest.mark.parametrize(
    ("conflict", "refused", "message"),
    [
        (
            ("stage", "STAGING", "PRODUCTION", "Only changed here.", WATCHED),
            [KEEP, TAKE],
            "stage is decided here only: LEAVE. Stages change by setStage alone.",
        ),
        (
            ("alias:production", None, "1", "Only changed here.", OURS),
            [TAKE],
            "alias:production is decided here only: KEEP_OURS or LEAVE. Stages change by setStage "
            "alone.",
        ),
        (
            ("name", "a", "b", "Only changed here.", OURS),
            [TAKE],
            "name is decided here only: KEEP_OURS or LEAVE.",
        ),
        (
            ("param:lr", "0.1", "0.2", None, ONCE),
            [KEEP, TAKE],
            "param:lr is set once and never changed: LEAVE it.",
        ),
        (
            ("", "here", None, "It is deleted there."),
            [TAKE],
            "What is here stays: KEEP_OURS makes it there anew, LEAVE lets it be.",
        ),
    ],
)
async def test_what_cannot_be_resolved_so_is_refused_and_nothing_changes(
    live: Live,
    mirrored: Mirrored,
    objects: dict[str, str],
    conflict: tuple[Any, ...],
    refused: list[Resolution],
    message: str,
) -> None:
    item = await mirrored.mirror.item(
        objects["MODEL_VERSION"],
        SyncState.CONFLICT,
        conflicts=[("description", "a", "b"), conflict],
    )
    before = await contents(live.database)

    for resolution in refused:
        assert await mirrored.resolve(item, resolution) == {
            "__typename": "Conflict",
            "code": "CONFLICT",
            "message": message,
            "path": ["resolution"],
        }
    assert await contents(live.database) == before
    result = await mirrored.resolve(item, LEAVE)
    assert result["mlflowItem"]["mlflow"]["conflicts"] == []


async def test_what_is_not_in_conflict_cannot_be_resolved(
    live: Live, mirrored: Mirrored, objects: dict[str, str]
) -> None:
    calm = await mirrored.mirror.item(objects["RUN"])
    item = await mirrored.mirror.item(
        objects["MODEL"], SyncState.CONFLICT, conflicts=[("description", "a", "b")]
    )
    before = await contents(live.database)

    nothing = await mirrored.resolve(calm, LEAVE)
    other = await mirrored.resolve(item, LEAVE, fields=["description", "tag:x"])
    unknown = await mirrored.resolve(global_id("MlflowItem"), LEAVE)

    assert nothing == {
        "__typename": "Conflict",
        "code": "CONFLICT",
        "message": "Nothing of it is in conflict.",
        "path": ["id"],
    }
    assert other == {
        "__typename": "Conflict",
        "code": "CONFLICT",
        "message": "tag:x is not in conflict.",
        "path": ["fields", "1"],
    }
    assert unknown == {
        "__typename": "NotFound",
        "code": "NOT_FOUND",
        "message": "There is no MLflow item with this id.",
        "path": ["id"],
    }
    assert await contents(live.database) == before


async def test_what_is_deleted_there_is_made_anew_as_if_it_had_never_been(
    mirrored: Mirrored, objects: dict[str, str]
) -> None:
    item = await mirrored.mirror.item(
        objects["RUN"],
        SyncState.CONFLICT,
        mlflow_id="r",
        url="http://mlflow/r",
        seen="digest",
        position=7,
        base={"name": ["n", "n"]},
        points_seen={"loss": [1, 2, "0.5"]},
        conflicts=[("", "here", None, "It is deleted there."), ("name", "a", "b")],
    )

    result = await mirrored.resolve(item, KEEP)

    link = result["mlflowItem"]["mlflow"]
    assert (link["id"], link["url"], link["state"], link["conflicts"]) == (
        None,
        None,
        "PENDING",
        [],
    )
    task = await mirrored.mirror.take(item)
    assert (task.object_id, task.mlflow_id) == (ids.split(objects["RUN"])[1], None)
    assert (task.base, task.points_seen, task.position) == ({}, {}, -1)
    assert (await mirrored.mirror.row(item)).seen is None


async def test_what_is_deleted_there_may_be_left_so(
    mirrored: Mirrored, objects: dict[str, str]
) -> None:
    item = await mirrored.mirror.item(
        objects["RUN"],
        SyncState.CONFLICT,
        mlflow_id="r",
        conflicts=[("", "here", None, "It is deleted there.")],
    )

    result = await mirrored.resolve(item, LEAVE)

    assert (result["mlflowItem"]["mlflow"]["id"], result["mlflowItem"]["mlflow"]["state"]) == (
        "r",
        "PENDING",
    )
    # By this the next look knows that somebody has said so.
    assert (await mirrored.mirror.row(item)).base == {"": ["here", None]}


async def test_who_is_at_it_does_not_put_back_what_was_resolved_meanwhile(
    mirrored: Mirrored, objects: dict[str, str]
) -> None:
    conflicts = [("description", "a", "b")]
    item = await mirrored.mirror.item(objects["RUN"], SyncState.CONFLICT, conflicts=conflicts)
    await mirrored.mirror.wanted(objects["RUN"])
    task = await mirrored.mirror.take(item)

    await mirrored.resolve(item, TAKE)
    await mirrored.mirror.put_back(task, state=SyncState.CONFLICT, conflicts=conflicts, base={})

    assert (await mirrored.link(objects["RUN"]))["state"] == "PENDING"
    next_ = await mirrored.mirror.take(item)
    assert merge(next_.base, {"description": "a"}, {"description": "b"}, lambda _: EITHER).pull == {
        "description": "b"
    }


async def test_resolving_is_in_the_audit_log(mirrored: Mirrored, objects: dict[str, str]) -> None:
    conflicts = [("description", "a", "b"), ("tag:x", "1", None)]
    item = await mirrored.mirror.item(
        objects["RUN"], SyncState.CONFLICT, mlflow_id="r", conflicts=conflicts
    )
    await mirrored.resolve(item, TAKE, fields=["description"])

    [entry] = await entries(mirrored.graph, 1, subject=item)

    kept = [Conflict(*each)._asdict() for each in conflicts]
    assert entry["action"] == "mlflow_item.conflict_resolved"
    assert entry["subject"] == {"__typename": "MlflowItem", "id": item}
    assert entry["before"] == {"state": "CONFLICT", "conflicts": kept}
    assert entry["after"] == {
        "state": "CONFLICT", "conflicts": kept[1:], "resolution": "TAKE_THEIRS", "kind": "RUN",
        "object_id": str(ids.split(objects["RUN"])[1]), "mlflow_id": "r",
    }  # fmt: skip


async def test_a_conflict_that_was_recorded_without_a_rule_may_be_resolved_either_way(
    mirrored: Mirrored, objects: dict[str, str]
) -> None:
    item = await mirrored.mirror.wanted(objects["RUN"])
    task = await mirrored.mirror.take(item)
    kept = {"field": "name", "ours": "a", "theirs": "b", "reason": None}

    async def put_back(session: Any) -> None:
        await repository.put_back(session, task, None, state=SyncState.CONFLICT, conflicts=[kept])

    await mirrored.mirror.database.write(put_back)

    [conflict] = (await mirrored.link(objects["RUN"]))["conflicts"]
    assert conflict["resolutions"] == ["KEEP_OURS", "TAKE_THEIRS", "LEAVE"]
