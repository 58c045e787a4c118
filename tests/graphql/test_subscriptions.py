"""Subscriptions over graphql-transport-ws and SSE: what is sent, in which order, and how a client
goes on after a break."""

import asyncio
import json
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import aclosing, suppress
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from structlog.testing import capture_logs
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_socket
from websockets.exceptions import ConnectionClosed

from lifecycle.database import connections
from schema.view import View
from tests.client import PATIENCE, Graph, Json, Socket, socket
from tests.conftest import Live, serving
from tests.factories import VERSION, a_deployment, a_run, a_version, a_version_in
from tests.following import (
    DEPLOYMENTS,
    RUN,
    TRANSPORTS,
    connect,
    items,
    place,
    present,
    said,
    take,
    until,
    write_line,
)

both_transports = pytest.mark.parametrize("transport", TRANSPORTS)


async def report(graph: Graph, deployment: str, **input: object) -> None:
    """Change a deployment."""
    await graph.done("updateDeployment", {"id": deployment, **input}, "deployment { id }")


def changed(item: Json) -> tuple[object, ...]:
    """A change of a deployment without what differs from run to run."""
    assert item["__typename"] == "DeploymentStatusEvent", item
    return item["from"], item["to"], item["health"], item["message"], item["actor"]


def who(items: list[Json]) -> list[str]:
    """Which deployments these items are about."""
    return [item["deployment"]["id"] for item in items if "deployment" in item]


async def error_of(transport: str, live: Live, query: str, **variables: object) -> Json:
    """The error with which a subscription is refused, before or instead of its first item."""
    if transport == "sse":
        async with Graph(live.url) as graph, aclosing(graph.stream(query, variables)) as stream:  # type: ignore[type-var]
            payloads = [payload async for payload in stream]
        errors = payloads[0]["errors"]
        assert len(payloads) == 1
    else:
        async with socket(live.url) as opened:
            id = await opened.start(query, variables)
            message = await opened.receive()
            if message["type"] == "next":
                errors = message["payload"]["errors"]
                assert await opened.receive() == {"type": "complete", "id": id}
            else:
                errors = message["payload"]
    assert len(errors) == 1, errors
    found: Json = errors[0]
    return found


# Deployments


@both_transports
async def test_a_deployment_is_shown_as_it_is_and_then_as_it_changes(
    live: Live, graph: Graph, unique: str, transport: str
) -> None:
    deployment = await a_deployment(graph, await a_version(graph, unique), status="VALIDATING")

    async with aclosing(items(transport, live.url, DEPLOYMENTS, id=deployment)) as stream:  # type: ignore[type-var]
        start = await present(stream)
        await report(graph, deployment, status="DEPLOYING", statusMessage="pulling the image")
        await report(graph, deployment, status="ACTIVE", health="HEALTHY")
        await report(graph, deployment, health="DEGRADED", statusMessage="slow")
        after = await take(stream, 3)

    assert [item["__typename"] for item in start] == ["DeploymentStatusEvent", "CaughtUp"]
    # The present state came from nowhere: it is no event.
    assert changed(start[0]) == (None, "VALIDATING", "UNKNOWN", None, "tester")
    assert [changed(item) for item in after] == [
        ("VALIDATING", "DEPLOYING", "UNKNOWN", "pulling the image", "tester"),
        ("DEPLOYING", "ACTIVE", "HEALTHY", None, "tester"),
        ("ACTIVE", "ACTIVE", "DEGRADED", "slow", "tester"),
    ]
    assert who([start[0], *after]) == [deployment] * 4


