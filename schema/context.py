"""What a resolver can reach while one operation runs."""

import re
import time
from asyncio import Future
from collections.abc import Awaitable, Callable, Hashable, Iterator
from copy import copy
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

import strawberry
import structlog
from starlette.requests import HTTPConnection
from strawberry.extensions import SchemaExtension
from strawberry.types.graphql import OperationType
from structlog.contextvars import bind_contextvars
from uuid_utils import uuid7

from lifecycle.access.origin import Origin
from lifecycle.access.rules import Principal
from lifecycle.artifacts.storage import Storage
from lifecycle.commands import Command
from lifecycle.database import Database
from lifecycle.idempotency.service import UseCase, once
from lifecycle.journal.feed import Feed
from lifecycle.tables import WithId
from schema.admission import Admission, Seat
from schema.loaders import Loaders

_log = structlog.get_logger(__name__)

C = TypeVar("C", bound=Command)
R = TypeVar("R", bound=WithId)


class Context:
    """One operation's way to the database, and who asks."""

    def __init__(
        self,
        database: Database,
        feed: Feed,
        storage: Storage,
        origin: Origin,
        connection: HTTPConnection,
        mlflow_uri: str | None,
        admission: Admission,
        address: str | None = None,
    ) -> None:
        self.feed = feed
        self.storage = storage
        self._origin = origin
        # Where it comes from, where names are anybody's to choose.
        self._address = address
        counted_as = self.counted_as
        self._database = database.shared(lambda: counted_as)
        # As it is now, or as a replica has it.
        self._readable = self._database.lagging()
        self.connection = connection
        # The MLflow server that is mirrored to, without credentials.
        self.mlflow_uri = mlflow_uri
        self.admission = admission
        self.forget()
        # What a websocket client sent in connection_init; set by Strawberry. None over HTTP.
        self.connection_params: dict[str, Any] | None = None
        # Of a websocket.
        self.seat: Seat | None = None
        # Has a websocket that was let in ended, once it must not go on; returns what is to be
        # called when it has ended by itself.
        self.watch: Callable[[Callable[[str], None]], Callable[[], None]] | None = None
        # Who asks, found out anew; None where nobody proves who they are.
        self.ask_again: Callable[[], Awaitable[Principal]] | None = None
        # Begins the answer to an item of a subscription.
        self.prepare: Callable[[object], Future[Any]] | None = None
        self._began = time.perf_counter()

    @property
    def origin(self) -> Origin:
        """Who asks; what was loaded for somebody else is forgotten."""
        return self._origin

    @origin.setter
    def origin(self, origin: Origin) -> None:
        self._origin = origin
        self.forget()

    @property
    def counted_as(self) -> str:
        """As whose limits count what is asked."""
        return self.origin.actor if self._address is None else self._address

    @property
    def database(self) -> Database:
        """What exists of the database for who asks."""
        return self._readable.seen_by(self.origin.visible_models)

    @property
    def audience(self) -> Hashable:
        """All that an answer depends on besides what is asked: whoever has the same is shown the
        same."""
        return self.base_url, self.origin.rights, self.origin.visible_models

    @property
    def base_url(self) -> str:
        """The address under which this client reaches the service."""
        # A websocket's scheme is ws, but what it is told to fetch is fetched by HTTP.
        return re.sub("^ws", "http", str(self.connection.base_url)).rstrip("/")

    async def go_by_present_rights(self) -> None:
        """From here on by the rights that who asks has now: what they ask may have come slowly, or
        waited for its turn, while rights were taken back. Raises Unauthenticated and
        Unavailable."""
        if self.ask_again is None:
            return
        rights = (await self.ask_again()).rights
        if rights != self.origin.rights:
            visible = rights.visible_models
            self.origin = replace(self.origin, rights=rights, visible_models=visible)

    async def write(self, use_case: UseCase[C, R], command: C) -> R:
        """One mutation field: one transaction, at most once per idempotency key, by the rights
        that there are when it begins; what is loaded afterwards is loaded anew. Raises
        Unauthenticated and Unavailable besides what the use case raises."""
        await self.go_by_present_rights()
        origin = replace(self.origin, idempotency_key=command.idempotency_key)
        row = await self.database.write(lambda session: once(session, origin, use_case, command))
        self.forget()
        return row

    def fresh(self) -> "Context":
        """The same for one operation; over a websocket, where nobody else gives it one, with an id
        of its own."""
        origin = self.origin
        if self.connection_params is not None:
            origin = replace(origin, request_id=str(uuid7()))
            bind_contextvars(request_id=origin.request_id)
        fresh = Context(
            self._database,
            self.feed,
            self.storage,
            origin,
            self.connection,
            self.mlflow_uri,
            self.admission,
            self._address,
        )
        fresh.connection_params = self.connection_params
        fresh.ask_again = self.ask_again
        return fresh

    def for_item(self, whose: Callable[[], str]) -> "Context":
        """The same for one item of a subscription, of which several may be answered at the same
        time; `whose` says for each read in which principal's line it stands."""
        other = copy(self)
        other._database = self._database.shared(whose)
        other.be_current()
        return other

    def ended(self) -> None:
        """Log that the operation is over, which nobody else does over a websocket."""
        if self.connection_params is not None:
            took = round((time.perf_counter() - self._began) * 1000, 1)
            _log.info("operation", milliseconds=took)

    def be_current(self) -> None:
        """From here on read what has been written by now, and not what a replica has."""
        self._readable = self._database
        self.forget()

    def be_lasting(self) -> None:
        """From here on read however much, a little at a time: this is a subscription, not one of
        its items."""
        self._database, self._readable = self._database.lasting(), self._readable.lasting()
        self.forget()

    def spare(self) -> None:
        """Begin the operation anew: what was read of it does not count, and the database is not
        asked again if it has failed it."""
        lagging = self._readable is not self._database
        self._database = self._database.spared()
        self._readable = self._database.lagging() if lagging else self._database
        self.forget()

    def forget(self) -> None:
        """Load anew from here on."""
        self.loaders = Loaders(self.database)
        # What who asks may do to models, or to versions of them in a stage, as far as it was asked.
        self.model_rights: dict[Hashable, Any] = {}


Info: TypeAlias = strawberry.Info[Context, None]


class FreshContext(SchemaExtension):
    """A context per operation: one websocket carries many, and loaders must not outlive theirs."""

    def on_operation(self) -> Iterator[None]:
        context = self.execution_context.context.fresh()
        self.execution_context.context = context
        try:
            yield
        finally:
            context.loaders.abandon()
            context.ended()

    def on_execute(self) -> Iterator[None]:
        # A mutation shows what it has written.
        if self.execution_context.operation_type is not OperationType.QUERY:
            self.execution_context.context.be_current()
        yield

    def on_parse(self) -> Iterator[None]:
        yield
        if self.execution_context.graphql_document is not None:
            bind_contextvars(operation=self.execution_context.operation_name)
