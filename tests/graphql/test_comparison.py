"""Versions side by side."""

from typing import Any

import pytest

import schema.registry
from tests.client import Graph, Json
from tests.factories import a_run, a_version, a_version_in

COMPARE = """
query ($model: String!, $versions: [String!]!, $baseline: String, $goals: [MetricGoalInput!]) {
  compareModelVersions(
    modelName: $model, versions: $versions, baseline: $baseline, goals: $goals
  ) {
    versions { version modelName }
    metrics { key goal values differences best }
    params { key values differs }
  }
}"""


async def compare(graph: Graph, model: str, *versions: str, baseline: str | None = None) -> Json:
    variables = {"model": model, "versions": versions, "baseline": baseline}
    found: Json = (await graph.query(COMPARE, variables))["compareModelVersions"]
    return found


async def refusal(graph: Graph, model: str, *versions: str, baseline: str | None = None) -> Any:
    """Message and extensions of the only error."""
    variables = {"model": model, "versions": versions, "baseline": baseline}
    answer = await graph.answer(COMPARE, variables)
    assert answer["data"] is None
    (error,) = answer["errors"]
    return error["message"], error["extensions"]


def metrics(**values: float) -> list[Json]:
    return [{"key": key, "value": value} for key, value in values.items()]


async def test_metrics_and_parameters_of_versions_stand_side_by_side(
    graph: Graph, unique: str
) -> None:
    run = await a_run(
        graph,
        unique,
        params=[{"key": "depth", "value": "3"}, {"key": "seed", "value": "7"}],
        metrics=metrics(accuracy=0.5, val_loss=2),
    )
    # Metrics of its run; parameters of its run, over which its own win.
    await a_version(graph, unique, runId=run, hyperparameters={"depth": 4, "rates": [0.5]})
    await a_version(
        graph, unique, metrics=metrics(accuracy=0.75, val_loss=1), hyperparameters={"seed": 7}
    )
    await a_version(graph, unique)

    assert await compare(graph, unique, "1", "2", "3") == {
        "versions": [{"version": version, "modelName": unique} for version in "123"],
        "metrics": [
            {
                "key": "accuracy",
                "goal": "MAXIMIZE",
                "values": [0.5, 0.75, None],
                "differences": [0, 0.25, None],
                "best": "2",
            },
            {
                "key": "val_loss",
                "goal": "MINIMIZE",
                "values": [2, 1, None],
                "differences": [0, -1, None],
                "best": "2",
            },
        ],
        "params": [
            {"key": "depth", "values": ["4", None, None], "differs": True},
            {"key": "rates", "values": ["[0.5]", None, None], "differs": True},
            {"key": "seed", "values": ["7", "7", None], "differs": True},
        ],
    }
    assert (await compare(graph, unique, "2"))["params"] == [
        {"key": "seed", "values": ["7"], "differs": False}
    ]


async def test_the_order_is_the_callers_and_the_baseline_any_of_the_versions(
    graph: Graph, unique: str
) -> None:
    for value in (1, 2, 4):
        await a_version(graph, unique, metrics=metrics(score=value))

    first = await compare(graph, unique, "3", "1", "2")
    last = await compare(graph, unique, "3", "1", "2", baseline="2")

    assert [version["version"] for version in first["versions"]] == ["3", "1", "2"]
    assert first["metrics"][0]["values"] == last["metrics"][0]["values"] == [4, 1, 2]
    assert first["metrics"][0]["differences"] == [0, -3, -2]
    assert last["metrics"][0]["differences"] == [2, -1, 0]


async def test_what_is_better_says_the_caller_else_the_model_else_the_name(
    graph: Graph, unique: str
) -> None:
    await a_version(graph, unique, metrics=metrics(churn=2, lift=2, loss=2, recall=2))
    await a_version(graph, unique, metrics=metrics(churn=1, lift=1, loss=1, recall=1))
    of_model = [{"key": "churn", "goal": "MINIMIZE"}, {"key": "lift", "goal": "MINIMIZE"}]
    input = {"name": unique, "metricGoals": of_model}
    await graph.done("updateModel", input, "model { id }")

    variables = {
        "model": unique,
        "versions": ["1", "2"],
        "goals": [{"key": "lift", "goal": "MAXIMIZE"}],
    }
    found = (await graph.query(COMPARE, variables))["compareModelVersions"]

    assert [(metric["key"], metric["goal"], metric["best"]) for metric in found["metrics"]] == [
        ("churn", "MINIMIZE", "2"),
        ("lift", "MAXIMIZE", "1"),
        ("loss", "MINIMIZE", "2"),
        ("recall", "MAXIMIZE", "1"),
    ]


