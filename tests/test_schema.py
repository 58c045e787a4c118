"""The schema as a whole: what clients rely on, what each name says of itself, and its file."""

from pathlib import Path

import pytest
from graphql import (
    DocumentNode,
    EnumTypeDefinitionNode,
    FieldDefinitionNode,
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNamedType,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLUnionType,
    InputValueDefinitionNode,
    ListTypeNode,
    NamedTypeNode,
    NonNullTypeNode,
    TypeNode,
    UnionTypeDefinitionNode,
    is_introspection_type,
    is_specified_scalar_type,
    parse,
    print_ast,
)
from graphql.pyutils import Undefined

from schema.root import schema, sdl
from tests.mutations import MUTATIONS, capital, input_type

TYPES = {
    name: type_
    for name, type_ in schema._schema.type_map.items()
    if not is_introspection_type(type_) and not is_specified_scalar_type(type_)
}

# What clients rely on: these names are kept. Types may become stricter in what they give and more
# lenient in what they take; more may be added.
CONTRACT = """
scalar DateTime
scalar JSON
scalar BigInt

interface Node { id: ID! }
interface Error { code: ErrorCode! message: String! path: [String!]! }
enum ErrorCode { NOT_FOUND ALREADY_EXISTS INVALID_INPUT INVALID_TRANSITION CONFLICT STALE_REVISION
  IDEMPOTENCY_CONFLICT GATE_FAILED APPROVAL_REQUIRED IN_USE UNAVAILABLE }
type NotFound { code: ErrorCode! message: String! path: [String!]! }
type AlreadyExists { code: ErrorCode! message: String! path: [String!]! }
type InvalidInput { code: ErrorCode! message: String! path: [String!]! }
type InvalidTransition { code: ErrorCode! message: String! path: [String!]!
  from: String! to: String! allowed: [String!]! }
type Conflict { code: ErrorCode! message: String! path: [String!]! }
type StaleRevision { code: ErrorCode! message: String! path: [String!]! currentRevision: Int! }
type IdempotencyConflict { code: ErrorCode! message: String! path: [String!]! }
type InUse { code: ErrorCode! message: String! path: [String!]! }
type Unavailable { code: ErrorCode! message: String! path: [String!]! }
type GateFailed { code: ErrorCode! message: String! path: [String!]! report: ValidationReport! }
type ApprovalRequired { code: ErrorCode! message: String! path: [String!]!
  status: ApprovalStatus! report: ValidationReport! }

enum ExperimentStatus { ACTIVE COMPLETED ARCHIVED }
enum RunStatus { PENDING RUNNING COMPLETED FAILED CANCELLED LOST }
enum Stage { EXPERIMENTAL STAGING PRODUCTION ARCHIVED }
enum Environment { DEVELOPMENT STAGING PRODUCTION }
enum DeploymentStatus { PENDING VALIDATING DEPLOYING ACTIVE FAILED ROLLBACK TERMINATED }
enum HealthStatus { UNKNOWN HEALTHY DEGRADED UNHEALTHY }
enum DriftSeverity { LOW MEDIUM HIGH CRITICAL }
enum DriftStatus { OPEN ACKNOWLEDGED MITIGATED RESOLVED FALSE_POSITIVE }
enum ChecklistStatus { PENDING APPROVED REJECTED }
enum StageCause { REGISTERED REQUESTED APPROVED BYPASSED DISPLACED ROLLED_BACK AUTOMATION }
enum ApprovalStatus { NOT_SUBMITTED PENDING NEEDS_REVIEW APPROVED REJECTED STALE BYPASSED
  WITHDRAWN }
enum Decision { APPROVE REJECT BYPASS }
enum CheckSeverity { BLOCKING WARNING INFO }
enum RuleKind { METRIC DATASET_FACT HYPERPARAMETER BASELINE CHECKLIST APPROVALS ARTIFACT_DIGEST
  RUN_COMPLETED NO_OPEN_DRIFT EVIDENCE_AGE AUTOMATIC_APPROVAL }
enum NumberKind { FINITE NAN POSITIVE_INFINITY NEGATIVE_INFINITY }
enum MetricGoal { MAXIMIZE MINIMIZE }
enum LineageDirection { UPSTREAM DOWNSTREAM BOTH }
enum LineageKind { CONTAINS USED_BY PARENT_OF PRODUCED DEPLOYED_AS ROLLED_BACK_TO SHOWED }

type Tag { key: String! value: String! }
type Param { key: String! value: String! }
type Metric { key: String! value: Float kind: NumberKind! step: BigInt! timestamp: DateTime! }
type MetricSeries { key: String! steps: [BigInt!]! values: [Float]! timestamps: [DateTime!]!
  totalPoints: BigInt! }
type Artifact { name: String! path: String! sizeBytes: BigInt digest: String area: ArtifactArea
  downloadUrl: String }
enum ArtifactArea { INTERNAL EXTERNAL }
type ArtifactUpload { id: ID! path: String! name: String! area: ArtifactArea! sizeBytes: BigInt!
  digest: String! createdBy: String! createdAt: DateTime! completeBy: DateTime!
  completedAt: DateTime alreadyStored: Boolean! uploadUrl: String uploadUrlExpiresAt: DateTime }
input BeginArtifactUploadInput { runId: ID! path: String! name: String!
  area: ArtifactArea! = INTERNAL sizeBytes: BigInt! digest: String! }
input CompleteArtifactUploadInput { id: ID! }
type LogLine { line: BigInt! timestamp: DateTime! level: String! message: String! }

type Experiment {
  mlflow: MlflowLink!
  id: ID! name: String! description: String owner: String status: ExperimentStatus! tags: [Tag!]!
  createdAt: DateTime! updatedAt: DateTime! completedAt: DateTime durationSeconds: Float
  revision: Int!
  runs(filter: RunFilter, orderBy: [RunOrder!], first: Int, after: String, last: Int,
    before: String): RunConnection!
  runCount: Int! bestRun(metric: String!, goal: MetricGoal! = MAXIMIZE): Run
  artifacts: [Artifact!]! logs(last: Int = 100): [LogLine!]!
}
type Run {
  mlflow: MlflowLink!
  id: ID! name: String status: RunStatus! statusMessage: String experiment: Experiment! parent: Run
  params: [Param!]! metrics(keys: [String!]): [Metric!]! tags: [Tag!]! artifacts: [Artifact!]!
  metricHistory(keys: [String!]!, maxPoints: Int = 1000): [MetricSeries!]!
  logs(first: Int, after: String, last: Int, before: String): LogConnection!
  source: String gitCommit: String datasetFacts: JSON createdBy: String! createdAt: DateTime!
  startedAt: DateTime endedAt: DateTime durationSeconds: Float updatedAt: DateTime! revision: Int!
  modelVersions: [ModelVersion!]!
  dataSet: DataSet
  affectedDeployments(statuses: [DeploymentStatus!], first: Int, after: String):
    DeploymentConnection!
}
type MetricGoalSetting { key: String! goal: MetricGoal! }
input MetricGoalInput { key: String! goal: MetricGoal! }
type DataSet {
  id: ID! name: String! digest: String createdBy: String! createdAt: DateTime!
  runs(filter: RunFilter, orderBy: [RunOrder!], first: Int, after: String, last: Int,
    before: String): RunConnection!
  affectedDeployments(statuses: [DeploymentStatus!], first: Int, after: String):
    DeploymentConnection!
}
type Lineage { nodes: [Node!]! edges: [LineageEdge!]! truncated: Boolean! }
type LineageEdge { from: ID! to: ID! kind: LineageKind! }
type Model {
  mlflow: MlflowLink!
  id: ID! name: String! description: String owner: String tags: [Tag!]! createdAt: DateTime!
  updatedAt: DateTime! metricGoals: [MetricGoalSetting!]!
  versions(filter: ModelVersionFilter, first: Int, after: String, last: Int, before: String):
    ModelVersionConnection!
  versionInStage(stage: Stage!, at: DateTime): ModelVersion
  stageHistory(first: Int, after: String): StageAssignmentConnection!
}
type ModelVersion {
  mlflow: MlflowLink!
  id: ID! model: Model! modelName: String! version: String! stage: Stage! run: Run
  description: String framework: String hyperparameters: JSON metrics: [Metric!]! tags: [Tag!]!
  artifactPath: String artifactDigest: String sizeBytes: BigInt createdBy: String!
  createdAt: DateTime! updatedAt: DateTime! revision: Int! checklist: [ChecklistItem!]!
  approval: Approval! approvalHistory: [Approval!]! validation: ValidationReport
  whyNot(stage: Stage! = PRODUCTION): [ValidationCheck!]! stageHistory: [StageAssignment!]!
  deployments(first: Int, after: String): DeploymentConnection! deploymentCount: Int!
  driftEvents(first: Int, after: String): DriftEventConnection!
}
type StageAssignment { modelVersion: ModelVersion! stage: Stage! validFrom: DateTime!
  validTo: DateTime actor: String! reason: String cause: StageCause! approval: Approval
  report: ValidationReport displaced: [ModelVersion!]! }
type Approval { status: ApprovalStatus! reason: String submittedBy: String submittedAt: DateTime
  submissionNotes: String decidedBy: String decidedAt: DateTime notes: String
  decisions: [ApprovalDecision!]! report: ValidationReport policyVersion: Int digest: String
  staleReason: String staleAt: DateTime supersededAt: DateTime usedAt: DateTime
  cause: DriftEvent }
type ApprovalDecision { actor: String! decision: Decision! notes: String at: DateTime! }
type ValidationReport { passed: Boolean! stage: Stage! checks: [ValidationCheck!]!
  recommendations: [String!]! policyVersion: Int! createdAt: DateTime! }
type ValidationCheck { name: String! category: String! passed: Boolean! severity: CheckSeverity!
  observed: JSON required: JSON message: String! advice: String evidence: Node }
type StagePolicy { id: ID! stage: Stage! version: Int! rules: [PolicyRule!] reason: String
  createdBy: String! createdAt: DateTime! model: Model }
type PolicyRule { kind: RuleKind! description: String! parameters: JSON! }
type ChecklistItem { id: ID! title: String! status: ChecklistStatus! note: String decidedBy: String
  decidedAt: DateTime }
type EndpointConfig { instances: Int! instanceType: String autoScaling: Boolean! }
type DeploymentMetrics { requestCount: BigInt! errorRate: Float! avgLatencyMs: Float!
  observed: [ObservedFigure!]! reportedAt: DateTime }
type ObservedFigure { key: String! value: Float! }
type Deployment {
  mlflow: MlflowLink!
  id: ID! modelVersion: ModelVersion! modelName: String! version: String! environment: Environment!
  status: DeploymentStatus! statusMessage: String health: HealthStatus! endpoint: String
  config: EndpointConfig! metrics: DeploymentMetrics!
  logs(first: Int, after: String, last: Int, before: String): LogConnection!
  rollbackFrom: Deployment cause: DriftEvent statusHistory: [DeploymentTransition!]!
  driftEvents(first: Int, after: String): DriftEventConnection! createdBy: String!
  createdAt: DateTime! updatedAt: DateTime! deployedAt: DateTime terminatedAt: DateTime
  revision: Int!
}
type DeploymentTransition { from: DeploymentStatus to: DeploymentStatus! at: DateTime!
  actor: String! message: String }
type DriftEvent {
  id: ID! modelVersion: ModelVersion! deployment: Deployment severity: DriftSeverity!
  status: DriftStatus! metric: String! feature: String baselineValue: Float observedValue: Float
  threshold: Float method: String description: String details: JSON detectedAt: DateTime!
  createdBy: String! createdAt: DateTime! revision: Int! acknowledgedBy: String resolvedBy: String
  resolution: String dedupKey: String policy: DriftPolicy responses: [DriftResponse!]!
}
type DriftPolicy { id: ID! modelName: String version: Int! responses: [DriftResponseRule!]
  degradation: [DegradationRule!] reason: String! createdBy: String! createdAt: DateTime! }
type DriftResponseRule { fromSeverity: DriftSeverity! action: DriftAction! }
type DegradationRule { figure: DegradationFigure! metric: String limit: DegradationLimit!
  value: Float! severity: DriftSeverity! }
type DriftResponse { action: DriftAction! outcome: DriftOutcome! message: String! at: DateTime!
  approval: Approval deployment: Deployment }
enum DriftAction { MARK_STALE OPEN_REVIEW ROLL_BACK }
enum DriftOutcome { DONE NOTHING_TO_DO FAILED }
enum DegradationFigure { ERROR_RATE AVG_LATENCY_MS OBSERVED }
enum DegradationLimit { MAX_RATIO MAX_INCREASE MAX_DECREASE MAX_VALUE }
type ModelComparison { versions: [ModelVersion!]! metrics: [MetricComparison!]!
  params: [ParamComparison!]! }
type MetricComparison { key: String! goal: MetricGoal! values: [Float]! differences: [Float]!
  best: String }
type ParamComparison { key: String! values: [String]! differs: Boolean! }
type AuditEntry { position: BigInt! at: DateTime! actor: String! action: String!
  subjectKind: String! subjectId: ID! subject: Node before: JSON after: JSON reason: String
  requestId: String! idempotencyKey: String policyVersion: Int hash: String }
type AuditHead { position: BigInt! hash: String! anchor: String! }
type ServerInfo { version: String! schemaHash: String! features: [String!]! mlflow: MlflowServer }
type MlflowLink { id: String url: String state: MlflowState! lastSyncedAt: DateTime error: String
  conflicts: [MlflowConflict!]! itemId: ID }
type MlflowConflict { field: String here: String there: String reason: String
  resolutions: [MlflowResolution!]! }
type MlflowItem { id: ID! kind: MlflowItemKind! mlflow: MlflowLink! attempts: Int!
  nextAttemptAt: DateTime object: Node }
type MlflowServer { uri: String! version: String answering: Boolean! answeredAt: DateTime
  error: String pending: Int! failed: Int! conflicts: Int! behind: BigInt }
enum MlflowState { IN_SYNC PENDING FAILED CONFLICT NOT_CONFIGURED }
enum MlflowItemKind { EXPERIMENT RUN MODEL MODEL_VERSION }
enum MlflowResolution { KEEP_OURS TAKE_THEIRS LEAVE }

input ModelVersionSelector { id: ID nameVersion: NameVersionInput inStage: NameStageInput }
input NameVersionInput { modelName: String! version: String! }
input NameStageInput { modelName: String! stage: Stage! }
input ExperimentFilter { owner: String statuses: [ExperimentStatus!] nameContains: String }
input RunFilter { experimentName: String statuses: [RunStatus!] createdBy: String
  metric: MetricConditionInput param: ParamConditionInput tag: TagConditionInput }
input MetricConditionInput { key: String! gte: Float lte: Float }
input ParamConditionInput { key: String! equals: String! }
input ModelVersionFilter { modelName: String stages: [Stage!]
  approvalStatuses: [ApprovalStatus!] }
input DeploymentFilter { modelName: String environments: [Environment!]
  statuses: [DeploymentStatus!] activeAt: DateTime }
input DataSetFilter { name: String }
input DriftEventFilter { modelName: String severities: [DriftSeverity!] statuses: [DriftStatus!] }
input MlflowItemFilter { states: [MlflowState!] kinds: [MlflowItemKind!] }
input AuditLogFilter { actors: [String!] subject: ID subjectKinds: [String!] actions: [String!]
  from: DateTime to: DateTime }

type Query {
  node(id: ID!): Node
  nodes(ids: [ID!]!): [Node]!
  experiment(name: String!): Experiment
  experiments(filter: ExperimentFilter, orderBy: [ExperimentOrder!], first: Int, after: String,
    last: Int, before: String): ExperimentConnection!
  run(id: ID!): Run
  runs(filter: RunFilter, orderBy: [RunOrder!], first: Int, after: String, last: Int,
    before: String): RunConnection!
  model(name: String!): Model
  models(filter: ModelFilter, first: Int, after: String, last: Int, before: String):
    ModelConnection!
  modelVersion(by: ModelVersionSelector!): ModelVersion
  modelVersions(filter: ModelVersionFilter, orderBy: [ModelVersionOrder!], first: Int,
    after: String, last: Int, before: String): ModelVersionConnection!
  compareModelVersions(modelName: String!, versions: [String!]!, baseline: String,
    goals: [MetricGoalInput!]): ModelComparison!
  pendingApprovals(first: Int, after: String): ModelVersionConnection!
  stagePolicy(stage: Stage! = PRODUCTION, modelName: String): StagePolicy
  stagePolicies(stage: Stage! = PRODUCTION, modelName: String, first: Int, after: String,
    last: Int, before: String): StagePolicyConnection!
  deployment(id: ID!): Deployment
  deployments(filter: DeploymentFilter, orderBy: [DeploymentOrder!], first: Int, after: String,
    last: Int, before: String): DeploymentConnection!
  driftEvents(filter: DriftEventFilter, first: Int, after: String, last: Int, before: String):
    DriftEventConnection!
  auditLog(filter: AuditLogFilter, first: Int, after: String, last: Int, before: String):
    AuditEntryConnection!
  auditHead: AuditHead!
  dataSet(name: String!, digest: String): DataSet
  dataSets(filter: DataSetFilter, first: Int, after: String, last: Int, before: String):
    DataSetConnection!
  lineage(of: ID!, direction: LineageDirection! = BOTH, depth: Int! = 5): Lineage
  driftPolicy(modelName: String): DriftPolicy!
  driftPolicies(modelName: String, first: Int, after: String, last: Int, before: String):
    DriftPolicyConnection!
  mlflowItems(filter: MlflowItemFilter, first: Int, after: String, last: Int, before: String):
    MlflowItemConnection!
  serverInfo: ServerInfo!
}

type Mutation {
  createExperiment(input: CreateExperimentInput!): CreateExperimentResult!
  updateExperiment(input: UpdateExperimentInput!): UpdateExperimentResult!
  logRun(input: LogRunInput!): LogRunResult!
  updateRun(input: UpdateRunInput!): UpdateRunResult!
  logMetrics(input: LogMetricsInput!): LogMetricsResult!
  logRunOutput(input: LogRunOutputInput!): LogRunOutputResult!
  registerModelVersion(input: RegisterModelVersionInput!): RegisterModelVersionResult!
  updateModelVersion(input: UpdateModelVersionInput!): UpdateModelVersionResult!
  deleteModelVersion(input: DeleteModelVersionInput!): DeleteModelVersionResult!
  setStage(input: SetStageInput!): SetStageResult!
  setStagePolicy(input: SetStagePolicyInput!): SetStagePolicyResult!
  validateModelVersion(input: ValidateModelVersionInput!): ValidateModelVersionResult!
  submitForApproval(input: SubmitForApprovalInput!): SubmitForApprovalResult!
  decideApproval(input: DecideApprovalInput!): DecideApprovalResult!
  withdrawApproval(input: WithdrawApprovalInput!): WithdrawApprovalResult!
  appendChecklistItem(input: AppendChecklistItemInput!): AppendChecklistItemResult!
  markChecklistItem(input: MarkChecklistItemInput!): MarkChecklistItemResult!
  createDeployment(input: CreateDeploymentInput!): CreateDeploymentResult!
  updateDeployment(input: UpdateDeploymentInput!): UpdateDeploymentResult!
  rollbackDeployment(input: RollbackDeploymentInput!): RollbackDeploymentResult!
  terminateDeployment(input: TerminateDeploymentInput!): TerminateDeploymentResult!
  recordDriftEvent(input: RecordDriftEventInput!): RecordDriftEventResult!
  updateDriftEvent(input: UpdateDriftEventInput!): UpdateDriftEventResult!
  setDriftPolicy(input: SetDriftPolicyInput!): SetDriftPolicyResult!
  retryMlflowSync(input: RetryMlflowSyncInput!): RetryMlflowSyncResult!
  resolveMlflowConflict(input: ResolveMlflowConflictInput!): ResolveMlflowConflictResult!
}

input CreateExperimentInput { name: String! description: String owner: String tags: [TagInput!] }
input UpdateExperimentInput { name: String! description: String owner: String
  status: ExperimentStatus tags: [TagInput!] }
input LogRunInput { experimentName: String! name: String status: RunStatus params: [ParamInput!]
  metrics: [MetricInput!] tags: [TagInput!] artifacts: [ArtifactInput!] source: String
  gitCommit: String datasetFacts: JSON parentId: ID }
input TagInput { key: String! value: String! }
input ParamInput { key: String! value: String! }
input MetricInput { key: String! value: Float kind: NumberKind step: BigInt timestamp: DateTime }
input ArtifactInput { name: String! path: String! sizeBytes: BigInt digest: String }
input UpdateRunInput { id: ID! status: RunStatus statusMessage: String metrics: [MetricInput!]
  tags: [TagInput!] artifacts: [ArtifactInput!] }
input LogMetricsInput { runId: ID! series: [MetricSeriesInput!]! }
input MetricSeriesInput { key: String! steps: [BigInt!]! values: [Float]!
  timestamps: [DateTime!] }
input LogRunOutputInput { runId: ID! lines: [LogLineInput!]! }
input RegisterModelVersionInput { modelName: String! version: String runId: ID framework: String
  hyperparameters: JSON metrics: [MetricInput!] artifactPath: String artifactDigest: String
  sizeBytes: BigInt checklist: [String!] description: String tags: [TagInput!] }
input UpdateModelVersionInput { modelVersion: ModelVersionSelector! artifactDigest: String }
input UpdateModelInput { name: String! metricGoals: [MetricGoalInput!] }
input DeleteModelVersionInput { modelVersion: ModelVersionSelector! }
input SetStageInput { modelVersion: ModelVersionSelector! stage: Stage! reason: String
  expectedInProduction: String dryRun: Boolean! = false }
input SetStagePolicyInput { stage: Stage! modelName: String rules: [PolicyRuleInput!]
  reason: String expectedVersion: Int }
input PolicyRuleInput { metric: MetricRuleInput baseline: BaselineRuleInput
  datasetFact: DatasetFactRuleInput hyperparameter: HyperparameterRuleInput
  checklist: ChecklistRuleInput approvals: ApprovalsRuleInput
  artifactDigest: ArtifactDigestRuleInput runCompleted: RunCompletedRuleInput
  noOpenDrift: NoOpenDriftRuleInput evidenceAge: EvidenceAgeRuleInput
  automaticApproval: AutomaticApprovalRuleInput }
input MetricRuleInput { key: String! atLeast: Float atMost: Float required: Boolean! = false
  severity: CheckSeverity! = BLOCKING }
input DatasetFactRuleInput { key: String! atLeast: Float atMost: Float
  required: Boolean! = false severity: CheckSeverity! = BLOCKING }
input HyperparameterRuleInput { key: String! atLeast: Float atMost: Float
  required: Boolean! = false severity: CheckSeverity! = WARNING }
input BaselineRuleInput { key: String! tolerance: Float! relative: Boolean! = false
  goal: MetricGoal required: Boolean! = false severity: CheckSeverity! = BLOCKING }
input ChecklistRuleInput { required: Boolean! = false severity: CheckSeverity! = BLOCKING }
input ApprovalsRuleInput { count: Int! = 1 approvers: [String!] }
input ArtifactDigestRuleInput { severity: CheckSeverity! = BLOCKING }
input RunCompletedRuleInput { severity: CheckSeverity! = BLOCKING }
input NoOpenDriftRuleInput { fromSeverity: DriftSeverity! = HIGH
  severity: CheckSeverity! = BLOCKING }
input EvidenceAgeRuleInput { maxDays: Float! severity: CheckSeverity! = BLOCKING }
input AutomaticApprovalRuleInput { key: String! betterBy: Float! tolerance: Float!
  goal: MetricGoal }
input ValidateModelVersionInput { modelVersion: ModelVersionSelector!
  stage: Stage! = PRODUCTION }
input SubmitForApprovalInput { modelVersion: ModelVersionSelector! notes: String }
input DecideApprovalInput { modelVersion: ModelVersionSelector! decision: Decision!
  notes: String }
input WithdrawApprovalInput { modelVersion: ModelVersionSelector! notes: String }
input AppendChecklistItemInput { modelVersion: ModelVersionSelector! }
input CreateDeploymentInput { modelVersion: ModelVersionSelector! environment: Environment!
  endpoint: String config: EndpointConfigInput }
input EndpointConfigInput { instances: Int instanceType: String autoScaling: Boolean }
input UpdateDeploymentInput { id: ID! status: DeploymentStatus statusMessage: String
  endpoint: String health: HealthStatus metrics: DeploymentMetricsInput
  logLines: [LogLineInput!] }
input RollbackDeploymentInput { id: ID! }
input TerminateDeploymentInput { id: ID! }
input RecordDriftEventInput { modelVersion: ModelVersionSelector! deploymentId: ID
  severity: DriftSeverity! metric: String! feature: String baselineValue: Float
  observedValue: Float threshold: Float method: String description: String details: JSON
  detectedAt: DateTime dedupKey: String }
input SetDriftPolicyInput { modelName: String responses: [DriftResponseRuleInput!]
  degradation: [DegradationRuleInput!] reason: String! expectedVersion: Int }
input DriftResponseRuleInput { fromSeverity: DriftSeverity! action: DriftAction! }
input DegradationRuleInput { figure: DegradationFigure! metric: String limit: DegradationLimit!
  value: Float! severity: DriftSeverity! }
input RetryMlflowSyncInput { ids: [ID!] }
input ResolveMlflowConflictInput { id: ID! resolution: MlflowResolution! fields: [String!] }
input UpdateDriftEventInput { id: ID! status: DriftStatus resolution: String }

type CreateExperimentSuccess { experiment: Experiment! }
type UpdateExperimentSuccess { experiment: Experiment! }
type LogRunSuccess { run: Run! }
type UpdateRunSuccess { run: Run! }
type LogMetricsSuccess { run: Run! }
type LogRunOutputSuccess { run: Run! }
type RegisterModelVersionSuccess { modelVersion: ModelVersion! }
type UpdateModelVersionSuccess { modelVersion: ModelVersion! }
type DeleteModelVersionSuccess { modelVersion: ModelVersion! }
type SetStageSuccess { modelVersion: ModelVersion! displaced: [ModelVersion!]!
  dryRun: Boolean! validation: ValidationReport }
type SetStagePolicySuccess { stagePolicy: StagePolicy! }
type ValidateModelVersionSuccess { report: ValidationReport! modelVersion: ModelVersion! }
type SubmitForApprovalSuccess { approval: Approval! modelVersion: ModelVersion! }
type DecideApprovalSuccess { approval: Approval! modelVersion: ModelVersion! }
type WithdrawApprovalSuccess { approval: Approval! modelVersion: ModelVersion! }
type AppendChecklistItemSuccess { checklistItem: ChecklistItem! modelVersion: ModelVersion! }
type MarkChecklistItemSuccess { checklistItem: ChecklistItem! modelVersion: ModelVersion! }
type CreateDeploymentSuccess { deployment: Deployment! }
type UpdateDeploymentSuccess { deployment: Deployment! }
type RollbackDeploymentSuccess { deployment: Deployment! }
type TerminateDeploymentSuccess { deployment: Deployment! }
type RecordDriftEventSuccess { driftEvent: DriftEvent! duplicate: Boolean! }
type SetDriftPolicySuccess { driftPolicy: DriftPolicy! }
type RetryMlflowSyncSuccess { mlflowServer: MlflowServer! items: [MlflowItem!]! }
type ResolveMlflowConflictSuccess { mlflowItem: MlflowItem! }
type UpdateDriftEventSuccess { driftEvent: DriftEvent! }

type Subscription {
  deploymentStatus(deploymentId: ID, modelName: String, environment: Environment, after: String):
    DeploymentStatusItem!
  runProgress(runId: ID!, after: String): RunProgressItem!
}
union DeploymentStatusItem = DeploymentStatusEvent | CaughtUp | Heartbeat | CursorExpired
type DeploymentStatusEvent { cursor: String! deployment: Deployment! from: DeploymentStatus
  to: DeploymentStatus! health: HealthStatus! message: String at: DateTime! actor: String! }
union RunProgressItem =
  RunMetricsEvent | RunOutputEvent | RunStatusEvent | CaughtUp | Heartbeat | CursorExpired
type RunMetricsEvent { cursor: String! runId: ID! metrics: [Metric!]! at: DateTime! }
type RunOutputEvent { cursor: String! runId: ID! lines: [LogLine!]! }
type RunStatusEvent { cursor: String! runId: ID! from: RunStatus to: RunStatus! at: DateTime! }
type CaughtUp { cursor: String! }
type Heartbeat { cursor: String at: DateTime! }
type CursorExpired { oldest: String }
"""

