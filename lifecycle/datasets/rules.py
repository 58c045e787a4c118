"""Which data set the facts of a run speak of."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

MAX_LENGTH = 250

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class DataSetName(NamedTuple):
    """What tells data sets apart. The same name with another digest is other data."""

    name: str
    digest: str | None = None


def named(facts: Mapping[str, Any] | None) -> DataSetName | None:
    """The data set that these facts name, or None.

    Facts are whatever a client knows, so nothing in them is refused: a `name` that is no name
    names no data set, and a `digest` that is none counts as left out.
    """
    name = _text((facts or {}).get("name"))
    return DataSetName(name, _text((facts or {}).get("digest"))) if name else None


def _text(value: Any) -> str | None:
    """A single line that fits into an index, or None."""
    if not isinstance(value, str):
        return None
    value = value.strip(" \t\n\r")
    return value if 1 <= len(value) <= MAX_LENGTH and not _CONTROL.search(value) else None
