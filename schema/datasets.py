"""Data sets as clients see them."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import strawberry
from strawberry import Private

from lifecycle.datasets import repository
from lifecycle.datasets.repository import DataSetFilter
from lifecycle.datasets.rules import DataSetName
from lifecycle.datasets.tables import DataSetRow
from lifecycle.deployments import repository as deployments
from lifecycle.pages import PageRequest
from lifecycle.runs import repository as runs
from schema.context import Info
from schema.experiments import runs_wanted
from schema.impact import affected
from schema.loaded import Name, found, loaded
from schema.nodes import Node
from schema.pagination import After, Before, Connection, First, Last, listed
from schema.rows import OfRow, shown

if TYPE_CHECKING:
    from schema.deployments import Deployment
    from schema.runs import Run


@strawberry.type(
    description="Data that runs worked on, as their `datasetFacts` name it. The same name with "
    "another digest is another data set."
)
class DataSet(Node, OfRow[DataSetRow]):
    row: Private[DataSetRow]
    keys = ("id",)
    name: str = shown(description="The `name` in the facts.")
    digest: str | None = shown(
        description="The `digest` in the facts: what its content is known by. Null if they have "
        "none."
    )
    created_by: str = shown(description="Who first logged a run on it.")
    created_at: datetime = shown(description="When that was.")

    runs: Connection[Annotated["Run", strawberry.lazy("schema.runs")]] = loaded(
        runs.pages_of_data_sets,
        by="id",
        given=runs_wanted,
        counts=runs.counts_of_data_sets,
        leaves=True,
        description="The runs whose facts name it, newest first unless ordered otherwise.",
    )

    affected_deployments: Connection[
        Annotated["Deployment", strawberry.lazy("schema.deployments")]
    ] = loaded(
        deployments.pages_affected_by_data_sets,
        by="id",
        given=affected,
        counts=deployments.counts_affected_by_data_sets,
        description="The deployments of what came out of its runs and the runs that are parts of "
        "them, newest first.",
    )


@strawberry.input(name="DataSetFilter", description="What is left out does not restrict.")
class DataSetFilterInput:
    name: str | None = strawberry.field(
        default=None, description="Of exactly this name, whatever the digest."
    )


def _named(
    name: Name,
    digest: Annotated[
        str | None,
        strawberry.argument(
            description="Its digest; without it the one that was logged without. `dataSets` "
            "has all of a name."
        ),
    ] = None,
) -> DataSetName:
    return DataSetName(name, digest)


@strawberry.type
class DataSetQueries:
    data_set: DataSet | None = found(
        repository.by_names, key=_named, description="One data set, or null."
    )

    @strawberry.field(description="Data sets, newest first.")
    async def data_sets(
        self,
        info: Info,
        filter: Annotated[
            DataSetFilterInput | None, strawberry.argument(description="Which of them.")
        ] = None,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
    ) -> Connection[DataSet]:
        request = PageRequest.parse(first, after, last, before)
        wanted = DataSetFilter(filter.name if filter else None)
        return await listed(
            info,
            DataSet.from_row,
            lambda session: repository.page(session, wanted, request),
            lambda session: repository.count(session, wanted),
        )
