"""Where content lies, what may be uploaded, and until when."""

import re

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# What S3 takes, and copies, in one request.
MAX_BYTES = 5 * 1024**3
LINK_SECONDS = 15 * 60
UPLOAD_HOURS = 24
# An upload may have begun with the last link that was valid, and takes its time.
REMAINS_HOURS = UPLOAD_HOURS + 6

_UPLOADS = "uploads/"


def content_key(digest: str | None) -> str | None:
    """Where the content with this digest lies in its area; None for a digest of another kind."""
    if digest is None or not DIGEST.fullmatch(digest):
        return None
    found = digest.removeprefix("sha256:")
    return f"sha256/{found[:2]}/{found}"


def digest_at(key: str) -> str | None:
    """The digest of the content that lies there in its area; None where no content lies."""
    digest = f"sha256:{key.rpartition('/')[2]}"
    return digest if content_key(digest) == key else None


def upload_folder(id: str) -> str:
    """Where all of one upload lies until it is complete, its parts and attempts included."""
    return f"{_UPLOADS}{id}"


def is_of_upload(key: str) -> bool:
    """Whether what lies there in its area is of an upload that is not complete."""
    return key.startswith(_UPLOADS)


def upload_key(id: str) -> str:
    """Where a client puts the bytes of an upload."""
    return f"{upload_folder(id)}/content"
