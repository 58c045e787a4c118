"""Stage policies: rules as data, in versions, for one model or for all."""

from typing import Any

import pytest

from tests.client import Graph, Json
from tests.factories import a_version, a_version_in

ADMIN = {"Lifecycle-Actor": "admin"}
POLICY = """id stage version rules { kind description parameters } reason createdBy createdAt
  model { name }"""
ACCURACY = {"metric": {"key": "accuracy", "atLeast": 0.75}}


async def set_policy(graph: Graph, model: str, rules: Any, **input: object) -> Json:
    given = {"stage": "PRODUCTION", "modelName": model, "rules": rules, **input}
    return await graph.mutate("setStagePolicy", given, f"stagePolicy {{ {POLICY} }}", **ADMIN)


async def in_force(graph: Graph, model: str | None, stage: str = "PRODUCTION") -> Json:
    found = await graph.query(
        f"query ($model: String, $stage: Stage!) {{ stagePolicy(stage: $stage, modelName: $model) "
        f"{{ {POLICY} }} }}",
        {"model": model, "stage": stage},
    )
    policy: Json = found["stagePolicy"]
    return policy


async def versions(graph: Graph, model: str, **page: object) -> Json:
    found = await graph.query(
        "query ($model: String, $first: Int, $after: String) { stagePolicies(modelName: $model, "
        "first: $first, after: $after) { totalCount nodes { version rules { kind } } "
        "pageInfo { hasNextPage endCursor } } }",
        {"model": model, **page},
    )
    policies: Json = found["stagePolicies"]
    return policies


async def test_the_service_begins_with_the_figures_of_the_founding_documents(graph: Graph) -> None:
    production, staging = await in_force(graph, None), await in_force(graph, None, "STAGING")

    assert (production["version"], production["createdBy"]) == (1, "system:setup")
    assert production["model"] is None
    assert [rule["description"] for rule in production["rules"]] == [
        "The metric accuracy is at least 0.75, where it is reported.",
        "The metric precision is at least 0.7, where it is reported.",
        "The metric recall is at least 0.65, where it is reported.",
        "The metric inference_time_ms is at most 100, where it is reported.",
        "The metric data_quality_score is at least 0.8, where it is reported.",
        "The data-set fact train_size is at least 1000, where it is reported. (WARNING)",
        "The data-set fact feature_count is at least 3, where it is reported. (WARNING)",
        "The hyperparameter hidden_size is at most 1000, where it is reported. (WARNING)",
        "The hyperparameter learning_rate is at least 0.0001 and at most 0.1, where it is "
        "reported. (WARNING)",
        "The metric accuracy is at most 0.05 worse than in production, where both are reported.",
        "A submission is approved without a person when accuracy is at most 0.01 worse than in "
        "production; from 0.02 better on it is an improvement.",
    ]
    assert (staging["version"], staging["rules"]) == (1, [])


@pytest.mark.parametrize("stage", ["EXPERIMENTAL", "ARCHIVED"])
async def test_nothing_guards_the_other_stages(graph: Graph, unique: str, stage: str) -> None:
    await a_version(graph, unique)

    assert await in_force(graph, unique, stage) is None
    refused = await set_policy(graph, unique, [], stage=stage)
    assert refused == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": "Only STAGING and PRODUCTION can be guarded.",
        "path": ["stage"],
    }


async def test_a_model_gets_a_policy_of_its_own_and_follows_the_general_one_again(
    graph: Graph, unique: str
) -> None:
    await a_version(graph, unique)
    general = await in_force(graph, unique)

    own = (await set_policy(graph, unique, [ACCURACY], reason="no people"))["stagePolicy"]
    held = await in_force(graph, unique)
    staging = await in_force(graph, unique, "STAGING")
    back = (await set_policy(graph, unique, None, reason="people"))["stagePolicy"]

    assert own == {
        "id": own["id"],
        "stage": "PRODUCTION",
        "version": 1,
        "rules": [
            {
                "kind": "METRIC",
                "description": "The metric accuracy is at least 0.75, where it is reported.",
                "parameters": {
                    "key": "accuracy",
                    "atLeast": 0.75,
                    "required": False,
                    "severity": "BLOCKING",
                },
            }
        ],
        "reason": "no people",
        "createdBy": "admin",
        "createdAt": own["createdAt"],
        "model": {"name": unique},
    }
    assert held == own
    # A policy is for one stage, and for one model.
    assert staging["model"] is None
    assert general["model"] is None
    assert await in_force(graph, None) == general
    assert (back["version"], back["rules"], back["reason"]) == (2, None, "people")
    assert await in_force(graph, unique) == general
    found = await graph.query(
        f"query ($id: ID!) {{ node(id: $id) {{ ... on StagePolicy {{ {POLICY} }} }} }}",
        {"id": own["id"]},
    )
    assert found["node"] == own


