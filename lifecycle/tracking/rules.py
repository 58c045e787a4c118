"""What is decided about an object that is here and in MLflow: who wins, when to try again.

Both sides are compared in MLflow's terms, as fields by name: "description", "status", "tag:team".
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, TypeAlias, TypeVar
from urllib.parse import quote

from lifecycle.names import seen
from lifecycle.runs.rules import RunStatus

T = TypeVar("T")


class TrackedKind(StrEnum):
    """What there is on both sides."""

    EXPERIMENT = "EXPERIMENT"
    RUN = "RUN"
    MODEL = "MODEL"
    MODEL_VERSION = "MODEL_VERSION"


class Settled(StrEnum):
    """What came of an object that was to be reconciled. LATER is when another has to come first,
    or MLflow does not answer."""

    DONE = "done"
    FAILED = "failed"
    LATER = "later"


class SyncState(StrEnum):
    """Where an object stands: PENDING is to be looked at, perhaps again; FAILED is parked."""

    PENDING = "PENDING"
    IN_SYNC = "IN_SYNC"
    CONFLICT = "CONFLICT"
    FAILED = "FAILED"


class FieldRule(StrEnum):
    """Who may change a field: either side; this side only; this side only, which tells it there in
    another way than by the field; the same, but MLflow's is taken over; MLflow's only; whoever sets
    it first, once; either side, but of two the one that is further on."""

    EITHER = "EITHER"
    OURS = "OURS"
    WATCHED = "WATCHED"
    ADOPTED = "ADOPTED"
    THEIRS = "THEIRS"
    ONCE = "ONCE"
    FORWARD = "FORWARD"


class Resolution(StrEnum):
    """What becomes of a conflict: our value goes there, theirs comes here, or each stays."""

    KEEP_OURS = "KEEP_OURS"
    TAKE_THEIRS = "TAKE_THEIRS"
    LEAVE = "LEAVE"


Fields: TypeAlias = Mapping[str, str]
# A change of fields; None removes.
Changes: TypeAlias = dict[str, str | None]


class Agreed(NamedTuple):
    """What a field was on either side when they last agreed. Not always the same: what one side
    cannot have is the nearest that it can."""

    ours: str | None
    theirs: str | None


Base: TypeAlias = Mapping[str, Agreed]


class Conflict(NamedTuple):
    """A field that was changed on both sides, or where it must not be; and why, if not that. The
    field is empty where it is about the object as a whole, which is not there any more."""

    field: str
    ours: str | None
    theirs: str | None
    reason: str | None = None
    rule: FieldRule = FieldRule.EITHER


@dataclass(frozen=True, slots=True)
class Merge:
    """What has to happen: `push` there, `pull` here; and what is agreed on already."""

    push: Changes = field(default_factory=dict)
    pull: Changes = field(default_factory=dict)
    conflicts: list[Conflict] = field(default_factory=list)
    base: dict[str, Agreed] = field(default_factory=dict)


def merge(base: Base, ours: Fields, theirs: Fields, rule_of: Callable[[str], FieldRule]) -> Merge:
    """Compare what each side is with what it was when they last agreed.

    A field without a base has never been on both sides: who has it gives it. What is in conflict
    stays so until the sides are equal or somebody has `settle`d it.
    """
    merged = Merge()
    for name in sorted({*ours, *theirs, *base}):
        our, their = ours.get(name), theirs.get(name)
        known = base.get(name)
        now = Agreed(our, their)
        if our == their:
            if our is not None:
                merged.base[name] = now
            continue
        if known == now:
            merged.base[name] = now
            continue
        former = known or Agreed(None, None)
        rule = rule_of(name)
        we_did, they_did = our != former.ours, their != former.theirs
        if rule is FieldRule.ONCE:
            we_did, they_did = our is not None, their is not None
        if rule is FieldRule.FORWARD and we_did and they_did:
            we_did, they_did = _reached(our) >= _reached(their), _reached(their) >= _reached(our)
        if we_did and they_did:
            merged.conflicts.append(Conflict(name, our, their, rule=rule))
        elif we_did and rule in (FieldRule.THEIRS, FieldRule.WATCHED, FieldRule.ADOPTED):
            # Nothing is told there.
            known = now
        elif we_did:
            merged.push[name] = our
        elif rule in (FieldRule.OURS, FieldRule.WATCHED):
            merged.conflicts.append(Conflict(name, our, their, "Only changed here.", rule))
        else:
            merged.pull[name] = their
        if known is not None:
            merged.base[name] = known
    return merged


def resolutions(conflict: Conflict) -> tuple[Resolution, ...]:
    """What can be done about a conflict."""
    if conflict.rule in (FieldRule.ONCE, FieldRule.WATCHED):
        return (Resolution.LEAVE,)
    if conflict.rule is FieldRule.OURS or not conflict.field:
        return (Resolution.KEEP_OURS, Resolution.LEAVE)
    return tuple(Resolution)


def _reached(status: str | None) -> int:
    """How far a run has come."""
    return {None: 0, "SCHEDULED": 1, "RUNNING": 2}.get(status, 3)


def settle(base: Base, conflict: Conflict, resolution: Resolution) -> Agreed:
    """The base with which the next merge does what was resolved."""
    if resolution is Resolution.LEAVE:
        return Agreed(conflict.ours, conflict.theirs)
    if resolution is Resolution.KEEP_OURS:
        return Agreed(_other_than(conflict.ours), conflict.theirs)
    return Agreed(conflict.ours, _other_than(conflict.theirs))


def _other_than(value: str | None) -> str | None:
    return "" if value is None else None


def said(conflicts: Sequence[Mapping[str, str | None]]) -> str:
    """Conflicts for people to read, in one line."""
    return "; ".join(
        each["reason"]
        or f"{each['field']} is {each['ours']!r} here and {each['theirs']!r} in MLflow"
        for each in conflicts
    )


# After so many failures in a row an item is parked.
MAX_ATTEMPTS = 10
_LONGEST_PAUSE = 300.0


def pause(attempts: int) -> float:
    """How long to wait after so many failures in a row, in seconds."""
    return min(float(2**attempts), _LONGEST_PAUSE)


# What MLflow takes. Of experiments' and models' tags that is what its 2.x takes.
MAX_KEY = 250
MAX_PARAM = 6_000
MAX_RUN_TAG = 8_000
MAX_OTHER_TAG = 5_000
# What is taken here: `lifecycle.commands.Name`, `Line` and `Text`.
MAX_NAME = 250
MAX_LINE = 1_000
MAX_TEXT = 20_000

_ELLIPSIS = "…"
# In a key of MLflow's nothing else may be, and it must be a path that nothing could be left out of.
_KEY_CHARACTER = re.compile(r"[/\w.\- :]")
_MODEL_CHARACTER = re.compile(r"[^/:]")
_ESCAPE = re.compile(r"_((?:x5F_)*)x([1-9A-F][0-9A-F]*)_")
_UNDERSCORE = "_x5F_"
# Stands where otherwise nothing would, or a dot, or two, or a space.
_MARK = "_x_"
_NO_PART = re.compile(rf"(?:{_MARK})*\.{{0,2}}\Z")
_NO_FIRST_PART = re.compile(rf"(?:{_MARK})*(?:\.?\Z|\.\.)")
_NO_BEGINNING = re.compile(rf"(?:{_MARK})*(?:\s|\Z)")
_NO_END = re.compile(rf"\s(?:{_MARK})*\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_CONTROL_BUT_LINES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def there_key(key: str) -> str:
    """A key of ours as MLflow can have it, of parameters, metrics and tags.

    What it cannot have is spelled out: "recall@5" is "recall_x40_5". `here_key` reads it back,
    unless it has become too long and had to be cut; then it still is another one for each key.
    """
    return _short(_with_path(_escaped(_without_guard(key), _KEY_CHARACTER)), MAX_KEY)


def here_key(key: str) -> str:
    """A key of MLflow's as a `Name`; `there_key` gives it back."""
    return _short(_guarded(_unescaped(_without_path(key), _KEY_CHARACTER)), MAX_NAME)


