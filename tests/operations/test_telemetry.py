"""What operators see: metrics of all processes at one address, traces, and a dashboard."""

import json
import os
import re
import signal
import socket as sockets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.parser import text_string_to_metric_families

from lifecycle.telemetry.address import answering
from tests.client import PATIENCE, Graph, socket
from tests.conftest import Process, forked, forks
from tests.factories import a_run
from tests.following import RUN, present, until

pytestmark = pytest.mark.slow

DASHBOARD = Path(__file__).parents[2] / "monitoring" / "grafana.json"
NAMED = "query Named { experiments(first: 1) { nodes { id runs(first: 1) { nodes { id } } } } }"

MAKE = "mutation Make($name: String!) { createExperiment(input: {name: $name}) { __typename } }"


class Scraped:
    """What an address answers."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))

    def __call__(self, name: str, **labels: str) -> float:
        """The sum over all series with this name and these labels."""
        return sum(
            sample.value
            for family in self.families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels(self, name: str, label: str) -> list[str]:
        """The values of a label."""
        return [
            sample.labels[label]
            for family in self.families
            for sample in family.samples
            if sample.name == name
        ]


def address(service: Process) -> str:
    """Where its metrics are; the second line that it prints."""
    assert service.popen.stdout is not None
    return re.search(r"http://\S+/metrics", service.popen.stdout.readline())[0]  # type: ignore[index]


def scrape(url: str) -> Scraped:
    return Scraped(
        httpx.get(url, timeout=PATIENCE, trust_env=False, verify=False).raise_for_status().text
    )


def workers(service: Process) -> list[psutil.Process]:
    """The processes that serve."""
    found = []
    for child in psutil.Process(service.popen.pid).children():
        with suppress(psutil.Error):  # it has been killed just now
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_a_process_that_just_begins_to_count_keeps_nobody_from_reading(
    database_url: str, tmp_path: Path
) -> None:
    # given: a file as it is before anything is in it
    (tmp_path / "counter_1.db").touch()
    with (
        sockets.create_server(("127.0.0.1", 0)) as sock,
        answering(sock, tmp_path, database_url, None),
    ):
        found = scrape(f"http://127.0.0.1:{sock.getsockname()[1]}/metrics")

        assert found("lifecycle_database_up") == 1


async def test_one_address_tells_of_all_processes_whoever_answered(
    own_database_url: str, unique: str
) -> None:
    options = ("--workers", "3", "--database-url", own_database_url)
    with forked(*options, LIFECYCLE_METRICS="127.0.0.1:0") as service:
        metrics = address(service)
        # given: operations that end in each way, over each transport, in whichever process
        await until(lambda: len(workers(service)) == 3)
        pids = {str(worker.pid) for worker in workers(service)}
        await until(lambda: {*scrape(metrics).labels("lifecycle_resident_bytes", "pid")} == pids)
        async with Graph(service.url) as graph:
            run = await a_run(graph, unique)
        before = scrape(metrics)
        for _ in range(6):
            async with Graph(service.url) as graph:
                await graph.query(NAMED)
                await graph.error("query Named { nothing }")
                await graph.mutate("createExperiment", {"name": f"{unique}-new"})
        async with socket(service.url) as opened:
            await opened.start("query Socket { serverInfo { version } }")
            assert (await opened.receive())["type"] == "next"
            assert (await opened.receive())["type"] == "complete"
            stream = opened.subscribe(
                RUN.replace("subscription", "subscription Following"), {"id": run}
            )
            await present(stream)

            # when
            await until(lambda: scrape(metrics)("lifecycle_subscribers") == 1)
            after = scrape(metrics)

            # then
            def more(name: str, **labels: str) -> float:
                return after(name, **labels) - before(name, **labels)

            counted = "lifecycle_operations_total"
            assert more(counted, operation="Named", type="query", outcome="OK") == 6
            assert more(counted, operation="other", outcome="GRAPHQL_VALIDATION_FAILED") == 6
            assert more(counted, operation="anonymous", type="mutation", outcome="OK") == 1
            assert more(counted, type="mutation", outcome="ALREADY_EXISTS") == 5
            assert more(counted, operation="Socket", outcome="OK") == 1
            assert more(counted, operation="Following", type="subscription") == 1
            assert more("lifecycle_operation_seconds_count", operation="Named") == 6
            assert more("lifecycle_http_requests_total", route="/graphql", status="200") == 12
            assert more("lifecycle_http_requests_total", route="/graphql", status="422") == 6
            assert more("lifecycle_loader_batch_size_count") > 0
            assert more("lifecycle_statement_seconds_count", pool="read") >= 12
            assert more("lifecycle_statement_seconds_count", pool="write") >= 12
            assert after("lifecycle_database_up") == 1
            assert after("lifecycle_journal_position") >= 2
            assert {*after.labels("lifecycle_resident_bytes", "pid")} == pids

            # and the dead do not count as alive, though what they have counted stays
            for worker in workers(service):
                worker.kill()
            await until(lambda: pids.isdisjoint(str(each.pid) for each in workers(service)))

            def alive() -> set[str]:
                return set(scrape(metrics).labels("lifecycle_resident_bytes", "pid"))

            await until(lambda: len(alive()) == 3 and pids.isdisjoint(alive()))
            then = scrape(metrics)
            assert then("lifecycle_subscribers") == 0
            assert then(counted, operation="Named") == after(counted, operation="Named")
        assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ, "it is set by the service itself"
        assert service.stop() == 0


async def test_who_chooses_names_fills_no_memory(own_database_url: str) -> None:
    options = ("--database-url", own_database_url)
    with forked(*options, LIFECYCLE_METRICS="127.0.0.1:0") as service:
        metrics = address(service)
        async with Graph(service.url) as graph:
            for n in range(230):
                await graph.query(f"query Name{n} {{ __typename }}")
                if n == 10:
                    await graph.query(f"query {'N' * 101} {{ __typename }}")

        found = scrape(metrics)

    names = set(found.labels("lifecycle_operations_total", "operation"))
    assert names == {f"Name{n}" for n in range(200)} | {"other"}
    assert found("lifecycle_operations_total", operation="other") == 31


@contextmanager
def working(*options: str) -> Iterator[str]:
    """`lifecycle worker`; the address of its metrics."""
    environment = os.environ | {"LIFECYCLE_METRICS": "127.0.0.1:0"}
    worker = forks().piped("-m", "lifecycle", "worker", *options, stderr=2, env=environment)
    assert worker.stdout is not None
    with worker.stdout as said:
        try:
            assert said.readline().startswith("Mirroring to ")
            yield re.search(r"http://\S+/metrics", said.readline())[0]  # type: ignore[index]
        finally:
            worker.send_signal(signal.SIGTERM)
            code = worker.wait(PATIENCE)
    assert code == 0


async def test_a_worker_tells_what_it_has_done_and_what_is_left(
    own_database_url: str, unique: str
) -> None:
    # Given something to mirror, and an MLflow that is not there
    options = ("--database-url", own_database_url)
    with forked(*options) as service:
        async with Graph(service.url) as graph:
            await a_run(graph, unique)
        with working(*options, "--tracking-uri", "http://127.0.0.1:9") as metrics:
            # When it has read the journal
            def polled() -> float:
                return scrape(metrics)("lifecycle_mlflow_round_seconds_count", round="poll")

            await until(lambda: polled() > 2 and scrape(metrics)("lifecycle_mlflow_items") == 2)
            found = scrape(metrics)

    # Then it says so, and nothing of what it does not do.
    assert found("lifecycle_mlflow_reconciled_total") == 0
    assert set(found.labels("lifecycle_mlflow_reconciled_total", "outcome")) == {
        *("done", "failed", "later")
    }
    assert found("lifecycle_resident_bytes") > 0
    assert found("lifecycle_database_up") == 1
    assert "lifecycle_operations" not in [family.name for family in found.families]


async def test_the_dashboard_asks_only_for_what_there_is(own_database_url: str) -> None:
    options = ("--database-url", own_database_url, "--tracking-uri", "http://127.0.0.1:9")
    there_is = {"LIFECYCLE_METRICS": "127.0.0.1:0", "LIFECYCLE_READ_URL": own_database_url}
    with forked(*options, **there_is) as service:
        metrics = address(service)
        async with Graph(service.url) as graph:
            await graph.query(NAMED)
        await until(lambda: scrape(metrics).labels("lifecycle_mlflow_events", "server"))
        found = scrape(metrics)
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [
        target["expr"]
        for panel in dashboard["panels"]
        if panel["type"] != "row"
        for target in panel["targets"]
    ]
    asked += [each["query"] for each in dashboard["templating"]["list"]]

    there: dict[str, set[str]] = {}
    for family in found.families:
        for sample in family.samples:
            there.setdefault(sample.name, {"instance"}).update(sample.labels)

    used = {name for text in asked for name in re.findall(r"lifecycle_\w+", text)}
    assert used <= set(there)
    # each family that there is, is somewhere on it
    assert {family.name for family in found.families} == {
        re.sub("_(bucket|sum|count|total)$", "", name) for name in used
    }
    for text in asked:
        for name, labels in re.findall(r"(lifecycle_\w+)\{(.*?)\}", text):
            assert set(re.findall(r"(\w+)[!=]", labels)) <= there[name]


async def test_a_scrape_says_that_the_database_is_gone(tmp_path: Path) -> None:
    with forked(
        "--data-dir", str(tmp_path), LIFECYCLE_DATABASE_URL="", LIFECYCLE_METRICS="127.0.0.1:0"
    ) as service:
        metrics = address(service)
        async with Graph(service.url) as graph:
            await graph.query(NAMED)  # or it would not even have started when its database goes
        assert scrape(metrics)("lifecycle_database_up") == 1
        pid = int((tmp_path / "postgres" / "postmaster.pid").read_text().split()[0])
        psutil.Process(pid).kill()
        await until(lambda: not psutil.pid_exists(pid))

        found = scrape(metrics)

    assert found("lifecycle_database_up") == 0
    assert [f.name for f in found.families if f.name.startswith("lifecycle_journal")] == []


async def test_metrics_are_nowhere_unless_asked_for(served: Process) -> None:
    async with httpx.AsyncClient(
        base_url=served.url, trust_env=False, verify=False, timeout=PATIENCE
    ) as http:
        assert (await http.get("/metrics")).status_code == 404
    listening = {
        c.laddr.port
        for c in psutil.Process(served.popen.pid).net_connections()
        if c.status == psutil.CONN_LISTEN
    }
    assert listening == {urlsplit(served.url).port}


async def test_metrics_are_not_at_the_address_of_the_service(own_database_url: str) -> None:
    options = ("--database-url", own_database_url)
    with forked(*options, LIFECYCLE_METRICS="127.0.0.1:0") as service:
        address(service)
        async with httpx.AsyncClient(
            base_url=service.url, trust_env=False, verify=False, timeout=PATIENCE
        ) as http:
            assert (await http.get("/metrics")).status_code == 404


def test_an_address_that_is_taken_stops_the_start(database_url: str) -> None:
    with sockets.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = start(
            "--port", "0", "--database-url", database_url, LIFECYCLE_METRICS=f"127.0.0.1:{port}"
        )
    assert done.returncode == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in done.stderr


def test_a_protocol_that_is_not_spoken_stops_the_start() -> None:
    done = start(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4317", OTEL_EXPORTER_OTLP_PROTOCOL="grpc"
    )
    assert done.returncode == 2
    assert "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf, not 'grpc'." in done.stderr


def start(*options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Start the service, which is to refuse."""
    return subprocess.run(
        [sys.executable, "-m", "lifecycle", "serve", *options],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


@contextmanager
def collecting() -> Iterator[tuple[str, list[Span]]]:
    """A collector: its address, and the spans that it has been sent."""
    spans: list[Span] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", spans
        finally:
            server.shutdown()
            thread.join()


def said(span: Span) -> dict[str, Any]:
    """What a span says."""
    return {each.key: each.value.int_value or each.value.string_value for each in span.attributes}


async def test_a_trace_leads_from_the_caller_to_each_statement(
    own_database_url: str, unique: str
) -> None:
    caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    options = ("--database-url", own_database_url)
    with (
        collecting() as (url, spans),
        forked(*options, OTEL_EXPORTER_OTLP_ENDPOINT=url) as service,
    ):
        async with Graph(service.url) as graph:
            await graph.http.get("/readyz")
            await graph.query(MAKE, {"name": unique}, traceparent=caller)
            await graph.query(NAMED, traceparent=caller)
            await graph.error("{ nothing }")
        service.stop()
        logged = service.log.read_text()

    ours = [span for span in spans if span.trace_id.hex() == caller.split("-")[1]]
    requests = [span for span in ours if span.kind == Span.SPAN_KIND_SERVER]
    assert [span.name for span in requests] == ["POST /graphql"] * 2
    assert {span.parent_span_id.hex() for span in requests} == {caller.split("-")[2]}
    operations = {span.name: span for span in ours if span.kind == Span.SPAN_KIND_INTERNAL}
    assert set(operations) == {"mutation Make", "query Named"}
    assert [operations[name].parent_span_id for name in ("mutation Make", "query Named")] == [
        span.span_id for span in requests
    ]
    assert said(operations["query Named"]) == {
        "graphql.operation.type": "query",
        "graphql.operation.name": "Named",
        "lifecycle.outcome": "OK",
    }
    statements: dict[str, list[Span]] = {name: [] for name in operations}
    for span in ours:
        if span.kind == Span.SPAN_KIND_CLIENT:
            [parent] = [n for n, o in operations.items() if o.span_id == span.parent_span_id]
            statements[parent].append(span)
    asked = [said(s)["db.query.text"] for s in statements["query Named"]]
    assert "FROM experiment" in asked[0]
    assert any("FROM run" in sql for sql in asked)
    written = [span.name for span in statements["mutation Make"]]
    assert written[0].startswith("BEGIN")
    assert written.count("INSERT") == 2, "the experiment and its event"
    assert written[-1].startswith("COMMIT")
    assert unique not in "".join(said(s)["db.query.text"] for s in statements["mutation Make"])
    # what nobody has begun elsewhere is a trace of its own; what machines ask is none
    [other] = [s for s in spans if s.kind == Span.SPAN_KIND_SERVER and s not in requests]
    assert other.name == "POST /graphql"
    assert other.trace_id.hex() in logged


async def test_a_collector_that_is_away_is_not_waited_for(
    own_database_url: str, unique: str
) -> None:
    options = ("--database-url", own_database_url)
    with forked(*options, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") as service:
        async with Graph(service.url) as graph:
            await graph.query(NAMED)
        assert service.stop() == 0
