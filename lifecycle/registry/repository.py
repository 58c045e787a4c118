"""All SQL about models, their versions and the versions' metrics.

Deleted versions are in no list and answer to no selector; by id they are found for ever.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache, partial
from itertools import groupby
from operator import attrgetter
from typing import TypeVarTuple
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy import (
    ARRAY,
    BindParameter,
    ColumnElement,
    Select,
    Uuid,
    and_,
    any_,
    bindparam,
    delete,
    func,
    literal_column,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import insert

from lifecycle.commands import Name
from lifecycle.database import ReadSession, WriteSession, together
from lifecycle.pages import (
    LISTS,
    PARENTS,
    Children,
    Listing,
    Lookup,
    Ordering,
    Page,
    PageRequest,
    among,
    by_id,
    by_text,
    by_time,
    listing,
)
from lifecycle.registry.rules import ApprovalStatus, Stage
from lifecycle.registry.tables import ModelRow, ModelVersionRow, VersionMetricRow
from lifecycle.runs.metrics import MetricValue
from lifecycle.statements import Names, Prepared, names_looked_at, part_of

Columns = TypeVarTuple("Columns")

_MODELS_BY_IDS = Lookup(ModelRow, ModelRow.id)
_MODELS_BY_NAMES = Lookup(ModelRow, ModelRow.name)
_VERSIONS_BY_IDS = Lookup(ModelVersionRow, ModelVersionRow.id)
_VERSIONS_OF_RUNS = Children(
    select(ModelVersionRow).where(ModelVersionRow.deleted_at.is_(None)),
    ModelVersionRow.run_id,
    ModelVersionRow.created_at,
    ModelVersionRow.id,
)
# Said by its name and not by a parameter, so that PostgreSQL knows that the index serves it.
_PRODUCTION = ModelVersionRow.stage == literal_column(f"'{Stage.PRODUCTION}'")
_HOLDERS = Lookup(ModelVersionRow, ModelVersionRow.model_id, _PRODUCTION)
_METRICS = Children(
    select(VersionMetricRow), VersionMetricRow.model_version_id, VersionMetricRow.key
)


def _held(statement: Select[*Columns]) -> Select[*Columns]:
    """The same rows as they stand, held until the transaction ends."""
    return statement.with_for_update(key_share=True).execution_options(populate_existing=True)


def _in_production(model_id: UUID | BindParameter[UUID]) -> ColumnElement[bool]:
    return and_(ModelVersionRow.model_id == model_id, _PRODUCTION)


def _with_holder(meant: Select[ModelVersionRow]) -> Select[ModelVersionRow, bool]:
    """The version that is meant, and the one in production of the model that holds it."""
    id = meant.with_only_columns(ModelVersionRow.id).correlate(None).scalar_subquery()
    is_meant = ModelVersionRow.id == id
    return (
        select(ModelVersionRow, is_meant)
        .where(or_(is_meant, _in_production(bindparam("model_id"))))
        .order_by(ModelVersionRow.id)
    )


# The version that a selector means, by the way in which it says so. To make a statement takes
# longer than to execute it: those of every promotion are made once.
_THERE = select(ModelVersionRow).where(ModelVersionRow.deleted_at.is_(None))
_MEANT = {
    "id": _THERE.where(ModelVersionRow.id == bindparam("id")),
    "name_version": _THERE.where(
        ModelVersionRow.model_name == bindparam("model_name"),
        ModelVersionRow.version == bindparam("version"),
    ),
    "in_stage": _THERE.where(
        ModelVersionRow.model_name == bindparam("model_name"),
        ModelVersionRow.stage == bindparam("stage"),
    )
    .order_by(ModelVersionRow.stage_changed_at.desc(), ModelVersionRow.id.desc())
    .limit(1),
}
_BY_NAME = select(ModelRow.id).where(ModelRow.name == bindparam("model_name"))
# The model of a version never changes.
_MODEL_ID = select(ModelVersionRow.model_id).where(ModelVersionRow.id == bindparam("id"))
_LOCK_MODEL = {
    "id": Prepared(_held(select(ModelRow.id).where(ModelRow.id == _MODEL_ID.scalar_subquery()))),
    "name_version": Prepared(_held(_BY_NAME)),
    "in_stage": Prepared(_held(_BY_NAME)),
}
_LOCK_WITH_HOLDER = {how: Prepared(_held(_with_holder(meant))) for how, meant in _MEANT.items()}


class _Selector(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NameVersion(_Selector):
    """A version by the name of its model and its own."""

    model_name: Name
    version: Name


class NameStage(_Selector):
    """The version of a model that is in a stage; of several, the last that came into it."""

    model_name: Name
    stage: Stage


class VersionSelector(_Selector):
    """Exactly one way to say which version is meant."""

    id: UUID | None = None
    name_version: NameVersion | None = None
    in_stage: NameStage | None = None

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # It is looked up a dozen times while it is found, each of which takes pydantic a while.
        return hash((self.id, self.name_version, self.in_stage))

    def __str__(self) -> str:
        if self.name_version:
            return f"{self.name_version.version} of model {self.name_version.model_name}"
        if self.in_stage:
            return f"in stage {self.in_stage.stage} of model {self.in_stage.model_name}"
        return "with this id"


@dataclass(frozen=True, slots=True)
class ModelFilter:
    """Which models; what is None does not restrict."""

    owner: str | None = None
    name_contains: str | None = None


@dataclass(frozen=True, slots=True)
class VersionFilter:
    """Which versions; what is None or empty does not restrict."""

    model_name: str | None = None
    stages: tuple[Stage, ...] = ()
    approval_statuses: tuple[ApprovalStatus, ...] = ()


class VersionOrderField(StrEnum):
    CREATED_AT = "CREATED_AT"
    UPDATED_AT = "UPDATED_AT"


async def models_by_ids(session: ReadSession, ids: Sequence[UUID]) -> dict[UUID, ModelRow]:
    """The models among `ids`; those that do not exist are absent."""
    return await _MODELS_BY_IDS.fetch(session, ids)


async def models_by_names(session: ReadSession, names: Sequence[str]) -> dict[str, ModelRow]:
    """The models among `names`; those that do not exist are absent."""
    return await _MODELS_BY_NAMES.fetch(session, names)


async def versions_by_ids(session: ReadSession, ids: Sequence[UUID]) -> dict[UUID, ModelVersionRow]:
    """The versions among `ids`, deleted ones too; those that never existed are absent."""
    return await _VERSIONS_BY_IDS.fetch(session, ids)


def _meant(selector: VersionSelector) -> tuple[str, dict[str, object]]:
    """Which of `_MEANT` a selector stands for, and the values of its parameters."""
    if selector.name_version is not None:
        return "name_version", vars(selector.name_version)
    if selector.in_stage is not None:
        return "in_stage", vars(selector.in_stage)
    return "id", {"id": selector.id}


async def find(session: ReadSession, selector: VersionSelector) -> ModelVersionRow | None:
    """The version that is meant, unless it was deleted."""
    how, names = _meant(selector)
    return await session.fetch_one(_find(how, names_looked_at()), names)


async def meant(
    session: ReadSession, selectors: Sequence[VersionSelector]
) -> dict[VersionSelector, ModelVersionRow]:
    """The versions that are meant; those that do not exist, or were deleted, are absent."""
    found = await together(session, [partial(find, selector=each) for each in selectors])
    return {each: row for each, row in zip(selectors, found, strict=True) if row is not None}


@lru_cache(LISTS)
def _find(how: str, names: Names) -> Prepared[ModelVersionRow]:
    return Prepared(_MEANT[how].with_only_columns(part_of(ModelVersionRow, names)))


async def lock_version(session: WriteSession, selector: VersionSelector) -> ModelVersionRow | None:
    """The version that is meant, held until the transaction ends. None also when it has been
    deleted, or has left the stage, while this waited for it."""
    how, names = _meant(selector)
    return await session.scalar(_held(_MEANT[how]), names)


async def lock_model(session: WriteSession, id: UUID) -> ModelRow:
    """The model as it stands, held until the transaction ends. It must exist."""
    return await session.get_one(
        ModelRow, id, with_for_update={"key_share": True}, populate_existing=True
    )


async def lock_model_of(session: WriteSession, selector: VersionSelector) -> UUID | None:
    """The id of the model of the version that is meant; the model is held until the transaction
    ends. Whether there is such a version is seen once it is held."""
    how, names = _meant(selector)
    found = await session.lock(_LOCK_MODEL[how], names)
    return found[0] if found else None


async def lock_with_holder(
    session: WriteSession, model_id: UUID, selector: VersionSelector
) -> ModelVersionRow | None:
    """The version that is meant and the one that is in production, held until the transaction
    ends, locked in order of id; the first of them is returned.

    The caller holds the model locked, so that nothing moves or is deleted between this and the
    decision.
    """
    how, names = _meant(selector)
    statement = _LOCK_WITH_HOLDER[how].statement
    rows = await session.execute(statement, {**names, "model_id": model_id})
    return next((row for row, is_it in rows if is_it), None)


async def row_with_holder(
    session: WriteSession, model_id: UUID, selector: VersionSelector
) -> ModelVersionRow | None:
    """The same as a plain row: for whoever changes no attribute of it."""
    how, names = _meant(selector)
    rows = await session.lock(_LOCK_WITH_HOLDER[how], {**names, "model_id": model_id})
    return next((row for row, is_it in rows if is_it), None)


async def lock_versions(session: WriteSession, ids: Sequence[UUID]) -> dict[UUID, ModelVersionRow]:
    """These versions as they stand, held until the transaction ends, locked in order of id."""
    rows = await session.scalars(
        select(ModelVersionRow)
        .where(among(ModelVersionRow.id, ids))
        .order_by(ModelVersionRow.id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    return {row.id: row for row in rows}


async def in_production(session: ReadSession, model_id: UUID) -> UUID | None:
    """The id of the version that is in production now."""
    return await session.fetch_one(select(ModelVersionRow.id).where(_in_production(model_id)))


async def holders(session: ReadSession, model_ids: Sequence[UUID]) -> dict[UUID, ModelVersionRow]:
    """The version of each model that is in production now; models without one are absent."""
    return await _HOLDERS.fetch(session, model_ids)


async def ensure_model(session: WriteSession, name: str, actor: str) -> tuple[ModelRow, bool]:
    """The model of this name, locked, and whether it has just been made."""
    made = await session.scalar(
        insert(ModelRow)
        .values(name=name, tags={}, created_by=actor)
        .on_conflict_do_nothing()
        .returning(ModelRow.id)
    )
    row = (
        await session.scalars(
            select(ModelRow).where(ModelRow.name == name).with_for_update(key_share=True)
        )
    ).one()
    return row, made is not None


async def taken_versions(
    session: ReadSession, model_name: str, versions: Sequence[str]
) -> set[str]:
    """Which of these names the model's versions have, deleted ones included."""
    rows = await session.fetch(
        select(ModelVersionRow.version).where(
            ModelVersionRow.model_name == model_name, among(ModelVersionRow.version, versions)
        )
    )
    return set(rows)


