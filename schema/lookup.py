"""Any object by its global id."""

from typing import Any
from uuid import UUID

from lifecycle.datasets import repository as datasets
from lifecycle.deployments import repository as deployments
from lifecycle.drift import repository as drift
from lifecycle.experiments import repository as experiments
from lifecycle.promotion import repository as promotion
from lifecycle.registry import repository as registry
from lifecycle.runs import repository as runs
from lifecycle.tracking import repository as tracking
from schema import ids
from schema.context import Info
from schema.datasets import DataSet
from schema.deployments import Deployment
from schema.drift import DriftEvent, DriftPolicy
from schema.experiments import Experiment
from schema.nodes import Node
from schema.policies import StagePolicy
from schema.registry import Model, ModelVersion
from schema.runs import Run
from schema.tracking import MlflowItem

_NODES: dict[str, tuple[Any, Any]] = {
    "DataSet": (datasets.by_ids, DataSet.from_row),
    "Deployment": (deployments.by_ids, Deployment.from_row),
    "DriftEvent": (drift.by_ids, DriftEvent.from_row),
    "DriftPolicy": (drift.policies_by_ids, DriftPolicy.from_row),
    "Experiment": (experiments.by_ids, Experiment.from_row),
    "MlflowItem": (tracking.items_by_ids, MlflowItem.from_row),
    "Model": (registry.models_by_ids, Model.from_row),
    "ModelVersion": (registry.versions_by_ids, ModelVersion.from_row),
    "Run": (runs.by_ids, Run.from_row),
    "StagePolicy": (promotion.policies_by_ids, StagePolicy.from_row),
}


async def by_global_id(info: Info, global_id: str) -> Node | None:
    """The object with this global id, or None. Raises InvalidInput when it is no such id."""
    return await by_key(info, *ids.split(global_id))


async def by_key(info: Info, kind: str, key: UUID) -> Node | None:
    """The object of this kind, or None."""
    if kind not in _NODES:
        return None
    batch, from_row = _NODES[kind]
    row = await info.context.loaders.load(batch, key)
    found: Node | None = from_row(row) if row else None
    return found
