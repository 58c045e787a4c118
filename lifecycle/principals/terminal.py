"""What `lifecycle token` does: the use cases that clients use, by whoever has the database."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError
from sqlalchemy import select
from uuid_utils import uuid7

from lifecycle.access.origin import Origin
from lifecycle.access.rules import Grant, Role
from lifecycle.database import Database, WriteSession
from lifecycle.deployments.rules import Environment
from lifecycle.errors import InvalidInput, NotFound
from lifecycle.principals import rules, service
from lifecycle.principals.service import CreateApiToken, NewGrant, RevokeApiToken
from lifecycle.principals.tables import ApiTokenRow
from lifecycle.registry import repository as registry
from lifecycle.registry.rules import Stage

Result = TypeVar("Result")

ACTOR = "system:command-line"


class Made(NamedTuple):
    """A new token."""

    token: str
    expires_at: datetime


async def create(
    url: str,
    name: str,
    role: str,
    model: str | None,
    stages: list[str],
    environments: list[str],
    days: int,
) -> Made:
    """Make a token with one role. Raises what `service.create_token` raises."""
    try:
        grant = NewGrant(
            role=Role(role),
            model_name=model,
            stages=[Stage(each) for each in stages] or None,
            environments=[Environment(each) for each in environments] or None,
        )
        # Whole days, counted from a little before the database looks at its clock.
        until = datetime.now(UTC) + timedelta(days=days, seconds=-60)
        command = CreateApiToken(name=name, grants=[grant], expires_at=until)
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"{said[0].upper()}{said[1:]}.") from error
    except ValueError as error:
        raise InvalidInput(f"{error}.") from error
    row = await _written(url, lambda session: service.create_token(session, _origin(), command))
    assert row.secret is not None
    return Made(row.secret, row.expires_at)


async def listed(url: str) -> list[str]:
    """A line for each token that can be used."""

    async def lines(session: WriteSession) -> list[str]:
        rows = await session.scalars(
            select(ApiTokenRow)
            .where(ApiTokenRow.revoked_at.is_(None), ApiTokenRow.expires_at > datetime.now(UTC))
            .order_by(ApiTokenRow.name, ApiTokenRow.created_at)
        )
        found = rows.all()
        grants = [[rules.grant_of(each) for each in row.grants] for row in found]
        ids = {each.model_id for of in grants for each in of if each.model_id}
        models = await registry.models_by_ids(session, sorted(ids)) if ids else {}
        return [
            _line(row, "; ".join(_described(each, models) for each in of))
            for row, of in zip(found, grants, strict=True)
        ]

    return await _written(url, lines)


async def revoke(url: str, prefix: str) -> str:
    """End the token that begins so; the service that it was of. Raises NotFound, and InvalidInput
    where several begin so."""

    async def ended(session: WriteSession) -> str:
        rows = await session.scalars(
            select(ApiTokenRow).where(
                ApiTokenRow.prefix == prefix, ApiTokenRow.revoked_at.is_(None)
            )
        )
        found = rows.all()
        if not found:
            raise NotFound("API token", f"that begins with {prefix}")
        if len(found) > 1:
            raise InvalidInput("Several tokens begin so; use the mutation revokeApiToken.")
        row = await service.revoke_token(session, _origin(), RevokeApiToken(id=found[0].id))
        return row.name

    return await _written(url, ended)


def _origin() -> Origin:
    return Origin.system(ACTOR, str(uuid7()))


async def _written(url: str, use_case: Callable[[WriteSession], Awaitable[Result]]) -> Result:
    database = Database(url)
    try:
        return await database.write(use_case)
    finally:
        await database.close()


def _line(row: ApiTokenRow, rights: str) -> str:
    used = f"used {row.last_used_at:%Y-%m-%d %H:%M}" if row.last_used_at else "never used"
    return (
        f"{row.prefix}…  service:{row.name}  {rights}  until {row.expires_at:%Y-%m-%d}, {used}, "
        f"made by {row.created_by}"
    )


def _described(grant: Grant, models: dict[Any, Any]) -> str:
    parts = [str(grant.role)]
    if grant.model_id is not None:
        parts.append(f"of {models[grant.model_id].name}")
    for names in (grant.stages, grant.environments):
        if names is not None:
            parts.append(f"for {', '.join(sorted(names))}")
    return " ".join(parts)