def there_name(name: str) -> str:
    """The name of a model as MLflow can have it; `here_name` reads it back. There it must be a
    path of one segment."""
    return _short(_with_path(_escaped(_without_guard(name), _MODEL_CHARACTER)), MAX_NAME)


def here_name(name: str) -> str:
    """The name of MLflow's model as a `DistinctName`, another one for each; `there_name` gives it
    back, unless it had to be cut, or had characters that no name here may have."""
    return _distinct(_guarded(_unescaped(_without_path(name), _MODEL_CHARACTER)))


def keys_there(keys: Iterable[str]) -> dict[str, str]:
    """Our keys by what they are in MLflow: of keys that were cut, too, this says what they were."""
    return {there_key(key): key for key in keys}


def tags_in(fields: Mapping[str, T]) -> dict[str, T]:
    """Those of these fields that are tags, by MLflow's keys."""
    return {
        name.removeprefix("tag:"): value
        for name, value in fields.items()
        if name.startswith("tag:")
    }


def with_changes(
    known: Mapping[str, str], changes: Mapping[str, str | None], prefix: str
) -> dict[str, str]:
    """Our pairs with those changes that are of fields with this prefix, by MLflow's keys."""
    pairs = dict(known)
    for _, key, value in by_our_keys(known, changes, prefix):
        if value is None:
            pairs.pop(key, None)
        else:
            pairs[key] = value
    return pairs