async def test_what_the_present_state_shows_does_not_come_again_as_an_event(
    live: Live, graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    async with socket(live.url) as opened:
        for _ in range(15):
            deployment = await a_deployment(graph, version)
            id = await opened.start(DEPLOYMENTS, {"id": deployment})
            received = [await opened.receive() for _ in range(2)]
            await report(graph, deployment, status="VALIDATING")
            received.append(await opened.receive())
            await opened.send({"type": "complete", "id": id})

            sent = [message["payload"]["data"]["deploymentStatus"] for message in received]
            assert [item.get("to", item["__typename"]) for item in sent] == [
                "PENDING",
                "CaughtUp",
                "VALIDATING",
            ]


async def test_filters_choose_the_present_deployments_and_the_changes(
    live: Live, graph: Graph, unique: str
) -> None:
    version = await a_version_in(graph, unique, "STAGING")
    development = await a_deployment(graph, version)
    staging = await a_deployment(graph, version, "STAGING")
    elsewhere = await a_deployment(graph, await a_version(graph, f"{unique}-other"))
    filters: dict[str, Json] = {
        "one": {"id": staging},
        "one, of its model": {"id": staging, "model": unique, "environment": "STAGING"},
        "one, not in this environment": {"id": staging, "environment": "DEVELOPMENT"},
        "one, not of this model": {"id": staging, "model": f"{unique}-other"},
        "model": {"model": unique},
        "model and environment": {"model": unique, "environment": "DEVELOPMENT"},
        "no such model": {"model": f"{unique}-none"},
    }
    async with socket(live.url) as opened:
        names = {await opened.start(DEPLOYMENTS, filters[name]): name for name in filters}
        everything = await opened.start(DEPLOYMENTS)
        environment = await opened.start(DEPLOYMENTS, {"environment": "STAGING"})
        names |= {everything: "everything", environment: "environment"}
        shown: dict[str, list[str]] = {name: [] for name in names.values()}
        pending = set(names)
        while pending:
            message = await opened.receive()
            item = message["payload"]["data"]["deploymentStatus"]
            shown[names[message["id"]]] += who([item])
            if item["__typename"] == "CaughtUp":
                pending.remove(message["id"])

        for deployment in (development, staging, elsewhere):
            await report(graph, deployment, status="VALIDATING")
        followed: dict[str, list[str]] = {name: [] for name in names.values()}
        async with asyncio.timeout(PATIENCE):
            while sum(map(len, followed.values())) < 9:
                message = await opened.receive()
                item = message["payload"]["data"]["deploymentStatus"]
                followed[names[message["id"]]] += who([item])

    expected = {
        "one": [staging],
        "one, of its model": [staging],
        "one, not in this environment": [],
        "one, not of this model": [],
        "model": [development, staging],
        "model and environment": [development],
        "no such model": [],
    }
    assert {name: shown[name] for name in expected} == expected
    assert followed == {
        **expected,
        "everything": [development, staging, elsewhere],
        "environment": [staging],
    }
    mine = [each for each in shown["everything"] if each in (development, staging, elsewhere)]
    assert mine == [development, staging, elsewhere]
    assert staging in shown["environment"]


async def test_terminated_deployments_are_shown_only_when_they_are_named(
    live: Live, graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    ended = await a_deployment(graph, version, status="TERMINATED")
    failed = await a_deployment(graph, version, status="FAILED")

    async with aclosing(items("socket", live.url, DEPLOYMENTS, model=unique)) as stream:  # type: ignore[type-var]
        of_model = await present(stream)
    async with aclosing(items("socket", live.url, DEPLOYMENTS, id=ended)) as stream:  # type: ignore[type-var]
        named = await present(stream)

    assert who(of_model) == [failed]
    assert [changed(item) for item in named[:-1]] == [
        (None, "TERMINATED", "UNKNOWN", None, "tester")
    ]


async def test_more_deployments_than_a_page_are_shown_oldest_first(
    live: Live, graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    many = " ".join(
        f"d{n}: createDeployment(input: $input) {{ "
        "... on CreateDeploymentSuccess { deployment { id } } }"
        for n in range(103)
    )
    input = {"modelVersion": {"id": version["id"]}, "environment": "DEVELOPMENT"}
    answers = await graph.query(
        f"mutation ($input: CreateDeploymentInput!) {{ {many} }}", {"input": input}
    )
    made = [made["deployment"]["id"] for made in answers.values()]

    async with aclosing(items("socket", live.url, DEPLOYMENTS, model=unique)) as stream:  # type: ignore[type-var]
        start = await present(stream)

    assert who(start) == made


# Resuming


@both_transports
async def test_each_cursor_resumes_exactly_after_its_item(
    live: Live, graph: Graph, unique: str, transport: str
) -> None:
    version = await a_version(graph, unique)
    async with aclosing(items("socket", live.url, DEPLOYMENTS, model=unique)) as stream:  # type: ignore[type-var]
        start = await present(stream)
        deployment = await a_deployment(graph, version, status="ACTIVE")
        await report(graph, deployment, health="HEALTHY")
        await report(graph, deployment, status="FAILED", statusMessage="out of memory")
        happened = await take(stream, 6)
    assert [changed(item)[:2] for item in happened] == [
        (None, "PENDING"),
        ("PENDING", "VALIDATING"),
        ("VALIDATING", "DEPLOYING"),
        ("DEPLOYING", "ACTIVE"),
        ("ACTIVE", "ACTIVE"),
        ("ACTIVE", "FAILED"),
    ]
    assert len({item["cursor"] for item in [*start, *happened]}) == 7

    for n, item in enumerate([*start, *happened]):
        again = items(transport, live.url, DEPLOYMENTS, model=unique, after=item["cursor"])
        async with aclosing(again) as stream:  # type: ignore[type-var]
            replayed = await present(stream)
        assert replayed[:-1] == happened[n:]
        assert replayed[-1]["__typename"] == "CaughtUp"


@both_transports
async def test_whoever_is_cut_off_amid_the_present_state_gets_all_of_it_again(
    live: Live, graph: Graph, unique: str, transport: str
) -> None:
    version = await a_version(graph, unique)
    made = [await a_deployment(graph, version) for _ in range(3)]
    async with aclosing(items(transport, live.url, DEPLOYMENTS, model=unique)) as stream:  # type: ignore[type-var]
        first = (await take(stream, 1))[0]

    again = items(transport, live.url, DEPLOYMENTS, model=unique, after=first["cursor"])
    async with aclosing(again) as stream:  # type: ignore[type-var]
        assert who(await present(stream)) == made


@both_transports
async def test_after_the_replay_comes_what_happens(
    live: Live, graph: Graph, unique: str, transport: str
) -> None:
    run = await a_run(graph, unique)
    async with aclosing(items("socket", live.url, RUN, id=run)) as stream:  # type: ignore[type-var]
        cursor = (await present(stream))[-1]["cursor"]
        await write_line(graph, run, "one")
        await write_line(graph, run, "two")
        await take(stream, 2)

    async with aclosing(items(transport, live.url, RUN, id=run, after=cursor)) as stream:  # type: ignore[type-var]
        replayed = await present(stream)
        await write_line(graph, run, "three")
        after = await take(stream, 1)

    assert said(replayed) == ["one", "two"]
    assert said(after) == ["three"]


@both_transports
@pytest.mark.parametrize(
    "cursor",
    ["", " ", "1", "journal:1", "é", "💥", "a" * 9_000]
    + [
        urlsafe_b64encode(text.encode()).decode()
        for text in ("journal:", "journal:-1", "journal:1.5", "journal:x", "journal:٣", "1", "\x00")
    ]
    + [urlsafe_b64encode(b"journal:" + b"9" * 19).decode(), urlsafe_b64encode(b"\xff").decode()],
)
async def test_a_malformed_cursor_is_refused(
    live: Live, graph: Graph, unique: str, transport: str, cursor: str
) -> None:
    error = await error_of(transport, live, DEPLOYMENTS, after=cursor)

    assert error["message"] == "This is not a cursor of a subscription."
    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["after"]}


@both_transports
async def test_a_cursor_ahead_of_the_journal_has_expired(
    live: Live, graph: Graph, unique: str, transport: str
) -> None:
    run = await a_run(graph, unique)

    for query in (DEPLOYMENTS, RUN):
        cursor = live.feed.cursor(10**17)
        stream = items(transport, live.url, query, id=run, after=cursor)
        if query is DEPLOYMENTS:
            stream = items(transport, live.url, query, after=cursor)
        sent = [item async for item in stream]

        assert sent == [{"__typename": "CursorExpired", "oldest": live.feed.cursor(0)}]


@both_transports
async def test_a_cursor_of_another_journal_has_expired(
    live: Live, graph: Graph, unique: str, transport: str
) -> None:
    for place_in_it in ("1", "start"):
        foreign = urlsafe_b64encode(f"0123456789ab:{place_in_it}".encode()).decode()
        sent = [item async for item in items(transport, live.url, DEPLOYMENTS, after=foreign)]

        assert sent == [{"__typename": "CursorExpired", "oldest": None}]


async def test_a_cursor_older_than_what_is_kept_has_expired(
    own_database_url: str, unique: str
) -> None:
    async with serving(own_database_url) as live, Graph(live.url) as graph:
        run = await a_run(graph, unique)
        async with aclosing(items("socket", live.url, RUN, id=run)) as stream:  # type: ignore[type-var]
            await present(stream)
            for n in range(4):
                await write_line(graph, run, str(n))
            happened = await take(stream, 4)
        oldest = place(happened[1]["cursor"])
        direct = await connect(own_database_url)
        async with direct.transaction():
            await direct.execute("UPDATE journal_head SET trimmed_through = $1", oldest)
            await direct.execute("DELETE FROM event WHERE position <= $1", oldest)
        await direct.close()

        for transport in TRANSPORTS:
            for gone in (live.feed.cursor(0), happened[0]["cursor"]):
                stream = items(transport, live.url, RUN, id=run, after=gone)
                expired = [item async for item in stream]
                assert expired == [
                    {"__typename": "CursorExpired", "oldest": live.feed.cursor(oldest)}
                ]
            stream = items(transport, live.url, RUN, id=run, after=expired[0]["oldest"])
            async with aclosing(stream):  # type: ignore[type-var]
                assert said(await present(stream)) == ["2", "3"]


@both_transports
async def test_who_resumes_is_given_however_much_has_happened(
    live: Live, graph: Graph, unique: str, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    # given
    start = live.feed.cursor(live.feed.head)
    version = await a_version(graph, unique)
    ids = [await a_deployment(graph, version, status="ACTIVE") for _ in range(5)]

    # when no operation may read as much as one of them has
    monkeypatch.setattr(connections, "MAX_READ", 300)
    async with aclosing(
        items(transport, live.url, DEPLOYMENTS, after=start, model=unique)
    ) as resumed:  # type: ignore[type-var]
        happened = await present(resumed)
    async with aclosing(items(transport, live.url, DEPLOYMENTS, model=unique)) as begun:  # type: ignore[type-var]
        there = await present(begun)

    # then
    assert len(happened) > len(ids)
    assert len(there) == len(ids) + 1


@both_transports
async def test_silence_is_broken_by_heartbeats_whose_cursors_resume(
    live: Live, graph: Graph, unique: str, transport: str
) -> None:
    run = await a_run(graph, unique)
    usual, live.feed.heartbeat = live.feed.heartbeat, 0.05
    try:
        async with aclosing(items(transport, live.url, RUN, id=run)) as stream:  # type: ignore[type-var]
            start = await present(stream)
            await a_run(graph, f"{unique}-other")
            await until(lambda: live.feed.head > place(start[-1]["cursor"]))
            beats = [await anext(stream) for _ in range(3)]
    finally:
        live.feed.heartbeat = usual
    assert [beat["__typename"] for beat in beats] == ["Heartbeat"] * 3
    # What others do moves it on, so that a resuming client need not go over it again.
    assert beats[-1]["cursor"] != start[-1]["cursor"]

    await write_line(graph, run, "after the silence")
    again = items(transport, live.url, RUN, id=run, after=beats[-1]["cursor"])
    async with aclosing(again) as stream:  # type: ignore[type-var]
        resumed = await take(stream, 2)
    assert said(resumed) == ["after the silence"]


# Runs


@both_transports
async def test_a_run_is_shown_as_it_is(
    live: Live, graph: Graph, unique: str, transport: str
) -> None:
    run = await a_run(
        graph,
        unique,
        metrics=[
            {"key": "loss", "value": 0.5, "step": 1},
            {"key": "loss", "value": 0.25, "step": 2},
            {"key": "bad", "kind": "NAN", "step": 2},
            {"key": "worse", "kind": "NEGATIVE_INFINITY", "step": 2**40},
        ],
    )
    lines = [{"message": f"line {n}"} for n in range(1, 121)]
    await graph.done("logRunOutput", {"runId": run, "lines": lines}, "run { id }")

    async with aclosing(items(transport, live.url, RUN, id=run)) as stream:  # type: ignore[type-var]
        start = await present(stream)

    cursor = live.feed.cursor(None)
    end = start.pop()
    assert end["__typename"] == "CaughtUp"
    assert start == [
        {
            "__typename": "RunStatusEvent",
            "cursor": cursor,
            "runId": run,
            "from": None,
            "to": "RUNNING",
        },
        {
            "__typename": "RunMetricsEvent",
            "cursor": cursor,
            "runId": run,
            "metrics": [
                {"key": "bad", "value": None, "kind": "NAN", "step": 2},
                {"key": "loss", "value": 0.25, "kind": "FINITE", "step": 2},
                {"key": "worse", "value": None, "kind": "NEGATIVE_INFINITY", "step": 2**40},
            ],
        },
        {
            "__typename": "RunOutputEvent",
            "cursor": cursor,
            "runId": run,
            "lines": [{"line": n, "level": "INFO", "message": f"line {n}"} for n in range(21, 121)],
        },
    ]


@both_transports
async def test_a_run_is_followed_through_its_reports(
    live: Live, graph: Graph, unique: str, transport: str
) -> None:
    run = await a_run(graph, unique, status="PENDING")
    async with aclosing(items(transport, live.url, RUN, id=run)) as stream:  # type: ignore[type-var]
        start = await present(stream)
        await graph.done("updateRun", {"id": run, "status": "RUNNING"}, "run { id }")
        series = [
            {"key": "loss", "steps": [2, 1], "values": [0.5, 0.75]},
            {"key": "f1", "steps": [1], "values": [None], "kinds": ["POSITIVE_INFINITY"]},
        ]
        await graph.done("logMetrics", {"runId": run, "series": series}, "run { id }")
        await write_line(graph, run, "epoch 1")
        await graph.done("updateRun", {"id": run, "status": "COMPLETED"}, "run { id }")
        after = await take(stream, 4)

    assert [item["__typename"] for item in start] == ["RunStatusEvent", "CaughtUp"]
    for item in after:
        assert place(item.pop("cursor")) > place(start[-1]["cursor"])
        assert item.pop("runId") == run
    assert after == [
        {"__typename": "RunStatusEvent", "from": "PENDING", "to": "RUNNING"},
        {
            "__typename": "RunMetricsEvent",
            "metrics": [
                {"key": "f1", "value": None, "kind": "POSITIVE_INFINITY", "step": 1},
                {"key": "loss", "value": 0.5, "kind": "FINITE", "step": 2},
            ],
        },
        {
            "__typename": "RunOutputEvent",
            "lines": [{"line": 1, "level": "INFO", "message": "epoch 1"}],
        },
        {"__typename": "RunStatusEvent", "from": "RUNNING", "to": "COMPLETED"},
    ]


@both_transports
async def test_what_does_not_exist_cannot_be_followed(
    live: Live, graph: Graph, unique: str, transport: str
) -> None:
    run = await a_run(graph, unique)
    nobody = urlsafe_b64encode(b"%s:" + b"0" * 32).decode()
    unknown_run = urlsafe_b64encode(b"Run:" + b"0" * 32).decode()
    unknown_deployment = urlsafe_b64encode(b"Deployment:" + b"0" * 32).decode()

    error = await error_of(transport, live, RUN, id=unknown_run)
    assert error["message"] == "There is no run with this id."
    assert error["extensions"] == {"code": "NOT_FOUND", "argument": ["runId"]}

    error = await error_of(transport, live, DEPLOYMENTS, id=unknown_deployment)
    assert error["message"] == "There is no deployment with this id."
    assert error["extensions"] == {"code": "NOT_FOUND", "argument": ["deploymentId"]}

    error = await error_of(transport, live, DEPLOYMENTS, id=run)
    assert error["message"] == "This is the id of a Run; that of a Deployment is needed."
    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["deploymentId"]}

    for id in (nobody, "", "💥", "nonsense"):
        error = await error_of(transport, live, RUN, id=id)
        assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["runId"]}
    assert live.feed.subscribers == 0


async def test_a_browser_can_follow_with_an_event_source(
    live: Live, graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)
    parameters = {"query": RUN, "variables": json.dumps({"id": run})}
    request = graph.http.stream(
        "GET", "/graphql", params=parameters, headers={"accept": "text/event-stream"}
    )
    async with request as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        lines = response.aiter_lines()
        first = [await anext(lines), await anext(lines), await anext(lines)]
    assert first[0] == "event: next"
    assert json.loads(first[1].removeprefix("data: "))["data"]["runProgress"]["to"] == "RUNNING"
    assert first[2] == ""
    await until(lambda: live.feed.subscribers == 0)


# Many operations on one websocket


async def test_one_socket_carries_many_subscriptions_and_ends_each_alone(
    live: Live, graph: Graph, unique: str
) -> None:
    first, second = await a_run(graph, unique), await a_run(graph, unique)

    async def next_line(opened: Socket) -> tuple[str, str]:
        message = await opened.receive()
        return message["id"], message["payload"]["data"]["runProgress"]["lines"][0]["message"]

    async with socket(live.url) as opened:
        a = await opened.start(RUN, {"id": first})
        twin = await opened.start(RUN, {"id": first})
        b = await opened.start(RUN, {"id": second})
        for _ in range(6):
            assert (await opened.receive())["type"] == "next"

        await write_line(graph, first, "both twins")
        assert {await next_line(opened), await next_line(opened)} == {
            (a, "both twins"),
            (twin, "both twins"),
        }
        await opened.send({"type": "complete", "id": a})
        await until(lambda: live.feed.subscribers == 2)
        await write_line(graph, first, "one twin")
        assert await next_line(opened) == (twin, "one twin")
        await write_line(graph, second, "the other run")
        assert await next_line(opened) == (b, "the other run")

        # An id is free again once its operation has ended.
        await opened.send(
            {"type": "subscribe", "id": a, "payload": {"query": RUN, "variables": {"id": second}}}
        )
        assert (await opened.receive())["id"] == a


async def test_unsubscribing_at_any_moment_ends_it(live: Live, graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique)
    stop = asyncio.Event()

    async def keep_writing() -> None:
        for n in count():
            if stop.is_set():
                return
            await write_line(graph, run, str(n))

    writer = asyncio.create_task(keep_writing())
    async with socket(live.url) as opened:
        query = "subscription ($id: ID!) { runProgress(runId: $id) { __typename } }"
        for n in range(12):
            id = await opened.start(query, {"id": run})
            seen = 0
            while seen < 2 + n % 3:
                seen += (await opened.receive())["id"] == id
            await opened.send({"type": "complete", "id": id})
        await until(lambda: live.feed.subscribers == 0)
        stop.set()
        await writer


async def test_the_101st_operation_on_a_socket_is_refused_and_the_others_go_on(
    live: Live, graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)
    query = "subscription ($id: ID!) { runProgress(runId: $id) { __typename } }"
    async with socket(live.url) as opened:
        for _ in range(100):
            last = await opened.start(query, {"id": run})
        for _ in range(200):
            assert (await opened.receive())["type"] == "next"

        refused = await opened.start("{ serverInfo { version } }")

        assert await opened.receive() == {
            "type": "error",
            "id": refused,
            "payload": [
                {
                    "message": "One websocket carries at most 100 operations at a time.",
                    "extensions": {
                        "code": "LIMIT_EXCEEDED",
                        "name": "websocketOperations",
                        "limit": 100,
                        "value": 101,
                    },
                }
            ],
        }
        await opened.send({"type": "complete", "id": last})
        await until(lambda: live.feed.subscribers == 99)
        await opened.start("{ serverInfo { version } }")
        assert (await opened.receive())["payload"]["data"]["serverInfo"]["version"]
    await until(lambda: live.feed.subscribers == 0)


async def answer(opened: Socket, query: str, variables: Json | None = None) -> Json:
    """The only result of a query or mutation over a websocket."""
    id = await opened.start(query, variables)
    result = await opened.receive()
    assert (result["type"], result["id"]) == ("next", id), result
    assert await opened.receive() == {"type": "complete", "id": id}
    found: Json = result["payload"]
    return found


async def test_queries_and_mutations_work_over_a_socket_each_with_a_context_of_its_own(
    live: Live, graph: Graph, unique: str, database_url: str
) -> None:
    query = "query ($name: String!) { experiment(name: $name) { description revision createdBy } }"
    mutation = """mutation ($input: UpdateExperimentInput!) {
        updateExperiment(input: $input) { __typename } }"""
    made = """mutation ($input: CreateExperimentInput!) {
        createExperiment(input: $input) { __typename } }"""
    async with socket(live.url, actor="grace") as opened:
        assert await answer(opened, query, {"name": unique}) == {"data": {"experiment": None}}
        await answer(opened, made, {"input": {"name": unique}})
        for n in range(1, 4):
            # The loaders of one operation would give the next one what was there before.
            assert await answer(opened, query, {"name": unique}) == {
                "data": {
                    "experiment": {
                        "description": None if n == 1 else str(n - 1),
                        "revision": n,
                        "createdBy": "grace",
                    }
                }
            }
            await answer(opened, mutation, {"input": {"name": unique, "description": str(n)}})

    direct = await connect(database_url)
    rows = await direct.fetch(
        "SELECT actor, request_id FROM event JOIN experiment ON subject_id = experiment.id "
        "WHERE name = $1",
        unique,
    )
    await direct.close()
    assert [row["actor"] for row in rows] == ["grace"] * 4
    assert len({row["request_id"] for row in rows}) == 4


@pytest.mark.parametrize("actor", ["Åsa Öberg", " padded ", "", None])
async def test_the_actor_of_a_socket_is_who_connection_init_says(
    live: Live, graph: Graph, unique: str, actor: str | None
) -> None:
    mutation = f"""mutation ($input: RegisterModelVersionInput!) {{
        registerModelVersion(input: $input) {{
          ... on RegisterModelVersionSuccess {{ modelVersion {{ createdBy }} {VERSION} }} }} }}"""
    async with socket(live.url, actor=actor) as opened:  # type: ignore[arg-type]
        made = await answer(opened, mutation, {"input": {"modelName": unique}})

    version = made["data"]["registerModelVersion"]["modelVersion"]
    assert version["createdBy"] == ((actor or "").strip().lower() or "anonymous")


# Messages that are not of the protocol


@pytest.fixture
def no_errors_logged() -> Iterator[None]:
    """Whatever the client does, it is not the server's failure."""
    with capture_logs() as entries:
        yield
    assert [entry for entry in entries if entry["log_level"] in ("error", "critical")] == []


async def raw_socket(live: Live, *protocols: str, **headers: str) -> ClientConnection:
    """A websocket on which nothing has been said."""
    return await connect_socket(
        live.url.replace("http", "ws") + "/graphql",
        subprotocols=protocols or ("graphql-transport-ws",),  # type: ignore[arg-type]
        additional_headers=headers,
        proxy=None,
    )


async def closed(connection: ClientConnection) -> tuple[int, str]:
    """Code and reason with which the server closes."""
    async with asyncio.timeout(PATIENCE):
        with suppress(ConnectionClosed):
            while True:
                await connection.recv()
    assert connection.close_code is not None
    return connection.close_code, connection.close_reason or ""


@pytest.mark.usefixtures("no_errors_logged")
@pytest.mark.parametrize(
    "actor",
    [7, True, [], {}, ["ada"], "a" * 251, "two\nlines", "nul\x00", "\x1b[31m", "a\u202eb"],
)
async def test_an_actor_that_is_no_name_closes_the_socket(live: Live, actor: object) -> None:
    async with await raw_socket(live) as opened:
        await opened.send(json.dumps({"type": "connection_init", "payload": {"actor": actor}}))

        assert await closed(opened) == (4403, "Forbidden")


@pytest.mark.usefixtures("no_errors_logged")
async def test_an_actor_in_a_header_that_is_no_name_closes_the_socket(live: Live) -> None:
    async with await raw_socket(live, **{"Lifecycle-Actor": "a" * 251}) as opened:
        assert await closed(opened) == (
            4400,
            "Lifecycle-Actor must be a short line that is seen as it is, and not begin with "
            "system:.",
        )


MALFORMED: dict[str, Any] = {
    "null": None,
    "a list": [],
    "a number": 7,
    "a string": "subscribe",
    "no type": {},
    "type null": {"type": None},
    "type a list": {"type": ["subscribe"]},
    "unknown type": {"type": "start", "id": "1", "payload": {"query": "{ __typename }"}},
    "a long unknown type": {"type": "é" * 100_000},
    "a server's type": {"type": "next", "id": "1", "payload": {}},
    "no id": {"type": "subscribe", "payload": {"query": "{ __typename }"}},
    "id a number": {"type": "subscribe", "id": 1, "payload": {"query": "{ __typename }"}},
    "no payload": {"type": "subscribe", "id": "1"},
    "payload null": {"type": "subscribe", "id": "1", "payload": None},
    "payload a string": {"type": "subscribe", "id": "1", "payload": "{ __typename }"},
    "no query": {"type": "subscribe", "id": "1", "payload": {}},
    "query null": {"type": "subscribe", "id": "1", "payload": {"query": None}},
    "query a number": {"type": "subscribe", "id": "1", "payload": {"query": 7}},
    "variables a list": {
        "type": "subscribe",
        "id": "1",
        "payload": {"query": "{ __typename }", "variables": []},
    },
    "operationName a number": {
        "type": "subscribe",
        "id": "1",
        "payload": {"query": "{ __typename }", "operationName": 1},
    },
    "complete without id": {"type": "complete"},
    "complete with a list": {"type": "complete", "id": []},
}


@pytest.mark.usefixtures("no_errors_logged")
@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_message_closes_the_socket_with_4400(
    live: Live, graph: Graph, unique: str, message: object
) -> None:
    run = await a_run(graph, unique)
    async with socket(live.url) as opened:
        await opened.start(RUN, {"id": run})
        await opened.receive()
        await opened.connection.send(json.dumps(message))

        assert (await closed(opened.connection))[0] == 4400
    await until(lambda: live.feed.subscribers == 0)


@pytest.mark.usefixtures("no_errors_logged")
@pytest.mark.parametrize(
    "frame", ["", "{", "nonsense", b"{}", b"\x00\xff", "[" * 100_000, '{"type": NaN}', '"\\ud800"']
)
async def test_a_frame_that_is_not_json_closes_the_socket_with_4400(
    live: Live, frame: str | bytes
) -> None:
    async with socket(live.url) as opened:
        await opened.connection.send(frame)

        assert (await closed(opened.connection))[0] == 4400


@pytest.mark.usefixtures("no_errors_logged")
async def test_a_frame_of_20_mb_closes_the_socket(live: Live) -> None:
    async with socket(live.url) as opened:
        with suppress(ConnectionClosed):  # the server may well refuse it before it is sent
            await opened.connection.send("x" * 20_000_000)

        # The protocol's own code for a message that is too big.
        assert (await closed(opened.connection))[0] == 1009


@pytest.mark.usefixtures("no_errors_logged")
async def test_the_handshake_of_the_protocol_is_kept(live: Live) -> None:
    subscribe = json.dumps({"type": "subscribe", "id": "1", "payload": {"query": "{ a }"}})
    init = json.dumps({"type": "connection_init"})

    async with await raw_socket(live) as opened:
        await opened.send(subscribe)
        assert await closed(opened) == (4401, "Unauthorized")

    async with socket(live.url) as initialised:
        await initialised.connection.send(init)
        code, reason = await closed(initialised.connection)
        assert (code, reason) == (4429, "Too many initialisation requests")

    async with await raw_socket(live) as opened:
        await opened.send(json.dumps({"type": "connection_init", "payload": []}))
        assert (await closed(opened))[0] == 4400

    async with await raw_socket(live, "soap") as opened:
        assert (await closed(opened))[0] == 4406

    async with await raw_socket(live) as opened:
        await opened.send(json.dumps({"type": "ping"}))
        assert json.loads(await opened.recv()) == {"type": "pong"}
        await opened.send(json.dumps({"type": "pong"}))
        await opened.send(init)
        assert json.loads(await opened.recv()) == {"type": "connection_ack"}


@pytest.mark.usefixtures("no_errors_logged")
async def test_a_socket_on_which_nothing_is_said_is_closed(live: Live) -> None:
    view = next(route.endpoint for route in live.app.routes if route.path == "/graphql")  # type: ignore[attr-defined]
    assert isinstance(view, View)
    usual = view.connection_init_wait_timeout
    assert usual == timedelta(seconds=10)
    view.connection_init_wait_timeout = timedelta(milliseconds=50)
    try:
        async with await raw_socket(live) as opened:
            assert await closed(opened) == (4408, "Connection initialisation timeout")
    finally:
        view.connection_init_wait_timeout = usual


@pytest.mark.usefixtures("no_errors_logged")
@pytest.mark.parametrize("id", ["same", "x" * 1000])
async def test_an_id_in_use_closes_the_socket_with_4409(
    live: Live, graph: Graph, unique: str, id: str
) -> None:
    run = await a_run(graph, unique)
    message = {"type": "subscribe", "id": id, "payload": {"query": RUN, "variables": {"id": run}}}
    async with socket(live.url) as opened:
        await opened.send(message)
        await opened.send(message)

        assert (await closed(opened.connection))[0] == 4409
    await until(lambda: live.feed.subscribers == 0)


@pytest.mark.usefixtures("no_errors_logged")
@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{", "GRAPHQL_PARSE_FAILED"),
        ("x" * 1000, "GRAPHQL_PARSE_FAILED"),
        ("", "BAD_REQUEST"),
        ("{ nonsense }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription { runProgress { __typename } }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ " + "node(id: 1) { ... on Run { parent " * 20 + "}}" * 20, "GRAPHQL_PARSE_FAILED"),
    ],
)
async def test_a_bad_operation_is_refused_and_the_others_on_its_socket_go_on(
    live: Live, graph: Graph, unique: str, query: str, code: str
) -> None:
    run = await a_run(graph, unique)
    async with socket(live.url) as opened:
        following = await opened.start(RUN, {"id": run})
        assert [(await opened.receive())["id"] for _ in range(2)] == [following] * 2

        bad = await opened.start(query)

        refused = await opened.receive()
        assert (refused["type"], refused["id"]) == ("error", bad)
        assert [error["extensions"]["code"] for error in refused["payload"]] == [code]
        await write_line(graph, run, "still here")
        message = await opened.receive()
        assert message["id"] == following
        assert said([message["payload"]["data"]["runProgress"]]) == ["still here"]


async def test_a_subscription_over_plain_http_is_told_what_it_needs(graph: Graph) -> None:
    error = await graph.error(RUN, {"id": "x"})

    assert error["message"] == "Subscriptions need Accept: text/event-stream, or a websocket."
