"""What is executed once for many subscribers: who is answered the same, who is not, and that nobody
waits for another."""

from collections.abc import Callable

import asyncpg
import pytest

from lifecycle.journal import feed as feed_module
from schema.subscriptions import Answer, Asked
from tests.client import Graph, Json, Socket, socket
from tests.conftest import Live
from tests.factories import a_deployment, a_run, a_version
from tests.following import RUN, said, until, write_line

STATUS = """
subscription ($id: ID!, $after: String, $first: Int, $named: Boolean = false) {
  deploymentStatus(deploymentId: $id, after: $after) {
    __typename
    ... on CaughtUp { cursor }
    ... on DeploymentStatusEvent {
      health
      deployment {
        environment @include(if: $named)
        modelVersion { stageHistory { stage } model { versions(first: $first) { totalCount } } }
      }
    }
  }
}"""


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[Json]:
    """The variables with which items have been executed since."""
    found: list[Json] = []
    execute = Asked.execute

    async def noted(asked: Asked, item: object, whose: Callable[[], str]) -> Answer:
        found.append(asked.variables)
        return await execute(asked, item, whose)

    monkeypatch.setattr(Asked, "execute", noted)
    return found


async def follow(opened: Socket, query: str, **variables: object) -> tuple[str, Json]:
    """A new subscription's id, and its last item before it waits for what happens."""
    id = await opened.start(query, variables)
    while True:
        message = await opened.receive()
        [item] = message["payload"]["data"].values()
        if item["__typename"] == "CaughtUp":
            return id, item


async def feel(graph: Graph, deployment: str, health: str) -> None:
    """Change a deployment's health, which is one event."""
    await graph.done("updateDeployment", {"id": deployment, "health": health}, "deployment { id }")


def shown(health: str, **deployment: object) -> Json:
    """The answer to a change of health."""
    version = {
        "stageHistory": [{"stage": "EXPERIMENTAL"}],
        "model": {"versions": {"totalCount": 1}},
    }
    return {
        "data": {
            "deploymentStatus": {
                "__typename": "DeploymentStatusEvent",
                "health": health,
                "deployment": {**deployment, "modelVersion": version},
            }
        }
    }


async def test_an_event_is_executed_once_for_all_who_ask_for_the_same(
    live: Live, graph: Graph, unique: str, executed: list[Json]
) -> None:
    deployment = await a_deployment(graph, await a_version(graph, unique), status="ACTIVE")
    async with socket(live.url, actor="ada") as one, socket(live.url, actor="grace") as other:
        first, caught_up = await follow(one, STATUS, id=deployment)
        # Where it resumed does not matter for what it is shown of what comes next.
        second, _ = await follow(one, STATUS, id=deployment, after=caught_up["cursor"])
        strange = 'an "id"\n with \\ and 💥'
        payload = {"query": STATUS, "variables": {"id": deployment, "unknown": 1}}
        await other.send({"type": "subscribe", "id": strange, "payload": payload})
        assert [(await other.receive())["id"] for _ in range(2)] == [strange] * 2
        executed.clear()

        await feel(graph, deployment, "DEGRADED")

        received = [await one.receive(), await one.receive(), await other.receive()]
        assert {message["id"] for message in received} == {first, second, strange}
        for message in received:
            assert message == {
                "type": "next",
                "id": message["id"],
                "payload": shown("DEGRADED"),
            }
        assert len(executed) == 1

        await feel(graph, deployment, "HEALTHY")

        received = [await one.receive(), await one.receive(), await other.receive()]
        assert [message["payload"] for message in received] == [shown("HEALTHY")] * 3
        assert len(executed) == 2


async def test_whoever_asks_for_something_else_is_answered_that(
    live: Live, graph: Graph, unique: str
) -> None:
    deployment = await a_deployment(graph, await a_version(graph, unique), status="ACTIVE")
    async with socket(live.url) as opened:
        alias = STATUS.replace("health", "how: health")
        plain, _ = await follow(opened, STATUS, id=deployment)
        named, _ = await follow(opened, STATUS, id=deployment, named=True)
        other, _ = await follow(opened, alias, id=deployment)

        await feel(graph, deployment, "DEGRADED")

        received = [await opened.receive() for _ in range(3)]
    answers = {message["id"]: message["payload"] for message in received}
    aliased = shown("DEGRADED")
    aliased["data"]["deploymentStatus"]["how"] = aliased["data"]["deploymentStatus"].pop("health")
    assert answers == {
        plain: shown("DEGRADED"),
        named: shown("DEGRADED", environment="DEVELOPMENT"),
        other: aliased,
    }