@listing
def _models(wanted: ModelFilter) -> Listing[ModelRow]:
    """By name."""
    statement = select(ModelRow)
    if wanted.owner is not None:
        statement = statement.where(ModelRow.owner == wanted.owner)
    if wanted.name_contains:
        # In collation "C", which the column has, only A to Z have small letters.
        name = ModelRow.name.collate("default")
        statement = statement.where(name.icontains(wanted.name_contains, autoescape=True))
    keys = [by_text(ModelRow.name), by_id(ModelRow.id, descending=False)]
    return Listing(statement, Ordering(keys, "models", wanted))


async def models_page(
    session: ReadSession, wanted: ModelFilter, request: PageRequest
) -> Page[ModelRow]:
    """A page of the models, by name."""
    return await _models(wanted).page(session, request)


async def models_count(session: ReadSession, wanted: ModelFilter) -> int:
    """How many models match."""
    return await _models(wanted).count(session)


_TIMES = {
    VersionOrderField.CREATED_AT: ModelVersionRow.created_at,
    VersionOrderField.UPDATED_AT: ModelVersionRow.updated_at,
}


@listing
def _versions(
    wanted: VersionFilter, order: tuple[tuple[VersionOrderField, bool], ...]
) -> Listing[ModelVersionRow]:
    """Newest first unless told otherwise."""
    statement = select(ModelVersionRow).where(ModelVersionRow.deleted_at.is_(None))
    if wanted.model_name is not None:
        statement = statement.where(ModelVersionRow.model_name == wanted.model_name)
    if wanted.stages:
        statement = statement.where(among(ModelVersionRow.stage, wanted.stages))
    if wanted.approval_statuses:
        approved = among(ModelVersionRow.approval_status, wanted.approval_statuses)
        statement = statement.where(approved)
    order = order or ((VersionOrderField.CREATED_AT, True),)
    keys = [by_time(_TIMES[field], descending=down) for field, down in order]
    last = by_id(ModelVersionRow.id, descending=order[-1][1])
    ordering = Ordering([*keys, last], "versions", wanted, order)
    return Listing(statement, ordering, ModelVersionRow.model_id)


