"""Stage policies as clients see them."""

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Self
from uuid import UUID

import strawberry
from strawberry import Private
from strawberry.scalars import JSON
from strawberry.utils.str_converters import to_camel_case

from lifecycle.errors import NotFound as Missing
from lifecycle.pages import PageRequest
from lifecycle.promotion import gates, policies, repository
from lifecycle.promotion.gates import CheckSeverity, RuleKind
from lifecycle.promotion.tables import StagePolicyRow
from lifecycle.registry import repository as registry
from lifecycle.registry.rules import DriftSeverity, Stage
from lifecycle.runs.rules import MetricGoal
from schema.context import Info
from schema.errors import (
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    StaleRevision,
    Unavailable,
)
from schema.inputs import Given, WriteInput, parse, plain
from schema.loaded import loaded
from schema.nodes import Node
from schema.pagination import After, Before, Connection, First, Last, listed
from schema.rows import OfRow, shown

if TYPE_CHECKING:
    from schema.registry import Model


@strawberry.type(description="One rule of a policy.")
class PolicyRule:
    kind: RuleKind = strawberry.field(description="What kind of rule it is.")
    description: str = strawberry.field(description="The rule in words.")
    parameters: JSON = strawberry.field(
        description="Its figures, under the names that the input of setStagePolicy has for them."
    )

    @classmethod
    def from_rule(cls, rule: gates.Rule) -> Self:
        parameters = {
            to_camel_case(name): value
            for name, value in asdict(rule).items()
            if name != "kind" and value is not None
        }
        return cls(kind=rule.kind, description=gates.describe(rule), parameters=JSON(parameters))


@strawberry.type(
    description="What has to be true before a version comes into a stage: one version of it, which "
    "is never changed."
)
class StagePolicy(Node, OfRow[StagePolicyRow]):
    row: Private[StagePolicyRow]
    stage: Stage = shown(description="The stage that it guards.")
    version: int = shown(description="Counts from 1, for each model and in general.")
    rules: list[PolicyRule] | None = shown(
        lambda row: (
            None
            if row.rules is None
            else [PolicyRule.from_rule(rule) for rule in repository.policy_of(row).rules]
        ),
        description="In order; null where a model follows the general policy again.",
    )
    reason: str | None = shown(description="Why it was set.")
    created_by: str = shown(description="Who set it.")
    created_at: datetime = shown(description="When that was.")

    model: Annotated["Model", strawberry.lazy("schema.registry")] | None = loaded(
        registry.models_by_ids,
        by="model_id",
        leaves=True,
        description="The model whose own it is; null for the general policy.",
    )


@strawberry.input(
    description="A metric of the version lies within bounds, which are included. "
    "inference_time_ms and data_quality_score are metrics like any other."
)
class MetricRuleInput:
    key: str = strawberry.field(description="The metric.")
    at_least: float | None = strawberry.field(default=None, description="Not less than this.")
    at_most: float | None = strawberry.field(default=None, description="Not more than this.")
    required: bool = strawberry.field(
        default=False, description="Whether it must be reported at all."
    )
    severity: CheckSeverity = strawberry.field(
        default=CheckSeverity.BLOCKING, description="What it does when it is not met."
    )


@strawberry.input(description="A metric is not much worse than that of the version in production.")
class BaselineRuleInput:
    key: str = strawberry.field(description="The metric.")
    tolerance: float = strawberry.field(
        description="How much worse it may be; negative: how much better it must be."
    )
    relative: bool = strawberry.field(
        default=False,
        description="Whether the tolerance is a part of the figure in production, 0.1 for a tenth.",
    )
    goal: MetricGoal | None = strawberry.field(
        default=None,
        description="Which way is better; by default as is usual for its name, but it must be "
        "given where the model says otherwise.",
    )
    required: bool = strawberry.field(default=False, description="Whether both must be reported.")
    severity: CheckSeverity = strawberry.field(
        default=CheckSeverity.BLOCKING, description="What it does when it is not met."
    )


@strawberry.input(
    description="A number among the data-set facts of the run lies within bounds, which are "
    "included."
)
class DatasetFactRuleInput:
    key: str = strawberry.field(description="The fact, such as train_size.")
    at_least: float | None = strawberry.field(default=None, description="Not less than this.")
    at_most: float | None = strawberry.field(default=None, description="Not more than this.")
    required: bool = strawberry.field(
        default=False, description="Whether it must be reported at all."
    )
    severity: CheckSeverity = strawberry.field(
        default=CheckSeverity.BLOCKING, description="What it does when it is not met."
    )


