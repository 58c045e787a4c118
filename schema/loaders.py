"""Loaders: what many resolvers ask for one by one is fetched together.

An access path is a repository function that takes a session and a list of keys and returns a
mapping; there is one loader for each such function and arguments, and each batch has a read
session of its own.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from strawberry.dataloader import DataLoader

from lifecycle.database import Database, ReadSession

Key = TypeVar("Key")
Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")

Batch = Callable[Concatenate[ReadSession, Sequence[Key], Arguments], Awaitable[Mapping[Key, Value]]]


class Loaders:
    """The loaders of one GraphQL operation."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loaders: dict[tuple[Any, ...], DataLoader[Any, Any]] = {}

    def load(
        self,
        batch: Batch[Key, Arguments, Value],
        key: Key,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Awaitable[Value | None]:
        """What `batch` finds for this key, or None. `args` must be hashable, and by position."""
        assert not kwargs
        path = (batch, args)
        loader = self._loaders.get(path)
        if loader is None:
            loader = self._loaders[path] = self._make(batch, args)
        return loader.load(key)

    def _make(self, batch: Any, args: tuple[Any, ...]) -> DataLoader[Any, Any]:
        async def load(keys: list[Any]) -> list[Any]:
            async with self._database.read() as session:
                found = await batch(session, keys, *args)
            return [found.get(key) for key in keys]

        return DataLoader(load)