# What each mutation can refuse with, besides InvalidInput, IdempotencyConflict and Unavailable.
REFUSALS = {
    "createExperiment": {"AlreadyExists"},
    "updateExperiment": {"NotFound", "InvalidTransition", "StaleRevision"},
    "logRun": {"NotFound", "Conflict"},
    "updateRun": {"NotFound", "Conflict", "InvalidTransition", "StaleRevision"},
    "logMetrics": {"NotFound"},
    "logRunOutput": {"NotFound"},
    "beginArtifactUpload": {"NotFound"},
    "completeArtifactUpload": {"NotFound", "Conflict"},
    "registerModelVersion": {"AlreadyExists", "NotFound"},
    "updateModelVersion": {"NotFound", "StaleRevision"},
    "deleteModelVersion": {"NotFound", "InUse", "StaleRevision"},
    "updateModel": {"NotFound", "StaleRevision"},
    "setStage": {
        "NotFound",
        "Conflict",
        "InvalidTransition",
        "GateFailed",
        "ApprovalRequired",
        "StaleRevision",
    },
    "validateModelVersion": {"NotFound"},
    "submitForApproval": {
        "NotFound",
        "Conflict",
        "GateFailed",
        "ApprovalRequired",
        "StaleRevision",
    },
    "decideApproval": {
        "NotFound",
        "Conflict",
        "InvalidTransition",
        "GateFailed",
        "ApprovalRequired",
        "StaleRevision",
    },
    "withdrawApproval": {"NotFound", "Conflict", "InvalidTransition", "StaleRevision"},
    "setStagePolicy": {"NotFound", "StaleRevision"},
    "appendChecklistItem": {"NotFound", "Conflict", "StaleRevision"},
    "markChecklistItem": {"NotFound", "StaleRevision"},
    "createDeployment": {"NotFound", "Conflict", "ApprovalRequired"},
    "updateDeployment": {
        "NotFound",
        "Conflict",
        "ApprovalRequired",
        "InvalidTransition",
        "StaleRevision",
    },
    "rollbackDeployment": {
        "NotFound",
        "Conflict",
        "ApprovalRequired",
        "GateFailed",
        "InvalidTransition",
        "StaleRevision",
    },
    "terminateDeployment": {"NotFound", "InvalidTransition", "StaleRevision"},
    "recordDriftEvent": {"NotFound"},
    "updateDriftEvent": {"NotFound", "InvalidTransition", "StaleRevision"},
    "setDriftPolicy": {"NotFound", "StaleRevision"},
    "retryMlflowSync": {"NotFound", "Conflict"},
    "resolveMlflowConflict": {"NotFound", "Conflict"},
    "grantRole": {"NotFound"},
    "revokeRole": {"NotFound"},
    "createApiToken": {"AlreadyExists", "NotFound"},
    "revokeApiToken": {"NotFound"},
}


