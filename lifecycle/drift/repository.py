"""All SQL about drift events."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select

from lifecycle.database import ReadSession, WriteSession
from lifecycle.drift.rules import CLOSED, DriftStatus
from lifecycle.drift.tables import DriftEventRow, DriftPolicyRow, DriftResponseRow
from lifecycle.pages import (
    Children,
    Listing,
    Lookup,
    Ordering,
    Page,
    PageRequest,
    among,
    by_count,
    by_id,
    by_time,
    listing,
)
from lifecycle.registry.repository import VersionSelector
from lifecycle.registry.rules import DriftSeverity
from lifecycle.registry.tables import ModelVersionRow

_BY_IDS = Lookup(DriftEventRow, DriftEventRow.id)
_POLICIES_BY_IDS = Lookup(DriftPolicyRow, DriftPolicyRow.id)
_RESPONSES = Children(
    select(DriftResponseRow),
    DriftResponseRow.drift_event_id,
    DriftResponseRow.at,
    DriftResponseRow.id,
)


@dataclass(frozen=True, slots=True)
class DriftEventFilter:
    """Which events; what is None or empty does not restrict."""

    model_name: str | None = None
    severities: tuple[DriftSeverity, ...] = ()
    statuses: tuple[DriftStatus, ...] = ()


async def by_ids(session: ReadSession, ids: Sequence[UUID]) -> dict[UUID, DriftEventRow]:
    """The events among `ids`; those that do not exist are absent."""
    return await _BY_IDS.fetch(session, ids)


async def lock(session: WriteSession, id: UUID) -> DriftEventRow | None:
    """The event as it stands, held until the transaction ends."""
    return await session.get(
        DriftEventRow, id, with_for_update={"key_share": True}, populate_existing=True
    )


async def reported(
    session: WriteSession, selector: VersionSelector, dedup_key: str
) -> DriftEventRow | None:
    """The event that this key stands for, among those of the version that is meant, deleted or not.

    Which version is in a stage may have changed since, by the event itself: then it is the model's
    last event with this key.
    """
    statement = select(DriftEventRow).where(DriftEventRow.dedup_key == dedup_key)
    if selector.in_stage is not None:
        statement = statement.where(DriftEventRow.model_name == selector.in_stage.model_name)
    elif selector.name_version is not None:
        statement = statement.join(
            ModelVersionRow, ModelVersionRow.id == DriftEventRow.model_version_id
        ).where(
            ModelVersionRow.model_name == selector.name_version.model_name,
            ModelVersionRow.version == selector.name_version.version,
        )
    else:
        statement = statement.where(DriftEventRow.model_version_id == selector.id)
    newest = (DriftEventRow.created_at.desc(), DriftEventRow.id.desc())
    return await session.scalar(statement.order_by(*newest).limit(1))


async def unclosed(
    session: ReadSession, deployment_id: UUID, metrics: Sequence[str]
) -> list[tuple[str, DriftSeverity]]:
    """Metric and severity of the events of a deployment, on these metrics, that nobody closed."""
    found = await session.fetch(
        select(DriftEventRow.metric, DriftEventRow.severity).where(
            DriftEventRow.deployment_id == deployment_id,
            among(DriftEventRow.metric, metrics),
            ~among(DriftEventRow.status, sorted(CLOSED)),
        )
    )
    return [(metric, severity) for metric, severity in found]


async def responses(
    session: ReadSession, event_ids: Sequence[UUID]
) -> dict[UUID, list[DriftResponseRow]]:
    """What was done about each event, in order."""
    return await _RESPONSES.fetch(session, event_ids)


async def causes_of_deployments(
    session: ReadSession, deployment_ids: Sequence[UUID]
) -> dict[UUID, DriftEventRow]:
    """The event that each deployment was made because of; others are absent."""
    found = await session.fetch(
        select(DriftResponseRow.deployment_id, DriftEventRow)
        .join(DriftEventRow, DriftEventRow.id == DriftResponseRow.drift_event_id)
        .where(among(DriftResponseRow.deployment_id, deployment_ids))
    )
    return {id: row for id, row in found if id is not None}


async def policies_by_ids(session: ReadSession, ids: Sequence[UUID]) -> dict[UUID, DriftPolicyRow]:
    """The policies among `ids`; those that do not exist are absent."""
    return await _POLICIES_BY_IDS.fetch(session, ids)


async def policy_in_force(session: ReadSession, model_name: str | None) -> DriftPolicyRow:
    """The policy that holds for a model, its own or else the general one; without a model the
    general one."""
    own = None if model_name is None else await last_policy(session, model_name)
    if own is not None and own.responses is not None:
        return own
    general = await last_policy(session, None)
    assert general is not None
    return general


async def last_policy(session: ReadSession, model_name: str | None) -> DriftPolicyRow | None:
    """The newest policy of just this scope: a model, or all."""
    newest = _policies(model_name).order_by(DriftPolicyRow.version.desc()).limit(1)
    return await session.fetch_one(newest)


async def policies_page(
    session: ReadSession, model_name: str | None, request: PageRequest
) -> Page[DriftPolicyRow]:
    """A page of the versions of one scope's policy, newest first."""
    return await _policy_listing(model_name).page(session, request)


