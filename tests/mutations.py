"""A full input for each mutation, the objects that it speaks of, and what a database holds."""

import hashlib
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from graphql import GraphQLInputObjectType, get_named_type
from sqlalchemy import Table

from lifecycle.database import Database
from lifecycle.tables import Base
from lifecycle.tracking.rules import SyncState
from schema.root import schema
from tests.client import Graph, Json
from tests.conftest import Live
from tests.mirror import a_mirror
from tests.statements import rows

_mutation_type = schema._schema.mutation_type
assert _mutation_type is not None
MUTATIONS = _mutation_type.fields
NOW = "2026-01-02T03:04:05Z"
# What only administrators may do.
ADMINISTRATION = {
    *("setStagePolicy", "setDriftPolicy"),
    *("grantRole", "revokeRole", "createApiToken", "revokeApiToken"),
}


def capital(mutation: str) -> str:
    """The beginning of the names of a mutation's types."""
    return mutation[0].upper() + mutation[1:]


def input_type(mutation: str) -> GraphQLInputObjectType:
    """The type of a mutation's one argument."""
    found = get_named_type(MUTATIONS[mutation].args["input"].type)
    assert isinstance(found, GraphQLInputObjectType)
    return found


def headers(mutation: str) -> dict[str, str]:
    """Whose mutation it is, where not everybody's."""
    return {"Lifecycle-Actor": "admin"} if mutation in ADMINISTRATION else {}


def global_id(kind: str, hexadecimal: str | None = None) -> str:
    """A global id as the service makes them, by default of nothing that exists."""
    return urlsafe_b64encode(f"{kind}:{hexadecimal or uuid4().hex}".encode()).decode()


@dataclass(frozen=True)
class World:
    """One object of each kind. `version` is deployed and in PRODUCTION, `spare` is neither,
    `submitted` waits for a decision; `deployment` is ACTIVE and has a good predecessor, of
    another version; the bytes of `upload` and `other_upload` have been sent; the description of
    the run of `mlflow_item` is in conflict."""

    name: str
    run: str
    version: str
    spare: str
    submitted: str
    deployment: str
    item: str
    drift_event: str
    mlflow_item: str
    upload: str
    other_upload: str
    role_grant: str
    api_token: str


_BEGIN = """
mutation ($name: String!) {
  createExperiment(input: { name: $name }) { __typename }
  run: logRun(input: { experimentName: $name }) { ... on LogRunSuccess { run { id } } }
}"""
_VERSIONS = """
mutation ($version: RegisterModelVersionInput!, $first: ModelVersionSelector!,
  $second: ModelVersionSelector!, $former: ModelVersionSelector!,
  $other: RegisterModelVersionInput!) {
  version: registerModelVersion(input: $version) {
    ... on RegisterModelVersionSuccess { modelVersion { id checklist { id } } }
  }
  submitted: registerModelVersion(input: $version) {
    ... on RegisterModelVersionSuccess { modelVersion { id } }
  }
  spare: registerModelVersion(input: $version) {
    ... on RegisterModelVersionSuccess { modelVersion { id } }
  }
  former: registerModelVersion(input: $other) { __typename }
  a: submitForApproval(input: { modelVersion: $first }) { __typename }
  b: submitForApproval(input: { modelVersion: $second }) { __typename }
  c: submitForApproval(input: { modelVersion: $former }) { __typename }
  drift: recordDriftEvent(input: { modelVersion: $first, severity: LOW, metric: "psi" }) {
    ... on RecordDriftEventSuccess { driftEvent { id } }
  }
}"""
# By somebody else than who registered and submitted it.
_PROMOTION = """
mutation ($of: ModelVersionSelector!) {
  decideApproval(input: { modelVersion: $of, decision: APPROVE }) { __typename }
  setStage(input: { modelVersion: $of, stage: PRODUCTION }) { __typename }
  createDeployment(input: { modelVersion: $of, environment: PRODUCTION }) {
    ... on CreateDeploymentSuccess { deployment { id } }
  }
}"""
_STEPS = " ".join(
    f"{status}: updateDeployment(input: {{"
    f" id: $id, status: {status}, health: HEALTHY }}) {{ __typename }}"
    for status in ("VALIDATING", "DEPLOYING", "ACTIVE")
)
_ACTIVE = f"mutation ($id: ID!) {{ {_STEPS} }}"
_ACCESS = """
mutation ($role: GrantRoleInput!, $token: CreateApiTokenInput!) {
  role: grantRole(input: $role) { ... on GrantRoleSuccess { roleGrant { id } } }
  token: createApiToken(input: $token) { ... on CreateApiTokenSuccess { apiToken { id } } }
}"""


