"""Operations that are asked for by the id of their document, and the commands that register it."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from click.testing import CliRunner, Result

from lifecycle.__main__ import main
from schema import trusted
from tests.client import Graph, Json, socket
from tests.conftest import Live, in_thread, serving

STREAM = {"accept": "text/event-stream"}


def command(*arguments: str) -> Result:
    """`lifecycle documents …`, as a person types it."""
    found: list[Result] = []
    in_thread(lambda: found.append(CliRunner().invoke(main, ["documents", *arguments])))
    return found[0]


class Documents:
    """The registered documents of the tests' database."""

    def __init__(self, url: str, directory: Path) -> None:
        self._where = ("--database-url", url)
        self._directory = directory

    def file(self, text: str) -> str:
        path = self._directory / f"{hashlib.sha256(text.encode()).hexdigest()[:8]}.graphql"
        path.write_text(text)
        return str(path)

    def add(self, *texts: str) -> Result:
        return command("add", *self._where, *map(self.file, texts))

    def remove(self, *ids: str) -> Result:
        return command("remove", *self._where, *ids)

    def list(self) -> list[str]:
        return command("list", *self._where).output.splitlines()


@pytest.fixture
def documents(database_url: str, tmp_path: Path) -> Documents:
    return Documents(database_url, tmp_path)


def digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


@pytest_asyncio.fixture(scope="module", params=["compiled", "stock"])
async def strict(database_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Live]:
    """A service that executes registered operations only."""
    settings = {"trusted_documents": True, "execution": request.param}
    async with serving(database_url, **settings) as service:
        yield service


@pytest_asyncio.fixture
async def client(strict: Live) -> AsyncIterator[Graph]:
    async with Graph(strict.url) as opened:
        yield opened


async def post(graph: Graph, **body: object) -> httpx.Response:
    return await graph.http.post("/graphql", json=body)


def refusal(code: str, message: str) -> Json:
    extensions: Json = {"code": code}
    if code != "FORBIDDEN":
        extensions["argument"] = ["documentId"]
    return {"errors": [{"message": message, "extensions": extensions}]}


ONLY = refusal("FORBIDDEN", "Only operations that are registered are executed; give a documentId.")


async def test_an_operation_is_asked_for_by_the_id_that_its_text_has(
    client: Graph, graph: Graph, documents: Documents, unique: str
) -> None:
    # Given a document that was registered after the service had started
    name = unique.replace("-", "_")
    text = f"query Find($n: String!) {{ {name}: experiment(name: $n) {{ name }} }}\n"
    added = documents.add(text)
    id = digest(text)
    await graph.done("createExperiment", {"name": unique}, "experiment { id }")
    variables = {"n": unique}
    data = {"data": {name: {"name": unique}}}

    # Then it is executed by its id, over each transport, where others are executed and where not,
    assert added.output.split()[0] == id
    for each in (client, graph):
        for _ in range(2):
            answer = await post(each, documentId=id, variables=variables, operationName="Find")
            assert (answer.status_code, answer.json()) == (200, data)
        params = {"documentId": id, "variables": f'{{"n": "{unique}"}}'}
        for accept in ("application/json", "text/html"):
            by_get = await each.http.get("/graphql", params=params, headers={"accept": accept})
            assert by_get.json() == data
        streamed = await each.http.post(
            "/graphql", json={"documentId": id, "variables": variables}, headers=STREAM
        )
        assert f'"name":"{unique}"' in streamed.text
        async with socket(each.url) as opened:
            payload = {"documentId": id, "variables": variables}
            await opened.send({"type": "subscribe", "id": "1", "payload": payload})
            assert (await opened.receive())["payload"] == data
    # and by exactly its text.
    answer = await post(client, query=text, variables=variables)
    assert (answer.status_code, answer.json()) == (200, data)
    assert (await post(client, query=text, documentId=id, variables=variables)).json() == data


@pytest.mark.parametrize(
    "body",
    [
        {"query": "{ __typename }"},
        {"query": "{ __schema { queryType { name } } }"},
        {"query": "{ nope }"},
        {"query": "{"},
        {"query": 'mutation { createExperiment(input: { name: "x" }) { __typename } }'},
        {"query": "subscription { deploymentStatus { __typename } }"},
    ],
)
async def test_other_operations_are_refused_where_only_registered_ones_are_executed(
    strict: Live, client: Graph, body: Json
) -> None:
    answer = await post(client, **body)
    async with socket(strict.url) as opened:
        await opened.send({"type": "subscribe", "id": "1", "payload": body})
        over_socket = await opened.receive()

    assert (answer.status_code, answer.json()) == (403, ONLY)
    assert over_socket == {"id": "1", "type": "error", "payload": ONLY["errors"]}


