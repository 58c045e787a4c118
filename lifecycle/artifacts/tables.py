"""How uploads are stored; what they lead to is an artifact of a run."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from lifecycle.runs.rules import ArtifactArea
from lifecycle.tables import Identified


class ArtifactUploadRow(Identified):
    """Bytes that were announced. `remains_until` is when what is left of the upload in its area is
    removed next, null when nothing is."""

    __tablename__ = "artifact_upload"
    __table_args__ = (
        CheckConstraint("size_bytes >= 0", name="size_bytes"),
        Index(
            "ix_artifact_upload_remains",
            "remains_until",
            postgresql_where=text("remains_until IS NOT NULL"),
        ),
        # Without the path, which may be too long for an index.
        Index(
            "ix_artifact_upload_completed",
            "run_id",
            "digest",
            postgresql_where=text("completed_at IS NOT NULL"),
        ),
    )

    run_id: Mapped[UUID] = mapped_column(ForeignKey("run.id"))
    path: Mapped[str]
    name: Mapped[str]
    area: Mapped[ArtifactArea]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str]
    expires_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
    remains_until: Mapped[datetime | None]
