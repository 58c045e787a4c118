"""GraphQL over HTTP: media types, methods, statuses, and what a failure looks like from outside."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from io import StringIO
from typing import Any

import asyncpg
import httpx
import pytest
from graphql import get_introspection_query
from structlog.testing import capture_logs

from lifecycle.experiments import repository as experiments
from lifecycle.experiments import service
from lifecycle.runs import metrics
from schema import documents, executor, view
from schema.limits import MAX_BODY_BYTES, MAX_GIVEN
from schema.view import GRAPHIQL
from tests.client import PATIENCE, Graph, Json, socket
from tests.conftest import Live, serving
from tests.following import until
from tests.mirror import MLFLOW

RESPONSE_JSON = "application/graphql-response+json"
JSON = "application/json"
STREAM = "text/event-stream"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

NAME = "{ __typename }"
CREATE = "mutation ($name: String!) { createExperiment(input: { name: $name }) { __typename } }"


@pytest.fixture
async def http(live: Live) -> AsyncIterator[httpx.AsyncClient]:
    """A client that sends no headers but those that HTTP needs."""
    async with httpx.AsyncClient(
        base_url=live.url, trust_env=False, verify=False, timeout=PATIENCE
    ) as client:
        del client.headers["accept"]
        yield client


async def post(http: httpx.AsyncClient, body: bytes | Json, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"content-type": JSON, **{key.replace("_", "-"): headers[key] for key in headers}}
    return await http.post("/graphql", content=content, headers=given)


def check(response: httpx.Response, status: int, code: str, message: str | None = None) -> None:
    """The answer is one error without data, in JSON, and shows nothing of the inside."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] in (RESPONSE_JSON, JSON)
    assert set(response.json()) == {"errors"}, response.text
    for error in response.json()["errors"]:
        assert error["extensions"]["code"] == code
        assert set(error) <= {"message", "locations", "extensions"}
    if message is not None:
        assert response.json()["errors"][0]["message"] == message
    for inside in ("Traceback", "Exception", "asyncpg", "<class", "object at 0x", "NoneType"):
        assert inside not in response.text


# Media types


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        (RESPONSE_JSON, RESPONSE_JSON),
        (f"{RESPONSE_JSON}; charset=utf-8", RESPONSE_JSON),
        (f"{JSON};q=0.9, {RESPONSE_JSON}", RESPONSE_JSON),
        ("*/*", RESPONSE_JSON),
        ("application/*", RESPONSE_JSON),
        (JSON, JSON),
        ("Application/JSON", JSON),
        ("text/html, application/json", JSON),
    ],
)
async def test_the_answer_has_a_form_that_the_client_takes(
    http: httpx.AsyncClient, accept: str, given: str
) -> None:
    response = await post(http, {"query": NAME}, accept=accept)

    assert response.status_code == 200
    assert response.headers["content-type"] == given
    assert response.json() == {"data": {"__typename": "Query"}}


async def test_a_client_that_does_not_say_what_it_takes_gets_the_specified_form(
    http: httpx.AsyncClient,
) -> None:
    response = await post(http, {"query": NAME})

    assert (response.status_code, response.headers["content-type"]) == (200, RESPONSE_JSON)


@pytest.mark.parametrize("accept", ["image/png", "nonsense", "text/plain, image/*", "application"])
async def test_a_client_that_takes_nothing_of_ours_gets_406_and_no_effect(
    http: httpx.AsyncClient, graph: Graph, unique: str, accept: str
) -> None:
    body = {"query": CREATE, "variables": {"name": unique}}

    check(await post(http, body, accept=accept), 406, "BAD_REQUEST")

    assert await graph.query(f'{{ experiment(name: "{unique}") {{ id }} }}') == {"experiment": None}


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/graphql",
        "application/jsonx",
        "",
    ],
)
async def test_a_body_that_is_not_json_is_refused_and_has_no_effect(
    http: httpx.AsyncClient, graph: Graph, unique: str, content_type: str
) -> None:
    body = {"query": CREATE, "variables": {"name": unique}}

    response = await post(http, body, content_type=content_type)

    check(response, 415, "BAD_REQUEST", "The body must be application/json.")
    assert await graph.query(f'{{ experiment(name: "{unique}") {{ id }} }}') == {"experiment": None}


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "APPLICATION/JSON"])
async def test_parameters_and_capitals_do_not_matter_in_a_content_type(
    http: httpx.AsyncClient, content_type: str
) -> None:
    assert (await post(http, {"query": NAME}, content_type=content_type)).status_code == 200


# Statuses


