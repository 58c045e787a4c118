"""Services that keep artifacts, on local disk and in S3, each with a database of its own: what is
left of uploads is removed by whoever comes first."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.client import Graph
from tests.conftest import Live, MakeDatabase, serving
from tests.objectstore import Store, an_object_store


@dataclass(frozen=True)
class Kept:
    """A service, a client of it, and where it keeps artifacts."""

    live: Live
    graph: Graph
    internal: str
    external: str


@asynccontextmanager
async def keeping(
    database_url: str, internal: str, external: str, **settings: str
) -> AsyncIterator[Kept]:
    """A service that keeps artifacts there."""
    async with (
        serving(database_url, artifacts=internal, external_artifacts=external, **settings) as live,
        Graph(live.url) as graph,
    ):
        yield Kept(live, graph, internal, external)


@pytest.fixture(scope="session")
def artifact_database_url(migrated: MakeDatabase) -> Iterator[str]:
    with migrated() as url:
        yield url


@pytest.fixture(scope="session")
def store() -> Iterator[Store]:
    """An object store, which the services that are started find in their environment."""
    with an_object_store() as running, pytest.MonkeyPatch.context() as patch:
        for name, value in running.environment.items():
            patch.setenv(name, value)
        yield running


@pytest_asyncio.fixture(scope="session")
async def on_disk(
    artifact_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Kept]:
    directory = tmp_path_factory.mktemp("artifacts")
    internal, external = directory / "in here", directory / "out there"
    async with keeping(artifact_database_url, str(internal), str(external)) as kept:
        yield kept


@pytest_asyncio.fixture(scope="session")
async def in_s3(migrated: MakeDatabase, store: Store) -> AsyncIterator[Kept]:
    with migrated() as url:
        async with keeping(url, "s3://internal/below/this", "s3://external") as kept:
            yield kept


@pytest.fixture(params=["on_disk", "in_s3"])
def kept(request: pytest.FixtureRequest) -> Kept:
    """Both, one after the other."""
    found: Kept = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def graph(kept: Kept) -> Graph:
    """A client of it."""
    return kept.graph


def files_below(location: str) -> list[str]:
    """The files in a local area, from there on, without its secret."""
    # `os.walk`, not `rglob`: a directory may be removed while its parent is read.
    found = (Path(there, name) for there, _, names in os.walk(location) for name in names)
    return sorted(str(path.relative_to(location)) for path in found if path.name != "secret")
