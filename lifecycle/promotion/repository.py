"""All SQL about policies, reports, approvals, stage history and checklists."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, TypeAlias
from uuid import UUID

from pydantic import Discriminator, TypeAdapter
from sqlalchemy import (
    Select,
    Uuid,
    any_,
    bindparam,
    case,
    func,
    literal,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, aggregate_order_by, distinct_on
from sqlalchemy.orm import aliased

from lifecycle.access.rules import SYSTEM
from lifecycle.database import ReadSession, WriteSession, clock, together
from lifecycle.journal.tables import EventRow
from lifecycle.kept import Kept
from lifecycle.pages import (
    PARENTS,
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
from lifecycle.promotion.evaluation import Policy
from lifecycle.promotion.gates import (
    ApprovalFacts,
    BaselineFacts,
    Check,
    Facts,
    Report,
    Rule,
    RunFacts,
)
from lifecycle.promotion.rules import ENDED, IN_FORCE, OPEN, ChecklistStatus, Decision
from lifecycle.promotion.tables import (
    ApprovalDecisionRow,
    ApprovalRow,
    ChecklistItemRow,
    StageAssignmentRow,
    StagePolicyRow,
    ValidationReportRow,
)
from lifecycle.registry import repository as registry
from lifecycle.registry.rules import ApprovalStatus, Stage
from lifecycle.registry.tables import ModelVersionRow
from lifecycle.runs import repository as runs
from lifecycle.runs.tables import RunRow
from lifecycle.statements import Prepared, looking_at, part_of
from lifecycle.tables import Base

# Whoever decides by a policy shares this lock and holds the model. Whoever changes a model's policy
# does the same, and whoever changes a general one has the lock alone: a decision is made before a
# change or after it, and who has only one model does not hold up the others. Any constant will do
# that nothing else on the same database uses.
_POLICIES = 0x706F6C69

Rules: TypeAlias = tuple[Annotated[Rule, Discriminator("kind")], ...]
RULES: TypeAdapter[Rules] = TypeAdapter(Rules)
_CHECKS: TypeAdapter[tuple[Check, ...]] = TypeAdapter(tuple[Check, ...])


_HOLD = Prepared(text(f"SELECT pg_advisory_xact_lock_shared({_POLICIES})"))

_MOMENT = Prepared(
    select(
        func.greatest(
            func.clock_timestamp(),
            func.max(StageAssignmentRow.valid_from) + text("interval '1 microsecond'"),
        )
    ).where(StageAssignmentRow.model_id == bindparam("model_id"))
)

# What is said of one version is compared with what is said of others of the same model.
_SAID = Prepared(
    select(
        func.greatest(
            func.clock_timestamp(),
            func.max(
                func.greatest(
                    ApprovalRow.submitted_at,
                    ApprovalRow.decided_at,
                    ApprovalRow.withdrawn_at,
                    ApprovalRow.overruled_at,
                    ApprovalRow.used_at,
                )
            )
            + text("interval '1 microsecond'"),
        )
    )
    .join(ModelVersionRow, ModelVersionRow.id == ApprovalRow.model_version_id)
    .where(ModelVersionRow.model_id == bindparam("model_id"))
)

_CLOSE = """
UPDATE stage_assignment SET valid_to = :moment
WHERE model_version_id = ANY(:version_ids) AND valid_to IS NULL
"""
_LEAVE = Prepared(text(_CLOSE))
# One statement for all that a move writes into tables of its own. What is entered waits for what is
# closed, because the entries must not overlap; foreign keys are checked when all is there.
_ENTER = Prepared(
    text(f"""
WITH closed AS ({_CLOSE} RETURNING id), used AS (
    UPDATE approval SET used_at = greatest(:moment, decided_at)
    WHERE id = :approval_id AND used_at IS NULL
), reported AS (
    INSERT INTO validation_report
    SELECT * FROM jsonb_populate_recordset(CAST(NULL AS validation_report), :reports)
)
INSERT INTO stage_assignment
SELECT * FROM jsonb_populate_recordset(CAST(NULL AS stage_assignment), :entries)
WHERE (SELECT count(*) FROM closed) > 0
""").bindparams(bindparam("reports", type_=JSONB), bindparam("entries", type_=JSONB))
)


async def history_pages(
    session: ReadSession, model_ids: Sequence[UUID], stages: tuple[Stage, ...], request: PageRequest
) -> dict[UUID, Page[StageAssignmentRow]]:
    """A page of each model's stage history, newest first; all stages when none are given."""
    return await _history(stages).pages(session, model_ids, request)


async def history_counts(
    session: ReadSession, model_ids: Sequence[UUID], stages: tuple[Stage, ...]
) -> dict[UUID, int]:
    """How many entries each model's stage history has."""
    return await _history(stages).counts(session, model_ids)