def contract() -> DocumentNode:
    return parse(CONTRACT, no_location=True)


def gives(found: object, wanted: TypeNode) -> bool:
    """Whether a field of the found type serves those who were promised the wanted one."""
    if isinstance(wanted, NonNullTypeNode):
        return isinstance(found, GraphQLNonNull) and gives(found.of_type, wanted.type)
    if isinstance(found, GraphQLNonNull):
        found = found.of_type
    if isinstance(wanted, ListTypeNode):
        return isinstance(found, GraphQLList) and gives(found.of_type, wanted.type)
    assert isinstance(wanted, NamedTypeNode)
    return isinstance(found, GraphQLNamedType) and found.name == wanted.name.value


def takes(found: object, wanted: TypeNode) -> bool:
    """Whether an argument of the found type takes what those send who were told the wanted one."""
    if isinstance(found, GraphQLNonNull):
        return isinstance(wanted, NonNullTypeNode) and takes(found.of_type, wanted.type)
    if isinstance(wanted, NonNullTypeNode):
        wanted = wanted.type
    if isinstance(wanted, ListTypeNode):
        return isinstance(found, GraphQLList) and takes(found.of_type, wanted.type)
    assert isinstance(wanted, NamedTypeNode)
    return isinstance(found, GraphQLNamedType) and found.name == wanted.name.value


