"""Variables: long columns of numbers are taken as they are, not number by number.

graphql-core calls some ten functions for each number of a list, and training code sends thousands
of them. How everything else is read, and what is said of what is wrong, is graphql-core's own.
"""

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLFloat,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLList,
    GraphQLSchema,
    get_nullable_type,
    get_operation_ast,
    is_input_type,
    is_non_null_type,
    type_from_ast,
)
from graphql import Executor as Stock
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from lifecycle.commands import BIGGEST
from schema.scalars import BIG_INT

# For shorter ones it is not worth the look.
_LONG = 16

# The list or object that a column is in and its place there, and the names and numbers that lead
# to it among the values that were read.
_Found: TypeAlias = tuple[Any, str | int, tuple[str | int, ...]]


class ReadsColumns(StrawberryGraphQLCoreExecutionContext):
    """graphql-core's, which is shown empty lists in place of columns that it would not change."""

    @classmethod
    def build(
        cls,
        schema: GraphQLSchema,
        document: DocumentNode,
        root_value: Any = None,
        context_value: Any = None,
        raw_variable_values: dict[str, Any] | None = None,
        operation_name: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> list[GraphQLError] | Stock[Any]:
        variables = raw_variable_values or {}
        given = (schema, document, root_value, context_value, variables, operation_name, *args)
        found = list(_columns(schema, document, operation_name, variables))
        columns = [holder[place] for holder, place, _ in found]
        for holder, place, _ in found:
            holder[place] = []
        try:
            built = super().build(*given, **kwargs)
        finally:
            for (holder, place, _), column in zip(found, columns, strict=True):
                holder[place] = column
        if isinstance(built, list):
            # What is said of it shows the values.
            return super().build(*given, **kwargs)
        for (_, _, path), column in zip(found, columns, strict=True):
            read: Any = built.variable_values.coerced
            for name in path[:-1]:
                read = read[name]
            read[path[-1]] = column
        return built


def _columns(
    schema: GraphQLSchema,
    document: DocumentNode,
    operation_name: str | None,
    variables: dict[str, Any],
) -> Iterator[_Found]:
    """The columns among the variables that stay as they are when they are read."""
    operation = get_operation_ast(document, operation_name)
    todo: list[tuple[_Found, GraphQLInputType]] = []
    for definition in operation.variable_definitions or () if operation else ():
        name, type_ = definition.variable.name.value, type_from_ast(schema, definition.type)
        if name in variables and is_input_type(type_):
            todo.append(((variables, name, (name,)), type_))
    while todo:
        found, type_ = todo.pop()
        holder, place, path = found
        value, type_ = holder[place], get_nullable_type(type_)
        if isinstance(value, dict) and isinstance(type_, GraphQLInputObjectType):
            for name, field in type_.fields.items():
                if name in value:
                    todo.append(((value, name, (*path, field.out_name or name)), field.type))
        elif isinstance(value, list) and isinstance(type_, GraphQLList):
            # graphql-core keeps the value of a variable as it was sent, too; that one stays.
            if len(value) >= _LONG and holder is not variables and _stays(value, type_.of_type):
                yield found
            elif isinstance(get_nullable_type(type_.of_type), GraphQLInputObjectType):
                todo += [((value, n, (*path, n)), type_.of_type) for n in range(len(value))]


def _stays(column: list[Any], type_: GraphQLInputType) -> bool:
    """Whether every item is a number, or a null that may be there, and is read as itself."""
    numbers = column if is_non_null_type(type_) else [each for each in column if each is not None]
    classes, scalar = set(map(type, numbers)), get_nullable_type(type_)
    if scalar is GraphQLFloat:
        return classes == {float} and all(map(math.isfinite, numbers))
    if getattr(scalar, "name", None) == BIG_INT.name:
        return classes == {int} and min(numbers) >= -BIGGEST - 1 and max(numbers) <= BIGGEST
    return False
