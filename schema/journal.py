"""What subscriptions have in common: cursors of the journal, and the items that are no events."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime

import strawberry

from lifecycle.errors import InvalidInput


@strawberry.type(description="Everything that happened before the subscription has been sent.")
class CaughtUp:
    cursor: str = strawberry.field(description="Resume after this one to miss nothing.")


@strawberry.type(description="Nothing happened for a while; the stream is alive.")
class Heartbeat:
    cursor: str = strawberry.field(description="Resume after this one to miss nothing.")
    at: datetime = strawberry.field(description="The server's time.")


@strawberry.type(
    description="What came after the cursor is no longer kept, or the cursor is not of this "
    "journal. The stream ends; start anew without a cursor."
)
class CursorExpired:
    oldest: str | None = strawberry.field(description="The earliest cursor that still works.")


def cursor(position: int) -> str:
    """The cursor of a position in the journal."""
    return urlsafe_b64encode(f"journal:{position}".encode()).decode()


def position(cursor: str) -> int:
    """The position of a cursor. Raises InvalidInput when it is none."""
    try:
        kind, _, number = urlsafe_b64decode(cursor.encode()).decode().partition(":")
        if kind != "journal" or not number.isdecimal() or len(number) > 18:
            raise ValueError(cursor)
        return int(number)
    except ValueError:
        raise InvalidInput("This is not a cursor of this subscription.", ("after",)) from None


def heartbeat(position: int) -> Heartbeat:
    """A sign of life."""
    return Heartbeat(cursor=cursor(position), at=datetime.now(UTC))