def accepts(found: GraphQLArgument | GraphQLInputField, wanted: InputValueDefinitionNode) -> bool:
    """The same for an argument or input field, of which one with a default may be left out."""
    type_ = found.type
    if isinstance(type_, GraphQLNonNull) and found.default_value not in (None, Undefined):
        type_ = type_.of_type
    same_default = wanted.default_value is None or (
        print_ast(wanted.default_value).lower() in str(found.default_value).lower()
    )
    return takes(type_, wanted.type) and same_default


def test_the_file_is_the_schema() -> None:
    path = Path(__file__).parent.parent / "schema" / "schema.graphql"

    assert path.read_text() == sdl(), "Run `lifecycle sdl --write`, and look at the difference."


def test_everything_in_the_contract_is_there() -> None:
    wrong = []
    for node in contract().definitions:
        name = node.name.value  # type: ignore[attr-defined]
        found = TYPES.get(name)
        if isinstance(node, EnumTypeDefinitionNode):
            values = {value.name.value for value in node.values or ()}
            if not isinstance(found, GraphQLEnumType) or set(found.values) != values:
                wrong.append(name)
        elif isinstance(node, UnionTypeDefinitionNode):
            members = {member.name.value for member in node.types or ()}
            if not isinstance(found, GraphQLUnionType) or {t.name for t in found.types} != members:
                wrong.append(name)
        elif isinstance(found, GraphQLScalarType):
            pass
        else:
            assert isinstance(
                found, GraphQLObjectType | GraphQLInterfaceType | GraphQLInputObjectType
            ), name
            for field in node.fields:  # type: ignore[attr-defined]
                if not _kept(found.fields.get(field.name.value), field):
                    wrong.append(f"{name}.{field.name.value}")

    assert wrong == []


