"""The life of a model: runs, versions, who lets them into production, drift, rollback."""

import asyncio
import tempfile
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from rich.progress import TaskID

from lifecycle.demo import drift, operations, training
from lifecycle.demo.client import Client, DemoFailed, Object, Refused
from lifecycle.demo.experiment import Candidate, Experiment
from lifecycle.demo.production import Production
from lifecycle.demo.promotion import Promotion
from lifecycle.demo.screen import Screen
from lifecycle.demo.training import Data
from lifecycle.demo.watch import Watch

# Beside the administrator: what each must be allowed to do. Nobody approves what is their own.
_ROLES = {"": ("CONTRIBUTOR", "APPROVER", "DEPLOYER"), "-approver": ("APPROVER",)}


async def tell(
    url: str, actor: str = "demo", administrator: str = "admin", token: str | None = None
) -> None:
    """Play the whole life of a model against the service at `url`.

    `actor` trains, submits and deploys; `actor`-approver approves; `administrator`, whom the
    service must know as one, sets the policies. Where they have to prove it, `token` is an
    administrator's, by which the other two are given tokens for a day. It can be told any number of
    times, also by several at once: each telling has an experiment and a model of its own. Raises
    DemoFailed, whose message is one line.
    """
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(Client(url, administrator, token))
        engineer, approver = [
            await stack.enter_async_context(
                Client(url, actor + part, await _token(admin, actor + part, roles, token))
            )
            for part, roles in _ROLES.items()
        ]
        server = await engineer.query(operations.SERVER)
        screen = Screen()
        screen.say(f"Service {server['serverInfo']['version']} at {engineer.url}")
        screen.say(
            f"{engineer.actor} trains and deploys, {approver.actor} approves, {admin.actor} sets "
            "policies"
        )
        data = await asyncio.to_thread(training.load)
        await _Story(engineer, approver, admin, screen, data).tell()


async def _token(admin: Client, name: str, roles: Sequence[str], token: str | None) -> str | None:
    """A token for one of the cast, if the administrator has one."""
    if token is None:
        return None
    until = datetime.now(UTC) + timedelta(days=1)
    grants = [{"role": role} for role in roles]
    input = {"name": name, "grants": grants, "expiresAt": until.isoformat()}
    return str((await admin.mutate(operations.TOKEN, input))["token"])


@dataclass(frozen=True, slots=True)
class _Cast:
    """The versions, each by its part in the story."""

    refused: Candidate  # finds too few of the malignant tumours
    modest: Candidate  # the least accurate of the others
    second: Candidate
    best: Candidate


