"""How versions compare, on plain values."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifecycle.registry.rules import (
    MetricComparison,
    ParamComparison,
    changed,
    compare_metrics,
    compare_params,
    completed,
    goal_of,
    usual_goal,
)
from lifecycle.runs.rules import MetricGoal

MORE, LESS = MetricGoal.MAXIMIZE, MetricGoal.MINIMIZE


@pytest.mark.parametrize(
    ("key", "goal"),
    [
        ("accuracy", MORE),
        ("val_f1", MORE),
        ("roc-auc", MORE),
        ("r2", MORE),
        ("F1Score", MORE),
        ("score", MORE),
        ("uptime", MORE),
        ("explained_variance", MORE),
        ("loss", LESS),
        ("valLoss", LESS),
        ("mae", LESS),
        ("RMSE", LESS),
        ("log_loss", LESS),
        ("cross-entropy", LESS),
        ("error_rate", LESS),
        ("latency_ms", LESS),
        ("p99LatencyMs", LESS),
        ("inference_time_ms", LESS),
        ("false_positive_rate", LESS),
        ("false_negative_rate", LESS),
        ("true_negative_rate", MORE),
        ("val_loss", LESS),
        ("test/RMSE", LESS),
        ("eval.mean_absolute_error", LESS),
        ("latency-ms", LESS),
        ("training_time", LESS),
        ("model_size", LESS),
        ("nll", LESS),
        # scikit-learn's scorers: of a negated error, more is better.
        ("neg_mean_squared_error", MORE),
        ("val/neg_log_loss", MORE),
        ("negative_log_likelihood", LESS),
        ("log_likelihood", MORE),
        ("recall_neg", MORE),
        ("neg_recall", MORE),
        # The last word that says something decides.
        ("accuracy_loss", LESS),
        ("accuracy_std", LESS),
        ("drift_detection_accuracy", MORE),
        ("cost_savings", MORE),
        # After "at" and "per" comes the measure.
        ("recall_at_fpr", MORE),
        ("recall@fpr=0.1", MORE),
        ("ndcg@10", MORE),
        ("timeout_rate", LESS),
        ("tokens_per_second", MORE),
        ("ms_per_token", LESS),
        # What has no words says nothing either.
        ("", MORE),
        ("42", MORE),
        ("потери", MORE),
        # Parts of words say nothing.
        ("lossless_ratio", MORE),
        ("timeliness", MORE),
        ("terms", MORE),
    ],
)
def test_the_words_of_a_name_say_whether_more_or_less_is_better(key: str, goal: MetricGoal) -> None:
    assert usual_goal(key) is goal


def test_what_the_model_says_goes_before_the_name() -> None:
    goals = {"loss": MORE, "churn": LESS}

    assert [goal_of(key, goals) for key in ("loss", "churn", "val_loss", "accuracy")] == [
        MORE,
        LESS,
        LESS,
        MORE,
    ]
    (found,) = compare_metrics([{"churn": 2.0}, {"churn": 1.0}], 0, goals)
    assert (found.goal, found.best) == (LESS, 1)


@pytest.mark.parametrize(
    ("given", "logged", "both"),
    [
        ((None, None), ("sha256:a", 1), ("sha256:a", 1)),
        ((None, None), (None, 0), (None, 0)),
        (("sha256:a", None), ("sha256:a", 1), ("sha256:a", 1)),
        (("sha256:a", None), (None, 1), ("sha256:a", 1)),
        ((None, 1), ("sha256:a", 1), ("sha256:a", 1)),
        ((None, 1), ("sha256:a", None), ("sha256:a", 1)),
        # It was another file.
        (("sha256:b", None), ("sha256:a", 1), ("sha256:b", None)),
        ((None, 0), ("sha256:a", 1), (None, 0)),
    ],
)
def test_digest_and_size_are_completed_from_the_same_file_only(
    given: tuple[str | None, int | None],
    logged: tuple[str | None, int | None],
    both: tuple[str | None, int | None],
) -> None:
    assert completed(given, logged) == both


def test_what_changed_is_told_apart_from_what_stayed() -> None:
    assert changed({"a": 1, "b": 2, "c": 3}, {"b": 2, "c": 4, "d": 5}) == (
        {"a": 1, "c": 3},
        {"c": 4, "d": 5},
    )
    assert changed({"a": "nan"}, {"a": "nan"}) == ({}, {})


def test_each_metric_has_its_differences_to_the_baseline_and_its_best() -> None:
    versions = [{"accuracy": 0.5, "loss": 2.0}, {"accuracy": 0.75, "loss": 1.5}, {"accuracy": 0.25}]

    assert compare_metrics(versions, 0) == [
        MetricComparison("accuracy", MORE, [0.5, 0.75, 0.25], [0.0, 0.25, -0.25], 1),
        MetricComparison("loss", LESS, [2.0, 1.5, None], [0.0, -0.5, None], 1),
    ]
    assert compare_metrics(versions, 1) == [
        MetricComparison("accuracy", MORE, [0.5, 0.75, 0.25], [-0.25, 0.0, -0.5], 1),
        MetricComparison("loss", LESS, [2.0, 1.5, None], [0.5, 0.0, None], 1),
    ]
    assert [found.differences for found in compare_metrics(versions, 2)] == [
        [0.25, 0.5, 0.0],
        [None, None, None],
    ]


def test_of_equals_the_first_is_the_best() -> None:
    (found,) = compare_metrics([{"loss": 2.0}, {"loss": 1.0}, {"loss": 1.0}], 0)

    assert found.best == 1


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_has_no_value_no_difference_and_is_never_the_best(
    number: float,
) -> None:
    versions = [{"loss": 2.0, "score": number}, {"loss": number, "score": number}]

    assert compare_metrics(versions, 0) == [
        MetricComparison("loss", LESS, [2.0, None], [0.0, None], 0),
        MetricComparison("score", MORE, [None, None], [None, None], None),
    ]
    assert compare_metrics(versions, 1)[0].differences == [None, None]


def test_versions_without_metrics_compare_to_nothing() -> None:
    assert compare_metrics([{}, {}], 0) == []
    assert compare_params([{}, {}]) == []


@given(
    values=st.lists(st.none() | st.floats(), min_size=1, max_size=8),
    baseline=st.integers(0, 7),
    key=st.sampled_from(["loss", "accuracy"]),
)
def test_the_best_is_finite_and_nothing_is_better(
    values: list[float | None], baseline: int, key: str
) -> None:
    versions = [{} if value is None else {key: value} for value in values]
    baseline %= len(values)

    for found in compare_metrics(versions, baseline):
        finite = [value for value in values if value is not None and math.isfinite(value)]
        assert len(found.values) == len(found.differences) == len(values)
        assert [value for value in found.values if value is not None] == finite
        assert found.differences[baseline] in (0, None)
        if found.best is None:
            assert finite == []
        else:
            best = max(finite) if key == "accuracy" else min(finite)
            assert found.values[found.best] == best
            assert best not in found.values[: found.best]


@pytest.mark.parametrize(
    ("versions", "values", "differs"),
    [
        ([{"p": "1"}, {"p": 1}], ["1", "1"], False),
        ([{"p": 1}, {"p": 1.0}], ["1", "1.0"], True),
        ([{"p": True}, {"p": None}], ["true", "null"], True),
        ([{"p": "a"}, {}], ["a", None], True),
        ([{"p": {"b": 1, "a": [2]}}, {"p": {"a": [2], "b": 1}}], ['{"a": [2], "b": 1}'] * 2, False),
        ([{"p": "héllo"}, {"p": ["héllo"]}], ["héllo", '["héllo"]'], True),
        ([{"p": "same"}], ["same"], False),
    ],
)
def test_parameters_compare_as_text(
    versions: list[dict[str, Any]], values: list[str | None], differs: bool
) -> None:
    assert compare_params(versions) == [ParamComparison("p", values, differs)]


def test_parameters_come_in_order_of_their_keys() -> None:
    found = compare_params([{"b": "1", "a": "1"}, {"c": "1"}])

    assert [param.key for param in found] == ["a", "b", "c"]
