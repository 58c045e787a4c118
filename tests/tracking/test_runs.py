"""Runs on both sides."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from mlflow import MlflowClient

from lifecycle.tracking.client import Client
from lifecycle.tracking.rules import SyncState, TrackedKind
from schema import ids
from tests.client import Graph
from tests.conftest import Live
from tests.factories import a_run
from tests.tracking.drive import Mirror

RUN = TrackedKind.RUN
URI = "http://127.0.0.1:5731"


@pytest_asyncio.fixture
async def mirror(live: Live, unique: str) -> AsyncIterator[Mirror]:
    client = Client(URI)
    yield await Mirror.begin(live.database, client, unique)
    await client.close()


@pytest.fixture
def plain() -> MlflowClient:
    """What training code that only knows MLflow uses."""
    return MlflowClient(URI)


async def test_a_run_that_was_logged_here_appears_there(
    graph: Graph, mirror: Mirror, plain: MlflowClient, unique: str
) -> None:
    run = await a_run(
        graph,
        unique,
        params=[{"key": "lr", "value": "0.1"}],
        tags=[{"key": "team", "value": "a"}],
        name="first",
    )
    await graph.mutate(
        "logMetrics",
        {
            "runId": run,
            "series": [
                {
                    "key": "loss",
                    "steps": [0, 1, 1, 2],
                    "values": [1.0, 0.5, None, None],
                    "kinds": ["FINITE", "FINITE", "NAN", "POSITIVE_INFINITY"],
                    "timestamps": ["2026-01-01T00:00:00.123456Z"] * 2
                    + ["2026-01-01T00:00:00.125Z"] * 2,
                }
            ],
        },
    )
    item = await mirror.ours(RUN, ids.decode("Run", run))
    print(item.state, item.error, item.conflicts, item.url)
    there = plain.get_run(item.mlflow_id)
    print(there)
    print(plain.get_metric_history(item.mlflow_id, "loss"))
    print(item.base, item.points_seen)
    item = await mirror.ours(RUN, ids.decode("Run", run))
    print(item.base, item.points_seen)
    assert item.state is SyncState.IN_SYNC
    assert 0
