"""What a process counts and measures. Several add up, through files in PROMETHEUS_MULTIPROC_DIR;
`address` is where they can be read."""

import os
from itertools import product
from typing import TYPE_CHECKING

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from lifecycle.tracking.rules import Settled, TrackedKind

if TYPE_CHECKING:
    # It imports MLflow's client, which takes seconds.
    from lifecycle.tracking.worker import Round

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_OBJECTS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000)

# Of operations that have a name, this many are told apart: each is a series for every bucket.
MAX_NAMES = 200
MAX_NAME = 100
ANONYMOUS = "anonymous"
OTHER = "other"


class MirrorMetrics:
    """The metrics of what mirrors to MLflow, in whichever process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.items = Counter(
            "lifecycle_mlflow_reconciled",
            "Objects that were brought to agree with MLflow, by their kind and what came of it: "
            "done, failed, or later, when another has to come first or MLflow does not answer.",
            ["kind", "outcome"],
            registry=registry,
        )
        # From the beginning, so that it shows when there are more.
        for kind, settled in product(TrackedKind, Settled):
            self.items.labels(kind, settled)
        self.round_seconds = Histogram(
            "lifecycle_mlflow_round_seconds",
            "How long the mirror took to ask what is due (poll, twice a second), to read the "
            "journal, to look what has changed in MLflow, and for an item.",
            ["round"],
            buckets=_SECONDS,
            registry=registry,
        )

    def count(self, round: "Round") -> None:
        """The mirror has done something."""
        self.round_seconds.labels(round.what).observe(round.seconds)
        if round.kind is not None and round.settled is not None:
            self.items.labels(round.kind, round.settled).inc()


class WorkerMetrics:
    """The metrics of a process that only mirrors."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._mirror = MirrorMetrics(self.registry)
        self._resident = _Resident(self.registry)

    def count(self, round: "Round") -> None:
        """The mirror has done something."""
        self._mirror.count(round)
        if round.what == "poll":
            self._resident.weigh()


class _Resident:
    """The memory of this process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._process = psutil.Process(os.getpid())
        self._gauge = Gauge(
            "lifecycle_resident_bytes",
            "The memory of each process.",
            multiprocess_mode="liveall",
            registry=registry,
        )

    def weigh(self) -> None:
        """Look at how much it is."""
        self._gauge.set(self._process.memory_info().rss)


class Metrics:
    """The metrics of one process that serves."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._names: set[str] = set()
        self.mirror = MirrorMetrics(registry)
        self._resident = _Resident(registry)
        self.requests = Counter(
            "lifecycle_http_requests",
            "Requests by HTTP, each websocket one, by the route and the status that was answered.",
            ["route", "status"],
            registry=registry,
        )
        self.operations = Counter(
            "lifecycle_operations",
            "GraphQL operations by name, type and outcome: OK, or the code of the first error or "
            "of the failure that a mutation answered with. A subscription counts when it begins.",
            ["operation", "type", "outcome"],
            registry=registry,
        )
        self.operation_seconds = Histogram(
            "lifecycle_operation_seconds",
            "How long queries and mutations took, with the wait for their turn.",
            ["operation", "type"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.statement_seconds = Histogram(
            "lifecycle_statement_seconds",
            "How long the database took for a statement, by the pool that its connection is of.",
            ["pool"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "lifecycle_loader_batch_size",
            "How many objects one statement of a loader asked for.",
            buckets=_OBJECTS,
            registry=registry,
        )
        self.runs_lost = Counter(
            "lifecycle_runs_lost", "Runs whose writer has fallen silent.", registry=registry
        )
        self.pool_in_use = self._gauge(
            "lifecycle_pool_in_use", "Database connections that somebody has.", ["pool"]
        )
        self.pool_waiting = self._gauge(
            "lifecycle_pool_waiting", "How many wait for a database connection.", ["pool"]
        )
        self.admitted = self._gauge(
            "lifecycle_operations_running", "Operations that are being executed.", ["type"]
        )
        self.queued = self._gauge(
            "lifecycle_operations_waiting", "Operations that wait for their turn.", ["type"]
        )
        self.subscribers = self._gauge("lifecycle_subscribers", "How many follow the journal.")
        self.feed_position = Gauge(
            "lifecycle_feed_position",
            "The position of the journal up to which subscribers have been told; of several "
            "processes, of the one that is furthest behind.",
            multiprocess_mode="livemin",
            registry=registry,
        )

    def _gauge(self, name: str, meaning: str, labels: list[str] | None = None) -> Gauge:
        return Gauge(
            name, meaning, labels or [], multiprocess_mode="livesum", registry=self.registry
        )

    def name(self, given: str | None, *, known: bool) -> str:
        """The label of an operation's name. Clients choose names, so only those of documents that
        are valid are shown, only so many, and none that is long."""
        if not known:
            return OTHER
        if given is None:
            return ANONYMOUS
        if given not in self._names:
            if len(self._names) >= MAX_NAMES or len(given) > MAX_NAME:
                return OTHER
            self._names.add(given)
        return given

    def weigh(self) -> None:
        """Look at how much memory this process has."""
        self._resident.weigh()