class _Story:
    def __init__(
        self, engineer: Client, approver: Client, administrator: Client, screen: Screen, data: Data
    ) -> None:
        self._engineer = engineer
        self._approver = approver
        self._administrator = administrator
        self._screen = screen
        self._data = data

    async def tell(self) -> None:
        name = f"breast-cancer-screening-{uuid4().hex[:6]}"
        folder = Path(tempfile.mkdtemp(prefix="lifecycle-demo-"))
        candidates = await self._train(Experiment(self._engineer, name, self._data, folder))
        cast = await self._compare(name, candidates)
        promotion = Promotion(name, self._data)
        await self._set_policies(promotion)
        await self._refuse(promotion, cast.refused)

        by_version = {candidate.version: candidate for candidate in candidates}
        async with Watch(self._engineer, name, self._screen.event) as watch:
            production = Production(self._engineer, watch, self._data, by_version)

            await self._approve_automatically(promotion, cast.modest)
            first = await production.deploy(cast.modest)

            await self._approve_by_a_person(promotion, cast.second)
            second = await production.deploy(cast.second)
            await production.retire(first)

            await self._make_stale(promotion, cast.best)
            third = await production.deploy(cast.best)
            await production.retire(second)

            drifts = await self._measure(cast)
            event = await self._respond(production, third, drifts)
            back = await production.rolled_back(third, event)
            await production.bring_up(back)

        variables = {"modelName": name, "deployment": back["id"]}
        outcome = await self._engineer.query(operations.OUTCOME, variables)
        self._screen.summary(_facts(outcome, candidates, folder))
        queries = operations.to_try_next(name, cast.best.id, event["id"])
        self._screen.queries(self._engineer.url, queries)

    async def _train(self, experiment: Experiment) -> list[Candidate]:
        """Return a registered version for each recipe, in their order."""
        self._screen.step(f"Experiment {experiment.name}")
        self._screen.say(
            f"{len(self._data.train)} tumours to train on, {len(self._data.test)} to test on, "
            f"{len(self._data.feature_names)} features"
        )
        await experiment.begin()
        candidates = []
        with self._screen.epochs() as bars:
            for recipe in training.RECIPES:
                bar = bars.add_task(recipe.name, total=recipe.epochs, accuracy=0.0, recall=0.0)

                def progress(metrics: dict[str, float], bar: TaskID = bar) -> None:
                    bars.update(
                        bar, advance=1, accuracy=metrics["accuracy"], recall=metrics["recall"]
                    )

                trained = await experiment.train(recipe, progress)
                candidates.append(await experiment.register(trained))
        await experiment.complete()
        return candidates

    async def _compare(self, model_name: str, candidates: list[Candidate]) -> _Cast:
        """Show the versions side by side, and give each its part."""
        self._screen.step("Compare the versions")
        versions = [candidate.version for candidate in candidates]
        data = await self._engineer.query(
            operations.COMPARE_MODEL_VERSIONS, {"modelName": model_name, "versions": versions}
        )
        self._screen.comparison(data["compareModelVersions"])
        refused = min(candidates, key=lambda candidate: candidate.trained.metrics["recall"])
        others = [candidate for candidate in candidates if candidate is not refused]
        others.sort(key=lambda candidate: candidate.trained.metrics["accuracy"])
        return _Cast(refused, *others)

    async def _set_policies(self, promotion: Promotion) -> None:
        actor = self._administrator.actor
        self._screen.step(f"{actor} says what has to be true in production")
        gates, responses = await promotion.set_policies(self._administrator)
        for rule in gates["rules"]:
            self._screen.say(f"- {rule['description']}")
        done = ", ".join(
            f"{response['action']} from {response['fromSeverity']} on"
            for response in responses["responses"]
        )
        self._screen.say(f"- About drift: {done}.")

    async def _refuse(self, promotion: Promotion, candidate: Candidate) -> None:
        self._screen.step(f"Version {candidate.version} is refused")
        await self._submit(promotion, candidate, "Trees instead of lines.")
        self._screen.unmet(await promotion.unmet(self._engineer, candidate))

    async def _approve_automatically(self, promotion: Promotion, candidate: Candidate) -> None:
        self._screen.step(f"Version {candidate.version} is approved automatically")
        await self._check(promotion, candidate)
        await self._submit(promotion, candidate, "Something to learn from.")
        await self._promote(promotion, candidate)

    async def _approve_by_a_person(self, promotion: Promotion, candidate: Candidate) -> None:
        self._screen.step(f"Version {candidate.version} needs a person")
        await self._submit(promotion, candidate, "Please have a look.")
        await self._expect_refusal(
            promotion.approve(self._engineer, candidate, "It is mine."), "FORBIDDEN"
        )
        pending = await promotion.pending(self._approver)
        figures = {metric["key"]: metric["value"] for metric in pending["metrics"]}
        approval = pending["approval"]
        self._say(
            self._approver,
            f"finds version {pending['version']} in pendingApprovals: {approval['status']}, from "
            f"{approval['submittedBy']}, accuracy {figures['accuracy']}, recall "
            f"{figures['recall']}: “{approval['submissionNotes']}”",
        )
        await self._expect_refusal(
            promotion.approve(self._approver, candidate, "Looks good."), "GATE_FAILED"
        )
        await self._check(promotion, candidate)
        approved = await promotion.approve(self._approver, candidate, "Checked, item by item.")
        self._say(
            self._approver,
            f"approves: {approved['approval']['status']}, and the version is in "
            f"{approved['modelVersion']['stage']}",
        )
        await self._promote(promotion, candidate)

    async def _make_stale(self, promotion: Promotion, candidate: Candidate) -> None:
        self._screen.step(f"Version {candidate.version} is approved, changed, and STALE")
        await self._check(promotion, candidate)
        await self._submit(promotion, candidate, "The best of its experiment.")
        figure = training.specificity(candidate.trained.model, self._data.test)
        why = await promotion.measure_again(self._engineer, candidate, "specificity", figure)
        self._say(self._engineer, f"adds a figure, specificity {figure}. STALE: {why}")
        await self._expect_refusal(
            promotion.promote(self._engineer, candidate, "It was approved."), "GATE_FAILED"
        )
        await self._check(promotion, candidate)
        await self._submit(promotion, candidate, "With specificity.")
        await self._promote(promotion, candidate)

    async def _measure(self, cast: _Cast) -> list[drift.FeatureDrift]:
        """Compare what comes in with the training sample; return the features, worst first."""
        self._screen.step("What comes in has drifted")
        data, incoming = self._data, self._data.incoming
        self._screen.say(
            f"{len(incoming)} tumours come from coarser images: {training.COVARIATE} above "
            f"{data.limit:.2f}, in training at most that. What else has moved?"
        )
        columns = data.monitored()
        drifts = await asyncio.to_thread(
            drift.by_feature,
            [data.feature_names[column] for column in columns],
            data.train.features[:, columns],
            data.test.features[:, columns],
            incoming.features[:, columns],
        )
        self._screen.drifts(drifts[:5])
        beyond = [each for each in drifts if each.psi >= drift.ACTION_THRESHOLD]
        self._screen.say(
            f"{len(beyond)} of {len(drifts)} features are beyond the limit of "
            f"{drift.ACTION_THRESHOLD}."
        )
        for candidate in (cast.best, cast.second):
            model = candidate.trained.model
            accuracy = training.scores(model, incoming)["accuracy"]
            self._screen.say(
                f"Version {candidate.version}: accuracy {candidate.trained.metrics['accuracy']:.3f}"
                f" in the test, {accuracy:.3f} here; misses {training.missed(model, incoming)} of "
                f"{int(incoming.malignant.sum())} malignant tumours"
            )
        return drifts

    async def _respond(
        self, production: Production, deployment: Object, drifts: list[drift.FeatureDrift]
    ) -> Object:
        """Report what was measured, and show what the service does about it; return the event."""
        worst = drifts[0]
        self._screen.step("The service rolls back")
        await production.degrade(deployment, f"{worst.feature}: PSI {worst.psi:.2f}.")
        event = await production.record_drift(deployment, drifts)
        self._screen.say(f"Drift event: {event['severity']}, {event['status']}, and by its policy")
        for response in event["responses"]:
            self._screen.say(
                f"- {response['action']}: {response['outcome']}. {response['message']}"
            )
        again = await production.record_drift(deployment, drifts)
        if not again["duplicate"] or again["id"] != event["id"]:
            raise DemoFailed(f"Drift {event['dedupKey']} was recorded twice.")
        self._screen.say(f"Reported again as {event['dedupKey']}: the same event, nothing new")
        return event

    async def _check(self, promotion: Promotion, candidate: Candidate) -> None:
        await promotion.go_through_checklist(self._approver, candidate)
        self._say(
            self._approver,
            f"goes through the checklist: all {len(candidate.checklist)} items hold",
        )

    async def _submit(self, promotion: Promotion, candidate: Candidate, notes: str) -> None:
        submitted = await promotion.submit(self._engineer, candidate, notes)
        approval = submitted["approval"]
        self._say(
            self._engineer,
            f"submits version {candidate.version}: {approval['status']}. {approval['reason']}",
        )

    async def _promote(self, promotion: Promotion, candidate: Candidate) -> None:
        reason = candidate.trained.recipe.description
        displaced = await promotion.promote(self._engineer, candidate, reason)
        self._say(
            self._engineer,
            f"moves version {candidate.version} from STAGING to PRODUCTION; displaced: "
            f"{', '.join(displaced) or 'none'}",
        )

    async def _expect_refusal(self, attempt: Awaitable[object], code: str) -> None:
        """Show why the service refuses this. Raises DemoFailed when it does not."""
        try:
            await attempt
        except Refused as refusal:
            if refusal.code != code:
                raise
            self._screen.say(f"Refused: {refusal}")
        else:
            raise DemoFailed(f"The service did not refuse with {code} what it should.")

    def _say(self, who: Client, what: str) -> None:
        self._screen.say(f"{who.actor} {what}")


