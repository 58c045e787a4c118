"""The GraphQL documents of the demo, each as one would type it into GraphiQL."""

SERVER = """
query Server($modelName: String!) {
  serverInfo { version }
  model(name: $modelName) { versionInStage(stage: PRODUCTION) { version } }
}
"""

CREATE_EXPERIMENT = """
mutation CreateExperiment($input: CreateExperimentInput!) {
  createExperiment(input: $input) {
    ... on CreateExperimentSuccess { experiment { id name } }
    ... on Error { code message }
  }
}
"""

COMPLETE_EXPERIMENT = """
mutation CompleteExperiment($input: UpdateExperimentInput!) {
  updateExperiment(input: $input) {
    ... on UpdateExperimentSuccess { experiment { status durationSeconds } }
    ... on Error { code message }
  }
}
"""

LOG_RUN = """
mutation LogRun($input: LogRunInput!) {
  logRun(input: $input) {
    ... on LogRunSuccess { run { id } }
    ... on Error { code message }
  }
}
"""

LOG_METRICS = """
mutation LogMetrics($input: LogMetricsInput!) {
  logMetrics(input: $input) {
    ... on LogMetricsSuccess { run { id } }
    ... on Error { code message }
  }
}
"""

LOG_RUN_OUTPUT = """
mutation LogRunOutput($input: LogRunOutputInput!) {
  logRunOutput(input: $input) {
    ... on LogRunOutputSuccess { run { id } }
    ... on Error { code message }
  }
}
"""

UPDATE_RUN = """
mutation UpdateRun($input: UpdateRunInput!) {
  updateRun(input: $input) {
    ... on UpdateRunSuccess { run { id status } }
    ... on Error { code message }
  }
}
"""

REGISTER_MODEL_VERSION = """
mutation RegisterModelVersion($input: RegisterModelVersionInput!) {
  registerModelVersion(input: $input) {
    ... on RegisterModelVersionSuccess {
      modelVersion { id version stage checklist { id title } }
    }
    ... on Error { code message }
  }
}
"""

COMPARE_MODEL_VERSIONS = """
query CompareModelVersions($modelName: String!, $versions: [String!]!) {
  compareModelVersions(modelName: $modelName, versions: $versions) {
    versions { version run { name } }
    metrics { key goal values best }
    params { key values differs }
  }
}
"""

MARK_CHECKLIST_ITEM = """
mutation MarkChecklistItem($input: MarkChecklistItemInput!) {
  markChecklistItem(input: $input) {
    __typename
    ... on Error { code message }
  }
}
"""

STAGE_OF_VERSION = """
query StageOfVersion($by: ModelVersionSelector!) {
  modelVersion(by: $by) { stage }
}
"""

SET_STAGE = """
mutation SetStage($input: SetStageInput!) {
  setStage(input: $input) {
    ... on SetStageSuccess {
      modelVersion { version stage }
      displaced { version stage }
    }
    ... on Error { code message }
  }
}
"""

CREATE_DEPLOYMENT = """
mutation CreateDeployment($input: CreateDeploymentInput!) {
  createDeployment(input: $input) {
    ... on CreateDeploymentSuccess { deployment { id version status } }
    ... on Error { code message }
  }
}
"""

UPDATE_DEPLOYMENT = """
mutation UpdateDeployment($input: UpdateDeploymentInput!) {
  updateDeployment(input: $input) {
    ... on UpdateDeploymentSuccess { deployment { id version status health updatedAt } }
    ... on Error { code message }
  }
}
"""

ROLLBACK_DEPLOYMENT = """
mutation RollbackDeployment($input: RollbackDeploymentInput!) {
  rollbackDeployment(input: $input) {
    ... on RollbackDeploymentSuccess {
      deployment { id version status rollbackFrom { id version status } }
    }
    ... on Error { code message }
  }
}
"""

IN_SERVICE = """
query InService($modelName: String!) {
  deployments(
    filter: { modelName: $modelName, environments: [PRODUCTION], statuses: [ACTIVE] }
    first: 100
  ) {
    nodes { id version health createdBy rollbackFrom { id } }
  }
}
"""

DEPLOYMENT_STATUS = """
subscription DeploymentStatus($modelName: String!, $after: String) {
  deploymentStatus(modelName: $modelName, after: $after) {
    __typename
    ... on DeploymentStatusEvent {
      cursor
      from
      to
      health
      message
      at
      deployment { id version environment }
    }
    ... on CaughtUp { cursor }
  }
}
"""

RECORD_DRIFT_EVENT = """
mutation RecordDriftEvent($input: RecordDriftEventInput!) {
  recordDriftEvent(input: $input) {
    ... on RecordDriftEventSuccess { driftEvent { id severity status } }
    ... on Error { code message }
  }
}
"""

UPDATE_DRIFT_EVENT = """
mutation UpdateDriftEvent($input: UpdateDriftEventInput!) {
  updateDriftEvent(input: $input) {
    ... on UpdateDriftEventSuccess { driftEvent { id status } }
    ... on Error { code message }
  }
}
"""

OUTCOME = """
query Outcome($experiment: String!, $modelName: String!, $deployment: ID!) {
  experiment(name: $experiment) {
    name
    status
    runCount
    bestRun(metric: "accuracy") { name metrics(keys: ["accuracy"]) { value } }
  }
  model(name: $modelName) { versionInStage(stage: PRODUCTION) { version } }
  deployment(id: $deployment) {
    version
    status
    health
    rollbackFrom { version status }
    statusHistory { from to at }
  }
}
"""


def to_try_next(model_name: str, at: str, run_id: str) -> dict[str, str]:
    """Return queries for a person to go on with, by title; `at` is a moment that has passed."""
    return {
        "What is in production now, and what was while the best version served": f"""
{{
  model(name: "{model_name}") {{
    now: versionInStage(stage: PRODUCTION) {{ version metrics {{ key value }} }}
    then: versionInStage(stage: PRODUCTION, at: "{at}") {{ version metrics {{ key value }} }}
  }}
}}""",
        "How the first run learnt": f"""
{{
  run(id: "{run_id}") {{
    name
    datasetFacts
    metricHistory(keys: ["accuracy", "train_loss"], maxPoints: 10) {{ key steps values }}
    logs(last: 3) {{ nodes {{ message }} }}
  }}
}}""",
        "Deployments, each with its way": f"""
{{
  deployments(filter: {{ modelName: "{model_name}" }}, first: 5) {{
    totalCount
    nodes {{
      version status health
      rollbackFrom {{ version }}
      statusHistory {{ from to at actor message }}
    }}
  }}
}}""",
        "Drift, the worst": f"""
{{
  driftEvents(filter: {{ modelName: "{model_name}", severities: [HIGH, CRITICAL] }}, first: 5) {{
    nodes {{ feature method baselineValue observedValue severity status resolution details }}
  }}
}}""",
        "Live: leave it open and start the demo again": f"""
subscription {{
  deploymentStatus(modelName: "{model_name}") {{
    ... on DeploymentStatusEvent {{ from to health at message deployment {{ version }} }}
  }}
}}""",
    }
