"""The domain's enums as clients see them: which names they have, and what they mean.

Imported before every other module of this package, because Strawberry wants to know an enum before
it meets it in a type.
"""

import strawberry

from lifecycle.access.rules import Role
from lifecycle.deployments.repository import DeploymentOrderField
from lifecycle.deployments.rules import DeploymentStatus, Environment, HealthStatus
from lifecycle.drift.rules import (
    DegradationFigure,
    DegradationLimit,
    DriftAction,
    DriftOutcome,
    DriftStatus,
)
from lifecycle.experiments.repository import ExperimentOrderField
from lifecycle.experiments.rules import ExperimentStatus
from lifecycle.lineage.rules import LineageDirection, LineageKind
from lifecycle.promotion.gates import CheckSeverity, RuleKind
from lifecycle.promotion.rules import ChecklistStatus, Decision, StageCause
from lifecycle.registry.repository import VersionOrderField
from lifecycle.registry.rules import ApprovalStatus, DriftSeverity, Stage
from lifecycle.runs.repository import RunOrderField
from lifecycle.runs.rules import ArtifactArea, MetricGoal, RunStatus
from lifecycle.runs.service import NumberKind
from lifecycle.tracking.rules import Resolution, TrackedKind

strawberry.enum(
    Role,
    description="VIEWER sees. CONTRIBUTOR makes and changes experiments, runs and versions, "
    "submits versions, and moves them to all stages but PRODUCTION. APPROVER decides about "
    "approvals and checklists, and moves versions to all stages. DEPLOYER makes and changes "
    "deployments, and reports drift. ADMIN does everything, policies, grants and tokens included. "
    "Everybody sees what their roles are for. Experiments, runs and data sets belong to no model: "
    "to change them takes a role for everything.",
)
strawberry.enum(
    ExperimentStatus,
    description="ACTIVE takes runs. ACTIVE → COMPLETED | ARCHIVED; COMPLETED → ACTIVE | ARCHIVED; "
    "ARCHIVED → ACTIVE.",
)
strawberry.enum(ExperimentOrderField, description="What experiments can be ordered by.")
strawberry.enum(
    RunStatus,
    description="PENDING → RUNNING | CANCELLED | FAILED; RUNNING → COMPLETED | FAILED | CANCELLED "
    "| LOST; LOST → RUNNING. A run is LOST when its writer was silent for longer than its lease, "
    "and RUNNING again with the next report.",
)
strawberry.enum(RunOrderField, description="What runs can be ordered by.")
strawberry.enum(
    ArtifactArea,
    description="Where content is kept. INTERNAL is for what the organisation makes: models, "
    "checkpoints, schemas. EXTERNAL is for what it works on: data sets, inference data.",
)
strawberry.enum(MetricGoal, description="Whether more or less of a metric is better.")
strawberry.enum(
    NumberKind, description="What a number is; those that are not FINITE have no value in JSON."
)
strawberry.enum(
    Stage,
    description="EXPERIMENTAL → STAGING | ARCHIVED; STAGING → PRODUCTION | EXPERIMENTAL | "
    "ARCHIVED; PRODUCTION → STAGING | ARCHIVED; ARCHIVED → EXPERIMENTAL | STAGING. At most one "
    "version of a model is in PRODUCTION.",
)
strawberry.enum(
    VersionOrderField, name="ModelVersionOrderField", description="What versions can be ordered by."
)
strawberry.enum(
    StageCause,
    description="Why a version came into a stage: it was REGISTERED; somebody REQUESTED it; it was "
    "APPROVED; it was BYPASSED past its policy; another version DISPLACED it; a deployment was "
    "ROLLED_BACK. AUTOMATION is not used yet.",
)
strawberry.enum(
    ApprovalStatus,
    description="PENDING waits for people; NEEDS_REVIEW too, because the automatic decision has "
    "found something to look at; APPROVED and BYPASSED, past the policy by an administrator, let a "
    "version into production; STALE was one of these four until what it was for has changed.",
)
strawberry.enum(
    Decision,
    description="APPROVE needs somebody who neither registered nor submitted the version; BYPASS "
    "needs an administrator and notes.",
)
strawberry.enum(RuleKind, description="What kind of rule it is; see PolicyRuleInput.")
strawberry.enum(CheckSeverity, description="Only what is BLOCKING stands in the way.")
strawberry.enum(ChecklistStatus, description="What was decided about an item, if anything.")
strawberry.enum(
    Environment,
    description="Where a deployment runs. PRODUCTION takes versions in stage PRODUCTION, STAGING "
    "those in STAGING or PRODUCTION, DEVELOPMENT any.",
)
strawberry.enum(HealthStatus, description="What was last reported of a deployment's health.")
strawberry.enum(
    DeploymentStatus,
    description="PENDING → VALIDATING | FAILED | TERMINATED; VALIDATING → DEPLOYING | FAILED | "
    "TERMINATED; DEPLOYING → ACTIVE | FAILED | TERMINATED; ACTIVE → ROLLBACK | FAILED | "
    "TERMINATED; FAILED → ROLLBACK | TERMINATED; ROLLBACK → TERMINATED, which is final.",
)
strawberry.enum(DeploymentOrderField, description="What deployments can be ordered by.")
strawberry.enum(DriftSeverity, description="How bad it is.")
strawberry.enum(
    DriftStatus,
    description="OPEN → ACKNOWLEDGED | MITIGATED | RESOLVED | FALSE_POSITIVE; ACKNOWLEDGED → "
    "MITIGATED | RESOLVED | FALSE_POSITIVE; MITIGATED → RESOLVED | FALSE_POSITIVE; the last two "
    "are final.",
)
strawberry.enum(
    LineageDirection,
    description="UPSTREAM is what an object came from, DOWNSTREAM what came of it. BOTH is the one "
    "and the other, not all that is connected: what else came of that from which the object came "
    "is left out.",
)
strawberry.enum(
    LineageKind,
    description="How one object led to another. An experiment CONTAINS a run; a data set was "
    "USED_BY a run; a run is PARENT_OF its parts; a run PRODUCED a version; a version was "
    "DEPLOYED_AS a deployment; a deployment was ROLLED_BACK_TO the one that replaced it, from "
    "which only further rollbacks are followed; a version or a deployment SHOWED drift.",
)
strawberry.enum(
    DriftAction,
    description="What a policy can have done about drift. MARK_STALE: the version's approval no "
    "longer counts. OPEN_REVIEW: people are asked to decide on it again. ROLL_BACK: the deployment "
    "that the event names, or else the version's live one in PRODUCTION, makes way for the last "
    "good one.",
)
strawberry.enum(
    DriftOutcome,
    description="What came of a response. FAILED has changed nothing; its message says why.",
)
strawberry.enum(
    DegradationFigure,
    description="A figure that deployments report. OBSERVED is the one among `observed` that has "
    "the rule's metric as its key.",
)
strawberry.enum(
    DegradationLimit,
    description="How the limit follows from the version's own metric: at most so many times it, at "
    "most so much more, or at most so much less. MAX_VALUE is a limit of its own. A figure that is "
    "exactly at its limit is not degraded; where the version has no such metric, nothing is.",
)
strawberry.enum(TrackedKind, name="MlflowItemKind", description="What there is in MLflow, too.")
strawberry.enum(
    Resolution,
    name="MlflowResolution",
    description="What holds where both sides differ. KEEP_OURS: what is here goes there; an object "
    "that is not there any more is made there anew. TAKE_THEIRS: what is there comes here. LEAVE: "
    "each side stays as it is, until one of them changes.",
)
