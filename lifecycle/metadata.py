"""All tables in one place, for migrations and for whoever needs them all to be known."""

from lifecycle.artifacts import tables as artifacts
from lifecycle.datasets import tables as datasets
from lifecycle.deployments import tables as deployments
from lifecycle.documents import tables as documents
from lifecycle.drift import tables as drift
from lifecycle.experiments import tables as experiments
from lifecycle.idempotency import tables as idempotency
from lifecycle.journal import tables as journal
from lifecycle.logs import tables as logs
from lifecycle.principals import tables as principals
from lifecycle.promotion import tables as promotion
from lifecycle.registry import tables as registry
from lifecycle.runs import tables as runs
from lifecycle.tables import Base
from lifecycle.tracking import tables as tracking

__all__ = [
    "artifacts",
    "datasets",
    "deployments",
    "documents",
    "drift",
    "experiments",
    "idempotency",
    "journal",
    "logs",
    "metadata",
    "principals",
    "promotion",
    "registry",
    "runs",
    "tracking",
]

metadata = Base.metadata
