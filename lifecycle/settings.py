"""The only reader of the environment. Options of the command win over it."""

from dataclasses import dataclass
from os import environ
from pathlib import Path
from urllib.parse import urlsplit

VARIABLES = {
    "LIFECYCLE_DATABASE_URL": "PostgreSQL 15 or later to use instead of the embedded one, "
    "as postgresql+asyncpg://user:password@host:port/database.",
    "LIFECYCLE_DATA_DIR": "Where the embedded PostgreSQL keeps its data (default ./.lifecycle).",
    "LIFECYCLE_HOST": "Address to serve on (default 127.0.0.1).",
    "LIFECYCLE_PORT": "Port to serve on, 0 for any free one (default 8000).",
    "LIFECYCLE_ADMINISTRATORS": "Names, with commas between them, of those who set policies and go "
    "past them (default admin).",
    "LIFECYCLE_LOG_FORMAT": "json or console (default: console on a terminal, else json).",
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

    @classmethod
    def from_environment(cls) -> "Settings":
        """The settings of this process. Raises ValueError when one cannot be understood."""
        port = environ.get("LIFECYCLE_PORT") or "8000"
        if not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"LIFECYCLE_PORT must be a port number, not {port!r}.")
        log_format = environ.get("LIFECYCLE_LOG_FORMAT") or None
        if log_format not in (None, "json", "console"):
            raise ValueError(f"LIFECYCLE_LOG_FORMAT must be json or console, not {log_format!r}.")
        url = environ.get("LIFECYCLE_DATABASE_URL") or None
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
        )


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