@pytest.mark.parametrize(
    ("query", "variables", "status", "code"),
    [
        ("{", None, 400, "GRAPHQL_PARSE_FAILED"),
        ("   ", None, 400, "GRAPHQL_PARSE_FAILED"),
        ("{ nope }", None, 422, "GRAPHQL_VALIDATION_FAILED"),
        ("{ experiments }", None, 422, "GRAPHQL_VALIDATION_FAILED"),
        ("{ experiments(first: nope) { nodes { id } } }", None, 422, "GRAPHQL_VALIDATION_FAILED"),
        ("query ($a: Nope) { __typename }", None, 422, "GRAPHQL_VALIDATION_FAILED"),
        ("{ modelVersion(by: { inStage: $v }) { id } }", None, 422, "GRAPHQL_VALIDATION_FAILED"),
        ("query ($n: String!) { experiment(name: $n) { id } }", None, 422, "INVALID_INPUT"),
        ("query ($n: String!) { experiment(name: $n) { id } }", {"n": 5}, 422, "INVALID_INPUT"),
        ("query ($n: String!) { experiment(name: $n) { id } }", {"n": None}, 422, "INVALID_INPUT"),
    ],
)
async def test_a_request_that_cannot_be_run_has_no_data_and_a_status_of_its_own(
    http: httpx.AsyncClient, query: str, variables: Json | None, status: int, code: str
) -> None:
    body: Json = {"query": query, "variables": variables}

    check(await post(http, body), status, code)
    # Clients that only take application/json are promised 200 for every well-formed request.
    check(await post(http, body, accept=JSON), 200, code)


async def test_an_error_while_running_is_a_part_of_an_answer_that_succeeds(
    http: httpx.AsyncClient,
) -> None:
    query = '{ serverInfo { version } experiment(name: "\\u0000") { id } }'

    response = await post(http, {"query": query})

    assert response.status_code == 200
    assert response.json()["data"]["experiment"] is None
    assert response.json()["data"]["serverInfo"]["version"]
    assert [error["path"] for error in response.json()["errors"]] == [["experiment"]]


async def test_an_error_that_leaves_no_data_was_still_an_execution(http: httpx.AsyncClient) -> None:
    response = await post(http, {"query": "{ experiments(first: 0) { nodes { id } } }"})

    assert response.status_code == 200
    assert response.json() == {
        "data": None,
        "errors": [
            {
                "message": "A page has 1 to 100 items, not 0.",
                "locations": [{"line": 1, "column": 3}],
                "path": ["experiments"],
                "extensions": {"code": "INVALID_INPUT", "argument": ["first"]},
            }
        ],
    }


UNREADABLE = "This is not JSON. (Nor are NaN and Infinity: send a null value and a kind.)"
NO_OBJECT = "The body must be one JSON object; batches are not taken."


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", UNREADABLE),
        (b"{", UNREADABLE),
        (b'{"query": "{ __typename }"', UNREADABLE),
        (b'{"query": "{ __typename }"} {}', UNREADABLE),
        (b'{"query": "{ __typename }", "variables": {"a": NaN}}', UNREADABLE),
        (b'{"query": "{ __typename }", "variables": {"a": Infinity}}', UNREADABLE),
        (b'{"query": "{ __typename }", "variables": {"a": 1e400}}', UNREADABLE),
        (b"\xff\xfe", UNREADABLE),
        (b'{"query": "\xff"}', UNREADABLE),
        (b'\xef\xbb\xbf{"query": "{ __typename }"}', UNREADABLE),
        (b"[" * 100_000, UNREADABLE),
        (b"[]", NO_OBJECT),
        (b'[{"query": "{ __typename }"}]', NO_OBJECT),
        (b"3", NO_OBJECT),
        (b'"{ __typename }"', NO_OBJECT),
        (b"null", NO_OBJECT),
        (b"true", NO_OBJECT),
        (b"{}", "No GraphQL query found in the request."),
        (b'{"query": null}', "No GraphQL query found in the request."),
        (b'{"query": ""}', "No GraphQL query found in the request."),
        (b'{"query": 5}', "query must be a string or null."),
        (b'{"query": ["{ __typename }"]}', "query must be a string or null."),
        (b'{"query": "{ __typename }", "variables": []}', "variables must be an object or null."),
        (b'{"query": "{ __typename }", "variables": "{}"}', "variables must be an object or null."),
        (b'{"query": "{ __typename }", "extensions": 3}', "extensions must be an object or null."),
        (
            b'{"query": "{ __typename }", "operationName": 4}',
            "operationName must be a string or null.",
        ),
        (b'{"query": "{ __typename }", "operationName": "x"}', 'Unknown operation named "x".'),
        (b'{"query": "fragment f on Query { __typename }"}', "Can't get GraphQL operation type"),
    ],
)
async def test_a_body_that_is_no_request_is_refused(
    http: httpx.AsyncClient, body: bytes, message: str
) -> None:
    check(await post(http, body), 400, "BAD_REQUEST", message)


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"query": "fragment f on Query { a }"}'])
async def test_that_it_is_no_request_is_not_200_for_those_who_only_take_plain_json_either(
    http: httpx.AsyncClient, body: bytes
) -> None:
    check(await post(http, body, accept=JSON), 400, "BAD_REQUEST")


async def test_what_is_unknown_beside_the_query_is_ignored(http: httpx.AsyncClient) -> None:
    body: Json = {"query": NAME, "variables": None, "operationName": None, "extensions": {}, "x": 1}

    assert (await post(http, body)).json() == {"data": {"__typename": "Query"}}


