"""All SQL about metrics: writing points in sets, the latest values, histories for plots."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import orjson
from sqlalchemy import ARRAY, Integer, Text, Uuid, any_, bindparam, select, text

from lifecycle.database import ReadSession, WriteSession
from lifecycle.pages import Children
from lifecycle.runs.rules import MetricGoal, shown
from lifecycle.runs.tables import LatestMetricRow
from lifecycle.statements import Prepared

# One statement. A point without a time is the one that is there at its step, or a new one now;
# that is what makes repeating a call harmless. "Now" is the same for all of them, so that of two at
# one step the last one stays. What lies beyond the latest point of its metric cannot be there yet;
# it is not looked for, and stored without ON CONFLICT, which takes half as long again. The sort of
# the keys is the same in every writer. Columns of numbers are text that PostgreSQL reads: the
# driver, which reads other arrays item by item, needs four times as long for them.
_LOG = text("""
WITH given AS (
    SELECT DISTINCT ON (key, step, "timestamp") key, step, value, "timestamp", is_new
    FROM (
        SELECT series.key, point.step, point.value, series.n AS series, point.n,
               coalesce(point.timestamp, known.timestamp, statement_timestamp()) AS "timestamp",
               (point.step > latest.step) IS NOT FALSE AS is_new
        FROM unnest(:keys, :steps, :values, :timestamps)
             WITH ORDINALITY AS series (key, steps, "values", timestamps, n)
        CROSS JOIN LATERAL unnest(
            CAST(steps AS bigint[]), CAST("values" AS float8[]), CAST(timestamps AS timestamptz[])
        ) WITH ORDINALITY AS point (step, value, "timestamp", n)
        LEFT JOIN latest_metric AS latest ON latest.run_id = :run_id AND latest.key = series.key
        LEFT JOIN LATERAL (
            SELECT "timestamp" FROM metric_point
            WHERE point.timestamp IS NULL AND point.step <= latest.step
              AND run_id = :run_id AND key = series.key AND step = point.step
            ORDER BY "timestamp" DESC LIMIT 1
        ) AS known ON true
    ) AS resolved
    ORDER BY key, step, "timestamp", series DESC, n DESC
), added AS (
    INSERT INTO metric_point (run_id, key, step, "timestamp", value)
    SELECT :run_id, key, step, "timestamp", value FROM given WHERE is_new
    RETURNING 1
), replaced AS (
    INSERT INTO metric_point (run_id, key, step, "timestamp", value)
    SELECT :run_id, key, step, "timestamp", value FROM given WHERE NOT is_new
    ON CONFLICT (run_id, key, step, "timestamp") DO UPDATE SET value = excluded.value
    WHERE metric_point.value IS DISTINCT FROM excluded.value
    RETURNING 1
), stored AS (
    SELECT FROM added UNION ALL SELECT FROM replaced
)
INSERT INTO latest_metric AS latest (run_id, experiment_id, key, value, step, "timestamp")
SELECT DISTINCT ON (key) :run_id, CAST(:experiment_id AS uuid), key, value, step, "timestamp"
FROM given ORDER BY key, step DESC, "timestamp" DESC
ON CONFLICT (run_id, key) DO UPDATE SET
    (value, step, "timestamp") = (
        SELECT newest.value, newest.step, newest.timestamp
        FROM (VALUES (excluded.value, excluded.step, excluded.timestamp, 1),
                     (latest.value, latest.step, latest.timestamp, 2))
             AS newest (value, step, "timestamp", place)
        ORDER BY newest.step DESC, newest.timestamp DESC, place LIMIT 1
    )
RETURNING key, value, step, "timestamp", (SELECT count(*) FROM stored) AS stored
""").bindparams(
    bindparam("keys", type_=ARRAY(Text)),
    bindparam("steps", type_=ARRAY(Text)),
    bindparam("values", type_=ARRAY(Text)),
    bindparam("timestamps", type_=ARRAY(Text)),
    bindparam("run_id", type_=Uuid),
    bindparam("experiment_id", type_=Uuid),
)

_LATEST = Children(select(LatestMetricRow), LatestMetricRow.run_id, LatestMetricRow.key)
_LATEST_OF_KEYS = Children(
    select(LatestMetricRow).where(
        LatestMetricRow.key == any_(bindparam("keys", type_=ARRAY(Text)))
    ),
    LatestMetricRow.run_id,
    LatestMetricRow.key,
)

# Of each series as many points as are wanted, at equal distances from the first to the last; as
# columns, because a row of each point takes nearly three times the memory.
_HISTORY = Prepared(
    text("""
SELECT run_id, key, array_agg(step ORDER BY n), array_agg(value ORDER BY n),
       array_agg("timestamp" ORDER BY n), max(total)
