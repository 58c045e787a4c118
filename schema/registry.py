"""Models and their versions as clients see them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import strawberry
from strawberry import Private
from strawberry.scalars import JSON

import schema.access
import schema.deployments
import schema.drift
import schema.promotion
import schema.runs
import schema.tracking
from lifecycle.artifacts import repository as uploads
from lifecycle.artifacts.rules import content_key
from lifecycle.deployments import repository as deployments
from lifecycle.drift import repository as drift
from lifecycle.errors import InvalidInput as InvalidArgument
from lifecycle.errors import LimitExceeded, Path
from lifecycle.errors import NotFound as Missing
from lifecycle.pages import PageRequest
from lifecycle.promotion import repository as promotion
from lifecycle.promotion import review
from lifecycle.promotion import service as promotion_service
from lifecycle.registry import repository, rules, service
from lifecycle.registry.repository import (
    ModelFilter,
    VersionFilter,
    VersionOrderField,
    VersionSelector,
)
from lifecycle.registry.rules import ApprovalStatus, Stage
from lifecycle.registry.tables import ModelRow, ModelVersionRow
from lifecycle.runs import repository as runs
from lifecycle.runs.rules import MetricGoal
from lifecycle.tracking.rules import TrackedKind
from schema import ids, links
from schema.context import Info
from schema.errors import (
    AlreadyExists,
    IdempotencyConflict,
    InUse,
    InvalidInput,
    NotFound,
    StaleRevision,
    Unavailable,
)
from schema.inputs import ChangeInput, Given, WriteInput, choices, moment, parse
from schema.limits import MAX_VALUES_COMPARED
from schema.loaded import Further, forward, found, its_name, loaded
from schema.metrics import Metric, MetricInput, finite
from schema.nodes import Node, Tag, TagInput, tags_of
from schema.pagination import (
    After,
    Before,
    Connection,
    First,
    Last,
    OrderDirection,
    directions,
    listed,
)
from schema.rows import OfRow, shown
from schema.scalars import BigInt

if TYPE_CHECKING:
    from schema.access import ModelRights
    from schema.deployments import Deployment
    from schema.drift import DriftEvent
    from schema.promotion import (
        Approval,
        ChecklistItem,
        StageAssignment,
        ValidationCheck,
        ValidationReport,
    )
    from schema.runs import Run
    from schema.tracking import MlflowLink


_MAX_COMPARED = 50


@strawberry.input(name="ModelVersionFilter", description="What is left out does not restrict.")
class ModelVersionFilterInput:
    model_name: str | None = strawberry.field(
        default=None, description="Of the model of exactly this name."
    )
    stages: list[Stage] | None = strawberry.field(default=None, description="In any of these.")
    approval_statuses: list[ApprovalStatus] | None = strawberry.field(
        default=None, description="With an approval that stands at any of these."
    )


@strawberry.type(description="Whether more or less of a metric is better for a model.")
class MetricGoalSetting:
    key: str = strawberry.field(description="The metric's name.")
    goal: MetricGoal = strawberry.field(description="What counts as better.")


def _versions(
    filter: Annotated[
        ModelVersionFilterInput | None, strawberry.argument(description="Which of them.")
    ] = None,
    first: First = None,
    after: After = None,
    last: Last = None,
    before: Before = None,
) -> Further:
    """Which versions of a model."""
    return Further((_version_filter(filter),), (PageRequest.parse(first, after, last, before),))


def _stages(
    stages: Annotated[
        list[Stage] | None, strawberry.argument(description="Only these stages; by default all.")
    ] = None,
    first: First = None,
    after: After = None,
) -> Further:
    """Which of the stages that a model's versions were in."""
    return Further((choices(stages),), (PageRequest.parse(first, after),))


