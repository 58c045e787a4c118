"""Who may do what, as clients see it: who they are, what they could do, grants and API tokens."""

from collections.abc import Hashable, Iterable
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import strawberry
from strawberry import Private

import schema.registry
from lifecycle.access.origin import check
from lifecycle.access.rules import SERVICE, Action, Grant, Role, known_as
from lifecycle.deployments.rules import Environment
from lifecycle.pages import PageRequest
from lifecycle.principals import repository, rules, service
from lifecycle.principals.repository import GrantFilter, TokenFilter
from lifecycle.principals.tables import ApiTokenRow, RoleGrantRow
from lifecycle.registry import repository as registry
from lifecycle.registry.rules import Stage
from schema import ids
from schema.context import Info
from schema.errors import AlreadyExists, IdempotencyConflict, InvalidInput, NotFound, Unavailable
from schema.inputs import Given, WriteInput, parse
from schema.pagination import After, Before, Connection, First, Last, listed
from schema.rows import OfRow, shown

if TYPE_CHECKING:
    from schema.registry import Model


@strawberry.enum(description="How somebody is known: people sign in, services have API tokens.")
class ViewerKind(StrEnum):
    PERSON = "PERSON"
    SERVICE = "SERVICE"


@strawberry.type(name="Grant", description="A role, and what it is for.")
class GrantType:
    given: Private[Grant]
    role: Role = strawberry.field(description="The role.")
    stages: list[Stage] | None = strawberry.field(
        description="Between which stages it moves versions; null for those that are the role's: a "
        "CONTRIBUTOR's are all but PRODUCTION, an APPROVER's all, a DEPLOYER's none."
    )
    environments: list[Environment] | None = strawberry.field(
        description="Where it deploys; null for everywhere."
    )

    @strawberry.field(description="The one model that it is for; null if it is for everything.")
    async def model(
        self, info: Info
    ) -> Annotated["Model", strawberry.lazy("schema.registry")] | None:
        if self.given.model_id is None:
            return None
        row = await info.context.loaders.load(registry.models_by_ids, self.given.model_id)
        return schema.registry.Model.from_row(row) if row else None

    @classmethod
    def of(cls, given: Grant) -> "GrantType":
        """As clients see it."""
        return cls(
            given=given,
            role=given.role,
            stages=None if given.stages is None else list(map(Stage, sorted(given.stages))),
            environments=None
            if given.environments is None
            else list(map(Environment, sorted(given.environments))),
        )


def _in_order(grants: Iterable[Grant]) -> list[GrantType]:
    def place(grant: Grant) -> tuple[int, str]:
        return list(Role).index(grant.role), str(grant.model_id or "")

    return [GrantType.of(grant) for grant in sorted(grants, key=place)]


@strawberry.type(
    description="What your rights allow you to do to a model and its versions. The state of a "
    "version, its policy, and that nobody approves what is their own, can still forbid it."
)
class ModelRights:
    register: bool = strawberry.field(description="Register versions.")
    change: bool = strawberry.field(
        description="Change the model and its versions, submit and delete versions."
    )
    review: bool = strawberry.field(
        description="Have versions validated, add to their checklists, withdraw submissions."
    )
    decide: bool = strawberry.field(
        description="Decide about approvals and items of checklists, but for a BYPASS."
    )
    administrate: bool = strawberry.field(
        description="Set the model's policies, go past them, and grant those roles for it that do "
        "not approve."
    )
    report_drift: bool = strawberry.field(description="Record drift, where you deploy.")
    handle_drift: bool = strawberry.field(
        description="Say what becomes of drift; whoever does so as a DEPLOYER, where they deploy."
    )
    move_to: list[Stage] = strawberry.field(
        description="Move versions to these stages. Who may not move to PRODUCTION does not move "
        "the version that is there either."
    )
    deploy_to: list[Environment] = strawberry.field(
        description="Make, change and end deployments in these environments."
    )


