"""graphql-core's executor as it is used here. How it reads variables is in variables.py; here is
how much it shows.

What an operation may cost is known before (`limits`), but a list that is no page counts there as
long as it usually is, and all that is no object as nothing. So the objects of an answer are
counted, and how long it is: what is held once may be shown two thousand times for each object.
"""

import asyncio
from collections.abc import AsyncIterable, Iterable, Sized
from typing import Any

import orjson
from graphql import (
    ExecutionResult,
    GraphQLError,
    GraphQLLeafType,
    GraphQLList,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLResolveInfo,
    get_named_type,
    is_leaf_type,
    is_non_null_type,
    located_error,
)
from graphql.pyutils import AwaitableOrValue, Path

from lifecycle.errors import LimitExceeded
from schema.errors import told
from schema.limits import MAX_ERRORS, MAX_OBJECTS, MAX_SHOWN
from schema.variables import ReadsColumns

# The scalars whose values are as long as they are, and the one whose values are JSON; all others
# count as numbers.
TEXTS = frozenset(("String", "ID"))
JSON = "JSON"
NUMBER = 16


class Length:
    """How much longer an answer may become: the characters of its texts, its JSON and its names
    count, and NUMBER for each number, time or other value."""

    __slots__ = ("_known", "left", "written")

    def __init__(self) -> None:
        # Less than nothing when it is too long.
        self.left = MAX_SHOWN
        # Whether it may be less, because part of it was written before it could be counted.
        self.written = False
        # Of what was seen before, by which object it is.
        self._known: dict[int, int] = {}

    def add(self, characters: int) -> None:
        """So many more."""
        self.left -= characters

    def add_written(self, characters: int, values: int) -> None:
        """Of what PostgreSQL has written, with so many values, as many more as there may be."""
        self.left -= characters + NUMBER * values
        self.written = True

    def add_json(self, values: Iterable[Any]) -> None:
        """Those of values that are JSON."""
        for value in values:
            known = self._known.get(id(value))
            if known is None:
                known = self._known[id(value)] = len(orjson.dumps(value))
            self.left -= known

    def error(self) -> LimitExceeded:
        """What to say if it is too long."""
        return LimitExceeded(
            f"An answer may have {MAX_SHOWN:,} characters, of which each number or time counts "
            f"{NUMBER}. Ask for shorter pages, or for less of each object. If it was a change, it "
            "has been made.",
            "text",
            MAX_SHOWN,
            MAX_SHOWN + 1,
        )


def too_many_objects() -> LimitExceeded:
    """What to say if an answer has more objects than it may."""
    return LimitExceeded(
        f"An answer may have {MAX_OBJECTS:,} objects in its lists. Ask for shorter pages, or for "
        "less of each object. If it was a change, it has been made.",
        "objects",
        MAX_OBJECTS,
        MAX_OBJECTS + 1,
    )


class Executor(ReadsColumns):
    """Shows no answer that has too many objects in its lists, or is too long, or has more errors
    than anybody reads: once it has, nothing more is looked up for it. Each would take its time, and
    there may be one for each list of each object."""

    _objects = 0
    _errors = 0
    _first_error: GraphQLError
    _too_much: LimitExceeded | None = None
    _own_length: Length | None = None

    @property
    def _length(self) -> Length:
        # Those of a subscription's events are copies of one that shows nothing.
        if self._own_length is None:
            self._own_length = Length()
        return self._own_length

    @property
    def _ended(self) -> bool:
        return (
            self._length.left < 0
            or self._objects > MAX_OBJECTS
            or self._errors > MAX_ERRORS
            or self._too_much is not None
        )

    async def execute_fields_serially(
        self,
        parent_type: GraphQLObjectType,
        source_value: Any,
        path: Path | None,
        grouped_field_set: Any,
        position_context: Any,
    ) -> dict[str, Any]:
        """The fields of a mutation, one after the other. Others get a turn in between: what is
        refused at once waits for nothing, however long it took to read."""
        shown: dict[str, Any] = {}
        for name, details in grouped_field_set.items():
            if shown:
                await asyncio.sleep(0)
            field = super().execute_fields_serially(
                parent_type, source_value, path, {name: details}, position_context
            )
            shown |= field if isinstance(field, dict) else await field
        return shown

    def execute_fields(
        self,
        parent_type: GraphQLObjectType,
        source_value: Any,
        path: Path | None,
        grouped_field_set: Any,
        position_context: Any,
    ) -> AwaitableOrValue[dict[str, Any]]:
        """The fields of one object."""
        self._length.add(sum(map(len, grouped_field_set)))
        if self._ended:
            return {}
        return super().execute_fields(
            parent_type, source_value, path, grouped_field_set, position_context
        )

    def complete_leaf_value(  # type: ignore[override]
        self, return_type: GraphQLLeafType, result: Any
    ) -> Any:
        """The value as it is shown."""
        value = super().complete_leaf_value(return_type, result)
        if return_type.name in TEXTS:
            self._length.add(len(value))
        elif return_type.name == JSON:
            self._length.add_json((value,))
        else:
            self._length.add(NUMBER)
        return value

    def build_response(self, data: dict[str, Any] | None) -> Any:
        """The answer; what is too long, or too much, is an error alone, and of too many errors
        there are the first alone."""
        response: Any = super().build_response(data)
        if self._too_much is not None:
            return ExecutionResult(None, [told(self._too_much)])
        if self._length.left < 0:
            return ExecutionResult(None, [told(self._length.error())])
        if self._objects > MAX_OBJECTS:
            return ExecutionResult(None, [told(too_many_objects())])
        if self._errors > MAX_ERRORS:
            return ExecutionResult(None, (response.errors or [])[:MAX_ERRORS])
        return response

    def handle_field_error(
        self,
        raw_error: Exception,
        return_type: GraphQLOutputType,
        field_details_list: Any,
        path: Path,
    ) -> None:
        """Keep an error of a field, or raise it for the object that has the field. Of those that
        nobody is told it is not even found out where they are."""
        if isinstance(raw_error, LimitExceeded):
            self._too_much = raw_error
        self._errors += 1
        if self._errors == 1:
            nodes = [each.node for each in field_details_list]
            self._first_error = located_error(raw_error, nodes, path.as_list())
        if self._errors <= MAX_ERRORS:
            super().handle_field_error(raw_error, return_type, field_details_list, path)
        elif is_non_null_type(return_type):
            first = self._first_error
            raise GraphQLError(
                first.message, first.nodes, path=first.path, original_error=first.original_error
            )

    def complete_list_value(
        self,
        return_type: GraphQLList[GraphQLOutputType],
        field_details_list: Any,
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: AsyncIterable[Any] | Iterable[Any],
        position_context: Any,
    ) -> AwaitableOrValue[list[Any]]:
        """The list as it is shown."""
        if isinstance(result, Sized) and not is_leaf_type(get_named_type(return_type)):
            self._objects += len(result)
        if self._ended:
            return []
        return super().complete_list_value(
            return_type, field_details_list, info, path, result, position_context
        )