async def test_of_several_operations_one_must_be_named(http: httpx.AsyncClient) -> None:
    query = "query a { a: __typename } query b { b: __typename }"

    check(
        await post(http, {"query": query}),
        422,
        "GRAPHQL_VALIDATION_FAILED",
        "Say by operationName which of the operations is meant.",
    )
    assert (await post(http, {"query": query, "operationName": "b"})).json() == {
        "data": {"b": "Query"}
    }


async def test_a_body_over_the_limit_is_refused_however_it_is_sent(
    http: httpx.AsyncClient,
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 1024 + 1):
            yield b" " * 1024

    whole = await post(http, b" " * (MAX_BODY_BYTES + 1))
    chunked = await http.post("/graphql", content=chunks(), headers={"content-type": JSON})

    message = "The body may have 8,388,608 bytes."
    check(whole, 413, "LIMIT_EXCEEDED", message)
    check(chunked, 413, "LIMIT_EXCEEDED", message)


async def test_a_body_of_exactly_the_limit_is_read(http: httpx.AsyncClient) -> None:
    body = json.dumps({"query": NAME}).encode()

    response = await post(http, body + b" " * (MAX_BODY_BYTES - len(body)))

    assert response.json() == {"data": {"__typename": "Query"}}


# Methods


async def test_a_query_may_come_by_get(http: httpx.AsyncClient, graph: Graph, unique: str) -> None:
    await graph.done("createExperiment", {"name": unique}, "experiment { id }")

    response = await http.get(
        "/graphql",
        params={
            "query": "query a { __typename } "
            "query b($name: String!) { experiment(name: $name) { name } }",
            "variables": json.dumps({"name": unique}),
            "operationName": "b",
        },
    )

    assert response.status_code == 200
    assert response.json() == {"data": {"experiment": {"name": unique}}}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "No GraphQL query found in the request."),
        ({"query": ""}, "No GraphQL query found in the request."),
        ({"query": NAME, "variables": "{"}, UNREADABLE),
        ({"query": NAME, "variables": "3"}, "variables must be an object or null."),
        ({"query": NAME, "operationName": "x"}, 'Unknown operation named "x".'),
    ],
)
async def test_a_get_that_is_no_request_is_refused(
    http: httpx.AsyncClient, params: dict[str, str], message: str
) -> None:
    check(await http.get("/graphql", params=params), 400, "BAD_REQUEST", message)


@pytest.mark.parametrize("accept", [RESPONSE_JSON, JSON, "*/*"])
async def test_a_mutation_by_get_is_not_allowed_and_has_no_effect(
    http: httpx.AsyncClient, graph: Graph, unique: str, accept: str
) -> None:
    params = {"query": CREATE, "variables": json.dumps({"name": unique})}

    response = await http.get("/graphql", params=params, headers={"accept": accept})

    message = "Mutations are not allowed over GET; use POST."
    check(response, 405, "BAD_REQUEST", message)
    assert response.headers["allow"] == "POST"
    assert await graph.query(f'{{ experiment(name: "{unique}") {{ id }} }}') == {"experiment": None}


async def test_a_mutation_by_get_has_no_effect_as_a_stream_either(
    http: httpx.AsyncClient, graph: Graph, unique: str
) -> None:
    params = {"query": CREATE, "variables": json.dumps({"name": unique})}

    response = await http.get("/graphql", params=params, headers={"accept": STREAM})

    assert '"code":"BAD_REQUEST"' in response.text
    assert await graph.query(f'{{ experiment(name: "{unique}") {{ id }} }}') == {"experiment": None}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("accept", [RESPONSE_JSON, JSON])
async def test_a_subscription_needs_a_transport_that_can_carry_it(
    http: httpx.AsyncClient, method: str, accept: str
) -> None:
    query = "subscription { deploymentStatus { __typename } }"

    response = (
        await post(http, {"query": query}, accept=accept)
        if method == "POST"
        else await http.get("/graphql", params={"query": query}, headers={"accept": accept})
    )

    message = "Subscriptions need Accept: text/event-stream, or a websocket."
    check(response, 400, "BAD_REQUEST", message)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
async def test_other_methods_are_not_allowed(http: httpx.AsyncClient, method: str) -> None:
    response = await http.request(method, "/graphql")

    assert response.status_code == 405
    assert response.headers["allow"] == "GET, POST"
    if method != "HEAD":
        check(response, 405, "BAD_REQUEST")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"query": "{"}, "GRAPHQL_PARSE_FAILED"),
        ({"query": "{ nope }"}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": NAME, "operationName": "x"}, "BAD_REQUEST"),
        ({"query": "query a { __typename } query b { __typename }"}, "GRAPHQL_VALIDATION_FAILED"),
        (
            {"query": "subscription ($id: ID!) { runProgress(runId: $id) { __typename } }"},
            "INVALID_INPUT",
        ),
        ({"query": 'subscription { runProgress(runId: "x") { __typename } }'}, "INVALID_INPUT"),
        ({"query": "{ experiments(first: 0) { nodes { id } } }"}, "INVALID_INPUT"),
    ],
)
async def test_a_stream_carries_errors_with_the_same_codes(
    http: httpx.AsyncClient, body: Json, code: str
) -> None:
    response = await post(http, body, accept=STREAM)

    assert response.headers["content-type"].startswith(STREAM)
    events = [line for line in response.text.splitlines() if line]
    assert events[0] == "event: next"
    errors = json.loads(events[1].removeprefix("data: "))["errors"]
    assert [error["extensions"]["code"] for error in errors] == [code]
    assert events[2] == "event: complete"