@strawberry.type(description="What your rights allow you to do to what belongs to no model.")
class GlobalRights:
    log: bool = strawberry.field(description="Make and change experiments, runs and artifacts.")
    register: bool = strawberry.field(description="Register the first version of a model.")
    sync: bool = strawberry.field(description="Say what becomes of what MLflow has, too.")
    administrate: bool = strawberry.field(
        description="Set general policies, grant roles, make API tokens: everything."
    )


@strawberry.type(description="Whoever asks.")
class Viewer:
    name: str = strawberry.field(description="As in `actor` and `createdBy`.")
    kind: ViewerKind = strawberry.field(description="Person or service.")
    grants: list[GrantType] = strawberry.field(
        description="All that was granted to them, also through groups."
    )
    can: GlobalRights = strawberry.field(
        description="What that allows; for models see `viewerCan` on them."
    )


def rights_on(info: Info, model_id: UUID, stage: Stage | None = None) -> ModelRights:
    """What whoever asks may do to a model, or to a version of it that is in this stage."""
    known: dict[Hashable, ModelRights] = info.context.model_rights
    if (model_id, stage) not in known:
        known[model_id, stage] = _rights_on(info, model_id, stage)
    return known[model_id, stage]


def _rights_on(info: Info, model_id: UUID, stage: Stage | None) -> ModelRights:
    may = info.context.origin.rights.may
    movable = [each for each in Stage if may(Action.MOVE, model_id, stage=each)]
    if stage is Stage.PRODUCTION and stage not in movable:
        movable = []
    return ModelRights(
        register=may(Action.REGISTER, model_id),
        change=may(Action.CHANGE, model_id),
        review=may(Action.REVIEW, model_id),
        decide=may(Action.DECIDE, model_id),
        administrate=may(Action.ADMINISTER, model_id),
        report_drift=may(Action.REPORT_DRIFT, model_id),
        handle_drift=may(Action.HANDLE_DRIFT, model_id),
        move_to=movable,
        deploy_to=[e for e in Environment if may(Action.DEPLOY, model_id, environment=e)],
    )


@strawberry.type(description="A role that was given to a person, or to all in a group.")
class RoleGrant(OfRow[RoleGrantRow]):
    row: Private[RoleGrantRow]
    id: strawberry.ID = shown(
        lambda row: ids.encode("RoleGrant", row.id), description="For revokeRole."
    )
    subject: str = shown(description="A person's name, or group: and the name of a group.")
    grant: GrantType = shown(
        lambda row: GrantType.of(rules.grant_from(row)), description="What was given."
    )
    created_by: str = shown(description="Who gave it.")
    created_at: datetime = shown(description="When that was.")
    revoked_by: str | None = shown(description="Who took it back.")
    revoked_at: datetime | None = shown(description="When that was; null while it holds.")


@strawberry.type(
    description="By what a service proves who it is. The token itself is kept nowhere."
)
class ApiToken(OfRow[ApiTokenRow]):
    row: Private[ApiTokenRow]
    id: strawberry.ID = shown(
        lambda row: ids.encode("ApiToken", row.id), description="For revokeApiToken."
    )
    name: str = shown(description="The service. Elsewhere its name is service: and this.")
    prefix: str = shown(description="How the token begins, to tell it from others.")
    created_by: str = shown(description="Who made it.")
    created_at: datetime = shown(description="When that was.")
    expires_at: datetime = shown(description="Until when it can be used.")
    last_used_at: datetime | None = shown(description="When it was last used, to some minutes.")
    revoked_by: str | None = shown(description="Who revoked it.")
    revoked_at: datetime | None = shown(description="When that was.")

    @strawberry.field(description="All that it may do, as far as you see the models.")
    def grants(self, info: Info) -> list[GrantType]:
        visible = info.context.origin.visible_models
        given = map(rules.grant_of, self.row.grants)
        # Without its model a grant would be one for everything.
        return _in_order(
            each
            for each in given
            if each.model_id is None or visible is None or each.model_id in visible
        )