FROM (
    SELECT run_id, key, step, value, "timestamp",
           row_number() OVER series AS n,
           count(*) OVER (PARTITION BY run_id, key) AS total
    FROM metric_point
    WHERE run_id = ANY(:run_ids) AND key = ANY(:keys)
    WINDOW series AS (PARTITION BY run_id, key ORDER BY step, "timestamp")
) AS numbered
WHERE total <= :points OR n = 1
   OR (n - 1) * (:points - 1) / greatest(total - 1, 1)
      > (n - 2) * (:points - 1) / greatest(total - 1, 1)
GROUP BY run_id, key ORDER BY run_id, key
""").bindparams(
        bindparam("run_ids", type_=ARRAY(Uuid)),
        bindparam("keys", type_=ARRAY(Text)),
        bindparam("points", type_=Integer),
    )
)

_BEST = """
SELECT wanted.id, best.run_id
FROM unnest(:experiment_ids) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT run_id FROM latest_metric
    WHERE experiment_id = wanted.id AND key = :key
      AND value <> 'NaN' AND value <> 'Infinity' AND value <> '-Infinity'
    ORDER BY value {0}, run_id {0} LIMIT 1
) AS best
"""


_BEST_BY_GOAL = {
    goal: Prepared(
        text(_BEST.format(direction)).bindparams(
            bindparam("experiment_ids", type_=ARRAY(Uuid)), bindparam("key", type_=Text)
        )
    )
    for goal, direction in ((MetricGoal.MAXIMIZE, "DESC"), (MetricGoal.MINIMIZE, "ASC"))
}


class MetricValue(Protocol):
    """A point of a metric. `value` may be NaN or infinite."""

    @property
    def key(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def step(self) -> int: ...
    @property
    def timestamp(self) -> datetime: ...


class NewMetricValue(NamedTuple):
    """One that was not read from a table."""

    key: str
    value: float
    step: int
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class Points:
    """Points of one metric as columns of equal length; without times they are as `_LOG` says."""

    key: str
    steps: list[int]
    values: list[float]
    timestamps: list[datetime] | None


@dataclass(slots=True)
class Series:
    """A metric's history in the order of its steps; `total` counts what was sampled from."""

    key: str
    steps: list[int]
    values: list[float]
    timestamps: list[datetime]
    total: int


async def log(
    session: WriteSession, run_id: UUID, experiment_id: UUID, series: Sequence[Points]
) -> list[MetricValue]:
    """Store points, replacing those that are there, and keep the latest of each key right.

    The caller holds the run's row locked, so that two writers of one run cannot deadlock. Returns
    the latest value of each key that the points name; nothing when all of them were there already.
    """
    rows = await session.execute(
        _LOG,
        {
            "keys": [points.key for points in series],
            "steps": [_array(points.steps) for points in series],
            "values": [_array(list(map(shown, points.values))) for points in series],
            "timestamps": [points.timestamps and _array(points.timestamps) for points in series],
            "run_id": run_id,
            "experiment_id": experiment_id,
        },
    )
    found = [NewMetricValue(*metric) for *metric, stored in rows if stored]
    return sorted(found, key=lambda metric: metric.key)


def _array(column: list[Any]) -> str:
    """A column as PostgreSQL reads it."""
    return "{" + orjson.dumps(column)[1:-1].decode() + "}"


async def latest(
    session: ReadSession, run_ids: Sequence[UUID], keys: tuple[str, ...] | None
) -> Mapping[UUID, Sequence[MetricValue]]:
    """The latest values of each run, by key; all keys when `keys` is None."""
    if keys is None:
        return await _LATEST.fetch(session, run_ids)
    return await _LATEST_OF_KEYS.fetch(session, run_ids, {"keys": list(keys)})


async def history(
    session: ReadSession, run_ids: Sequence[UUID], keys: tuple[str, ...], points: int
) -> Mapping[UUID, list[Series]]:
    """Each run's series for these keys, sampled evenly by row to at most so many points each."""
    rows = await session.fetch(
        _HISTORY, {"run_ids": list(run_ids), "keys": list(keys), "points": points}
    )
    found: dict[UUID, list[Series]] = {}
    for run_id, *series in rows:
        found.setdefault(run_id, []).append(Series(*series))
    return found


async def best_runs(
    session: ReadSession, experiment_ids: Sequence[UUID], key: str, goal: MetricGoal
) -> Mapping[UUID, UUID]:
    """The run with the best finite latest value of each experiment; of equals, the newest when
    more is better, the oldest when less is."""
    rows = await session.fetch(
        _BEST_BY_GOAL[goal], {"experiment_ids": list(experiment_ids), "key": key}
    )
    return {experiment_id: run_id for experiment_id, run_id in rows}  # noqa: C416
