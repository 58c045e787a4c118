"""From GraphQL inputs to commands: the edge where what a client sent is checked."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, TypeAlias, TypeVar

import strawberry
from pydantic import BaseModel, TypeAdapter, ValidationError
from strawberry import UNSET, Some
from strawberry.types.base import has_object_definition

from lifecycle.commands import Moment
from lifecycle.errors import InvalidInput, Path
from schema import ids
from schema.errors import shown_path

Input = TypeVar("Input")
Model = TypeVar("Model", bound=BaseModel)
Choice = TypeVar("Choice", bound=StrEnum)

_MOMENT: TypeAdapter[datetime | None] = TypeAdapter(Moment | None)


# What every mutation takes; a client reads the rest in the input's own description.
Given: TypeAlias = Annotated[
    Input, strawberry.argument(description="What is to be done, and under which key.")
]


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


def choices(values: Sequence[Choice] | None) -> tuple[Choice, ...]:
    """The members of an enum that a filter names, each once and always in the same order."""
    return tuple(sorted(set(values or ())))


def parse(model: type[Model], input: object, path: Path = (), **id_kinds: str) -> Model:
    """The command that an input means. Raises InvalidInput with the path of the first mistake.

    `path` leads to the input, where it is not the whole of what the client sends. `id_kinds` names
    the fields that hold a global id, or several, and the kind that each must be of.
    """
    values = plain(input)
    for name, kind in id_kinds.items():
        given = values.get(name)
        if isinstance(given, list):
            values[name] = [ids.decode(kind, id, (name, n)) for n, id in enumerate(given)]
        elif given is not None:
            values[name] = ids.decode(kind, given, (name,))
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        paths = [_path(problem["loc"], values) for problem in problems[:5]]
        message = "; ".join(map(_sentence, problems, paths))
        raise InvalidInput(message, (*path, *paths[0])) from None


def moment(value: datetime | None, path: Path) -> datetime | None:
    """A time that is an argument of its own. Raises InvalidInput when it has no zone."""
    try:
        return _MOMENT.validate_python(value)
    except ValidationError as error:
        raise InvalidInput(_sentence(error.errors()[0], ()), path) from None


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


def _path(location: Path, values: Any) -> Path:
    """Where a mistake lies in what the client sent: pairs are a mapping to commands, by key, but a
    list to the client."""
    path: list[str | int] = []
    for part in location:
        if isinstance(values, list) and isinstance(part, str):
            keys = [pair["key"] for pair in values]
            return (*path, keys.index(part), "key" if location[-1] == "[key]" else "value")
        if isinstance(values, dict) and values.get("kind") == part:
            # One of several kinds of object, which the client sent under the name of its kind.
            path.append(str(part).lower())
            continue
        path.append(part)
        inside = isinstance(values, list) or (isinstance(values, dict) and part in values)
        values = values[part] if inside else None
    return tuple(path)


def _sentence(problem: Any, path: Path) -> str:
    where = ".".join(shown_path(path))
    said = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {said}" if where else said