async def a_world(live: Live, graph: Graph, name: str) -> World:
    """A new world, in which experiment and model have this name."""
    begun = await graph.query(_BEGIN, {"name": name})
    run = begun["run"]["run"]["id"]
    version = {"modelName": name, "runId": run, "checklist": ["Read by somebody"]}
    first, second, former = (
        {"nameVersion": {"modelName": name, "version": n}} for n in ("1", "2", "4")
    )
    # Of another content, because a rollback leads to none that is the same.
    other = {**version, "hyperparameters": {"depth": 1}}
    named = {"first": first, "second": second, "former": former}
    versions = {"version": version, "other": other, **named}
    made = await graph.query(_VERSIONS, versions)
    approver = {"Lifecycle-Actor": "approver"}
    for of in (former, first):
        promoted = await graph.query(_PROMOTION, {"of": of}, **approver)
        assert promoted["setStage"]["__typename"] == "SetStageSuccess"
        deployed = promoted["createDeployment"]["deployment"]["id"]
        await graph.query(_ACTIVE, {"id": deployed})
    found = made["version"]["modelVersion"]
    mirror = await a_mirror(live.database)
    conflicts = [("description", "d", "other")]
    item = await mirror.item(run, SyncState.CONFLICT, conflicts=conflicts)
    grant = {"role": "VIEWER", "modelName": name}
    access = await graph.query(
        _ACCESS,
        {
            "role": {"subject": f"somebody of {name}", "grant": grant},
            "token": {"name": f"one of {name}", "grants": [grant]},
        },
        **headers("grantRole"),
    )
    return World(
        name=name,
        run=run,
        version=found["id"],
        spare=made["spare"]["modelVersion"]["id"],
        submitted=made["submitted"]["modelVersion"]["id"],
        deployment=deployed,
        item=found["checklist"][0]["id"],
        drift_event=made["drift"]["driftEvent"]["id"],
        mlflow_item=item,
        upload=await _an_upload(graph, run, name.encode()),
        other_upload=await _an_upload(graph, run, f"other {name}".encode()),
        role_grant=access["role"]["roleGrant"]["id"],
        api_token=access["token"]["apiToken"]["id"],
    )


