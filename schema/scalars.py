"""Values that GraphQL has no type for."""

from typing import Any, NewType, cast

import strawberry
from graphql import GraphQLError, IntValueNode, ValueNode
from strawberry.scalars import JSON

BigInt = NewType("BigInt", int)


def _parse(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise GraphQLError(f"BigInt cannot represent {str(value)[:50]!r}: it is a 64-bit integer.")
    return value


def _parse_literal(node: ValueNode, _variables: object = None) -> int:
    if not isinstance(node, IntValueNode):
        raise GraphQLError("BigInt cannot represent a value that is not an integer.", node)
    return _parse(int(node.value) if len(node.value) < 25 else node.value)


def as_json(value: dict[str, Any] | None) -> JSON | None:
    """A value that is JSON already."""
    return cast(JSON | None, value)


BIG_INT = strawberry.scalar(
    name="BigInt",
    description="An integer of up to 64 bits, as a JSON number.",
    serialize=int,
    parse_value=_parse,
    parse_literal=_parse_literal,
)
