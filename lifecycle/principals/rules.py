"""What grants and tokens may look like, and what they come to."""

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from lifecycle.access.rules import GROUP, SERVICE, SYSTEM, Grant, Rights, Role
from lifecycle.names import seen

MAX_NAME = 250
# So that tokens are recognised wherever they turn up, by people and by scanners for secrets.
_BEGIN = "lct_"
_TOKEN = re.compile(rf"{_BEGIN}[\w-]{{43}}")
_SHOWN = len(_BEGIN) + 6


class Secret(NamedTuple):
    """A new token: itself, what is shown of it, and what it is known by."""

    token: str
    prefix: str
    digest: bytes


def new_secret() -> Secret:
    """A token that nobody can guess."""
    token = _BEGIN + secrets.token_urlsafe(32)
    return Secret(token, token[:_SHOWN], digest(token))


def is_token(given: str) -> bool:
    """Whether it has the form of an API token."""
    return _TOKEN.fullmatch(given) is not None


def digest(given: str) -> bytes:
    """What a secret is known by."""
    return hashlib.sha256(given.encode()).digest()


def is_name(given: object, *, reserved: Iterable[str] = (SYSTEM, SERVICE, GROUP)) -> bool:
    """Whether it can be the name of somebody: a short line, all of it seen, that does not begin, in
    whichever case, as a name that is nobody's to choose."""
    return (
        isinstance(given, str)
        and 0 < len(given) <= MAX_NAME
        and given == given.strip()
        and seen(given) == given
        and not given.casefold().startswith(tuple(reserved))
    )


class Granted(Protocol):
    """A grant as it is stored."""

    @property
    def role(self) -> Role: ...
    @property
    def model_id(self) -> UUID | None: ...
    @property
    def stages(self) -> list[str] | None: ...
    @property
    def environments(self) -> list[str] | None: ...


def _set(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def rights_of(rows: Iterable[Granted]) -> Rights:
    """What these grants come to."""
    return Rights(frozenset(map(grant_from, rows)))


def grant_from(row: Granted) -> Grant:
    """A grant of a person or a group."""
    return Grant(row.role, row.model_id, _set(row.stages), _set(row.environments))


def grant_of(stored: Mapping[str, Any]) -> Grant:
    """A grant of a token, as it is stored there."""
    model = stored["model_id"]
    return Grant(
        Role(stored["role"]),
        None if model is None else UUID(str(model)),
        _set(stored["stages"]),
        _set(stored["environments"]),
    )
