"""Running a plan: level by level, each field for all objects of the level.

Resolvers are called as Strawberry would call them; those of one level are under way at the same
time, so loaders have all keys of a level before they ask. What they are told by `info` is true of
all objects of the level; there is no path, because it would be another for each of them.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, cast

import strawberry
from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLSchema,
    OperationDefinitionNode,
)
from graphql.execution.values import VariableValues

from lifecycle.errors import LifecycleError
from schema.context import Context
from schema.execution.columns import Part, Rest, Unusual
from schema.execution.plan import Attribute, Found, Loaded, Plan, Resolved, TypeName
from schema.executor import Length
from schema.limits import MAX_OBJECTS
from schema.loaded import Further
from schema.loaders import Ahead, Asked, Load, Path


@dataclass(eq=False, slots=True)
class Begun:
    """A field whose coroutines are under way, one for each object; in their places will be what
    they give."""

    field: Resolved
    column: list[Any]


@dataclass(eq=False, slots=True)
class Wanted:
    """A field whose values are to be loaded, by these keys, into this column."""

    field: Loaded | Found
    path: Path
    keys: list[Any]
    column: list[Any]


# A coroutine by its field and its place: with what it goes on, and what it waits for.
Going = tuple[Begun, int, Any]
Loading = tuple[Begun, int, Path, int]


class Pending:
    """Coroutines that wait for futures, however many: each future is looked at once."""

    __slots__ = ("_done", "_wake", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[asyncio.Future[Any], list[tuple[Begun, int]]] = {}
        self._done: list[asyncio.Future[Any]] = []
        self._wake: asyncio.Future[None] | None = None

    def add(self, each: Begun, index: int, future: asyncio.Future[Any]) -> None:
        """The coroutine in this place waits for this future."""
        # As a task does, or nobody else could wait for the same future.
        future._asyncio_future_blocking = False
        places = self.waiting.get(future)
        if places is None:
            places = self.waiting[future] = []
            future.add_done_callback(self._is_done)
        places.append((each, index))

    def _is_done(self, future: asyncio.Future[Any]) -> None:
        # The first of several that fails ends the run, and nobody asks for the others' errors.
        _ = future.cancelled() or future.exception()
        self._done.append(future)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def first(self) -> list[Going]:
        """Who can go on, once any can; the others stay pending."""
        if not self._done:
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        done, self._done = self._done, []
        return [(*place, None) for future in done for place in self.waiting.pop(future)]

    async def cancel(self) -> None:
        """Nobody waits for these any more. Whoever made them is done with them in the end: a
        connection must not be used again before it is."""
        for future in self.waiting:
            future.cancel()
        if self.waiting:
            await asyncio.wait(self.waiting)


@dataclass(slots=True)
class _ResolveInfo:
    """What a resolver is told about the field, but for where it is in the answer."""

    field_name: str
    field_nodes: list[FieldNode]
    return_type: GraphQLOutputType
    parent_type: GraphQLObjectType
    schema: GraphQLSchema
    fragments: dict[str, FragmentDefinitionNode]
    root_value: None
    operation: OperationDefinitionNode
    variable_values: dict[str, Any]
    context: Any

    @property
    def path(self) -> object:
        raise Unusual("a resolver that asks for its path")


class Run:
    """One execution of a plan."""

    def __init__(
        self, schema: strawberry.Schema, plan: Plan, variables: VariableValues, context: Context
    ) -> None:
        self._schema = schema
        self._plan = plan
        self._variables = variables
        self._context = context
        self._loaders = context.loaders
        self._paths: dict[Loaded, tuple[Path, Further]] = {}

    async def answer(self) -> dict[str, Any]:
        """The data. Raises Unusual, LimitExceeded, and whatever resolvers and serializers raise."""
        data: dict[str, Any] = {}
        length = Length()
        level = Rest(MAX_OBJECTS, length, [Part(self._plan.root, [data], objects=[None])])
        while level:
            level = await self._next(level)
        return data

    async def _next(self, level: Rest) -> Rest:
        """Fill the answers of this level, but for the objects in them, which are the next."""
        begun: list[Begun] = []
        wanted: list[Wanted] = []
        try:
            found = [self._begin(part, begun, wanted) for part in level]
            if begun:
                await self._together(begun, wanted)
            elif wanted:
                await self._load(Asked(self._ahead(wanted)), wanted)
        except BaseException:
            for coroutine in chain.from_iterable(each.column for each in begun):
                if isinstance(coroutine, Coroutine):
                    coroutine.close()
            raise
        rest, length = Rest(level.room, level.length), level.length
        for part, columns in zip(level, found, strict=True):
            selection, answers = part.selection, part.answers
            length.add(selection.length * len(answers))
            for name, field, column in zip(selection.names, selection.fields, columns, strict=True):
                completed = field.type.complete(column, rest)
                if length.left < 0:
                    raise _too_long(length)
                for answer, value in zip(answers, completed, strict=True):
                    answer[name] = value
        return rest

    def _begin(self, part: Part, begun: list[Begun], wanted: list[Wanted]) -> list[list[Any]]:
        """A column for each field; those that have only begun, or are to be loaded, are also put to
        the others of their kind."""
        columns: list[list[Any]] = []
        for field in part.selection.fields:
            if isinstance(field, Attribute):
                columns.append(list(map(field.read, part.rows if field.of_row else part.objects)))
            elif isinstance(field, TypeName):
                columns.append([field.name] * len(part.answers))
            elif isinstance(field, Loaded):
                columns.append([])
                keys = list(map(field.read, part.rows))
                wanted.append(Wanted(field, self._path(field), keys, columns[-1]))
            elif isinstance(field, Found):
                key = field.finding.key(**field.arguments.given(self._variables))
                columns.append([])
                keys = [key] * len(part.answers)
                path = Path(field.finding.batch, (), field.leaves)
                wanted.append(Wanted(field, path, keys, columns[-1]))
            else:
                arguments = self._arguments(field)
                columns.append([field.method(each, **arguments) for each in part.objects])
                if field.field.is_async:
                    begun.append(Begun(field, columns[-1]))
        return columns

    def _path(self, field: Loaded) -> Path:
        if field not in self._paths:
            further = field.access.given(**field.arguments.given(self._variables))
            path = Path(field.access.batch, further.which + further.page, field.leaves)
            self._paths[field] = path, further
        return self._paths[field][0]

    def _ahead(self, wanted: list[Wanted]) -> list[Ahead]:
        """What the next level will ask for, if this one is nothing but one object."""
        if len(wanted) != 1 or not isinstance(wanted[0].field, Found) or len(wanted[0].keys) != 1:
            return []
        try:
            return [
                Ahead(self._path(each), each.names, each.access.by)
                for each in wanted[0].field.ahead
            ]
        except LifecycleError:  # an argument is wrong, which is said only if there is the object
            return []

    def _arguments(self, field: Resolved) -> dict[str, Any]:
        """What the resolver is given besides the object; the same for each of them."""
        arguments = field.arguments.given(self._variables)
        if field.info is None:
            return arguments
        raw = _ResolveInfo(
            field_name=field.nodes[0].name.value,
            field_nodes=field.nodes,
            return_type=field.definition.type,
            parent_type=field.parent,
            schema=self._schema._schema,
            fragments=self._plan.fragments,
            root_value=None,
            operation=self._plan.operation,
            variable_values=self._variables.coerced,
            context=self._context,
        )
        info: Any = strawberry.Info(_raw_info=cast("Any", raw), _field=field.field)
        return {**arguments, field.info: info}

    async def _together(self, begun: list[Begun], wanted: list[Wanted]) -> None:
        """Put the results in the places of the coroutines, which are under way at the same time,
        and what is loaded into its columns.

        Coroutines are driven by hand: each goes on until it waits for a load or a future. Who waits
        for a future goes on as soon as that is there: it may hold what others wait for. When all
        the others wait for loads, what is wanted is loaded, and they go on too. A task for each
        would cost more than all that it does.
        """
        going: list[Going] = [
            (each, index, None) for each in begun for index in range(len(each.column))
        ]
        asked = Asked()
        loading: list[Loading] = []
        pending = Pending()
        try:
            while True:
                self._drive(going, asked, loading, pending)
                if pending.waiting:
                    going = await pending.first()
                    continue
                if not (loading or wanted):
                    return
                values = await self._load(asked, wanted)
                going = [(each, index, values[path][place]) for each, index, path, place in loading]
                asked, wanted, loading = Asked(), [], []
        except BaseException:
            await pending.cancel()
            raise

    async def _load(self, asked: Asked, wanted: list[Wanted]) -> dict[Path, list[Any]]:
        """What is asked, and what is wanted, which is put into its columns."""
        places = [asked.add(each.path, each.field.names, each.keys) for each in wanted]
        values = await self._loaders.values(asked)
        for each, place in zip(wanted, places, strict=True):
            self._show(each, values[each.path][place : place + len(each.keys)])
        return values

    def _drive(
        self,
        going: list[Going],
        asked: Asked,
        loading: list[Loading],
        pending: Pending,
    ) -> None:
        """Let each go on to its end or until it waits: for a load, which is asked for, or for a
        future."""
        for each, waiting in groupby(going, itemgetter(0)):
            with self._loaders.collected(each.field.names):
                for _, index, value in waiting:
                    try:
                        wanted = each.column[index].send(value)
                    except StopIteration as end:
                        each.column[index] = end.value
                        continue
                    if isinstance(wanted, Load):
                        place = asked.add(wanted.path, wanted.names, (wanted.key,))
                        loading.append((each, index, wanted.path, place))
                    else:
                        pending.add(each, index, wanted)

    def _show(self, wanted: Wanted, found: list[Any]) -> None:
        """Put what was found for the keys into the column, as the field's type takes it."""
        field = wanted.field
        if isinstance(field, Found):
            wanted.column.extend(found)
            return
        access = field.access
        if field.kind is not None:
            _, further = self._paths[field]
            found = [
                access.connection(field.kind, page, self._loaders, key, further)
                for page, key in zip(found, wanted.keys, strict=True)
            ]
        elif field.leaves is None and access.counts is not None:
            found = [page.rows for page in found]
        elif field.leaves is None and field.many:
            found = [each or () for each in found]
        wanted.column.extend(found)


def _too_long(length: Length) -> Exception:
    """What to say of an answer, unless it might not be too long for graphql-core, which counts all
    values one by one."""
    if length.written:
        return Unusual("an answer that may be too long")
    return length.error()