def by_our_keys(
    known: Mapping[str, str], changes: Mapping[str, str | None], prefix: str
) -> Iterator[tuple[str, str, str | None]]:
    """Those changes that are of fields with this prefix: the field, our key, the value."""
    keys = keys_there(known)
    for name, value in changes.items():
        if name.startswith(prefix):
            there = name.removeprefix(prefix)
            yield name, keys.get(there, here_key(there)), value


def cut(value: str, length: int) -> str:
    """The value, or its beginning and an ellipsis."""
    return value if len(value) <= length else value[: length - 1] + _ELLIPSIS


def here_text(value: str) -> str:
    """A value of MLflow's as a `Text`: cut, without control characters."""
    return cut(_CONTROL_BUT_LINES.sub("\ufffd", value), MAX_TEXT)


def here_line(value: str, length: int = MAX_LINE) -> str | None:
    """A value of MLflow's as a `Line` or a `Name`: one line, cut; None when nothing is left."""
    line = _CONTROL.sub("\ufffd", " ".join(value.split())).strip()
    return cut(line, length).strip() or None


def _escaped(key: str, allowed: re.Pattern[str]) -> str:
    """Each character that is not allowed as `_x40_`; what looks like that already begins with an
    escaped underscore. From the end, because what follows decides what it looks like."""
    done = ""
    for character in reversed(key):
        if not allowed.fullmatch(character):
            done = f"_x{ord(character):X}_{done}"
        elif character == "_" and _escape(f"_{done}", 0, allowed):
            done = _UNDERSCORE + done
        else:
            done = character + done
    return done


def _unescaped(key: str, allowed: re.Pattern[str]) -> str:
    done, place = [], 0
    while place < len(key):
        found = _escape(key, place, allowed)
        if found is None:
            done.append(key[place])
            place += 1
        elif found[1]:
            done.append("_")
            place += len(_UNDERSCORE)
        else:
            done.append(chr(int(found[2], 16)))
            place = found.end()
    return "".join(done)


def _escape(key: str, place: int, allowed: re.Pattern[str]) -> re.Match[str] | None:
    """What `_escaped` has made of a character at this place, and of nothing else."""
    found = _ESCAPE.match(key, place) if key[place] == "_" else None
    if found is None or int(found[2], 16) > 0x10FFFF:
        return None
    character = chr(int(found[2], 16))
    return None if allowed.fullmatch(character) or _CONTROL.match(character) else found


def _with_path(key: str) -> str:
    return "/".join(_MARK + part if no_part.match(part) else part for part, no_part in _parts(key))


def _without_path(key: str) -> str:
    return "/".join(
        part.removeprefix(_MARK) if no_part.match(part) else part for part, no_part in _parts(key)
    )


