"""The only reader of the environment. Options of the command win over it."""

import os
import re
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from os import environ
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

_LONGEST_FOLLOW = 86_400
_NAME_CLAIM = "email"
_LARGEST = 1_000_000
_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:]+")
_ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:]+\])(:\d{1,5})?")

VARIABLES = {
    "LIFECYCLE_DATABASE_URL": "PostgreSQL 15 or later to use instead of the embedded one, "
    "as postgresql+asyncpg://user:password@host:port/database.",
    "LIFECYCLE_READ_URL": "A replica of that database, which answers queries; it may be some time "
    "behind, and may be away (default: none).",
    "LIFECYCLE_DATA_DIR": "Where the embedded PostgreSQL keeps its data, and where artifacts are "
    "(default ./.lifecycle).",
    "LIFECYCLE_ARTIFACTS": "Where models, checkpoints and schemas that are uploaded are kept: a "
    "directory, or s3://bucket/prefix (default artifacts/internal in the data directory). "
    "Credentials, region and endpoint of S3 are read from the usual variables, AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL ….",
    "LIFECYCLE_EXTERNAL_ARTIFACTS": "The same for data sets and inference data (default "
    "artifacts/external in the data directory).",
    "LIFECYCLE_S3_PUBLIC_URL": "The endpoint under which clients reach S3, where that is another "
    "than the service uses.",
    "LIFECYCLE_HOST": "Address to serve on (default 127.0.0.1).",
    "LIFECYCLE_PORT": "Port to serve on, 0 for any free one (default 8000).",
    "LIFECYCLE_ADMINISTRATORS": "Names, with commas between them, of people who may do "
    "everything (default admin, where nobody proves who they are; else nobody).",
    "LIFECYCLE_SIGN_IN": "none, tokens or oidc: whether clients prove who they are, by API "
    "tokens, or by those and by what an OpenID provider has issued (default none: they are "
    "believed, and only this machine is served).",
    "LIFECYCLE_OIDC_ISSUER": "The OpenID provider, as its tokens name it (https://…).",
    "LIFECYCLE_OIDC_AUDIENCE": "For whom its tokens must be.",
    "LIFECYCLE_OIDC_NAME_CLAIM": "The claim that is a person's name here, in the journal "
    "too, without case: it must never be somebody else's (default email, which then has to be "
    "verified).",
    "LIFECYCLE_OIDC_GROUPS_CLAIM": "The claim that lists a person's groups, to which roles can be "
    "granted as group:NAME (default: none does).",
    "LIFECYCLE_INSECURE": "yes or no: serve other machines though nobody proves who they are "
    "(default no).",
    "LIFECYCLE_LOG_FORMAT": "json or console (default: console on a terminal, else json).",
    "LIFECYCLE_EXECUTION": "compiled or stock: whether queries are executed by plans, which are "
    "compiled once, or all by graphql-core (default compiled).",
    "LIFECYCLE_TOKEN": "The API token by which `lifecycle demo` signs in: an administrator's.",
    "LIFECYCLE_ALLOWED_HOSTS": "Names, with commas between them, under which clients reach the "
    "service (default: those of this machine alone where nobody signs in, else any).",
    "LIFECYCLE_ALLOWED_ORIGINS": "Origins, as https://host:port with commas between them, whose "
    "pages may use the service besides its own (default none).",
    "LIFECYCLE_GRAPHIQL": "yes or no: whether browsers are shown GraphiQL (default yes).",
    "LIFECYCLE_INTROSPECTION": "yes or no: whether clients may ask for the schema, and are told "
    "what they may have meant (default yes).",
    "LIFECYCLE_TRUSTED_DOCUMENTS": "yes or no: whether only operations are executed that were "
    "registered by `lifecycle documents add` (default no).",
    "LIFECYCLE_MAX_SECONDS": "How long an operation may take, 0 for as long as it wants (default "
    "60). Subscriptions stay, but each of their items is an operation.",
    "LIFECYCLE_MAX_OPERATIONS": "How many operations each principal may have under way in one "
    "process, 0 for any number (default: 100, or any number where nobody signs in).",
    "LIFECYCLE_MAX_SUBSCRIPTIONS": "The same for subscriptions (default: 1000, or any number where "
    "nobody signs in).",
    "LIFECYCLE_MAX_WEBSOCKETS": "The same for open websockets; until it is said in connection_init "
    "whose they are, for each address that they come from (default: 1000, or any number where "
    "nobody signs in).",
    "LIFECYCLE_MAX_RATE": "How many operations a second each principal may ask one process for, "
    "ten seconds' worth of them at once; 0 for any number (default: 100, or any number where "
    "nobody signs in).",
    "LIFECYCLE_METRICS": "Where Prometheus may read metrics, as host:port, at /metrics; an address "
    "that strangers do not reach, because nobody has to sign in there (default: nowhere).",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "Where traces are sent, as http://host:4318, with the extra "
    "`telemetry` installed; the other OTEL_ variables mean what they usually do (default: "
    "nowhere).",
    "MLFLOW_TRACKING_URI": "The MLflow server to mirror to, as http://host:port, with "
    "user:password@ where it asks for them (default: none).",
    "LIFECYCLE_MLFLOW_FOLLOW": "Take in what begins in MLflow, looking every so many seconds, 1 to "
    "86400 (default: do not).",
    "LIFECYCLE_MLFLOW_WORKER": "yes or no: whether those processes mirror that serve, or only "
    "`lifecycle worker` (default yes).",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be configured; see VARIABLES for the meaning of each."""

    database_url: str | None = None
    data_dir: Path = Path(".lifecycle")
    host: str = "127.0.0.1"
    port: int = 8000
    administrators: frozenset[str] = frozenset({"admin"})
    log_format: str | None = None
    execution: str = "compiled"
    # None is what depends on the address.
    allowed_hosts: frozenset[str] | None = None
    allowed_origins: frozenset[str] = frozenset()
    graphiql: bool = True
    introspection: bool = True
    trusted_documents: bool = False
    max_seconds: int = 60
    # None is what depends on the address.
    max_operations: int | None = None
    max_subscriptions: int | None = None
    max_websockets: int | None = None
    max_rate: int | None = None
    mlflow_uri: str | None = None
    mlflow_follow: int | None = None
    mlflow_worker: bool = True
    artifacts: str | None = None
    external_artifacts: str | None = None
    s3_public_url: str | None = None
    sign_in: str = "none"
    oidc_issuer: str | None = None
    oidc_audience: str | None = None
    oidc_name_claim: str = _NAME_CLAIM
    oidc_groups_claim: str | None = None
    insecure: bool = False
    token: str | None = field(default=None, repr=False)

    def check_exposed(self) -> None:
        """Raise ValueError where others than this machine would be served without signing in."""
        if not self.private or is_loopback(self.host):
            return
        raise ValueError(
            f"{self.host} can be reached by others, and nobody proves who they are: set "
            "LIFECYCLE_SIGN_IN, or say --insecure."
        )

    def check_directories(self) -> None:
        """Raise ValueError where artifacts cannot be kept because there is a file in the way."""
        for name, location in (
            ("LIFECYCLE_ARTIFACTS", self.internal_area),
            ("LIFECYCLE_EXTERNAL_ARTIFACTS", self.external_area),
        ):
            if location.startswith("s3://"):
                continue
            path = Path(location)
            found = next((each for each in (path, *path.parents) if os.path.lexists(each)), None)
            if found is not None and not found.is_dir():
                raise ValueError(
                    f"{name} must be a directory or s3://bucket/prefix, not {location!r}: {found} "
                    "is no directory."
                )

    metrics: tuple[str, int] | None = None
    read_url: str | None = None
    otlp_endpoint: str | None = None

    @property
    def internal_area(self) -> str:
        """Where internal artifacts are kept: s3://bucket/prefix, or a directory."""
        return self.artifacts or str(self.data_dir / "artifacts" / "internal")

    @property
    def external_area(self) -> str:
        """Where external artifacts are kept."""
        return self.external_artifacts or str(self.data_dir / "artifacts" / "external")

    @property
    def private(self) -> bool:
        """Whether only this machine is served, so that nobody has to sign in."""
        return self.sign_in == "none" and not self.insecure

    @classmethod
    def from_environment(cls) -> "Settings":
        """The settings of this process. Raises ValueError when one cannot be understood."""
        port = environ.get("LIFECYCLE_PORT") or "8000"
        if not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"LIFECYCLE_PORT must be a port number, not {port!r}.")
        log_format = environ.get("LIFECYCLE_LOG_FORMAT") or None
        if log_format not in (None, "json", "console"):
            raise ValueError(f"LIFECYCLE_LOG_FORMAT must be json or console, not {log_format!r}.")
        execution = environ.get("LIFECYCLE_EXECUTION") or "compiled"
        if execution not in ("compiled", "stock"):
            raise ValueError(f"LIFECYCLE_EXECUTION must be compiled or stock, not {execution!r}.")
        url = environ.get("LIFECYCLE_DATABASE_URL") or None
        mlflow = environ.get("MLFLOW_TRACKING_URI") or None
        follow = environ.get("LIFECYCLE_MLFLOW_FOLLOW") or "0"
        if not follow.isdecimal() or int(follow) > _LONGEST_FOLLOW:
            raise ValueError(
                f"LIFECYCLE_MLFLOW_FOLLOW must be 1 to {_LONGEST_FOLLOW} seconds, not {follow!r}."
            )
        sign_in = environ.get("LIFECYCLE_SIGN_IN") or "none"
        if sign_in not in ("none", "tokens", "oidc"):
            raise ValueError(f"LIFECYCLE_SIGN_IN must be none, tokens or oidc, not {sign_in!r}.")
        _check_oidc(sign_in)
        return cls(
            database_url=asyncpg_url(url) if url else None,
            data_dir=Path(environ.get("LIFECYCLE_DATA_DIR") or ".lifecycle"),
            host=environ.get("LIFECYCLE_HOST") or "127.0.0.1",
            port=int(port),
            # Where people prove who they are, somebody may well be called admin.
            administrators=_names(
                environ.get("LIFECYCLE_ADMINISTRATORS", "admin" if sign_in == "none" else "")
            ),
            log_format=log_format,
            execution=execution,
            allowed_hosts=_hosts("LIFECYCLE_ALLOWED_HOSTS"),
            allowed_origins=_origins("LIFECYCLE_ALLOWED_ORIGINS"),
            graphiql=_yes("LIFECYCLE_GRAPHIQL", True),
            introspection=_yes("LIFECYCLE_INTROSPECTION", True),
            trusted_documents=_yes("LIFECYCLE_TRUSTED_DOCUMENTS", False),
            max_seconds=_number("LIFECYCLE_MAX_SECONDS", 60),
            max_operations=_number("LIFECYCLE_MAX_OPERATIONS", None),
            max_subscriptions=_number("LIFECYCLE_MAX_SUBSCRIPTIONS", None),
            max_websockets=_number("LIFECYCLE_MAX_WEBSOCKETS", None),
            max_rate=_number("LIFECYCLE_MAX_RATE", None),
            mlflow_uri=mlflow_address(mlflow) if mlflow else None,
            mlflow_follow=int(follow) or None,
            mlflow_worker=_yes("LIFECYCLE_MLFLOW_WORKER", True),
            artifacts=_location("LIFECYCLE_ARTIFACTS"),
            external_artifacts=_location("LIFECYCLE_EXTERNAL_ARTIFACTS"),
            s3_public_url=_http_url("LIFECYCLE_S3_PUBLIC_URL"),
            sign_in=sign_in,
            oidc_issuer=environ.get("LIFECYCLE_OIDC_ISSUER") or None,
            oidc_audience=environ.get("LIFECYCLE_OIDC_AUDIENCE") or None,
            oidc_name_claim=environ.get("LIFECYCLE_OIDC_NAME_CLAIM") or _NAME_CLAIM,
            oidc_groups_claim=environ.get("LIFECYCLE_OIDC_GROUPS_CLAIM") or None,
            insecure=_yes("LIFECYCLE_INSECURE", False),
            token=environ.get("LIFECYCLE_TOKEN") or None,
            metrics=_address("LIFECYCLE_METRICS"),
            read_url=_read_url("LIFECYCLE_READ_URL"),
            otlp_endpoint=_http_url("OTEL_EXPORTER_OTLP_ENDPOINT"),
        )

    def to_environment(self) -> dict[str, str]:
        """The variables by which another process gets these settings."""
        return {
            "LIFECYCLE_DATABASE_URL": self.database_url or "",
            "LIFECYCLE_DATA_DIR": str(self.data_dir.resolve()),
            "LIFECYCLE_HOST": self.host,
            "LIFECYCLE_PORT": str(self.port),
            "LIFECYCLE_ADMINISTRATORS": ",".join(sorted(self.administrators)),
            "LIFECYCLE_LOG_FORMAT": self.log_format or "",
            "LIFECYCLE_EXECUTION": self.execution,
            "LIFECYCLE_ALLOWED_HOSTS": ",".join(sorted(self.allowed_hosts or ())),
            "LIFECYCLE_ALLOWED_ORIGINS": ",".join(sorted(self.allowed_origins)),
            "LIFECYCLE_GRAPHIQL": "yes" if self.graphiql else "no",
            "LIFECYCLE_INTROSPECTION": "yes" if self.introspection else "no",
            "LIFECYCLE_TRUSTED_DOCUMENTS": "yes" if self.trusted_documents else "no",
            "LIFECYCLE_MAX_SECONDS": str(self.max_seconds),
            "LIFECYCLE_MAX_OPERATIONS": _text(self.max_operations),
            "LIFECYCLE_MAX_SUBSCRIPTIONS": _text(self.max_subscriptions),
            "LIFECYCLE_MAX_WEBSOCKETS": _text(self.max_websockets),
            "LIFECYCLE_MAX_RATE": _text(self.max_rate),
            "MLFLOW_TRACKING_URI": self.mlflow_uri or "",
            "LIFECYCLE_MLFLOW_FOLLOW": str(self.mlflow_follow or ""),
            "LIFECYCLE_MLFLOW_WORKER": "yes" if self.mlflow_worker else "no",
            "LIFECYCLE_ARTIFACTS": self.artifacts or "",
            "LIFECYCLE_EXTERNAL_ARTIFACTS": self.external_artifacts or "",
            "LIFECYCLE_S3_PUBLIC_URL": self.s3_public_url or "",
            "LIFECYCLE_SIGN_IN": self.sign_in,
            "LIFECYCLE_OIDC_ISSUER": self.oidc_issuer or "",
            "LIFECYCLE_OIDC_AUDIENCE": self.oidc_audience or "",
            "LIFECYCLE_OIDC_NAME_CLAIM": self.oidc_name_claim,
            "LIFECYCLE_OIDC_GROUPS_CLAIM": self.oidc_groups_claim or "",
            "LIFECYCLE_INSECURE": "yes" if self.insecure else "no",
            "LIFECYCLE_TOKEN": self.token or "",
            "LIFECYCLE_READ_URL": self.read_url or "",
            "LIFECYCLE_METRICS": "[{}]:{}".format(*self.metrics) if self.metrics else "",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp_endpoint or "",
        }