async def test_each_change_makes_a_version_and_saying_the_same_makes_none(
    graph: Graph, unique: str
) -> None:
    await a_version(graph, unique)
    more = {"metric": {"key": "recall", "atMost": 1}}

    made = [
        (await set_policy(graph, unique, rules))["stagePolicy"]["version"]
        for rules in ([ACCURACY], [ACCURACY], [ACCURACY, more], [more, ACCURACY], [], [], None)
    ]
    again = await set_policy(graph, unique, None)

    assert made == [1, 1, 2, 3, 4, 4, 5]
    assert again["stagePolicy"]["version"] == 5
    first = await versions(graph, unique, first=3)
    second = await versions(graph, unique, first=3, after=first["pageInfo"]["endCursor"])
    assert (first["totalCount"], second["pageInfo"]["hasNextPage"]) == (5, False)
    nodes = [*first["nodes"], *second["nodes"]]
    assert [(node["version"], node["rules"] and len(node["rules"])) for node in nodes] == [
        (5, None),
        (4, []),
        (3, 2),
        (2, 2),
        (1, 1),
    ]


async def test_a_report_keeps_the_version_of_the_policy_that_it_was_made_by(
    graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique, metrics=[{"key": "accuracy", "value": 0.8}])
    of_version = {"modelVersion": {"id": version["id"]}}
    selection = "report { policyVersion passed checks { message } }"
    await set_policy(graph, unique, [ACCURACY])
    before = await graph.done("validateModelVersion", of_version, selection)

    strict = {"metric": {"key": "accuracy", "atLeast": 0.9}}
    await set_policy(graph, unique, [strict])
    found = await graph.query(
        "query ($id: ID!) { node(id: $id) { ... on ModelVersion { validation { policyVersion "
        "passed checks { message } } } } }",
        {"id": version["id"]},
    )
    after = await graph.done("validateModelVersion", of_version, selection)

    assert found["node"]["validation"] == before
    assert (before["policyVersion"], before["passed"]) == (1, True)
    assert (after["policyVersion"], after["passed"]) == (2, False)


