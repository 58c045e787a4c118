"""How trusted documents are stored."""

from datetime import datetime

from sqlalchemy import func
from sqlalchemy.orm import Mapped, mapped_column

from lifecycle.tables import Base


class TrustedDocumentRow(Base):
    """One document, under the id that its text has."""

    __tablename__ = "trusted_document"

    # sha256: and the digest of the text, in hexadecimal.
    id: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[str]
    # What operations are in it, for people who look at the list.
    operations: Mapped[str]
    added_at: Mapped[datetime] = mapped_column(server_default=func.now())