@listing
def _history(stages: tuple[Stage, ...]) -> Listing[StageAssignmentRow]:
    statement = select(StageAssignmentRow)
    if stages:
        statement = statement.where(among(StageAssignmentRow.stage, stages))
    keys = [by_time(StageAssignmentRow.valid_from), by_id(StageAssignmentRow.id)]
    ordering = Ordering(keys, "stage history", stages)
    return Listing(statement, ordering, StageAssignmentRow.model_id)


_HISTORY_OF_VERSIONS = Children(
    select(StageAssignmentRow),
    StageAssignmentRow.model_version_id,
    StageAssignmentRow.valid_from,
)


async def history_of_versions(
    session: ReadSession, version_ids: Sequence[UUID]
) -> dict[UUID, list[StageAssignmentRow]]:
    """The stages that each version was in, oldest first."""
    return await _HISTORY_OF_VERSIONS.fetch(session, version_ids)


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
    return {model_id: version_id for model_id, version_id in await session.fetch(statement)}  # noqa: C416


_REPLACED = Prepared(
    select(StageAssignmentRow.replaced_by_id, StageAssignmentRow.model_version_id)
    .where(StageAssignmentRow.replaced_by_id == any_(PARENTS))
    .order_by(StageAssignmentRow.id)
)


async def displaced_by(session: ReadSession, entry_ids: Sequence[UUID]) -> dict[UUID, list[UUID]]:
    """The versions that each of these entries pushed out of its stage."""
    found: dict[UUID, list[UUID]] = {}
    for id, version_id in await session.fetch(_REPLACED, {"parents": list(entry_ids)}):
        if id is not None:
            found.setdefault(id, []).append(version_id)
    return found


async def enter(
    session: WriteSession,
    entries: Sequence[StageAssignmentRow],
    report: ValidationReportRow | None,
    moment: datetime,
) -> None:
    """End the present entries of these entries' versions, and store these, with what the policy
    found. The approval that lets one in is used now, unless it was before. The caller holds the
    versions locked."""
    await session.fetch(
        _ENTER,
        {
            "entries": [_record(entry) for entry in entries],
            "reports": [_record(report)] if report else [],
            "version_ids": [entry.model_version_id for entry in entries],
            "approval_id": next((each.approval_id for each in entries if each.approval_id), None),
            "moment": moment,
        },
    )


def _record(row: Base) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in row.__table__.columns}


async def leave(session: WriteSession, version_id: UUID, moment: datetime) -> None:
    """End a version's present entry, after which there is none. The caller holds it locked."""
    await session.fetch(_LEAVE, {"version_ids": [version_id], "moment": moment})


async def moment(session: ReadSession, model_id: UUID) -> datetime:
    """When a stage of the model changes now: after every change so far, even if the clock was set
    back. The caller holds the model locked."""
    now: datetime
    (now,) = await session.fetch(_MOMENT, {"model_id": model_id})
    return now


async def said_at(session: ReadSession, model_id: UUID) -> datetime:
    """When something is submitted or said of it now: after all that was of the model's versions so
    far, even if the clock was set back, because the last word counts. The caller holds the model
    locked."""
    now: datetime
    (now,) = await session.fetch(_SAID, {"model_id": model_id})
    return now


_CHECKLISTS = Children(
    select(ChecklistItemRow), ChecklistItemRow.model_version_id, ChecklistItemRow.place
)


async def checklists(
    session: ReadSession, version_ids: Sequence[UUID]
) -> dict[UUID, list[ChecklistItemRow]]:
    """Each version's checklist, in its order."""
    return await _CHECKLISTS.fetch(session, version_ids)


async def last_place(session: WriteSession, version_id: UUID) -> int:
    """The place of the last item; 0 when there is none. The caller holds the version locked."""
    place = await session.scalar(
        select(func.max(ChecklistItemRow.place)).where(
            ChecklistItemRow.model_version_id == version_id
        )
    )
    return place or 0


async def approved_items(session: WriteSession, version_id: UUID) -> Sequence[ChecklistItemRow]:
    """Those items of a version's checklist that are approved, in their order."""
    found = await session.scalars(
        select(ChecklistItemRow)
        .where(
            ChecklistItemRow.model_version_id == version_id,
            ChecklistItemRow.status == ChecklistStatus.APPROVED,
        )
        .order_by(ChecklistItemRow.place)
        .execution_options(populate_existing=True)
    )
    return found.all()


async def item(session: WriteSession, id: UUID) -> ChecklistItemRow | None:
    """One checklist item as the database has it now."""
    return await session.get(ChecklistItemRow, id, populate_existing=True)


# Policies


