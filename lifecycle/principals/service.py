"""What administrators do about who may do what. Each function is one use case in its caller's
transaction. Whoever administrates one model alone gives and takes rights to that model alone, and
does not say who approves: they could let in under two names what one person wants."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from uuid_utils.compat import uuid7

from lifecycle.access.origin import Origin, check
from lifecycle.access.rules import (
    GROUP,
    OF_ENVIRONMENTS,
    OF_STAGES,
    Action,
    Grant,
    Role,
    known_as,
)
from lifecycle.commands import Command, DistinctName, Moment, Name
from lifecycle.database import WriteSession, clock
from lifecycle.deployments.rules import Environment
from lifecycle.errors import AlreadyExists, InvalidInput, NotFound, Path
from lifecycle.journal import service as journal
from lifecycle.principals import repository, rules
from lifecycle.principals.tables import ApiTokenRow, RoleGrantRow
from lifecycle.registry import repository as registry
from lifecycle.registry.rules import Stage

MAX_GRANTS = 100
TOKEN_DAYS = 90
MOST_TOKEN_DAYS = 366


class NewGrant(BaseModel):
    """A role for one model, or for everything; which stages and environments it is narrowed to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    model_name: Name | None = None
    stages: Annotated[list[Stage], Field(min_length=1, max_length=len(Stage))] | None = None
    environments: (
        Annotated[list[Environment], Field(min_length=1, max_length=len(Environment))] | None
    ) = None

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.stages is not None and self.role not in OF_STAGES:
            raise ValueError(f"{self.role} moves no versions, so it takes no stages")
        if self.environments is not None and self.role not in OF_ENVIRONMENTS:
            raise ValueError(f"{self.role} deploys nothing, so it takes no environments")
        return self

    def stored(self, model_id: UUID | None) -> dict[str, Any]:
        """What there is to keep of it."""
        return {
            "role": self.role,
            "model_id": model_id,
            "stages": None if self.stages is None else sorted(set(self.stages)),
            "environments": None if self.environments is None else sorted(set(self.environments)),
        }


def _subject(value: str) -> str:
    if not rules.is_name(value.removeprefix(GROUP)):
        raise ValueError("must be a person's name, or group: and the name of a group")
    return known_as(value)


def _service(value: str) -> str:
    if not rules.is_name(value):
        raise ValueError("must be a short line, and not begin with system:, service: or group:")
    return value


class GrantRole(Command):
    """A role for a person or a group, in place of what they had of this role there."""

    subject: Annotated[Name, AfterValidator(_subject)]
    grant: NewGrant


class RevokeRole(Command):
    """The end of a grant."""

    id: UUID


class CreateApiToken(Command):
    """A token for a service, with all that it may do."""

    name: Annotated[DistinctName, AfterValidator(_service)]
    grants: Annotated[list[NewGrant], Field(min_length=1, max_length=MAX_GRANTS)]
    expires_at: Moment | None = None


class RevokeApiToken(Command):
    """The end of a token."""

    id: UUID


async def grant(session: WriteSession, origin: Origin, command: GrantRole) -> RoleGrantRow:
    """Give a role; what was granted of it before, with other stages or environments, is revoked.
    Granting the same again changes nothing. Raises NotFound, Forbidden."""
    [model_id] = await _models(session, [command.grant], ("grant",))
    _check(origin, command.grant, model_id, "grant this role")
    await repository.hold(session, command.subject)
    wanted = command.grant.stored(model_id)
    found = await repository.lock_in_force(session, command.subject, command.grant.role, model_id)
    if found is not None:
        if wanted == {name: getattr(found, name) for name in wanted}:
            return found
        await _revoke(session, origin, found, "role_grant.revoked", _said(found))
    row = RoleGrantRow(subject=command.subject, **wanted, created_by=origin.actor)
    session.add(row)
    await session.flush()
    await journal.append(session, origin, "role_grant.granted", row.id, after=_said(row))
    return row


async def revoke(session: WriteSession, origin: Origin, command: RevokeRole) -> RoleGrantRow:
    """End a grant; once it has ended, doing it again changes nothing. Raises NotFound,
    Forbidden."""
    row = await repository.lock_grant(session, command.id)
    if row is None:
        raise NotFound("role grant", "with this id")
    check(origin, Action.ADMINISTER, row.model_id, what="revoke this role")
    if row.revoked_at is None:
        await _revoke(session, origin, row, "role_grant.revoked", _said(row))
    return row


