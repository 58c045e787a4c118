"""A service that mirrors, on a database of its own: in one that is shared, its worker would take
the objects of all other tests to MLflow."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import asyncpg
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from tests.client import PATIENCE, Graph, Json
from tests.conftest import serving
from tests.following import connect

T = TypeVar("T")

SERVER = "{ serverInfo { mlflow { uri version answering error pending failed conflicts behind } } }"
LINK = "mlflow { id url state error conflicts { field here there } lastSyncedAt }"
# Everything that was written has been read for MLflow, and nothing is to be looked at.
_QUIET = """
SELECT NOT EXISTS (SELECT FROM event WHERE position IS NULL)
   AND (SELECT position FROM journal_head) = (SELECT position FROM mlflow_server)
   AND NOT EXISTS (SELECT FROM mlflow_item WHERE due_at IS NOT NULL OR lease_id IS NOT NULL)
"""


@dataclass
class Working:
    """Services that mirror to one MLflow; `graph` asks the first."""

    graph: Graph
    database_url: str
    sql: asyncpg.Connection
    mlflow_url: str
    plain: MlflowClient

    async def server(self) -> Json:
        """What the service says of MLflow."""
        found: Json = (await self.graph.query(SERVER))["serverInfo"]["mlflow"]
        return found

    async def quiet(self) -> None:
        """Until there is nothing more to be brought over."""

        async def nothing() -> bool:
            return bool(await self.sql.fetchval(_QUIET))

        await eventually(nothing)

    async def states(self) -> dict[str, int]:
        """How many objects are in each state."""
        rows = await self.sql.fetch("SELECT state, count(*) FROM mlflow_item GROUP BY state")
        return dict(rows)

    async def runs(self, experiment: str) -> list[Run]:
        """The runs of an experiment in MLflow, deleted ones too."""

        def search() -> list[Run]:
            found = self.plain.get_experiment_by_name(experiment)
            if found is None:
                return []
            return list(
                self.plain.search_runs([found.experiment_id], "", ViewType.ALL, max_results=5_000)
            )

        return await asyncio.to_thread(search)


@asynccontextmanager
async def working(
    database_url: str, mlflow_url: str, through: str | None = None, **settings: Any
) -> AsyncIterator[Working]:
    """A service that mirrors to an MLflow, `through` another address of it."""
    async with (
        serving(
            database_url, mlflow_uri=through or mlflow_url, mlflow_worker=True, **settings
        ) as live,
        asked(live.url, database_url, mlflow_url) as found,
    ):
        yield found


@asynccontextmanager
async def asked(url: str, database_url: str, mlflow_url: str) -> AsyncIterator[Working]:
    """A service that somebody else has started."""
    sql = await connect(database_url)
    try:
        async with Graph(url) as graph:
            yield Working(graph, database_url, sql, mlflow_url, MlflowClient(mlflow_url))
    finally:
        await sql.close()


async def eventually(condition: Callable[[], Awaitable[T]]) -> T:
    """What a condition gives as soon as that is something."""
    async with asyncio.timeout(PATIENCE):
        for _ in count():
            if found := await condition():
                break
            await asyncio.sleep(0.05)
    return found
