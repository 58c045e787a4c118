"""Deploys versions that were let into production, and reports on them there."""

import asyncio
from collections.abc import Mapping

from lifecycle.demo import operations, training
from lifecycle.demo.client import Client, DemoFailed, Object
from lifecycle.demo.drift import ACTION_THRESHOLD, FeatureDrift, severity
from lifecycle.demo.experiment import Candidate, now
from lifecycle.demo.training import Data
from lifecycle.demo.watch import Watch

_PAUSE = 0.4  # so that a person can follow the live status
_WAY_UP = {
    "VALIDATING": "Checking the file's digest.",
    "DEPLOYING": "Intact; loading it.",
    "ACTIVE": "Answers requests.",
}


class Production:
    """The production environment of one model, in the hands of its deployer."""

    def __init__(
        self, client: Client, watch: Watch, data: Data, candidates: Mapping[str, Candidate]
    ) -> None:
        self._client = client
        self._watch = watch
        self._data = data
        self._candidates = candidates

    async def deploy(self, candidate: Candidate) -> Object:
        """Deploy a version that is in the PRODUCTION stage; return the healthy deployment."""
        success = await self._client.mutate(
            operations.CREATE_DEPLOYMENT,
            {
                "modelVersion": {"id": candidate.id},
                "environment": "PRODUCTION",
                "endpoint": f"https://screening.example.com/{candidate.version}",
                "config": {"instances": 2, "instanceType": "cpu-small", "autoScaling": False},
            },
        )
        return await self.bring_up(success["deployment"])

    async def bring_up(self, deployment: Object) -> Object:
        """Take a new deployment to ACTIVE and HEALTHY; return it.

        What the messages say is done: the file is checked, loaded and asked about the test sample.
        """
        id = deployment["id"]
        candidate = self._candidates[deployment["version"]]
        for status, message in _WAY_UP.items():
            if status == "DEPLOYING":
                await self._check_file(id, candidate)
            await self.report(id, status=status, statusMessage=message, logLines=[_line(message)])
            await asyncio.sleep(_PAUSE)

        model = await asyncio.to_thread(training.load_model, candidate.trained.file)
        latency = await asyncio.to_thread(training.serve, model, self._data.test)
        answered = len(self._data.test)
        healthy = await self.report(
            id,
            health="HEALTHY",
            metrics={"requestCount": answered, "errorRate": 0.0, "avgLatencyMs": latency},
            logLines=[_line(f"{answered} requests answered.")],
        )
        await self._watch.until(id, "HEALTHY")
        return healthy

    async def report(self, deployment_id: str, **change: object) -> Object:
        """Tell the service something about a deployment; return the deployment."""
        success = await self._client.mutate(
            operations.UPDATE_DEPLOYMENT, {"id": deployment_id, **change}
        )
        deployment: Object = success["deployment"]
        return deployment

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
        await self._watch.until(deployment["id"], "DEGRADED")

    async def record_drift(self, deployment: Object, drifts: list[FeatureDrift]) -> Object:
        """Record the drift of the worst feature, the first; return the event, and whether it was
        known, as `duplicate`.

        The value to compare with is the PSI of the test sample: what chance alone gives.
        """
        worst = drifts[0]
        success = await self._client.mutate(
            operations.RECORD_DRIFT_EVENT,
            {
                "modelVersion": {"id": self._candidates[deployment["version"]].id},
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
                "dedupKey": f"psi/{worst.feature}",
            },
        )
        event: Object = success["driftEvent"]
        return {**event, "duplicate": success["duplicate"]}

    async def rolled_back(self, bad: Object, event: Object) -> Object:
        """Return the deployment that the service has put in the place of `bad` because of a drift
        event, once the subscription has told of it. Raises DemoFailed when there is none.
        """
        for response in event["responses"]:
            if response["action"] == "ROLL_BACK" and response["deployment"]:
                await self._watch.until(bad["id"], "ROLLBACK")
                deployment: Object = response["deployment"]
                return deployment
        raise DemoFailed(f"Nothing was rolled back because of drift event {event['id']}.")

    async def retire(self, deployment: Object) -> None:
        """Terminate a deployment that something newer stands in for."""
        await self.report(deployment["id"], status="TERMINATED", statusMessage="Superseded.")
        await self._watch.until(deployment["id"], "TERMINATED")

    async def _check_file(self, deployment_id: str, candidate: Candidate) -> None:
        file = candidate.trained.file
        if not await asyncio.to_thread(training.is_intact, file):
            message = f"{file.path} is not the file that was logged."
            await self.report(deployment_id, status="FAILED", statusMessage=message)
            raise DemoFailed(message)


def _line(message: str, level: str = "INFO") -> Object:
    return {"message": message, "level": level, "timestamp": now()}
