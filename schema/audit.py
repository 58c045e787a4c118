"""The audit log as clients see it: the journal with everything in it."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import strawberry
from strawberry import Private
from strawberry.scalars import JSON

from lifecycle.access.rules import known_as
from lifecycle.errors import InvalidInput
from lifecycle.journal import repository
from lifecycle.journal.repository import AuditFilter
from lifecycle.journal.tables import EventRow
from lifecycle.pages import PageRequest
from schema import ids
from schema.context import Info
from schema.inputs import moment
from schema.lookup import by_key
from schema.nodes import Node
from schema.pagination import After, Before, Connection, First, Last, listed
from schema.rows import OfRow, shown
from schema.scalars import BigInt

MAX_CHOICES = 100
_LONGEST = 250


def _policy_version(after: Mapping[str, Any]) -> int | None:
    found = after.get("policy_version")
    return found if isinstance(found, int) else None


@strawberry.type(
    description="One change, with what led to it. Written in the transaction of the change: there "
    "is none without the other."
)
class AuditEntry(OfRow[EventRow]):
    row: Private[EventRow]
    position: BigInt = shown(description="Counts from 1, without gaps.")
    at: datetime = shown(description="When it happened.")
    actor: str = shown(
        description="Who did it; what begins with system: the service did by itself."
    )
    action: str = shown(
        lambda row: row.type,
        description="The kind of subject and what happened to it, such as "
        "model_version.stage_changed.",
    )
    subject_kind: str = shown(
        lambda row: _kind(row.subject_kind),
        description="What it happened to, such as ModelVersion.",
    )
    subject_id: strawberry.ID = shown(
        lambda row: ids.encode(_kind(row.subject_kind), row.subject_id),
        description="The global id of that, also when it is gone.",
    )
    before: JSON | None = shown(
        description="The fields that changed, as they were; null where nothing was there before.",
    )
    after: JSON | None = shown(
        description="The same fields as they are since, and what else tells which subject it was.",
    )
    reason: str | None = shown(description="Why, if somebody said so.")
    request_id: str = shown(
        description="The request that asked for it, as in the header X-Request-Id and in the log."
    )
    idempotency_key: str | None = shown(description="The key of that mutation.")
    policy_version: int | None = shown(
        lambda row: _policy_version(row.after or {}),
        description="The version of the policy by which it was decided, if one was.",
    )
    hash: str | None = shown(
        lambda row: row.hash.hex() if row.hash else None,
        description="SHA-256, in hexadecimal digits, over this entry and the hash of the one "
        "before. Null for what happened before the entries were chained.",
    )

    @strawberry.field(description="What it happened to, as it is now; null if it is gone.")
    async def subject(self, info: Info) -> Node | None:
        return await by_key(info, self.subject_kind, self.row.subject_id)


@strawberry.type(
    description="The end of the audit log. Who keeps `anchor` elsewhere can find out later whether "
    "anything before it was altered: lifecycle audit verify --anchor."
)
class AuditHead:
    position: BigInt = strawberry.field(description="That of the last entry; 0 if there is none.")
    hash: str = strawberry.field(description="Of the last entry, in hexadecimal digits.")

    @strawberry.field(description="Both in one: position:hash.")
    def anchor(self) -> str:
        return f"{self.position}:{self.hash}"


@strawberry.input(name="AuditLogFilter", description="What is left out does not restrict.")
class AuditLogFilterInput:
    actors: list[str] | None = strawberry.field(default=None, description="By any of these.")
    subject: strawberry.ID | None = strawberry.field(
        default=None, description="What happened to the object with this global id."
    )
    subject_kinds: list[str] | None = strawberry.field(
        default=None, description="To any of these kinds of objects, such as ModelVersion."
    )
    actions: list[str] | None = strawberry.field(
        default=None, description="Any of these, such as model_version.stage_changed."
    )
    from_: datetime | None = strawberry.field(
        name="from", default=None, description="At this time or later."
    )
    to: datetime | None = strawberry.field(default=None, description="Before this time.")


@strawberry.type
class AuditQueries:
    @strawberry.field(
        description="Every change there was, the last one first. What was done just now is there "
        "some milliseconds later."
    )
    async def audit_log(
        self,
        info: Info,
        filter: Annotated[
            AuditLogFilterInput | None, strawberry.argument(description="Which of it.")
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[AuditEntry]:
        request = PageRequest.parse(first, after, last, before)
        wanted = _wanted(filter or AuditLogFilterInput())
        return await listed(
            info,
            AuditEntry.from_row,
            lambda session: repository.audit_page(session, wanted, request),
            lambda session: repository.audit_count(session, wanted),
        )

    @strawberry.field(description="The end of the audit log, which stands for all of it.")
    async def audit_head(self, info: Info) -> AuditHead:
        async with info.context.database.read() as session:
            head = await repository.head(session)
        return AuditHead(position=BigInt(head.chain_position), hash=head.chain_hash.hex())


def _wanted(given: AuditLogFilterInput) -> AuditFilter:
    """The filter that a client means. Raises InvalidInput."""
    subject = None
    if given.subject is not None:
        kind, key = ids.split(given.subject, ("filter", "subject"))
        subject = _table(kind), key
    actors = _few(given.actors, "actors")
    return AuditFilter(
        # Older entries have names as they were written.
        actors=tuple(sorted({*actors, *map(known_as, actors)})),
        subject=subject,
        subject_kinds=tuple(map(_table, _few(given.subject_kinds, "subject_kinds"))),
        actions=_few(given.actions, "actions"),
        since=moment(given.from_, ("filter", "from")),
        until=moment(given.to, ("filter", "to")),
    )


def _few(values: list[str] | None, name: str) -> tuple[str, ...]:
    """Some words, each once and always in the same order. Raises InvalidInput."""
    if values and len(values) > MAX_CHOICES:
        raise InvalidInput(f"Name at most {MAX_CHOICES}.", ("filter", name))
    return tuple(sorted(set(values or ())))


def _kind(table: str) -> str:
    """ModelVersion for model_version, which is what the journal calls it."""
    return "".join(word.capitalize() for word in table.split("_"))


def _table(kind: str) -> str:
    """The other way round. What is longer is no kind."""
    return kind if len(kind) > _LONGEST else re.sub(r"(?<!^)(?=[A-Z])", "_", kind).lower()