@lru_cache(100)
def is_loopback(host: str) -> bool:
    """Whether an address can be reached from its own machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _check_oidc(sign_in: str) -> None:
    """Raise ValueError where what is said of the OpenID provider is not enough, or for nothing."""
    names = [name for name in VARIABLES if name.startswith("LIFECYCLE_OIDC_")]
    given = [name for name in names if environ.get(name)]
    if sign_in != "oidc":
        # What is given to every process says email, which is what there would be without.
        given = [name for name in given if environ[name] != _NAME_CLAIM]
        if given:
            raise ValueError(f"{given[0]} is set, but LIFECYCLE_SIGN_IN is {sign_in}, not oidc.")
        return
    for name in ("LIFECYCLE_OIDC_ISSUER", "LIFECYCLE_OIDC_AUDIENCE"):
        if name not in given:
            raise ValueError(f"LIFECYCLE_SIGN_IN=oidc needs {name}.")
    issuer = environ["LIFECYCLE_OIDC_ISSUER"]
    try:
        parts = urlsplit(issuer)
        plain = parts.scheme == "http" and is_loopback(parts.hostname or "")
        usable = (parts.scheme == "https" or plain) and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or parts.username:
        raise ValueError(
            "LIFECYCLE_OIDC_ISSUER must be an address that begins with https:// (http:// on this "
            f"machine), without query and user, not {issuer!r}."
        )


def _names(given: str) -> frozenset[str]:
    return frozenset(name.strip() for name in given.split(",") if name.strip())


def _yes(name: str, default: bool) -> bool:
    """yes or no. Raises ValueError."""
    given = environ.get(name)
    if given not in (None, "", "yes", "no"):
        raise ValueError(f"{name} must be yes or no, not {given!r}.")
    return given == "yes" if given else default


def _hosts(name: str) -> frozenset[str] | None:
    """Names of hosts, without ports; None if there are none. Raises ValueError."""
    found = frozenset(each.lower() for each in _names(environ.get(name, "")))
    for each in found:
        if not _HOST.fullmatch(each):
            raise ValueError(f"{name} must be names of hosts, without ports, not {each!r}.")
    return found or None


def _origins(name: str) -> frozenset[str]:
    """Origins as browsers say them. Raises ValueError."""
    found = frozenset(each.lower() for each in _names(environ.get(name, "")))
    for each in found:
        if not _ORIGIN.fullmatch(each):
            raise ValueError(f"{name} must be origins such as https://example.com, not {each!r}.")
    return found


Default = TypeVar("Default", int, None)


def _number(name: str, default: Default) -> int | Default:
    """A number from 0 on. Raises ValueError."""
    given = environ.get(name)
    if not given:
        return default
    if not given.isdecimal() or int(given) > _LARGEST:
        raise ValueError(f"{name} must be a number from 0 to {_LARGEST}, not {given!r}.")
    return int(given)


def _text(number: int | None) -> str:
    return "" if number is None else str(number)


def _location(name: str) -> str | None:
    """A directory, or s3://bucket/prefix. Raises ValueError."""
    given = environ.get(name) or None
    if given is None:
        return None
    scheme, found, rest = given.partition("://")
    if found and (scheme != "s3" or not rest.partition("/")[0]):
        raise ValueError(f"{name} must be a directory or s3://bucket/prefix, not {given!r}.")
    return given