async def versions_page(
    session: ReadSession,
    wanted: VersionFilter,
    order: tuple[tuple[VersionOrderField, bool], ...],
    request: PageRequest,
) -> Page[ModelVersionRow]:
    """A page of the versions of all models."""
    return await _versions(wanted, order).page(session, request)


async def versions_count(session: ReadSession, wanted: VersionFilter) -> int:
    """How many versions match."""
    return await _versions(wanted, ()).count(session)


async def versions_of_models(
    session: ReadSession, model_ids: Sequence[UUID], wanted: VersionFilter, request: PageRequest
) -> dict[UUID, Page[ModelVersionRow]]:
    """A page of each model's versions, newest first."""
    return await _versions(wanted, ()).pages(session, model_ids, request)


async def version_counts_of_models(
    session: ReadSession, model_ids: Sequence[UUID], wanted: VersionFilter
) -> dict[UUID, int]:
    """How many of each model's versions match; models without any are absent."""
    return await _versions(wanted, ()).counts(session, model_ids)


async def versions_of_runs(
    session: ReadSession, run_ids: Sequence[UUID]
) -> dict[UUID, list[ModelVersionRow]]:
    """The versions that came out of each run, oldest first, without deleted ones."""
    return await _VERSIONS_OF_RUNS.fetch(session, run_ids)


