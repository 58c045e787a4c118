"""What lineage is: which objects lead to which, and how far one may look."""

from enum import StrEnum

from lifecycle.errors import InvalidInput

MAX_DEPTH = 10
# Of one answer, the object itself included.
MAX_NODES = 1_000


class LineageDirection(StrEnum):
    UPSTREAM = "UPSTREAM"
    DOWNSTREAM = "DOWNSTREAM"
    BOTH = "BOTH"


class LineageKind(StrEnum):
    CONTAINS = "CONTAINS"
    USED_BY = "USED_BY"
    PARENT_OF = "PARENT_OF"
    PRODUCED = "PRODUCED"
    DEPLOYED_AS = "DEPLOYED_AS"
    ROLLED_BACK_TO = "ROLLED_BACK_TO"
    SHOWED = "SHOWED"


def ways(direction: LineageDirection) -> tuple[LineageDirection, ...]:
    """The ways to go from an object, each on its own and never back: what came of that from which
    an object came are its siblings, not its lineage."""
    if direction is LineageDirection.BOTH:
        return (LineageDirection.UPSTREAM, LineageDirection.DOWNSTREAM)
    return (direction,)


def check_depth(depth: int) -> None:
    """Raise InvalidInput unless one may look so far."""
    if not 1 <= depth <= MAX_DEPTH:
        raise InvalidInput(f"Look 1 to {MAX_DEPTH} steps far, not {depth}.", ("depth",))