async def test_each_goal_is_given_once(graph: Graph, unique: str) -> None:
    await a_version(graph, unique)
    goals = [{"key": "lift", "goal": goal} for goal in ("MAXIMIZE", "MINIMIZE")]

    error = await graph.error(COMPARE, {"model": unique, "versions": ["1"], "goals": goals})

    assert error["message"] == "Name each metric once."
    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["goals"]}


async def test_whoever_changes_the_goals_of_a_model_does_not_turn_its_policy_round(
    graph: Graph, unique: str
) -> None:
    """Neither before nor after it is set: a CONTRIBUTOR may change them."""
    await a_version_in(graph, unique, "PRODUCTION", metrics=metrics(churn=0.5))
    less = await a_version(graph, unique, metrics=metrics(churn=0.25))
    more = await a_version(graph, unique, metrics=metrics(churn=0.75))

    async def set_goal(goal: str) -> None:
        goals = [{"key": "churn", "goal": goal}]
        await graph.done("updateModel", {"name": unique, "metricGoals": goals}, "model { id }")

    async def set_policy(**goal: str) -> str:
        rules: list[Json] = [{"runCompleted": {"severity": "INFO"}}]
        rules += [{"baseline": {"key": "churn", "tolerance": 0, **goal}}]
        policy = {"stage": "PRODUCTION", "modelName": unique, "rules": rules}
        made = await graph.mutate(
            "setStagePolicy",
            policy,
            "stagePolicy { rules { parameters } }",
            **{"Lifecycle-Actor": "admin"},
        )
        if made["__typename"] == "InvalidInput":
            assert made["path"] == ["rules", "1"]
            return str(made["message"])
        return str(made["stagePolicy"]["rules"][1]["parameters"]["goal"])

    async def passes(version: Json) -> bool:
        input = {"modelVersion": {"id": version["id"]}}
        report = await graph.done("validateModelVersion", input, "report { passed }")
        return bool(report["passed"])

    assert await set_policy() == "MAXIMIZE"
    await set_goal("MINIMIZE")
    assert [await passes(less), await passes(more)] == [False, True]
    assert (await compare(graph, unique, "1", "2", "3"))["metrics"][0]["best"] == "2"
    assert await set_policy() == (
        "Give the goal of churn: by its name it is MAXIMIZE, but the model says MINIMIZE."
    )
    assert await set_policy(goal="MINIMIZE") == "MINIMIZE"
    await set_goal("MAXIMIZE")
    assert [await passes(less), await passes(more)] == [True, False]


async def test_of_equally_good_versions_the_first_that_was_named_is_the_best(
    graph: Graph, unique: str
) -> None:
    for _ in range(2):
        await a_version(graph, unique, metrics=metrics(loss=1))

    assert (await compare(graph, unique, "1", "2"))["metrics"][0]["best"] == "1"
    assert (await compare(graph, unique, "2", "1"))["metrics"][0]["best"] == "2"


async def test_what_is_not_finite_or_missing_has_no_value_and_is_never_the_best(
    graph: Graph, unique: str
) -> None:
    await a_version(graph, unique, metrics=[{"key": "loss", "kind": "NAN"}])
    await a_version(graph, unique, metrics=[{"key": "loss", "kind": "NEGATIVE_INFINITY"}])
    await a_version(graph, unique, metrics=metrics(loss=5))
    await a_version(graph, unique)

    (mixed,) = (await compare(graph, unique, "1", "2", "3", "4", baseline="3"))["metrics"]
    (empty,) = (await compare(graph, unique, "1", "2"))["metrics"]

    assert mixed == {
        "key": "loss",
        "goal": "MINIMIZE",
        "values": [None, None, 5, None],
        "differences": [None, None, 0, None],
        "best": "3",
    }
    assert empty == {
        "key": "loss",
        "goal": "MINIMIZE",
        "values": [None, None],
        "differences": [None, None],
        "best": None,
    }


