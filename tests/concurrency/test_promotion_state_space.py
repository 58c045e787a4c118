"""Whatever people ask for, in any order: nothing that is not approved comes into production.

Hypothesis draws sequences of mutations by several people and looks for one after which something
that must always hold does not. What must hold is said here in terms of the tables and of the
journal, in SQL and Python of this module's own: none of it asks the rules that it is to test.
"""

import asyncio
import json
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from lifecycle.journal.verification import verify
from schema import ids
from tests.client import Graph, Json
from tests.conftest import Live
from tests.history import faults_in_history

Result = TypeVar("Result")

AUTHOR, SUBMITTER, ANN, BOB, ADMIN, NOBODY = "author", "submitter", "ann", "bob", "admin", "nobody"
ACTORS = (AUTHOR, SUBMITTER, ANN, BOB, ADMIN, NOBODY)
STAGES = ("EXPERIMENTAL", "STAGING", "PRODUCTION", "ARCHIVED")
IN_FORCE = ("APPROVED", "BYPASSED")
OPEN = ("PENDING", "NEEDS_REVIEW")
BY_POLICY = "system:policy"

# Rules of policies, in the words of setStagePolicy.
ACCURATE: Json = {"metric": {"key": "accuracy", "atLeast": 0.75, "required": True}}
ALONE: Json = {"automaticApproval": {"key": "accuracy", "betterBy": 0.02, "tolerance": 0.01}}
ONE: Json = {"approvals": {"count": 1}}
TWO: Json = {"approvals": {"count": 2}}
ANN_ONLY: Json = {"approvals": {"count": 1, "approvers": [ANN]}}
ENOUGH_DATA: Json = {"datasetFact": {"key": "train_size", "atLeast": 100}}
POLICIES: tuple[list[Json] | None, ...] = (
    None,
    [],
    [ACCURATE, ALONE],
    [ACCURATE, ONE],
    [TWO],
    [ACCURATE, ANN_ONLY, {"checklist": {}}],
    [ENOUGH_DATA, {"noOpenDrift": {"fromSeverity": "HIGH"}}, ONE],
    [{"runCompleted": {}}, {"checklist": {"required": True}}, ALONE],
)

# The kinds of events of which one must be there after a mutation that has changed anything.
JOURNALED = {
    "registerModelVersion": "model_version.registered",
    "updateModelVersion": "model_version.updated",
    "deleteModelVersion": "model_version.deleted",
    "setStage": "model_version.stage_changed",
    "setStagePolicy": "stage_policy.set",
    "validateModelVersion": "model_version.validated",
    "submitForApproval": "model_version.approval_submitted",
    "decideApproval": "model_version.approval_decided",
    "withdrawApproval": "model_version.approval_withdrawn",
    "appendChecklistItem": "model_version.checklist_item_appended",
    "markChecklistItem": "model_version.checklist_item_marked",
    "createDeployment": "deployment.created",
    "updateDeployment": "deployment.",
    "rollbackDeployment": "deployment.created",
    "terminateDeployment": "deployment.status_changed",
    "recordDriftEvent": "drift_event.recorded",
    "updateDriftEvent": "drift_event.updated",
    "updateRun": "run.",
}

