"""The chain of hashes: what was written cannot be altered or removed without a trace.

An event's hash is SHA-256 over 72 bytes: the hash before it, its position as 64 bits with the most
significant first, and its digest, which is SHA-256 over all else that it says. Positions have no
gaps, so whoever has kept one hash can tell whether everything up to it is still as it was.
"""

import hashlib

# What a digest is of: PostgreSQL's binary form of the row `entry`, in which each value has its type
# and its length or is marked as null, so that no two events have the same; text is UTF-8 on all our
# connections, `at` microseconds, JSON the text that PostgreSQL shows. It is computed where the
# values are, which may be large and many. psql checks it too, with nothing of ours:
#   SELECT position
#   FROM (SELECT *, lag(hash) OVER (ORDER BY position) AS former FROM event) AS entry
#   WHERE hash <> sha256(former || int8send(position) || <this>)
DIGEST = """
pg_catalog.sha256(pg_catalog.record_send(ROW(
    entry.id, entry.type, entry.subject_kind, entry.subject_id, entry.at, entry.actor,
    entry.request_id, entry.idempotency_key, entry.reason, entry.before, entry.after
)))
"""


def link(previous: bytes, position: int, digest: bytes) -> bytes:
    """The hash of the event at this position, which follows the one with the hash `previous`."""
    return hashlib.sha256(previous + position.to_bytes(8, "big") + digest).digest()
