"""What can be done with experiments. Each function is one use case in its caller's transaction."""

from lifecycle.access.origin import Origin, check
from lifecycle.access.rules import Action
from lifecycle.commands import Command, DistinctName, Name, Tags, Text
from lifecycle.database import WriteSession, clock
from lifecycle.errors import NotFound, check_revision
from lifecycle.experiments import repository, rules
from lifecycle.experiments.rules import ExperimentStatus
from lifecycle.experiments.tables import ExperimentRow
from lifecycle.journal import service as journal


class CreateExperiment(Command):
    """A new experiment; its name must be new."""

    name: DistinctName
    description: Text | None = None
    owner: Name | None = None
    tags: Tags = {}


class UpdateExperiment(Command):
    """Changes to the experiment of this name; what is left out stays, tags are replaced."""

    name: Name
    description: Text | None = None
    owner: Name | None = None
    status: ExperimentStatus | None = None
    tags: Tags = {}
    expected_revision: int | None = None


async def create(session: WriteSession, origin: Origin, command: CreateExperiment) -> ExperimentRow:
    """Make an experiment. Raises AlreadyExists, Forbidden."""
    check(origin, Action.LOG)
    row = ExperimentRow(
        name=command.name,
        description=command.description,
        owner=command.owner,
        tags=command.tags,
        created_by=origin.actor,
    )
    session.add(row)
    await session.flush()
    await journal.append(
        session,
        origin,
        "experiment.created",
        row.id,
        after={
            "name": row.name,
            "description": row.description,
            "owner": row.owner,
            "tags": row.tags,
            "status": row.status,
        },
    )
    return row


async def update(session: WriteSession, origin: Origin, command: UpdateExperiment) -> ExperimentRow:
    """Change an experiment. Raises NotFound, StaleRevision, InvalidTransition,
    Forbidden."""
    row = await repository.lock(session, command.name)
    if row is None:
        raise NotFound("experiment", command.name, ("name",))
    check(origin, Action.LOG)
    check_revision(row.revision, command.expected_revision)
    changes = command.given("description", "owner", "tags")
    if command.status is not None:
        rules.STATUS.check(row.status, command.status)
        changes["status"] = command.status
        if command.status is ExperimentStatus.COMPLETED:
            changes["completed_at"] = await clock(session)
        elif command.status is ExperimentStatus.ACTIVE:
            changes["completed_at"] = None
    await journal.change(session, origin, row, changes)
    return row
