"""The log of `lifecycle serve`: one JSON object a line, which tells requests apart."""

import json
from pathlib import Path
from typing import Any

from tests.client import Graph, socket
from tests.conftest import Process
from tests.following import until


def lines(log: Path) -> list[dict[str, Any]]:
    """What has been logged; fails unless every line is a JSON object."""
    return [json.loads(line) for line in log.read_text().splitlines()]


async def request_line(served: Process, request_id: str) -> dict[str, Any]:
    """The only line of a request; it comes after the answer."""

    def found() -> list[dict[str, Any]]:
        return [line for line in lines(served.log) if line.get("request_id") == request_id]

    await until(found)
    [line] = found()
    return line


async def test_a_request_is_one_line_with_its_id_and_operation(
    served: Process, unique: str
) -> None:
    # when
    async with Graph(served.url) as graph:
        response = await graph.http.post(
            "/graphql",
            json={
                "query": "query Named($id: ID!) { experiment(id: $id) { name } }",
                "variables": {"id": "a-secret-of-somebody"},
            },
            headers={"x-request-id": unique, "authorization": "Bearer hidden-token"},
        )

    # then
    assert response.headers["x-request-id"] == unique
    line = await request_line(served, unique)
    milliseconds, timestamp = line.pop("milliseconds"), line.pop("timestamp")
    assert line == {
        "event": "request",
        "level": "info",
        "logger": "schema.app",
        "method": "POST",
        "operation": "Named",
        "path": "/graphql",
        "request_id": unique,
        "status": response.status_code,
    }
    assert milliseconds > 0
    assert timestamp.endswith("Z")
    assert "secret" not in served.log.read_text()
    assert "hidden-token" not in served.log.read_text()


async def test_a_request_without_an_id_gets_one(served: Process) -> None:
    # when
    async with Graph(served.url) as graph:
        given = [
            (await graph.http.get("/", headers=headers)).headers["x-request-id"]
            for headers in ({}, {"x-request-id": "not an id"}, {"x-request-id": "x" * 101})
        ]

    # then
    assert len(set(given)) == 3
    assert not {"not an id", "x" * 101} & set(given)
    for request_id in given:
        line = await request_line(served, request_id)
        assert (line["method"], line["path"], line["status"]) == ("GET", "/", 307)
        assert line["operation"] is None


async def test_failures_are_logged_with_their_status_and_without_what_was_sent(
    served: Process, unique: str
) -> None:
    # when
    async with Graph(served.url) as graph:
        for n, body in enumerate((b"{ not JSON: s3cr3t", b'{"query": "{ s3cr3t }"}')):
            headers = {"content-type": "application/json", "x-request-id": f"{unique}-{n}"}
            await graph.http.post("/graphql", content=body, headers=headers)

    # then
    logged = [await request_line(served, f"{unique}-{n}") for n in range(2)]
    assert [line["status"] for line in logged] == [400, 422]
    assert "s3cr3t" not in served.log.read_text()


async def test_health_is_not_logged_and_a_websocket_when_it_ends(
    served: Process, unique: str
) -> None:
    # when
    async with Graph(served.url) as graph:
        await graph.http.get("/healthz", headers={"x-request-id": unique})
        await graph.http.get("/readyz", headers={"x-request-id": unique})
    before = len(lines(served.log))
    async with socket(served.url) as watching:
        await watching.start("{ __typename }")
        await watching.receive()

    # then
    await until(lambda: len(lines(served.log)) > before)
    assert unique not in served.log.read_text()
    ended = lines(served.log)[-1]
    assert (ended["method"], ended["path"], ended["status"]) == ("WEBSOCKET", "/graphql", 101)


async def test_the_log_names_no_password(served: Process, database_url: str) -> None:
    assert lines(served.log), "it has at least said that it started"
    assert database_url not in served.log.read_text()