def _kept(
    found: GraphQLField | GraphQLInputField | None,
    wanted: FieldDefinitionNode | InputValueDefinitionNode,
) -> bool:
    if isinstance(wanted, InputValueDefinitionNode):
        return isinstance(found, GraphQLInputField) and accepts(found, wanted)
    if not isinstance(found, GraphQLField) or not gives(found.type, wanted.type):
        return False
    expected = {argument.name.value: argument for argument in wanted.arguments or ()}
    others = [argument for name, argument in found.args.items() if name not in expected]
    return all(not isinstance(argument.type, GraphQLNonNull) for argument in others) and all(
        name in found.args and accepts(found.args[name], argument)
        for name, argument in expected.items()
    )


@pytest.mark.parametrize(
    "name",
    [
        "DataSet",
        "Deployment",
        "DriftEvent",
        "DriftPolicy",
        "Experiment",
        "MlflowItem",
        "Model",
        "ModelVersion",
        "Run",
        "StagePolicy",
    ],
)
def test_objects_with_a_life_are_nodes(name: str) -> None:
    found = TYPES[name]

    assert isinstance(found, GraphQLObjectType)
    assert [interface.name for interface in found.interfaces] == ["Node"]


def test_connections_are_made_alike() -> None:
    connections = [type_ for name, type_ in TYPES.items() if name.endswith("Connection")]

    assert len(connections) == 15
    for connection in connections:
        assert isinstance(connection, GraphQLObjectType)
        assert list(connection.fields) == ["nodes", "edges", "pageInfo", "totalCount"]


