"""Loaders: what many resolvers ask for one by one is fetched together.

An access path is a repository function that takes a session and a list of keys and returns a
mapping; what is asked of the same function with the same arguments is one batch, and each batch has
a read session of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, cast

from strawberry.dataloader import DataLoader

from lifecycle.database import Database, Later, ReadSession, together
from lifecycle.leaves import Leaves
from lifecycle.statements import Names, looked_at, names_looked_at

Key = TypeVar("Key")
Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")

Batch = Callable[Concatenate[ReadSession, Sequence[Key], Arguments], Awaitable[Mapping[Key, Value]]]


class Path(NamedTuple):
    """A function, its further arguments, and what of each object is to come written, if that is
    what is wanted instead of rows."""

    batch: Any
    args: tuple[Any, ...]
    leaves: Leaves | None = None


# Is told how many keys each batch has.
_watch: Callable[[int], None] | None = None


def watch(call: Callable[[int], None]) -> None:
    """Have every batch in this process reported."""
    global _watch  # noqa: PLW0603
    _watch = call


class Load(Generic[Value]):
    """What a resolver waits for: the value of a key, or None.

    Whoever drives many resolvers by hand collects their loads and sends each its value; see
    `Loaders.collected`. Everywhere else a load waits for its turn of the event loop.
    """

    __slots__ = ("_loaders", "key", "names", "path")

    def __init__(self, loaders: "Loaders", path: Path, key: Any) -> None:
        self._loaders = loaders
        self.path = path
        self.key = key
        self.names: Names = names_looked_at()

    def __await__(self) -> Generator[Any, Any, Value | None]:
        if self._loaders.collecting:
            value = yield self
        else:
            value = yield from self._loaders.soon(self).__await__()
        return cast("Value | None", value)


class Ahead(NamedTuple):
    """What will be asked next of the one object that is found, by which attribute of its row."""

    path: Path
    names: Names
    by: str


class Asked:
    """What is to be loaded at the same time: the keys of each access path, and what will be looked
    at of what is found. If that is one object, what is `ahead` may be loaded along with it."""

    def __init__(self, ahead: Sequence[Ahead] = ()) -> None:
        self.paths: dict[Path, tuple[Names, list[Any]]] = {}
        self.ahead = ahead

    def add(self, path: Path, names: Names, keys: Sequence[Any]) -> int:
        """Ask for these keys too; from which place on they are among those of the path."""
        if path not in self.paths:
            self.paths[path] = (names, list(keys))
            return 0
        known, asked = self.paths[path]
        place = len(asked)
        asked.extend(keys)
        if known != names:
            self.paths[path] = (_united(known, names), asked)
        return place


def _united(one: Names, other: Names) -> Names:
    return None if one is None or other is None else one | other


class _Read:
    """The read of one batch."""

    __slots__ = ("_count", "_keys", "_known", "_names", "_path")

    def __init__(
        self,
        path: Path,
        names: Names,
        keys: list[Any],
        known: dict[Any, Any],
        count: Callable[[int], None],
    ) -> None:
        # Is told how many characters of what is shown as it is there are. Raises LimitExceeded.
        self._count = count
        self._path = path
        self._names = names
        self._keys = keys
        self._known = known

    async def __call__(self, session: ReadSession) -> None:
        """Put what is found to what is known."""
        found = await _read(session, self._path, self._names, self._keys)
        self._count(_written(self._path, found))
        for key in self._keys:
            self._known[key] = found.get(key)

    @property
    def found(self) -> Any:
        """What is there for the first of the keys."""
        return self._known[self._keys[0]]


class _ReadAhead:
    """The read of what is asked next of the one object that another read finds."""

    def __init__(self, ahead: Ahead, count: Callable[[int], None]) -> None:
        self.ahead = ahead
        self._count = count
        self._later = Later(ahead.by)

    async def __call__(self, session: ReadSession) -> None:
        """Keep what is found."""
        path, names, _ = self.ahead
        self._found = await _read(session, path, names, [self._later])
        self._count(_written(path, self._found))

    def put(self, known: dict[Any, Any], row: Any) -> None:
        """Put it to what is known, now that the object's row is."""
        if row is not None and not self._later.missed:
            key = getattr(row, self.ahead.by)
            known[key] = self._found.get(key)