async def test_an_error_is_for_those_whose_selection_has_it(
    live: Live, graph: Graph, unique: str
) -> None:
    deployment = await a_deployment(graph, await a_version(graph, unique), status="ACTIVE")
    async with socket(live.url) as opened:
        good, _ = await follow(opened, STATUS, id=deployment, first=1)
        # What is present is answered with the error too, and so is what happens.
        for bad in ("one", "another"):
            payload = {"query": STATUS, "variables": {"id": deployment, "first": 0}}
            await opened.send({"type": "subscribe", "id": bad, "payload": payload})
            assert "errors" in (await opened.receive())["payload"]
            assert (await opened.receive())["payload"]["data"] is not None

        await feel(graph, deployment, "DEGRADED")

        received = [await opened.receive() for _ in range(3)]
        await feel(graph, deployment, "HEALTHY")
        goes_on = [await opened.receive() for _ in range(3)]
    answers = {message["id"]: message["payload"] for message in received}
    assert answers.keys() == {good, "one", "another"}
    assert answers[good] == shown("DEGRADED")
    assert answers["one"] == answers["another"]
    assert answers["one"]["data"] is None
    [error] = answers["one"]["errors"]
    assert error["path"] == [
        *("deploymentStatus", "deployment", "modelVersion", "model", "versions")
    ]
    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["first"]}
    assert {message["id"] for message in goes_on} == {good, "one", "another"}


async def test_whoever_leaves_while_an_event_is_executed_for_all_does_not_take_it_from_the_others(
    live: Live, graph: Graph, unique: str, sql: asyncpg.Connection, executed: list[Json]
) -> None:
    deployment = await a_deployment(graph, await a_version(graph, unique), status="ACTIVE")
    # Given that what has happened so far has its place: no cursor that comes now is before it
    last = await sql.fetchval(
        "SELECT max(position) + count(*) FILTER (WHERE position IS NULL) FROM event"
    )
    await until(lambda: live.feed.head >= last)
    async with socket(live.url) as opened:
        first, caught_up = await follow(opened, STATUS, id=deployment)
        cursor = caught_up["cursor"]
        second, _ = await follow(opened, STATUS, id=deployment, after=cursor)
        executed.clear()

        async with sql.transaction():
            await sql.execute("LOCK TABLE stage_assignment IN ACCESS EXCLUSIVE MODE")
            await feel(graph, deployment, "DEGRADED")
            await until(lambda: executed)
            leaves, stays = (second, first) if "after" in executed[0] else (first, second)
            await opened.send({"type": "complete", "id": leaves})
            await until(lambda: live.feed.subscribers == 1)

        message = await opened.receive()
    assert message == {"type": "next", "id": stays, "payload": shown("DEGRADED")}
    assert len(executed) == 1


async def test_a_client_that_does_not_read_holds_up_nobody_and_gets_everything_in_the_end(
    live: Live, graph: Graph, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "_MAILBOX", 5)
    run = await a_run(graph, unique)
    # A long alias, and long lines, fill the socket's buffers soon.
    name = "a" * 8_000
    query = RUN.replace("runProgress(", f"{name}: runProgress(")
    async with socket(live.url) as slow, socket(live.url) as quick:
        await follow(slow, query, id=run)
        await until(lambda: live.feed.subscribers == 1)
        [blocked] = live.feed._all()
        slow.connection.transport.pause_reading()
        await follow(quick, query, id=run)

        # Each is read by one before the next happens, whatever the other does.
        written: list[str] = []
        while not blocked.missed:
            # It is cut off if its buffers are not full before it has missed its pings.
            assert blocked in set(live.feed._all())
            written.append(f"line {len(written)} {'x' * 15_000}")
            await write_line(graph, run, written[-1])
            message = await quick.receive()
            assert said([message["payload"]["data"][name]]) == written[-1:]
        slow.connection.transport.resume_reading()

        received = [await slow.receive() for _ in written]
    assert said([message["payload"]["data"][name] for message in received]) == written
