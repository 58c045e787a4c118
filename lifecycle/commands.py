"""What the inputs of use cases share: how values are checked before any of them is used.

Each use case has a command, a frozen model that cannot hold an unacceptable value. A field that
was left out is not in `model_fields_set`; that is how patches tell "absent" from "null".
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from lifecycle.names import seen

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

MAX_JSON_BYTES = 256 * 1024
# Of all tags of an object together, with their keys: a page has as many as a page of JSON.
MAX_TAGS = 1_000
MAX_TAGS_CHARACTERS = 250_000
BIGGEST = 2**63 - 1


def _printable(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("must not contain control characters")
    return value


def _named(value: str) -> str:
    if value != value.strip() or not value:
        raise ValueError("must not be empty, nor begin or end with a space")
    if "\n" in value or "\r" in value or "\t" in value:
        raise ValueError("must be a single line")
    return _printable(value)


def _distinct(value: str) -> str:
    if seen(value) != value:
        raise ValueError(
            "must not contain characters that cannot be seen, or that are not composed (NFC)"
        )
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must lie within the years 1 to 9999, in UTC") from None


def _storable(value: Any, depth: int = 0) -> Any:
    """JSON that PostgreSQL takes: no NUL, no endless depth, no number that JSON has no name for."""
    if depth > 32:
        raise ValueError("must not be nested deeper than 32 levels")
    if isinstance(value, str):
        if "\x00" in value:
            raise ValueError("must not contain the character U+0000")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("must not contain a number that is not finite")
    elif isinstance(value, int):
        if not -BIGGEST - 1 <= value <= 2 * BIGGEST + 1:
            raise ValueError("must not contain an integer beyond 64 bits")
    elif isinstance(value, dict):
        for key, item in value.items():
            _storable(key, depth + 1)
            _storable(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _storable(item, depth + 1)
    return value


def _object(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")
    try:
        length = len(orjson.dumps(value))
    except orjson.JSONEncodeError:  # which says less of it than what comes next
        length = 0
    if length > MAX_JSON_BYTES:
        raise ValueError(f"must not be larger than {MAX_JSON_BYTES} bytes")
    _storable(value)
    return value


def _unique_pairs(value: Any, *, name: str = "value") -> Any:
    """[{key, value}] as clients send it, as the mapping that it means."""
    if not isinstance(value, list):
        return value
    pairs = {pair["key"]: pair[name] for pair in value}
    if len(pairs) != len(value):
        raise ValueError("must not name a key twice")
    return pairs


def fitting_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """As many of them, in order of their keys, as one object may have."""
    characters, fitting = 0, {}
    for key in sorted(tags)[:MAX_TAGS]:
        characters += len(key) + len(tags[key])
        if characters > MAX_TAGS_CHARACTERS:
            break
        fitting[key] = tags[key]
    return fitting


def _together(tags: dict[str, str]) -> dict[str, str]:
    if len(fitting_tags(tags)) < len(tags):
        raise ValueError(f"must not have more than {MAX_TAGS_CHARACTERS:,} characters in all")
    return tags


def pairs_to(name: str) -> BeforeValidator:
    """Take [{key, <name>}] for the mapping that it means; no key twice."""
    return BeforeValidator(partial(_unique_pairs, name=name))


Name = Annotated[str, Field(max_length=250), AfterValidator(_named)]
# What people tell objects by: two that look the same are the same, as far as one script goes.
DistinctName = Annotated[Name, AfterValidator(_distinct)]
Line = Annotated[str, Field(max_length=1_000), AfterValidator(_named)]
Text = Annotated[str, Field(max_length=20_000), AfterValidator(_printable)]
JsonObject = Annotated[dict[str, Any], BeforeValidator(_object)]
Pairs = Annotated[dict[Name, Text], BeforeValidator(_unique_pairs), Field(max_length=1_000)]
Tags = Annotated[
    dict[Name, Text],
    BeforeValidator(_unique_pairs),
    Field(max_length=MAX_TAGS),
    AfterValidator(_together),
]
Figures = Annotated[
    dict[Name, Annotated[float, Field(allow_inf_nan=False)]],
    BeforeValidator(_unique_pairs),
    Field(max_length=1_000),
]
Count = Annotated[int, Field(ge=0, le=BIGGEST)]
Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class Command(BaseModel):
    """The input of one use case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    idempotency_key: (
        Annotated[str, Field(min_length=1, max_length=250), AfterValidator(_named)] | None
    ) = None

    def given(self, *fields: str) -> dict[str, Any]:
        """Those of the fields that the caller sent, null included."""
        return {name: getattr(self, name) for name in fields if name in self.model_fields_set}
