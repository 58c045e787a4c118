"""An area in an S3-compatible store, by obstore. Clients send and fetch their bytes there, not
through the service.

Credentials, region and endpoint are what the variables AWS_… say, which obstore reads. All
functions block, and raise OSError or obstore's own errors: its asynchronous functions can abort the
process when one of them is under way as the interpreter stops.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import obstore
from obstore.store import S3Store

_CHUNK = 1024 * 1024
# Content may be large; what must not be is the time in which nothing comes.
_CLIENT: Any = {
    "allow_http": True,
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=30),
    "timeout": timedelta(hours=1),
}
_RETRY: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}

ERRORS = (OSError, obstore.exceptions.BaseError)


class Bucket:
    """The area below s3://bucket/prefix. Links lead to `public_url`, where clients reach the store
    under another address than the service does. Raises ValueError when settings cannot be right.
    """

    def __init__(self, url: str, public_url: str | None) -> None:
        self.name, _, prefix = url.removeprefix("s3://").partition("/")
        self.prefix = prefix.strip("/")
        self._prepared = False
        try:
            self._store = self._at()
            public: Any = {"endpoint": public_url, "aws_endpoint_url_s3": public_url}
            self._signer = self._at(**public) if public_url else self._store
        except obstore.exceptions.BaseError as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{url} cannot be used: {reason}") from error

    def _at(self, **endpoint: Any) -> S3Store:
        prefix = self.prefix or None
        return S3Store(
            self.name, prefix=prefix, client_options=_CLIENT, retry_config=_RETRY, **endpoint
        )

    def prepare(self) -> None:
        """Raise one of ERRORS unless the bucket is there."""
        if not self._prepared:
            obstore.list_with_delimiter(self._store, "sha256")
            self._prepared = True

    def key_of(self, uri: str) -> str | None:
        """The key of the object at an s3:// URI; None unless it lies below here."""
        begin = f"s3://{self.name}/{self.prefix}/" if self.prefix else f"s3://{self.name}/"
        key = uri.removeprefix(begin)
        # What the URL of a request, or the store, would make another key of is none: to some a
        # backslash is a slash.
        proper = "\\" not in key and all(part not in ("", ".", "..") for part in key.split("/"))
        return key if uri.startswith(begin) and proper else None

    def link(self, method: str, key: str, seconds: int, base: str, **said: str) -> str:
        """A link that does this with what is at `key`."""
        lasting = timedelta(seconds=seconds)
        return obstore.sign(self._signer, "PUT" if method == "PUT" else "GET", key, lasting)

    def size(self, key: str) -> int | None:
        """How large it is; None if it is not there."""
        try:
            return obstore.head(self._store, key)["size"]
        except FileNotFoundError:
            return None

    def is_encoded(self, key: str) -> bool:
        """Whether who fetches it is told to decode it, because whoever sent it had said so. Raises
        FileNotFoundError."""
        said = obstore.get(self._store, key).attributes.get("Content-Encoding")
        return said not in (None, "", "identity")

    def chunks(self, key: str) -> Iterator[bytes]:
        """The content, some at a time. Raises FileNotFoundError."""
        yield from map(bytes, obstore.get(self._store, key).stream(min_chunk_size=_CHUNK))

    def copy(self, source: str, target: str) -> None:
        """Have it at another place too. Raises FileNotFoundError."""
        obstore.copy(self._store, source, target)

    def remove(self, folder: str) -> None:
        """Remove all that is in a folder, if it is there."""
        for found in obstore.list(self._store, folder):
            obstore.delete(self._store, [each["path"] for each in found])