_OF_MODEL = "IN (SELECT id FROM model_version WHERE model_name = $1)"
# Which rows belong to the model, and in which order they are compared.
_TABLES = {
    "model_version": ("t.model_name = $1", "t.id"),
    "version_metric": (f"t.model_version_id {_OF_MODEL}", "t.model_version_id, t.key"),
    "checklist_item": (f"t.model_version_id {_OF_MODEL}", "t.model_version_id, t.place"),
    "approval": (f"t.model_version_id {_OF_MODEL}", "t.submitted_at, t.id"),
    "approval_decision": (
        f"t.approval_id IN (SELECT id FROM approval WHERE model_version_id {_OF_MODEL})",
        "t.approval_id, t.actor",
    ),
    "validation_report": (f"t.model_version_id {_OF_MODEL}", "t.created_at, t.id"),
    "stage_assignment": (f"t.model_version_id {_OF_MODEL}", "t.valid_from, t.id"),
    "stage_policy": (
        "t.model_id IS NULL OR t.model_id IN (SELECT id FROM model WHERE name = $1)",
        "t.stage, t.model_id, t.version",
    ),
    "deployment": ("t.model_name = $1", "t.created_at, t.id"),
    "deployment_transition": (
        "t.deployment_id IN (SELECT id FROM deployment WHERE model_name = $1)",
        "t.id",
    ),
    "drift_event": ("t.model_name = $1", "t.created_at, t.id"),
    "run": (
        "t.experiment_id IN (SELECT id FROM experiment WHERE name = $1)",
        "t.created_at, t.id",
    ),
}
# When the writer of a run was last heard is not among what changes.
_NOT_COMPARED = {"run": " - '{last_reported_at,updated_at}'::text[]"}
_STATE = "SELECT json_build_object({})".format(
    ", ".join(
        f"'{table}', (SELECT coalesce(jsonb_agg(to_jsonb(t){_NOT_COMPARED.get(table, '')} "
        f"ORDER BY {order}), '[]') FROM {table} AS t WHERE {condition})"
        for table, (condition, order) in _TABLES.items()
    )
)
_EVENTS = "SELECT * FROM event WHERE id > $1 ORDER BY id"

_SEEN = """
query ($name: String!) { model(name: $name) {
  versionInStage(stage: PRODUCTION) { id }
  versions(first: 50) { nodes {
    id stage revision
    approval { status decidedBy }
    whyNot { name }
    stageHistory { stage validFrom validTo cause approval { status } }
  } } } }"""

State = dict[str, list[Json]]


class _Client(Graph):
    """Answers FORBIDDEN, the one top-level error that is expected, like any other refusal."""

    async def query(self, query: str, variables: Json | None = None, **headers: str) -> Json:
        answer = await self.answer(query, variables, **headers)
        errors = answer.get("errors", [])
        if [error["extensions"]["code"] for error in errors] == ["FORBIDDEN"]:
            [name] = errors[0]["path"]
            return {name: {"__typename": "Forbidden", "message": errors[0]["message"]}}
        assert not errors, errors
        found: Json = answer["data"]
        return found


@dataclass
class World:
    """The service and the database, for a thread that is not the event loop's."""

    loop: asyncio.AbstractEventLoop
    url: str
    graph: Graph
    sql: asyncpg.Connection

    def wait(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do it in the event loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)


@dataclass
class Reviewed:
    """What a version was when it was submitted, and when somebody decided."""

    submitted: Json
    decided: tuple[Json, list[Any]] | None = None


@dataclass
class Journal:
    """What the events say that the state is: of each version its stages, and its approval."""

    stages: dict[str, list[Json]] = field(default_factory=dict)
    approvals: dict[str, str] = field(default_factory=dict)

    def take(self, event: Json) -> None:
        """Go on by one event."""
        id, after = str(event["subject_id"]), json.loads(event["after"] or "{}")
        match event["type"].removeprefix("model_version."):
            case "registered":
                self.stages[id] = [{"stage": after["stage"], "cause": "REGISTERED"}]
                self.approvals[id] = "NOT_SUBMITTED"
            case "stage_changed":
                self.stages[id].append(
                    {
                        "stage": after["stage"],
                        "cause": after["cause"],
                        "valid_from": _moment(after["stage_changed_at"]),
                        "approval_id": after["approval_id"],
                        "report_id": after["report_id"],
                        "actor": event["actor"],
                        "reason": event["reason"],
                    }
                )
            case "deleted":
                self.stages[id][-1]["valid_to"] = _moment(after["deleted_at"])
            case (
                "approval_submitted" | "approval_decided" | "approval_stale" | "approval_withdrawn"
            ):
                self.approvals[id] = after["approval_status"]


def _moment(text: str | None) -> datetime | None:
    # Neither PostgreSQL nor the service writes the zeros at the end, each in its own way.
    return datetime.fromisoformat(text) if text else None