@strawberry.type(description="A named model; its versions are what is deployed.")
class Model(Node, OfRow[ModelRow]):
    row: Private[ModelRow]
    keys = ("id",)
    name: str = shown(description="Unique, and never changed.")
    description: str | None = shown(description="What it is for.")
    owner: str | None = shown(description="Who answers for it.")
    tags: list[Tag] = shown(
        lambda row: tags_of(row.tags), needs=("tags",), description="Labels, by key."
    )
    metric_goals: list[MetricGoalSetting] = shown(
        lambda row: [
            MetricGoalSetting(key=key, goal=row.metric_goals[key])
            for key in sorted(row.metric_goals)
        ],
        description="Whether more or less is better where that is not as a metric's name suggests, "
        "by key. Comparisons go by it. A policy says it itself.",
    )
    created_by: str = shown(description="Who registered its first version.")
    created_at: datetime = shown(description="When that was.")
    updated_at: datetime = shown(description="When the model itself last changed.")
    revision: int = shown(description="Counts changes; see `expectedRevision`.")

    @strawberry.field(description="What you may do to it and its versions.")
    def viewer_can(self, info: Info) -> Annotated["ModelRights", strawberry.lazy("schema.access")]:
        return schema.access.rights_on(info, self.row.id)

    @strawberry.field(description="How it stands with MLflow.")
    async def mlflow(
        self, info: Info
    ) -> Annotated["MlflowLink", strawberry.lazy("schema.tracking")]:
        return await schema.tracking.link_of(info, TrackedKind.MODEL, self.row.id)

    versions: Connection[Annotated["ModelVersion", strawberry.lazy("schema.registry")]] = loaded(
        repository.versions_of_models,
        by="id",
        given=_versions,
        counts=repository.version_counts_of_models,
        leaves=True,
        description="Its versions, newest first, without deleted ones.",
    )

    @strawberry.field(
        description="The version that is in a stage, or was at a moment; of several, the last that "
        "came into it. A version that has since been deleted is given too."
    )
    async def version_in_stage(
        self,
        info: Info,
        stage: Annotated[Stage, strawberry.argument(description="The stage.")],
        at: Annotated[
            datetime | None, strawberry.argument(description="As of this moment; by default now.")
        ] = None,
    ) -> Annotated["ModelVersion", strawberry.lazy("schema.registry")] | None:
        at = moment(at, ("at",))
        loaders = info.context.loaders
        return await version_by_id(
            info, await loaders.load(promotion.versions_in_stage, self.row.id, stage, at)
        )

    stage_history: Connection[Annotated["StageAssignment", strawberry.lazy("schema.promotion")]] = (
        loaded(
            promotion.history_pages,
            by="id",
            given=_stages,
            counts=promotion.history_counts,
            description="Which version was in which stage and when, newest first.",
        )
    )


