"""What lets a version into production, and what does not."""

from lifecycle.demo import operations
from lifecycle.demo.client import Client, DemoFailed, Object, Refused
from lifecycle.demo.experiment import CHECKLIST, Candidate, findings
from lifecycle.demo.training import Data

_STAGE_RULES = [
    {"metric": {"key": "accuracy", "atLeast": 0.9, "required": True}},
    {"metric": {"key": "recall", "atLeast": 0.95, "required": True}},
    {"metric": {"key": "inference_time_ms", "atMost": 100, "required": True}},
    {"baseline": {"key": "accuracy", "tolerance": 0.02}},
    {"checklist": {"required": True}},
    {"artifactDigest": {}},
    {"runCompleted": {}},
    {"noOpenDrift": {"fromSeverity": "HIGH"}},
    {"automaticApproval": {"key": "accuracy", "betterBy": 0.02, "tolerance": 0.01}},
]
_DRIFT_RESPONSES = [
    {"fromSeverity": "HIGH", "action": action}
    for action in ("MARK_STALE", "OPEN_REVIEW", "ROLL_BACK")
]


class Promotion:
    """The way of one model's versions into production; who does a step is named in each method."""

    def __init__(self, model_name: str, data: Data) -> None:
        self._model_name = model_name
        self._data = data

    async def set_policies(self, administrator: Client) -> tuple[Object, Object]:
        """Give the model policies of its own, unless it has the same; return those that hold: of
        the stage PRODUCTION, and of drift. Raises DemoFailed for who is no administrator there.
        """
        about = {"modelName": self._model_name, "reason": "What the demo shows."}
        stage = {**about, "stage": "PRODUCTION", "rules": _STAGE_RULES}
        drift = {**about, "responses": _DRIFT_RESPONSES, "degradation": []}
        try:
            gates = await administrator.mutate(operations.SET_STAGE_POLICY, stage)
            responses = await administrator.mutate(operations.SET_DRIFT_POLICY, drift)
        except Refused as refusal:
            if refusal.code != "FORBIDDEN":
                raise
            raise DemoFailed(
                f"{administrator.actor} is no administrator of this service, and only one may set "
                "policies; say who is: lifecycle demo --administrator NAME."
            ) from refusal
        return gates["stagePolicy"], responses["driftPolicy"]

    async def go_through_checklist(self, who: Client, candidate: Candidate) -> None:
        """Check each item and mark it by what was found.

        Raises DemoFailed when one does not hold; it is REJECTED then.
        """
        found = findings(candidate.trained, self._data)
        for title, (holds, note) in zip(CHECKLIST, found, strict=True):
            mark = {
                "id": candidate.checklist[title],
                "status": "APPROVED" if holds else "REJECTED",
                "note": note,
            }
            await who.mutate(operations.MARK_CHECKLIST_ITEM, mark)
            if not holds:
                raise DemoFailed(f"Version {candidate.version}: {title}? No: {note}.")

    async def submit(self, who: Client, candidate: Candidate, notes: str) -> Object:
        """Ask for an approval; return what the policy has made of it, with the version's stage."""
        submission = {"modelVersion": {"id": candidate.id}, "notes": notes}
        return await who.mutate(operations.SUBMIT_FOR_APPROVAL, submission)

    async def approve(self, who: Client, candidate: Candidate, notes: str) -> Object:
        """Approve what was submitted. Raises Refused for who may not, and when a rule is unmet."""
        decision = {"modelVersion": {"id": candidate.id}, "decision": "APPROVE", "notes": notes}
        return await who.mutate(operations.DECIDE_APPROVAL, decision)

    async def promote(self, who: Client, candidate: Candidate, reason: str) -> list[str]:
        """Move a version from STAGING to PRODUCTION; return the versions that it displaced.

        Raises Refused when the policy or the approval does not let it.
        """
        move = {"modelVersion": {"id": candidate.id}, "stage": "PRODUCTION", "reason": reason}
        success = await who.mutate(operations.SET_STAGE, move)
        return [version["version"] for version in success["displaced"]]

    async def measure_again(self, who: Client, candidate: Candidate, key: str, value: float) -> str:
        """Add a figure to a version's metrics; return why its approval is STALE."""
        metrics = {**candidate.trained.metrics, key: value}
        change = {
            "modelVersion": {"id": candidate.id},
            "metrics": [{"key": key, "value": value} for key, value in metrics.items()],
        }
        success = await who.mutate(operations.UPDATE_MODEL_VERSION, change)
        why: str = success["modelVersion"]["approval"]["staleReason"]
        return why

    async def unmet(self, who: Client, candidate: Candidate) -> list[Object]:
        """Return what stands between a version and PRODUCTION."""
        data = await who.query(operations.WHY_NOT, {"by": {"id": candidate.id}})
        checks: list[Object] = data["modelVersion"]["whyNot"]
        return checks

    async def pending(self, who: Client) -> Object:
        """Return the newest version of the model that waits for people to decide.

        Raises DemoFailed when there is none.
        """
        data = await who.query(operations.PENDING_APPROVALS)
        for version in data["pendingApprovals"]["nodes"]:
            if version["modelName"] == self._model_name:
                found: Object = version
                return found
        raise DemoFailed(f"No version of {self._model_name} waits for anybody.")
