"""The data that all contenders serve: made by set-based SQL, the same figures for everybody.

Here: what is in the databases. Not here: who serves it (`contenders`), what is asked (`cases`).
Everything is numbered from 1 and its id follows from its number, so that whoever asks knows what
there is. Names, times and values follow from the number too.
"""

from base64 import urlsafe_b64encode
from dataclasses import dataclass
from string import Template
from uuid import UUID

import asyncpg

EXPERIMENTS = 20
MODELS = 40
VERSIONS = 10
KEYS = ("accuracy", "loss", "precision", "recall", "f1")
# The run whose history is asked for has one metric more, with so many points.
LONG_RUN, LONG_KEY, LONG_POINTS = 1, "reward", 1_000

_KINDS = {"Experiment": 1, "Run": 2, "Model": 3, "ModelVersion": 4, "Deployment": 5}


@dataclass(frozen=True)
class Size:
    """How many runs there are, and how many points of each of their five metrics."""

    runs: int
    steps: int

    @property
    def points(self) -> int:
        """How many points there are in all, but for those of the long run."""
        return self.runs * self.steps * len(KEYS)


def experiment(n: int) -> str:
    """The name of an experiment."""
    return f"experiment-{n:02}"


def model(n: int) -> str:
    """The name of a model."""
    return f"model-{n:03}"


def row_id(kind: str, n: int) -> UUID:
    """The id of a row."""
    return UUID(f"{_KINDS[kind]:08x}-0000-7000-8000-{n:012x}")


def global_id(kind: str, n: int) -> str:
    """The id of an object as this service's clients have it."""
    return urlsafe_b64encode(f"{kind}:{row_id(kind, n).hex}".encode()).decode()


_COMMON = """
CREATE FUNCTION pg_temp.id(kind int, n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE RETURN
    (lpad(to_hex(kind), 8, '0') || '-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid;
CREATE FUNCTION pg_temp.at(n bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE RETURN
    '2026-01-01T00:00:00Z'::timestamptz + n * interval '1 second';
-- Spread over 0 to 1, the same each time.
CREATE FUNCTION pg_temp.figure(n bigint, key bigint, step bigint) RETURNS float8 LANGUAGE sql
IMMUTABLE RETURN ((n * 7919 + key * 104729 + step * 1299709) % 9973) / 9973.0;
-- What refers to what is right by construction; looking each up takes most of the time.
SET session_replication_role = replica;
"""

