"""Metrics as clients see them: numbers that JSON has no name for are told apart by their kind."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Self

import strawberry
from strawberry import Private

from lifecycle.runs.metrics import MetricValue, Series
from lifecycle.runs.service import NumberKind
from schema.rows import OfRow, shown
from schema.scalars import BigInt


def kind_of(value: float) -> NumberKind:
    """What a number is."""
    if math.isfinite(value):
        return NumberKind.FINITE
    if math.isnan(value):
        return NumberKind.NAN
    return NumberKind.POSITIVE_INFINITY if value > 0 else NumberKind.NEGATIVE_INFINITY


def finite(value: float) -> float | None:
    """The number, if JSON has a name for it."""
    return value if math.isfinite(value) else None


@strawberry.type(description="One point of a metric.")
class Metric(OfRow[MetricValue]):
    row: Private[MetricValue]
    key: str = shown(description="The metric's name.")
    value: float | None = shown(
        # Not by finite(): a page may have thousands of them.
        lambda row: row.value if math.isfinite(row.value) else None,
        needs=("value",),
        leaf="value",
        description="Null if it is not finite; see `kind`.",
    )
    kind: NumberKind = shown(
        lambda row: kind_of(row.value),
        needs=("value",),
        description="FINITE, or what it is instead.",
    )
    step: BigInt = shown(description="The step it was measured at.")
    timestamp: datetime = shown(description="When it was measured.")


@strawberry.type(description="A metric over time, as columns of equal length in order of steps.")
class MetricSeries:
    key: str = strawberry.field(description="The metric's name.")
    steps: list[BigInt] = strawberry.field(description="The steps.")
    values: list[float | None] = strawberry.field(description="Null where it was not finite.")
    kinds: list[NumberKind] = strawberry.field(description="What each is; FINITE has a value.")
    timestamps: list[datetime] = strawberry.field(description="When each was measured.")
    total_points: BigInt = strawberry.field(description="How many points there are to sample from.")

    @classmethod
    def from_series(cls, series: Series) -> Self:
        return cls(
            key=series.key,
            steps=[BigInt(step) for step in series.steps],
            values=[finite(value) for value in series.values],
            kinds=[kind_of(value) for value in series.values],
            timestamps=series.timestamps,
            total_points=BigInt(series.total),
        )


@strawberry.input(description="One point of a metric: a value, or a kind that is not FINITE.")
class MetricInput:
    key: str = strawberry.field(description="The metric's name.")
    value: float | None = strawberry.field(default=None, description="The number, if finite.")
    kind: NumberKind | None = strawberry.field(
        default=None, description="What it is, if it is not finite."
    )
    step: BigInt | None = strawberry.field(default=None, description="By default 0.")
    timestamp: datetime | None = strawberry.field(default=None, description="By default now.")


def metrics_of(values: Sequence[MetricValue] | None) -> list[Metric]:
    """Values as metrics."""
    return [Metric.from_row(value) for value in values or ()]
