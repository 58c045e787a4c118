"""Ways around the gates that somebody might try, and what becomes of them."""

from tests.client import Graph, Json
from tests.factories import VERSION, a_deployment, a_version, a_version_in, approved


def of(version: Json) -> Json:
    return {"modelVersion": {"id": version["id"]}}


def accuracy(value: float) -> list[Json]:
    return [{"key": "accuracy", "value": value}]


async def submit(graph: Graph, version: Json) -> Json:
    """The approval that came of it."""
    return await graph.done(
        "submitForApproval", of(version), "approval { status reason decidedBy }"
    )


async def promote(graph: Graph, version: Json, **input: object) -> Json:
    return await graph.mutate("setStage", {**of(version), "stage": "PRODUCTION", **input}, VERSION)


async def test_a_deployment_goes_on_only_while_its_version_may_run_there(
    graph: Graph, unique: str
) -> None:
    version = await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.8))
    waiting = await a_deployment(graph, version, "PRODUCTION", "VALIDATING")
    # Displaced by a better one, it is ARCHIVED; its approval is still in force.
    await a_version_in(graph, unique, "PRODUCTION", metrics=accuracy(0.9))

    refused = await graph.mutate("updateDeployment", {"id": waiting, "status": "DEPLOYING"})

    assert (refused["__typename"], refused["message"]) == (
        "Conflict",
        "Version 1 is in stage ARCHIVED; to run in PRODUCTION it must be in PRODUCTION. Move it "
        "there with setStage first.",
    )
    # It can be ended.
    ended = await graph.mutate("updateDeployment", {"id": waiting, "status": "FAILED"})
    assert ended["__typename"] == "UpdateDeploymentSuccess"


async def test_a_bypass_is_seen_in_staging_too(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique, metrics=accuracy(0.1))
    input = of(version) | {"decision": "BYPASS", "notes": "for the fair"}

    done = await graph.mutate(
        "decideApproval",
        input,
        "modelVersion { stageHistory { stage cause } }",
        **{"Lifecycle-Actor": "admin"},
    )

    assert done["modelVersion"]["stageHistory"][-1] == {"stage": "STAGING", "cause": "BYPASSED"}
