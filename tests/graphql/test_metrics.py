"""Metrics, over GraphQL: points written in columns, latest values, histories for plots."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select

from lifecycle.journal.tables import EventRow
from lifecycle.runs import metrics
from schema import ids
from tests.client import Graph, Json
from tests.conftest import Live
from tests.factories import a_run
from tests.statements import read, written

BIGGEST = 2**63 - 1


def moment(second: int) -> str:
    """A time, as the service writes it."""
    return f"2026-01-01T00:{second // 60:02}:{second % 60:02}+00:00"


async def log(graph: Graph, run: str, *series: Json) -> Json:
    return await graph.mutate("logMetrics", {"runId": run, "series": series}, "run { id }")


async def logged(graph: Graph, run: str, *series: Json) -> None:
    assert (await log(graph, run, *series))["__typename"] == "LogMetricsSuccess"


async def latest(graph: Graph, run: str) -> dict[str, list[object]]:
    """By key: value, kind, step."""
    found = await graph.query(
        "query ($id: ID!) { run(id: $id) { metrics { key value kind step } } }", {"id": run}
    )
    return {key: rest for key, *rest in (metric.values() for metric in found["run"]["metrics"])}


async def histories(
    graph: Graph, run: str, *keys: str, points: int = 10_000
) -> dict[str, dict[str, Any]]:
    """By key: steps, values, timestamps, totalPoints."""
    found = await graph.query(
        "query ($id: ID!, $keys: [String!]!, $points: Int!) { run(id: $id) { "
        "metricHistory(keys: $keys, maxPoints: $points) "
        "{ key steps values timestamps totalPoints } } }",
        {"id": run, "keys": keys, "points": points},
    )
    return {series.pop("key"): series for series in found["run"]["metricHistory"]}


async def history(graph: Graph, run: str, key: str) -> list[tuple[int, float | None]]:
    """Steps and values of one metric."""
    found = await histories(graph, run, key)
    if not found:
        return []
    series = found[key]
    assert len(series["steps"]) == len(series["timestamps"]) == series["totalPoints"]
    return list(zip(series["steps"], series["values"], strict=True))


async def test_points_come_in_columns_and_the_latest_of_each_key_is_shown(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)

    await logged(
        graph,
        run,
        {"key": "loss", "steps": [0, 1, 2], "values": [0.9, 0.5, 0.25]},
        {"key": "acc", "steps": [1], "values": [0.5], "timestamps": [moment(1)]},
    )

    found = await graph.query(
        "query ($id: ID!) { run(id: $id) { metrics { key value kind step timestamp } "
        'some: metrics(keys: ["acc", "unknown", "acc"]) { key } none: metrics(keys: []) { key } '
        "lastReportedAt } }",
        {"id": run},
    )
    assert found["run"] == {
        "metrics": [
            {"key": "acc", "value": 0.5, "kind": "FINITE", "step": 1, "timestamp": moment(1)},
            {
                "key": "loss",
                "value": 0.25,
                "kind": "FINITE",
                "step": 2,
                "timestamp": found["run"]["metrics"][1]["timestamp"],
            },
        ],
        "some": [{"key": "acc"}],
        "none": [],
        "lastReportedAt": found["run"]["lastReportedAt"],
    }
    assert await history(graph, run, "loss") == [(0, 0.9), (1, 0.5), (2, 0.25)]


async def test_ten_thousand_points_go_in_one_call_and_are_one_event(
    graph: Graph, live: Live, unique: str
) -> None:
    run = await a_run(graph, unique)
    steps = list(range(5_000))

    await logged(
        graph,
        run,
        {"key": "loss", "steps": steps, "values": [1 / (n + 1) for n in steps]},
        {"key": "rate", "steps": steps, "values": [0.5] * 5_000},
    )

    assert await latest(graph, run) == {
        "loss": [1 / 5_000, "FINITE", 4_999],
        "rate": [0.5, "FINITE", 4_999],
    }
    assert await history(graph, run, "loss") == [(n, 1 / (n + 1)) for n in steps]
    async with live.database.read() as session:
        found = await session.fetch(
            select(EventRow.after).where(
                EventRow.subject_id == ids.decode("Run", run),
                EventRow.type == "run.metrics_logged",
            )
        )
        (after,) = found
    assert after is not None
    assert after["points"] == 10_000
    assert after["steps"] == {"loss": [0, 4_999], "rate": [0, 4_999]}
    assert [plain[:3] for plain in after["metrics"]] == [
        ["loss", 1 / 5_000, 4_999],
        ["rate", 0.5, 4_999],
    ]


async def test_more_than_ten_thousand_points_are_refused_as_a_whole(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)

    refused = await log(
        graph,
        run,
        {"key": "a", "steps": list(range(5_000)), "values": [1] * 5_000},
        {"key": "b", "steps": list(range(5_001)), "values": [1] * 5_001},
    )

    assert refused == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": "must not have more than 10,000 points in all",
        "path": [],
    }
    assert await latest(graph, run) == {}


@pytest.mark.parametrize(
    "columns",
    [
        {"steps": [0, 1], "values": [1]},
        {"steps": [0], "values": [1, 2]},
        {"steps": [0], "values": []},
        {"steps": [0], "values": [1], "timestamps": []},
        {"steps": [0], "values": [1], "timestamps": [moment(0), moment(1)]},
        {"steps": [0, 1], "values": [1, 2], "kinds": ["FINITE"]},
    ],
)
async def test_columns_of_unequal_length_are_refused_as_a_whole(
    graph: Graph, unique: str, columns: Json
) -> None:
    run = await a_run(graph, unique)

    refused = await log(
        graph, run, {"key": "good", "steps": [0], "values": [1]}, {"key": "bad", **columns}
    )

    assert refused == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": "series.1: steps, values, kinds and timestamps must be equally long",
        "path": ["series", "1"],
    }
    assert await latest(graph, run) == {}


@pytest.mark.parametrize(
    "columns",
    [
        {"values": [None]},
        {"values": [None], "kinds": ["FINITE"]},
        {"values": [1], "kinds": ["NAN"]},
        {"values": [1], "kinds": ["POSITIVE_INFINITY"]},
        {"values": [1], "kinds": ["NEGATIVE_INFINITY"]},
    ],
)
async def test_a_point_has_a_value_or_a_kind_and_not_both(
    graph: Graph, unique: str, columns: Json
) -> None:
    run = await a_run(graph, unique)

    refused = await log(graph, run, {"key": "bad", "steps": [0], **columns})

    assert refused == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": "series.0: give a value, or a kind other than FINITE, not both",
        "path": ["series", "0"],
    }
    single = {name: column[0] for name, column in columns.items()}
    metric = {"key": "bad", "value": single["values"], "kind": single.get("kinds")}
    refused = await graph.mutate("updateRun", {"id": run, "metrics": [metric]})
    assert refused == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": "metrics.0: give a value, or a kind other than FINITE, not both",
        "path": ["metrics", "0"],
    }
    assert await latest(graph, run) == {}


async def test_numbers_that_are_not_finite_come_back_as_their_kind(
    graph: Graph, unique: str
) -> None:
    kinds = ["NAN", "POSITIVE_INFINITY", "NEGATIVE_INFINITY"]
    run = await a_run(graph, unique, metrics=[{"key": f"begun {k}", "kind": k} for k in kinds])

    for kind in kinds:
        await logged(
            graph,
            run,
            {
                "key": f"logged {kind}",
                "steps": [0, 1, 2],
                "values": [1.5, None, None],
                "kinds": ["FINITE", kind, kind],
            },
        )

    for kind in kinds:
        assert await history(graph, run, f"logged {kind}") == [(0, 1.5), (1, None), (2, None)]
        assert await history(graph, run, f"begun {kind}") == [(0, None)]
    assert await latest(graph, run) == {
        **{f"begun {kind}": [None, kind, 0] for kind in kinds},
        **{f"logged {kind}": [None, kind, 2] for kind in kinds},
    }


async def test_a_number_that_is_not_finite_is_replaced_by_itself_and_by_others(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)
    nan = {"key": "loss", "steps": [3], "values": [None], "kinds": ["NAN"]}

    await logged(graph, run, nan)
    await logged(graph, run, nan)
    assert await latest(graph, run) == {"loss": [None, "NAN", 3]}
    await logged(graph, run, {"key": "loss", "steps": [3], "values": [0.5]})

    assert await latest(graph, run) == {"loss": [0.5, "FINITE", 3]}
    assert await history(graph, run, "loss") == [(3, 0.5)]


@pytest.mark.parametrize("times", [None, [moment(0), moment(1), moment(1), moment(9)]])
async def test_what_is_sent_again_is_there_once(
    graph: Graph, unique: str, times: list[str] | None
) -> None:
    run = await a_run(graph, unique)
    series = {"key": "loss", "steps": [0, 1, 2, 3], "values": [4, 3, 2, 1], "timestamps": times}
    await logged(graph, run, series)
    once = await histories(graph, run, "loss")

    await logged(graph, run, series)
    await asyncio.gather(*(logged(graph, run, series) for _ in range(4)))

    assert await histories(graph, run, "loss") == once
    assert once["loss"]["totalPoints"] == 4
    assert await latest(graph, run) == {"loss": [1, "FINITE", 3]}


async def test_a_first_call_that_is_sent_several_times_at_once_is_there_once(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)
    series = {"key": "loss", "steps": list(range(500)), "values": [0.5] * 500}

    await asyncio.gather(*(logged(graph, run, series) for _ in range(5)))

    assert await history(graph, run, "loss") == [(n, 0.5) for n in range(500)]


async def test_what_overlaps_replaces_and_adds(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique)
    await logged(graph, run, {"key": "loss", "steps": [0, 1, 2], "values": [9, 8, 7]})

    await logged(graph, run, {"key": "loss", "steps": [1, 2, 3], "values": [8, 6, 5]})

    assert await history(graph, run, "loss") == [(0, 9), (1, 8), (2, 6), (3, 5)]
    assert await latest(graph, run) == {"loss": [5, "FINITE", 3]}


async def test_the_latest_is_the_highest_step_in_whichever_order_points_arrive(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)

    await logged(graph, run, {"key": "loss", "steps": [5, 9, 7], "values": [0.5, 0.9, 0.7]})
    await logged(graph, run, {"key": "loss", "steps": [8, 2], "values": [0.8, 0.2]})
    assert await latest(graph, run) == {"loss": [0.9, "FINITE", 9]}
    await logged(graph, run, {"key": "loss", "steps": [-3], "values": [0.3]})
    assert await latest(graph, run) == {"loss": [0.9, "FINITE", 9]}
    await logged(graph, run, {"key": "loss", "steps": [10, 4], "values": [1.0, 0.4]})

    assert await latest(graph, run) == {"loss": [1, "FINITE", 10]}
    steps = [-3, 2, 4, 5, 7, 8, 9, 10]
    assert [step for step, _ in await history(graph, run, "loss")] == steps


async def test_values_of_one_step_are_told_apart_by_their_times(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique)

    def at(second: int, value: float) -> Json:
        return {"key": "loss", "steps": [1], "values": [value], "timestamps": [moment(second)]}

    await logged(graph, run, at(30, 0.3))
    await logged(graph, run, at(20, 0.2))
    assert await latest(graph, run) == {"loss": [0.3, "FINITE", 1]}
    await logged(graph, run, at(30, 0.4))
    await logged(graph, run, at(10, 0.1))

    found = await histories(graph, run, "loss")
    assert found["loss"] == {
        "steps": [1, 1, 1],
        "values": [0.1, 0.2, 0.4],
        "timestamps": [moment(10), moment(20), moment(30)],
        "totalPoints": 3,
    }
    assert await latest(graph, run) == {"loss": [0.4, "FINITE", 1]}


async def test_a_point_without_a_time_replaces_the_newest_of_its_step(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)
    times = [moment(1), moment(2)]
    await logged(graph, run, {"key": "a", "steps": [1, 1], "values": [1, 2], "timestamps": times})

    await logged(graph, run, {"key": "a", "steps": [1], "values": [3]})

    assert (await histories(graph, run, "a"))["a"] == {
        "steps": [1, 1],
        "values": [1, 3],
        "timestamps": times,
        "totalPoints": 2,
    }


async def test_all_points_may_be_at_step_0_if_they_have_times(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique)
    times = [moment(n) for n in range(100)]
    series = {"key": "a", "steps": [0] * 100, "values": list(range(100)), "timestamps": times}

    await logged(graph, run, series)
    await logged(graph, run, series)

    assert (await histories(graph, run, "a"))["a"] == {
        "steps": [0] * 100,
        "values": list(range(100)),
        "timestamps": times,
        "totalPoints": 100,
    }
    assert await latest(graph, run) == {"a": [99, "FINITE", 0]}


async def test_without_times_the_last_point_of_a_step_is_the_one_that_stays(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)
    series = {"key": "a", "steps": [0] * 1_000, "values": list(range(1_000))}

    await logged(graph, run, series)
    assert await history(graph, run, "a") == [(0, 999)]
    await logged(graph, run, series)
    await logged(
        graph,
        run,
        {"key": "a", "steps": [0], "values": [5]},
        {"key": "a", "steps": [0], "values": [6]},
    )

    assert await history(graph, run, "a") == [(0, 6)]


async def test_steps_may_be_as_large_as_64_bits_allow(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique)
    steps = [-BIGGEST - 1, -1, 0, 2**53 + 1, BIGGEST]

    await logged(graph, run, {"key": "a", "steps": steps, "values": [1, 2, 3, 4, 5]})

    assert await history(graph, run, "a") == list(zip(steps, [1, 2, 3, 4, 5], strict=True))
    assert await latest(graph, run) == {"a": [5, "FINITE", BIGGEST]}


@pytest.mark.parametrize("step", ["-9223372036854775809", "9223372036854775808", "1.5", '"1"'])
async def test_a_step_is_an_integer_of_64_bits(graph: Graph, unique: str, step: str) -> None:
    run = await a_run(graph, unique)

    error = await graph.error(
        f'mutation {{ logMetrics(input: {{runId: "{run}", series: '
        f'[{{key: "a", steps: [{step}], values: [1]}}]}}) {{ __typename }} }}'
    )

    assert error["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
    assert "BigInt" in error["message"]
    series = [{"key": "a", "steps": [1e30], "values": [1]}]
    error = await graph.error(
        "mutation ($input: LogMetricsInput!) { logMetrics(input: $input) { __typename } }",
        {"input": {"runId": run, "series": series}},
    )
    assert error["extensions"]["code"] == "INVALID_INPUT"
    assert await latest(graph, run) == {}


@pytest.mark.parametrize("value", ["1e400", "-1e400", "NaN", "Infinity", '"1"', "true"])
async def test_a_value_is_a_finite_number_in_json(graph: Graph, unique: str, value: str) -> None:
    run = await a_run(graph, unique)
    query = "mutation ($input: LogMetricsInput!) { logMetrics(input: $input) { __typename } }"
    series = f'[{{"key": "a", "steps": [0], "values": [{value}]}}]'

    response = await graph.http.post(
        "/graphql",
        content=f'{{"query": "{query}", "variables": '
        f'{{"input": {{"runId": "{run}", "series": {series}}}}}}}',
        headers={"content-type": "application/json"},
    )

    assert response.status_code in (400, 422)
    (error,) = response.json()["errors"]
    assert error["extensions"]["code"] in ("BAD_REQUEST", "INVALID_INPUT")
    assert await latest(graph, run) == {}


async def test_a_value_may_be_as_large_or_small_as_a_double(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique)
    values = [1.7976931348623157e308, -1.7976931348623157e308, 5e-324, 0.1 + 0.2]

    await logged(graph, run, {"key": "a", "steps": [0, 1, 2, 3], "values": values})

    assert await history(graph, run, "a") == list(enumerate(values))


@pytest.mark.parametrize("key", ["", " a", "a\nb", "k" * 251, "a\u0000"])
async def test_a_key_is_a_name(graph: Graph, unique: str, key: str) -> None:
    run = await a_run(graph, unique)

    refused = await log(graph, run, {"key": key, "steps": [0], "values": [1]})

    assert (refused["__typename"], refused["path"]) == ("InvalidInput", ["series", "0", "key"])
    assert await latest(graph, run) == {}


async def test_a_call_without_points_is_a_sign_of_life(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique)
    before = await graph.query("query ($i: ID!) { run(id: $i) { lastReportedAt } }", {"i": run})

    await logged(graph, run)
    await logged(graph, run, {"key": "a", "steps": [], "values": []})

    after = await graph.query("query ($i: ID!) { run(id: $i) { lastReportedAt } }", {"i": run})
    assert after["run"]["lastReportedAt"] > before["run"]["lastReportedAt"]
    assert await latest(graph, run) == {}


async def test_metrics_of_what_is_no_run_are_refused(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique)
    experiment = await graph.query(
        "query ($i: ID!) { run(id: $i) { experiment { id } } }", {"i": run}
    )
    unknown = ids.encode("Run", ids.decode("Experiment", experiment["run"]["experiment"]["id"]))

    assert await log(graph, unknown, {"key": "a", "steps": [0], "values": [1]}) == {
        "__typename": "NotFound",
        "code": "NOT_FOUND",
        "message": "There is no run with this id.",
        "path": ["runId"],
    }
    assert await log(graph, experiment["run"]["experiment"]["id"]) == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": "This is the id of a Experiment; that of a Run is needed.",
        "path": ["runId"],
    }
    assert await log(graph, "nonsense") == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": "This is not an id that this service gave.",
        "path": ["runId"],
    }


async def test_two_writers_of_one_run_neither_block_each_other_for_good_nor_lose_anything(
    graph: Graph, unique: str
) -> None:
    run = await a_run(graph, unique)
    keys = [f"metric {n:02}" for n in range(20)]

    async def write(order: list[str], offset: int) -> None:
        for batch in range(6):
            steps = [20 * batch + 2 * n + offset for n in range(10)]
            await logged(
                graph, run, *({"key": key, "steps": steps, "values": steps} for key in order)
            )

    await asyncio.gather(write(keys, 0), write(keys[::-1], 1))

    found = await histories(graph, run, *keys)
    expected = list(range(120))
    assert {key: series["steps"] for key, series in found.items()} == dict.fromkeys(keys, expected)
    assert await latest(graph, run) == {key: [119, "FINITE", 119] for key in keys}


async def test_twenty_writers_of_twenty_runs_lose_nothing(graph: Graph, unique: str) -> None:
    runs = [await a_run(graph, unique) for _ in range(20)]

    async def write(run: str) -> None:
        for batch in range(4):
            steps = list(range(100 * batch, 100 * batch + 100))
            await logged(
                graph,
                run,
                {"key": "a", "steps": steps, "values": steps},
                {"key": "b", "steps": steps, "values": steps},
            )

    await asyncio.gather(*(write(run) for run in runs))

    found = await graph.query(
        "query ($name: String!) { experiment(name: $name) { runs { nodes { "
        'metricHistory(keys: ["a", "b"], maxPoints: 2) { key steps totalPoints } } } } }',
        {"name": unique},
    )
    expected = [{"key": key, "steps": [0, 399], "totalPoints": 400} for key in "ab"]
    assert found["experiment"]["runs"]["nodes"] == [{"metricHistory": expected}] * 20


async def test_the_number_of_statements_does_not_depend_on_the_number_of_points(
    graph: Graph, live: Live, unique: str
) -> None:
    run = await a_run(graph, unique)

    with written(live.database) as few:
        await logged(graph, run, {"key": "a", "steps": [0], "values": [1]})
    with written(live.database) as many:
        steps = list(range(500))
        series = [{"key": f"{n}", "steps": steps, "values": steps} for n in range(20)]
        await logged(graph, run, *series)

    assert many == few
    assert sum("metric_point" in sent for sent in many) == 1


@pytest.mark.parametrize(
    ("total", "points"),
    [(1, 2), (2, 2), (3, 2), (1_000, 2), (5, 4), (7, 5), (100, 7), (101, 11), (1_000, 1_000)],
)
async def test_a_history_is_sampled_evenly_from_the_first_point_to_the_last(
    graph: Graph, unique: str, total: int, points: int
) -> None:
    # Steps are uneven, because it is rows that are sampled.
    run = await a_run(graph, unique)
    steps = [n * n for n in range(total)]
    await logged(graph, run, {"key": "a", "steps": steps, "values": list(range(total))})

    series = (await histories(graph, run, "a", points=points))["a"]

    rows = [int(value) for value in series["values"]]
    assert series["totalPoints"] == total
    assert series["steps"] == [n * n for n in rows]
    assert len(rows) == min(total, points)
    assert (rows[0], rows[-1]) == (0, total - 1)
    gaps = {later - earlier for earlier, later in pairwise(rows)}
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


async def test_histories_of_several_metrics_and_runs_come_in_one_statement(
    graph: Graph, live: Live, unique: str
) -> None:
    runs = [await a_run(graph, unique) for _ in range(3)]
    for n, run in enumerate(runs):
        steps = list(range(10 + n))
        await logged(graph, run, {"key": "a", "steps": steps, "values": steps})
    await logged(graph, runs[1], {"key": "b", "steps": [7], "values": [0.5]})

    with read(live.database) as sent:
        found = await graph.query(
            "query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Run { "
            'metricHistory(keys: ["b", "a", "unknown", "b"], maxPoints: 4) '
            "{ key steps values totalPoints } } } }",
            {"ids": runs},
        )

    def sampled(total: int, *steps: int) -> Json:
        return {"key": "a", "steps": [*steps], "values": [*steps], "totalPoints": total}

    single = {"key": "b", "steps": [7], "values": [0.5], "totalPoints": 1}
    assert found["nodes"] == [
        {"metricHistory": [sampled(10, 0, 3, 6, 9)]},
        {"metricHistory": [sampled(11, 0, 4, 7, 10), single]},
        {"metricHistory": [sampled(12, 0, 4, 8, 11)]},
    ]
    assert sum("metric_point" in statement for statement, _ in sent) == 1


async def test_points_of_one_metric_are_read_as_columns_in_one_row(
    graph: Graph, live: Live, unique: str
) -> None:
    run = await a_run(graph, unique)
    for key in ("a", "b"):
        await logged(graph, run, {"key": key, "steps": list(range(50)), "values": [0.5] * 50})

    async with live.database.read() as session:
        rows = await session.fetch(
            metrics._HISTORY,
            {"run_ids": [ids.decode("Run", run)], "keys": ["a", "b"], "points": 50},
        )

    assert [(row[1], row[2], row[3], row[5]) for row in rows] == [
        (key, list(range(50)), [0.5] * 50, 50) for key in ("a", "b")
    ]


@pytest.mark.parametrize(
    ("arguments", "argument", "message"),
    [
        ({"keys": ["a"], "points": 1}, "maxPoints", "Ask for 2 to 10,000 points."),
        ({"keys": ["a"], "points": 10_001}, "maxPoints", "Ask for 2 to 10,000 points."),
        (
            {"keys": [f"{n}" for n in range(101)], "points": 2},
            "keys",
            "Ask for at most 100 metrics.",
        ),
    ],
)
async def test_a_history_is_bounded(
    graph: Graph, unique: str, arguments: Json, argument: str, message: str
) -> None:
    run = await a_run(graph, unique)

    error = await graph.error(
        "query ($id: ID!, $keys: [String!]!, $points: Int!) { run(id: $id) { "
        "metricHistory(keys: $keys, maxPoints: $points) { key } } }",
        {"id": run, **arguments},
    )

    assert error["message"] == message
    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": [argument]}
