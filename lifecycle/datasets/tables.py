"""How data sets are stored."""

from sqlalchemy import Index, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from lifecycle.tables import Identified


class DataSetRow(Identified):
    """Data that runs worked on. It never changes: other content has another digest."""

    __tablename__ = "data_set"
    __table_args__ = (
        # One without a digest is one data set, too.
        UniqueConstraint("name", "digest", postgresql_nulls_not_distinct=True),
        Index(None, "created_at", "id"),
        Index(None, "name", "created_at", "id"),
    )

    name: Mapped[str] = mapped_column(Text(collation="C"))
    digest: Mapped[str | None]