async def _read(
    session: ReadSession, path: Path, names: Names, keys: Sequence[Any]
) -> Mapping[Any, Any]:
    batch, args, leaves = path
    former = looked_at.set(names if leaves is None else leaves)
    try:
        found: Mapping[Any, Any] = await batch(session, keys, *args)
    finally:
        # Whoever gives this up may do so elsewhere, where it has set nothing.
        with suppress(ValueError):
            looked_at.reset(former)
    return found


def _written(path: Path, found: Mapping[Any, Any]) -> int:
    """How many characters of what is shown as it is there are."""
    if path.leaves is None:
        return 0
    return sum(len(each if isinstance(each, str) else each[0]) for each in found.values())


class _Collected:
    """As a generator it would take three times as long, and each field of each level has one."""

    __slots__ = ("_former", "_loaders", "_names")

    def __init__(self, loaders: "Loaders", names: Names) -> None:
        self._loaders = loaders
        self._names = names

    def __enter__(self) -> None:
        self._former = looked_at.set(self._names)
        self._loaders.collecting = True

    def __exit__(self, *_: object) -> None:
        self._loaders.collecting = False
        looked_at.reset(self._former)


class Loaders:
    """The loaders of one GraphQL operation. What was loaded once is not loaded again."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loaders: dict[tuple[Path, Names], DataLoader[Any, Any]] = {}
        self._known: dict[tuple[Path, Names], dict[Any, Any]] = {}
        self.collecting = False
        self._reading: set[asyncio.Task[Any]] = set()

    def load(
        self,
        batch: Batch[Key, Arguments, Value],
        key: Key,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Load[Value]:
        """What `batch` finds for this key, or None. `args` must be hashable, and by position."""
        assert not kwargs
        return Load(self, Path(batch, args), key)

    def collected(self, names: Names) -> "_Collected":
        """While the block runs, coroutines give the loads that they wait for to whoever sends to
        them; of what they read, only these attributes will be looked at. The block must not wait
        for anything itself."""
        return _Collected(self, names)

    async def values(self, asked: "Asked") -> dict[Path, list[Any]]:
        """What is found for the keys of each access path, in their order; nothing for a key that
        is None. One batch for each, at the same time."""
        reads = []
        for path, (names, keys) in asked.paths.items():
            known = self._known.setdefault((path, names), {None: None})
            unknown = [key for key in dict.fromkeys(keys) if key not in known]
            if unknown:
                reads.append(_Read(path, names, unknown, known, self._database.count_read))
                if _watch is not None:
                    _watch(len(unknown))
        if reads:
            ahead = [_ReadAhead(each, self._database.count_read) for each in asked.ahead]
            async with self._database.read() as session:
                await together(session, [*reads, *ahead])
            for each in ahead:
                each.put(self._known.setdefault(each.ahead[:2], {None: None}), reads[0].found)
        return {
            path: [*map(self._known[path, names].__getitem__, keys)]
            for path, (names, keys) in asked.paths.items()
        }

    def soon(self, load: Load[Any]) -> Awaitable[Any]:
        """The value of a load, in one batch with what else is asked for before the event loop's
        next turn."""
        kind = load.path, load.names
        loader = self._loaders.get(kind)
        if loader is None:

            async def values(keys: list[Any]) -> list[Any]:
                task = asyncio.current_task()
                assert task is not None
                self._reading.add(task)
                task.add_done_callback(self._reading.discard)
                asked = Asked()
                asked.add(*kind, keys)
                return (await self.values(asked))[load.path]

            loader = self._loaders[kind] = DataLoader(values)
        # Several may wait for it; one that is cancelled must not cancel it for the others.
        return asyncio.shield(loader.load(load.key))

    def abandon(self) -> None:
        """Stop what is still being read; nobody waits for it."""
        for task in self._reading:
            task.cancel()