@strawberry.input(description="A role, and what it is for.")
class GrantInput:
    role: Role = strawberry.field(description="The role.")
    model_name: str | None = strawberry.field(
        default=None, description="The one model that it is for; without it, everything."
    )
    stages: list[Stage] | None = strawberry.field(
        default=None,
        description="Between which stages it moves versions, for CONTRIBUTOR, APPROVER and "
        "DEPLOYER; see `Grant.stages`.",
    )
    environments: list[Environment] | None = strawberry.field(
        default=None, description="Where it deploys, for DEPLOYER; by default everywhere."
    )


@strawberry.input(description="A role for somebody.")
class GrantRoleInput(WriteInput):
    subject: str = strawberry.field(
        description="A person's name as `me` shows it, in any case, or group: and the name of a "
        "group, exactly."
    )
    grant: GrantInput = strawberry.field(description="What they are given.")


@strawberry.input(description="A grant that is to end.")
class RevokeRoleInput(WriteInput):
    id: strawberry.ID = strawberry.field(description="Which grant.")


@strawberry.input(description="A new token for a service.")
class CreateApiTokenInput(WriteInput):
    name: str = strawberry.field(
        description="The service. It may have several tokens, to go from one to the next. Who does "
        "not administrate everything calls it MODEL/NAME, by a model that the token is for, with "
        "no slash in NAME."
    )
    grants: list[GrantInput] = strawberry.field(
        description="All that the token may do: at most what you could grant."
    )
    expires_at: datetime | None = strawberry.field(
        default=None,
        description="Until when it can be used, at most 366 days from now; by default 90 days.",
    )


@strawberry.input(description="A token that is to end.")
class RevokeApiTokenInput(WriteInput):
    id: strawberry.ID = strawberry.field(description="Which token.")


@strawberry.input(name="RoleGrantFilter", description="What is left out does not restrict.")
class RoleGrantFilterInput:
    subject: str | None = strawberry.field(default=None, description="Of exactly this subject.")
    revoked: bool = strawberry.field(default=False, description="Also those that were revoked.")


@strawberry.input(name="ApiTokenFilter", description="What is left out does not restrict.")
class ApiTokenFilterInput:
    name: str | None = strawberry.field(default=None, description="Of exactly this service.")
    created_by: str | None = strawberry.field(
        default=None, description="Made by exactly this principal, who may have left since."
    )
    revoked: bool = strawberry.field(default=False, description="Also those that were revoked.")


@strawberry.type(description="The role was given, or had been.")
class GrantRoleSuccess:
    role_grant: RoleGrant = strawberry.field(description="The grant.")


@strawberry.type(description="The grant holds no more.")
class RevokeRoleSuccess:
    role_grant: RoleGrant = strawberry.field(description="The grant.")


@strawberry.type(description="The token can be used.")
class CreateApiTokenSuccess:
    api_token: ApiToken = strawberry.field(description="What is known of it.")
    token: str | None = strawberry.field(
        description="The token itself, this one time. Null where the call is repeated with its "
        "idempotency key: who did not get the token revokes it, and makes another."
    )


@strawberry.type(description="The token cannot be used any more.")
class RevokeApiTokenSuccess:
    api_token: ApiToken = strawberry.field(description="What is known of it.")


GrantRoleResult = Annotated[
    GrantRoleSuccess | NotFound | InvalidInput | IdempotencyConflict | Unavailable,
    strawberry.union("GrantRoleResult", description="What came of grantRole."),
]
RevokeRoleResult = Annotated[
    RevokeRoleSuccess | NotFound | InvalidInput | IdempotencyConflict | Unavailable,
    strawberry.union("RevokeRoleResult", description="What came of revokeRole."),
]
CreateApiTokenResult = Annotated[
    CreateApiTokenSuccess
    | AlreadyExists
    | NotFound
    | InvalidInput
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("CreateApiTokenResult", description="What came of createApiToken."),
]
RevokeApiTokenResult = Annotated[
    RevokeApiTokenSuccess | NotFound | InvalidInput | IdempotencyConflict | Unavailable,
    strawberry.union("RevokeApiTokenResult", description="What came of revokeApiToken."),
]


