"""The only reader of the environment. Options of the command win over it."""

from dataclasses import dataclass
from os import environ
from pathlib import Path
from urllib.parse import urlsplit

_LONGEST_FOLLOW = 86_400

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
    "LIFECYCLE_ADMINISTRATORS": "Names, with commas between them, of those who set policies and go "
    "past them (default admin).",
    "LIFECYCLE_LOG_FORMAT": "json or console (default: console on a terminal, else json).",
    "LIFECYCLE_EXECUTION": "compiled or stock: whether queries are executed by plans, which are "
    "compiled once, or all by graphql-core (default compiled).",
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
    mlflow_uri: str | None = None
    mlflow_follow: int | None = None
    mlflow_worker: bool = True
    artifacts: str | None = None
    external_artifacts: str | None = None
    s3_public_url: str | None = None
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
        worker = environ.get("LIFECYCLE_MLFLOW_WORKER") or "yes"
        if worker not in ("yes", "no"):
            raise ValueError(f"LIFECYCLE_MLFLOW_WORKER must be yes or no, not {worker!r}.")
        return cls(
            database_url=asyncpg_url(url) if url else None,
            data_dir=Path(environ.get("LIFECYCLE_DATA_DIR") or ".lifecycle"),
            host=environ.get("LIFECYCLE_HOST") or "127.0.0.1",
            port=int(port),
            administrators=frozenset(
                name.strip()
                for name in environ.get("LIFECYCLE_ADMINISTRATORS", "admin").split(",")
                if name.strip()
            ),
            log_format=log_format,
            execution=execution,
            mlflow_uri=mlflow_address(mlflow) if mlflow else None,
            mlflow_follow=int(follow) or None,
            mlflow_worker=worker == "yes",
            artifacts=_location("LIFECYCLE_ARTIFACTS"),
            external_artifacts=_location("LIFECYCLE_EXTERNAL_ARTIFACTS"),
            s3_public_url=_http_url("LIFECYCLE_S3_PUBLIC_URL"),
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
            "MLFLOW_TRACKING_URI": self.mlflow_uri or "",
            "LIFECYCLE_MLFLOW_FOLLOW": str(self.mlflow_follow or ""),
            "LIFECYCLE_MLFLOW_WORKER": "yes" if self.mlflow_worker else "no",
            "LIFECYCLE_ARTIFACTS": self.artifacts or "",
            "LIFECYCLE_EXTERNAL_ARTIFACTS": self.external_artifacts or "",
            "LIFECYCLE_S3_PUBLIC_URL": self.s3_public_url or "",
            "LIFECYCLE_READ_URL": self.read_url or "",
            "LIFECYCLE_METRICS": "[{}]:{}".format(*self.metrics) if self.metrics else "",
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp_endpoint or "",
        }


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
