"""graphql-core's executor as it is used here. How it reads variables is in variables.py; here is
how much it shows.

What an operation may cost is known before (`limits`), but a list that is no page counts there as
long as it usually is, and a text as nothing. So the objects of an answer are counted, and how long
its texts are: one that is held once may be shown two thousand times for each object.
"""

from collections.abc import AsyncIterable, Iterable, Sized
from typing import Any

import orjson
from graphql import (
    ExecutionResult,
    GraphQLLeafType,
    GraphQLList,
    GraphQLOutputType,
    GraphQLResolveInfo,
    get_named_type,
    is_leaf_type,
)
from graphql.pyutils import AwaitableOrValue, Path

from lifecycle.errors import LimitExceeded
from schema.errors import told
from schema.limits import MAX_OBJECTS, MAX_SHOWN
from schema.variables import ReadsColumns


class Length:
    """How many characters the texts and the JSON of an answer have."""

    def __init__(self) -> None:
        self._characters = 0
        # Of what was seen before, by which object it is.
        self._known: dict[int, int] = {}

    def add(self, characters: int) -> None:
        """So many more."""
        self._characters += characters

    def add_json(self, values: Iterable[Any]) -> None:
        """Those of values that are JSON."""
        for value in values:
            known = self._known.get(id(value))
            if known is None:
                known = self._known[id(value)] = len(orjson.dumps(value))
            self._characters += known

    def check(self) -> None:
        """Raise LimitExceeded if they are too many."""
        if self._characters > MAX_SHOWN:
            raise LimitExceeded(
                f"The texts in an answer may have {MAX_SHOWN:,} characters. Ask for shorter pages, "
                "or for less of each object. If it was a change, it has been made.",
                "text",
                MAX_SHOWN,
                self._characters,
            )


class Executor(ReadsColumns):
    """Shows so many objects in lists, each list beyond that is an error; and no answer with texts
    that are too long."""

    _objects = 0
    _length: Length | None = None

    def complete_leaf_value(  # type: ignore[override]
        self, return_type: GraphQLLeafType, result: Any
    ) -> Any:
        """The value as it is shown."""
        value = super().complete_leaf_value(return_type, result)
        if isinstance(value, str | dict | list):
            length = self._length = self._length or Length()
            if isinstance(value, str):
                length.add(len(value))
            else:
                length.add_json((value,))
        return value

    def build_response(self, data: dict[str, Any] | None) -> Any:
        """The answer; what is too long is an error alone."""
        response = super().build_response(data)
        try:
            if self._length is not None:
                self._length.check()
        except LimitExceeded as error:
            return ExecutionResult(None, [told(error)])
        return response

    def complete_list_value(
        self,
        return_type: GraphQLList[GraphQLOutputType],
        field_details_list: Any,
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: AsyncIterable[Any] | Iterable[Any],
        position_context: Any,
    ) -> AwaitableOrValue[list[Any]]:
        """The list as it is shown. Raises LimitExceeded."""
        if isinstance(result, Sized) and not is_leaf_type(get_named_type(return_type)):
            self._objects += len(result)
            if self._objects > MAX_OBJECTS:
                raise LimitExceeded(
                    f"An answer may have {MAX_OBJECTS:,} objects in its lists. Ask for shorter "
                    "pages, or for less of each object.",
                    "objects",
                    MAX_OBJECTS,
                    self._objects,
                )
        return super().complete_list_value(
            return_type, field_details_list, info, path, result, position_context
        )
