"""All SQL about stage history and checklists."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.dialects.postgresql import distinct_on

from lifecycle.database import ReadSession, WriteSession
from lifecycle.pages import (
    Ordering,
    Page,
    PageRequest,
    among,
    by_id,
    by_time,
    fetch_all,
    fetch_each,
    totals,
)
from lifecycle.promotion.tables import ChecklistItemRow, StageAssignmentRow
from lifecycle.registry.rules import Stage


async def history_pages(
    session: ReadSession, model_ids: Sequence[UUID], stages: tuple[Stage, ...], request: PageRequest
) -> dict[UUID, Page[StageAssignmentRow]]:
    """A page of each model's stage history, newest first; all stages when none are given."""
    ordering = Ordering(
        [by_time(StageAssignmentRow.valid_from), by_id(StageAssignmentRow.id)],
        "stage history",
        stages,
    )
    return await fetch_each(
        session,
        model_ids,
        StageAssignmentRow,
        StageAssignmentRow.model_id,
        _in_stages(stages),
        ordering,
        request,
    )


async def history_counts(
    session: ReadSession, model_ids: Sequence[UUID], stages: tuple[Stage, ...]
) -> dict[UUID, int]:
    """How many entries each model's stage history has."""
    return await totals(session, model_ids, StageAssignmentRow.model_id, _in_stages(stages))


async def history_of_versions(
    session: ReadSession, version_ids: Sequence[UUID]
) -> dict[UUID, list[StageAssignmentRow]]:
    """The stages that each version was in, oldest first."""
    statement = select(StageAssignmentRow).order_by(StageAssignmentRow.valid_from)
    column = StageAssignmentRow.model_version_id
    return await fetch_all(session, version_ids, column, statement)


def _in_stages(stages: tuple[Stage, ...]) -> Select[Any]:
    statement = select(StageAssignmentRow)
    return statement.where(StageAssignmentRow.stage.in_(stages)) if stages else statement


async def versions_in_stage(
    session: ReadSession, model_ids: Sequence[UUID], stage: Stage, at: datetime | None
) -> dict[UUID, UUID]:
    """Which version of each model was in the stage at that moment, or is now; of several, the last
    that came into it."""
    statement = (
        select(StageAssignmentRow.model_id, StageAssignmentRow.model_version_id)
        .ext(distinct_on(StageAssignmentRow.model_id))
        .where(among(StageAssignmentRow.model_id, model_ids))
        .where(StageAssignmentRow.stage == stage)
        .order_by(
            StageAssignmentRow.model_id,
            StageAssignmentRow.valid_from.desc(),
            StageAssignmentRow.id.desc(),
        )
    )
    if at is None:
        statement = statement.where(StageAssignmentRow.valid_to.is_(None))
    else:
        statement = statement.where(
            StageAssignmentRow.valid_from <= at,
            or_(StageAssignmentRow.valid_to.is_(None), StageAssignmentRow.valid_to > at),
        )
    return {model_id: version_id for model_id, version_id in await session.execute(statement)}  # noqa: C416


async def displaced_by(session: ReadSession, entry_ids: Sequence[UUID]) -> dict[UUID, list[UUID]]:
    """The versions that each of these entries pushed out of its stage."""
    statement = select(StageAssignmentRow).order_by(StageAssignmentRow.id)
    column = StageAssignmentRow.replaced_by_id
    rows = await fetch_all(session, entry_ids, column, statement)
    return {id: [row.model_version_id for row in replaced] for id, replaced in rows.items()}


async def close_entry(session: WriteSession, version_id: UUID, moment: datetime) -> None:
    """End the version's present entry. The caller holds the version locked."""
    await session.execute(
        update(StageAssignmentRow)
        .where(
            StageAssignmentRow.model_version_id == version_id,
            StageAssignmentRow.valid_to.is_(None),
        )
        .values(valid_to=moment)
    )


async def moment(session: WriteSession, model_id: UUID) -> datetime:
    """When a stage of the model changes now: after every change so far, even if the clock was set
    back. The caller holds the model locked."""
    last = select(func.max(StageAssignmentRow.valid_from)).where(
        StageAssignmentRow.model_id == model_id
    )
    after = last.scalar_subquery() + timedelta(microseconds=1)
    statement = select(func.greatest(func.clock_timestamp(), after))
    now: datetime = (await session.scalars(statement)).one()
    return now


async def checklists(
    session: ReadSession, version_ids: Sequence[UUID]
) -> dict[UUID, list[ChecklistItemRow]]:
    """Each version's checklist, in its order."""
    statement = select(ChecklistItemRow).order_by(ChecklistItemRow.place)
    column = ChecklistItemRow.model_version_id
    return await fetch_all(session, version_ids, column, statement)


async def last_place(session: WriteSession, version_id: UUID) -> int:
    """The place of the last item; 0 when there is none. The caller holds the version locked."""
    place = await session.scalar(
        select(func.max(ChecklistItemRow.place)).where(
            ChecklistItemRow.model_version_id == version_id
        )
    )
    return place or 0


async def item(session: ReadSession, id: UUID) -> ChecklistItemRow | None:
    """One checklist item as the database has it now."""
    return await session.get(ChecklistItemRow, id, populate_existing=True)
