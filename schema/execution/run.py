"""Running a plan: level by level, each field for all objects of the level.

Resolvers are called as Strawberry would call them; those of one level are under way at the same
time, so loaders have all keys of a level before they ask. What they are told by `info` is true of
all objects of the level; there is no path, because it would be another for each of them.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Set
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

from schema.context import Context
from schema.execution.columns import Column, Rest, Unusual
from schema.execution.plan import Attribute, Plan, Resolved, Selection, TypeName, arguments_of
from schema.loaders import Load, Names, Path


@dataclass(eq=False, slots=True)
class Begun:
    """A field whose coroutines are under way, one for each object; in their places will be what
    they give."""

    field: Resolved
    column: list[Any]


# A coroutine by its field and its place, and with what it goes on.
Waiting = tuple[Begun, int]
Going = tuple[Begun, int, Any]


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

    async def answer(self) -> dict[str, Any]:
        """The data. Raises Unusual, and whatever resolvers and serializers raise."""
        data: dict[str, Any] = {}
        level: Rest = [(self._plan.root, [None], [data])]
        while level:
            level = await self._next(level)
        return data

    async def _next(self, level: Rest) -> Rest:
        """Fill the answers of this level, but for the objects in them, which are the next."""
        begun: list[Begun] = []
        try:
            found = [self._begin(selection, objects, begun) for selection, objects, _ in level]
            await self._together(begun)
        except BaseException:
            for coroutine in chain.from_iterable(each.column for each in begun):
                if isinstance(coroutine, Coroutine):
                    coroutine.close()
            raise
        rest: Rest = []
        for (selection, _, answers), columns in zip(level, found, strict=True):
            completed = [
                field.type.complete(column, rest)
                for field, column in zip(selection.fields, columns, strict=True)
            ]
            for answer, values in zip(answers, zip(*completed, strict=True), strict=False):
                answer.update(zip(selection.names, values, strict=True))
        return rest

    def _begin(self, selection: Selection, objects: Column, begun: list[Begun]) -> list[list[Any]]:
        """A column for each field; those that have only begun are also put to `begun`."""
        columns: list[list[Any]] = []
        for field in selection.fields:
            if isinstance(field, Attribute):
                columns.append(list(map(field.read, objects)))
            elif isinstance(field, TypeName):
                columns.append([field.name] * len(objects))
            else:
                arguments = self._arguments(field)
                method = cast(Callable[..., Any], field.resolve.wrapped_func)
                columns.append([method(each, **arguments) for each in objects])
                if field.field.is_async:
                    begun.append(Begun(field, columns[-1]))
        return columns

    def _arguments(self, field: Resolved) -> dict[str, Any]:
        """What the resolver is given besides the object; the same for each of them."""
        arguments = field.arguments
        if arguments is None:
            arguments = arguments_of(
                self._schema, field.definition, field.details[0], self._variables
            )
        if field.resolve.info_parameter is None:
            return arguments
        raw = _ResolveInfo(
            field_name=field.details[0].node.name.value,
            field_nodes=[each.node for each in field.details],
            return_type=field.definition.type,
            parent_type=field.parent,
            schema=self._schema._schema,
            fragments=self._plan.fragments,
            root_value=None,
            operation=self._plan.operation,
            variable_values=self._variables.coerced,
            context=self._context,
        )
        info: Any = strawberry.Info(_raw_info=cast(Any, raw), _field=field.field)
        return {**arguments, field.resolve.info_parameter.name: info}

    async def _together(self, begun: list[Begun]) -> None:
        """Put the results in the places of the coroutines, which are under way at the same time.

        They are driven by hand: each goes on until it waits for a load or a future, and when all of
        those are there, each goes on again. A task for each would cost more than all that it does.
        """
        going = [(each, index, None) for each in begun for index in range(len(each.column))]
        while going:
            loads: dict[Path, list[tuple[Waiting, Load[Any]]]] = {}
            futures: list[tuple[Waiting, asyncio.Future[Any]]] = []
            try:
                for each, waiting in groupby(going, itemgetter(0)):
                    with self._loaders.collected(each.field.names):
                        for _, index, value in waiting:
                            try:
                                wanted = each.column[index].send(value)
                            except StopIteration as end:
                                each.column[index] = end.value
                                continue
                            if isinstance(wanted, Load):
                                loads.setdefault(wanted.path, []).append(((each, index), wanted))
                            else:
                                futures.append(((each, index), wanted))
                going = [*await self._loaded(loads), *await _done(futures)]
            except BaseException:
                await _cancelled(future for _, future in futures)
                raise

    async def _loaded(self, loads: Mapping[Path, list[tuple[Waiting, Load[Any]]]]) -> list[Going]:
        """Who waits for each load, with its value."""
        if len(loads) > 1:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._loaded({path: loads[path]})) for path in loads]
            return list(chain.from_iterable(task.result() for task in tasks))
        for path, asked in loads.items():
            names = _united({load.names for _, load in asked})
            values = await self._loaders.values(path, names, [load.key for _, load in asked])
            return [(*who, value) for (who, _), value in zip(asked, values, strict=True)]
        return []


def _united(every: Set[Names]) -> Names:
    said = [names for names in every if names is not None]
    return frozenset[str]().union(*said) if len(said) == len(every) else None


async def _done(futures: list[tuple[Waiting, asyncio.Future[Any]]]) -> list[Going]:
    """Who waits for each future, when all are done."""
    for _, future in futures:
        # As a task does, or nobody else could wait for the same future.
        future._asyncio_future_blocking = False
    if futures:
        await asyncio.wait([future for _, future in futures])
    return [(*who, None) for who, _ in futures]


async def _cancelled(futures: Iterable[asyncio.Future[Any]]) -> None:
    """Nobody waits for these any more. Whoever made them is done with them in the end: a connection
    must not be used again before it is."""
    left = list(futures)
    for future in left:
        future.cancel()
    if left:
        await asyncio.wait(left)
    for future in left:
        if not future.cancelled():
            future.exception()
