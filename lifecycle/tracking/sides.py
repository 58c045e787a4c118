"""What each kind of object offers, so that all kinds are reconciled in one way.

`experiments`, `runs`, `models` and `versions` are modules with the functions of `Kind`.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from uuid import UUID

import orjson
from pydantic import BaseModel, ValidationError

from lifecycle.access.origin import Origin
from lifecycle.commands import MAX_TAGS, MAX_TAGS_CHARACTERS
from lifecycle.database import Database, ReadSession, WriteSession
from lifecycle.errors import InvalidInput
from lifecycle.tracking import rules
from lifecycle.tracking.client import Client, MlflowError
from lifecycle.tracking.rules import MAX_OTHER_TAG, Base, Changes, FieldRule, TrackedKind

Made = TypeVar("Made", bound=BaseModel)

ACTOR = "system:mlflow"
# Tags that begin so are ours; MLflow's own begin with `mlflow.`.
OURS = "lifecycle."
# Under this one our objects are found again in MLflow.
ID_TAG = "lifecycle.id"


class NotYet(Exception):
    """Another object has to be on both sides first: one of ours, or one of theirs."""

    def __init__(
        self, kind: TrackedKind, *, object_id: UUID | None = None, mlflow_id: str | None = None
    ) -> None:
        self.kind, self.object_id, self.mlflow_id = kind, object_id, mlflow_id
        super().__init__(f"Waits for the {kind.lower().replace('_', ' ')} that it belongs to.")


class Incomplete(Exception):
    """What could be brought over has been, with what the item is to remember of it; for the rest
    there is an error of MLflow's, which is to be tried again."""

    def __init__(self, points_seen: Mapping[str, Any], error: MlflowError) -> None:
        self.points_seen, self.error = points_seen, error
        super().__init__(str(error))


class NoRoom(InvalidInput):
    """Tags for which there is no room beside the others: their fields, and what is said of each."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        self.reasons = reasons
        super().__init__(next(iter(reasons.values())))


def tags_with(known: Mapping[str, str], changes: Changes) -> dict[str, str]:
    """The tags of an object here with those changes that are of tags. Raises NoRoom."""
    reasons = _without_room(known, changes)
    if reasons:
        raise NoRoom(reasons)
    return rules.with_changes(known, changes, "tag:")


def _without_room(known: Mapping[str, str], changes: Changes) -> dict[str, str]:
    """Those changes of our tags, by their fields, for which there is no room once those before them
    are made that have some; and what there would be too much of."""
    lengths = {key: len(key) + len(value) for key, value in known.items()}
    characters = sum(lengths.values())
    found: dict[str, str] = {}
    for name, key, value in rules.by_our_keys(known, changes, "tag:"):
        former = lengths.pop(key, None)
        characters -= former or 0
        length = None if value is None else len(key) + len(value)
        if length is not None and len(lengths) >= MAX_TAGS:
            found[name] = f"tags: must not be more than {MAX_TAGS:,} in all."
        elif length is not None and characters + length > MAX_TAGS_CHARACTERS:
            found[name] = (
                f"tags: must not have more than {MAX_TAGS_CHARACTERS:,} characters in all."
            )
        else:
            former = length
        if former is not None:
            lengths[key] = former
            characters += former
    return found


def checked(command: type[Made], **values: Any) -> Made:
    """The command, or a part of one, with these values. Raises InvalidInput."""
    try:
        return command(**values)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join(map(str, problem["loc"]))
        raise InvalidInput(f"{path}: {problem['msg'].removeprefix('Value error, ')}.") from None


@dataclass(frozen=True, slots=True)
class Ours:
    """An object as it is here. `announced` are the tags of ours that it is to have there, in full;
    `facts` is whatever else its kind wants to know. Of a run `made_there` says whether it began on
    the server that it is compared with, where it is a mirror otherwise."""

    id: UUID
    fields: Mapping[str, str]
    announced: Mapping[str, str]
    facts: Any
    made_there: bool = False


@dataclass(frozen=True, slots=True)
class Theirs:
    """An object as it is in MLflow. `announced` are the tags of ours that it has; `seen` is a
    digest of all that may change, `url` its page. Of a run `latest` is the last point of each
    metric: step, milliseconds and value."""

    mlflow_id: str
    fields: Mapping[str, str]
    announced: Mapping[str, str]
    seen: str
    url: str
    facts: Any
    latest: Mapping[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """An item that somebody has taken, as it was then. `importing_for` is the administrator who has
    asked for it by an import, whoever does it."""

    id: UUID
    kind: TrackedKind
    object_id: UUID | None
    mlflow_id: str | None
    base: Base
    points_seen: Mapping[str, Any]
    position: int
    wanted: int
    attempts: int
    lease_id: UUID
    importing_for: str | None = None


@dataclass(frozen=True, slots=True)
class Sync:
    """What all reconciling with one server shares. What comes in is written under `origin`.

    `importing_for` is the administrator on whose behalf the stage of an object is taken over. Who
    imports does not write to MLflow (`writes`), but leaves that to a worker if the server is
    `mirrored`.
    """

    database: Database
    client: Client
    server_id: UUID
    origin: Origin
    importing_for: str | None = None
    writes: bool = True
    mirrored: bool = True


def origin_of(server_id: UUID) -> Origin:
    """Who writes what comes in from a server: by this the journal's reader knows its own echo."""
    return Origin.system(ACTOR, f"mlflow:{server_id}")


