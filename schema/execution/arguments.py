"""Arguments of fields: what does not depend on variables is coerced once for all requests.

graphql-core and Strawberry coerce and convert them. What they make of a value that is a scalar or
an enum is that value, so they are asked once, with a mark in the place of each such variable, and
for each request the marks are replaced. Where anything else depends on variables, they are asked
for each request.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import itemgetter
from typing import Any, cast

from graphql import (
    GraphQLField,
    GraphQLID,
    GraphQLString,
    Node,
    OperationDefinitionNode,
    VariableNode,
    get_nullable_type,
    is_leaf_type,
    type_from_ast,
)
from graphql.execution.collect_fields import FieldDetails
from graphql.execution.get_variable_signature import (
    GraphQLVariableSignature,
    get_variable_signature,
)
from graphql.execution.values import VariableValues, VariableValueSource, get_argument_values
from strawberry import Some
from strawberry.schema import Schema
from strawberry.types.arguments import convert_arguments
from strawberry.types.base import has_object_definition
from strawberry.types.field import StrawberryField

Values = Mapping[str, Any]

_TEXTS = (GraphQLString, GraphQLID)


class Texts:
    """The variables of an operation, of which each is a text: they are what is given for them."""

    def __init__(self, signatures: Sequence[GraphQLVariableSignature]) -> None:
        self._signatures = [(signature.name, signature) for signature in signatures]

    @classmethod
    def of(cls, schema: Schema, operation: OperationDefinitionNode) -> "Texts | None":
        """Those of this operation; None if it has others."""
        definitions = operation.variable_definitions or ()
        signatures = [get_variable_signature(schema._schema, each) for each in definitions]
        texts = [
            each
            for each in signatures
            if isinstance(each, GraphQLVariableSignature) and get_nullable_type(each.type) in _TEXTS
        ]
        return cls(texts) if len(texts) == len(signatures) else None

    def given(self, values: Values) -> VariableValues | None:
        """As graphql-core coerces them; None where one is missing, null or no text."""
        sources, coerced = {}, {}
        for name, signature in self._signatures:
            value = values.get(name)
            if type(value) is not str:
                return None
            sources[name] = VariableValueSource(signature, value)
            coerced[name] = value
        return VariableValues(sources, coerced)


@dataclass(frozen=True, slots=True)
class _Mark:
    """Stands for the value of a variable."""

    variable: str


class Arguments:
    """The arguments of one field in one document."""

    def __init__(
        self,
        schema: Schema,
        definition: GraphQLField,
        details: FieldDetails,
        operation: OperationDefinitionNode,
    ) -> None:
        self._schema = schema
        self._definition = definition
        self._details = details
        used = {name for node in details.node.arguments or () for name in _variables(node)}
        self._marked = used if used <= _leaves(schema, operation) else None
        self._fill: Callable[[Values], dict[str, Any]] | None = None

    def given(self, variables: VariableValues) -> dict[str, Any]:
        """As a resolver takes them. Raises GraphQLError."""
        values = variables.coerced
        if self._marked is None or any(values.get(name) is None for name in self._marked):
            return self._converted(variables)
        if self._fill is None:
            marks = {**values, **{name: _Mark(name) for name in self._marked}}
            converted = self._converted(variables._replace(coerced=marks))
            if set(_marks(converted)) != self._marked:
                self._marked = None
                return self.given(variables)
            self._fill = _filler(converted)
        return self._fill(values)

    def _converted(self, variables: VariableValues) -> dict[str, Any]:
        field: StrawberryField = self._definition.extensions["strawberry-definition"]
        given = get_argument_values(
            self._definition,
            self._details.node,
            variables,
            self._details.fragment_variable_values,
        )
        registry = self._schema.schema_converter.scalar_registry
        return convert_arguments(given, field.arguments, registry, self._schema.config)


def _filler(value: Any) -> Callable[[Values], Any]:
    """What makes the same again with the values of variables in the places of their marks."""
    if isinstance(value, _Mark):
        return itemgetter(value.variable)
    if not any(_marks(value)):
        return lambda values: value
    if isinstance(value, list):
        items = list(map(_filler, value))
        return lambda values: [fill(values) for fill in items]
    kind = dict if isinstance(value, dict) else type(value)
    parts = {name: _filler(part) for name, part in _parts(value).items()}
    return lambda values: kind(**{name: fill(values) for name, fill in parts.items()})


def _marks(value: Any) -> Iterator[str]:
    """The variables that are marked in a value."""
    if isinstance(value, _Mark):
        yield value.variable
        return
    for part in value if isinstance(value, list) else _parts(value).values():
        yield from _marks(part)


def _parts(value: Any) -> Mapping[str, Any]:
    """What an input, or all arguments, are made of by name."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Some):
        return {"value": value.value}
    if has_object_definition(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}  # type: ignore[arg-type]
    return {}


def _leaves(schema: Schema, operation: OperationDefinitionNode) -> frozenset[str]:
    """The variables that are scalars or enums."""
    return frozenset(
        each.variable.name.value
        for each in operation.variable_definitions or ()
        if is_leaf_type(get_nullable_type(cast(Any, type_from_ast(schema._schema, each.type))))
    )


def _variables(node: Node) -> Iterator[str]:
    if isinstance(node, VariableNode):
        yield node.name.value
        return
    for key in node.keys:
        value = getattr(node, key)
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, Node):
                yield from _variables(each)