async def test_a_stream_is_refused_like_any_request_that_is_none(http: httpx.AsyncClient) -> None:
    check(await post(http, b"{", accept=STREAM), 400, "BAD_REQUEST", UNREADABLE)
    check(
        await post(http, {}, accept=STREAM),
        400,
        "BAD_REQUEST",
        "No GraphQL query found in the request.",
    )


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({"query": "{ nope }"}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": "query a { __typename } query b { __typename }"}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": "query ($n: String!) { experiment(name: $n) { id } }"}, "INVALID_INPUT"),
    ],
)
async def test_a_websocket_carries_errors_with_the_same_codes_and_stays_open(
    live: Live, payload: Json, code: str
) -> None:
    async with socket(live.url) as opened:
        await opened.send({"type": "subscribe", "id": "1", "payload": payload})
        answer = await opened.receive()
        errors = answer["payload"] if answer["type"] == "error" else answer["payload"]["errors"]
        assert [error["extensions"]["code"] for error in errors] == [code]

        await opened.send({"type": "ping"})
        received = [await opened.receive() for _ in range(1 if answer["type"] == "error" else 2)]
        assert {"type": "pong"} in received


# Pages


async def test_a_browser_gets_graphiql(http: httpx.AsyncClient) -> None:
    response = await http.get(
        "/graphql", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    )

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "<html" in response.text
    if (GRAPHIQL / "index.html").exists():
        assert response.text == (GRAPHIQL / "index.html").read_text()


async def test_a_browser_that_asks_a_query_gets_its_answer(http: httpx.AsyncClient) -> None:
    response = await http.get(
        "/graphql", params={"query": NAME}, headers={"accept": "text/html,*/*;q=0.8"}
    )

    assert response.json() == {"data": {"__typename": "Query"}}


async def test_the_home_page_leads_to_graphiql(http: httpx.AsyncClient) -> None:
    response = await http.get("/")

    assert (response.status_code, response.headers["location"]) == (307, "/graphql")


async def test_health_and_readiness_are_told(http: httpx.AsyncClient) -> None:
    alive, ready = await http.get("/healthz"), await http.get("/readyz")

    assert (alive.status_code, alive.json()) == (200, {"status": "alive"})
    assert (ready.status_code, ready.json()) == (
        200,
        {"ready": True, "checks": {"database": True, "migrations": True, "mlflow": None}},
    )


async def test_readiness_is_found_out_once_for_all_who_ask_meanwhile(
    live: Live, http: httpx.AsyncClient, sql: asyncpg.Connection
) -> None:
    # given: many who ask while the answer is not there
    async with sql.transaction():
        await sql.execute("LOCK TABLE alembic_version")
        asking = [asyncio.create_task(http.get("/readyz")) for _ in range(20)]
        async with asyncio.timeout(PATIENCE):
            while live.database.reading == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        # when: one of them has gone
        asking.pop().cancel()
        await http.get("/healthz")

        # then: one reads, and perhaps who follows the journal
        assert live.database.load("") <= 2
    assert [(await each).status_code for each in asking] == [200] * len(asking)


# Who asks, and in which request


@pytest.mark.parametrize("given", ["abc", "A-1_b.c", "x" * 100])
async def test_a_request_id_that_the_client_gives_comes_back(
    http: httpx.AsyncClient, given: str
) -> None:
    response = await post(http, {"query": NAME}, x_request_id=given)

    assert response.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", ["", "a b", "x" * 101, 'a"b', "a,b", "<a>", "mlflow:1"])
async def test_a_request_id_that_is_none_is_replaced(http: httpx.AsyncClient, given: str) -> None:
    response = await post(http, {"query": NAME}, x_request_id=given)

    assert UUID.fullmatch(response.headers["x-request-id"])


async def test_each_request_has_an_id_whatever_becomes_of_it(http: httpx.AsyncClient) -> None:
    answers = [
        await post(http, {"query": NAME}),
        await post(http, {"query": "{"}),
        await post(http, b"{"),
        await post(http, {"query": NAME}, accept="image/png"),
        await http.put("/graphql"),
        await http.get("/nowhere"),
        await http.get("/healthz"),
    ]

    ids = [answer.headers["x-request-id"] for answer in answers]
    assert all(map(UUID.fullmatch, ids))
    assert len(set(ids)) == len(ids)


async def test_each_request_is_logged_once_but_for_those_that_ask_after_health(
    http: httpx.AsyncClient,
) -> None:
    with capture_logs() as entries:
        await http.get("/healthz")
        await http.get("/readyz")
        await post(http, {"query": "query Fine { __typename }"})
        # The answer is sent before its line is written.
        await until(lambda: any(entry["event"] == "request" for entry in entries))

    assert [(entry["method"], entry["path"], entry["status"]) for entry in entries] == [
        ("POST", "/graphql", 200)
    ]