def _facts(outcome: Object, candidates: list[Candidate], folder: Path) -> dict[str, str]:
    """Return what the service says there is now, line by line."""
    experiment, model, deployment = outcome["experiment"], outcome["model"], outcome["deployment"]
    best = experiment["bestRun"]
    (entry,) = model["stageHistory"]["nodes"]
    approval, report = entry["approval"], entry["approval"]["report"]
    passed = [check["name"] for check in report["checks"] if check["passed"]]
    displaced = ", ".join(version["version"] for version in entry["displaced"])
    way = " → ".join(step["to"] for step in deployment["statusHistory"])
    event = deployment["cause"]
    facts = {
        "Experiment": f"{experiment['name']}, {experiment['status']}",
        "Runs": f"{experiment['runCount']}, the best by accuracy: {best['name']}, "
        f"{best['metrics'][0]['value']:.3f}",
        "Versions": ", ".join(candidate.version for candidate in candidates),
        "In production": f"version {entry['modelVersion']['version']}: {entry['cause']} by "
        f"{entry['actor']}. {entry['reason']}",
        "Let in by": f"{approval['decidedBy']}, {approval['status']}: “{approval['notes']}”",
        "On evidence of": f"policy version {report['policyVersion']}, {len(passed)} of "
        f"{len(report['checks'])} checks passed: {', '.join(passed)}",
        "It replaced": f"version {displaced}",
        "Deployment": f"version {deployment['version']}: {way}, {deployment['health']}; "
        f"rolled back from version {deployment['rollbackFrom']['version']}",
        "Drift event": f"{event['severity']}, {event['status']}",
    }
    for version in model["versions"]["nodes"]:
        unmet = " ".join(check["message"] for check in version["whyNot"])
        facts[f"Why not {version['version']}?"] = unmet
    return {**facts, "Model files": str(folder)}
