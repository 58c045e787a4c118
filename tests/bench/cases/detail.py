"""The page of one model version: by name, with its run, metrics, checklist and deployments."""

from tests.bench import data
from tests.bench.cases import Bench
from tests.bench.cases.reads import Question, compare
from tests.bench.measure import Bound, Outcome

WANTED = ("service", "stock", "postgraphile", "limit")
BOUNDS = (Bound("service", "postgraphile", 1.0), Bound("service", "stock", 2.5))

_VERSION = "version stage description framework artifactPath artifactDigest createdBy createdAt"
_RUN = "name status gitCommit startedAt endedAt"
_ITEM = "title status note decidedBy decidedAt"
_DEPLOYMENT = "environment status health endpoint createdAt"

QUESTION = Question(
    "detail",
    service=f"""query ($name: String!, $version: String!) {{
      modelVersion(by: {{ nameVersion: {{ modelName: $name, version: $version }} }}) {{
        id {_VERSION}
        run {{ id {_RUN} }}
        metrics {{ key value step }}
        checklist {{ {_ITEM} }}
        deployments(first: 10) {{ nodes {{ id {_DEPLOYMENT} }} }}
      }}
    }}""",
    postgraphile=f"""query ($name: String!, $version: String!) {{
      modelVersion: modelVersionByModelNameAndVersion(modelName: $name, version: $version) {{
        id: rowId {_VERSION}
        run {{ id: rowId {_RUN} }}
        metrics: versionMetricsList {{ key value step }}
        checklist: checklistItemsList(orderBy: [PLACE_ASC]) {{ {_ITEM} }}
        deployments: deploymentsList(first: 10, orderBy: [CREATED_AT_DESC, ROW_ID_DESC]) {{
          id: rowId {_DEPLOYMENT}
        }}
      }}
    }}""",
    limit="""
    SELECT json_build_object('data', json_build_object('modelVersion', json_build_object(
        'id', version.id, 'version', version, 'stage', stage,
        'description', version.description, 'framework', framework,
        'artifactPath', artifact_path, 'artifactDigest', artifact_digest,
        'createdBy', version.created_by, 'createdAt', version.created_at,
        'run', json_build_object(
            'id', run.id, 'name', run.name, 'status', run.status, 'gitCommit', git_commit,
            'startedAt', started_at, 'endedAt', ended_at),
        'metrics', (
            SELECT json_agg(json_build_object('key', key, 'value', value, 'step', step)
                            ORDER BY key)
            FROM version_metric WHERE model_version_id = version.id),
        'checklist', (
            SELECT json_agg(json_build_object(
                'title', title, 'status', status, 'note', note, 'decidedBy', decided_by,
                'decidedAt', decided_at) ORDER BY place)
            FROM checklist_item WHERE model_version_id = version.id),
        'deployments', (
            SELECT json_agg(json_build_object(
                'id', id, 'environment', environment, 'status', status, 'health', health,
                'endpoint', endpoint, 'createdAt', created_at)
                ORDER BY created_at DESC, id DESC)
            FROM (
                SELECT * FROM deployment WHERE model_version_id = version.id
                ORDER BY created_at DESC, id DESC LIMIT 10
            ) AS newest))))::text
    FROM model_version AS version JOIN run ON run.id = version.run_id
    WHERE model_name = $1 AND version = $2
    """,
    variables=[
        {"name": data.model(m), "version": str(v)}
        for m in range(1, data.MODELS + 1)
        for v in (1, data.VERSIONS - 1, data.VERSIONS)
    ],
)


async def run(bench: Bench) -> Outcome:
    """Answers a second."""
    return await compare(bench, QUESTION, BOUNDS)