# The order of columns is that of the table, so that a new one without a default is noticed here.
_LIFECYCLE = Template(
    _COMMON
    + """
INSERT INTO experiment (id, name, description, owner, status, tags, created_by, created_at,
                        updated_at, revision)
SELECT pg_temp.id(1, n), 'experiment-' || lpad(n::text, 2, '0'), 'What changes with ' || n,
       'owner-' || n % 5, 'ACTIVE', jsonb_build_object('team', 'team-' || n % 4),
       'owner-' || n % 5, pg_temp.at(0), pg_temp.at(0), 1
FROM generate_series(1, $experiments) AS n;

INSERT INTO run (id, experiment_id, name, status, status_message, params, tags, source, git_commit,
                 dataset_facts, started_at, ended_at, lease_seconds, last_reported_at, log_lines,
                 created_by, created_at, updated_at, revision)
SELECT pg_temp.id(2, n), pg_temp.id(1, n % $experiments + 1), 'run-' || n,
       CASE WHEN n % 10 = 0 THEN 'FAILED' ELSE 'COMPLETED' END,
       CASE WHEN n % 10 = 0 THEN 'out of memory' END,
       jsonb_build_object('lr', (n % 100 / 1000.0)::text, 'layers', (n % 12)::text, 'seed', n::text,
                          'optimizer', 'adam', 'batch_size', (32 * (n % 4 + 1))::text),
       jsonb_build_object('team', 'team-' || n % 4, 'night', 'night-' || n / 500),
       'train.py', md5(n::text), jsonb_build_object('train_size', 50000 + n, 'feature_count', 64),
       pg_temp.at(n), pg_temp.at(n + 600), 600, pg_temp.at(n + 600), 0,
       'trainer-' || n % 7, pg_temp.at(n), pg_temp.at(n + 600), 2
FROM generate_series(1, $runs) AS n;

INSERT INTO metric_point (run_id, key, step, "timestamp", value)
SELECT pg_temp.id(2, n), key.name, step, pg_temp.at(n + step), pg_temp.figure(n, key.k, step)
FROM generate_series(1, $runs) AS n,
     unnest($keys) WITH ORDINALITY AS key (name, k), generate_series(0, $steps - 1) AS step;

INSERT INTO metric_point (run_id, key, step, "timestamp", value)
SELECT pg_temp.id(2, $long_run), '$long_key', step, pg_temp.at(step), pg_temp.figure(1, 9, step)
FROM generate_series(1, $long_points) AS step;

INSERT INTO latest_metric (run_id, key, experiment_id, value, step, "timestamp")
SELECT pg_temp.id(2, n), key.name, pg_temp.id(1, n % $experiments + 1),
       pg_temp.figure(n, key.k, $steps - 1), $steps - 1, pg_temp.at(n + $steps - 1)
FROM generate_series(1, $runs) AS n, unnest($keys) WITH ORDINALITY AS key (name, k);

INSERT INTO model (id, name, description, owner, tags, last_number, created_by, created_at,
                   updated_at, revision)
SELECT pg_temp.id(3, n), 'model-' || lpad(n::text, 3, '0'), 'What it is for', 'owner-' || n % 5,
       jsonb_build_object('team', 'team-' || n % 4), $versions, 'owner-' || n % 5,
       pg_temp.at(n), pg_temp.at(n), 1
FROM generate_series(1, $models) AS n;

CREATE TEMPORARY TABLE made AS
SELECT (m - 1) * $versions + v AS n, m, v,
       CASE v WHEN $versions THEN 'STAGING' WHEN $versions - 1 THEN 'PRODUCTION'
              ELSE 'ARCHIVED' END AS stage
FROM generate_series(1, $models) AS m, generate_series(1, $versions) AS v;

INSERT INTO model_version (id, model_id, model_name, version, stage, stage_changed_at, run_id,
                           description, framework, hyperparameters, tags, artifact_path,
                           artifact_digest, size_bytes, approval_status, live_deployments,
                           created_by, created_at, updated_at, revision)
SELECT pg_temp.id(4, n), pg_temp.id(3, m), 'model-' || lpad(m::text, 3, '0'), v::text, stage,
       pg_temp.at(n + 200), pg_temp.id(2, n), 'The ' || v || '. try', 'pytorch',
       jsonb_build_object('lr', 0.01, 'hidden_size', 256), jsonb_build_object('kind', 'nightly'),
       's3://models/' || n, 'sha256:' || md5(n::text) || md5(v::text), 1000000 + n,
       CASE WHEN stage = 'PRODUCTION' THEN 'APPROVED' ELSE 'NOT_SUBMITTED' END,
       CASE WHEN stage = 'PRODUCTION' THEN 1 ELSE 0 END,
       'trainer-' || m % 7, pg_temp.at(n), pg_temp.at(n + 200), 3
FROM made;

INSERT INTO version_metric (model_version_id, key, value, step, "timestamp")
SELECT pg_temp.id(4, n), key.name, pg_temp.figure(n, key.k, $steps - 1), $steps - 1, pg_temp.at(n)
FROM made, unnest($keys) WITH ORDINALITY AS key (name, k);

INSERT INTO approval (id, model_version_id, status, submitted_by, submitted_at, policy_id,
                      policy_version, decided_by, decided_at, used_at)
SELECT pg_temp.id(6, n), pg_temp.id(4, n), 'APPROVED', 'trainer', pg_temp.at(n + 150), policy.id,
       policy.version, 'approver', pg_temp.at(n + 180), pg_temp.at(n + 200)
FROM made, stage_policy AS policy
WHERE made.stage = 'PRODUCTION' AND policy.stage = 'PRODUCTION' AND policy.model_id IS NULL;

INSERT INTO stage_assignment (id, model_id, model_version_id, stage, valid_from, valid_to, follows,
                              actor, cause, approval_id)
SELECT pg_temp.id(7, n * 3 + entry.place), pg_temp.id(3, m), pg_temp.id(4, n), entry.stage,
       pg_temp.at(n + entry.place * 100),
       CASE WHEN entry.place < 2 THEN pg_temp.at(n + entry.place * 100 + 100) END,
       CASE WHEN entry.place > 0 THEN pg_temp.at(n + entry.place * 100) END,
       'trainer', CASE WHEN entry.place = 0 THEN 'REGISTERED' ELSE 'REQUESTED' END,
       CASE WHEN entry.stage = 'PRODUCTION' THEN pg_temp.id(6, n) END
FROM made, LATERAL (VALUES (0, 'EXPERIMENTAL'), (1, 'STAGING'), (2, made.stage))
    AS entry (place, stage);

INSERT INTO checklist_item (id, model_version_id, place, title, status, note, decided_by,
                            decided_at, created_by, created_at)
SELECT pg_temp.id(8, n * 5 + place), pg_temp.id(4, n), place, 'Check number ' || place,
       CASE WHEN place < 5 THEN 'APPROVED' ELSE 'PENDING' END,
       CASE WHEN place < 5 THEN 'as it should be' END,
       CASE WHEN place < 5 THEN 'reviewer' END,
       CASE WHEN place < 5 THEN pg_temp.at(n + 100) END, 'reviewer', pg_temp.at(n)
FROM made, generate_series(1, 5) AS place;

-- Three deployments of each version; the last one of what is in production lives.
CREATE TEMPORARY TABLE deployed AS
SELECT made.n, place, m, v, n * 3 + place AS d, place = 3 AND stage = 'PRODUCTION' AS lives
FROM made, generate_series(1, 3) AS place;

INSERT INTO deployment (id, model_version_id, model_name, version, environment, status, health,
                        endpoint, instances, instance_type, auto_scaling, request_count, error_rate,
                        avg_latency_ms, log_lines, deployed_at, healthy_at, terminated_at,
                        created_by, created_at, updated_at, revision)
SELECT pg_temp.id(5, d), pg_temp.id(4, n), 'model-' || lpad(m::text, 3, '0'), v::text,
       (ARRAY['DEVELOPMENT', 'STAGING', 'PRODUCTION'])[place],
       CASE WHEN lives THEN 'ACTIVE' ELSE 'TERMINATED' END, 'HEALTHY',
       'https://models.example/' || d, 2, 'm5.large', false, d * 1000, 0.01, 12.5, 0,
       pg_temp.at(d + 30), pg_temp.at(d + 40), CASE WHEN NOT lives THEN pg_temp.at(d + 500) END,
       'operator', pg_temp.at(d), pg_temp.at(d + 500), 4
FROM deployed;

INSERT INTO deployment_transition (deployment_id, from_status, to_status, at, actor)
SELECT pg_temp.id(5, d), step.former, step.next, pg_temp.at(d + step.after), 'operator'
FROM deployed, (VALUES (NULL, 'PENDING', 0), ('PENDING', 'VALIDATING', 10),
                       ('VALIDATING', 'DEPLOYING', 20), ('DEPLOYING', 'ACTIVE', 30),
                       ('ACTIVE', 'TERMINATED', 500)) AS step (former, next, after)
WHERE step.next <> 'TERMINATED' OR NOT deployed.lives;
"""
)