@strawberry.type(description="One version of a model.")
class ModelVersion(Node, OfRow[ModelVersionRow]):
    row: Private[ModelVersionRow]
    keys = (
        *("artifact_digest", "artifact_path", "id", "live_deployments", "model_id", "run_id"),
        *("size_bytes", "stage"),
    )
    model_name: str = shown(description="The model's name.")
    version: str = shown(description="Unique in the model, for ever.")
    stage: Stage = shown(description="Where it stands.")
    description: str | None = shown(description="What is special about it.")
    framework: str | None = shown(description="What it was made with.")
    hyperparameters: JSON | None = shown(description="What it was made with, as JSON.")
    tags: list[Tag] = shown(
        lambda row: tags_of(row.tags), needs=("tags",), description="Labels, by key."
    )
    artifact_path: str | None = shown(description="Where its file lies.")
    artifact_digest: str | None = shown(
        description="A digest of its file's content: as given, or as its run had logged it when "
        "the version was registered, or else submitted for approval."
    )
    size_bytes: BigInt | None = shown(
        description="How large it is.",
    )
    created_by: str = shown(description="Who registered it.")
    created_at: datetime = shown(description="When it was registered.")
    updated_at: datetime = shown(description="When it last changed.")
    deleted_at: datetime | None = shown(
        description="When it was deleted. It is still found by `node` and through history."
    )
    revision: int = shown(description="Counts changes; see `expectedRevision`.")

    @strawberry.field(
        description="Where its file can be read: an `artifactPath` that is an address of the web "
        "as it is; of what MLflow keeps the page there that shows it; for 15 minutes, if it is an "
        "s3:// URI within an area, or else if its run has uploaded what has its `artifactDigest` "
        "there, whatever has come there since; else null. Null also while it is in PRODUCTION, or "
        "still live there, and not what was let in there any more."
    )
    async def artifact_url(self, info: Info) -> str | None:
        if self.artifact_path is None:
            return None
        in_use = self.row.stage is Stage.PRODUCTION or self.row.live_deployments > 0
        file = (self.row.id, self.artifact_path, self.artifact_digest)
        if in_use and await info.context.loaders.load(deployments.changed_in_production, file):
            return None
        path = self.artifact_path
        # First: it says itself what it leads to, and not whoever uploads something of this path.
        elsewhere = await links.resolve(
            info.context, path, self.artifact_digest
        ) or await schema.tracking.page_of(info, path, self.row.id, self.row.run_id)
        if elsewhere is not None or self.row.run_id is None:
            return elsewhere
        # Whatever is there could be that of a version that names none.
        digest = self.artifact_digest
        if digest is None or content_key(digest) is None:
            return None
        logged = await info.context.loaders.load(runs.artifacts_by_path, (self.row.run_id, path))
        if logged is None:
            return None
        if logged.area is not None and logged.digest == digest:
            return await links.download_url(info.context, logged.area, digest, logged.name)
        # Something else has come to its path since; what was decided about is kept all the same.
        upload = (self.row.run_id, path, digest)
        kept = await info.context.loaders.load(uploads.completed, upload)
        if kept is None:
            return None
        return await links.download_url(info.context, kept.area, digest, kept.name)

    @strawberry.field(description="What you may do to it.")
    def viewer_can(self, info: Info) -> Annotated["ModelRights", strawberry.lazy("schema.access")]:
        return schema.access.rights_on(info, self.row.model_id, self.row.stage)

    model: Model = loaded(
        repository.models_by_ids,
        by="model_id",
        leaves=True,
        description="The model that it is a version of.",
    )

    run: Annotated["Run", strawberry.lazy("schema.runs")] | None = loaded(
        runs.by_ids,
        by="run_id",
        leaves=True,
        description="The run that it came out of.",
    )

    metrics: list[Metric] = loaded(
        repository.metrics,
        by="id",
        leaves=True,
        description="Its metrics, by key: as given, or as its run had them when it was registered.",
    )

    checklist: list[Annotated["ChecklistItem", strawberry.lazy("schema.promotion")]] = loaded(
        promotion.checklists,
        by="id",
        leaves=True,
        description="What has to be checked before it goes on, in order.",
    )

    @strawberry.field(description="Whether it may go into production, and who says so.")
    async def approval(
        self, info: Info
    ) -> Annotated["Approval", strawberry.lazy("schema.promotion")]:
        row = await info.context.loaders.load(promotion.approvals, self.row.id)
        return schema.promotion.Approval.from_row(row)

    @strawberry.field(description="All its submissions and what became of them, newest first.")
    async def approval_history(
        self, info: Info
    ) -> list[Annotated["Approval", strawberry.lazy("schema.promotion")]]:
        rows = await info.context.loaders.load(promotion.approval_history, self.row.id)
        return [schema.promotion.Approval.from_row(row) for row in rows or ()]

    @strawberry.field(description="What a policy found when it was last asked about it.")
    async def validation(
        self, info: Info
    ) -> Annotated["ValidationReport", strawberry.lazy("schema.promotion")] | None:
        row = await info.context.loaders.load(promotion.last_reports, self.row.id)
        return schema.promotion.ValidationReport.from_row(row) if row else None

    @strawberry.field(
        description="What stands between it and a stage: each rule that is not met, and the "
        "approval if that is missing. Nothing when setStage would move it there now."
    )
    async def why_not(
        self,
        info: Info,
        stage: Annotated[Stage, strawberry.argument(description="The stage.")] = Stage.PRODUCTION,
    ) -> list[Annotated["ValidationCheck", strawberry.lazy("schema.promotion")]]:
        found = await info.context.loaders.load(promotion_service.why_not, self.row.id, stage)
        assert found is not None
        return [schema.promotion.ValidationCheck.from_check(check) for check in found.unmet]

    stage_history: list[Annotated["StageAssignment", strawberry.lazy("schema.promotion")]] = loaded(
        promotion.history_of_versions,
        by="id",
        description="The stages that it was in, oldest first.",
    )

    @strawberry.field(description="How it stands with MLflow.")
    async def mlflow(
        self, info: Info
    ) -> Annotated["MlflowLink", strawberry.lazy("schema.tracking")]:
        return await schema.tracking.link_of(info, TrackedKind.MODEL_VERSION, self.row.id)

    deployments: Connection[Annotated["Deployment", strawberry.lazy("schema.deployments")]] = (
        loaded(
            deployments.pages_of_versions,
            by="id",
            given=forward,
            counts=deployments.counts_of_versions,
            leaves=True,
            description="Where it runs and has run, newest first.",
        )
    )

    @strawberry.field(description="How many deployments it has had.")
    async def deployment_count(self, info: Info) -> int:
        return await info.context.loaders.load(deployments.counts_of_versions, self.row.id) or 0

    drift_events: Connection[Annotated["DriftEvent", strawberry.lazy("schema.drift")]] = loaded(
        drift.pages_of_versions,
        by="id",
        given=forward,
        counts=drift.counts_of_versions,
        leaves=True,
        description="Drift that was observed, newest first.",
    )


