"""All SQL about grants and API tokens."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, Text, bindparam, func, select, update
from sqlalchemy.sql import Select

from lifecycle.access.rules import SERVICE, SYSTEM, Role, known_as
from lifecycle.database import ReadSession, WriteSession
from lifecycle.pages import Listing, Ordering, Page, PageRequest, by_id, by_time, listing
from lifecycle.principals.tables import ApiTokenRow, RightsHeadRow, RoleGrantRow
from lifecycle.statements import Prepared

_TOKEN = Prepared(select(ApiTokenRow).where(ApiTokenRow.digest == bindparam("digest")))
_GRANTS = Prepared(
    select(RoleGrantRow).where(
        RoleGrantRow.revoked_at.is_(None),
        RoleGrantRow.subject == func.any(bindparam("subjects", type_=ARRAY(Text))),
    )
)
_STATE = Prepared(select(RightsHeadRow.changes, func.clock_timestamp()))


async def state(session: ReadSession) -> tuple[int, datetime]:
    """Another one whenever a grant or a token was added or revoked; and the database's time."""
    found = await session.fetch_one(_STATE)
    assert found is not None
    changes, now = found
    return changes, now


async def token_of(session: ReadSession, digest: bytes) -> ApiTokenRow | None:
    """The token with this digest, whether or not it is still good."""
    return await session.fetch_one(_TOKEN, {"digest": digest})


async def grants_of(session: ReadSession, subjects: Sequence[str]) -> list[RoleGrantRow]:
    """The grants in force of all of these."""
    return await session.fetch(_GRANTS, {"subjects": list(subjects)})


async def hold(session: WriteSession, what: str) -> None:
    """Have nobody else change the grants of a subject, or make tokens of a name, until the
    transaction ends."""
    await session.hold(f"principals\n{what}")


async def lock_in_force(
    session: WriteSession, subject: str, role: Role, model_id: UUID | None
) -> RoleGrantRow | None:
    """The grant of this role that is in force, locked."""
    return await session.scalar(
        select(RoleGrantRow)
        .where(
            RoleGrantRow.subject == subject,
            RoleGrantRow.role == role,
            RoleGrantRow.model_id.is_not_distinct_from(model_id),
            RoleGrantRow.revoked_at.is_(None),
        )
        .with_for_update()
    )


async def lock_grant(session: WriteSession, id: UUID) -> RoleGrantRow | None:
    """The grant with this id, locked."""
    return await session.get(RoleGrantRow, id, with_for_update=True)


async def lock_token(session: WriteSession, id: UUID) -> ApiTokenRow | None:
    """The token with this id, locked."""
    return await session.get(ApiTokenRow, id, with_for_update=True)


async def makers(session: ReadSession, name: str) -> set[str]:
    """Who has ever made a token of this name."""
    made = select(ApiTokenRow.created_by).where(ApiTokenRow.name == name)
    return set(await session.fetch(made.distinct()))


async def same_people(session: WriteSession, actor: str, names: Collection[str]) -> frozenset[str]:
    """Those of the names that have somebody behind them who is behind the actor, too. Behind a name
    are whoever has it, who made tokens for it, and who is behind those; but nobody who has the
    database (`lifecycle token`)."""
    if not names:
        return frozenset()
    maker = ApiTokenRow.created_by.collate("C")
    asked = list({known_as(name) for name in (actor, *names)})
    start = func.unnest(bindparam("asked", asked, ARRAY(Text)), type_=Text).column_valued("name")
    reached = select(start.collate("C").label("name")).cte("reached", recursive=True)
    tokens = (ApiTokenRow.name == func.substr(reached.c.name, len(SERVICE) + 1)) & (
        reached.c.name.startswith(SERVICE) & ~ApiTokenRow.created_by.startswith(SYSTEM)
    )
    reached = reached.union(select(maker).join(reached, tokens))
    makers_of = defaultdict[str, set[str]](set)
    with session.seeing_everything():
        found = select(reached.c.name, maker).join(ApiTokenRow, tokens).distinct()
        for name, by in await session.execute(found):
            makers_of[name].add(known_as(by))
    whoever = _behind(known_as(actor), makers_of)
    return frozenset(n for n in names if not whoever.isdisjoint(_behind(known_as(n), makers_of)))


def _behind(name: str, makers_of: Mapping[str, set[str]]) -> set[str]:
    found = {name}
    waiting = [name]
    while waiting:
        new = makers_of.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


async def note_use(session: WriteSession, id: UUID) -> None:
    """Remember that a token was used now."""
    await session.execute(
        update(ApiTokenRow)
        .where(ApiTokenRow.id == id)
        .values(last_used_at=func.clock_timestamp())
        .execution_options(synchronize_session=False)
    )


@dataclass(frozen=True, slots=True)
class GrantFilter:
    """Which grants; what is None does not restrict."""

    subject: str | None = None
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class TokenFilter:
    """Which tokens; what is None does not restrict."""

    name: str | None = None
    created_by: str | None = None
    revoked: bool = False


def _grants(wanted: GrantFilter) -> Select[Any]:
    statement = select(RoleGrantRow)
    if wanted.subject is not None:
        statement = statement.where(RoleGrantRow.subject == wanted.subject)
    return statement if wanted.revoked else statement.where(RoleGrantRow.revoked_at.is_(None))


def _tokens(wanted: TokenFilter) -> Select[Any]:
    statement = select(ApiTokenRow)
    if wanted.name is not None:
        statement = statement.where(ApiTokenRow.name == wanted.name)
    if wanted.created_by is not None:
        statement = statement.where(ApiTokenRow.created_by == wanted.created_by)
    return statement if wanted.revoked else statement.where(ApiTokenRow.revoked_at.is_(None))


@listing
def _grant_list(wanted: GrantFilter) -> Listing[RoleGrantRow]:
    keys = [by_time(RoleGrantRow.created_at), by_id(RoleGrantRow.id)]
    return Listing(_grants(wanted), Ordering(keys, "role grants", wanted))


@listing
def _token_list(wanted: TokenFilter) -> Listing[ApiTokenRow]:
    keys = [by_time(ApiTokenRow.created_at), by_id(ApiTokenRow.id)]
    return Listing(_tokens(wanted), Ordering(keys, "API tokens", wanted))


async def page_of_grants(
    session: ReadSession, wanted: GrantFilter, request: PageRequest
) -> Page[RoleGrantRow]:
    """A page of the grants that match, newest first."""
    return await _grant_list(wanted).page(session, request)


async def count_of_grants(session: ReadSession, wanted: GrantFilter) -> int:
    """How many grants match."""
    return await _grant_list(wanted).count(session)


async def page_of_tokens(
    session: ReadSession, wanted: TokenFilter, request: PageRequest
) -> Page[ApiTokenRow]:
    """A page of the tokens that match, newest first."""
    return await _token_list(wanted).page(session, request)


async def count_of_tokens(session: ReadSession, wanted: TokenFilter) -> int:
    """How many tokens match."""
    return await _token_list(wanted).count(session)
