"""The page that a list of runs shows: 100 runs of an experiment, newest first, ten fields of each
and its five metrics."""

from dataclasses import replace
from typing import Any

from tests.bench import data
from tests.bench.cases import Bench
from tests.bench.cases.reads import Question, compare
from tests.bench.load import Request, post
from tests.bench.measure import Bound, Outcome

WANTED = ("service", "stock", "postgraphile", "mlflow", "limit")
BOUNDS = (
    Bound("service", "postgraphile", 1.25),
    Bound("service", "stock", 6),
    Bound("service", "mlflow", 35),
    Bound("service", "limit", 0.45),
)

_EXPERIMENTS = range(1, data.EXPERIMENTS + 1)
_FIELDS = "name status statusMessage source gitCommit createdBy createdAt startedAt endedAt"

QUESTION = Question(
    "page",
    service=f"""query ($name: String!) {{
      runs(filter: {{ experimentName: $name }}, first: 100) {{
        nodes {{ id {_FIELDS} metrics {{ key value step }} }}
      }}
    }}""",
    postgraphile=f"""query ($name: String!) {{
      runs: experimentByName(name: $name) {{
        nodes: runsList(first: 100, orderBy: [CREATED_AT_DESC, ROW_ID_DESC]) {{
          id: rowId {_FIELDS} metrics: latestMetricsList {{ key value step }}
        }}
      }}
    }}""",
    limit="""
    SELECT json_build_object('data', json_build_object('runs', json_build_object('nodes',
        json_agg(json_build_object(
            'id', run.id, 'name', name, 'status', status, 'statusMessage', status_message,
            'source', source, 'gitCommit', git_commit, 'createdBy', created_by,
            'createdAt', created_at, 'startedAt', started_at, 'endedAt', ended_at,
            'metrics', metrics) ORDER BY created_at DESC, run.id DESC))))::text
    FROM (
        SELECT * FROM run WHERE experiment_id = (SELECT id FROM experiment WHERE name = $1)
        ORDER BY created_at DESC, id DESC LIMIT 100
    ) AS run
    CROSS JOIN LATERAL (
        SELECT json_agg(json_build_object('key', key, 'value', value, 'step', step)
                        ORDER BY key) AS metrics
        FROM latest_metric WHERE run_id = run.id
    ) AS latest
    """,
    variables=[{"name": data.experiment(n)} for n in _EXPERIMENTS],
)


def _mlflow(port: int) -> list[Request]:
    order = ["attributes.start_time DESC"]
    asked = [
        {"experiment_ids": [str(n)], "max_results": 100, "order_by": order} for n in _EXPERIMENTS
    ]
    path = "/api/2.0/mlflow/runs/search"
    # Without its extra "auth", MLflow 3.17 tries to import that in each search, and fails now and
    # then when two do so at once.
    return [replace(post(port, path, each), patience=True) for each in asked]


def _of_mlflow(answer: Any) -> Any:
    return [
        (
            run["info"]["run_name"],
            {each["key"]: (each["value"], each["step"]) for each in run["data"]["metrics"]},
        )
        for run in answer["runs"]
    ]


def _of_service(answer: Any) -> Any:
    return [
        (run["name"], {each["key"]: (each["value"], each["step"]) for each in run["metrics"]})
        for run in answer["data"]["runs"]["nodes"]
    ]


async def run(bench: Bench) -> Outcome:
    """Pages a second."""
    return await compare(bench, QUESTION, BOUNDS, _mlflow, _of_mlflow, _of_service)
