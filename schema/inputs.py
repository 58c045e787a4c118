"""From GraphQL inputs to commands: the edge where what a client sent is checked."""

from dataclasses import fields
from typing import Any, TypeVar

import strawberry
from pydantic import BaseModel, ValidationError
from strawberry import UNSET, Some
from strawberry.types.base import has_object_definition

from lifecycle.errors import InvalidInput, Path
from schema import ids

Model = TypeVar("Model", bound=BaseModel)


@strawberry.input
class WriteInput:
    """What the input of every mutation takes."""

    idempotency_key: str | None = strawberry.field(
        default=None,
        description="Any text that is new, such as a UUID. Repeating the call with it and the same "
        "input gives the same object and has no second effect.",
    )


@strawberry.input
class ChangeInput(WriteInput):
    """What the input of a mutation takes that changes an object."""

    expected_revision: int | None = strawberry.field(
        default=None,
        description="Refuse with StaleRevision if the object's revision is another one by now.",
    )


def parse(model: type[Model], input: object, **id_kinds: str) -> Model:
    """The command that an input means. Raises InvalidInput with the path of the first mistake.

    `id_kinds` names the fields that hold global ids, and the kind that each must be of.
    """
    values = plain(input)
    for name, kind in id_kinds.items():
        if values.get(name) is not None:
            values[name] = ids.decode(kind, values[name], (name,))
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        message = "; ".join(_sentence(problem) for problem in problems[:5])
        raise InvalidInput(message, _path(problems[0])) from None


def plain(value: Any) -> Any:
    """An input as plain values. What was left out is left out; an explicit null stays, where the
    field tells the two apart."""
    if hasattr(value, "plain"):
        return value.plain()
    if has_object_definition(value):
        result = {}
        for field in fields(value):  # type: ignore[arg-type]
            item = getattr(value, field.name)
            if isinstance(item, Some):
                result[field.name] = plain(item.value)
            elif item is not None and item is not UNSET:
                result[field.name] = plain(item)
        return result
    # Columns of numbers are long; only lists of inputs need a look at each item.
    if isinstance(value, list) and value and has_object_definition(value[0]):
        return [plain(item) for item in value]
    return value


def _path(problem: Any) -> Path:
    return tuple(part for part in problem["loc"] if part != "[key]")


def _sentence(problem: Any) -> str:
    where = ".".join(str(part) for part in _path(problem))
    said = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {said}" if where else said