_MLFLOW = Template(
    _COMMON
    + """
INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time,
                         last_update_time, workspace)
SELECT n, 'experiment-' || lpad(n::text, 2, '0'), 'mlflow-artifacts:/' || n, 'active', 0, 0,
       'default'
FROM generate_series(1, $experiments) AS n;

CREATE FUNCTION pg_temp.ms(n bigint) RETURNS bigint LANGUAGE sql IMMUTABLE RETURN
    (extract(epoch FROM pg_temp.at(n)) * 1000)::bigint;
CREATE FUNCTION pg_temp.run(n bigint) RETURNS text LANGUAGE sql IMMUTABLE RETURN
    replace(pg_temp.id(2, n)::text, '-', '');

INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status,
                  start_time, end_time, source_version, lifecycle_stage, artifact_uri,
                  experiment_id)
SELECT pg_temp.run(n), 'run-' || n, 'LOCAL', 'train.py', '', 'trainer-' || n % 7,
       CASE WHEN n % 10 = 0 THEN 'FAILED' ELSE 'FINISHED' END, pg_temp.ms(n), pg_temp.ms(n + 600),
       md5(n::text), 'active', 'mlflow-artifacts:/' || n, n % $experiments + 1
FROM generate_series(1, $runs) AS n;

INSERT INTO params (run_uuid, key, value)
SELECT pg_temp.run(n), param.key, param.value
FROM generate_series(1, $runs) AS n, LATERAL (VALUES
    ('lr', (n % 100 / 1000.0)::text), ('layers', (n % 12)::text), ('seed', n::text),
    ('optimizer', 'adam'), ('batch_size', (32 * (n % 4 + 1))::text)) AS param (key, value);

INSERT INTO tags (run_uuid, key, value)
SELECT pg_temp.run(n), tag.key, tag.value
FROM generate_series(1, $runs) AS n, LATERAL (VALUES
    ('team', 'team-' || n % 4), ('night', 'night-' || n / 500), ('mlflow.runName', 'run-' || n))
    AS tag (key, value);

INSERT INTO metrics (run_uuid, key, value, "timestamp", step, is_nan)
SELECT pg_temp.run(n), key.name, pg_temp.figure(n, key.k, step), pg_temp.ms(n + step), step, false
FROM generate_series(1, $runs) AS n,
     unnest($keys) WITH ORDINALITY AS key (name, k), generate_series(0, $steps - 1) AS step;

INSERT INTO latest_metrics (run_uuid, key, value, "timestamp", step, is_nan)
SELECT pg_temp.run(n), key.name, pg_temp.figure(n, key.k, $steps - 1),
       pg_temp.ms(n + $steps - 1), $steps - 1, false
FROM generate_series(1, $runs) AS n, unnest($keys) WITH ORDINALITY AS key (name, k);
"""
)


async def fill_lifecycle(url: str, size: Size) -> None:
    """Everything that this service has, in its migrated and empty database."""
    await _fill(url, _LIFECYCLE, size)


async def fill_mlflow(url: str, size: Size) -> None:
    """The same experiments and runs in MLflow's tables."""
    await _fill(url, _MLFLOW, size)


async def _fill(url: str, statements: Template, size: Size) -> None:
    script = statements.substitute(
        experiments=EXPERIMENTS,
        models=MODELS,
        versions=VERSIONS,
        runs=size.runs,
        steps=size.steps,
        keys=f"ARRAY{list(KEYS)}",
        long_run=LONG_RUN,
        long_key=LONG_KEY,
        long_points=LONG_POINTS,
    )
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        await connection.execute(script)
        # Now, and not by itself while something is measured.
        await connection.execute("VACUUM (ANALYZE)")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
