"""Tokens that an OpenID provider has issued: JWTs, checked with the keys that it publishes.

The keys are fetched when they are needed, again when they are old, and when a token names one that
is not known; never more often than every few seconds, whoever asks.
"""

import asyncio
import math
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any

import jwt
import orjson
import structlog
from jwt.types import Options

from lifecycle.access.rules import known_as
from lifecycle.errors import Unauthenticated, Unavailable
from lifecycle.principals.rules import is_name

_log = structlog.get_logger(__name__)

# Those by which nobody can sign who can only check.
ALGORITHMS = [
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
]
_LEEWAY_SECONDS = 30
# Then they are fetched anew; whoever comes waits for that only when they are twice as old.
_OLD_SECONDS = 600.0
_FETCH_SECONDS = 15.0
_PAUSE_SECONDS = 10.0
_TIMEOUT_SECONDS = 5.0
_MOST_BYTES = 1024 * 1024
_MOST_GROUPS = 1_000


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says of a person."""

    name: str
    groups: tuple[str, ...]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Provider:
    """Whose tokens are taken, for whom they must be, and which claims say who it is. `email` is a
    name only if it was verified."""

    issuer: str
    audience: str
    name_claim: str = "email"
    groups_claim: str | None = None


class Oidc:
    """Checks the tokens of one provider."""

    def __init__(self, provider: Provider, pause_seconds: float = _PAUSE_SECONDS) -> None:
        self._provider = provider
        self._pause_seconds = pause_seconds
        self._keys: dict[str | None, Any] = {}
        self._fetched_at = -math.inf
        self._asked_at = -math.inf
        self._fetching: asyncio.Task[None] | None = None

    async def claims(self, token: str) -> Claims:
        """What a token says, if it is good. Raises Unauthenticated, and Unavailable when the
        provider's keys are not known."""
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError as error:
            raise Unauthenticated("This is neither an API token nor a JWT.") from error
        if header.get("alg") not in ALGORITHMS:
            raise Unauthenticated("The token is not signed by a key pair.")
        key = await self._key(header.get("kid"))
        options: Options = {"require": ["exp", "iss", "aud"]}
        try:
            said = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self._provider.audience,
                issuer=self._provider.issuer,
                leeway=_LEEWAY_SECONDS,
                options=options,
            )
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("The token has expired.") from error
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise Unauthenticated("The token is not one that is taken here.") from error
        return self._read(said)

    def _read(self, said: Mapping[str, Any]) -> Claims:
        name = said.get(self._provider.name_claim)
        if not isinstance(name, str) or not is_name(name):
            raise Unauthenticated(
                f"The token says no name in {self._provider.name_claim} that can be one: a short "
                "line of composed characters (NFC), each of which can be seen."
            )
        if self._provider.name_claim == "email" and said.get("email_verified") is not True:
            raise Unauthenticated("The token does not say that the email is verified.")
        groups: Sequence[Any] = ()
        if self._provider.groups_claim is not None:
            groups = said.get(self._provider.groups_claim) or ()
        if not isinstance(groups, list | tuple) or len(groups) > _MOST_GROUPS:
            groups = ()
        # What cannot be granted anything would be no parameter of a statement either.
        found = tuple(group for group in groups if is_name(group, reserved=()))
        try:
            expires_at = datetime.fromtimestamp(int(said["exp"]) + _LEEWAY_SECONDS, UTC)
        except (OverflowError, OSError, ValueError) as error:
            raise Unauthenticated("The token does not say when it expires.") from error
        return Claims(known_as(name), found, expires_at)

    async def _key(self, kid: Any) -> Any:
        age = time.monotonic() - self._fetched_at
        fetching = self._fetch() if age > _OLD_SECONDS or kid not in self._keys else None
        if fetching is not None and (age > 2 * _OLD_SECONDS or kid not in self._keys):
            await asyncio.shield(fetching)
        found = self._keys.get(kid)
        if found is None and kid is None and len(self._keys) == 1:
            [found] = self._keys.values()
        if found is None:
            if not self._keys:
                raise Unavailable("The keys of the OpenID provider cannot be fetched; try again.")
            raise Unauthenticated("The token is signed by a key that the provider does not have.")
        return found

    def _fetch(self) -> asyncio.Task[None] | None:
        """Fetch the keys, unless that was tried just now. Of all who want it one does."""
        if self._fetching is None:
            if time.monotonic() - self._asked_at < self._pause_seconds:
                return None
            self._asked_at = time.monotonic()
            self._fetching = asyncio.create_task(self._fetch_now(), name="oidc-keys")
            self._fetching.add_done_callback(self._fetched)
        return self._fetching

    def _fetched(self, _: object) -> None:
        self._fetching = None

    async def _fetch_now(self) -> None:
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                keys = await asyncio.to_thread(_keys_of, self._provider.issuer)
        except (OSError, HTTPException, ValueError, jwt.PyJWTError) as error:
            # Those that are there go on.
            _log.warning("sign_in.keys_not_fetched", error=str(error))
            return
        self._keys, self._fetched_at = keys, time.monotonic()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Whoever is asked answers, or nobody."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


def _keys_of(issuer: str) -> dict[str | None, Any]:
    """The keys by which a provider signs. Blocks. Raises OSError, HTTPException, ValueError."""
    about = _get(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    if about.get("issuer") != issuer:
        raise ValueError(f"It calls itself {about.get('issuer')!r}, not {issuer!r}.")
    where = about.get("jwks_uri")
    secure = issuer.startswith("https://")
    if not isinstance(where, str) or not where.startswith("https://" if secure else "http"):
        raise ValueError("It does not say where its keys are.")
    given = _get(where).get("keys")
    found: dict[str | None, Any] = {}
    for each in given if isinstance(given, list) else ():
        if not isinstance(each, dict) or each.get("use", "sig") != "sig":
            continue
        if each.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        try:
            key = jwt.PyJWK.from_dict(each)
            # One that names no algorithm is for all of its kind.
            found[each.get("kid")] = key if "alg" in each else key.key
        except jwt.PyJWTError:  # of a kind that is not known here
            continue
    if not found:
        raise ValueError("It publishes no key that can be used.")
    return found


def _get(url: str) -> dict[str, Any]:
    request = urllib.request.Request(url, headers={"accept": "application/json"})
    with _opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
        body = response.read(_MOST_BYTES + 1)
    if len(body) > _MOST_BYTES:
        raise ValueError(f"{url} answers with more than {_MOST_BYTES:,} bytes.")
    found = orjson.loads(body)
    if not isinstance(found, dict):
        raise ValueError(f"{url} does not answer with a JSON object.")
    return found