def _read_url(name: str) -> str | None:
    """The URL of a replica. Raises ValueError."""
    given = environ.get(name) or None
    try:
        return asyncpg_url(given) if given else None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _address(name: str) -> tuple[str, int] | None:
    """A host, perhaps in brackets, and a port. Raises ValueError."""
    given = environ.get(name) or None
    if given is None:
        return None
    host, _, port = given.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{name} must be host:port, not {given!r}.")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _http_url(name: str) -> str | None:
    """An address of a server. Raises ValueError."""
    given = environ.get(name) or None
    if given is None:
        return None
    if not given.startswith(("http://", "https://")) or not urlsplit(given).hostname:
        raise ValueError(f"{name} must begin with http:// or https://, not {given!r}.")
    return given.rstrip("/")


def asyncpg_url(url: str) -> str:
    """The URL with the driver that the service uses; people copy URLs that name none."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgres", "postgresql", "postgresql+asyncpg") or not rest:
        raise ValueError("The database URL must begin with postgresql+asyncpg://.")
    try:
        _ = urlsplit(url).port
    except ValueError as error:
        raise ValueError(
            "The database URL cannot be read: is the port a number, and is everything "
            "percent-encoded that has to be?"
        ) from error
    return f"postgresql+asyncpg://{rest}"


def mlflow_address(uri: str) -> str:
    """The address of an MLflow server, as it was given. Raises ValueError when it is none; the
    message does not repeat it, because there may be a password in it."""
    try:
        parts = urlsplit(uri.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or bool(parts.username) != bool(parts.password):
        raise ValueError(
            "MLFLOW_TRACKING_URI must be the address of an MLflow server: http:// or https://, "
            "perhaps user:password@, host and port."
        )
    return uri.strip()


def without_credentials(uri: str) -> str:
    """An MLflow server's address as it may be shown, and by which the server is told from others:
    without user and password, without slashes at its end."""
    parts = urlsplit(uri)
    host = parts.netloc.rpartition("@")[2].lower()
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
