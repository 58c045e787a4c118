"""A service that nobody else writes to, for tests that count what is in the database."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.client import Graph
from tests.conftest import Live, MakeDatabase, serving
from tests.mirror import MLFLOW


@pytest_asyncio.fixture(scope="session")
async def quiet(migrated: MakeDatabase) -> AsyncIterator[Live]:
    """The service on a database of its own, with an MLflow server that is not there. The tests that
    use it run one after the other."""
    with migrated() as url:
        async with serving(url, mlflow_uri=MLFLOW) as service:
            yield service


@pytest_asyncio.fixture(scope="session")
async def quiet_graph(quiet: Live) -> AsyncIterator[Graph]:
    """A client of it."""
    async with Graph(quiet.url) as client:
        yield client