async def hold_policies(session: WriteSession) -> None:
    """No policy of a model that the caller then locks changes until the transaction ends. To be
    called before any row is locked."""
    await session.fetch(_HOLD)


async def hold_policies_alone(session: WriteSession, model_id: UUID | None) -> None:
    """Nobody decides about the model, or without one about any, by a policy until the transaction
    ends. To be called before any row is locked."""
    if model_id is None:
        await session.execute(text(f"SELECT pg_advisory_xact_lock({_POLICIES})"))
    else:
        await hold_policies(session)
        await registry.lock_model(session, model_id)


async def last_policy(
    session: ReadSession, model_id: UUID | None, stage: Stage
) -> StagePolicyRow | None:
    """The last version of a model's own policy, or of the general one."""
    return await session.fetch_one(
        select(StagePolicyRow)
        .where(StagePolicyRow.model_id == model_id)
        .where(StagePolicyRow.stage == stage)
        .order_by(StagePolicyRow.version.desc())
        .limit(1)
    )


_IN_FORCE = Prepared(
    select(StagePolicyRow)
    .ext(distinct_on(StagePolicyRow.model_id))
    .where(StagePolicyRow.stage == bindparam("stage"))
    .where(or_(StagePolicyRow.model_id.is_(None), StagePolicyRow.model_id == any_(PARENTS)))
    .order_by(StagePolicyRow.model_id, StagePolicyRow.version.desc())
)


async def policies_in_force(
    session: ReadSession, model_ids: Sequence[UUID], stage: Stage
) -> dict[UUID, StagePolicyRow]:
    """The policy that holds for each of the models: its own, else the general one."""
    wanted = {"parents": list(model_ids), "stage": stage}
    rows = {row.model_id: row for row in await session.fetch(_IN_FORCE, wanted)}
    own = {id: row for id, row in rows.items() if row.rules is not None}
    return {id: own.get(id) or rows[None] for id in model_ids}


async def policy_in_force(
    session: ReadSession, model_id: UUID | None, stage: Stage
) -> StagePolicyRow | None:
    """The policy that holds for a model, or in general; None for a stage that nothing guards."""
    own = await last_policy(session, model_id, stage) if model_id else None
    return own if own and own.rules is not None else await last_policy(session, None, stage)


_POLICIES_BY_IDS = Lookup(StagePolicyRow, StagePolicyRow.id)


async def policies_by_ids(session: ReadSession, ids: Sequence[UUID]) -> dict[UUID, StagePolicyRow]:
    """The versions of policies among `ids`."""
    return await _POLICIES_BY_IDS.fetch(session, ids)


@listing
def _policies(model_id: UUID | None, stage: Stage) -> Listing[StagePolicyRow]:
    statement = select(StagePolicyRow).where(
        StagePolicyRow.model_id == model_id, StagePolicyRow.stage == stage
    )
    keys = [by_count(StagePolicyRow.version, descending=True), by_id(StagePolicyRow.id)]
    return Listing(statement, Ordering(keys, "stage policies", (model_id, stage)))


async def policy_page(
    session: ReadSession, model_id: UUID | None, stage: Stage, request: PageRequest
) -> Page[StagePolicyRow]:
    """A page of the versions of a model's own policy, or of the general one, newest first."""
    return await _policies(model_id, stage).page(session, request)


async def policy_count(session: ReadSession, model_id: UUID | None, stage: Stage) -> int:
    """How many versions a policy has had."""
    return await _policies(model_id, stage).count(session)


def rules_of(row: StagePolicyRow) -> Rules | None:
    """The rules of a policy; None where the general ones hold."""
    return None if row.rules is None else RULES.validate_python(row.rules)


# Of policies, with what they were read from. A large one takes 8 ms, and each version asks for it.
_parsed: Kept[UUID, tuple[Any, Policy]] = Kept(30, 30)


def policy_of(row: StagePolicyRow) -> Policy:
    """A policy with rules of its own."""
    known = _parsed.get(row.id)
    if known is not None and known[0] == row.rules:
        return known[1]
    policy = Policy(row.id, row.stage, row.version, rules_of(row) or ())
    _parsed.keep(row.id, (row.rules, policy), 1)
    return policy


# Reports and approvals


def report_of(row: ValidationReportRow) -> Report:
    """A report as the rules made it."""
    checks = _CHECKS.validate_python(row.checks)
    return Report(row.stage, row.policy_version, checks, row.created_at)


async def last_reports(
    session: ReadSession, version_ids: Sequence[UUID]
) -> dict[UUID, ValidationReportRow]:
    """The last report about each version."""
    column = ValidationReportRow.model_version_id
    statement = (
        select(ValidationReportRow)
        .ext(distinct_on(column))
        .where(among(column, version_ids))
        .order_by(column, ValidationReportRow.created_at.desc(), ValidationReportRow.id.desc())
    )
    return {row.model_version_id: row for row in await session.fetch(statement)}


