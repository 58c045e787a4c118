"""The log of `lifecycle serve`: one JSON object a line, which tells requests apart."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.client import PATIENCE, Graph, socket
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


async def test_no_secret_of_a_request_is_logged_whatever_becomes_of_it(
    served: Process, unique: str
) -> None:
    # Given a secret in every place where a client may put one
    secret = f"s3cr3t-{unique}"
    headers = {"authorization": f"Bearer {secret}", "cookie": f"session={secret}"}
    body = {"query": f'{{ experiment(name: "{secret}") {{ id }} }}', "variables": {"x": secret}}

    # When it comes by HTTP, well or badly formed,
    async with Graph(served.url) as graph:
        for path in ("/graphql", "/artifacts/internal/sha256/ab/ab", "/nowhere", "/readyz"):
            url = f"{path}?access_token={secret}&signature={secret}"
            await graph.http.get(url, headers=headers)
            await graph.http.post(url, headers=headers, json=body)
            await graph.http.put(url, headers={**headers, "host": secret}, content=secret)
        await graph.http.post("/graphql", headers=headers, content=f"{{{secret}")
    # and over websockets, that are let in or not
    address = served.url.replace("http", "ws", 1) + f"/graphql?access_token={secret}"
    for origin in (None, "https://stranger.example.com"):
        with suppress(InvalidStatus):
            async with connect(
                address,
                subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
                additional_headers=headers,
                origin=origin,  # type: ignore[arg-type]
                proxy=None,
            ) as opened:
                init = {"type": "connection_init", "payload": {"authorization": secret}}
                await opened.send(json.dumps(init))
                await opened.recv()
                await opened.send(json.dumps({"type": secret}))
    async with Graph(served.url) as graph:
        await graph.http.get("/", headers={"x-request-id": unique})
    await request_line(served, unique)

    # Then none of it is in the log.
    assert secret not in served.log.read_text()


def test_what_cannot_be_reached_is_logged_without_its_password(tmp_path: Path) -> None:
    environment = {
        "LIFECYCLE_DATABASE_URL": "postgresql://me:s3cr3t-db@127.0.0.1:1/x",
        "MLFLOW_TRACKING_URI": "http://me:s3cr3t-mlflow@127.0.0.1:1",
    }
    commands = (["serve", "--port", "0"], ["worker"])

    for command in commands:
        ended = subprocess.run(
            [sys.executable, "-m", "lifecycle", *command],
            env=os.environ | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ended.returncode != 0
        assert "s3cr3t" not in ended.stdout + ended.stderr
        assert "Traceback" not in ended.stderr