async def create_token(
    session: WriteSession, origin: Origin, command: CreateApiToken
) -> ApiTokenRow:
    """Make a token. Its secret is on the row that is returned, and never seen again.

    A service may have several tokens, one after the other or at the same time. Raises NotFound,
    Forbidden for whoever may not give each of the rights, InvalidInput, also for a name that they
    may not give, and AlreadyExists when the service is somebody else's.
    """
    models = await _models(session, command.grants, ("grants",))
    for each, model_id in zip(command.grants, models, strict=True):
        _check(origin, each, model_id, "create a token with these rights")
    now = await clock(session)
    expires_at = _expiry(command, now)
    await repository.hold(session, command.name)
    if not origin.administrator:
        await _check_name(session, origin, command)
    secret = rules.new_secret()
    row = ApiTokenRow(
        id=uuid7(),
        name=command.name,
        prefix=secret.prefix,
        digest=secret.digest,
        grants=[
            each.stored(model_id) for each, model_id in zip(command.grants, models, strict=True)
        ],
        expires_at=expires_at,
        created_by=origin.actor,
        created_at=now,
    )
    session.add(row)
    await session.flush()
    # Of this object alone, and of no column.
    vars(row)["secret"] = secret.token
    await journal.append(session, origin, "api_token.created", row.id, after=_shown(row))
    return row


async def revoke_token(
    session: WriteSession, origin: Origin, command: RevokeApiToken
) -> ApiTokenRow:
    """End a token; once it has ended, doing it again changes nothing. Raises NotFound,
    Forbidden."""
    row = await repository.lock_token(session, command.id)
    if row is None:
        raise NotFound("API token", "with this id")
    for given in row.grants:
        model_id = rules.grant_of(given).model_id
        check(origin, Action.ADMINISTER, model_id, what="revoke this token")
    if row.revoked_at is None:
        await _revoke(session, origin, row, "api_token.revoked", _shown(row))
    return row


def _check(origin: Origin, given: NewGrant, model_id: UUID | None, what: str) -> None:
    """Raise Forbidden unless they may give this right."""
    check(origin, Action.ADMINISTER, model_id, what=what)
    if Grant(given.role).covers(Action.DECIDE, None, None, None):
        check(origin, Action.ADMINISTER, what="say who approves, with a role for one model")


async def _check_name(session: WriteSession, origin: Origin, command: CreateApiToken) -> None:
    """Raise InvalidInput or AlreadyExists unless whoever does not administrate everything may have
    a service of this name: one of a model that the token is for, or one that is theirs already.

    Whichever of two makes the first token, both services would be one actor; and who is told that
    a name is taken has learned that there is such a service.
    """
    with session.seeing_everything():
        makers = await repository.makers(session, command.name)
    # By the last slash: what is called by a model "a/b" is not for who administrates "a".
    model, _, name = command.name.rpartition("/")
    models = [each.model_name for each in command.grants]
    if origin.actor not in makers and not (name and model in models):
        raise InvalidInput(
            f"Call it {models[0]}/NAME, by a model that the token is for, with no slash in NAME: "
            "who administrates everything gives other names.",
            ("name",),
        )
    if makers - {origin.actor}:
        raise AlreadyExists(f"There is a service {command.name} already.", ("name",))


async def _models(
    session: WriteSession, grants: Sequence[NewGrant], path: Path
) -> list[UUID | None]:
    """The model of each grant. Raises NotFound."""
    names = [each.model_name for each in grants if each.model_name is not None]
    found = await registry.models_by_names(session, names) if names else {}
    for n, each in enumerate(grants):
        if each.model_name is not None and each.model_name not in found:
            where = (*path, n) if len(path) == 1 and path[0] == "grants" else path
            raise NotFound("model", each.model_name, (*where, "model_name"))
    return [found[each.model_name].id if each.model_name else None for each in grants]


def _expiry(command: CreateApiToken, now: datetime) -> datetime:
    if command.expires_at is None:
        return now + timedelta(days=TOKEN_DAYS)
    if not now < command.expires_at <= now + timedelta(days=MOST_TOKEN_DAYS):
        raise InvalidInput(
            f"A token expires in the future, at most {MOST_TOKEN_DAYS} days from now.",
            ("expires_at",),
        )
    return command.expires_at


async def _revoke(
    session: WriteSession,
    origin: Origin,
    row: RoleGrantRow | ApiTokenRow,
    type: str,
    said: dict[str, Any],
) -> None:
    row.revoked_at, row.revoked_by = await clock(session), origin.actor
    await session.flush()
    await journal.append(session, origin, type, row.id, before=said)


def _said(row: RoleGrantRow) -> dict[str, Any]:
    """A grant for the journal."""
    fields = ("subject", "role", "model_id", "stages", "environments")
    return {field: getattr(row, field) for field in fields}


def _shown(row: ApiTokenRow) -> dict[str, Any]:
    """A token for the journal: what it may do, and nothing by which it could be used or found."""
    return {field: getattr(row, field) for field in ("name", "prefix", "grants", "expires_at")}