async def _an_upload(graph: Graph, run: str, content: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    input = {"runId": run, "path": "p", "name": "n", "sizeBytes": len(content), "digest": digest}
    selection = "artifactUpload { id uploadUrl }"
    made = await graph.done("beginArtifactUpload", input, selection)
    answer = await graph.http.put(made["uploadUrl"], content=content)
    assert answer.status_code == 200
    return str(made["id"])


def inputs(world: World) -> dict[str, Json]:
    """For each mutation an input that succeeds and has every field, but for what says when it may
    happen. Sent twice without a key, each would have a second effect, be refused, or, as a policy
    that says the same, have none."""
    params = [{"key": "k", "value": "v"}]
    tags = [{"key": "t", "value": "v"}]
    metrics = [
        {"key": "accuracy", "value": 0.5, "kind": "FINITE", "step": 1, "timestamp": NOW},
        {"key": "loss", "kind": "NAN"},
    ]
    artifacts = [{"name": "model", "path": "a/b.pkl", "sizeBytes": 1, "digest": "sha256:0"}]
    lines = [{"message": "hello", "level": "INFO", "timestamp": NOW}]
    bounds = {"key": "k", "atLeast": 0, "atMost": 1, "required": True, "severity": "WARNING"}
    spare, submitted = ({"modelVersion": {"id": id}} for id in (world.spare, world.submitted))
    version, deployment = {"id": world.version}, {"id": world.deployment}
    return {
        "createExperiment": {
            "name": f"{world.name}-new",
            "description": "d",
            "owner": "o",
            "tags": tags,
        },
        "updateExperiment": {
            "name": world.name,
            "description": "d",
            "owner": "o",
            "status": "COMPLETED",
            "tags": tags,
        },
        "logRun": {
            "experimentName": world.name,
            "name": "n",
            "status": "COMPLETED",
            "statusMessage": "m",
            "params": params,
            "metrics": metrics,
            "tags": tags,
            "artifacts": artifacts,
            "source": "s",
            "gitCommit": "c",
            "datasetFacts": {"rows": 1},
            "parentId": world.run,
            "startedAt": NOW,
            "endedAt": NOW,
            "leaseSeconds": 60,
        },
        "updateRun": {
            "id": world.run,
            "name": "n",
            "status": "COMPLETED",
            "statusMessage": "m",
            "params": params,
            "metrics": metrics,
            "tags": tags,
            "artifacts": artifacts,
            "datasetFacts": {"rows": 1},
            "endedAt": "2099-01-01T00:00:00Z",
        },
        "logMetrics": {
            "runId": world.run,
            "series": [
                {
                    "key": "loss",
                    "steps": [1, 2],
                    "values": [0.5, None],
                    "kinds": ["FINITE", "NAN"],
                    "timestamps": [NOW, NOW],
                }
            ],
        },
        "logRunOutput": {"runId": world.run, "lines": lines},
        "beginArtifactUpload": {
            "runId": world.run,
            "path": "a/b.pkl",
            "name": "n",
            "area": "EXTERNAL",
            "sizeBytes": 1,
            "digest": f"sha256:{'0' * 64}",
        },
        "completeArtifactUpload": {"id": world.upload},
        "registerModelVersion": {
            "modelName": world.name,
            "version": "by hand",
            "runId": world.run,
            "description": "d",
            "framework": "f",
            "hyperparameters": {"depth": 3},
            "metrics": metrics,
            "tags": tags,
            "artifactPath": "a",
            "artifactDigest": "sha256:0",
            "sizeBytes": 1,
            "checklist": ["t"],
        },
        "updateModelVersion": {
            "modelVersion": {"nameVersion": {"modelName": world.name, "version": "1"}},
            "description": "d",
            "framework": "f",
            "hyperparameters": {"depth": 3},
            "metrics": metrics,
            "tags": tags,
            "artifactPath": "a",
            "artifactDigest": "sha256:0",
            "sizeBytes": 1,
        },
        "deleteModelVersion": {**spare, "reason": "r"},
        "updateModel": {
            "name": world.name,
            "description": "d",
            "owner": "o",
            "tags": tags,
            "metricGoals": [{"key": "churn", "goal": "MINIMIZE"}],
        },
        "setStage": {
            **spare,
            "stage": "STAGING",
            "reason": "r",
            "expectedInProduction": "1",
            "dryRun": False,
        },
        "validateModelVersion": {
            "modelVersion": {"inStage": {"modelName": world.name, "stage": "EXPERIMENTAL"}},
            "stage": "STAGING",
        },
        "submitForApproval": {**spare, "notes": "n"},
        "decideApproval": {**submitted, "decision": "REJECT", "notes": "n"},
        "withdrawApproval": {**submitted, "notes": "n"},
        "setStagePolicy": {
            "stage": "PRODUCTION",
            # Never the general one: it holds for all tests.
            "modelName": world.name,
            "rules": [
                {"metric": {**bounds}},
                {"datasetFact": {**bounds}},
                {"hyperparameter": {**bounds}},
                {
                    "baseline": {
                        "key": "k",
                        "tolerance": 0.1,
                        "relative": True,
                        "goal": "MINIMIZE",
                        "required": True,
                        "severity": "INFO",
                    }
                },
                {"checklist": {"required": True, "severity": "WARNING"}},
                {"approvals": {"count": 1, "approvers": ["a"]}},
                {"artifactDigest": {"severity": "WARNING"}},
                {"runCompleted": {"severity": "WARNING"}},
                {"noOpenDrift": {"fromSeverity": "LOW", "severity": "WARNING"}},
                {"evidenceAge": {"maxDays": 30, "severity": "WARNING"}},
                {
                    "automaticApproval": {
                        "key": "k",
                        "betterBy": 0.02,
                        "tolerance": 0.01,
                        "goal": "MAXIMIZE",
                    }
                },
            ],
            "reason": "r",
        },
        "appendChecklistItem": {"modelVersion": version, "title": "t"},
        "markChecklistItem": {"id": world.item, "status": "REJECTED", "note": "n"},
        "createDeployment": {
            "modelVersion": version,
            "environment": "PRODUCTION",
            "endpoint": "e",
            "config": {"instances": 1, "instanceType": "t", "autoScaling": True},
        },
        "updateDeployment": {
            **deployment,
            "status": "FAILED",
            "statusMessage": "m",
            "endpoint": "e",
            "health": "UNHEALTHY",
            "metrics": {
                "requestCount": 1,
                "errorRate": 0.5,
                "avgLatencyMs": 1.5,
                "observed": [{"key": "accuracy", "value": 0.5}],
            },
            "logLines": lines,
        },
        "rollbackDeployment": {**deployment, "reason": "r"},
        "terminateDeployment": {**deployment, "reason": "r"},
        "recordDriftEvent": {
            "modelVersion": version,
            "deploymentId": world.deployment,
            "severity": "HIGH",
            "metric": "psi",
            "feature": "f",
            "baselineValue": 0.1,
            "observedValue": 0.2,
            "threshold": 0.15,
            "method": "m",
            "description": "d",
            "details": {"bins": 10},
            "detectedAt": NOW,
            "dedupKey": world.name,
        },
        "updateDriftEvent": {
            "id": world.drift_event,
            "status": "RESOLVED",
            "resolution": "r",
        },
        "setDriftPolicy": {
            "modelName": world.name,
            "responses": [{"fromSeverity": "HIGH", "action": "MARK_STALE"}],
            "degradation": [
                {
                    "figure": "OBSERVED",
                    "metric": "accuracy",
                    "limit": "MAX_DECREASE",
                    "value": 0.05,
                    "severity": "HIGH",
                }
            ],
            "reason": "r",
        },
        "retryMlflowSync": {"ids": [world.mlflow_item]},
        "resolveMlflowConflict": {
            "id": world.mlflow_item,
            "resolution": "LEAVE",
            "fields": ["description"],
        },
        "grantRole": {
            "subject": "group:those who deploy",
            "grant": {
                "role": "DEPLOYER",
                "modelName": world.name,
                "stages": ["STAGING"],
                "environments": ["STAGING", "DEVELOPMENT"],
            },
        },
        "revokeRole": {"id": world.role_grant},
        "createApiToken": {
            "name": f"one more of {world.name}",
            "grants": [
                {
                    "role": "DEPLOYER",
                    "modelName": world.name,
                    "stages": ["STAGING"],
                    "environments": ["PRODUCTION"],
                }
            ],
            "expiresAt": (datetime.now(UTC) + timedelta(days=30)).isoformat(),
        },
        "revokeApiToken": {"id": world.api_token},
    }


def document(mutation: str, selection: str = "") -> str:
    """The mutation with its input as the only variable."""
    name = capital(mutation)
    return f"""
        mutation ($input: {name}Input!) {{
          {mutation}(input: $input) {{
            __typename
            ... on Error {{ code message path }}
            {f"... on {name}Success {{ {selection} }}" if selection else ""}
          }}
        }}"""


# What the journal's events are given in the background, and its head.
_GIVEN = {"position", "hash", "chain_position", "chain_hash"}


def _digest(table: Table) -> str:
    kept = ", ".join(f'"{column.name}"' for column in table.columns if column.name not in _GIVEN)
    return (
        f"SELECT '{table.name}', count(*), sum(hashtextextended(kept::text, 0)) "
        f"FROM (SELECT {kept} FROM {table.name}) AS kept"
    )


_CONTENTS = " UNION ALL ".join(map(_digest, Base.metadata.tables.values()))


async def contents(database: Database) -> dict[str, Any]:
    """How many rows each table has, and a digest of them; what the journal's events are given in
    the background, and its head, are left out."""
    return {name: (count, digest) for name, count, digest in await rows(database, _CONTENTS)}
