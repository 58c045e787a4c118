"""Experiments as clients see them."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import strawberry
from strawberry import Private

import schema.runs
import schema.tracking
from lifecycle import errors
from lifecycle.experiments import repository, service
from lifecycle.experiments.repository import ExperimentFilter, ExperimentOrderField
from lifecycle.experiments.rules import ExperimentStatus
from lifecycle.experiments.tables import ExperimentRow
from lifecycle.pages import PageRequest
from lifecycle.runs import metrics
from lifecycle.runs import repository as runs
from lifecycle.runs.repository import artifacts_of_experiments
from lifecycle.runs.rules import MetricGoal
from lifecycle.tracking.rules import TrackedKind
from schema.context import Info
from schema.errors import (
    AlreadyExists,
    IdempotencyConflict,
    InvalidInput,
    InvalidTransition,
    NotFound,
    StaleRevision,
    Unavailable,
)
from schema.inputs import ChangeInput, Given, WriteInput, choices, parse
from schema.loaded import Further, found, its_name, loaded
from schema.logs import LogLine, lines_of
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

if TYPE_CHECKING:
    from schema.runs import Artifact, Run, RunFilterInput, RunOrderInput
    from schema.tracking import MlflowLink

_LINES_SHOWN = 100


def runs_wanted(
    filter: Annotated[
        Annotated["RunFilterInput", strawberry.lazy("schema.runs")] | None,
        strawberry.argument(description="Which of them."),
    ] = None,
    order_by: Annotated[
        list[Annotated["RunOrderInput", strawberry.lazy("schema.runs")]] | None,
        strawberry.argument(description="The first key decides, then the second, …."),
    ] = None,
    first: First = None,
    after: After = None,
    last: Last = None,
    before: Before = None,
) -> Further:
    """Which runs of an object, in which order."""
    wanted, order = schema.runs.run_filter(filter), schema.runs.run_order(order_by)
    return Further((wanted,), (order, PageRequest.parse(first, after, last, before)))


@strawberry.type(description="What is being tried: runs under one name.")
class Experiment(Node, OfRow[ExperimentRow]):
    row: Private[ExperimentRow]
    keys = ("id",)
    name: str = shown(description="Unique.")
    description: str | None = shown(description="What it is about.")
    owner: str | None = shown(description="Who answers for it.")
    status: ExperimentStatus = shown(description="Where it stands.")
    tags: list[Tag] = shown(
        lambda row: tags_of(row.tags), needs=("tags",), description="Labels, by key."
    )
    created_by: str = shown(description="Who made it.")
    created_at: datetime = shown(description="When it was made.")
    updated_at: datetime = shown(description="When it last changed.")
    completed_at: datetime | None = shown(description="When it became COMPLETED.")
    duration_seconds: float | None = shown(
        lambda row: (
            (row.completed_at - row.created_at).total_seconds() if row.completed_at else None
        ),
        description="From its creation to its completion, once it was COMPLETED.",
    )
    revision: int = shown(description="Counts changes; see `expectedRevision`.")

    @strawberry.field(description="How it stands with MLflow.")
    async def mlflow(
        self, info: Info
    ) -> Annotated["MlflowLink", strawberry.lazy("schema.tracking")]:
        return await schema.tracking.link_of(info, TrackedKind.EXPERIMENT, self.row.id)

    runs: Connection[Annotated["Run", strawberry.lazy("schema.runs")]] = loaded(
        runs.pages_of_experiments,
        by="id",
        given=runs_wanted,
        counts=runs.counts_of_experiments,
        leaves=True,
        description="Its runs, newest first unless ordered otherwise.",
    )

    @strawberry.field(description="How many runs it has.")
    async def run_count(self, info: Info) -> int:
        wanted = runs.RunFilter()
        return await info.context.loaders.load(runs.counts_of_experiments, self.row.id, wanted) or 0

    @strawberry.field(description="The run with the best finite latest value of a metric.")
    async def best_run(
        self,
        info: Info,
        metric: Annotated[str, strawberry.argument(description="The key of the metric.")],
        goal: Annotated[
            MetricGoal, strawberry.argument(description="What counts as best.")
        ] = MetricGoal.MAXIMIZE,
    ) -> Annotated["Run", strawberry.lazy("schema.runs")] | None:
        best = await info.context.loaders.load(metrics.best_runs, self.row.id, metric, goal)
        return await schema.runs.run_by_id(info, best)

    artifacts: list[Annotated["Artifact", strawberry.lazy("schema.runs")]] = loaded(
        artifacts_of_experiments,
        by="id",
        description="The newest 1,000 artifacts that its runs wrote, newest first.",
    )

    @strawberry.field(
        description="The newest lines that its runs wrote, oldest first; numbered per run."
    )
    async def logs(
        self,
        info: Info,
        last: Annotated[
            int | None, strawberry.argument(description="How many, 1 to 1,000; by default 100.")
        ] = 100,
    ) -> list[LogLine]:
        last = _LINES_SHOWN if last is None else last
        if not 1 <= last <= 1_000:
            raise errors.InvalidInput("Ask for 1 to 1,000 lines.", ("last",))
        rows = await info.context.loaders.load(runs.log_of_experiments, self.row.id, last)
        return lines_of(list(reversed(rows or ())))


@strawberry.input(name="ExperimentFilter", description="What is left out does not restrict.")
class ExperimentFilterInput:
    owner: str | None = strawberry.field(default=None, description="Exactly this owner.")
    statuses: list[ExperimentStatus] | None = strawberry.field(
        default=None, description="Any of these."
    )
    name_contains: str | None = strawberry.field(
        default=None, description="This text in the name, in capitals or not."
    )


@strawberry.input(name="ExperimentOrder", description="One key of an ordering.")
class ExperimentOrderInput:
    field: ExperimentOrderField = strawberry.field(description="What to order by.")
    direction: OrderDirection = strawberry.field(
        default=OrderDirection.ASC, description="Which way."
    )


@strawberry.input(description="A new experiment.")
class CreateExperimentInput(WriteInput):
    name: str = strawberry.field(
        description="Must be new; at most 250 characters, each of which can be seen, composed "
        "(NFC)."
    )
    description: str | None = strawberry.field(default=None, description="What it is about.")
    owner: str | None = strawberry.field(default=None, description="Who answers for it.")
    tags: list[TagInput] | None = strawberry.field(
        default=None, description="Labels, at most 1,000, of 250,000 characters in all."
    )


@strawberry.input(description="Changes to an experiment; what is left out stays as it is.")
class UpdateExperimentInput(ChangeInput):
    name: str = strawberry.field(description="Which experiment.")
    description: strawberry.Maybe[str | None] = strawberry.field(description="What it is about.")
    owner: strawberry.Maybe[str | None] = strawberry.field(description="Who answers for it.")
    status: ExperimentStatus | None = strawberry.field(default=None, description="Its new status.")
    tags: list[TagInput] | None = strawberry.field(
        default=None,
        description="All its labels from now on, at most 1,000, of 250,000 characters in all.",
    )


@strawberry.type(description="The experiment was made.")
class CreateExperimentSuccess:
    experiment: Experiment = strawberry.field(description="The new experiment.")


@strawberry.type(description="The experiment was changed.")
class UpdateExperimentSuccess:
    experiment: Experiment = strawberry.field(description="The experiment as it is now.")


CreateExperimentResult = Annotated[
    CreateExperimentSuccess | AlreadyExists | InvalidInput | IdempotencyConflict | Unavailable,
    strawberry.union("CreateExperimentResult", description="What came of createExperiment."),
]
UpdateExperimentResult = Annotated[
    UpdateExperimentSuccess
    | NotFound
    | InvalidInput
    | InvalidTransition
    | StaleRevision
    | IdempotencyConflict
    | Unavailable,
    strawberry.union("UpdateExperimentResult", description="What came of updateExperiment."),
]


@strawberry.type
class ExperimentQueries:
    experiment: Experiment | None = found(
        repository.by_names,
        key=its_name,
        leaves=True,
        description="The experiment of this name, or null.",
    )

    @strawberry.field(description="Experiments, newest first unless ordered otherwise.")
    async def experiments(
        self,
        info: Info,
        filter: Annotated[
            ExperimentFilterInput | None, strawberry.argument(description="Which of them.")
        ] = None,
        order_by: Annotated[
            list[ExperimentOrderInput] | None,
            strawberry.argument(description="The first key decides, then the second, …."),
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[Experiment]:
        request = PageRequest.parse(first, after, last, before)
        given = filter or ExperimentFilterInput()
        wanted = ExperimentFilter(given.owner, choices(given.statuses), given.name_contains)
        order = directions(order_by)
        return await listed(
            info,
            Experiment.from_row,
            lambda session: repository.page(session, wanted, order, request),
            lambda session: repository.count(session, wanted),
        )


@strawberry.type
class ExperimentMutations:
    @strawberry.mutation(description="Make an experiment.")
    async def create_experiment(
        self, info: Info, input: Given[CreateExperimentInput]
    ) -> CreateExperimentResult:
        command = parse(service.CreateExperiment, input)
        row = await info.context.write(service.create, command)
        return CreateExperimentSuccess(experiment=Experiment.from_row(row))

    @strawberry.mutation(description="Change an experiment.")
    async def update_experiment(
        self, info: Info, input: Given[UpdateExperimentInput]
    ) -> UpdateExperimentResult:
        command = parse(service.UpdateExperiment, input)
        row = await info.context.write(service.update, command)
        return UpdateExperimentSuccess(experiment=Experiment.from_row(row))