@strawberry.input(
    description="A hyperparameter of the version, else a parameter of its run, lies within "
    "bounds, which are included."
)
class HyperparameterRuleInput:
    key: str = strawberry.field(description="The hyperparameter.")
    at_least: float | None = strawberry.field(default=None, description="Not less than this.")
    at_most: float | None = strawberry.field(default=None, description="Not more than this.")
    required: bool = strawberry.field(
        default=False, description="Whether it must be reported at all."
    )
    severity: CheckSeverity = strawberry.field(
        default=CheckSeverity.WARNING, description="What it does when it is not met."
    )


@strawberry.input(description="Every item of the checklist is APPROVED.")
class ChecklistRuleInput:
    required: bool = strawberry.field(
        default=False, description="Whether there must be at least one item."
    )
    severity: CheckSeverity = strawberry.field(
        default=CheckSeverity.BLOCKING, description="What it does when it is not met."
    )


@strawberry.input(
    description="So many people have approved, author and submitter not counted; the automatic "
    "decision is not enough then."
)
class ApprovalsRuleInput:
    count: int = strawberry.field(default=1, description="How many.")
    approvers: list[str] | None = strawberry.field(
        default=None, description="Only these count; by default everybody."
    )


@strawberry.input(description="The version has an artifactPath and an artifactDigest.")
class ArtifactDigestRuleInput:
    severity: CheckSeverity = strawberry.field(
        default=CheckSeverity.BLOCKING, description="What it does when it is not met."
    )


@strawberry.input(description="The version came out of a run, which is COMPLETED.")
class RunCompletedRuleInput:
    severity: CheckSeverity = strawberry.field(
        default=CheckSeverity.BLOCKING, description="What it does when it is not met."
    )


@strawberry.input(description="No drift event of the version from a severity on is open.")
class NoOpenDriftRuleInput:
    from_severity: DriftSeverity = strawberry.field(
        default=DriftSeverity.HIGH, description="From this one on."
    )
    severity: CheckSeverity = strawberry.field(
        default=CheckSeverity.BLOCKING, description="What it does when it is not met."
    )


@strawberry.input(description="The newest metric of the version is not too old.")
class EvidenceAgeRuleInput:
    max_days: float = strawberry.field(description="How many days old it may be.")
    severity: CheckSeverity = strawberry.field(
        default=CheckSeverity.BLOCKING, description="What it does when it is not met."
    )


@strawberry.input(
    description="A submission is approved without a person when a metric is at most so much "
    "worse than in production, or nothing is in production and all checks of "
    "performance passed."
)
class AutomaticApprovalRuleInput:
    key: str = strawberry.field(description="The metric.")
    better_by: float = strawberry.field(
        description="From so much better on it counts as an improvement."
    )
    tolerance: float = strawberry.field(description="How much worse it may be.")
    goal: MetricGoal | None = strawberry.field(
        default=None,
        description="Which way is better; by default as is usual for its name, but it must be "
        "given where the model says otherwise.",
    )


@strawberry.input(one_of=True, description="One rule of a policy: exactly one of these.")
class PolicyRuleInput:
    metric: strawberry.Maybe[MetricRuleInput] = strawberry.field(
        description="A metric of the version lies within bounds, which are included. "
        "inference_time_ms and data_quality_score are metrics like any other."
    )
    baseline: strawberry.Maybe[BaselineRuleInput] = strawberry.field(
        description="A metric is not much worse than that of the version in production."
    )
    dataset_fact: strawberry.Maybe[DatasetFactRuleInput] = strawberry.field(
        description="A number among the data-set facts of the run lies within bounds, which are "
        "included."
    )
    hyperparameter: strawberry.Maybe[HyperparameterRuleInput] = strawberry.field(
        description="A hyperparameter of the version, else a parameter of its run, lies within "
        "bounds, which are included."
    )
    checklist: strawberry.Maybe[ChecklistRuleInput] = strawberry.field(
        description="Every item of the checklist is APPROVED."
    )
    approvals: strawberry.Maybe[ApprovalsRuleInput] = strawberry.field(
        description="So many people have approved, author and submitter not counted; the automatic "
        "decision is not enough then."
    )
    artifact_digest: strawberry.Maybe[ArtifactDigestRuleInput] = strawberry.field(
        description="The version has an artifactPath and an artifactDigest."
    )
    run_completed: strawberry.Maybe[RunCompletedRuleInput] = strawberry.field(
        description="The version came out of a run, which is COMPLETED."
    )
    no_open_drift: strawberry.Maybe[NoOpenDriftRuleInput] = strawberry.field(
        description="No drift event of the version from a severity on is open."
    )
    evidence_age: strawberry.Maybe[EvidenceAgeRuleInput] = strawberry.field(
        description="The newest metric of the version is not too old."
    )
    automatic_approval: strawberry.Maybe[AutomaticApprovalRuleInput] = strawberry.field(
        description="A submission is approved without a person when a metric is at most so much "
        "worse than in production, or nothing is in production and all checks of "
        "performance passed."
    )

    def plain(self) -> dict[str, Any]:
        """As the domain has it."""
        name, given = next((name, value) for name, value in vars(self).items() if value is not None)
        return {"kind": name.upper(), **plain(given.value)}