@strawberry.type
class AccessQueries:
    @strawberry.field(description="Who you are, and what you may do.")
    def me(self, info: Info) -> Viewer:
        origin = info.context.origin
        may = origin.rights.may
        service = origin.actor.startswith(SERVICE)
        return Viewer(
            name=origin.actor,
            kind=ViewerKind.SERVICE if service else ViewerKind.PERSON,
            grants=_in_order(origin.rights.grants),
            can=GlobalRights(
                log=may(Action.LOG),
                register=may(Action.REGISTER),
                sync=may(Action.SYNC),
                administrate=may(Action.ADMINISTER),
            ),
        )

    @strawberry.field(description="Who has been given which role, newest first; for ADMIN.")
    async def role_grants(
        self,
        info: Info,
        filter: Annotated[
            RoleGrantFilterInput | None, strawberry.argument(description="Which of them.")
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[RoleGrant]:
        check(info.context.origin, Action.ADMINISTER, what="see who may do what")
        request = PageRequest.parse(first, after, last, before)
        given = filter or RoleGrantFilterInput()
        wanted = GrantFilter(given.subject and known_as(given.subject), given.revoked)
        return await listed(
            info,
            RoleGrant.from_row,
            lambda session: repository.page_of_grants(session, wanted, request),
            lambda session: repository.count_of_grants(session, wanted),
        )

    @strawberry.field(description="The API tokens that there are, newest first; for ADMIN.")
    async def api_tokens(
        self,
        info: Info,
        filter: Annotated[
            ApiTokenFilterInput | None, strawberry.argument(description="Which of them.")
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[ApiToken]:
        check(info.context.origin, Action.ADMINISTER, what="see the API tokens")
        request = PageRequest.parse(first, after, last, before)
        given = filter or ApiTokenFilterInput()
        wanted = TokenFilter(
            given.name, given.created_by and known_as(given.created_by), given.revoked
        )
        return await listed(
            info,
            ApiToken.from_row,
            lambda session: repository.page_of_tokens(session, wanted, request),
            lambda session: repository.count_of_tokens(session, wanted),
        )


@strawberry.type
class AccessMutations:
    @strawberry.mutation(
        description="Give a role to a person or a group, for administrators: in place of what they "
        "had of this role, for the same model. APPROVER and ADMIN are given by who administrates "
        "everything. Everybody's rights follow within seconds."
    )
    async def grant_role(self, info: Info, input: Given[GrantRoleInput]) -> GrantRoleResult:
        row = await info.context.write(service.grant, parse(service.GrantRole, input))
        return GrantRoleSuccess(role_grant=RoleGrant.from_row(row))

    @strawberry.mutation(description="Take a role back, for administrators.")
    async def revoke_role(self, info: Info, input: Given[RevokeRoleInput]) -> RevokeRoleResult:
        command = parse(service.RevokeRole, input, id="RoleGrant")
        row = await info.context.write(service.revoke, command)
        return RevokeRoleSuccess(role_grant=RoleGrant.from_row(row))

    @strawberry.mutation(
        description="Make a token for a service, for administrators. It is shown once; it is sent "
        "as `Authorization: Bearer …`, or over a websocket as `authorization` in the payload of "
        "connection_init."
    )
    async def create_api_token(
        self, info: Info, input: Given[CreateApiTokenInput]
    ) -> CreateApiTokenResult:
        row = await info.context.write(service.create_token, parse(service.CreateApiToken, input))
        return CreateApiTokenSuccess(api_token=ApiToken.from_row(row), token=row.secret)

    @strawberry.mutation(
        description="End a token, for administrators. What it has open ends within seconds."
    )
    async def revoke_api_token(
        self, info: Info, input: Given[RevokeApiTokenInput]
    ) -> RevokeApiTokenResult:
        command = parse(service.RevokeApiToken, input, id="ApiToken")
        row = await info.context.write(service.revoke_token, command)
        return RevokeApiTokenSuccess(api_token=ApiToken.from_row(row))
