"""What is decided about an object that is here and in MLflow: who wins, when to try again.

Both sides are compared in MLflow's terms, as fields by name: "description", "status", "tag:team".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeAlias


class TrackedKind(StrEnum):
    """What there is on both sides."""

    EXPERIMENT = "EXPERIMENT"
    RUN = "RUN"
    MODEL = "MODEL"
    MODEL_VERSION = "MODEL_VERSION"


class SyncState(StrEnum):
    """Where an object stands: PENDING is to be looked at, perhaps again; FAILED is parked."""

    PENDING = "PENDING"
    IN_SYNC = "IN_SYNC"
    CONFLICT = "CONFLICT"
    FAILED = "FAILED"


class FieldRule(StrEnum):
    """Who may change a field: either side; this side only; whoever sets it first, once."""

    EITHER = "EITHER"
    OURS = "OURS"
    ONCE = "ONCE"


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
        if we_did and they_did:
            merged.conflicts.append(Conflict(name, our, their, rule=rule))
        elif we_did:
            merged.push[name] = our
        elif rule is FieldRule.OURS:
            merged.conflicts.append(Conflict(name, our, their, "Only changed here.", rule))
        else:
            merged.pull[name] = their
        if known is not None:
            merged.base[name] = known
    return merged


def resolutions(conflict: Conflict) -> tuple[Resolution, ...]:
    """What can be done about a conflict."""
    if conflict.rule is FieldRule.ONCE:
        return (Resolution.LEAVE,)
    if conflict.rule is FieldRule.OURS or not conflict.field:
        return (Resolution.KEEP_OURS, Resolution.LEAVE)
    return tuple(Resolution)


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