def _parts(key: str) -> list[tuple[str, re.Pattern[str]]]:
    """The parts of a path, and what each must not be."""
    first, *others = key.split("/")
    return [(first, _NO_FIRST_PART), *((part, _NO_PART) for part in others)]


def _guarded(key: str) -> str:
    """Neither empty, nor with a space at an end."""
    if _NO_BEGINNING.match(key):
        key = _MARK + key
    return key + _MARK if _NO_END.search(key) else key


def _without_guard(key: str) -> str:
    if key.endswith(_MARK) and _NO_END.search(key):
        key = key.removesuffix(_MARK)
    return key.removeprefix(_MARK) if key.startswith(_MARK) and _NO_BEGINNING.match(key) else key


def _distinct(name: str) -> str:
    """As everybody sees it, and if that may look like another one, with its digest."""
    shown = seen(name)
    return _short(shown, MAX_NAME) if shown == name else _digested(shown, name, MAX_NAME)


def _short(key: str, length: int) -> str:
    return key if len(key) <= length else _digested(key, key, length)


def _digested(shown: str, key: str, length: int) -> str:
    digest = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{shown[: length - 17].rstrip(' ./')}_{digest}"


_STATUSES = {
    RunStatus.PENDING: "SCHEDULED",
    RunStatus.RUNNING: "RUNNING",
    RunStatus.COMPLETED: "FINISHED",
    RunStatus.FAILED: "FAILED",
    RunStatus.CANCELLED: "KILLED",
}
_STATUSES_HERE = {there: here for here, there in _STATUSES.items()}


def there_status(status: RunStatus) -> str:
    """A run's status in MLflow, which does not know that a run is LOST."""
    return _STATUSES.get(status, "RUNNING")


def here_status(status: str) -> RunStatus:
    """What MLflow's status of a run is here; one that it may get in future counts as RUNNING."""
    return _STATUSES_HERE.get(status, RunStatus.RUNNING)


def here_title(title: str, otherwise: str) -> str:
    """What MLflow calls something, as a `DistinctName` that is another one for each; `otherwise`
    when nothing is left of it."""
    return _distinct(" ".join(title.split()) or otherwise)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = -62_135_596_800_000, 253_402_300_799_999


def milliseconds(moment: datetime) -> int:
    """A time as MLflow has it."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def moment(milliseconds: int) -> datetime:
    """A time of MLflow's, or the nearest one that there is in the years 1 to 9999."""
    return _EPOCH + timedelta(milliseconds=min(max(milliseconds, _FIRST), _LAST))


_SCHEMES = ("runs", "models", "mlflow-artifacts")


def file_url(server: str, run_id: str, path: str) -> str:
    """Where the server at an address serves an artifact of a run."""
    return f"{server}/get-artifact?run_uuid={quote(run_id, safe='')}&path={quote(path)}"


def is_of_mlflow(artifact: str) -> bool:
    """Whether only MLflow knows where this is."""
    return artifact.partition(":/")[0] in _SCHEMES


def page_of(server: str, artifact: str, run_pages: Mapping[str, str]) -> str | None:
    """The server's page that shows what one of MLflow's URIs stands for, if the URI says enough.
    `run_pages` are the pages of runs that are known, by their ids there."""
    scheme, _, path = artifact.partition(":/")
    parts = path.split("/")
    if "" in parts[:1]:
        # It names a server of its own, or nothing.
        return None
    match scheme, parts:
        case "runs", [run, *inside]:
            known = run_pages.get(run)
            return _inside(known, inside) if known else f"{server}/#/runs/{quote(run)}"
        case "models", [name, number] if number.isdecimal():
            return f"{server}/#/models/{quote(name, safe='')}/versions/{number}"
        case "mlflow-artifacts", [experiment, run, "artifacts", *inside]:
            page = f"{server}/#/experiments/{quote(experiment)}/runs/{quote(run)}"
            return _inside(page, inside)
    return None


def _inside(run_page: str, path: Sequence[str]) -> str:
    return "/".join([f"{run_page}/artifacts", *map(quote, path)])
