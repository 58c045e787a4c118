"""GraphiQL as a person meets it: a real Chromium, the page as served, no internet."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import pytest
from click.testing import CliRunner
from playwright.sync_api import ConsoleMessage, Page, WebSocket, expect, sync_playwright

from lifecycle.__main__ import main
from tests.conftest import forked

SOURCE = Path(__file__).parents[2] / "schema" / "graphiql"
BUILT = Path(__file__).parents[2] / "schema" / "static" / "graphiql" / "index.html"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # No internet: every other name fails to resolve.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


class Served(Protocol):
    @property
    def url(self) -> str: ...


@dataclass
class Opened:
    """The page, and what it did."""

    page: Page
    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)  # over websockets

    def record_websocket(self, websocket: WebSocket) -> None:
        self.requests.append(websocket.url)
        websocket.on("framesent", lambda frame: self.sent.append(json.loads(frame)))

    def record_message(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.problems.append(message.text)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def variables(self, values: dict[str, Any]) -> None:
        """Put these in the place of what stands under Variables."""
        self._replace("Variables", values)

    def headers(self, values: dict[str, str]) -> None:
        """The same for Headers."""
        self._replace("Headers", values)

    def _replace(self, tool: str, values: dict[str, Any]) -> None:
        self.page.get_by_role("button", name=tool, exact=True).click()
        self.page.locator(f'.graphiql-editor-tool [data-uri$="{tool.lower()}.json"]').click()
        self.page.keyboard.press("ControlOrMeta+A")
        self.page.keyboard.insert_text(json.dumps(values))
        self.page.keyboard.press("ControlOrMeta+Shift+End")  # The editor closes what it thinks is
        self.page.keyboard.press("Delete")  # open.

    def execute(self) -> None:
        self.page.get_by_role("button", name="Execute query").click()

    def expect_response(self, text: str) -> None:
        expect(self.page.locator(".graphiql-response .view-lines")).to_contain_text(text)


@pytest.fixture(scope="module")
def built() -> None:
    """The page, built if nobody has: `make test` does so, plain pytest need not have."""
    if not BUILT.exists():
        assert shutil.which("npm"), "To build GraphiQL, install Node.js with npm."
        for command in (["npm", "ci"], ["npm", "run", "build"]):
            subprocess.run(command, cwd=SOURCE, check=True)
    assert CHROMIUM, "The tests of GraphiQL need Chromium or Chrome; please install it."


@pytest.fixture
def graphiql(built: None, served: Served) -> Iterator[Opened]:
    with opened_at(served.url) as opened:
        yield opened


@contextmanager
def opened_at(url: str) -> Iterator[Opened]:
    """The page of the service at this address."""
    # Opened anew for each test: while Playwright is at work in this thread, no asynchronous
    # fixture or test can be.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=FLAGS,
            chromium_sandbox=os.geteuid() != 0,  # Chromium refuses a sandbox to root.
        )
        page = browser.new_page()
        page.set_default_timeout(20_000)
        expect.set_options(timeout=20_000)
        opened = Opened(page)
        page.on("request", lambda request: opened.requests.append(request.url))
        page.on("websocket", opened.record_websocket)
        page.on("pageerror", lambda error: opened.problems.append(str(error)))
        page.on("console", opened.record_message)
        page.goto(f"{url}/graphql")
        expect(page.get_by_role("button", name="Execute query")).to_be_visible()
        # The editors come in pieces; the colours of the query are the last of them.
        expect(page.locator(".graphiql-query-editor .mtk1").first).to_be_visible()
        yield opened
        browser.close()


def graphql(served: Served, document: str, **variables: Any) -> Any:
    answer = httpx.post(
        f"{served.url}/graphql", json={"query": document, "variables": variables}
    ).json()
    assert "errors" not in answer, answer
    return answer["data"]


def test_a_query_shows_its_result(graphiql: Opened) -> None:
    expect(graphiql.page).to_have_title("ML Lifecycle")

    graphiql.execute()

    graphiql.expect_response('"serverInfo"')
    graphiql.expect_response('"totalCount"')
    assert graphiql.problems == []


def test_a_mutation_takes_variables_and_headers(graphiql: Opened) -> None:
    graphiql.tab("LogRun")
    graphiql.execute()

    graphiql.expect_response('"COMPLETED"')
    graphiql.expect_response('"me@example.com"')
    assert graphiql.problems == []


@pytest.mark.slow
def test_an_approver_sees_what_waits_and_decides(graphiql: Opened, served: Served) -> None:
    model = f"seen-{token_hex(4)}"
    version = {"nameVersion": {"modelName": model, "version": "1"}}
    graphql(
        served,
        """
        mutation ($new: RegisterModelVersionInput!, $submission: SubmitForApprovalInput!) {
          registerModelVersion(input: $new) { __typename }
          submitForApproval(input: $submission) { __typename }
        }
        """,
        new={"modelName": model, "version": "1"},
        submission={"modelVersion": version},
    )
    graphiql.tab("PendingApprovals")
    graphiql.execute()
    graphiql.expect_response(f'"{model}"')

    graphiql.tab("DecideApproval")
    graphiql.variables({"input": {"modelVersion": version, "decision": "APPROVE"}})
    graphiql.execute()

    graphiql.expect_response('"approver@example.com"')
    graphiql.expect_response('"STAGING"')
    assert graphiql.problems == []


@pytest.mark.slow
def test_a_tab_can_be_an_administrators(graphiql: Opened, served: Served) -> None:
    model = f"seen-{token_hex(4)}"
    register = "mutation ($input: RegisterModelVersionInput!) { "
    register += "registerModelVersion(input: $input) { __typename } }"
    graphql(served, register, input={"modelName": model})
    graphiql.tab("SetStagePolicy")
    graphiql.variables({"input": {"modelName": model, "stage": "STAGING", "rules": []}})
    graphiql.execute()

    graphiql.expect_response('"stagePolicy"')  # and not FORBIDDEN, as for others
    assert graphiql.problems == []


@pytest.mark.slow
def test_who_signs_in_does_so_in_one_tab_for_all(built: None, database_url: str) -> None:
    made = CliRunner().invoke(
        main, ["token", "create", "browser", "--role", "VIEWER", "--database-url", database_url]
    )
    token = made.stdout.strip()
    with (
        forked("--database-url", database_url, LIFECYCLE_SIGN_IN="tokens") as signed,
        opened_at(signed.url) as graphiql,
    ):
        graphiql.execute()
        graphiql.expect_response('"UNAUTHENTICATED"')

        graphiql.headers({"Authorization": f"Bearer {token}"})
        graphiql.execute()
        graphiql.expect_response('"serverInfo"')

        graphiql.tab("DeploymentStatus")
        graphiql.execute()
        graphiql.expect_response('"CaughtUp"')
    payload = {"actor": "me@example.com", "authorization": f"Bearer {token}"}
    assert graphiql.sent[0] == {"type": "connection_init", "payload": payload}


def test_a_subscription_shows_what_happens(graphiql: Opened, served: Served) -> None:
    model = f"seen-{token_hex(4)}"  # short: the editor breaks long lines
    graphiql.tab("DeploymentStatus")
    graphiql.execute()
    graphiql.expect_response('"CaughtUp"')

    data = graphql(
        served,
        """
        mutation ($input: RegisterModelVersionInput!) {
          registerModelVersion(input: $input) {
            ... on RegisterModelVersionSuccess { modelVersion { id } }
            ... on Error { message }
          }
        }
        """,
        input={"modelName": model},
    )
    version = data["registerModelVersion"]["modelVersion"]["id"]
    data = graphql(
        served,
        """
        mutation ($input: CreateDeploymentInput!) {
          createDeployment(input: $input) {
            ... on CreateDeploymentSuccess { deployment { id } }
            ... on Error { message }
          }
        }
        """,
        input={"modelVersion": {"id": version}, "environment": "DEVELOPMENT"},
    )
    assert data["createDeployment"]["deployment"]

    graphiql.expect_response('"DeploymentStatusEvent"')
    graphiql.expect_response(f'"{model}"')
    assert graphiql.sent[0] == {
        "type": "connection_init",
        "payload": {"actor": "me@example.com"},
    }

    graphiql.page.get_by_role("button", name="Stop query").click()

    expect(graphiql.page.get_by_role("button", name="Execute query")).to_be_visible()
    assert graphiql.sent[-1]["type"] == "complete"
    assert graphiql.problems == []


@pytest.mark.slow
def test_the_page_asks_no_other_host(graphiql: Opened, served: Served) -> None:
    graphiql.execute()
    graphiql.expect_response('"serverInfo"')
    graphiql.tab("DeploymentStatus")
    graphiql.execute()
    graphiql.expect_response('"CaughtUp"')
    graphiql.page.get_by_role("button", name="Show Documentation Explorer").click()
    expect(graphiql.page.get_by_text("Root Types")).to_be_visible()

    hosts = {urlsplit(url).netloc for url in graphiql.requests if not url.startswith("data:")}
    assert hosts == {urlsplit(served.url).netloc}
    assert any(url.startswith("ws:") for url in graphiql.requests)
    assert graphiql.problems == []
