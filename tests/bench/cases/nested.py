"""An overview: 20 models, the five newest versions of each, their runs with metrics, and the last
deployment of each version."""

from tests.bench.cases import Bench
from tests.bench.cases.reads import Question, compare
from tests.bench.measure import Bound, Outcome

WANTED = ("service", "stock", "postgraphile", "limit")
BOUNDS = (Bound("service", "postgraphile", 1.2), Bound("service", "stock", 5))

_VERSION = "version stage createdAt"
_RUN = "name status gitCommit"
_DEPLOYMENT = "environment status health createdAt"

QUESTION = Question(
    "nested",
    service=f"""{{
      models(first: 20) {{ nodes {{
        name owner
        versions(first: 5) {{ nodes {{
          {_VERSION}
          run {{ {_RUN} metrics {{ key value step }} }}
          deployments(first: 1) {{ nodes {{ {_DEPLOYMENT} }} }}
        }} }}
      }} }}
    }}""",
    postgraphile=f"""{{
      models: modelsList(first: 20, orderBy: [NAME_ASC]) {{
        name owner
        versions: modelVersionsByModelIdAndModelNameList(
          first: 5, orderBy: [CREATED_AT_DESC, ROW_ID_DESC]
        ) {{
          {_VERSION}
          run {{ {_RUN} metrics: latestMetricsList {{ key value step }} }}
          deployments: deploymentsList(first: 1, orderBy: [CREATED_AT_DESC, ROW_ID_DESC]) {{
            {_DEPLOYMENT}
          }}
        }}
      }}
    }}""",
    limit="""
    SELECT json_build_object('data', json_build_object('models', json_build_object('nodes',
        json_agg(json_build_object('name', name, 'owner', owner, 'versions', versions)
                 ORDER BY name))))::text
    FROM (SELECT * FROM model ORDER BY name LIMIT 20) AS model
    CROSS JOIN LATERAL (
        SELECT json_agg(json_build_object(
            'version', version, 'stage', stage, 'createdAt', version.created_at,
            'run', json_build_object('name', run.name, 'status', run.status,
                                     'gitCommit', git_commit, 'metrics', metrics),
            'deployments', deployments) ORDER BY version.created_at DESC, version.id DESC)
            AS versions
        FROM (
            SELECT * FROM model_version WHERE model_id = model.id
            ORDER BY created_at DESC, id DESC LIMIT 5
        ) AS version
        JOIN run ON run.id = version.run_id
        CROSS JOIN LATERAL (
            SELECT json_agg(json_build_object('key', key, 'value', value, 'step', step)
                            ORDER BY key) AS metrics
            FROM latest_metric WHERE run_id = run.id
        ) AS latest
        CROSS JOIN LATERAL (
            SELECT json_agg(json_build_object(
                'environment', environment, 'status', status, 'health', health,
                'createdAt', created_at)) AS deployments
            FROM (
                SELECT * FROM deployment WHERE model_version_id = version.id
                ORDER BY created_at DESC, id DESC LIMIT 1
            ) AS last
        ) AS deployed
    ) AS numbered
    """,
    variables=[{}],
)


async def run(bench: Bench) -> Outcome:
    """Answers a second."""
    return await compare(bench, QUESTION, BOUNDS)