@strawberry.input(description="A version by the name of its model and its own.")
class NameVersionInput:
    model_name: str = strawberry.field(description="The model's name.")
    version: str = strawberry.field(description="The version.")


@strawberry.input(description="The version of a model in a stage; of several, the last to enter.")
class NameStageInput:
    model_name: str = strawberry.field(description="The model's name.")
    stage: Stage = strawberry.field(description="The stage.")


@strawberry.input(one_of=True, description="Which version: exactly one of these.")
class ModelVersionSelector:
    id: strawberry.Maybe[strawberry.ID] = strawberry.field(description="By its global id.")
    name_version: strawberry.Maybe[NameVersionInput] = strawberry.field(description="By its name.")
    in_stage: strawberry.Maybe[NameStageInput] = strawberry.field(
        description="By its stage; not along with `expectedRevision`, which is of one version."
    )

    def plain(self, path: Path = ("model_version",)) -> dict[str, Any]:
        """As the domain's selector has it. Raises InvalidInput when the id is none of a version."""
        if self.id is not None:
            key = ids.decode("ModelVersion", self.id.value, (*path, "id"))
            return {"id": key}
        if self.name_version is not None:
            return {"name_version": vars(self.name_version.value)}
        assert self.in_stage is not None
        return {"in_stage": vars(self.in_stage.value)}


@strawberry.input(name="ModelFilter", description="What is left out does not restrict.")
class ModelFilterInput:
    owner: str | None = strawberry.field(default=None, description="Exactly this owner.")
    name_contains: str | None = strawberry.field(
        default=None, description="This text in the name, in capitals or not."
    )


@strawberry.input(name="ModelVersionOrder", description="One key of an ordering.")
class ModelVersionOrderInput:
    field: VersionOrderField = strawberry.field(description="What to order by.")
    direction: OrderDirection = strawberry.field(
        default=OrderDirection.ASC, description="Which way."
    )


@strawberry.input(description="A new version. The model is made when there is none of this name.")
class RegisterModelVersionInput(WriteInput):
    model_name: str = strawberry.field(
        description="The model's name: at most 250 characters, each of which can be seen, composed "
        "(NFC)."
    )
    version: str | None = strawberry.field(
        default=None, description="Must be new in the model; by default the next number."
    )
    run_id: strawberry.ID | None = strawberry.field(
        default=None, description="The run that it came out of."
    )
    description: str | None = strawberry.field(
        default=None, description="What is special about it."
    )
    framework: str | None = strawberry.field(default=None, description="What it was made with.")
    hyperparameters: JSON | None = strawberry.field(default=None, description="A JSON object.")
    metrics: list[MetricInput] | None = strawberry.field(
        default=None, description="Each key once; by default the latest of the run's."
    )
    tags: list[TagInput] | None = strawberry.field(
        default=None, description="Labels, at most 1,000, of 250,000 characters in all."
    )
    artifact_path: str | None = strawberry.field(default=None, description="Where its file lies.")
    artifact_digest: str | None = strawberry.field(
        default=None,
        description="A digest of its file's content, such as sha256:…; by default the one that the "
        "run has logged of an artifact with exactly this `artifactPath`, unless the sizes differ.",
    )
    size_bytes: BigInt | None = strawberry.field(
        default=None,
        description="How large its file is; by default what the run has logged of an artifact with "
        "exactly this `artifactPath`, unless the digests differ.",
    )
    checklist: list[str] | None = strawberry.field(
        default=None, description="Titles of what has to be checked, in order."
    )