def test_every_name_says_what_it_means() -> None:
    silent = []
    for name, type_ in TYPES.items():
        if not type_.description and name not in ("Query", "Mutation", "Subscription"):
            silent.append(name)
        if isinstance(type_, GraphQLObjectType | GraphQLInterfaceType | GraphQLInputObjectType):
            for field_name, field in type_.fields.items():
                if not field.description:
                    silent.append(f"{name}.{field_name}")
                arguments = field.args if isinstance(field, GraphQLField) else {}
                silent += [
                    f"{name}.{field_name}({argument_name})"
                    for argument_name, argument in arguments.items()
                    if not argument.description
                    # The one input of a mutation says at its type what it is.
                    and not (name == "Mutation" and argument_name == "input")
                ]

    assert silent == []


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutation_has_one_input_and_a_result_for_each_thing_that_may_come_of_it(
    mutation: str,
) -> None:
    field, name = MUTATIONS[mutation], capital(mutation)

    assert {key: str(argument.type) for key, argument in field.args.items()} == {
        "input": f"{name}Input!"
    }
    assert str(field.type) == f"{name}Result!"
    union = TYPES[f"{name}Result"]
    assert isinstance(union, GraphQLUnionType)
    always = {f"{name}Success", "InvalidInput", "IdempotencyConflict", "Unavailable"}
    assert {member.name for member in union.types} == always | REFUSALS[mutation]
    for member in union.types:
        error = [interface.name for interface in member.interfaces] == ["Error"]
        assert error == (member.name != f"{name}Success")


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_every_input_takes_a_key_and_those_that_change_an_object_its_revision(
    mutation: str,
) -> None:
    fields = input_type(mutation).fields

    assert str(fields["idempotencyKey"].type) == "String"
    # What is never changed has versions instead.
    revised = fields.keys() & {"expectedRevision", "expectedVersion"}
    assert bool(revised) == ("StaleRevision" in REFUSALS[mutation])
    assert all(str(fields[name].type) == "Int" for name in revised)


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_success_carries_the_object_under_the_name_of_its_type(mutation: str) -> None:
    success = TYPES[f"{capital(mutation)}Success"]

    assert isinstance(success, GraphQLObjectType)
    name, field = next(iter(success.fields.items()))
    assert str(field.type) == f"{name[0].upper()}{name[1:]}!"
