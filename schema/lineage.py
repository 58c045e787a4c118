"""Lineage as clients see it."""

from typing import Annotated, Any

import strawberry

from lifecycle.errors import InvalidInput
from lifecycle.lineage import repository, rules
from lifecycle.lineage.repository import Object
from lifecycle.lineage.rules import LineageDirection, LineageKind
from schema import ids
from schema.context import Info
from schema.datasets import DataSet
from schema.deployments import Deployment
from schema.drift import DriftEvent
from schema.experiments import Experiment
from schema.nodes import Node
from schema.registry import ModelVersion
from schema.runs import Run

_TYPES: dict[str, Any] = {
    "data_set": DataSet,
    "deployment": Deployment,
    "drift_event": DriftEvent,
    "experiment": Experiment,
    "model_version": ModelVersion,
    "run": Run,
}
_TABLES = {type_.__name__: table for table, type_ in _TYPES.items()}


@strawberry.type(description="That one object led to another: `from` is upstream of `to`.")
class LineageEdge:
    from_: strawberry.ID = strawberry.field(name="from", description="The id of the one.")
    to: strawberry.ID = strawberry.field(description="The id of the other.")
    kind: LineageKind = strawberry.field(description="How it led there.")


@strawberry.type(description="A part of what came of what.")
class Lineage:
    nodes: list[Node] = strawberry.field(
        description="The object itself, then what it came from, then what came of it, each from "
        "the nearest on; of equally near ones the newest first."
    )
    edges: list[LineageEdge] = strawberry.field(description="All edges between these nodes.")
    truncated: bool = strawberry.field(
        description="There would have been more than 1,000 nodes within `depth`; what is missing "
        "is the oldest of a step, and what only that led to."
    )


@strawberry.type
class LineageQueries:
    @strawberry.field(
        description="What an object came from and what came of it; null if it does not exist. "
        "Goes from an experiment or a data set over runs and versions to deployments and drift, or "
        "back. Deleted versions are part of it."
    )
    async def lineage(
        self,
        info: Info,
        of: Annotated[
            strawberry.ID,
            strawberry.argument(
                description="An experiment, data set, run, model version, deployment or drift "
                "event."
            ),
        ],
        direction: Annotated[
            LineageDirection, strawberry.argument(description="Which way to go.")
        ] = LineageDirection.BOTH,
        depth: Annotated[int, strawberry.argument(description="How many edges far, 1 to 10.")] = 5,
    ) -> Lineage | None:
        kind, key = ids.split(of, ("of",))
        if kind not in _TABLES:
            raise InvalidInput(f"This is the id of a {kind}, which has no lineage.", ("of",))
        rules.check_depth(depth)
        async with info.context.database.read() as session:
            start = Object(_TABLES[kind], key)
            found = await repository.lineage(session, start, direction, depth)
        if found is None:
            return None
        return Lineage(
            nodes=[_TYPES[row.__tablename__].from_row(row) for row in found.rows],
            edges=[
                LineageEdge(from_=_id(edge.source), to=_id(edge.target), kind=edge.kind)
                for edge in found.edges
            ],
            truncated=found.truncated,
        )


def _id(key: Object) -> strawberry.ID:
    return ids.encode(_TYPES[key.table].__name__, key.id)
