"""Who may do what. The whole policy is the table below.

Not here: how somebody proves who they are, where rights are kept (`lifecycle.principals`), and
which rows exist for them (`visibility`). Stages and environments are plain text here: this module
lies below the nouns that say which there are.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from unicodedata import normalize
from uuid import UUID


class Role(StrEnum):
    """What somebody is there for."""

    VIEWER = "VIEWER"
    CONTRIBUTOR = "CONTRIBUTOR"
    APPROVER = "APPROVER"
    DEPLOYER = "DEPLOYER"
    ADMIN = "ADMIN"


class Action(StrEnum):
    """What somebody may do; the value completes "may not"."""

    LOG = "change experiments and runs"
    REGISTER = "register versions of this model"
    CHANGE = "change this model and its versions"
    REVIEW = "work on reviews of this model's versions"
    DECIDE = "decide about versions of this model"
    MOVE = "move versions of this model"
    DEPLOY = "deploy this model"
    REPORT_DRIFT = "report drift of this model"
    HANDLE_DRIFT = "say what becomes of drift of this model"
    SYNC = "say what becomes of MLflow's objects"
    ADMINISTER = "administrate"


_VIEWER, _CONTRIBUTOR, _APPROVER, _DEPLOYER, _ADMIN = Role

# ADMIN may do everything. Everybody sees what their grants are about.
#
# LOG and SYNC, and to REGISTER the first version of a model, are about no model: that takes a role
# for everything. CHANGE includes submitting and deleting versions; REVIEW is to validate, to add to
# the checklist, to take a submission back; DECIDE is about approvals and items of the checklist.
# MOVE is about a stage: into it, or out of it where that is PRODUCTION. DEPLOY is about an
# environment: to make a deployment there, to report on it, to end it, to roll it back. So are
# REPORT_DRIFT, because a policy may have that rolled back, and HANDLE_DRIFT. What drift does to the
# approval of a version in PRODUCTION takes REPORT_DRIFT there, wherever it was seen.
POLICY: dict[Action, frozenset[Role]] = {
    Action.LOG: frozenset({_CONTRIBUTOR}),
    Action.REGISTER: frozenset({_CONTRIBUTOR}),
    Action.CHANGE: frozenset({_CONTRIBUTOR}),
    Action.REVIEW: frozenset({_CONTRIBUTOR, _APPROVER}),
    Action.DECIDE: frozenset({_APPROVER}),
    Action.MOVE: frozenset({_CONTRIBUTOR, _APPROVER, _DEPLOYER}),
    Action.DEPLOY: frozenset({_DEPLOYER}),
    Action.REPORT_DRIFT: frozenset({_DEPLOYER}),
    Action.HANDLE_DRIFT: frozenset({_APPROVER, _DEPLOYER}),
    Action.SYNC: frozenset({_CONTRIBUTOR}),
    Action.ADMINISTER: frozenset(),
}

PRODUCTION = "PRODUCTION"
# The roles whose grants may name stages, or environments.
OF_STAGES = POLICY[Action.MOVE]
OF_ENVIRONMENTS = POLICY[Action.DEPLOY]


@dataclass(frozen=True, slots=True)
class Grant:
    """A role for one model, or for everything where `model_id` is None.

    `stages` says between which it moves versions. Without that a CONTRIBUTOR moves them to all but
    PRODUCTION, an APPROVER to all, a DEPLOYER to none. `environments` says where a DEPLOYER
    deploys; without that it is all.
    """

    role: Role
    model_id: UUID | None = None
    stages: frozenset[str] | None = None
    environments: frozenset[str] | None = None

    def covers(
        self, action: Action, model_id: UUID | None, stage: str | None, environment: str | None
    ) -> bool:
        """Whether it allows this. None as a model means what belongs to none."""
        if self.model_id is not None and self.model_id != model_id:
            return False
        if self.role is Role.ADMIN:
            return True
        if self.role not in POLICY[action]:
            return False
        if action is Action.MOVE and not self._moves_to(stage):
            return False
        return environment is None or self.environments is None or environment in self.environments

    def _moves_to(self, stage: str | None) -> bool:
        if self.stages is not None:
            return stage in self.stages
        if self.role is Role.CONTRIBUTOR:
            return stage != PRODUCTION
        return self.role is Role.APPROVER


@dataclass(frozen=True)
class Rights:
    """All that somebody has been granted."""

    grants: frozenset[Grant] = frozenset()

    def may(
        self,
        action: Action,
        model_id: UUID | None = None,
        *,
        stage: str | None = None,
        environment: str | None = None,
    ) -> bool:
        """Whether they may do this to a model, or, without one, to what belongs to none."""
        return any(grant.covers(action, model_id, stage, environment) for grant in self.grants)

    @cached_property
    def visible_models(self) -> frozenset[UUID] | None:
        """The models that exist for them; None if all do."""
        models = frozenset(grant.model_id for grant in self.grants)
        return None if None in models else models  # type: ignore[return-value]


def _globally(*roles: Role) -> Rights:
    return Rights(frozenset(Grant(role) for role in roles))


NOTHING = Rights()
EVERYTHING = _globally(Role.ADMIN)
# Of those who need not prove who they are.
UNPROVEN = _globally(Role.CONTRIBUTOR, Role.APPROVER, Role.DEPLOYER)


def missing(action: Action, *, stage: str | None = None, environment: str | None = None) -> str:
    """Which role it takes, for who does not have it."""
    roles = [role for role in Role if role in POLICY[action] or role is Role.ADMIN]
    if action is Action.MOVE and stage == PRODUCTION:
        roles.remove(Role.CONTRIBUTOR)
    where = f" for {stage or environment}" if stage or environment else ""
    return f"that takes the role {' or '.join(roles)}{where}."


# How names begin that are nobody's to choose: of what the service does by itself, of those who
# sign in with an API token, and, where grants are given, of groups of people.
SYSTEM, SERVICE, GROUP = "system:", "service:", "group:"
_LONGEST_NAME = 250


def known_as(name: str) -> str:
    """The name under which somebody is known here, whichever way they write it: those of people
    are without case, because most identity providers take them so, and one person must not be two.
    Those of services and groups stand as they are."""
    # What is that long is nobody's name, and would take `normalize` as long as its length squared.
    if len(name) > _LONGEST_NAME or name.startswith((SYSTEM, SERVICE, GROUP)):
        return name
    # Not `casefold`, to which a German sharp s is two: two people must not be one either.
    name = name.lower()
    return name if name.isascii() else normalize("NFC", name)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. `name` is what the journal says; after `expires_at` they have to prove it anew."""

    name: str
    rights: Rights
    expires_at: datetime | None = None