async def test_a_registered_text_is_another_when_it_differs_by_a_space(
    client: Graph, documents: Documents, unique: str
) -> None:
    text = f'{{ experiment(name: "{unique}") {{ id }} }}'
    documents.add(text)

    assert (await post(client, query=text)).status_code == 200
    assert (await post(client, query=text + " ")).json() == ONLY


NO_ID = refusal(
    "INVALID_INPUT", "documentId must be sha256: and 64 digits of a digest, 0 to 9 and a to f."
)


@pytest.mark.parametrize(
    "id",
    [
        "",
        "x",
        "a" * 64,
        "sha256:",
        "sha256:" + "a" * 63,
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 64 + "\n",
        "sha256:" + "a" * 100_000,
        "md5:" + "a" * 64,
        "../../etc/passwd",
    ],
)
async def test_an_id_that_is_none_is_refused(graph: Graph, client: Graph, id: str) -> None:
    for each in (graph, client):
        answer = await post(each, documentId=id)
        if not id:
            assert answer.status_code == 400
        else:
            assert (answer.status_code, answer.json()) == (422, NO_ID)


async def test_an_id_of_nothing_is_not_found(live: Live, graph: Graph, client: Graph) -> None:
    id = digest("of nothing")
    missing = refusal("NOT_FOUND", f"There is no trusted document {id}.")

    for each in (graph, client):
        answer = await post(each, documentId=id)
        assert (answer.status_code, answer.json()) == (404, missing)
    async with socket(live.url) as opened:
        await opened.send({"type": "subscribe", "id": "1", "payload": {"documentId": id}})
        assert (await opened.receive())["payload"] == missing["errors"]


async def test_an_id_that_is_not_that_of_the_query_is_refused(graph: Graph) -> None:
    answer = await post(graph, query="{ __typename }", documentId=digest("{ other }"))

    message = "documentId is not the digest of the query; give only one of them."
    assert (answer.status_code, answer.json()) == (422, refusal("INVALID_INPUT", message))


async def test_a_document_that_was_removed_is_forgotten(
    client: Graph, documents: Documents, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a process knows it looks at again after some seconds, which here are over at once.
    monkeypatch.setattr(trusted, "FRESH_SECONDS", 0)
    text = f'{{ experiment(name: "{unique}") {{ id }} }}'
    documents.add(text)
    for _ in range(2):
        assert (await post(client, documentId=digest(text))).status_code == 200

    removed = documents.remove(digest(text))
    again = documents.remove(digest(text))

    assert (removed.exit_code, removed.output) == (0, "")
    assert (again.exit_code, again.output) == (1, f"Error: There was no document {digest(text)}.\n")
    assert (await post(client, documentId=digest(text))).status_code == 404


async def test_documents_are_listed_with_their_operations(
    documents: Documents, unique: str
) -> None:
    name = unique.replace("-", "_")
    text = f"query {name} {{ __typename }} mutation m_{name} {{ __typename }}"
    for _ in range(2):
        assert documents.add(text).exit_code == 0

    found = [line for line in documents.list() if name in line]

    assert found == [f"{digest(text)} query {name}, mutation m_{name}"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Syntax Error: Expected Name, found <EOF>."),
        ("{ nope }", "Cannot query field 'nope' on type 'Query'."),
        ("fragment f on Query { __typename }", "Fragment 'f' is never used."),
        ("{ a " * 300 + "}" * 300, "Document is nested too deeply."),
        (
            "{ experiments(first: 100) { nodes { runs(first: 100) { nodes { "
            "logs(first: 100) { nodes { line } } } } } } }",
            "The operation may cost 2020200; 50,000 are allowed.",
        ),
    ],
)
async def test_what_would_not_be_executed_is_not_registered_nor_what_comes_with_it(
    documents: Documents, unique: str, text: str, reason: str
) -> None:
    good = f'query Good {{ experiment(name: "{unique}") {{ id }} }}'

    refused = documents.add(good, text)

    assert refused.exit_code == 1
    assert "cannot be registered" in refused.output
    assert reason in refused.output
    assert not [line for line in documents.list() if line.startswith(digest(good))]
