"""What all tables share: names of constraints, how Python types are stored, identifiers.

The tables themselves are in each noun's `tables.py`; importing `lifecycle.metadata` gathers them.
"""

from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import DateTime, Double, Enum, MetaData, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from uuid_utils.compat import uuid7


def choice(enum: type[StrEnum], name: str | None = None) -> Enum:
    """How members of an enum are stored: as text with a CHECK, which, unlike a native enum, changes
    in an ordinary migration. `name` tells two such columns of one table apart."""
    return Enum(
        enum,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=32,
        values_callable=lambda members: [member.value for member in members],
    )


class Base(DeclarativeBase):
    """The root of all mapped classes.

    A constraint whose violation is an expected failure says which one in
    `info={"violation": lambda value: SomeError(...)}`; `lifecycle.database` raises it.
    """

    # Predictable names, because violations are recognised by them.
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map = {
        StrEnum: choice(StrEnum),
        datetime: DateTime(timezone=True),
        str: Text(),
        float: Double(),
        dict[str, Any]: JSONB(none_as_null=True),
        dict[str, str]: JSONB(none_as_null=True),
    }
    # Server-side values come back with the statement; no later attribute access asks again.
    __mapper_args__ = {"eager_defaults": True}


@lru_cache
def mapped(table_name: str) -> type[Base]:
    """The class whose rows are in this table."""
    classes: list[type[Base]] = [mapper.class_ for mapper in Base.registry.mappers]
    return next(found for found in classes if found.__tablename__ == table_name)


class WithId(Base):
    """A row with an id of its own."""

    __abstract__ = True

    # Version 7: ids made one after the other lie next to each other in the index.
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7, sort_order=-1)


class Identified(WithId):
    """A row that somebody made."""

    __abstract__ = True

    created_by: Mapped[str] = mapped_column(sort_order=1)
    created_at: Mapped[datetime] = mapped_column(
        server_default=func.clock_timestamp(), sort_order=1
    )


class Revised(Identified):
    """A row that people change and that counts its changes."""

    __abstract__ = True

    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.clock_timestamp(), onupdate=func.clock_timestamp(), sort_order=1
    )
    # Counts every change; clients send it back to say which state they decided on.
    revision: Mapped[int] = mapped_column(default=1, sort_order=1)
