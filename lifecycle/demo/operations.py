"""The GraphQL documents of the demo, each as one would type it into GraphiQL."""

SERVER = """
query Server {
  serverInfo { version }
}
"""

TOKEN = """
mutation CreateApiToken($input: CreateApiTokenInput!) {
  createApiToken(input: $input) {
    ... on CreateApiTokenSuccess { token }
    ... on Error { code message }
  }
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

SET_STAGE_POLICY = """
mutation SetStagePolicy($input: SetStagePolicyInput!) {
  setStagePolicy(input: $input) {
    ... on SetStagePolicySuccess { stagePolicy { version rules { description } } }
    ... on Error { code message }
  }
}
"""

SET_DRIFT_POLICY = """
mutation SetDriftPolicy($input: SetDriftPolicyInput!) {
  setDriftPolicy(input: $input) {
    ... on SetDriftPolicySuccess { driftPolicy { version responses { fromSeverity action } } }
    ... on Error { code message }
  }
}
"""

SUBMIT_FOR_APPROVAL = """
mutation SubmitForApproval($input: SubmitForApprovalInput!) {
  submitForApproval(input: $input) {
    ... on SubmitForApprovalSuccess {
      approval { status reason }
      modelVersion { stage }
    }
    ... on Error { code message }
  }
}
"""

WHY_NOT = """
query WhyNot($by: ModelVersionSelector!) {
  modelVersion(by: $by) {
    whyNot(stage: PRODUCTION) { name observed required message advice }
  }
}
"""

PENDING_APPROVALS = """
query PendingApprovals {
  pendingApprovals(first: 100) {
    nodes {
      modelName
      version
      createdBy
      metrics { key value }
      checklist { title status }
      approval { status reason submittedBy submissionNotes }
    }
  }
}
"""

DECIDE_APPROVAL = """
mutation DecideApproval($input: DecideApprovalInput!) {
  decideApproval(input: $input) {
    ... on DecideApprovalSuccess {
      approval { status decidedBy notes }
      modelVersion { stage }
    }
    ... on Error { code message }
  }
}
"""

UPDATE_MODEL_VERSION = """
mutation UpdateModelVersion($input: UpdateModelVersionInput!) {
  updateModelVersion(input: $input) {
    ... on UpdateModelVersionSuccess { modelVersion { approval { status staleReason } } }
    ... on Error { code message }
  }
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
      actor
      deployment { id version environment }
    }
    ... on CaughtUp { cursor }
  }
}
"""

RECORD_DRIFT_EVENT = """
mutation RecordDriftEvent($input: RecordDriftEventInput!) {
  recordDriftEvent(input: $input) {
    ... on RecordDriftEventSuccess {
      driftEvent {
        id
        severity
        status
        dedupKey
        responses { action outcome message deployment { id version status } }
      }
      duplicate
    }
    ... on Error { code message }
  }
}
"""

OUTCOME = """
query Outcome($modelName: String!, $deployment: ID!) {
  experiment(name: $modelName) {
    name
    status
    runCount
    bestRun(metric: "accuracy") { name metrics(keys: ["accuracy"]) { value } }
  }
  model(name: $modelName) {
    stageHistory(stages: [PRODUCTION], first: 1) {
      nodes {
        modelVersion { version }
        cause
        actor
        reason
        approval {
          status
          decidedBy
          notes
          report { policyVersion passed checks { name passed observed } }
        }
        displaced { version }
      }
    }
    versions(first: 2) { nodes { version whyNot(stage: PRODUCTION) { message } } }
  }
  deployment(id: $deployment) {
    version
    status
    health
    rollbackFrom { version status }
    cause { severity status }
    statusHistory { from to at }
  }
}
"""

MLFLOW = """
query Mlflow {
  serverInfo { mlflow { uri version answering error } }
}
"""

MIRRORED = """
query Mirrored($name: String!, $run: ID!) {
  serverInfo { mlflow { behind } }
  experiment(name: $name) { __typename mlflow { id url state } }
  run(id: $run) { __typename mlflow { id url state } }
  model(name: $name) {
    __typename
    mlflow { id url state }
    versions(first: 1) { nodes { __typename mlflow { id url state } } }
  }
}
"""

FOLLOWED = """
query Followed($name: String!) {
  experiment(name: $name) { runs(first: 1) { nodes { id name createdBy } } }
}
"""

RUN_PROGRESS = """
subscription RunProgress($id: ID!) {
  runProgress(runId: $id) {
    __typename
    ... on RunStatusEvent { from to at }
    ... on RunMetricsEvent { at metrics { key value step } }
  }
}
"""

UPDATE_MODEL = """
mutation UpdateModel($input: UpdateModelInput!) {
  updateModel(input: $input) {
    ... on UpdateModelSuccess { model { description } }
    ... on Error { code message }
  }
}
"""

CONFLICT = """
query Conflict($name: String!) {
  serverInfo { mlflow { behind } }
  model(name: $name) { mlflow { itemId state conflicts { field here there } } }
}
"""

RESOLVE = """
mutation Resolve($input: ResolveMlflowConflictInput!) {
  resolveMlflowConflict(input: $input) {
    ... on ResolveMlflowConflictSuccess { mlflowItem { mlflow { state } } }
    ... on Error { code message }
  }
}
"""


def to_try_next(model_name: str, version_id: str, event_id: str) -> dict[str, str]:
    """Return queries for a person to go on with, by title."""
    return {
        "Why is this version in production, who let it in, and what did it replace": f"""
{{
  model(name: "{model_name}") {{
    stageHistory(stages: [PRODUCTION], first: 5) {{
      nodes {{
        modelVersion {{ version }}
        validFrom validTo cause actor reason
        approval {{ status reason decidedBy notes decisions {{ actor decision notes at }} }}
        report {{ policyVersion checks {{ name passed observed required message }} }}
        displaced {{ version }}
      }}
    }}
  }}
}}""",
        "What would the next one need": f"""
{{
  model(name: "{model_name}") {{
    versions(first: 10) {{
      nodes {{
        version stage
        approval {{ status staleReason }}
        whyNot(stage: PRODUCTION) {{ name observed required message advice }}
      }}
    }}
  }}
}}""",
        "Who did what to the version that drifted": f"""
{{
  auditLog(filter: {{ subject: "{version_id}" }}, first: 20) {{
    nodes {{ position at actor action before after reason policyVersion hash }}
  }}
}}""",
        "What the service did about the drift": f"""
{{
  driftEvents(filter: {{ modelName: "{model_name}" }}, first: 5) {{
    nodes {{
      feature method baselineValue observedValue severity status dedupKey
      policy {{ version responses {{ fromSeverity action }} }}
      responses {{ action outcome message deployment {{ version status }} }}
    }}
  }}
}}""",
        "From the drift up to the data": f"""
{{
  lineage(of: "{event_id}", direction: UPSTREAM, depth: 6) {{
    nodes {{
      id
      __typename
      ... on Deployment {{ version status }}
      ... on ModelVersion {{ version stage }}
      ... on Run {{ run: name params {{ key value }} }}
      ... on Experiment {{ experiment: name }}
      ... on DataSet {{ dataSet: name digest }}
    }}
    edges {{ from kind to }}
    truncated
  }}
}}""",
        "Live: leave it open and start the demo again": """
subscription {
  deploymentStatus {
    ... on DeploymentStatusEvent {
      from to health at actor message
      deployment { modelName version }
    }
  }
}""",
    }


def mlflow_to_try_next(model_name: str, run_id: str) -> dict[str, str]:
    """Return queries for a person to go on with, by title, about what is here and in MLflow."""
    return {
        "How it stands with MLflow": """
{
  serverInfo { mlflow { uri version answering pending failed conflicts behind } }
  mlflowItems(filter: { states: [CONFLICT, FAILED] }, first: 10) {
    nodes { kind mlflow { id url error conflicts { field here there reason resolutions } } }
  }
}""",
        "The model, here and there": f"""
{{
  model(name: "{model_name}") {{
    description
    mlflow {{ url state lastSyncedAt }}
    versions(first: 5) {{ nodes {{ version stage mlflow {{ url state }} }} }}
  }}
}}""",
        "What the training code told MLflow, for the gates and lineage of this service": f"""
{{
  run(id: "{run_id}") {{
    name status createdBy
    params {{ key value }}
    metrics {{ key value step }}
    mlflow {{ url }}
  }}
}}""",
    }