ACTORS = [
    (None, "anonymous"),
    (b"", "anonymous"),
    (b"ada", "ada"),
    ("Žofie Nováková".encode(), "žofie nováková"),
    ("田中".encode(), "田中"),
    (b"x" * 250, "x" * 250),
    (b"\xff", "\ufffd"),
]


@pytest.mark.parametrize(("given", "actor"), ACTORS)
async def test_the_header_says_who_asks(
    http: httpx.AsyncClient, unique: str, given: bytes | None, actor: str
) -> None:
    headers = {} if given is None else {b"lifecycle-actor": given}
    query = CREATE.replace(
        "__typename", "... on CreateExperimentSuccess { experiment { createdBy } }"
    )

    response = await http.post(
        "/graphql", json={"query": query, "variables": {"name": unique}}, headers=headers
    )

    found = response.json()["data"]["createExperiment"]
    assert found == {"experiment": {"createdBy": actor}}


@pytest.mark.parametrize(
    "actor", [b"x" * 251, b"a\tb", "a\u202eb".encode(), "a\u2028b".encode(), "e\u0301".encode()]
)
async def test_an_actor_that_cannot_be_a_name_is_refused_and_has_no_effect(
    http: httpx.AsyncClient, graph: Graph, unique: str, actor: bytes
) -> None:
    response = await http.post(
        "/graphql",
        json={"query": CREATE, "variables": {"name": unique}},
        headers={b"lifecycle-actor": actor},
    )

    check(
        response,
        400,
        "BAD_REQUEST",
        "Lifecycle-Actor must be a short line that is seen as it is, and not begin with system:.",
    )
    assert await graph.query(f'{{ experiment(name: "{unique}") {{ id }} }}') == {"experiment": None}


async def test_a_websocket_says_who_asks_when_it_begins(live: Live, unique: str) -> None:
    query = CREATE.replace(
        "__typename", "... on CreateExperimentSuccess { experiment { createdBy } }"
    )

    async with socket(live.url, actor="Žofie") as opened:
        id = await opened.start(query, {"name": unique})
        assert await opened.receive() == {
            "id": id,
            "type": "next",
            "payload": {"data": {"createExperiment": {"experiment": {"createdBy": "žofie"}}}},
        }


# What goes wrong inside


async def fail(*_: object, **__: object) -> Any:
    raise RuntimeError("secret")


@pytest.mark.parametrize(
    ("query", "path", "data"),
    [
        ("{ experiments { nodes { id } } }", ["experiments"], None),
        ('{ experiment(name: "a") { id } }', ["experiment"], {"experiment": None}),
        (
            'mutation { createExperiment(input: { name: "a" }) { __typename } }',
            ["createExperiment"],
            None,
        ),
    ],
)
async def test_a_bug_shows_nothing_but_an_id_and_is_logged_once(
    http: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    query: str,
    path: list[str],
    data: Json | None,
) -> None:
    monkeypatch.setattr(experiments, "page", fail)
    monkeypatch.setattr(experiments._BY_NAMES, "fetch", fail)
    monkeypatch.setattr(service, "create", fail)

    with capture_logs() as entries:
        response = await post(http, {"query": query}, x_request_id="the-id")

    assert response.status_code == 200
    answer = response.json()
    assert answer["data"] == data
    assert len(answer["errors"]) == 1
    error = answer["errors"][0]
    assert error["path"] == path
    assert error["extensions"] == {"code": "INTERNAL", "requestId": "the-id"}
    assert error["message"] == (
        "Unexpected error. Its trace is in the server's log, under request id the-id."
    )
    assert "secret" not in response.text
    logged = [entry for entry in entries if entry["event"] != "request"]
    assert [entry["event"] for entry in logged] == ["graphql.unexpected_error"]
    trace = logged[0]["exc_info"].__traceback__
    assert trace is not None
    assert str(logged[0]["exc_info"]) == "secret"


async def test_a_bug_is_logged_with_its_trace_and_request_and_by_nobody_else(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "page", fail)
    log = StringIO()
    monkeypatch.setattr(sys, "stderr", log)

    await post(
        http,
        {"query": "query Broken { experiments { nodes { id } } }"},
        x_request_id="the-id",
    )

    await until(lambda: '"event":"request"' in log.getvalue())
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    told = [line for line in lines if "secret" in json.dumps(line)]
    assert [(line["event"], line["level"]) for line in told] == [
        ("graphql.unexpected_error", "error")
    ]
    assert told[0]["request_id"] == "the-id"
    assert told[0]["operation"] == "Broken"
    assert told[0]["exception"].startswith("Traceback (most recent call last)")
    assert told[0]["exception"].endswith("RuntimeError: secret")
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["request_id"], line["operation"]) for line in requests] == [("the-id", "Broken")]


async def test_a_bug_in_one_field_leaves_the_others_alone(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments._BY_NAMES, "fetch", fail)
    query = '{ a: experiment(name: "a") { id } serverInfo { version } }'

    with capture_logs() as entries:
        response = await post(http, {"query": query})

    assert response.json()["data"]["a"] is None
    assert response.json()["data"]["serverInfo"]["version"]
    assert len([entry for entry in entries if entry["log_level"] == "error"]) == 1