async def test_a_policy_guards_the_stage_that_it_is_for(graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    needed = {"metric": {"key": "f1", "atLeast": 0.5, "required": True}}
    await set_policy(graph, unique, [needed], stage="STAGING")
    staging = {"modelVersion": {"id": version["id"]}, "stage": "STAGING"}

    refused = await graph.mutate("setStage", staging)
    metrics = [{"key": "f1", "value": 0.5}]
    update = {"modelVersion": {"id": version["id"]}, "metrics": metrics}
    await graph.done("updateModelVersion", update, "modelVersion { id }")
    met = await graph.mutate("setStage", staging)
    # Downwards nothing guards it.
    down = await a_version_in(graph, f"{unique}-2", "PRODUCTION")
    await set_policy(graph, f"{unique}-2", [needed], stage="STAGING")
    moved = await graph.mutate("setStage", {"modelVersion": {"id": down["id"]}, "stage": "STAGING"})

    assert (refused["__typename"], refused["report"]["stage"]) == ("GateFailed", "STAGING")
    assert refused["message"] == (
        "STAGING is refused: f1 is not reported; at least 0.5 is required."
    )
    assert met["__typename"] == moved["__typename"] == "SetStageSuccess"


@pytest.mark.parametrize(
    "rule",
    [
        {"approvals": {"count": 1}},
        {"automaticApproval": {"key": "f1", "betterBy": 0, "tolerance": 0}},
    ],
)
async def test_rules_about_approvals_belong_to_production(
    graph: Graph, unique: str, rule: Json
) -> None:
    """An approval moves a version to STAGING: there it cannot be what is missing."""
    await a_version(graph, unique)

    refused = await set_policy(graph, unique, [{"checklist": {}}, rule], stage="STAGING")

    assert (refused["__typename"], refused["path"]) == ("InvalidInput", ["rules", "1"])
    assert (await in_force(graph, unique, "STAGING"))["model"] is None


@pytest.mark.parametrize("expected", [0, 1, 3])
async def test_a_policy_changes_only_from_the_version_that_is_expected(
    graph: Graph, unique: str, expected: int
) -> None:
    await a_version(graph, unique)
    first = await set_policy(graph, unique, [ACCURACY], expectedVersion=0)
    await set_policy(graph, unique, [])

    refused = await set_policy(graph, unique, [ACCURACY], expectedVersion=expected)
    done = await set_policy(graph, unique, [ACCURACY], expectedVersion=2)

    assert first["stagePolicy"]["version"] == 1
    assert refused == {
        "__typename": "StaleRevision",
        "code": "STALE_REVISION",
        "message": f"Version {expected} was expected, but it is 2 now.",
        "path": ["expectedVersion"],
        "currentRevision": 2,
    }
    assert done["stagePolicy"]["version"] == 3


async def test_only_administrators_set_policies(graph: Graph, unique: str) -> None:
    await a_version(graph, unique)
    before = await in_force(graph, unique)

    for input in ({"modelName": unique, "rules": []}, {"rules": None}):
        error = await graph.error(
            "mutation ($input: SetStagePolicyInput!) { setStagePolicy(input: $input) "
            "{ __typename } }",
            {"input": {"stage": "PRODUCTION", **input}},
        )
        assert error["extensions"]["code"] == "FORBIDDEN"
        assert error["message"] == ("tester may not set a policy: that takes the role ADMIN.")
    assert await in_force(graph, unique) == before


async def test_a_policy_is_of_a_model_that_exists(graph: Graph, unique: str) -> None:
    refused = await set_policy(graph, unique, [])
    error = await graph.error(f'{{ stagePolicy(modelName: "{unique}") {{ id }} }}')

    assert refused == {
        "__typename": "NotFound",
        "code": "NOT_FOUND",
        "message": f"There is no model {unique}.",
        "path": ["modelName"],
    }
    assert error["extensions"] == {"code": "NOT_FOUND", "argument": ["modelName"]}


# Rules


RULES: list[tuple[str, Json, Json]] = [
    ("metric", {"key": "a", "atLeast": 0.5}, {"required": False, "severity": "BLOCKING"}),
    (
        "metric",
        {"key": "a", "atLeast": 0, "atMost": 1, "required": True, "severity": "INFO"},
        {},
    ),
    ("datasetFact", {"key": "rows", "atLeast": 1}, {"required": False, "severity": "BLOCKING"}),
    ("hyperparameter", {"key": "lr", "atMost": 1}, {"required": False, "severity": "WARNING"}),
    (
        "baseline",
        {"key": "a", "tolerance": 0.05},
        {"relative": False, "required": False, "severity": "BLOCKING", "goal": "MAXIMIZE"},
    ),
    (
        "baseline",
        {
            "key": "a",
            "tolerance": -0.5,
            "relative": True,
            "goal": "MINIMIZE",
            "required": True,
            "severity": "WARNING",
        },
        {},
    ),
    ("checklist", {}, {"required": False, "severity": "BLOCKING"}),
    ("checklist", {"required": True, "severity": "WARNING"}, {}),
    ("approvals", {}, {"count": 1, "approvers": []}),
    ("approvals", {"count": 2, "approvers": ["a", "b"]}, {}),
    ("artifactDigest", {}, {"severity": "BLOCKING"}),
    ("runCompleted", {"severity": "WARNING"}, {}),
    ("noOpenDrift", {}, {"fromSeverity": "HIGH", "severity": "BLOCKING"}),
    ("evidenceAge", {"maxDays": 0.5}, {"severity": "BLOCKING"}),
    (
        "automaticApproval",
        {"key": "loss", "betterBy": 0.02, "tolerance": 0.01},
        {"goal": "MINIMIZE"},
    ),
    (
        "automaticApproval",
        {"key": "a", "betterBy": 0.02, "tolerance": 0.01, "goal": "MINIMIZE"},
        {},
    ),
]


async def test_each_kind_of_rule_is_taken_and_shown_as_it_can_be_sent_again(
    graph: Graph, unique: str
) -> None:
    await a_version(graph, unique)

    for kind, given, more in RULES:
        made = (await set_policy(graph, unique, [{kind: given}]))["stagePolicy"]
        (rule,) = made["rules"]
        assert rule["kind"].replace("_", "") == kind.upper()
        assert rule["parameters"] == {**given, **more}
        assert rule["description"].endswith((".", ")"))
        again = await set_policy(graph, unique, [{kind: rule["parameters"]}])
        assert again["stagePolicy"] == made


@pytest.mark.parametrize(
    ("rule", "path", "message"),
    [
        (
            {"metric": {"key": "a"}},
            "metric",
            "give a lower bound, an upper bound or both, as finite numbers",
        ),
        ({"datasetFact": {"key": "a"}}, "datasetFact", "give a lower bound"),
        ({"hyperparameter": {"key": "a", "atLeast": None}}, "hyperparameter", "give a lower bound"),
        (
            {"metric": {"key": "a", "atLeast": 2, "atMost": 1}},
            "metric",
            "the lower bound must not be above the upper one",
        ),
        ({"metric": {"key": "", "atLeast": 1}}, "metric.key", "must not be empty"),
        ({"baseline": {"key": "a\nb", "tolerance": 1}}, "baseline.key", "must be a single line"),
        ({"approvals": {"count": 0}}, "approvals.count", "greater than or equal to 1"),
        ({"approvals": {"count": 21}}, "approvals.count", "less than or equal to 20"),
        (
            {"approvals": {"count": 2, "approvers": ["a", "a"]}},
            "approvals",
            "there must be at least as many approvers as approvals",
        ),
        ({"approvals": {"approvers": ["a", " "]}}, "approvals.approvers.1", "must not be empty"),
        ({"evidenceAge": {"maxDays": 0}}, "evidenceAge.maxDays", "greater than 0"),
        ({"evidenceAge": {"maxDays": 36_501}}, "evidenceAge.maxDays", "less than or equal to"),
    ],
)
async def test_a_rule_that_makes_no_sense_is_refused_where_it_stands(
    graph: Graph, unique: str, rule: Json, path: str, message: str
) -> None:
    await a_version(graph, unique)
    before = await in_force(graph, unique)

    refused = await set_policy(graph, unique, [ACCURACY, {"checklist": {}}, rule])

    assert (refused["__typename"], refused["path"]) == (
        "InvalidInput",
        ["rules", "2", *path.split(".")],
    )
    assert message in refused["message"]
    assert await in_force(graph, unique) == before


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([{"checklist": {}}] * 2, "A policy has one rule CHECKLIST at most."),
        ([{"approvals": {}}, {"approvals": {"count": 2}}], "A policy has one rule APPROVALS at "
         "most."),
        ([{"automaticApproval": {"key": k, "betterBy": 0, "tolerance": 0}} for k in "ab"],
         "A policy has one rule AUTOMATIC_APPROVAL at most."),
        ([ACCURACY] * 101, "rules: Tuple should have at most 100 items after validation, not "
         "101"),
    ],
)  # fmt: skip
async def test_rules_that_do_not_go_together_are_refused(
    graph: Graph, unique: str, rules: list[Json], message: str
) -> None:
    await a_version(graph, unique)

    refused = await set_policy(graph, unique, rules)

    assert (refused["__typename"], refused["path"]) == ("InvalidInput", ["rules"])
    assert refused["message"] == message


async def test_the_general_policy_cannot_follow_itself(graph: Graph) -> None:
    refused = await graph.mutate("setStagePolicy", {"stage": "PRODUCTION"}, **ADMIN)

    assert refused == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": "The general policy needs rules; none is [].",
        "path": ["rules"],
    }


@pytest.mark.parametrize("rule", [{}, {"metric": None}, {"checklist": {}, "runCompleted": {}}])
async def test_a_rule_is_exactly_one_of_its_kinds(graph: Graph, unique: str, rule: Json) -> None:
    error = await graph.error(
        "mutation ($input: SetStagePolicyInput!) { setStagePolicy(input: $input) { __typename } }",
        {"input": {"stage": "PRODUCTION", "modelName": unique, "rules": [rule]}},
    )

    assert error["extensions"] == {"code": "INVALID_INPUT"}
