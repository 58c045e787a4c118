"""Takes versions into production, reports on them there, takes them back."""

import asyncio
import random
from collections.abc import Mapping

from lifecycle.demo import operations, training
from lifecycle.demo.client import Client, DemoFailed, Object, Refused
from lifecycle.demo.drift import ACTION_THRESHOLD, FeatureDrift, severity
from lifecycle.demo.experiment import MODEL_NAME, Candidate, evidence, now
from lifecycle.demo.training import Data
from lifecycle.demo.watch import Watch

_PAUSE = 0.4  # so that a person can follow the live status
_ATTEMPTS = 5
_WAY_UP = ("PENDING", "VALIDATING", "DEPLOYING", "ACTIVE")


class Production:
    """The production environment of one model, in the hands of its deployer."""

    def __init__(
        self, client: Client, watch: Watch, data: Data, candidates: Mapping[str, Candidate]
    ) -> None:
        self._client = client
        self._watch = watch
        self._data = data
        self._candidates = candidates

    async def approve(self, candidate: Candidate) -> None:
        """Mark each item of the checklist by what was measured.

        Raises DemoFailed when one does not hold; it is REJECTED then.
        """
        for title, (holds, note) in evidence(candidate.trained).items():
            decision = {
                "id": candidate.checklist[title],
                "status": "APPROVED" if holds else "REJECTED",
                "note": note,
            }
            await self._client.mutate(operations.MARK_CHECKLIST_ITEM, decision)
            if not holds:
                raise DemoFailed(f"Version {candidate.version} is rejected: {title}? {note}.")

    async def promote(self, version: str, reason: str) -> list[str]:
        """Take a version by STAGING to the PRODUCTION stage; return the versions it displaced."""
        displaced: list[str] = []
        if await self._stage(version) == "PRODUCTION":
            return displaced
        for stage in ("STAGING", "PRODUCTION"):
            success = await self._client.mutate(
                operations.SET_STAGE,
                {"modelVersion": _selector(version), "stage": stage, "reason": reason},
            )
            displaced += [version["version"] for version in success["displaced"]]
        return displaced

    async def deploy(self, version: str) -> Object:
        """Deploy a version that is in the PRODUCTION stage; return the healthy deployment."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                success = await self._client.mutate(
                    operations.CREATE_DEPLOYMENT,
                    {
                        "modelVersion": _selector(version),
                        "environment": "PRODUCTION",
                        "endpoint": f"https://{MODEL_NAME}.example.com/{version}",
                        "config": {
                            "instances": 2,
                            "instanceType": "cpu-small",
                            "autoScaling": False,
                        },
                    },
                )
                break
            except Refused:
                # Another demo on the same service may just have displaced this version.
                if attempt == _ATTEMPTS or await self._stage(version) == "PRODUCTION":
                    raise
                await self.promote(version, "Displaced before it could be deployed.")
        return await self.bring_up(success["deployment"])

    async def bring_up(self, deployment: Object) -> Object:
        """Take a new deployment to ACTIVE and HEALTHY; return it.

        What the messages say is done: the file is checked, loaded and asked about the test sample.
        """
        id, version = deployment["id"], deployment["version"]
        candidate = self._candidates.get(version)  # None: a version of another demo
        steps = {
            "VALIDATING": "Checking the model file against the digest that its run has logged.",
            "DEPLOYING": "The file is intact; loading it.",
            "ACTIVE": "Answers requests.",
        }
        for status in _WAY_UP[_WAY_UP.index(deployment["status"]) + 1 :]:
            if status == "DEPLOYING" and candidate:
                await self._check_file(id, candidate)
            await self.report(
                id, status=status, statusMessage=steps[status], logLines=[_line(steps[status])]
            )
            await asyncio.sleep(_PAUSE)
        await self._watch.until(id, "ACTIVE")

        answered, latency = 0, 0.0
        if candidate:
            model = await asyncio.to_thread(training.load_model, candidate.trained.file)
            latency = await asyncio.to_thread(training.serve, model, self._data.test)
            answered = len(self._data.test)
        return await self.report(
            id,
            health="HEALTHY",
            metrics={"requestCount": answered, "errorRate": 0.0, "avgLatencyMs": latency},
            logLines=[_line(f"{answered} requests answered.")],
        )

    async def report(self, deployment_id: str, **change: object) -> Object:
        """Tell the service something about a deployment; return the deployment."""
        success = await self._client.mutate(
            operations.UPDATE_DEPLOYMENT, {"id": deployment_id, **change}
        )
        deployment: Object = success["deployment"]
        return deployment

    async def record_drift(self, deployment: Object, drifts: list[FeatureDrift]) -> Object:
        """Record the drift of the worst feature, the first, and acknowledge it; return the event.

        The value to compare with is the PSI of the test sample: what chance alone gives.
        """
        worst = drifts[0]
        success = await self._client.mutate(
            operations.RECORD_DRIFT_EVENT,
            {
                "modelVersion": _selector(deployment["version"]),
                "deploymentId": deployment["id"],
                "severity": severity(worst.psi),
                "metric": "psi",
                "feature": worst.feature,
                "baselineValue": worst.psi_by_chance,
                "observedValue": worst.psi,
                "threshold": ACTION_THRESHOLD,
                "method": "Population stability index, ten bins of the training sample",
                "description": f"{worst.feature} has moved: its mean was "
                f"{worst.baseline_mean:.4g} in training and is {worst.observed_mean:.4g} in "
                f"the images whose {training.COVARIATE} exceeds {self._data.limit:.2f}.",
                "details": {
                    "ks_statistic": worst.ks_statistic,
                    "ks_p_value": worst.ks_p_value,
                    "baseline_mean": worst.baseline_mean,
                    "observed_mean": worst.observed_mean,
                    "baseline_size": len(self._data.train),
                    "observed_size": len(self._data.incoming),
                    "features_beyond_threshold": [
                        drift.feature for drift in drifts if drift.psi >= ACTION_THRESHOLD
                    ],
                },
                "detectedAt": now(),
            },
        )
        event: Object = success["driftEvent"]
        return await self.follow_up(event["id"], "ACKNOWLEDGED") | {"severity": event["severity"]}

    async def follow_up(self, event_id: str, status: str, resolution: str | None = None) -> Object:
        """Move a drift event to a new status; return the event."""
        change = {"id": event_id, "status": status}
        if resolution:
            change["resolution"] = resolution
        success = await self._client.mutate(operations.UPDATE_DRIFT_EVENT, change)
        event: Object = success["driftEvent"]
        return event

    async def degrade(self, deployment: Object, why: str) -> None:
        """Let the deployed model answer what comes in, and report it as DEGRADED."""
        model, incoming = self._candidates[deployment["version"]].trained.model, self._data.incoming
        latency = await asyncio.to_thread(training.serve, model, incoming)
        await self.report(
            deployment["id"],
            health="DEGRADED",
            statusMessage=why,
            metrics={
                "requestCount": len(self._data.test) + len(incoming),
                "errorRate": 0.0,
                "avgLatencyMs": latency,
            },
            logLines=[_line(why, "WARNING")],
        )

    async def roll_back(self, deployment: Object, reason: str) -> Object:
        """Go back to the last deployment that was good; return the new deployment, brought up."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                success = await self._client.mutate(
                    operations.ROLLBACK_DEPLOYMENT, {"id": deployment["id"], "reason": reason}
                )
                break
            except Refused as refusal:
                # Only from the latest one can one go back, and another demo may have made a later
                # one: give it the time to go back from that, and be the latest again.
                if refusal.code != "CONFLICT" or attempt == _ATTEMPTS:
                    raise
                await asyncio.sleep(random.uniform(1, 3))
                await self.retire(deployment["id"])
                deployment = await self.deploy(deployment["version"])
        created: Object = success["deployment"]
        await self._watch.until(deployment["id"], "ROLLBACK")
        return created | await self.bring_up(created)

    async def superseded(self) -> list[str]:
        """Return the deployments that earlier demos of this actor have left in service.

        Those of a demo that is still running are not among them: its last word on a deployment is
        that a rollback's is healthy.
        """
        data = await self._client.query(operations.IN_SERVICE, {"modelName": MODEL_NAME})
        return [
            node["id"]
            for node in data["deployments"]["nodes"]
            if node["createdBy"] == self._client.actor
            and node["rollbackFrom"]
            and node["health"] == "HEALTHY"
        ]

    async def retire(self, deployment_id: str) -> None:
        """Terminate a deployment that something newer stands in for, unless it is already."""
        try:
            await self.report(deployment_id, status="TERMINATED", statusMessage="Superseded.")
        except Refused as refusal:
            if refusal.code != "INVALID_TRANSITION":
                raise
        else:
            await self._watch.until(deployment_id, "TERMINATED")

    async def _stage(self, version: str) -> str:
        variables = {"by": _selector(version)}
        data = await self._client.query(operations.STAGE_OF_VERSION, variables)
        if data["modelVersion"] is None:
            raise DemoFailed(f"Version {version} of {MODEL_NAME} has been deleted meanwhile.")
        stage: str = data["modelVersion"]["stage"]
        return stage

    async def _check_file(self, deployment_id: str, candidate: Candidate) -> None:
        file = candidate.trained.file
        if not await asyncio.to_thread(training.is_intact, file):
            message = f"{file.path} is not the file that was logged."
            await self.report(deployment_id, status="FAILED", statusMessage=message)
            raise DemoFailed(message)


def _selector(version: str) -> Object:
    return {"nameVersion": {"modelName": MODEL_NAME, "version": version}}


def _line(message: str, level: str = "INFO") -> Object:
    return {"message": message, "level": level, "timestamp": now()}