_REPORTS_BY_IDS = Lookup(ValidationReportRow, ValidationReportRow.id)
_APPROVALS_BY_IDS = Lookup(ApprovalRow, ApprovalRow.id)
_PRESENT_APPROVALS = Lookup(
    ApprovalRow, ApprovalRow.model_version_id, ApprovalRow.superseded_at.is_(None)
)


async def reports_by_ids(
    session: ReadSession, ids: Sequence[UUID]
) -> dict[UUID, ValidationReportRow]:
    """The reports among `ids`."""
    return await _REPORTS_BY_IDS.fetch(session, ids)


async def approvals(session: ReadSession, version_ids: Sequence[UUID]) -> dict[UUID, ApprovalRow]:
    """Each version's present approval; those that were never submitted are absent."""
    return await _PRESENT_APPROVALS.fetch(session, version_ids)


async def present_approval(session: WriteSession, version_id: UUID) -> ApprovalRow | None:
    """The version's present approval as it stands. The caller holds the version locked."""
    return await session.scalar(
        select(ApprovalRow)
        .where(ApprovalRow.model_version_id == version_id, ApprovalRow.superseded_at.is_(None))
        .execution_options(populate_existing=True)
    )


async def submissions(
    session: WriteSession, version_id: UUID
) -> list[tuple[str, str | None, ApprovalStatus]]:
    """Who has ever submitted a version, the service itself included, with which content, and what
    became of it: newest first."""
    statement = (
        select(ApprovalRow.submitted_by, ApprovalRow.evidence_digest, ApprovalRow.status)
        .where(ApprovalRow.model_version_id == version_id)
        .order_by(ApprovalRow.submitted_at.desc(), ApprovalRow.id.desc())
    )
    return list(await session.fetch(statement))


async def changers(session: WriteSession, version: ModelVersionRow) -> list[str]:
    """Who has changed what an approval of the version is for since it was registered, be it in its
    run, as far back as the journal goes."""
    # What was there before is its author's, who holds the run; for what the service itself has
    # registered nobody stands but those who have made the run what it is, its figures too.
    by_service = version.created_by.startswith(SYSTEM)
    registered = select(func.max(EventRow.id)).where(
        EventRow.subject_id == version.id, EventRow.type == "model_version.registered"
    )
    since = literal(0) if by_service else func.coalesce(registered.scalar_subquery(), 0)
    made = ("run.created", "run.metrics_logged") if by_service else ()
    file = {"path": version.artifact_path, "digest": version.artifact_digest}
    of_version = (
        (EventRow.subject_id == version.id)
        & (EventRow.type == "model_version.updated")
        & _has_any("hyperparameters", "metrics", "artifact_path", "artifact_digest")
    )
    of_run = (
        (EventRow.subject_id == version.run_id)
        & (EventRow.id > since)
        & or_(
            among(EventRow.type, made),
            among(EventRow.type, ("run.updated", "run.status_changed"))
            & _has_any("params", "dataset_facts"),
            (EventRow.type == "run.artifacts_logged")
            & EventRow.after.contains({"artifacts": [file]}),
        )
    )
    which = or_(of_version, of_run) if version.run_id else of_version
    # Who may decide about a version sees it and its run; to narrow the journal takes long.
    with session.seeing_everything():
        return list(await session.fetch(select(EventRow.actor).where(which).distinct()))


async def is_known_from_the_beginning(session: WriteSession, version: ModelVersionRow) -> bool:
    """Whether the journal still has how a version and its run began: if not, `changers` does not
    know all of them."""
    begun = {version.id: "model_version.registered"}
    if version.run_id is not None:
        begun[version.run_id] = "run.created"
    of_any = ((EventRow.subject_id == id) & (EventRow.type == type) for id, type in begun.items())
    with session.seeing_everything():
        found = await session.fetch(select(EventRow.subject_id).where(or_(*of_any)))
    return {*found} == {*begun}


def _has_any(*fields: str) -> Any:
    return or_(*(EventRow.after.has_key(field) for field in fields))


async def was_in_production(session: ReadSession, version_id: UUID, evidence_digest: str) -> bool:
    """Whether an approval has ever let a version with this content into production."""
    statement = select(ApprovalRow.id).where(
        ApprovalRow.model_version_id == version_id,
        ApprovalRow.evidence_digest == evidence_digest,
        ApprovalRow.used_at.is_not(None),
    )
    return bool(await session.fetch(statement.limit(1)))


def was_let_in(approval: Any) -> Any:
    """Whether any approval of its version has let the content of this one into production, for
    statements of others."""
    used = aliased(ApprovalRow)
    return (
        select(used.id)
        .where(
            used.model_version_id == approval.model_version_id,
            used.evidence_digest == approval.evidence_digest,
            used.used_at.is_not(None),
        )
        .exists()
    )


