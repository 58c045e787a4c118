"""A model's stage history, as a client reads it and as the database has it."""

import asyncpg

from tests.client import Graph, Json

_PAGE = """
query ($name: String!, $after: String) { model(name: $name) {
  stageHistory(first: 100, after: $after) {
    nodes { stage validFrom validTo actor reason cause modelVersion { version deletedAt } }
    pageInfo { hasNextPage endCursor }
  } } }
"""

# Each entry of a version ends where the next begins, the last one with the version, and says what
# the version says; no two versions are in production at once.
_FAULTS = """
SELECT count(*) FROM (
    SELECT entry.*, version.stage AS present, stage_changed_at, deleted_at,
           lead(valid_from) OVER (PARTITION BY version.id ORDER BY valid_from) AS following
    FROM stage_assignment AS entry
    JOIN model_version AS version ON version.id = model_version_id
    WHERE model_name = $1
) AS entry
WHERE valid_to IS DISTINCT FROM coalesce(following, deleted_at)
   OR following IS NULL AND (stage <> present OR valid_from <> stage_changed_at)
   OR stage = 'PRODUCTION' AND EXISTS (
        SELECT FROM stage_assignment AS other
        WHERE other.model_id = entry.model_id AND other.id <> entry.id
          AND other.stage = 'PRODUCTION'
          AND tstzrange(other.valid_from, other.valid_to)
              && tstzrange(entry.valid_from, entry.valid_to))
"""


async def history(graph: Graph, model: str) -> list[Json]:
    """All entries, oldest first."""
    nodes: list[Json] = []
    after = None
    while True:
        found = await graph.query(_PAGE, {"name": model, "after": after})
        page = found["model"]["stageHistory"]
        nodes += page["nodes"]
        if not page["pageInfo"]["hasNextPage"]:
            return nodes[::-1]
        after = page["pageInfo"]["endCursor"]


async def faults_in_history(connection: asyncpg.Connection, model: str) -> int:
    """How many entries leave a gap, overlap with another, or contradict their version."""
    return int(await connection.fetchval(_FAULTS, model))
