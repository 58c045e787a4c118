"""Objects to begin a test with, made over GraphQL like a client's."""

from tests.client import Graph, Json

VERSION = "modelVersion { id version stage revision }"


async def a_version(graph: Graph, model: str, **input: object) -> Json:
    """A new version of a model."""
    return await graph.done("registerModelVersion", {"modelName": model, **input}, VERSION)


async def approved(graph: Graph, version: Json) -> Json:
    """The version, submitted and approved, by somebody else if the policy leaves that to people:
    it is in STAGING then."""
    input: Json = {"modelVersion": {"id": version["id"]}}
    selection = "approval { status } " + VERSION
    submitted = await graph.mutate("submitForApproval", input, selection)
    if submitted["approval"]["status"] in ("PENDING", "NEEDS_REVIEW"):
        input |= {"decision": "APPROVE"}
        other = {"Lifecycle-Actor": "approver"}
        submitted = await graph.mutate("decideApproval", input, selection, **other)
    assert submitted["approval"]["status"] == "APPROVED", submitted
    made: Json = submitted["modelVersion"]
    return made


async def a_version_in(graph: Graph, model: str, stage: str, **input: object) -> Json:
    """A new version that has been moved to a stage; into PRODUCTION with an approval."""
    made = await a_version(graph, model, **input)
    if stage == "PRODUCTION":
        made = await approved(graph, made)
    if stage != "EXPERIMENTAL":
        input = {"modelVersion": {"id": made["id"]}, "stage": stage}
        made = await graph.done("setStage", input, VERSION)
    return made


async def a_run(graph: Graph, experiment: str, **input: object) -> str:
    """The id of a new run in an experiment, which is made when there is none of this name."""
    await graph.mutate("createExperiment", {"name": experiment})
    run = await graph.done("logRun", {"experimentName": experiment, **input}, "run { id }")
    return str(run["id"])


# The shortest way of a new deployment to each status.
WAY = {
    "PENDING": [],
    "VALIDATING": ["VALIDATING"],
    "DEPLOYING": ["VALIDATING", "DEPLOYING"],
    "ACTIVE": ["VALIDATING", "DEPLOYING", "ACTIVE"],
    "FAILED": ["FAILED"],
    "ROLLBACK": ["FAILED", "ROLLBACK"],
    "TERMINATED": ["TERMINATED"],
}


async def a_deployment(
    graph: Graph, version: Json, environment: str = "DEVELOPMENT", status: str = "PENDING"
) -> str:
    """The id of a new deployment of a version, brought to a status."""
    input = {"modelVersion": {"id": version["id"]}, "environment": environment}
    made = await graph.done("createDeployment", input, "deployment { id }")
    if WAY[status]:
        # One request for all steps: many tests begin here.
        steps = " ".join(
            f'{step}: updateDeployment(input: {{id: "{made["id"]}", status: {step}}}) '
            "{ __typename ... on Error { message } }"
            for step in WAY[status]
        )
        done = await graph.query(f"mutation {{ {steps} }}")
        assert all(r["__typename"] == "UpdateDeploymentSuccess" for r in done.values()), done
    return str(made["id"])
