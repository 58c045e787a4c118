"""The only module that reads the driver's errors: violated constraints by name, the rest by
SQLSTATE."""

import asyncpg
from sqlalchemy import Constraint, Index
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from lifecycle.errors import InvalidInput, LifecycleError, Unavailable
from lifecycle.tables import Base


class Retry(Exception):
    """PostgreSQL undid the transaction for reasons of concurrency; the same again may work."""


def expected(error: Exception) -> Exception | None:
    """What an error of the driver means to a caller; None for everything else."""
    if isinstance(error, LifecycleError):
        return None
    if isinstance(error, IntegrityError):
        return _violation(getattr(error.orig, "__cause__", None))
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        return _violation(error)
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return Unavailable("The database is not available; try again.")
    if isinstance(error, DBAPIError | asyncpg.PostgresError):
        cause = error.orig if isinstance(error, DBAPIError) else error
        state = getattr(cause, "sqlstate", None) or ""
        if state in ("40P01", "40001"):  # deadlock detected, serialization failure
            return Retry()
        if state in ("55P03", "57014"):  # lock timeout, statement timeout
            return Unavailable("The database was too busy; try again.")
        if state in ("22021", "22P05"):  # the one character that PostgreSQL cannot store
            return InvalidInput("Text must not contain the character U+0000.")
        # Connection failures, no entry (which 55000 means while connecting), no such database, out
        # of resources, operator intervention.
        if state[:2] in ("08", "28", "3D", "53", "57") or state == "55000":
            return Unavailable("The database is not available; try again.")
        return None
    # The last is what the driver says of a connection that is just being closed.
    gone = OSError | PoolTimeout | asyncpg.InterfaceError | asyncpg.InternalClientError
    if isinstance(error, gone):
        return Unavailable("The database is not available; try again.")
    return None


def is_missing(error: Exception) -> bool:
    """Whether another server may answer what this one did not: not what took too long."""
    if isinstance(error, asyncpg.QueryCanceledError):
        return False
    return isinstance(expected(error), Unavailable | Retry)


def _violation(cause: BaseException | None) -> LifecycleError | None:
    name = getattr(cause, "constraint_name", None)
    # "Key (name)=(churn) already exists."
    value = (getattr(cause, "detail", None) or "").partition("=(")[2].rpartition(")")[0]
    for table in Base.metadata.tables.values():
        rules: list[Constraint | Index] = [*table.constraints, *table.indexes]
        for rule in rules:
            if rule.name == name and "violation" in rule.info:
                made: LifecycleError = rule.info["violation"](value)
                return made
    return None
