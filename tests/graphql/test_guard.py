"""Browsers: whose pages reach the service, under which names, and what they may do with answers."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from schema import view
from schema.guard import policy_of
from tests.client import PATIENCE, Graph, Json
from tests.conftest import Live, serving

NAME = {"query": "{ __typename }"}
CREATE = "mutation ($name: String!) { createExperiment(input: { name: $name }) { __typename } }"
FRIEND, STRANGER = "https://friend.example.com", "https://stranger.example.com"


@pytest_asyncio.fixture(scope="module")
async def open_to_friends(database_url: str) -> AsyncIterator[Live]:
    """A service that has a name, and lets in the pages of one other origin."""
    settings = {
        "allowed_hosts": frozenset({"lifecycle.example.com"}),
        "allowed_origins": frozenset({FRIEND}),
    }
    async with serving(database_url, **settings) as service:
        yield service


def http(live: Live, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=live.url, trust_env=False, verify=False, timeout=PATIENCE, headers=headers
    )


# Names


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST.", "127.0.0.1", "127.8.9.10:1", "[::1]:80"]
)
async def test_a_loopback_service_is_reached_by_the_names_of_this_machine(
    live: Live, host: str
) -> None:
    async with http(live, host=host) as client:
        assert (await client.post("/graphql", json=NAME)).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["rebound.example.com", "rebound.example.com:8000", "192.168.0.1", "localhost.example.com", ""],
)
@pytest.mark.parametrize("path", ["/graphql", "/", "/readyz", "/graphiql/index.html"])
async def test_it_is_not_reached_by_a_name_of_somebody_else_that_leads_to_this_machine(
    live: Live, host: str, path: str
) -> None:
    async with http(live, host=host) as client:
        response = await client.get(path, params=NAME)

    assert response.status_code == 421
    assert response.json() == {
        "errors": [
            {
                "message": "The service has no such name; LIFECYCLE_ALLOWED_HOSTS says which it "
                "has.",
                "extensions": {"code": "BAD_REQUEST"},
            }
        ]
    }


async def test_a_foreign_name_has_no_effect(live: Live, graph: Graph, unique: str) -> None:
    async with http(live, host="rebound.example.com") as client:
        body = {"query": CREATE, "variables": {"name": unique}}
        assert (await client.post("/graphql", json=body)).status_code == 421

    assert await graph.query(f'{{ experiment(name: "{unique}") {{ id }} }}') == {"experiment": None}


async def test_a_name_that_is_configured_is_the_services(open_to_friends: Live) -> None:
    for host, status in (("lifecycle.example.com:443", 200), ("other.example.com", 421)):
        async with http(open_to_friends, host=host) as client:
            assert (await client.post("/graphql", json=NAME)).status_code == status


async def test_where_not_only_this_machine_is_served_any_name_will_do(database_url: str) -> None:
    async with (
        serving(database_url, insecure=True) as service,
        http(service, host="anything.example.com") as client,
    ):
        assert (await client.post("/graphql", json=NAME)).status_code == 200


# Origins


async def handshake(live: Live, origin: str | None, host: str | None = None) -> int:
    """The status that a websocket is answered with."""
    headers = {"host": host} if host else {}
    try:
        async with connect(
            live.url.replace("http", "ws", 1) + "/graphql",
            subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
            origin=origin,  # type: ignore[arg-type]
            additional_headers=headers,
            proxy=None,
        ):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


async def test_a_websocket_is_opened_by_pages_of_the_service_and_by_what_is_no_page(
    live: Live, open_to_friends: Live
) -> None:
    assert await handshake(live, live.url) == 101
    assert await handshake(live, None) == 101
    assert await handshake(open_to_friends, FRIEND) == 101


@pytest.mark.parametrize(
    "origin", [STRANGER, FRIEND, "null", "", "http://127.0.0.1", "http://localhost:1", "file://"]
)
async def test_a_websocket_is_not_opened_by_pages_of_other_origins(live: Live, origin: str) -> None:
    assert await handshake(live, origin) == 403


async def test_a_friend_is_known_by_all_of_its_origin(open_to_friends: Live) -> None:
    for origin in (STRANGER, "http://friend.example.com", f"{FRIEND}:8443", f"{FRIEND}.evil.com"):
        assert await handshake(open_to_friends, origin) == 403


PREFLIGHT = {"access-control-request-method": "POST"}
ASKED = {"access-control-request-headers": "content-type,authorization,lifecycle-actor"}


async def test_nobody_is_let_in_unless_it_is_said_so(live: Live) -> None:
    async with http(live, origin=STRANGER) as client:
        preflight = await client.options("/graphql", headers=PREFLIGHT | ASKED)
        answer = await client.post("/graphql", json=NAME)

    assert preflight.status_code == 405
    for response in (preflight, answer):
        assert not [name for name in response.headers if name.startswith("access-control")]


async def test_pages_of_an_origin_that_is_named_are_let_in_and_no_others(
    open_to_friends: Live,
) -> None:
    async with http(open_to_friends) as client:
        allowed = await client.options("/graphql", headers={"origin": FRIEND} | PREFLIGHT | ASKED)
        answer = await client.post("/graphql", json=NAME, headers={"origin": FRIEND})
        refused = await client.options("/graphql", headers={"origin": STRANGER} | PREFLIGHT)
        silent = await client.post("/graphql", json=NAME, headers={"origin": STRANGER})

    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == FRIEND
    assert "Authorization" in allowed.headers["access-control-allow-headers"]
    assert answer.headers["access-control-allow-origin"] == FRIEND
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
    for response in (allowed, answer):
        assert "access-control-allow-credentials" not in response.headers
    assert refused.status_code == 400
    for response in (refused, silent):
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None],
)
async def test_what_a_page_may_send_without_asking_changes_nothing(
    open_to_friends: Live, graph: Graph, unique: str, content_type: str | None
) -> None:
    headers = {"origin": STRANGER} | ({"content-type": content_type} if content_type else {})
    query = f'mutation {{ createExperiment(input: {{ name: "{unique}" }}) {{ __typename }} }}'

    async with http(open_to_friends, **headers) as client:
        posted = await client.post("/graphql", content=json.dumps({"query": query}))
        fetched = await client.get(
            "/graphql",
            params={"query": query},
        )

    assert (posted.status_code, fetched.status_code) == (415, 405)
    assert await graph.query(f'{{ experiment(name: "{unique}") {{ id }} }}') == {"experiment": None}


# What browsers are told


async def test_every_answer_says_how_it_may_be_used(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with http(live) as client:
        answers = [
            await client.post("/graphql", json=NAME),
            await client.post("/graphql", json={"query": "{"}),
            await client.post("/graphql", content=b"{"),
            await client.post("/graphql", json=NAME, headers={"accept": "text/event-stream"}),
            await client.get("/"),
            await client.get("/healthz"),
            await client.get("/readyz"),
            await client.get("/nowhere"),
            await client.get("/artifacts/nowhere/x"),
            await client.get("/readyz", headers={"host": "x"}),
        ]

        async def broken(*_: object) -> None:
            raise RuntimeError("secret")

        monkeypatch.setattr(view, "_body", broken)
        answers.append(await client.post("/graphql", json=NAME))

    for response in answers:
        told = response.headers
        assert told["x-content-type-options"] == "nosniff", response.url
        assert told["referrer-policy"] == "no-referrer"
        assert told["x-frame-options"] == "DENY"
        assert told["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert len(told.get_list("content-security-policy")) == 1
    failed = answers[-1]
    id = failed.headers["x-request-id"]
    assert (failed.status_code, failed.json()["errors"][0]["extensions"]) == (
        500,
        {"code": "INTERNAL", "requestId": id},
    )


async def test_the_page_may_run_what_is_its_own_and_nothing_else(live: Live) -> None:
    async with http(live, accept="text/html") as client:
        policy = (await client.get("/graphql")).headers["content-security-policy"]

    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "'unsafe-eval'" not in policy
    assert not re.search("script-src[^;]*'unsafe-inline'", policy)


def test_the_page_that_comes_from_the_internet_may_run_exactly_what_stands_in_it(
    live: Live,
) -> None:
    policy = policy_of("<script src='https://unpkg.com/a.js'></script><script>alert(1)</script>")

    # The digest of alert(1).
    digest = "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='"
    assert f"script-src 'self' https://unpkg.com {digest};" in policy


async def test_where_it_has_not_been_built_the_page_has_the_policy_that_it_needs(
    live: Live, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr(view, "GRAPHIQL", tmp_path)
    async with http(live, accept="text/html") as client:
        page = await client.get("/graphql")

    assert page.headers["content-security-policy"] == policy_of(page.text)
    assert page.headers["content-security-policy"].count("'sha256-") == 1


# What is switched off


async def test_where_graphiql_was_not_built_there_is_nothing_to_load(
    database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("schema.app.GRAPHIQL", tmp_path / "not built")
    async with serving(database_url) as service, http(service) as client:
        assert (await client.get("/graphiql/index.html")).status_code == 404


async def test_without_graphiql_a_browser_is_shown_no_page(database_url: str) -> None:
    async with serving(database_url, graphiql=False) as service, http(service) as client:
        page = await client.get("/graphql", headers={"accept": "text/html"})
        script = await client.get("/graphiql/index.html")
        answer = await client.post("/graphql", json=NAME)

    assert (page.status_code, script.status_code, answer.status_code) == (400, 404, 200)


HIDDEN = [
    {"query": "{ __schema { queryType { name } } }"},
    {"query": '{ __type(name: "Query") { name } }'},
    {"query": "{ ...f } fragment f on Query { a: __schema { queryType { name } } }"},
]
SUGGESTIVE: list[Json] = [
    {"query": "{ experimens { nodes { id } } }"},
    {"query": "{ experiments }"},
    {"query": "{ experiments(firs: 1) { nodes { id } } }"},
    {"query": "{ deployments(filter: { environments: PRODUCTIO }) { nodes { id } } }"},
    {
        "query": "query ($f: DeploymentFilter) { deployments(filter: $f) { nodes { id } } }",
        "variables": {"f": {"environment": "PRODUCTION"}},
    },
    {"query": "query ($f: DeploymentFilte) { deployments(filter: $f) { nodes { id } } }"},
]


@pytest.mark.parametrize("execution", ["compiled", "stock"])
async def test_without_introspection_nobody_learns_the_schema(
    database_url: str, live: Live, graph: Graph, execution: str
) -> None:
    async with (
        serving(database_url, introspection=False, execution=execution) as service,
        http(service) as client,
    ):
        for body in HIDDEN:
            # Also if the document is known.
            await graph.query(body["query"])
            for accept in ("*/*", "text/event-stream"):
                response = await client.post("/graphql", json=body, headers={"accept": accept})
                assert "Introspection is switched off." in response.text
                assert "queryType" not in response.text
                assert '"Query"' not in response.text
        for asked in SUGGESTIVE:
            there = await graph.http.post("/graphql", json=asked)
            here = await client.post("/graphql", json=asked)
            assert there.status_code == here.status_code == 422
            assert "Did you mean" in there.text
            assert "Did you mean" not in here.text
        assert (await client.post("/graphql", json=NAME)).json() == {
            "data": {"__typename": "Query"}
        }


async def test_without_introspection_a_mistake_may_hold_any_text(database_url: str) -> None:
    async with serving(database_url, introspection=False) as service, http(service) as client:
        for text in (" " * 200_000, " Did you mean " * 15_000):
            asked = f'{{ runs(first: "{text}") {{ nodes {{ id }} }} }}'

            response = await client.post("/graphql", json={"query": asked})

            assert response.status_code == 422
            (error,) = response.json()["errors"]
            assert error["message"].startswith("Int cannot represent non-integer value: ")
            assert "Did you mean" not in error["message"]


async def test_refusals_come_at_once_and_leave_nothing_behind(live: Live) -> None:
    before = len(asyncio.all_tasks())
    for _ in range(20):
        await handshake(live, STRANGER)

    assert len(asyncio.all_tasks()) <= before + 2