def is_the_same_as(version_id: Any) -> Any:
    """Whether a version, by what was last submitted of it, has the content that the one with this
    id was let in with last, or, where it never was, that was submitted last of it, and more than
    figures says so; for statements of others."""
    one, other, bad = aliased(ApprovalRow), aliased(ApprovalRow), aliased(ModelVersionRow)
    used = aliased(ApprovalRow)
    last_let_in = (
        select(used.id)
        .where(used.model_version_id == version_id, used.used_at.is_not(None))
        .order_by(used.used_at.desc(), used.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    return (
        select(one.id)
        .where(
            one.model_version_id == ModelVersionRow.id,
            one.superseded_at.is_(None),
            one.evidence_digest == other.evidence_digest,
            other.model_version_id == bad.id,
            (other.id == last_let_in) | (other.superseded_at.is_(None) & last_let_in.is_(None)),
            bad.id == version_id,
            _is_more_than_figures(bad),
        )
        .exists()
    )


async def has_been_in_production(session: ReadSession, version_id: UUID) -> bool:
    """Whether a version is or ever was in production, with whatever content."""
    return bool(await session.fetch(_into_production(version_id).limit(1)))


def _into_production(version_id: Any) -> Select[UUID]:
    """The entries of a version into production, of which there may be several."""
    return select(StageAssignmentRow.id).where(
        StageAssignmentRow.model_version_id == version_id,
        StageAssignmentRow.stage == Stage.PRODUCTION,
    )


async def run_counts_in_production(session: ReadSession, run_id: UUID) -> bool:
    """Whether a version that came out of a run or its parts has ever been in production, deleted
    or not, or one of its parts is submitted or approved, whose evidence has nothing of the run; a
    deleted one is on no way there."""
    tree = select(RunRow.id).where(RunRow.id == run_id).cte("runs", recursive=True)
    parts = select(RunRow.id).join(tree, RunRow.parent_id == tree.c.id)
    tree = tree.union(parts)
    was_there = _into_production(ModelVersionRow.id)
    on_the_way = (
        (ModelVersionRow.run_id != run_id)
        & among(ModelVersionRow.approval_status, OPEN | IN_FORCE)
        & ModelVersionRow.deleted_at.is_(None)
    )
    statement = (
        select(ModelVersionRow.id)
        .join(tree, tree.c.id == ModelVersionRow.run_id)
        .where(or_(on_the_way, was_there.exists()))
    )
    return bool(await session.fetch(statement.limit(1)))


async def files_let_in(
    session: ReadSession, version_ids: Sequence[UUID]
) -> dict[UUID, tuple[str | None, str | None]]:
    """Path and digest of the file of those of these versions, which have been in production, that
    are still what was let in there."""
    with looking_at("id", "approval_status", "stage", "artifact_path", "artifact_digest"):
        rows = await registry.versions_by_ids(session, version_ids)
    # While its approval is in force, what is there is what was let in. What has left may have been
    # approved as something else since.
    doubtful = [
        row.id
        for row in rows.values()
        if row.approval_status not in IN_FORCE or row.stage is not Stage.PRODUCTION
    ]
    certain = {id: row for id, row in rows.items() if id not in doubtful}
    found = certain | (await _as_let_in(session, doubtful) if doubtful else {})
    return {id: (row.artifact_path, row.artifact_digest) for id, row in found.items()}


async def _as_let_in(session: ReadSession, ids: Sequence[UUID]) -> dict[UUID, ModelVersionRow]:
    """Those of the versions that have the same content as the last approval has let in."""
    with looking_at(*_OF_VERSION):
        rows = await registry.versions_by_ids(session, ids)
    now = await facts(session, [*rows.values()])
    let_in = await session.fetch(
        select(ApprovalRow.model_version_id, ApprovalRow.evidence_digest)
        .where(
            ApprovalRow.model_version_id == any_(literal([*ids], ARRAY(Uuid))),
            ApprovalRow.used_at.is_not(None),
        )
        .ext(distinct_on(ApprovalRow.model_version_id))
        .order_by(ApprovalRow.model_version_id, ApprovalRow.used_at.desc(), ApprovalRow.id.desc())
    )
    known = {(id, digest) for id, digest in let_in}
    content = await contents(now)
    return {id: rows[id] for id, digest in content.items() if (id, digest) in known}


async def contents(of: Mapping[UUID, Facts]) -> dict[UUID, str]:
    """What approvals of these versions would be bound to. There may be many versions with much in
    each: others have their turns meanwhile."""
    found = {}
    for id, facts in of.items():
        found[id] = facts.evidence_digest
        await asyncio.sleep(0)
    return found


async def waits_for_people(
    session: WriteSession, version: ModelVersionRow, evidence_digest: str
) -> bool:
    """Whether people have let this content on at no time since they have rejected it, since what
    they had approved was taken back, or the service itself has opened a review of it, be it as
    another version of the model; or nothing of the version since its last such review, whatever has
    become of that."""
    mine = ApprovalRow.model_version_id == version.id
    of_model = select(ModelVersionRow.id).where(ModelVersionRow.model_id == version.model_id)
    same = ApprovalRow.model_version_id.in_(of_model) & (
        ApprovalRow.evidence_digest == evidence_digest
    )
    opened = func.max(ApprovalRow.submitted_at).filter(mine & _OPENED)
    said_no = _said_no_last(same, _OPENED & same, mine)
    return bool(
        await session.fetch(
            select(literal(1))
            .select_from(ApprovalRow)
            .where(or_(mine, same))
            .having(or_(_is_later(opened, _last_let_on(true(), mine)), said_no))
        )
    )


async def was_refused(session: WriteSession, version: ModelVersionRow) -> bool:
    """Whether the last that people have said of a version, with whatever content, was no, or the
    service itself has opened a review of it since."""
    mine = ApprovalRow.model_version_id == version.id
    said_no = _said_no_last(mine, _OPENED & mine, mine)
    statement = select(literal(1)).select_from(ApprovalRow).where(mine).having(said_no)
    return bool(await session.fetch(statement))


# What the service has opened by itself (and not decided, as for what was in production before there
# were approvals), what people have ended, and what they have let on.
_OPENED = ApprovalRow.submitted_by.startswith(SYSTEM) & ~func.coalesce(
    ApprovalRow.decided_by, ""
).startswith(SYSTEM)
_BY_PEOPLE = ~ApprovalRow.decided_by.startswith(SYSTEM)
# Who takes back their own says nothing of what others submit. Of those who did so before it was
# kept whether they may decide it is not known.
_THEIR_OWN = ApprovalRow.withdrawn_at.is_not(None) & ApprovalRow.overruled_at.is_(None)
_ENDED = among(ApprovalRow.status, ENDED) & or_(
    _BY_PEOPLE & ~_THEIR_OWN, ApprovalRow.overruled_at.is_not(None)
)
_LET_ON = _BY_PEOPLE & ~among(ApprovalRow.status, ENDED)
# A BYPASS, whatever has become of it: who approves is never who has submitted it.
_BYPASSED = ApprovalRow.decided_by == ApprovalRow.submitted_by


def _last_let_on(which: Any, own: Any) -> Any:
    """A BYPASS is for its own version: others would come in by it unseen."""
    return func.max(ApprovalRow.decided_at).filter(_LET_ON & which & (own | ~_BYPASSED))


def _is_later(one: Any, other: Any) -> Any:
    return one > func.coalesce(other, text("'-infinity'::timestamptz"))


def _no(which: Any, opened: Any) -> Any:
    """When people have last said no to a submission, or the service itself has opened it."""
    return func.greatest(
        case((opened, ApprovalRow.submitted_at)),
        case((_ENDED & which, func.coalesce(ApprovalRow.overruled_at, ApprovalRow.decided_at))),
    )


def _said_no_last(which: Any, opened: Any, own: Any) -> Any:
    """Whether the last that people have said of these submissions, which have one content, was no,
    or the service itself has opened such a review since. `own` are those of the version itself."""
    return _is_later(func.max(_no(which, opened)), _last_let_on(which, own))


_present, _of, _alike = aliased(ApprovalRow), aliased(ModelVersionRow), aliased(ModelVersionRow)
# Who may report drift of something elsewhere alone is not to reach what is in production by it.
_HAS_BEEN_THERE = _into_production(ApprovalRow.model_version_id).correlate(ApprovalRow).exists()


def _is_more_than_figures(version: Any) -> Any:
    """Figures alone may be the same of two models."""
    return or_(
        version.run_id.is_not(None),
        version.artifact_path.is_not(None),
        version.artifact_digest.is_not(None),
    )


def _overruled(which: Any) -> Any:
    own = ApprovalRow.model_version_id == _present.model_version_id
    opened = _OPENED & _HAS_BEEN_THERE
    no = _no(true(), opened)
    refused_as = func.array_agg(aggregate_order_by(_alike.version, no.desc())).filter(
        no.is_not(None)
    )
    return (
        select(_present.model_version_id, refused_as[1])
        .join(_of, _of.id == _present.model_version_id)
        .join(_alike, _alike.model_id == _of.model_id)
        .join(
            ApprovalRow,
            (ApprovalRow.model_version_id == _alike.id)
            & (ApprovalRow.evidence_digest == _present.evidence_digest),
        )
        .where(
            _present.model_version_id == which,
            _present.superseded_at.is_(None),
            among(_present.status, IN_FORCE),
            own | _is_more_than_figures(_of),
        )
        .group_by(_present.model_version_id)
        .having(_said_no_last(true(), opened, own))
    )


_OVERRULED = Prepared(_overruled(any_(PARENTS)))


def is_overruled(version_id: Any) -> Any:
    """Whether `overruled` says so of the version with this id, for statements of others."""
    return _overruled(version_id).exists()


async def overruled(session: ReadSession, version_ids: Sequence[UUID]) -> dict[UUID, str]:
    """Those of these versions whose approval is in force, but of whose content as any version of
    the model, if more than figures says that it is the same, the last that people have said was
    no, or a review of what has been in production was opened since: with the version that was."""
    return dict(await session.fetch(_OVERRULED, {"parents": list(version_ids)}))


_APPROVALS = Children(
    select(ApprovalRow),
    ApprovalRow.model_version_id,
    ApprovalRow.submitted_at.desc(),
    ApprovalRow.id.desc(),
)


async def approval_history(
    session: ReadSession, version_ids: Sequence[UUID]
) -> dict[UUID, list[ApprovalRow]]:
    """All submissions of each version, newest first."""
    return await _APPROVALS.fetch(session, version_ids)


async def approvals_by_ids(session: ReadSession, ids: Sequence[UUID]) -> dict[UUID, ApprovalRow]:
    """The submissions among `ids`."""
    return await _APPROVALS_BY_IDS.fetch(session, ids)


_DECISIONS = Children(
    select(ApprovalDecisionRow),
    ApprovalDecisionRow.approval_id,
    ApprovalDecisionRow.at,
    ApprovalDecisionRow.actor,
)


async def decisions(
    session: ReadSession, approval_ids: Sequence[UUID]
) -> dict[UUID, list[ApprovalDecisionRow]]:
    """What was said to each submission, in order."""
    return await _DECISIONS.fetch(session, approval_ids)


_PRESENT_DECISIONS = Prepared(
    select(ApprovalDecisionRow.approval_id, ApprovalDecisionRow.actor, ApprovalDecisionRow.decision)
    .join(ApprovalRow, ApprovalRow.id == ApprovalDecisionRow.approval_id)
    .where(ApprovalRow.model_version_id == any_(PARENTS), ApprovalRow.superseded_at.is_(None))
    .order_by(ApprovalDecisionRow.approval_id, ApprovalDecisionRow.at, ApprovalDecisionRow.actor)
)


async def present_decisions(
    session: ReadSession, version_ids: Sequence[UUID]
) -> dict[UUID, list[tuple[str, Decision]]]:
    """Who said what to each version's present approval, in order, by the approval's id."""
    rows = await session.fetch(_PRESENT_DECISIONS, {"parents": list(version_ids)})
    found: dict[UUID, list[tuple[str, Decision]]] = {}
    for id, actor, decision in rows:
        found.setdefault(id, []).append((actor, decision))
    return found


async def supersede(session: WriteSession, version_id: UUID, moment: datetime) -> None:
    """End the present approval's being so. The caller holds the version locked."""
    await session.execute(
        update(ApprovalRow)
        .where(ApprovalRow.model_version_id == version_id, ApprovalRow.superseded_at.is_(None))
        .values(superseded_at=moment)
    )


async def bound_to_other_policies(session: ReadSession, model_id: UUID | None) -> list[UUID]:
    """The versions of the model, or of all models, whose submission was made under another policy
    than the one in force, and waits for a decision or is of what was not in production yet."""
    statement = (
        select(ModelVersionRow.id, ModelVersionRow.model_id, ApprovalRow.policy_id)
        .join(ApprovalRow, ApprovalRow.model_version_id == ModelVersionRow.id)
        .where(
            among(ModelVersionRow.approval_status, OPEN | IN_FORCE),
            ApprovalRow.superseded_at.is_(None),
            ApprovalRow.used_at.is_(None),
            # What was there, and was approved once more since, can still be rolled back to.
            among(ApprovalRow.status, OPEN) | ~was_let_in(ApprovalRow),
            ModelVersionRow.deleted_at.is_(None),
        )
    )
    if model_id is not None:
        statement = statement.where(ModelVersionRow.model_id == model_id)
    found = await session.fetch(statement)
    models = list({model for _, model, _ in found})
    in_force = await policies_in_force(session, models, Stage.PRODUCTION)
    return [id for id, model, policy_id in found if policy_id != in_force[model].id]


_HELD = Prepared(
    select(part_of(ModelVersionRow, frozenset(("model_name", "version", "approval_status"))))
    .where(ModelVersionRow.id == any_(bindparam("ids", type_=ARRAY(Uuid))))
    .order_by(ModelVersionRow.id)
    .with_for_update(key_share=True)
)


async def hold_versions(session: WriteSession, ids: Sequence[UUID]) -> dict[UUID, ModelVersionRow]:
    """What they are called, and where their approvals stand; held until the transaction ends."""
    return {row.id: row for row in await session.lock(_HELD, {"ids": [*ids]})}


async def make_stale(
    session: WriteSession, version_ids: Sequence[UUID], why: str
) -> Sequence[ApprovalRow]:
    """Make the approvals and open submissions of versions that the caller holds STALE, and count
    that as a change of the versions. Those that were made so."""
    marked = (
        update(ApprovalRow)
        .where(
            ApprovalRow.model_version_id == any_(literal([*version_ids], ARRAY(Uuid))),
            ApprovalRow.superseded_at.is_(None),
            among(ApprovalRow.status, OPEN | IN_FORCE),
        )
        .values(
            status=ApprovalStatus.STALE,
            stale_at=func.clock_timestamp(),
            stale_reason=why,
            cause_id=None,
        )
        .returning(ApprovalRow)
        .execution_options(synchronize_session=False)
    )
    approvals = (await session.scalars(marked)).all()
    ids = [approval.model_version_id for approval in approvals]
    await session.execute(
        update(ModelVersionRow)
        .where(ModelVersionRow.id == any_(literal(ids, ARRAY(Uuid))))
        .values(approval_status=ApprovalStatus.STALE, revision=ModelVersionRow.revision + 1)
        .execution_options(synchronize_session=False)
    )
    return approvals


# Of versions in production, runs, checklists and approvals.
_LOOKED_AT = (
    *("version", "approval_status", "status", "params", "dataset_facts", "title"),
    *("policy_id", "submitted_by", "evidence_digest", "checklist_digest"),
)
# What facts are made of in a version itself.
_OF_VERSION = (
    *("id", "model_id", "version", "stage", "created_by", "run_id", "hyperparameters"),
    *("artifact_path", "artifact_digest", "open_drift"),
)


async def facts(session: ReadSession, versions: Sequence[ModelVersionRow]) -> dict[UUID, Facts]:
    """All that rules may look at, of each version: as locked as the caller holds it."""
    ids = [version.id for version in versions]
    model_ids = [version.model_id for version in versions]
    run_ids = [version.run_id for version in versions if version.run_id]
    with looking_at(*_LOOKED_AT):
        now, holders, metrics, of_runs, items, submitted, said, doubted = await together(
            session,
            [
                clock,
                lambda session: registry.holders(session, model_ids),
                lambda session: registry.metrics_beside(session, ids, model_ids),
                lambda session: runs.by_ids(session, run_ids),
                lambda session: checklists(session, ids),
                lambda session: approvals(session, ids),
                lambda session: present_decisions(session, ids),
                lambda session: overruled(session, ids),
            ],
        )
    # While its approval is in force, it is what was approved.
    doubtful = {
        holder.id
        for version in versions
        if (holder := holders.get(version.model_id)) is not None
        and holder.id != version.id
        and holder.approval_status not in IN_FORCE
    }
    changed = doubtful - (await _as_let_in(session, [*doubtful])).keys() if doubtful else doubtful
    run_facts = {
        run.id: RunFacts(run.id, run.status, run.params, run.dataset_facts or {})
        for run in of_runs.values()
    }
    found = {}
    for version in versions:
        own = metrics.get(version.id, [])
        holder = holders.get(version.model_id)
        approval = submitted.get(version.id)
        found[version.id] = Facts(
            id=version.id,
            version=version.version,
            stage=version.stage,
            author=version.created_by,
            metrics={metric.key: metric.value for metric in own},
            measured_at=max((metric.timestamp for metric in own), default=None),
            hyperparameters=version.hyperparameters or {},
            artifact_path=version.artifact_path,
            artifact_digest=version.artifact_digest,
            open_drift=version.open_drift,
            checklist=[(item.title, item.status) for item in items.get(version.id, [])],
            run=run_facts.get(version.run_id) if version.run_id else None,
            baseline=BaselineFacts(
                holder.id,
                holder.version,
                {metric.key: metric.value for metric in metrics.get(holder.id, [])},
                changed=holder.id in changed,
            )
            if holder and holder.id != version.id
            else None,
            approval=ApprovalFacts(
                approval.id,
                approval.status,
                approval.policy_id,
                approval.submitted_by,
                [
                    actor
                    for actor, decision in said.get(approval.id, [])
                    if decision is Decision.APPROVE
                ],
                approval.evidence_digest,
                approval.checklist_digest,
                refused_as=doubted.get(version.id),
            )
            if approval
            else None,
            now=now,
        )
    return found
