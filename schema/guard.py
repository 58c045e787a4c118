"""What browsers are kept from: pages that lead here under a name of somebody else, and what a page
could make of our answers.

A mutation comes by POST as application/json, which a page of another origin may only send where a
preflight allowed it (Starlette's CORS middleware, in `app`). For websockets browsers ask nobody;
whose pages may open them Strawberry looks after (`view`).
"""

import base64
import hashlib
import re
from functools import lru_cache

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lifecycle.settings import is_loopback
from schema.door import header

# Where the answer does not say otherwise.
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    # Answers are no pages: nothing in them is run or shown.
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]
_NO_NAME = "The service has no such name; LIFECYCLE_ALLOWED_HOSTS says which it has."

_PAGE = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self' 'unsafe-inline'{styles}; "
    "img-src 'self' data:; font-src 'self' data:{fonts}; worker-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# The page that was built, its scripts and the workers that they start.
PAGE_POLICY = _PAGE.format(scripts="", styles="", fonts="")
_INTERNET = " https://unpkg.com"
_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@lru_cache(1)
def policy_of(html: str) -> str:
    """The policy for a page that loads itself from the internet: of what stands in it, exactly that
    may run."""
    digests = (hashlib.sha256(each.encode()).digest() for each in _INLINE.findall(html))
    inline = "".join(f" 'sha256-{base64.b64encode(each).decode()}'" for each in digests)
    return _PAGE.format(scripts=_INTERNET + inline, styles=_INTERNET, fonts=_INTERNET)


class Guard:
    """Refuses requests under names that are not the service's, puts what browsers should know on
    every answer, and says of a failure nothing but that there was one.

    `hosts` are the names under which the service is reached, besides loopback addresses; None for
    any.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        started = scope["type"] == "websocket"

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                given = message.get("headers", ())
                names = {name for name, _ in given}
                added = [each for each in _HEADERS if each[0] not in names]
                message["headers"] = [*given, *added]
            await send(message)

        if not self._is_ours(header(scope, b"host")):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": _NO_NAME})
            else:
                await _error(421, _NO_NAME, {"code": "BAD_REQUEST"})(scope, receive, answer)
            return
        try:
            await self._app(scope, receive, send if scope["type"] == "websocket" else answer)
        except Exception:
            if not started:
                id = scope["request_id"]
                message = f"Unexpected error. Its trace is in the log, under request id {id}."
                failed = _error(500, message, {"code": "INTERNAL", "requestId": id})
                await failed(scope, receive, answer)
            raise

    def _is_ours(self, host: str) -> bool:
        if self._hosts is None:
            return True
        name = hostname(host)
        return name in self._hosts or is_loopback(name)


def _error(status: int, message: str, extensions: dict[str, str]) -> Response:
    body = {"errors": [{"message": message, "extensions": extensions}]}
    return Response(orjson.dumps(body), status, media_type="application/graphql-response+json")


@lru_cache(100)
def hostname(host: str) -> str:
    """The name in a Host header, without its port."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower().removesuffix(".")
