"""Trusted documents: operations that are asked for by the id of their document, as in the appendix
of GraphQL over HTTP on persisted documents, and, where that is wanted, no others.

They are registered by `lifecycle documents`; see `lifecycle.documents`.
"""

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import strawberry
from graphql import GraphQLError, OperationDefinitionNode, parse, validate

from lifecycle.access.rules import SYSTEM
from lifecycle.database import Database
from lifecycle.documents import repository
from lifecycle.documents.tables import TrustedDocumentRow
from lifecycle.errors import Forbidden, InvalidInput, NotFound
from lifecycle.kept import Kept
from schema.limits import PARSING, refusals

MAX_KEPT = 1_000
MAX_KEPT_CHARACTERS = 5_000_000
# How long a document that was removed may still be executed by a process that knows it.
FRESH_SECONDS = 10
_LINE = SYSTEM + "documents"

_ID = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(slots=True)
class _Known:
    """A document that was registered when it was last looked at."""

    text: str
    until: float


class Trusted:
    """The registered documents, of which those that are asked for are kept. `only` refuses all
    other operations."""

    def __init__(self, database: Database, only: bool) -> None:
        # Nothing of the service's own is behind whoever asks for documents that there are not.
        self._database = database.in_line(_LINE)
        self._only = only
        self._known: Kept[str, _Known] = Kept(MAX_KEPT, MAX_KEPT_CHARACTERS)

    async def text(self, asked: Mapping[str, Any]) -> str:
        """What a request that has a `query` or a `documentId` wants executed.

        Raises InvalidInput when the id is none, or not that of the query; NotFound when no such
        document is registered; Forbidden when others are not executed; and Unavailable.
        """
        query, id = asked.get("query"), asked.get("documentId")
        if id is None and query is not None and not self._only:
            return str(query)
        if id is not None and not _ID.fullmatch(id):
            raise InvalidInput(
                "documentId must be sha256: and 64 digits of a digest, 0 to 9 and a to f.",
                ("document_id",),
            )
        if query and id not in (None, id_of(query)):
            raise InvalidInput(
                "documentId is not the digest of the query; give only one of them.",
                ("document_id",),
            )
        text = await self._registered(id or id_of(str(query)))
        if text is not None:
            return text
        if id is not None and not query:
            raise NotFound("trusted document", id, ("document_id",))
        if self._only:
            raise Forbidden("Only operations that are registered are executed; give a documentId.")
        return str(query)

    async def _registered(self, id: str) -> str | None:
        known, now = self._known.get(id), time.monotonic()
        if known is not None and now < known.until:
            return known.text
        async with self._database.read() as session:
            text = await repository.text(session, id)
        if text is None:
            return None
        if known is not None:
            known.until = now + FRESH_SECONDS
        else:
            self._known.keep(id, _Known(text, now + FRESH_SECONDS), len(text))
        return text


def id_of(text: str) -> str:
    """The id that a document has by its text."""
    # What is no Unicode is no document either, but must not be an error of its own.
    return f"sha256:{hashlib.sha256(text.encode(errors='replace')).hexdigest()}"


def checked(schema: strawberry.Schema, text: str) -> TrustedDocumentRow:
    """A document as it is registered. Raises InvalidInput when the service would not execute it;
    the message has a line for each mistake."""
    try:
        node = parse(text, **PARSING)
    except GraphQLError as error:
        raise InvalidInput(str(error)) from error
    mistakes = refusals(node, {}) or validate(schema._schema, node)
    if mistakes:
        raise InvalidInput("\n".join(map(str, mistakes)))
    operations = [each for each in node.definitions if isinstance(each, OperationDefinitionNode)]
    if not operations:
        raise InvalidInput("There is no operation in it.")
    named = (
        f"{each.operation.value} {each.name.value}" if each.name else each.operation.value
        for each in operations
    )
    return TrustedDocumentRow(id=id_of(text), text=text, operations=", ".join(named))
