"""What exists for a session: of those who see some models only, the rows of these."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias
from uuid import UUID

from sqlalchemy import ARRAY, Select, Table, Uuid, bindparam, text

from lifecycle.access import visibility
from lifecycle.access.visibility import Unrestrictable
from lifecycle.statements import STATEMENTS, Prepared, Row
from lifecycle.tables import Base

# The ids of the models whose rows exist for a session; None if all rows do.
Models: TypeAlias = frozenset[UUID] | None


def narrowed(sql: str, values: Sequence[Any], visible: frozenset[UUID]) -> Any:
    """The statement and its parameters, for which only what is visible exists."""
    sql, restricted = visibility.narrowed(sql, len(values), frozenset(Base.metadata.tables))
    return sql, (*values, list(visible)) if restricted else values


@lru_cache(STATEMENTS)
def locking(statement: Prepared[Row]) -> Prepared[Row]:
    """The same for one that is prepared."""
    return Prepared(lockable(statement.statement))


def lockable(statement: Select[Any]) -> Select[Any]:
    """The statement with the condition that what it locks is visible, which is the parameter
    `visible`; others are left alone."""
    if statement._for_update_arg is None:
        return statement
    for table in statement.get_final_froms():
        if not isinstance(table, Table):
            raise Unrestrictable("Only rows of plain tables are locked.")
        if table.name not in visibility.OPEN:
            ids = visibility.ids_of(table.name, ":visible")
            condition = text(f"{table.name}.id IN ({ids})")
            models = bindparam("visible", type_=ARRAY(Uuid))
            statement = statement.where(condition.bindparams(models))
    return statement
