"""Placeholder until this kind is there."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from lifecycle.database import ReadSession, WriteSession
from lifecycle.tracking.rules import Changes, FieldRule
from lifecycle.tracking.sides import Ours, Sync, Task, Theirs


def rule_of(sync: Sync, field: str) -> FieldRule:
    """Who may change this field."""
    raise NotImplementedError


async def load(session: ReadSession, sync: Sync, id: UUID) -> Ours:
    """The object as it is here."""
    raise NotImplementedError


async def fetch(sync: Sync, mlflow_id: str) -> Theirs:
    """The object as it is there."""
    raise NotImplementedError


async def create_there(sync: Sync, ours: Ours) -> str:
    """Make it there."""
    raise NotImplementedError


async def create_here(session: WriteSession, sync: Sync, theirs: Theirs) -> UUID:
    """Make it here."""
    raise NotImplementedError


async def push(
    sync: Sync, ours: Ours, theirs: Theirs, changes: Changes, announced: Changes
) -> None:
    """Change it there."""
    raise NotImplementedError


async def pull(
    session: WriteSession, sync: Sync, id: UUID, theirs: Theirs, changes: Changes
) -> None:
    """Change it here."""
    raise NotImplementedError


async def exchange(
    sync: Sync, task: Task, ours: Ours, theirs: Theirs, through: int
) -> Mapping[str, Any]:
    """Bring over what is only ever added."""
    raise NotImplementedError