@strawberry.input(description="Changes to a version; what is left out stays as it is.")
class UpdateModelVersionInput(ChangeInput):
    model_version: ModelVersionSelector = strawberry.field(description="Which version.")
    description: strawberry.Maybe[str | None] = strawberry.field(
        description="What is special about it."
    )
    framework: strawberry.Maybe[str | None] = strawberry.field(description="What it was made with.")
    hyperparameters: strawberry.Maybe[JSON | None] = strawberry.field(description="A JSON object.")
    metrics: list[MetricInput] | None = strawberry.field(
        default=None, description="All its metrics from now on."
    )
    tags: list[TagInput] | None = strawberry.field(
        default=None,
        description="All its labels from now on, at most 1,000, of 250,000 characters in all.",
    )
    artifact_path: strawberry.Maybe[str | None] = strawberry.field(
        description="Where its file lies."
    )
    artifact_digest: strawberry.Maybe[str | None] = strawberry.field(
        description="A digest of its file's content, such as sha256:…. Give it along with a new "
        "`artifactPath`: what is left out stays."
    )
    size_bytes: strawberry.Maybe[BigInt | None] = strawberry.field(description="How large it is.")


@strawberry.input(description="A version to take out of the registry.")
class DeleteModelVersionInput(ChangeInput):
    model_version: ModelVersionSelector = strawberry.field(description="Which version.")
    reason: str | None = strawberry.field(default=None, description="Why.")


@strawberry.input(description="Whether more or less of a metric is better.")
class MetricGoalInput:
    key: str = strawberry.field(description="The metric's name.")
    goal: MetricGoal = strawberry.field(description="What counts as better.")


@strawberry.input(description="Changes to a model; what is left out stays as it is.")
class UpdateModelInput(ChangeInput):
    name: str = strawberry.field(description="Which model.")
    description: strawberry.Maybe[str | None] = strawberry.field(description="What it is for.")
    owner: strawberry.Maybe[str | None] = strawberry.field(description="Who answers for it.")
    tags: list[TagInput] | None = strawberry.field(
        default=None,
        description="All its labels from now on, at most 1,000, of 250,000 characters in all.",
    )
    metric_goals: list[MetricGoalInput] | None = strawberry.field(
        default=None,
        description="All its goals from now on, each key once: whether more or less is better "
        "where that is not as the metric's name suggests.",
    )


@strawberry.type(description="The version is registered.")
class RegisterModelVersionSuccess:
    model_version: ModelVersion = strawberry.field(description="The new version.")


@strawberry.type(description="The version was changed.")
class UpdateModelVersionSuccess:
    model_version: ModelVersion = strawberry.field(description="The version as it is now.")


@strawberry.type(description="The version was deleted; its name, history and lineage stay.")
class DeleteModelVersionSuccess:
    model_version: ModelVersion = strawberry.field(description="The version as it was left.")


@strawberry.type(description="The model was changed.")
class UpdateModelSuccess:
    model: Model = strawberry.field(description="The model as it is now.")


RegisterModelVersionResult = Annotated[
    RegisterModelVersionSuccess
    | AlreadyExists
    | NotFound
    | InvalidInput
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("RegisterModelVersionResult", description="What came of the registration."),
]
UpdateModelVersionResult = Annotated[
    UpdateModelVersionSuccess
    | NotFound
    | InvalidInput
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("UpdateModelVersionResult", description="What came of updateModelVersion."),
]
DeleteModelVersionResult = Annotated[
    DeleteModelVersionSuccess
    | NotFound
    | InUse
    | InvalidInput
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("DeleteModelVersionResult", description="What came of deleteModelVersion."),
]
UpdateModelResult = Annotated[
    UpdateModelSuccess
    | NotFound
    | InvalidInput
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("UpdateModelResult", description="What came of updateModel."),
]