def content(state: State, version: Json) -> Json:
    """What an approval is for: the same while nothing that counts has changed."""
    metrics = state["version_metric"]
    run = next((run for run in state["run"] if run["id"] == version["run_id"]), None)
    return {
        "metrics": {
            m["key"]: m["value"] for m in metrics if m["model_version_id"] == version["id"]
        },
        "artifact": [version["artifact_path"], version["artifact_digest"]],
        "hyperparameters": version["hyperparameters"] or {},
        "run": run and [run["id"], run["params"], run["dataset_facts"] or {}],
    }


def checklist(state: State, version: Json) -> list[Any]:
    """Its items and their marks."""
    items = [i for i in state["checklist_item"] if i["model_version_id"] == version["id"]]
    return [[item["title"], item["status"]] for item in items]


def global_id(kind: str, uuid: str) -> str:
    """The global id of an object that SQL has found."""
    return ids.encode(kind, UUID(uuid))


class Promotion(RuleBasedStateMachine):
    """Versions of one model in the hands of several people."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.name = f"t-{uuid4().hex[:12]}"
        self.journal = Journal()
        self.reviewed: dict[str, Reviewed] = {}
        self.changed: dict[str, set[str]] = {}
        self.last_event = world.wait(self._last_event())
        self.events: list[Json] = []
        self.state: State = {}

    async def _last_event(self) -> int:
        return int(await self.world.sql.fetchval("SELECT coalesce(max(id), 0) FROM event"))

    # What people do

    @initialize(policy=st.sampled_from(POLICIES), released=st.integers(0, 2))
    def begin(self, policy: list[Json] | None, released: int) -> None:
        """A model with three versions and a run, perhaps a policy of its own, and perhaps something
        in production already, and something that it has displaced."""
        self.world.wait(self.world.graph.mutate("createExperiment", {"name": self.name}))
        facts = {"experimentName": self.name, "datasetFacts": {"train_size": 500}}
        self.world.wait(self.world.graph.mutate("logRun", {**facts, "status": "COMPLETED"}))
        self._follow()
        for metric in (0.9, 0.9, 0.8):
            self.register(AUTHOR, metric, True)
        if policy is not None:
            self.set_policy(ADMIN, policy, "PRODUCTION")
        for which in range(released):
            self.release(which)
            if self.state["deployment"]:
                self.report(NOBODY, -1, ["VALIDATING", "DEPLOYING", "ACTIVE"])

    @precondition(lambda self: len(self.state["model_version"]) < 5)
    @rule(
        actor=st.sampled_from((AUTHOR, SUBMITTER)),
        metric=st.sampled_from((0.9, 0.8, 0.5, "NaN", None)),
        of_run=st.booleans(),
    )
    def register(self, actor: str, metric: Any, of_run: bool) -> None:
        """Somebody has made another version."""
        input: Json = {"modelName": self.name, "metrics": _metrics(metric)}
        if of_run:
            input["runId"] = global_id("Run", self.state["run"][0]["id"])
        self.ask(actor, "registerModelVersion", input)

    @rule(
        actor=st.sampled_from(ACTORS),
        which=st.integers(0, 4),
        change=st.sampled_from(
            (
                {"metrics": [{"key": "accuracy", "value": 0.9}]},
                {"metrics": [{"key": "accuracy", "value": 0.5}]},
                {"metrics": [{"key": "accuracy", "kind": "NAN"}]},
                {"metrics": []},
                {"hyperparameters": {"hidden_size": 64}},
                {"hyperparameters": None},
                {"artifactPath": "s3://models/1"},
                {"description": "no evidence"},
            )
        ),
    )
    def update(self, actor: str, which: int, change: Json) -> None:
        """A version is changed, or only its description, or nothing."""
        self.ask(actor, "updateModelVersion", self.version(which) | change)

    @rule(
        actor=st.sampled_from(ACTORS),
        change=st.sampled_from(
            (
                {"datasetFacts": {"train_size": 500}},
                {"datasetFacts": {"train_size": 50}},
                {"params": [{"key": "lr", "value": "0.1"}]},
                {"statusMessage": "no evidence"},
            )
        ),
    )
    def update_run(self, actor: str, change: Json) -> None:
        """The run says something else about its data, or about itself."""
        self.ask(actor, "updateRun", {"id": global_id("Run", self.state["run"][0]["id"]), **change})

    @rule(
        actor=st.sampled_from(ACTORS),
        which=st.integers(0, 4),
        stage=st.sampled_from((*STAGES, "PRODUCTION", "PRODUCTION")),
    )
    def move(self, actor: str, which: int, stage: str) -> None:
        """Somebody asks what would happen, and then for it."""
        input = {**self.version(which), "stage": stage}
        rehearsed = self.ask(actor, "setStage", {**input, "dryRun": True})
        done = self.ask(actor, "setStage", input)
        assert {**rehearsed, "dryRun": None} == {**done, "dryRun": None}

    @rule(actor=st.sampled_from(ACTORS), which=st.integers(0, 4))
    def submit(self, actor: str, which: int) -> None:
        """Somebody asks for an approval."""
        self.ask(actor, "submitForApproval", self.version(which))

    @rule(
        actor=st.sampled_from(ACTORS),
        which=st.integers(0, 4),
        decision=st.sampled_from(("APPROVE", "APPROVE", "REJECT", "BYPASS")),
        notes=st.sampled_from((None, "because")),
    )
    def decide(self, actor: str, which: int, decision: str, notes: str | None) -> None:
        """Somebody decides, who may or may not."""
        input = {**self.version(which), "decision": decision, "notes": notes}
        self.ask(actor, "decideApproval", input)

    @rule(actor=st.sampled_from(ACTORS), which=st.integers(0, 4))
    def withdraw(self, actor: str, which: int) -> None:
        """Somebody takes it back."""
        self.ask(actor, "withdrawApproval", self.version(which))

    @rule(which=st.integers(0, 4))
    def release(self, which: int) -> None:
        """All that should lead a good version into production, and deploy it there."""
        if not self.state["checklist_item"]:
            self.append_item(BOB, which)
        self.submit(SUBMITTER, which)
        for item in self.state["checklist_item"]:
            if item["model_version_id"] == self.pick("model_version", which)["id"]:
                id = global_id("ChecklistItem", item["id"])
                self.ask(BOB, "markChecklistItem", {"id": id, "status": "APPROVED"})
        for actor in (ANN, BOB):
            self.decide(actor, which, "APPROVE", None)
        self.move(NOBODY, which, "PRODUCTION")
        self.deploy(NOBODY, which, "PRODUCTION")

    @rule(which=st.integers(0, 4), submitter=st.sampled_from((AUTHOR, SUBMITTER)))
    def release_without_others(self, which: int, submitter: str) -> None:
        """Author and submitter try it alone."""
        self.submit(submitter, which)
        for actor in (AUTHOR, SUBMITTER):
            self.decide(actor, which, "APPROVE", None)
        self.move(AUTHOR, which, "PRODUCTION")

    @rule(actor=st.sampled_from((ADMIN, ADMIN, AUTHOR, ANN)), which=st.integers(0, 4))
    def release_past_the_policy(self, actor: str, which: int) -> None:
        """An administrator says that it must be, or somebody who is none."""
        self.decide(actor, which, "BYPASS", "it must be")
        self.move(actor, which, "PRODUCTION")

    @rule(
        actor=st.sampled_from((ADMIN, ADMIN, AUTHOR)),
        rules=st.sampled_from(POLICIES),
        stage=st.sampled_from(("PRODUCTION", "PRODUCTION", "STAGING")),
    )
    def set_policy(self, actor: str, rules: list[Json] | None, stage: str) -> None:
        """The model gets a policy of its own, or loses it."""
        input = {"stage": stage, "modelName": self.name, "rules": rules, "reason": "new times"}
        self.ask(actor, "setStagePolicy", input)

    @rule(
        actor=st.sampled_from(ACTORS),
        which=st.integers(0, 4),
        stage=st.sampled_from(("STAGING", "PRODUCTION")),
    )
    def validate(self, actor: str, which: int, stage: str) -> None:
        """Somebody asks a policy."""
        self.ask(actor, "validateModelVersion", {**self.version(which), "stage": stage})

    @rule(actor=st.sampled_from(ACTORS), which=st.integers(0, 4))
    def append_item(self, actor: str, which: int) -> None:
        """There is more to check."""
        self.ask(actor, "appendChecklistItem", {**self.version(which), "title": "fair to all"})

    @precondition(lambda self: self.state["checklist_item"])
    @rule(
        actor=st.sampled_from(ACTORS),
        which=st.integers(0, 4),
        status=st.sampled_from(("APPROVED", "APPROVED", "REJECTED", "PENDING")),
    )
    def mark_item(self, actor: str, which: int, status: str) -> None:
        """Somebody has checked it."""
        id = global_id("ChecklistItem", self.pick("checklist_item", which)["id"])
        self.ask(actor, "markChecklistItem", {"id": id, "status": status})

    @rule(
        actor=st.sampled_from(ACTORS),
        which=st.integers(0, 4),
        environment=st.sampled_from(("PRODUCTION", "PRODUCTION", "STAGING", "DEVELOPMENT")),
    )
    def deploy(self, actor: str, which: int, environment: str) -> None:
        """A version is to run somewhere; as far as it gets."""
        input = {**self.version(which), "environment": environment}
        self.ask(actor, "createDeployment", input)

    @precondition(lambda self: self.state["deployment"])
    @rule(
        actor=st.sampled_from(ACTORS),
        which=st.integers(0, 9),
        statuses=st.sampled_from(
            (
                ["VALIDATING", "DEPLOYING", "ACTIVE"],
                ["VALIDATING", "DEPLOYING", "ACTIVE"],
                ["VALIDATING"],
                ["DEPLOYING"],
                ["FAILED"],
                ["TERMINATED"],
            )
        ),
    )
    def report(self, actor: str, which: int, statuses: list[str]) -> None:
        """A deployment goes on."""
        id = global_id("Deployment", self.pick("deployment", which)["id"])
        for status in statuses:
            input: Json = {"id": id, "status": status}
            if status == "ACTIVE":
                input["health"] = "HEALTHY"
            self.ask(actor, "updateDeployment", input)

    @precondition(lambda self: self.state["deployment"])
    @rule(actor=st.sampled_from(ACTORS), which=st.integers(0, 9))
    def roll_back(self, actor: str, which: int) -> None:
        """A deployment is replaced by the last good one."""
        id = global_id("Deployment", self.pick("deployment", which)["id"])
        self.ask(actor, "rollbackDeployment", {"id": id, "reason": "it is bad"})

    @precondition(lambda self: self.state["deployment"])
    @rule(actor=st.sampled_from(ACTORS), which=st.integers(0, 9))
    def terminate(self, actor: str, which: int) -> None:
        """A deployment ends."""
        id = global_id("Deployment", self.pick("deployment", which)["id"])
        self.ask(actor, "terminateDeployment", {"id": id})

    @rule(
        actor=st.sampled_from(ACTORS),
        which=st.integers(0, 4),
        severity=st.sampled_from(("LOW", "HIGH", "CRITICAL")),
    )
    def record_drift(self, actor: str, which: int, severity: str) -> None:
        """A monitor has seen something."""
        input = {**self.version(which), "severity": severity, "metric": "psi"}
        self.ask(actor, "recordDriftEvent", input)

    @precondition(lambda self: self.state["drift_event"])
    @rule(
        actor=st.sampled_from(ACTORS),
        which=st.integers(0, 4),
        status=st.sampled_from(("ACKNOWLEDGED", "RESOLVED", "FALSE_POSITIVE")),
    )
    def update_drift(self, actor: str, which: int, status: str) -> None:
        """Somebody has looked at it."""
        id = global_id("DriftEvent", self.pick("drift_event", which)["id"])
        self.ask(actor, "updateDriftEvent", {"id": id, "status": status})

    @precondition(
        lambda self: sum(row["deleted_at"] is None for row in self.state["model_version"]) > 2
    )
    @rule(actor=st.sampled_from(ACTORS), which=st.integers(0, 4))
    def delete(self, actor: str, which: int) -> None:
        """A version is not wanted any more."""
        self.ask(actor, "deleteModelVersion", self.version(which))

    @precondition(lambda self: self.in_production() is not None)
    @rule(actor=st.sampled_from(ACTORS), metric=st.sampled_from((0.95, 0.5)))
    def deploy_after_a_change(self, actor: str, metric: float) -> None:
        """What is in production is not what it was, and should run all the same."""
        which = self.in_production()
        assert which is not None
        self.update(actor, which, {"metrics": _metrics(metric)})
        self.deploy(actor, which, "PRODUCTION")

    # How it is done

    def in_production(self) -> int | None:
        """Which version is there now."""
        stages = [row["stage"] for row in self.state["model_version"]]
        return stages.index("PRODUCTION") if "PRODUCTION" in stages else None

    def pick(self, table: str, which: int) -> Json:
        """One of the rows: hypothesis draws numbers, which stay the same when it shrinks."""
        rows = self.state[table]
        return rows[which % len(rows)]

    def version(self, which: int) -> Json:
        """How a mutation names one of the versions, deleted ones too."""
        id = global_id("ModelVersion", self.pick("model_version", which)["id"])
        return {"modelVersion": {"id": id}}

    def ask(self, actor: str, mutation: str, input: Json) -> Json:
        """Ask for a change under a name, and look at what has become of everything."""
        before = self.state
        selection = (
            "dryRun displaced { id } validation { passed stage policyVersion checks { "
            "name passed severity observed required message advice } }"
            if mutation == "setStage"
            else ""
        )
        headers = {"Lifecycle-Actor": actor}
        result = self.world.wait(self.world.graph.mutate(mutation, input, selection, **headers))
        self._follow()
        done = result["__typename"].endswith("Success") and not result.get("dryRun")
        assert result.get("code") not in ("INTERNAL", "UNAVAILABLE"), result
        if not done:
            assert self.state == before
            assert self.events == []
        if self.state == before:
            assert self.events == []
            return result
        assert any(
            event["type"].startswith(JOURNALED[mutation]) and event["actor"] == actor
            for event in self.events
        ), self.events
        assert {e["actor"] for e in self.events if not e["actor"].startswith("system:")} == {actor}
        assert len({event["request_id"] for event in self.events}) == 1
        self._remember(before, actor)
        self._check_entries(before)
        self._check_deployments(before)
        self._check_versions()
        return result

    def _follow(self) -> None:
        self.state, self.events = self.world.wait(self._read())
        for event in self.events:
            self.last_event = event["id"]
            self.journal.take(event)

    async def _read(self) -> tuple[State, list[Json]]:
        state = await self.world.sql.fetchval(_STATE, self.name)
        events = await self.world.sql.fetch(_EVENTS, self.last_event)
        return json.loads(state), [dict(event) for event in events]

    def _remember(self, before: State, actor: str) -> None:
        """What people saw when they submitted and decided, and whose it was."""
        known = {row["id"]: row["decided_at"] for row in before["approval"]}
        versions = {row["id"]: row for row in self.state["model_version"]}
        for row in before["model_version"]:
            if content(before, row) != content(self.state, versions[row["id"]]):
                self.changed.setdefault(row["id"], set()).add(actor)
        for row in self.state["approval"]:
            version = versions[row["model_version_id"]]
            now = content(self.state, version)
            if row["id"] not in known:
                self.reviewed[row["id"]] = Reviewed(now)
            if row["decided_at"] is not None and known.get(row["id"]) is None:
                self.reviewed[row["id"]].decided = now, checklist(self.state, version)

    # What must hold

    def _check_entries(self, before: State) -> None:
        """Whatever has just come into production was let in, by somebody who may, as it is."""
        known = {row["id"] for row in before["stage_assignment"]}
        for entry in self.state["stage_assignment"]:
            if entry["stage"] != "PRODUCTION" or entry["id"] in known:
                continue
            version = self._by_id("model_version", entry["model_version_id"])
            approval = self._by_id("approval", entry["approval_id"])
            assert approval["model_version_id"] == version["id"]
            assert approval["superseded_at"] is None
            assert approval["status"] in IN_FORCE
            assert approval["used_at"] is not None
            assert (approval["status"] == "BYPASSED") <= (
                entry["cause"] in ("BYPASSED", "ROLLED_BACK")
            )
            seen = self.reviewed[approval["id"]]
            assert seen.submitted == content(self.state, version)
            assert seen.decided == (content(self.state, version), checklist(self.state, version))
            self._check_decision(version, approval)
            if entry["cause"] == "REQUESTED":
                self._check_policy(version, approval)

    def _check_decision(self, version: Json, approval: Json) -> None:
        said = [r for r in self.state["approval_decision"] if r["approval_id"] == approval["id"]]
        if approval["status"] == "BYPASSED":
            assert approval["decided_by"] == ADMIN
            assert approval["notes"]
            return
        rules = {r["kind"]: r for r in self._by_id("stage_policy", approval["policy_id"])["rules"]}
        if approval["decided_by"] == BY_POLICY:
            assert "AUTOMATIC_APPROVAL" in rules
            assert "APPROVALS" not in rules
            return
        people = {row["actor"] for row in said if row["decision"] == "APPROVE"}
        assert not people & {version["created_by"], approval["submitted_by"]}
        assert not people & self.changed.get(version["id"], set())
        assert approval["decided_by"] in people
        wanted = rules.get("APPROVALS", {"count": 1})
        among = set(wanted.get("approvers") or people)
        assert len(people & among) >= wanted["count"]

    def _check_policy(self, version: Json, approval: Json) -> None:
        """Of the policy that is in force now, what can be said in a line each."""
        policies = [p for p in self.state["stage_policy"] if p["stage"] == "PRODUCTION"]
        general = [p for p in policies if p["model_id"] is None][-1]
        own = ([p for p in policies if p["model_id"] is not None] or [general])[-1]
        in_force = general if own["rules"] is None else own
        rules = {rule["kind"]: rule for rule in in_force["rules"]}
        facts = content(self.state, version)
        marks = [status for _, status in checklist(self.state, version)]
        for each in in_force["rules"]:
            value = facts["metrics"].get(each.get("key"))
            if each["kind"] == "METRIC" and each.get("at_least") and value is not None:
                assert value != "NaN"
                assert value >= each["at_least"]
        if "CHECKLIST" in rules:
            assert set(marks) <= {"APPROVED"}
            assert marks or not rules["CHECKLIST"]["required"]
        if "APPROVALS" in rules:
            said = self.state["approval_decision"]
            approved = [r for r in said if r["approval_id"] == approval["id"]]
            assert len(approved) >= rules["APPROVALS"]["count"]

    def _check_deployments(self, before: State) -> None:
        """What is deployed to production is there, and approved, at this very moment."""
        known = {row["id"] for row in before["deployment"]}
        for row in self.state["deployment"]:
            if row["id"] not in known and row["environment"] == "PRODUCTION":
                version = self._by_id("model_version", row["model_version_id"])
                assert version["stage"] == "PRODUCTION"
                assert version["approval_status"] in IN_FORCE

    def _check_versions(self) -> None:
        """At most one is in production, and what is approved is what is there."""
        versions = self.state["model_version"]
        assert len([row for row in versions if row["stage"] == "PRODUCTION"]) <= 1
        present = {
            row["model_version_id"]: row
            for row in self.state["approval"]
            if row["superseded_at"] is None
        }
        for version in versions:
            approval = present.get(version["id"])
            status = approval["status"] if approval else "NOT_SUBMITTED"
            assert version["approval_status"] == status == self.journal.approvals[version["id"]]
            if approval and status in (*OPEN, *IN_FORCE) and version["deleted_at"] is None:
                seen = self.reviewed[approval["id"]]
                assert seen.submitted == content(self.state, version)
                if status in IN_FORCE:
                    now = content(self.state, version), checklist(self.state, version)
                    assert seen.decided == now
            self._check_history(version)

    def _check_history(self, version: Json) -> None:
        """The history is what the journal tells."""
        of_version = [
            row
            for row in self.state["stage_assignment"]
            if row["model_version_id"] == version["id"]
        ]
        told = self.journal.stages[version["id"]]
        assert len(of_version) == len(told)
        for entry, event in zip(of_version, told, strict=True):
            times = {key: _moment(entry[key]) for key in ("valid_from", "valid_to")}
            assert {key: {**entry, **times}[key] for key in event} == event

    @invariant()
    def history_is_whole(self) -> None:
        """No gap, no overlap, and nothing that the version contradicts."""
        assert self.world.wait(faults_in_history(self.world.sql, self.name)) == 0

    @invariant()
    def clients_see_what_is_there(self) -> None:
        """What GraphQL says is what the tables say."""
        versions = self.state["model_version"]
        in_production = [row["id"] for row in versions if row["stage"] == "PRODUCTION"]
        seen = self.world.wait(self.world.graph.query(_SEEN, {"name": self.name}))["model"]
        found = seen["versionInStage"]
        shown = [found["id"]] if found else []
        assert shown == [global_id("ModelVersion", id) for id in in_production]
        nodes = {node["id"]: node for node in seen["versions"]["nodes"]}
        there = [version for version in versions if version["deleted_at"] is None]
        assert nodes.keys() == {global_id("ModelVersion", version["id"]) for version in there}
        for version in there:
            node = nodes[global_id("ModelVersion", version["id"])]
            assert (node["stage"], node["revision"]) == (version["stage"], version["revision"])
            assert node["approval"]["status"] == version["approval_status"]
            last = node["stageHistory"][-1]
            assert (last["stage"], last["validTo"]) == (version["stage"], None)
            for entry in node["stageHistory"]:
                assert (entry["stage"] == "PRODUCTION") <= (entry["approval"] is not None)

    def teardown(self) -> None:
        """In the end the chain of the journal holds."""
        assert self.world.wait(self._faults_in_chain()) == []

    async def _faults_in_chain(self) -> list[str]:
        pending = "SELECT EXISTS (SELECT FROM event WHERE position IS NULL)"
        while await self.world.sql.fetchval(pending):
            pass  # until the sequencer has numbered them
        return (await verify(self.world.url)).faults

    def _by_id(self, table: str, id: str) -> Json:
        [row] = [row for row in self.state[table] if row["id"] == id]
        return row


def _metrics(value: Any) -> list[Json]:
    if value is None:
        return []
    return [
        {"key": "accuracy", "kind": "NAN"}
        if value == "NaN"
        else {"key": "accuracy", "value": value}
    ]


async def explore(live: Live, sql: asyncpg.Connection, profile: settings) -> None:
    """Let hypothesis run in a thread of its own, because it waits for what the event loop does."""
    async with _Client(live.url) as graph:
        world = World(asyncio.get_running_loop(), live.database.url, graph, sql)
        machine: Any = partial(Promotion, world)
        await asyncio.to_thread(run_state_machine_as_test, machine, settings=profile)


_PROFILE = settings(
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


async def test_no_sequence_of_mutations_lets_an_unapproved_version_into_production(
    live: Live, sql: asyncpg.Connection
) -> None:
    await explore(
        live, sql, settings(_PROFILE, derandomize=True, max_examples=6, stateful_step_count=12)
    )


@pytest.mark.slow
async def test_no_sequence_of_many_does_either(live: Live, sql: asyncpg.Connection) -> None:
    await explore(live, sql, settings(_PROFILE, max_examples=20, stateful_step_count=25))
