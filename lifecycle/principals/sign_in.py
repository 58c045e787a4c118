"""Who a bearer token stands for, and whether it still does.

What was found out is kept for a while, so that a request costs a look into a dictionary. It is
forgotten when it has become wrong: every process looks every other second whether any grant or
token has changed, and then finds out anew. Where it cannot look, nothing is kept.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from lifecycle.access.rules import EVERYTHING, GROUP, SERVICE, SYSTEM, Principal, Rights, known_as
from lifecycle.database import Database
from lifecycle.errors import LifecycleError, Unauthenticated, Unavailable
from lifecycle.principals import repository, rules
from lifecycle.principals.oidc import Oidc

_log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
# How long it is taken for granted that nothing has changed, when the database does not say.
_TRUSTED_SECONDS = 10.0
# Then a key may have been withdrawn by whoever issues tokens.
_KEPT_SECONDS = 60.0
_MOST_KEPT = 10_000
_USE_NOTED = timedelta(minutes=10)
_LONGEST = 16_384
# Why what lasts under former rights ends.
CHANGED = "Your rights have changed; connect again."
_LINE = SYSTEM + "sign-in"
# So many connections that last are asked about before whoever comes next is.
_AT_ONCE = 50

# Told why it ends.
End = Callable[[str], None]


@dataclass(slots=True)
class _Known:
    principal: Principal
    until: float


@dataclass(eq=False, slots=True)
class Session:
    """A connection that lasts, and in whose name."""

    token: str = field(repr=False)
    principal: Principal
    end: End


class SignIn:
    """Tells who sends a token. `administrators` are people who may do everything."""

    def __init__(
        self,
        database: Database,
        administrators: frozenset[str] = frozenset(),
        oidc: Oidc | None = None,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        # Whatever else is asked of the service, who comes is not behind all of it.
        self._database = database.in_line(_LINE)
        self._administrators = frozenset(map(known_as, administrators))
        self._oidc = oidc
        self._look_seconds = look_seconds
        self._known: dict[bytes, _Known] = {}
        self._asked: dict[bytes, asyncio.Task[Principal]] = {}
        # Tokens that were good when they were last looked for, those of longest ago first.
        self._met: dict[bytes, None] = {}
        self._state: int | None = None
        self._trusted_until = 0.0
        # What the database's clock shows when the monotonic one of this process shows 0.
        self._began: datetime | None = None
        self._sessions: set[Session] = set()
        self._noting: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Notice changes while the block lasts."""
        looking = [
            asyncio.create_task(self._keep(self._look), name="sign-in"),
            asyncio.create_task(self._keep(self._end_what_must_not_go_on), name="sign-in-sessions"),
        ]
        try:
            yield
        finally:
            for task in (*looking, *self._noting, *self._asked.values()):
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task

    def known(self, token: str) -> Principal | None:
        """Who sends it, if that was found out lately."""
        found = self._known.get(rules.digest(token))
        now = time.monotonic()
        if found is None or now >= found.until or now >= self._trusted_until:
            return None
        return found.principal

    def is_guess(self, token: str) -> bool:
        """Whether nothing speaks for it: it was not good before, and nobody looks for it now."""
        digest = rules.digest(token)
        return digest not in self._met and digest not in self._asked

    async def principal(self, token: str) -> Principal:
        """Who sends it. Raises Unauthenticated, and Unavailable when that cannot be found out."""
        found = self.known(token)
        if found is not None:
            return found
        if len(token) > _LONGEST:
            raise Unauthenticated("The token is too long.")
        digest = rules.digest(token)
        task = self._asked.get(digest)
        if task is None:
            task = self._asked[digest] = asyncio.create_task(self._find_out(token, digest))
            task.add_done_callback(partial(self._found_out, digest))
        # Others may be waiting for the same.
        return await asyncio.shield(task)

    def _found_out(self, digest: bytes, task: asyncio.Task[Principal]) -> None:
        self._asked.pop(digest, None)
        if task.cancelled():
            return
        error = task.exception()  # for whoever waits; and nobody may, any more
        if isinstance(error, Unauthenticated):
            self._met.pop(digest, None)
        elif error is None:
            self._met.pop(digest, None)  # the last one now
            while len(self._met) >= _MOST_KEPT:
                del self._met[next(iter(self._met))]
            self._met[digest] = None

    def begin(self, token: str, principal: Principal, end: End) -> Session:
        """Have a connection that lasts ended, once it must not go on in this name."""
        session = Session(token, principal, end)
        self._sessions.add(session)
        return session

    def leave(self, session: Session) -> None:
        """It has ended by itself."""
        self._sessions.discard(session)

    async def _find_out(self, token: str, digest: bytes) -> Principal:
        while True:
            state = self._state
            if rules.is_token(token):
                principal = await self._service(digest)
            elif self._oidc is not None:
                principal = await self._person(self._oidc, token)
            else:
                raise Unauthenticated("This is not an API token.")
            if state == self._state:
                break
        if self._left(principal) <= 0:
            raise Unauthenticated("The token has expired.")
        while len(self._known) >= _MOST_KEPT:
            del self._known[next(iter(self._known))]
        kept = min(self._left(principal), _KEPT_SECONDS)
        self._known[digest] = _Known(principal, time.monotonic() + kept)
        return principal

    def _now(self) -> datetime:
        """By the database's clock, as far as it is known: machines have their own."""
        if self._began is None:
            return datetime.now(UTC)
        return self._began + timedelta(seconds=time.monotonic())

    def _left(self, principal: Principal) -> float:
        assert principal.expires_at is not None
        return (principal.expires_at - self._now()).total_seconds()

    async def _service(self, digest: bytes) -> Principal:
        if self._began is None:
            await self._look()
        async with self._database.read() as session:
            row = await repository.token_of(session, digest)
        if row is None:
            raise Unauthenticated("There is no such API token.")
        if row.revoked_at is not None:
            raise Unauthenticated("The API token was revoked.")
        now = self._now()
        if row.expires_at <= now:
            raise Unauthenticated("The token has expired.")
        if row.last_used_at is None or now - row.last_used_at > _USE_NOTED:
            self._note(partial(repository.note_use, id=row.id))
        rights = Rights(frozenset(map(rules.grant_of, row.grants)))
        return Principal(SERVICE + row.name, rights, row.expires_at)

    async def _person(self, oidc: Oidc, token: str) -> Principal:
        claims = await oidc.claims(token)
        if claims.name in self._administrators:
            return Principal(claims.name, EVERYTHING, claims.expires_at)
        subjects = [claims.name, *(GROUP + group for group in claims.groups)]
        async with self._database.read() as session:
            grants = await repository.grants_of(session, subjects)
        return Principal(claims.name, rules.rights_of(grants), claims.expires_at)

    def _note(self, write: Callable[..., Awaitable[None]]) -> None:
        """Write it beside the request, which does not depend on it."""

        async def note() -> None:
            with suppress(LifecycleError):
                await self._database.write(write)

        task = asyncio.create_task(note(), name="token-used")
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    async def _keep(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await look()
            except LifecycleError as error:
                _log.warning("sign_in.look_failed", error=str(error))
            except Exception:  # whatever it is, the next look is due
                _log.exception("sign_in.look_failed")
            await asyncio.sleep(self._look_seconds)

    async def _look(self) -> None:
        began = time.monotonic()
        async with self._database.read() as session:
            state, now = await repository.state(session)
        # From before it was asked: rather a little too early than too late.
        self._began = now - timedelta(seconds=began)
        if state != self._state:
            self._state = state
            self._known.clear()
        self._trusted_until = began + _TRUSTED_SECONDS

    async def _end_what_must_not_go_on(self) -> None:
        sessions = list(self._sessions)
        for at in range(0, len(sessions), _AT_ONCE):
            await asyncio.gather(*map(self._end_unless_it_may_go_on, sessions[at : at + _AT_ONCE]))

    async def _end_unless_it_may_go_on(self, session: Session) -> None:
        # Whether or not anybody can be asked.
        if self._left(session.principal) <= 0:
            self._end(session, "The token has expired.")
            return
        try:
            principal = await self.principal(session.token)
        except Unauthenticated as error:
            self._end(session, str(error))
        except Unavailable:
            return
        else:
            if principal.rights != session.principal.rights:
                self._end(session, CHANGED)

    def _end(self, session: Session, why: str) -> None:
        if session in self._sessions:
            self._sessions.discard(session)
            session.end(why)