async def models_of_run(session: ReadSession, run_id: UUID) -> list[UUID]:
    """The models whose versions came out of a run, deleted ones too."""
    found = select(ModelVersionRow.model_id).where(ModelVersionRow.run_id == run_id).distinct()
    return list(await session.fetch(found))


async def versions_by_names(
    session: ReadSession, model_name: str, versions: Sequence[str]
) -> dict[str, ModelVersionRow]:
    """Versions of one model by their names, without deleted ones."""
    rows = await session.fetch(
        select(ModelVersionRow).where(
            ModelVersionRow.model_name == model_name,
            among(ModelVersionRow.version, versions),
            ModelVersionRow.deleted_at.is_(None),
        )
    )
    return {row.version: row for row in rows}


async def metrics(
    session: ReadSession, version_ids: Sequence[UUID]
) -> Mapping[UUID, Sequence[MetricValue]]:
    """Each version's metrics, by key."""
    return await _METRICS.fetch(session, version_ids)


_METRICS_BESIDE = Prepared(
    select(VersionMetricRow)
    .where(
        VersionMetricRow.model_version_id
        == any_(
            PARENTS.concat(
                func.array(
                    select(ModelVersionRow.id)
                    .where(
                        ModelVersionRow.model_id == any_(bindparam("models", type_=ARRAY(Uuid))),
                        _PRODUCTION,
                    )
                    .scalar_subquery()
                )
            )
        )
    )
    .order_by(VersionMetricRow.model_version_id, VersionMetricRow.key)
)


async def metrics_beside(
    session: ReadSession, version_ids: Sequence[UUID], model_ids: Sequence[UUID]
) -> Mapping[UUID, Sequence[MetricValue]]:
    """The metrics of each version, and of those that are in production of these models, by key."""
    wanted = {"parents": list(version_ids), "models": list(model_ids)}
    rows = await session.fetch(_METRICS_BESIDE, wanted)
    return {id: list(found) for id, found in groupby(rows, attrgetter("model_version_id"))}


async def remove_metrics(session: WriteSession, version_id: UUID) -> None:
    """Leave the version without metrics."""
    await session.execute(
        delete(VersionMetricRow).where(VersionMetricRow.model_version_id == version_id)
    )


async def add_metrics(
    session: WriteSession, version_id: UUID, metrics: Sequence[MetricValue]
) -> None:
    """Give the version metrics, of keys that it does not have."""
    if metrics:
        await session.execute(
            insert(VersionMetricRow),
            [
                {
                    "model_version_id": version_id,
                    "key": metric.key,
                    "value": metric.value,
                    "step": metric.step,
                    "timestamp": metric.timestamp,
                }
                for metric in metrics
            ],
        )