def digest(entity: Any) -> str:
    """A short name for exactly this state of an object of MLflow's, a dataclass of the client."""
    return hashlib.sha256(orjson.dumps(entity, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def our_id(theirs: Theirs) -> UUID | None:
    """Our id of an object of MLflow's, as its tag says; None if it has none."""
    with suppress(ValueError):
        return UUID(theirs.announced.get(ID_TAG, ""))
    return None


def fields_here(description: str | None, tags: Mapping[str, str]) -> dict[str, str]:
    """Description and tags of ours, of models and versions, as MLflow's registry can have them.
    Tags with names that are ours there, or MLflow's, are not told."""
    fields = {
        f"tag:{key}": rules.cut(tags[ours], MAX_OTHER_TAG)
        for key, ours in rules.keys_there(tags).items()
        if not key.startswith(OURS)
    }
    if description:
        fields["description"] = rules.cut(description, MAX_OTHER_TAG)
    return fields


def fields_there(
    description: str | None, tags: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Description and tags from MLflow's registry, as they can be had here; and those tags that are
    ours."""
    announced = {key: value for key, value in tags.items() if key.startswith(OURS)}
    fields = {
        f"tag:{key}": rules.here_text(value) for key, value in tags.items() if key not in announced
    }
    if description:
        fields["description"] = rules.here_text(description)
    return fields, announced


class Kind(Protocol):
    """What a kind's module has to offer."""

    def rule_of(self, sync: Sync, field: str) -> FieldRule:
        """Who may change this field."""
        ...

    async def load(self, session: ReadSession, sync: Sync, id: UUID) -> Ours:
        """The object as it is here."""
        ...

    async def fetch(self, sync: Sync, mlflow_id: str) -> Theirs:
        """The object as it is there. Raises Missing, also when it is deleted there."""
        ...

    async def create_there(self, sync: Sync, ours: Ours) -> str:
        """Make it there, with its name and our id, unless a former attempt has, or one of the same
        name is there; the rest is pushed afterwards. Returns MLflow's id. Raises NotYet."""
        ...

    async def create_here(self, session: WriteSession, sync: Sync, theirs: Theirs) -> UUID:
        """Make it here, or find the one that its `lifecycle.id` names, or that has its name; the
        rest is pulled afterwards. Raises NotYet, and what the use case raises."""
        ...

    async def push(
        self, sync: Sync, ours: Ours, theirs: Theirs, changes: Changes, announced: Changes
    ) -> None:
        """Change fields, and tags of ours, there. May be repeated."""
        ...

    async def pull(
        self, session: WriteSession, sync: Sync, id: UUID, theirs: Theirs, changes: Changes
    ) -> None:
        """Change fields here, through the use cases that clients use. Raises what they raise."""
        ...

    async def exchange(
        self, sync: Sync, task: Task, ours: Ours, theirs: Theirs, through: int
    ) -> Mapping[str, Any]:
        """Bring over, both ways, what is only ever added: points, files, log lines. What the
        journal says after `task.position` up to `through` is new here. Returns the item's new
        `points_seen`. May be repeated. Raises Incomplete when it has come as far as it can."""
        ...
