"""An OpenID provider, as far as a service that checks its tokens sees it: it has keys, publishes
them, and signs."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "lifecycle"


class Issuer:
    """Signs with its newest key unless told otherwise. `asked` counts how often its keys were
    fetched; while it `fails` they cannot be."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.named = url
        self.asked = 0
        self.fails = False
        self.elsewhere: str | None = None
        self.keys: dict[str, Any] = {}
        self.published: list[dict[str, Any]] = []
        self.rotate()

    def rotate(self, *, kind: str = "RSA", named: bool = True) -> str:
        """A new key, in place of those that were published. Returns its id."""
        kid = f"key-{len(self.keys) + 1}"
        key: Any = (
            rsa.generate_private_key(65537, 2048)
            if kind == "RSA"
            else ec.generate_private_key(ec.SECP256R1())
        )
        algorithm: Any = RSAAlgorithm if kind == "RSA" else ECAlgorithm
        public = algorithm.to_jwk(key.public_key(), as_dict=True)
        self.keys[kid] = key
        said = {"kid": kid, "use": "sig", "alg": "RS256" if kind == "RSA" else "ES256"}
        self.published = [{**public, **(said if named else {})}]
        return kid

    def claims(self, name: str, **others: Any) -> dict[str, Any]:
        """What it says of a person."""
        now = int(time.time())
        said = {
            "iss": self.named,
            "aud": AUDIENCE,
            "sub": f"id of {name}",
            "iat": now,
            "exp": now + 300,
            "email": name,
            "email_verified": True,
        }
        return {key: value for key, value in {**said, **others}.items() if value is not None}

    def token(
        self,
        name: str,
        *,
        kid: str | None = "",
        algorithm: str = "RS256",
        key: Any = None,
        **claims: Any,
    ) -> str:
        """What a person sends. Without a `kid` that is said, by the newest key."""
        newest = next(reversed(self.keys))
        kid = newest if kid == "" else kid
        headers = {} if kid is None else {"kid": kid}
        signer = self.keys.get(kid or newest, self.keys[newest]) if key is None else key
        return jwt.encode(self.claims(name, **claims), signer, algorithm, headers)


@contextmanager
def an_issuer() -> Iterator[Issuer]:
    """A provider on this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if issuer.fails:
                self.send_error(500)
                return
            if issuer.elsewhere is not None:
                self.send_response(302)
                self.send_header("location", issuer.elsewhere)
                self.end_headers()
                return
            body: dict[str, Any] = {"issuer": issuer.named, "jwks_uri": f"{issuer.url}/keys"}
            if self.path == "/keys":
                issuer.asked += 1
                body = {"keys": issuer.published}
            elif self.path != "/.well-known/openid-configuration":
                self.send_error(404)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer = Issuer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
