"""How grants and API tokens are stored. Rows are only ever added, and then revoked; triggers on
both tables count what changes."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from lifecycle.access.rules import Role
from lifecycle.tables import Base, Identified


class RoleGrantRow(Identified):
    """A role that a person has, or all people in a group. What it means is in
    `lifecycle.access.rules`."""

    __tablename__ = "role_grant"
    __table_args__ = (
        Index(
            "uq_role_grant_in_force",
            "subject",
            "role",
            "model_id",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("revoked_at IS NULL"),
        ),
        Index(None, "created_at", "id"),
        Index(None, "model_id"),
    )

    # A person's name, or group: and the name of a group.
    subject: Mapped[str] = mapped_column(Text(collation="C"))
    role: Mapped[Role]
    model_id: Mapped[UUID | None] = mapped_column(ForeignKey("model.id"))
    stages: Mapped[list[str] | None] = mapped_column(JSONB(none_as_null=True))
    environments: Mapped[list[str] | None] = mapped_column(JSONB(none_as_null=True))
    revoked_by: Mapped[str | None]
    revoked_at: Mapped[datetime | None]


class ApiTokenRow(Identified):
    """A token by which a service proves who it is, with all that it may do. Of the token itself
    there is only a digest: 256 random bits need no salt.

    `secret` is the token, on the object that has just been made and nowhere else.
    """

    __tablename__ = "api_token"
    __table_args__ = (Index(None, "created_at", "id"), Index(None, "name", "created_by"))

    name: Mapped[str] = mapped_column(Text(collation="C"))
    prefix: Mapped[str]
    digest: Mapped[bytes] = mapped_column(unique=True)
    # Each with role, model_id, stages and environments.
    grants: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    expires_at: Mapped[datetime]
    # To some minutes.
    last_used_at: Mapped[datetime | None]
    revoked_by: Mapped[str | None]
    revoked_at: Mapped[datetime | None]

    secret: ClassVar[str | None] = None


class RightsHeadRow(Base):
    """One row: how often grants or tokens were added, revoked or changed by hand. Whoever changes
    one holds it until the transaction ends, so two states never have the same number."""

    __tablename__ = "rights_head"
    __table_args__ = (CheckConstraint("id = 1", name="single"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    changes: Mapped[int] = mapped_column(BigInteger)