@strawberry.input(description="A new version of a policy.")
class SetStagePolicyInput(WriteInput):
    stage: Stage = strawberry.field(description="STAGING or PRODUCTION.")
    model_name: str | None = strawberry.field(
        default=None, description="A model that gets a policy of its own; by default all models."
    )
    rules: list[PolicyRuleInput] | None = strawberry.field(
        default=None,
        description="All its rules, in order; without them the model follows the general policy "
        "again.",
    )
    reason: str | None = strawberry.field(default=None, description="Why; kept with the policy.")
    expected_version: int | None = strawberry.field(
        default=None,
        description="Refuse with StaleRevision if the policy's version is another one by now; 0 is "
        "none.",
    )


@strawberry.type(description="The policy has this version now.")
class SetStagePolicySuccess:
    stage_policy: StagePolicy = strawberry.field(description="The policy that holds from now on.")


SetStagePolicyResult = Annotated[
    SetStagePolicySuccess
    | NotFound
    | InvalidInput
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("SetStagePolicyResult", description="What came of setStagePolicy."),
]

_PolicyModel = Annotated[
    str | None,
    strawberry.argument(description="The model; by default the policy of all that have no own."),
]
_PolicyStage = Annotated[Stage, strawberry.argument(description="STAGING or PRODUCTION.")]


@strawberry.type
class PolicyQueries:
    @strawberry.field(
        description="The policy that guards a stage now: a model's own, else the general one. Null "
        "for stages that nothing guards. Raises NOT_FOUND for an unknown model."
    )
    async def stage_policy(
        self,
        info: Info,
        stage: _PolicyStage = Stage.PRODUCTION,
        model_name: _PolicyModel = None,
    ) -> StagePolicy | None:
        model = await _model_key(info, model_name)
        async with info.context.database.read() as session:
            row = await repository.policy_in_force(session, model, stage)
        return StagePolicy.from_row(row) if row else None

    @strawberry.field(
        description="All versions of a model's own policy, or of the general one, newest first."
    )
    async def stage_policies(
        self,
        info: Info,
        stage: _PolicyStage = Stage.PRODUCTION,
        model_name: _PolicyModel = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[StagePolicy]:
        request = PageRequest.parse(first, after, last, before)
        model = await _model_key(info, model_name)
        return await listed(
            info,
            StagePolicy.from_row,
            lambda session: repository.policy_page(session, model, stage, request),
            lambda session: repository.policy_count(session, model, stage),
        )


async def _model_key(info: Info, name: str | None) -> UUID | None:
    if name is None:
        return None
    row = await info.context.loaders.load(registry.models_by_names, name)
    if row is None:
        raise Missing("model", name, ("model_name",))
    return row.id


@strawberry.type
class PolicyMutations:
    @strawberry.mutation(
        description="Set what has to be true before a version comes into a stage, for "
        "administrators. "
        "It makes a new version of the policy, unless it says the same as before; what was "
        "approved under the former one and has not reached production becomes STALE."
    )
    async def set_stage_policy(
        self, info: Info, input: Given[SetStagePolicyInput]
    ) -> SetStagePolicyResult:
        row = await info.context.write(policies.set_policy, parse(policies.SetStagePolicy, input))
        return SetStagePolicySuccess(stage_policy=StagePolicy.from_row(row))