@strawberry.type(description="A metric of several versions, by position in `versions`.")
class MetricComparison:
    key: str = strawberry.field(description="The metric's name.")
    goal: MetricGoal = strawberry.field(
        description="Whether more or less is better: as given, else as the model says, else judged "
        "by the metric's name."
    )
    values: list[float | None] = strawberry.field(
        description="Null where there is no finite value."
    )
    differences: list[float | None] = strawberry.field(
        description="To the baseline's value; null where there is none."
    )
    best: str | None = strawberry.field(description="The version with the best value.")


@strawberry.type(description="A parameter of several versions, by position in `versions`.")
class ParamComparison:
    key: str = strawberry.field(description="The parameter's name.")
    values: list[str | None] = strawberry.field(description="Null where it is not set.")
    differs: bool = strawberry.field(description="Whether the values are not all alike.")


@strawberry.type(description="Versions of one model side by side.")
class ModelComparison:
    versions: list[ModelVersion] = strawberry.field(description="In the order that was asked for.")
    metrics: list[MetricComparison] = strawberry.field(description="All metrics, by key.")
    params: list[ParamComparison] = strawberry.field(
        description="Parameters of the runs, and hyperparameters, by key; the latter win."
    )


async def version_by_id(info: Info, id: UUID | None) -> ModelVersion | None:
    """A version, deleted or not, or None."""
    row = await info.context.loaders.load(repository.versions_by_ids, id) if id else None
    return ModelVersion.from_row(row) if row else None


def _version_filter(given: ModelVersionFilterInput | None) -> VersionFilter:
    if given is None:
        return VersionFilter()
    return VersionFilter(given.model_name, choices(given.stages), choices(given.approval_statuses))


def _selected(
    by: Annotated[ModelVersionSelector, strawberry.argument(description="Which version.")],
) -> VersionSelector:
    return parse(VersionSelector, by.plain(("by",)), ("by",))