async def test_a_bug_that_many_wait_for_is_logged_once(
    http: httpx.AsyncClient, graph: Graph, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        await graph.done("createExperiment", {"name": f"{unique}-{n}"}, "experiment { id }")
    monkeypatch.setattr(metrics, "best_runs", fail)
    query = (
        f'{{ experiments(filter: {{ nameContains: "{unique}" }}) '
        '{ nodes { bestRun(metric: "accuracy") { id } } } }'
    )

    with capture_logs() as entries:
        response = await post(http, {"query": query})

    assert response.json()["data"] == {"experiments": {"nodes": [{"bestRun": None}] * 3}}
    assert [error["extensions"]["code"] for error in response.json()["errors"]] == ["INTERNAL"] * 3
    assert len([entry for entry in entries if entry["log_level"] == "error"]) == 1


async def test_a_bug_outside_of_all_fields_is_masked_too(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(documents.Document, "refusals", broken)

    with capture_logs() as entries:
        response = await post(http, {"query": NAME}, x_request_id="the-id")

    message = "Unexpected error. Its trace is in the server's log, under request id the-id."
    check(response, 500, "INTERNAL", message)
    assert "secret" not in response.text
    assert len([entry for entry in entries if entry["log_level"] == "error"]) == 1


async def test_a_bug_is_masked_on_a_websocket_and_in_a_stream_too(
    live: Live, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "page", fail)
    query = "{ experiments { nodes { id } } }"

    with capture_logs() as entries:
        async with socket(live.url) as opened:
            await opened.start(query)
            over_socket = await opened.receive()
        stream = await post(http, {"query": query}, accept=STREAM)

    errors = over_socket["payload"]["errors"]
    assert [error["extensions"]["code"] for error in errors] == ["INTERNAL"]
    assert '"code":"INTERNAL"' in stream.text
    assert "secret" not in json.dumps(over_socket) + stream.text
    assert len([entry for entry in entries if entry["log_level"] == "error"]) == 2


async def test_a_bug_outside_of_graphql_is_a_plain_500(
    live: Live, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "_body", fail)

    response = await post(http, {"query": NAME})

    assert response.status_code == 500
    assert "secret" not in response.text
    assert "Traceback" not in response.text


# The database goes away and comes back


async def test_without_its_database_the_service_says_so_and_recovers_by_itself(
    own_database_url: str, server_url: str
) -> None:
    found = re.search(r"/(test_\w+)", own_database_url)
    assert found
    name = found[1]
    admin = await asyncpg.connect(server_url.replace("+asyncpg", ""))
    unavailable = {"code": "UNAVAILABLE", "message": "The database is not available; try again."}

    async with serving(own_database_url, mlflow_uri=MLFLOW) as live, Graph(live.url) as graph:
        await graph.done("createExperiment", {"name": "a"}, "experiment { id }")
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
        )

        for _ in range(3):
            response = await graph.http.post(
                "/graphql", json={"query": '{ experiment(name: "a") { id } }'}
            )
            assert response.json() == {
                "data": {"experiment": None},
                "errors": [
                    {
                        "message": unavailable["message"],
                        "locations": [{"line": 1, "column": 3}],
                        "path": ["experiment"],
                        "extensions": {"code": "UNAVAILABLE"},
                    }
                ],
            }
            assert await graph.mutate("createExperiment", {"name": "b"}) == {
                "__typename": "Unavailable",
                **unavailable,
                "path": [],
            }
        nested = await graph.answer("{ experiments { nodes { runCount } } }")
        assert nested["data"] is None
        assert [error["extensions"] for error in nested["errors"]] == [{"code": "UNAVAILABLE"}]
        ready, alive = await graph.http.get("/readyz"), await graph.http.get("/healthz")
        assert (ready.status_code, ready.json()) == (
            503,
            {"ready": False, "checks": {"database": False, "migrations": False, "mlflow": False}},
        )
        assert alive.status_code == 200

        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        seen = await graph.query(
            '{ experiment(name: "a") { name } b: experiment(name: "b") { id } }'
        )
        assert seen == {"experiment": {"name": "a"}, "b": None}
        made = await graph.done("createExperiment", {"name": "b"}, "experiment { revision }")
        assert made == {"revision": 1}
        assert (await graph.http.get("/readyz")).status_code == 200

        # The journal too is followed again.
        run = await graph.done("logRun", {"experimentName": "b"}, "run { id }")
        async with asyncio.timeout(PATIENCE):
            subscription = "subscription ($id: ID!) { runProgress(runId: $id) { __typename } }"
            kinds = []
            async for item in graph.stream(subscription, {"id": run["id"]}):
                kinds.append(item["data"]["runProgress"]["__typename"])
                if kinds[-1] == "CaughtUp":
                    await graph.done(
                        "logRunOutput",
                        {"runId": run["id"], "lines": [{"message": "hello"}]},
                        "run { id }",
                    )
                if kinds[-1] == "RunOutputEvent":
                    break
        assert kinds == ["RunStatusEvent", "CaughtUp", "RunOutputEvent"]
    await admin.close()


async def test_the_introspection_that_graphiql_asks_for_is_within_the_limits(graph: Graph) -> None:
    query = get_introspection_query(
        descriptions=True,
        specified_by_url=True,
        directive_is_repeatable=True,
        schema_description=True,
        input_value_deprecation=True,
    )

    data = await graph.query(query)

    names = {type_["name"] for type_ in data["__schema"]["types"]}
    assert {"Query", "Mutation", "Subscription", "Run", "BigInt"} <= names


# Limits; how they count is in tests/unit/test_limits.py.

ROUND = "experiment { runs(first: 1) { nodes { "
DEEP = f"{{ runs(first: 1) {{ nodes {{ {ROUND * 5} id {'} } } ' * 5} }} }} }}"
TOO_LARGE = {
    "deep": DEEP,
    "wide": f"{{ {' '.join(f'a{n}: __typename' for n in range(2_001))} }}",
    "multiplied by fragments": "{ ...a ...a ...a } fragment a on Query { ...b ...b ...b } "
    f"fragment b on Query {{ {' '.join(f'a{n}: __typename' for n in range(300))} }}",
    "more objects than anybody reads": "{ experiments(first: 100) { nodes { runs(first: 100) "
    "{ nodes { logs(first: 100) { nodes { line } } } } } } }",
    "more points than anybody draws": 'query ($keys: [String!]!) { run(id: "x") { '
    "a: metricHistory(keys: $keys, maxPoints: 10000) { steps values } "
    "b: metricHistory(keys: $keys, maxPoints: 10000) { timestamps } } }",
    "more to read than anybody gives": "query ($order: [RunOrder!]) { "
    + " ".join(f"a{n}: runs(orderBy: $order) {{ totalCount }}" for n in range(20))
    + " }",
    "endless in tokens": f"{{ {'a ' * 20_001} }}",
    "endless in characters": f"{{ __typename {',' * 500_000} }}",
    "endless in arguments": f"{{ nodes(ids: [{'1 ' * 20_001}]) {{ id }} }}",
    "nested without end": "{ a " * 5_000 + "}" * 5_000,
    "a list of lists of lists": f"{{ nodes(ids: {'[' * 3_000}{']' * 3_000}) {{ id }} }}",
    "a type of lists of lists": f"query ($a: {'[' * 3_000}Int{']' * 3_000}) {{ __typename }}",
    "too much to compare": f"{{ {'serverInfo { version } ' * 999} }}",
}


# Which limit that is, and the value that is told.
LIMITS = {
    "deep": ("depth", 15, 18),
    "wide": ("fields", 2_000, 2_001),
    "multiplied by fragments": ("fields", 2_000, 2_700),
    "more objects than anybody reads": ("cost", 50_000, 2_020_200),
    "more points than anybody draws": ("cost", 50_000, 80_201),
    "more to read than anybody gives": ("cost", 50_000, 20 * (6 * 1_991 + 39 + 1)),
    "endless in tokens": ("tokens", 20_000, 20_001),
    "endless in characters": ("characters", 500_000, 500_001),
    "endless in arguments": ("tokens", 20_000, 20_001),
    "nested without end": ("nesting", 200, 201),
    "a list of lists of lists": ("nesting", 200, 201),
    "a type of lists of lists": ("nesting", 200, 201),
    "too much to compare": ("comparisons", 50_000, 50_001),
}


@pytest.mark.parametrize("what", TOO_LARGE)
async def test_an_operation_that_is_too_large_is_refused_before_it_is_run(
    http: httpx.AsyncClient, what: str
) -> None:
    variables = {
        "keys": [f"k{n}" for n in range(100)],
        "order": [{"field": "CREATED_AT"}] * 2_000,
    }

    response = await post(http, {"query": TOO_LARGE[what], "variables": variables})

    assert response.status_code == 422
    [error] = response.json()["errors"]
    name, limit, value = LIMITS[what]
    assert error["extensions"] == {
        "code": "LIMIT_EXCEEDED",
        "name": name,
        "limit": limit,
        "value": value,
    }
    assert f"{limit:,}" in error["message"]
    assert "data" not in response.json()


SHOWN = {
    "a text": "experiment(name: $name) { a: description b: description runs { totalCount } }",
    "a text that is written": "experiment(name: $name) { a: description b: description }",
    "JSON": 'modelVersion(by: { nameVersion: { modelName: $name, version: "1" } }) '
    "{ a: hyperparameters b: hyperparameters }",
    "a list of texts": "experiments(filter: { nameContains: $name }) "
    "{ nodes { a: description b: description } }",
}


@pytest.mark.parametrize("what", SHOWN)
async def test_the_texts_of_an_answer_have_an_end_however_often_they_are_shown(
    graph: Graph, unique: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    # given
    text = "x" * 600
    await graph.done("createExperiment", {"name": unique, "description": text}, "experiment { id }")
    version = {"modelName": unique, "hyperparameters": {"a": text}}
    await graph.done("registerModelVersion", version, "modelVersion { id }")
    monkeypatch.setattr(executor, "MAX_SHOWN", 1_000)

    # when
    asked = f"query ($name: String!) {{ {SHOWN[what]} }}"
    twice = await graph.answer(asked, {"name": unique})
    once = await graph.answer(re.sub(r" b: \w+", "", asked), {"name": unique})

    # then
    [error] = twice["errors"]
    assert "data" not in twice
    assert (error["extensions"]["name"], error["extensions"]["limit"]) == ("text", 1_000)
    assert error["extensions"]["value"] == 1_001
    assert "errors" not in once


async def test_a_change_whose_answer_is_too_long_is_made(
    graph: Graph, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "MAX_SHOWN", 1_000)
    asked = """mutation ($input: CreateExperimentInput!) { createExperiment(input: $input) {
        ... on CreateExperimentSuccess { experiment { a: description b: description } } } }"""

    answer = await graph.answer(asked, {"input": {"name": unique, "description": "x" * 600}})

    assert answer["errors"][0]["extensions"]["name"] == "text"
    assert "it has been made" in answer["errors"][0]["message"]
    again = await graph.mutate("createExperiment", {"name": unique})
    assert again["code"] == "ALREADY_EXISTS"


@pytest.mark.parametrize("what", ["deep", "wide", "multiplied by fragments", "too much to compare"])
async def test_the_limits_hold_on_websockets_and_in_streams_too(
    live: Live, http: httpx.AsyncClient, what: str
) -> None:
    async with socket(live.url) as opened:
        id = await opened.start(TOO_LARGE[what])
        refused = await opened.receive()
        assert (refused["type"], refused["id"]) == ("error", id)
        assert refused["payload"][0]["extensions"]["code"] == "LIMIT_EXCEEDED"
    stream = await post(http, {"query": TOO_LARGE[what]}, accept=STREAM)

    assert '"code":"LIMIT_EXCEEDED"' in stream.text


@pytest.mark.parametrize(
    "fragments",
    [
        "fragment f on Query { ...f }",
        "fragment f on Query { ...g } fragment g on Query { ...f }",
        "fragment f on Query { serverInfo { ...g } } fragment g on ServerInfo { version ...g }",
    ],
)
async def test_fragments_in_a_circle_are_refused(http: httpx.AsyncClient, fragments: str) -> None:
    check(await post(http, {"query": "{ ...f } " + fragments}), 422, "GRAPHQL_VALIDATION_FAILED")


async def test_a_document_is_answered_the_same_however_often_it_comes(
    http: httpx.AsyncClient, graph: Graph, unique: str
) -> None:
    # Given a valid document whose size and operation depend on the request
    await graph.done("createExperiment", {"name": unique}, "experiment { id }")
    pages = "runs(first: 100) { nodes { logs(first: 99) { nodes { line } } } }"
    query = (
        f"query a($n: Int) {{ experiments(first: $n) {{ nodes {{ {pages} }} }} }} "
        f'query b {{ experiment(name: "{unique}") {{ name }} }} # {unique}'
    )
    few = {"query": query, "operationName": "a", "variables": {"n": 1}}
    many = {"query": query, "operationName": "a", "variables": {"n": 100}}
    other = {"query": query, "operationName": "b", "variables": {"n": 1}}
    unnamed = {"query": query, "variables": {"n": 1}}

    async def answers() -> list[tuple[int, Json]]:
        found = [await post(http, body) for body in (few, many, other, unnamed)]
        return [(response.status_code, response.json()) for response in found]

    # When it is new, and when it is not
    first = await answers()
    again = await answers()

    # Then each request is measured and checked by itself
    assert again == first
    assert [status for status, _ in first] == [200, 422, 200, 422]
    assert first[1][1]["errors"][0]["extensions"]["code"] == "LIMIT_EXCEEDED"
    assert first[2][1] == {"data": {"experiment": {"name": unique}}}
    assert first[3][1]["errors"][0]["extensions"] == {"code": "GRAPHQL_VALIDATION_FAILED"}


@pytest.mark.parametrize("query", ["{ nowhere }", "{", "{ experiment(name: 3) { name } }"])
async def test_a_document_that_is_not_valid_is_refused_each_time(
    http: httpx.AsyncClient, query: str
) -> None:
    first = await post(http, {"query": query})

    assert first.status_code in (400, 422)
    assert (await post(http, {"query": query})).json() == first.json()


async def test_a_thousand_aliases_are_within_the_limits(http: httpx.AsyncClient) -> None:
    query = f"{{ {' '.join(f'a{n}: __typename' for n in range(1_000))} }}"

    assert len((await post(http, {"query": query})).json()["data"]) == 1_000


async def test_variables_of_more_than_anything_takes_are_refused_over_both_transports(
    live: Live, graph: Graph
) -> None:
    query = "query ($order: [RunOrder!]) { runs(orderBy: $order) { totalCount } }"
    many = {"order": [{"field": "CREATED_AT"}] * MAX_GIVEN}

    over_http = await graph.answer(query, many)
    async with socket(live.url) as opened:
        id = await opened.start(query, many)
        over_socket = await opened.receive()

    error = {
        "message": "The variables of a request may have 8,000 lists and objects.",
        "extensions": {
            "code": "LIMIT_EXCEEDED",
            "name": "variables",
            "limit": MAX_GIVEN,
            "value": MAX_GIVEN + 2,
        },
    }
    assert over_http == {"errors": [error]}
    assert over_socket == {"id": id, "type": "error", "payload": [error]}