async def test_a_difference_beyond_all_numbers_is_none(graph: Graph, unique: str) -> None:
    for value in (-1.7e308, 1.7e308):
        await a_version(graph, unique, metrics=metrics(score=value))

    (found,) = (await compare(graph, unique, "1", "2"))["metrics"]

    assert found["values"] == [-1.7e308, 1.7e308]
    assert found["differences"] == [0, None]
    assert found["best"] == "2"


async def test_an_unknown_version_model_or_deleted_version_is_not_found(
    graph: Graph, unique: str
) -> None:
    await a_version(graph, unique)
    gone = await a_version(graph, unique)
    await graph.done(
        "deleteModelVersion", {"modelVersion": {"id": gone["id"]}}, "modelVersion { id }"
    )
    extensions = {"code": "NOT_FOUND", "argument": ["versions"]}

    assert await refusal(graph, unique, "1", "7") == (
        f"There is no version 7 of model {unique}.",
        extensions,
    )
    assert await refusal(graph, unique, "1", "2") == (
        f"There is no version 2 of model {unique}.",
        extensions,
    )
    assert await refusal(graph, f"{unique}-x", "1") == (
        f"There is no version 1 of model {unique}-x.",
        extensions,
    )


@pytest.mark.parametrize(
    "versions",
    [[], ["1", "1"], [str(n) for n in range(51)]],
    ids=["none", "twice the same", "fifty-one"],
)
async def test_one_to_fifty_versions_are_compared_each_once(
    graph: Graph, unique: str, versions: list[str]
) -> None:
    await a_version(graph, unique)

    assert await refusal(graph, unique, *versions) == (
        "Name 1 to 50 versions, each once.",
        {"code": "INVALID_INPUT", "argument": ["versions"]},
    )


async def test_fifty_versions_are_compared(graph: Graph, unique: str) -> None:
    names = [f"v{n}" for n in range(50)]
    for n, name in enumerate(names):
        await a_version(graph, unique, version=name, metrics=metrics(score=n))

    found = await compare(graph, unique, *names, baseline="v49")

    assert found["metrics"] == [
        {
            "key": "score",
            "goal": "MAXIMIZE",
            "values": list(range(50)),
            "differences": list(range(-49, 1)),
            "best": "v49",
        }
    ]


async def test_the_baseline_must_be_one_of_the_versions(graph: Graph, unique: str) -> None:
    await a_version(graph, unique)
    await a_version(graph, unique)

    assert await refusal(graph, unique, "1", baseline="2") == (
        "The baseline must be one of the versions.",
        {"code": "INVALID_INPUT", "argument": ["baseline"]},
    )


async def test_comparing_names_no_text_can_break(graph: Graph, unique: str) -> None:
    for name in ("", "\x00", "x" * 1_000_000, "'; --"):
        message, extensions = await refusal(graph, unique, name)
        assert extensions["code"] in ("NOT_FOUND", "INVALID_INPUT")
        assert len(message) < 1_000
        message, extensions = await refusal(graph, name, "1")
        assert extensions["code"] in ("NOT_FOUND", "INVALID_INPUT")
        assert len(message) < 1_000


async def test_so_many_values_are_compared_and_no_more(
    graph: Graph, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given two metrics and three parameters, of two versions
    await a_version(graph, unique, metrics=metrics(a=1, b=2), hyperparameters={"x": 1, "y": 2})
    await a_version(graph, unique, metrics=metrics(b=1), hyperparameters={"y": 1, "z": 2})

    monkeypatch.setattr(schema.registry, "MAX_VALUES_COMPARED", 10)
    assert len((await compare(graph, unique, "1", "2"))["params"]) == 3

    monkeypatch.setattr(schema.registry, "MAX_VALUES_COMPARED", 9)
    [error] = (await graph.answer(COMPARE, {"model": unique, "versions": ["1", "2"]}))["errors"]
    assert error["extensions"] == {
        "code": "LIMIT_EXCEEDED",
        "name": "compared",
        "limit": 9,
        "value": 10,
    }
