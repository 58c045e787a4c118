"""What subscriptions have in common: the items that are no events, and the order of things."""

from asyncio import Future
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

import strawberry

from lifecycle.journal import feed as feeds
from lifecycle.journal.feed import Happened, Silence
from lifecycle.journal.repository import EventFilter
from schema.context import Context

Item = TypeVar("Item")


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


async def follow(
    context: Context,
    wanted: EventFilter,
    after: str | None,
    present: AsyncIterator[Item],
    item: Callable[[Happened], Item],
) -> AsyncGenerator[Item | CaughtUp | Heartbeat | CursorExpired, None]:
    """What a subscription sends. With a cursor: everything `after` it, CaughtUp, then what happens.
    Without: `present`, which is not begun before, CaughtUp, then what happens.

    Must be closed, so that the feed does not serve a client that has left.
    """
    context.be_lasting()
    feed = context.feed
    prepare = context.prepare and _Prepare(context.prepare, item)
    with feed.follow(wanted, context.database, prepare) as follower:
        try:
            resumed = None if after is None else feed.resume(after)
            if resumed is None:
                await follower.expect_known()
                async for known in present:
                    yield known
            else:
                async for happened in follower.replay(resumed):
                    yield item(happened)
            yield CaughtUp(cursor=feed.cursor(follower.position))
            async for news in follower.live():
                yield _shown(news, item)
        except feeds.CursorExpired as error:
            oldest = None if error.oldest is None else feed.cursor(error.oldest)
            yield CursorExpired(oldest=oldest)


@dataclass(frozen=True, slots=True)
class _Prepare(Generic[Item]):
    """Begins the answer to news; equal for those who are answered the same."""

    begin: Callable[[object], Future[Any]]
    item: Callable[[Happened], Item]

    def __call__(self, news: Happened | Silence) -> Future[Any]:
        return self.begin(_shown(news, self.item))


def _shown(news: Happened | Silence, item: Callable[[Happened], Item]) -> Item | Heartbeat:
    """The same object for all who follow."""
    return news.once(_heartbeat) if isinstance(news, Silence) else news.once(item)


def _heartbeat(silence: Silence) -> Heartbeat:
    return Heartbeat(cursor=silence.cursor, at=silence.at)
