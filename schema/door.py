"""Who is let in: what a request, or a websocket in connection_init, says of who sends it.

Where nobody signs in, they are believed, and only this machine is served. Where they do, a bearer
token is all that counts.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from cross_web import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Scope

from lifecycle.access.rules import EVERYTHING, NOTHING, SYSTEM, UNPROVEN, Principal, known_as
from lifecycle.errors import Unauthenticated
from lifecycle.names import seen
from lifecycle.principals.sign_in import End, SignIn
from lifecycle.settings import is_loopback
from schema.admission import Rate, network_of

_MAX_ACTOR = 250
# What proxies put before what they pass on: with these their headers begin.
_PASSED_ON = (
    b"forwarded",
    b"x-forwarded-",
    b"x-original-forwarded-",
    b"x-envoy-",
    b"x-real-ip",
    b"x-client-ip",
    b"x-cluster-client-ip",
    b"true-client-ip",
    b"cf-",
    b"via",
)
_SCHEME = "bearer "
_NOBODY = Principal("nobody", NOTHING)
# From one address. What is a token costs one look, what is none a look each time.
_MAX_FAILURES = 10


class Caller(NamedTuple):
    """Who it is, and by which token they have proved it, if they had to."""

    principal: Principal
    token: str | None = None


class Door:
    """Tells who it is, or refuses them. `insecure` lets others than this machine in unproven."""

    def __init__(
        self,
        sign_in: SignIn | None = None,
        administrators: frozenset[str] = frozenset(),
        insecure: bool = False,
    ) -> None:
        self._sign_in = sign_in
        self._administrators = frozenset(map(known_as, administrators))
        self._insecure = insecure
        self._failures = Rate("signIns", "send {:,} tokens that are none", _MAX_FAILURES)

    async def by_request(self, request: HTTPConnection) -> Caller:
        """Who sends a request. Raises Unauthenticated, Unavailable, HTTPException, and
        LimitExceeded when that cannot be told too often."""
        if self._sign_in is None:
            return Caller(self._believed(request))
        return await self._proved(self._sign_in, request, header(request.scope, b"authorization"))

    def before_init(self, websocket: HTTPConnection) -> Caller:
        """Who is at a websocket before they have said so. Raises HTTPException."""
        return Caller(self._believed(websocket) if self._sign_in is None else _NOBODY)

    async def by_init(
        self, websocket: HTTPConnection, payload: Mapping[str, Any], before: Principal
    ) -> Caller:
        """Who is at a websocket, by what connection_init says. Raises as `by_request`."""
        if self._sign_in is None:
            given = payload.get("actor")
            return Caller(before if given is None else self._named(given))
        given = payload.get("authorization", payload.get("Authorization"))
        return await self._proved(self._sign_in, websocket, given)

    def again(self, caller: Caller) -> Callable[[], Awaitable[Principal]] | None:
        """What finds out anew who that is; None where nobody proves it. It raises Unauthenticated
        and Unavailable."""
        sign_in, token = self._sign_in, caller.token
        if sign_in is None or token is None:
            return None

        async def ask() -> Principal:
            return sign_in.known(token) or await sign_in.principal(token)

        return ask

    def address(self, connection: HTTPConnection) -> str | None:
        """Where it comes from, where anybody may come and say any name: limits of one principal
        would be none. None where a name says who it is."""
        if self._sign_in is not None or not self._insecure:
            return None
        return _address(connection)

    def watch(self, caller: Caller, end: End) -> Callable[[], None]:
        """Have what lasts ended, once it must not go on in this name. Returns what is to be called
        when it has ended by itself."""
        if self._sign_in is None or caller.token is None:
            return lambda: None
        sign_in = self._sign_in
        session = sign_in.begin(caller.token, caller.principal, end)
        return lambda: sign_in.leave(session)

    async def _proved(self, sign_in: SignIn, connection: HTTPConnection, given: object) -> Caller:
        if not isinstance(given, str) or given[: len(_SCHEME)].lower() != _SCHEME:
            raise Unauthenticated("Sign in: send Authorization: Bearer and a token.")
        token = given[len(_SCHEME) :].strip()
        known = sign_in.known(token)
        return Caller(known or await self._found_out(sign_in, connection, token), token)

    async def _found_out(
        self, sign_in: SignIn, connection: HTTPConnection, token: str
    ) -> Principal:
        if not sign_in.is_guess(token):
            return await sign_in.principal(token)
        address = _address(connection)
        # While it is looked for it counts as none: many may be sent at once.
        self._failures.take(address)
        try:
            found = await sign_in.principal(token)
        except Unauthenticated:
            raise
        except BaseException:
            self._failures.give_back(address)
            raise
        self._failures.give_back(address)
        return found

    def _believed(self, connection: HTTPConnection) -> Principal:
        if not self._insecure and not _is_local(connection):
            raise HTTPException(
                403, "Nobody signs in here, so only the service's own machine is served."
            )
        given = header(connection.scope, b"lifecycle-actor").encode("latin-1")
        return self._named(given.decode("utf-8", "replace"))

    def _named(self, given: object) -> Principal:
        if not isinstance(given, str) or len(given) > _MAX_ACTOR:
            raise _not_a_name()
        name = _name(given)
        return Principal(name, EVERYTHING if name in self._administrators else UNPROVEN)


@lru_cache(1_000)
def _name(given: str) -> str:
    """The name of whoever calls themselves so. Raises HTTPException."""
    name = known_as(given.strip() or "anonymous")
    # What the service does by itself is journalled under such names.
    if seen(given) != given or name.startswith(SYSTEM):
        raise _not_a_name()
    return name


def header(scope: Scope, name: bytes) -> str:
    """The first header of a request with this name, in small letters; empty if there is none."""
    # Starlette's headers take four times as long, and each request is asked for five.
    for given, value in scope["headers"]:
        if given == name:
            return str(value.decode("latin-1"))
    return ""


def _address(connection: HTTPConnection) -> str:
    return network_of(connection.client.host if connection.client else "")


def _is_local(connection: HTTPConnection) -> bool:
    # What a proxy passes on may have come from anywhere.
    if any(name.startswith(_PASSED_ON) for name, _ in connection.scope["headers"]):
        return False
    host, port = connection.scope.get("server") or ("", 0)
    # A socket in the file system has no port.
    return port is None or is_loopback(host)


def _not_a_name() -> HTTPException:
    return HTTPException(
        400,
        "Lifecycle-Actor must be a short line that is seen as it is, and not begin with system:.",
    )
