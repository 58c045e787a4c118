"""All SQL about lineage. An edge of the graph is a foreign key: from the object that it refers to,
upstream, to the one that has it, downstream."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ARRAY, Select, Uuid, bindparam, func, literal, select, true, union
from sqlalchemy.orm import aliased

from lifecycle.database import ReadSession
from lifecycle.datasets import repository as datasets
from lifecycle.datasets.tables import DataSetRow
from lifecycle.deployments import repository as deployments
from lifecycle.deployments.tables import DeploymentRow
from lifecycle.drift import repository as drift
from lifecycle.drift.tables import DriftEventRow
from lifecycle.experiments import repository as experiments
from lifecycle.experiments.tables import ExperimentRow
from lifecycle.lineage.rules import MAX_NODES, LineageDirection, LineageKind, ways
from lifecycle.registry import repository as registry
from lifecycle.registry.tables import ModelVersionRow
from lifecycle.runs import repository as runs
from lifecycle.runs.tables import RunRow
from lifecycle.tables import Identified

# A deployment that the walk came to by a rollback. The walk goes on to those that it replaced, or
# that replaced it, but not to what it ran and showed: that is the lineage of another version.
_ASIDE = "aside"


class Object(NamedTuple):
    """An object by the table that it is in."""

    table: str
    id: UUID


@dataclass(frozen=True, slots=True)
class Edge:
    """That one object led to another."""

    source: Object
    target: Object
    kind: LineageKind


@dataclass(frozen=True, slots=True)
class Lineage:
    """Objects, the one that was asked for first and the others from the nearest on; all edges
    between them; and whether there were too many, so that the oldest of a step are missing."""

    rows: Sequence[Identified]
    edges: Sequence[Edge]
    truncated: bool


class _Link(NamedTuple):
    kind: LineageKind
    source: Any
    target: Any
    key: str


_LINKS = (
    _Link(LineageKind.CONTAINS, ExperimentRow, RunRow, "experiment_id"),
    _Link(LineageKind.USED_BY, DataSetRow, RunRow, "data_set_id"),
    _Link(LineageKind.PARENT_OF, RunRow, RunRow, "parent_id"),
    _Link(LineageKind.PRODUCED, RunRow, ModelVersionRow, "run_id"),
    _Link(LineageKind.DEPLOYED_AS, ModelVersionRow, DeploymentRow, "model_version_id"),
    _Link(LineageKind.ROLLED_BACK_TO, DeploymentRow, DeploymentRow, "rollback_from_id"),
    _Link(LineageKind.SHOWED, ModelVersionRow, DriftEventRow, "model_version_id"),
    _Link(LineageKind.SHOWED, DeploymentRow, DriftEventRow, "deployment_id"),
)
_BY_IDS: Mapping[str, Callable[..., Awaitable[Mapping[UUID, Identified]]]] = {
    "data_set": datasets.by_ids,
    "deployment": deployments.by_ids,
    "drift_event": drift.by_ids,
    "experiment": experiments.by_ids,
    "model_version": registry.versions_by_ids,
    "run": runs.by_ids,
}
# How much of a step is looked at: a deployment may be found twice, by its version and by a
# rollback, and one that is new and too many must be seen to be known of.
_MOST = 2 * MAX_NODES + 1


async def lineage(
    session: ReadSession, of: Object, direction: LineageDirection, depth: int
) -> Lineage | None:
    """What the object came from, what came of it, or both, `depth` steps far; None if there is no
    such object. Takes one statement for each step, and one for each kind of object found."""
    if not await _BY_IDS[of.table](session, [of.id]):
        return None
    found, truncated = {of: None}, False  # a set that keeps its order
    for way in ways(direction):
        truncated |= await _walk(session, of, _STEPS[way], depth, found)
    loaded = await _load(session, found)
    rows = {key: loaded[key] for key in found}
    return Lineage([*rows.values()], _edges(rows), truncated)


async def _walk(
    session: ReadSession, of: Object, step: Select[Any], depth: int, found: dict[Object, None]
) -> bool:
    """Add what is found on the way to `found`; says whether there were too many."""
    truncated = False
    seen: set[Object] = set()
    front = {of}
    for _ in range(depth):
        seen |= front
        parameters = _parameters("front", front) | _parameters("seen", seen)
        front = set()
        for table, id, *_ in await session.fetch(step, parameters):
            key = Object("deployment" if table == _ASIDE else table, id)
            if key not in found and len(found) == MAX_NODES:
                truncated = True
                continue
            found[key] = None
            front.add(Object(table, id))
        if not front:
            break
    return truncated


def _parameters(name: str, keys: Iterable[Object]) -> dict[str, list[UUID]]:
    found: dict[str, list[UUID]] = {f"{name}_{table}": [] for table in (*_BY_IDS, _ASIDE)}
    for table, id in keys:
        found[f"{name}_{table}"].append(id)
    return found


def _ids(name: str, table: str) -> Any:
    return bindparam(f"{name}_{table}", type_=ARRAY(Uuid))


def _step(way: LineageDirection) -> Select[Any]:
    """The statement for a step: what the objects of the front lead to, newest first, without what
    the walk has been to."""
    branches = []
    for link in _LINKS:
        tables = link.source.__tablename__, link.target.__tablename__
        here, there = tables if way is LineageDirection.DOWNSTREAM else tables[::-1]
        if link.kind is LineageKind.ROLLED_BACK_TO:
            branches += [_branch(link, way, start, _ASIDE) for start in (here, _ASIDE)]
        else:
            branches.append(_branch(link, way, here, there))
    every = union(*branches).subquery()
    order = (every.c.created_at.desc(), every.c.id.desc(), every.c.place)
    return select(every).order_by(*order).limit(_MOST)


def _branch(link: _Link, way: LineageDirection, here: str, there: str) -> Select[Any]:
    start = func.unnest(_ids("front", here)).table_valued("id").render_derived()
    source, target = aliased(link.source), aliased(link.target)
    key = getattr(target, link.key)
    if way is LineageDirection.DOWNSTREAM:
        next_, condition = target, key == start.c.id
        statement = select(target.id, target.created_at)
    else:
        next_, condition = source, target.id == start.c.id
        statement = select(source.id, source.created_at).join(target, key == source.id)
    # One for each object of the front, so that none is read to its end.
    inner = (
        statement.where(condition, next_.id != func.all(_ids("seen", there)))
        .order_by(next_.created_at.desc(), next_.id.desc())
        .limit(_MOST)
        .lateral()
    )
    return (
        select(literal(there).label("place"), inner.c.id, inner.c.created_at)
        .select_from(start)
        .join(inner, true())
    )


_STEPS = {way: _step(way) for way in ways(LineageDirection.BOTH)}


async def _load(session: ReadSession, keys: Iterable[Object]) -> dict[Object, Identified]:
    by_table: dict[str, list[UUID]] = {}
    for table, id in keys:
        by_table.setdefault(table, []).append(id)
    return {
        Object(table, id): row
        for table, ids in by_table.items()
        for id, row in (await _BY_IDS[table](session, ids)).items()
    }


def _edges(rows: Mapping[Object, Identified]) -> list[Edge]:
    edges = []
    for target, row in rows.items():
        for link in _LINKS:
            if target.table == link.target.__tablename__:
                source = Object(link.source.__tablename__, getattr(row, link.key))
                if source in rows:
                    edges.append(Edge(source, target, link.kind))
    return edges