@strawberry.type
class RegistryQueries:
    model: Model | None = found(
        repository.models_by_names,
        key=its_name,
        leaves=True,
        description="The model of this name, or null.",
    )

    @strawberry.field(description="Models, by name.")
    async def models(
        self,
        info: Info,
        filter: Annotated[
            ModelFilterInput | None, strawberry.argument(description="Which of them.")
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[Model]:
        request = PageRequest.parse(first, after, last, before)
        wanted = ModelFilter(filter.owner, filter.name_contains) if filter else ModelFilter()
        return await listed(
            info,
            Model.from_row,
            lambda session: repository.models_page(session, wanted, request),
            lambda session: repository.models_count(session, wanted),
        )

    model_version: ModelVersion | None = found(
        repository.meant, key=_selected, description="One version, or null."
    )

    @strawberry.field(description="Versions of all models, newest first unless ordered otherwise.")
    async def model_versions(
        self,
        info: Info,
        filter: Annotated[
            ModelVersionFilterInput | None, strawberry.argument(description="Which of them.")
        ] = None,
        order_by: Annotated[
            list[ModelVersionOrderInput] | None,
            strawberry.argument(description="The first key decides, then the second, …."),
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[ModelVersion]:
        request = PageRequest.parse(first, after, last, before)
        wanted = _version_filter(filter)
        order = directions(order_by)
        return await listed(
            info,
            ModelVersion.from_row,
            lambda session: repository.versions_page(session, wanted, order, request),
            lambda session: repository.versions_count(session, wanted),
        )

    @strawberry.field(description="Versions of one model side by side.")
    async def compare_model_versions(
        self,
        info: Info,
        model_name: Annotated[str, strawberry.argument(description="The model's name.")],
        versions: Annotated[
            list[str], strawberry.argument(description="1 to 50 versions, each once.")
        ],
        baseline: Annotated[
            str | None,
            strawberry.argument(
                description="One of them; differences are to it. By default the first."
            ),
        ] = None,
        goals: Annotated[
            list[MetricGoalInput] | None,
            strawberry.argument(
                description="Whether more or less is better, where it is not as the model says or "
                "the metric's name suggests."
            ),
        ] = None,
    ) -> ModelComparison:
        if not 1 <= len(versions) <= _MAX_COMPARED or len(set(versions)) < len(versions):
            raise InvalidArgument("Name 1 to 50 versions, each once.", ("versions",))
        if baseline is not None and baseline not in versions:
            raise InvalidArgument("The baseline must be one of the versions.", ("baseline",))
        given = {each.key: each.goal for each in goals or ()}
        if len(given) < len(goals or ()):
            raise InvalidArgument("Name each metric once.", ("goals",))
        async with info.context.database.read() as session:
            models = await repository.models_by_names(session, [model_name])
            found = await repository.versions_by_names(session, model_name, versions)
            for version in versions:
                if version not in found:
                    # Names are at most this long; what is sent may not be.
                    which = f"{version[:250]} of model {model_name[:250]}"
                    raise Missing("version", which, ("versions",))
            rows = [found[version] for version in versions]
            metrics = await repository.metrics(session, [row.id for row in rows])
            sources = await runs.by_ids(session, [row.run_id for row in rows if row.run_id])
        wanted = models[model_name].metric_goals | given
        base = versions.index(baseline) if baseline else 0
        return _comparison(rows, metrics, sources, base, wanted)


def _comparison(
    rows: Sequence[ModelVersionRow],
    metrics: Any,
    sources: Any,
    baseline: int,
    goals: Mapping[str, MetricGoal],
) -> ModelComparison:
    values = [{m.key: m.value for m in metrics.get(row.id, ())} for row in rows]
    params = [
        {**(sources[row.run_id].params if row.run_id else {}), **(row.hyperparameters or {})}
        for row in rows
    ]
    number = len(rows) * (len(set().union(*values)) + len(set().union(*params)))
    if number > MAX_VALUES_COMPARED:
        raise LimitExceeded(
            f"A comparison may have {MAX_VALUES_COMPARED:,} values: metrics and parameters, of "
            "each version. Compare fewer versions.",
            "compared",
            MAX_VALUES_COMPARED,
            number,
        )
    return ModelComparison(
        versions=[ModelVersion.from_row(row) for row in rows],
        metrics=[
            MetricComparison(
                key=compared.key,
                goal=compared.goal,
                values=list(compared.values),
                differences=[None if d is None else finite(d) for d in compared.differences],
                best=None if compared.best is None else rows[compared.best].version,
            )
            for compared in rules.compare_metrics(values, baseline, goals)
        ],
        params=[
            ParamComparison(
                key=compared.key, values=list(compared.values), differs=compared.differs
            )
            for compared in rules.compare_params(params)
        ],
    )


@strawberry.type
class RegistryMutations:
    @strawberry.mutation(description="Register a version of a model. It begins as EXPERIMENTAL.")
    async def register_model_version(
        self, info: Info, input: Given[RegisterModelVersionInput]
    ) -> RegisterModelVersionResult:
        command = parse(service.RegisterModelVersion, input, run_id="Run")
        row = await info.context.write(promotion_service.register, command)
        return RegisterModelVersionSuccess(model_version=ModelVersion.from_row(row))

    @strawberry.mutation(description="Change a version.")
    async def update_model_version(
        self, info: Info, input: Given[UpdateModelVersionInput]
    ) -> UpdateModelVersionResult:
        command = parse(service.UpdateModelVersion, input)
        row = await info.context.write(review.update_version, command)
        return UpdateModelVersionSuccess(model_version=ModelVersion.from_row(row))

    @strawberry.mutation(
        description="Delete a version. Refused while it is deployed or in PRODUCTION."
    )
    async def delete_model_version(
        self, info: Info, input: Given[DeleteModelVersionInput]
    ) -> DeleteModelVersionResult:
        command = parse(promotion_service.DeleteModelVersion, input)
        row = await info.context.write(promotion_service.delete, command)
        return DeleteModelVersionSuccess(model_version=ModelVersion.from_row(row))

    @strawberry.mutation(description="Change a model.")
    async def update_model(self, info: Info, input: Given[UpdateModelInput]) -> UpdateModelResult:
        command = parse(service.UpdateModel, input)
        row = await info.context.write(service.update_model, command)
        return UpdateModelSuccess(model=Model.from_row(row))
