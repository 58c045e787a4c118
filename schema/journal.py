"""What subscriptions have in common: the items that are no events."""

from datetime import UTC, datetime

import strawberry

from lifecycle.journal import feed as feeds
from lifecycle.journal.feed import Feed


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


def caught_up(feed: Feed, position: int) -> CaughtUp:
    """The end of what happened before."""
    return CaughtUp(cursor=feed.cursor(position))


def heartbeat(feed: Feed, position: int) -> Heartbeat:
    """A sign of life."""
    return Heartbeat(cursor=feed.cursor(position), at=datetime.now(UTC))


def expired(feed: Feed, error: feeds.CursorExpired) -> CursorExpired:
    """The end of a stream whose cursor does not work."""
    return CursorExpired(oldest=None if error.oldest is None else feed.cursor(error.oldest))
