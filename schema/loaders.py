"""Loaders: what many resolvers ask for one by one is fetched together.

An access path is a repository function that takes a session and a list of keys and returns a
mapping; what is asked of the same function with the same arguments is one batch, and each batch has
a read session of its own.
"""

from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Concatenate, Generic, ParamSpec, TypeAlias, TypeVar, cast

from strawberry.dataloader import DataLoader

from lifecycle.database import Database, ReadSession
from lifecycle.statements import looked_at

Key = TypeVar("Key")
Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")

Batch = Callable[Concatenate[ReadSession, Sequence[Key], Arguments], Awaitable[Mapping[Key, Value]]]
# The function, its further arguments, and what will be looked at.
Path: TypeAlias = tuple[Any, tuple[Any, ...], frozenset[str] | None]


class Load(Generic[Value]):
    """What a resolver waits for: the value of a key, or None.

    Whoever drives many resolvers by hand collects their loads and sends each its value; see
    `Loaders.collected`. Everywhere else a load waits for its turn of the event loop.
    """

    __slots__ = ("_loaders", "key", "path")

    def __init__(self, loaders: "Loaders", path: Path, key: Any) -> None:
        self._loaders = loaders
        self.path = path
        self.key = key

    def __await__(self) -> Generator[Any, Any, Value | None]:
        if self._loaders.collecting:
            value = yield self
        else:
            value = yield from self._loaders.soon(self.path, self.key).__await__()
        return cast("Value | None", value)


class Loaders:
    """The loaders of one GraphQL operation. What was loaded once is not loaded again."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loaders: dict[Path, DataLoader[Any, Any]] = {}
        self._known: dict[Path, dict[Any, Any]] = {}
        self.collecting = False

    def load(
        self,
        batch: Batch[Key, Arguments, Value],
        key: Key,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Load[Value]:
        """What `batch` finds for this key, or None. `args` must be hashable, and by position."""
        assert not kwargs
        return Load(self, (batch, args, looked_at.get()), key)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """While the block runs, coroutines give the loads that they wait for to whoever sends to
        them. It must not wait for anything itself."""
        self.collecting = True
        try:
            yield
        finally:
            self.collecting = False

    async def values(self, path: Path, keys: Sequence[Any]) -> list[Any]:
        """The values of these keys, in one batch."""
        known = self._known.setdefault(path, {})
        unknown = [key for key in dict.fromkeys(keys) if key not in known]
        if unknown:
            batch, args, names = path
            former = looked_at.set(names)
            try:
                async with self._database.read() as session:
                    found = await batch(session, unknown, *args)
            finally:
                looked_at.reset(former)
            for key in unknown:
                known[key] = found.get(key)
        return [known[key] for key in keys]

    def soon(self, path: Path, key: Any) -> Awaitable[Any]:
        """The value of a key, in one batch with what else is asked for before the event loop's
        next turn."""
        loader = self._loaders.get(path)
        if loader is None:

            async def load(keys: list[Any]) -> list[Any]:
                return await self.values(path, keys)

            loader = self._loaders[path] = DataLoader(load)
        return loader.load(key)