async def policies_count(session: ReadSession, model_name: str | None) -> int:
    """How many versions a scope's policy has."""
    return await _policy_listing(model_name).count(session)


@listing
def _policy_listing(model_name: str | None) -> Listing[DriftPolicyRow]:
    keys = [by_count(DriftPolicyRow.version, descending=True), by_id(DriftPolicyRow.id)]
    return Listing(_policies(model_name), Ordering(keys, "drift policies", model_name))


def _policies(model_name: str | None) -> Select[DriftPolicyRow]:
    # Without a model it says IS NULL.
    return select(DriftPolicyRow).where(DriftPolicyRow.model_name == model_name)


def _matching(statement: Select[Any], wanted: DriftEventFilter) -> Select[Any]:
    if wanted.model_name is not None:
        statement = statement.where(DriftEventRow.model_name == wanted.model_name)
    if wanted.severities:
        statement = statement.where(among(DriftEventRow.severity, wanted.severities))
    if wanted.statuses:
        statement = statement.where(among(DriftEventRow.status, wanted.statuses))
    return statement


@listing
def _listing(wanted: DriftEventFilter, parent: Any = None) -> Listing[DriftEventRow]:
    """Newest first."""
    ordering = Ordering(
        [by_time(DriftEventRow.created_at), by_id(DriftEventRow.id)], "drift events", wanted
    )
    return Listing(_matching(select(DriftEventRow), wanted), ordering, parent)


_OF_VERSIONS = _listing(DriftEventFilter(), DriftEventRow.model_version_id)
_OF_DEPLOYMENTS = _listing(DriftEventFilter(), DriftEventRow.deployment_id)


async def page(
    session: ReadSession, wanted: DriftEventFilter, request: PageRequest
) -> Page[DriftEventRow]:
    """A page of all events that match."""
    return await _listing(wanted).page(session, request)


async def count(session: ReadSession, wanted: DriftEventFilter) -> int:
    """How many events match."""
    return await _listing(wanted).count(session)


async def pages_of_versions(
    session: ReadSession, version_ids: Sequence[UUID], request: PageRequest
) -> dict[UUID, Page[DriftEventRow]]:
    """A page of each version's events."""
    return await _OF_VERSIONS.pages(session, version_ids, request)


async def pages_of_deployments(
    session: ReadSession, deployment_ids: Sequence[UUID], request: PageRequest
) -> dict[UUID, Page[DriftEventRow]]:
    """A page of each deployment's events."""
    return await _OF_DEPLOYMENTS.pages(session, deployment_ids, request)


async def counts_of_versions(session: ReadSession, version_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How many events each version has; those without any are absent."""
    return await _OF_VERSIONS.counts(session, version_ids)


async def counts_of_deployments(
    session: ReadSession, deployment_ids: Sequence[UUID]
) -> dict[UUID, int]:
    """How many events each deployment has; those without any are absent."""
    return await _OF_DEPLOYMENTS.counts(session, deployment_ids)
