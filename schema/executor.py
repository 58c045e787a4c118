"""graphql-core's executor as it is used here. How it reads variables is in variables.py; here is
how much it shows.

What an operation may cost is known before (`limits`), but a list that is no page counts there as
long as it usually is. So the objects of an answer are counted, too.
"""

from collections.abc import AsyncIterable, Iterable, Sized
from typing import Any

from graphql import GraphQLList, GraphQLOutputType, GraphQLResolveInfo, get_named_type, is_leaf_type
from graphql.pyutils import AwaitableOrValue, Path

from lifecycle.errors import LimitExceeded
from schema.limits import MAX_OBJECTS
from schema.variables import ReadsColumns


class Executor(ReadsColumns):
    """Shows so many objects in lists; each list beyond that is an error."""

    _objects = 0

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
