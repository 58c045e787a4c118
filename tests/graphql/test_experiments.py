"""Experiments, over GraphQL."""

import asyncio
from datetime import datetime

import pytest

from tests.client import Graph, Json
from tests.factories import a_run

STATE = (
    "experiment { description owner status tags { key value } revision "
    "completedAt durationSeconds createdAt updatedAt }"
)


async def create(graph: Graph, name: str, **input: object) -> Json:
    return await graph.done("createExperiment", {"name": name, **input}, STATE)


async def update(graph: Graph, name: str, **input: object) -> Json:
    return await graph.done("updateExperiment", {"name": name, **input}, STATE)


async def state(graph: Graph, name: str) -> Json:
    found: Json = await graph.query(f"query ($name: String!) {{ {STATE_OF} }}", {"name": name})
    return dict(found["experiment"])


STATE_OF = STATE.replace("experiment {", "experiment(name: $name) {", 1)


async def names(graph: Graph, **filter: object) -> list[str]:
    """The names that match a filter, in alphabetical order."""
    found = await graph.query(
        "query ($filter: ExperimentFilter) { experiments(filter: $filter, first: 100, "
        "orderBy: [{field: NAME}]) { nodes { name } totalCount } }",
        {"filter": filter},
    )
    shown = [node["name"] for node in found["experiments"]["nodes"]]
    assert found["experiments"]["totalCount"] == len(shown)
    return shown


async def test_an_experiment_is_made_and_found_by_its_name(graph: Graph, unique: str) -> None:
    made = await graph.done(
        "createExperiment",
        {"name": unique, "owner": "ada", "tags": [{"key": "team", "value": "vision"}]},
        "experiment { id name owner status revision tags { key value } createdBy }",
    )

    assert made == {
        "id": made["id"],
        "name": unique,
        "owner": "ada",
        "status": "ACTIVE",
        "revision": 1,
        "tags": [{"key": "team", "value": "vision"}],
        "createdBy": "tester",
    }
    found = await graph.query(
        "query ($name: String!, $id: ID!) { experiment(name: $name) { id } "
        "node(id: $id) { __typename id ... on Experiment { name } } }",
        {"name": unique, "id": made["id"]},
    )
    assert found == {
        "experiment": {"id": made["id"]},
        "node": {"__typename": "Experiment", "id": made["id"], "name": unique},
    }


async def test_an_experiment_nobody_made_is_null(graph: Graph, unique: str) -> None:
    found = await graph.query("query ($n: String!) { experiment(name: $n) { id } }", {"n": unique})

    assert found == {"experiment": None}


async def test_a_second_experiment_of_one_name_is_refused_and_changes_nothing(
    graph: Graph, unique: str
) -> None:
    first = await create(graph, unique, owner="ada")

    refused = await graph.mutate("createExperiment", {"name": unique, "owner": "bob"})

    assert refused == {
        "__typename": "AlreadyExists",
        "code": "ALREADY_EXISTS",
        "message": f"There is an experiment {unique}.",
        "path": ["name"],
    }
    assert await state(graph, unique) == first


async def test_names_differ_by_their_capitals(graph: Graph, unique: str) -> None:
    await create(graph, unique)
    await create(graph, unique.upper())

    assert await names(graph, nameContains=unique) == [unique.upper(), unique]


async def test_of_many_that_make_one_experiment_at_once_one_succeeds(
    graph: Graph, unique: str
) -> None:
    results = await asyncio.gather(
        *(graph.mutate("createExperiment", {"name": unique, "owner": f"{n}"}) for n in range(8))
    )

    kinds = sorted(result["__typename"] for result in results)
    assert kinds == ["AlreadyExists"] * 7 + ["CreateExperimentSuccess"]
    assert await names(graph, nameContains=unique) == [unique]


@pytest.mark.parametrize(
    ("input", "path"),
    [
        ({"name": ""}, ["name"]),
        ({"name": " a"}, ["name"]),
        ({"name": "a "}, ["name"]),
        ({"name": "a\nb"}, ["name"]),
        ({"name": "a\u0000b"}, ["name"]),
        ({"name": "n" * 251}, ["name"]),
        ({"owner": ""}, ["owner"]),
        ({"description": "d" * 20_001}, ["description"]),
        ({"description": "\u0000"}, ["description"]),
        ({"tags": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]}, ["tags"]),
        ({"tags": [{"key": "", "value": "1"}]}, ["tags", "0", "key"]),
        ({"tags": [{"key": f"k{n}", "value": ""} for n in range(1_001)]}, ["tags"]),
    ],
)
async def test_what_an_experiment_cannot_be_made_of_is_refused(
    graph: Graph, unique: str, input: Json, path: list[str]
) -> None:
    refused = await graph.mutate("createExperiment", {"name": unique, **input})

    assert refused["__typename"] == "InvalidInput"
    assert refused["code"] == "INVALID_INPUT"
    assert refused["path"] == path
    assert await names(graph, nameContains=unique) == []


async def test_the_longest_name_may_consist_of_any_characters(graph: Graph, unique: str) -> None:
    name = unique + "".join(chr(0x1F300 + n) for n in range(250 - len(unique)))

    await create(graph, name)

    assert await names(graph, nameContains=unique) == [name]


async def test_a_patch_changes_what_it_names(graph: Graph, unique: str) -> None:
    tags = [{"key": "a", "value": "1"}, {"key": "b", "value": "2"}]
    made = await create(graph, unique, description="first", owner="ada", tags=tags)

    changed = await update(graph, unique, owner="bob")

    assert changed == {
        **made,
        "owner": "bob",
        "revision": 2,
        "updatedAt": changed["updatedAt"],
    }
    assert changed["updatedAt"] > made["updatedAt"]
    assert await state(graph, unique) == changed


async def test_null_in_a_patch_clears(graph: Graph, unique: str) -> None:
    await create(graph, unique, description="first", owner="ada")

    changed = await update(graph, unique, description=None, owner=None)

    assert (changed["description"], changed["owner"], changed["revision"]) == (None, None, 2)


async def test_null_for_what_cannot_be_null_is_as_if_left_out(graph: Graph, unique: str) -> None:
    made = await create(graph, unique, tags=[{"key": "a", "value": "1"}])

    assert await update(graph, unique, status=None, tags=None) == made


async def test_tags_are_replaced_as_a_whole(graph: Graph, unique: str) -> None:
    old = [{"key": "a", "value": "1"}, {"key": "b", "value": "2"}]
    await create(graph, unique, tags=old)

    new = [{"key": "c", "value": ""}, {"key": "b", "value": "3"}]
    assert (await update(graph, unique, tags=new))["tags"] == [new[1], new[0]]
    assert (await update(graph, unique, tags=[]))["tags"] == []


async def test_a_patch_that_changes_nothing_leaves_no_trace(graph: Graph, unique: str) -> None:
    tags = [{"key": "a", "value": "1"}]
    made = await create(graph, unique, description="same", owner="ada", tags=tags)

    assert await update(graph, unique) == made
    assert await update(graph, unique, description="same", owner="ada", tags=tags) == made


async def test_an_unknown_experiment_cannot_be_changed(graph: Graph, unique: str) -> None:
    refused = await graph.mutate("updateExperiment", {"name": unique, "owner": "ada"})

    assert refused == {
        "__typename": "NotFound",
        "code": "NOT_FOUND",
        "message": f"There is no experiment {unique}.",
        "path": ["name"],
    }


async def test_a_change_decided_on_an_old_revision_is_refused(graph: Graph, unique: str) -> None:
    await create(graph, unique)
    changed = await update(graph, unique, owner="ada", expectedRevision=1)

    refused = await graph.mutate(
        "updateExperiment", {"name": unique, "owner": "bob", "expectedRevision": 1}
    )

    assert refused == {
        "__typename": "StaleRevision",
        "code": "STALE_REVISION",
        "message": "Revision 1 was expected, but it is 2 now.",
        "path": ["expectedRevision"],
        "currentRevision": 2,
    }
    assert await state(graph, unique) == changed


async def test_of_many_that_decide_on_one_revision_one_succeeds(graph: Graph, unique: str) -> None:
    await create(graph, unique)

    results = await asyncio.gather(
        *(
            graph.mutate(
                "updateExperiment", {"name": unique, "owner": f"{n}", "expectedRevision": 1}
            )
            for n in range(8)
        )
    )

    kinds = [result["__typename"] for result in results]
    winner = kinds.index("UpdateExperimentSuccess")
    assert sorted(kinds) == ["StaleRevision"] * 7 + ["UpdateExperimentSuccess"]
    after = await state(graph, unique)
    assert (after["owner"], after["revision"]) == (f"{winner}", 2)


async def test_an_illegal_change_of_status_is_refused_as_a_whole(graph: Graph, unique: str) -> None:
    made = await create(graph, unique)
    archived = await update(graph, unique, status="ARCHIVED")
    assert archived["status"] == "ARCHIVED"
    assert archived["completedAt"] is made["completedAt"] is None

    refused = await graph.mutate(
        "updateExperiment", {"name": unique, "status": "COMPLETED", "owner": "bob"}
    )

    assert refused == {
        "__typename": "InvalidTransition",
        "code": "INVALID_TRANSITION",
        "message": "ARCHIVED cannot become COMPLETED; allowed next: ACTIVE.",
        "path": ["status"],
        "from": "ARCHIVED",
        "to": "COMPLETED",
        "allowed": ["ACTIVE"],
    }
    assert await state(graph, unique) == archived


async def test_completion_has_a_time_which_archiving_keeps_and_reopening_clears(
    graph: Graph, unique: str
) -> None:
    made = await create(graph, unique)
    assert (made["completedAt"], made["durationSeconds"]) == (None, None)

    completed = await update(graph, unique, status="COMPLETED")
    archived = await update(graph, unique, status="ARCHIVED")
    reopened = await update(graph, unique, status="ACTIVE")

    lasted = datetime.fromisoformat(completed["completedAt"]) - datetime.fromisoformat(
        made["createdAt"]
    )
    assert completed["durationSeconds"] == lasted.total_seconds() > 0
    assert archived["completedAt"] == completed["completedAt"]
    assert archived["durationSeconds"] == completed["durationSeconds"]
    assert (reopened["completedAt"], reopened["durationSeconds"]) == (None, None)
    assert (reopened["status"], reopened["revision"]) == ("ACTIVE", 4)


async def test_experiments_are_filtered_by_owner_and_status(graph: Graph, unique: str) -> None:
    for name, owner in (("a", "ada"), ("b", "ada"), ("c", "bob"), ("d", None)):
        await create(graph, f"{unique}-{name}", owner=owner and f"{owner}-{unique}")
    await update(graph, f"{unique}-b", status="COMPLETED")
    await update(graph, f"{unique}-c", status="ARCHIVED")

    async def found(**filter: object) -> str:
        matching = await names(graph, nameContains=unique, **filter)
        return "".join(name.removeprefix(f"{unique}-") for name in matching)

    assert await found() == "abcd"
    assert await found(owner=f"ada-{unique}") == "ab"
    assert await found(owner=f"ADA-{unique}") == ""
    assert await found(statuses=["COMPLETED"]) == "b"
    assert await found(statuses=["COMPLETED", "ARCHIVED"]) == "bc"
    assert await found(statuses=[]) == "abcd"
    assert await found(owner=f"ada-{unique}", statuses=["ACTIVE"]) == "a"
    assert await found(owner=f"bob-{unique}", statuses=["ACTIVE"]) == ""


async def test_part_of_a_name_is_found_as_it_stands(graph: Graph, unique: str) -> None:
    made = [f"{unique}/50%", f"{unique}/5_0", f"{unique}/500", f"{unique}/A\\b"]
    for name in made:
        await create(graph, name)

    async def found(part: str) -> list[str]:
        return await names(graph, nameContains=f"{unique}{part}")

    assert await found("/") == sorted(made)
    assert await found("/50%") == [made[0]]
    assert await found("/5_0") == [made[1]]
    assert await found("/50") == [made[0], made[2]]
    assert await found("%") == []
    assert await found("_") == []
    assert await found("/a\\B") == [made[3]]
    assert await names(graph, nameContains=f"{unique.upper()}/50%") == [made[0]]


async def test_capitals_of_all_alphabets_are_found_by_their_small_letters(
    graph: Graph, unique: str
) -> None:
    await create(graph, f"{unique} ÜBUNG")

    assert await names(graph, nameContains=f"{unique} übung") == [f"{unique} ÜBUNG"]


async def test_experiments_are_ordered_as_asked(graph: Graph, unique: str) -> None:
    for name in "bac":
        await create(graph, f"{unique}-{name}")
    await update(graph, f"{unique}-b", owner="ada")

    async def found(order: str) -> str:
        answer = await graph.query(
            f"query ($filter: ExperimentFilter) {{ experiments(filter: $filter{order}) "
            "{ nodes { name } } }",
            {"filter": {"nameContains": unique}},
        )
        return "".join(node["name"][-1] for node in answer["experiments"]["nodes"])

    assert await found("") == "cab"
    assert await found(", orderBy: [{field: CREATED_AT}]") == "bac"
    assert await found(", orderBy: [{field: UPDATED_AT}]") == "acb"
    assert await found(", orderBy: [{field: UPDATED_AT, direction: DESC}]") == "bca"
    assert await found(", orderBy: [{field: NAME}]") == "abc"
    assert await found(", orderBy: [{field: NAME, direction: DESC}]") == "cba"


async def test_an_experiment_shows_its_runs_and_how_many_there_are(
    graph: Graph, unique: str
) -> None:
    first = await a_run(graph, unique, name="first")
    second = await a_run(graph, unique, name="second", status="COMPLETED")
    await create(graph, f"{unique}-empty")

    found = await graph.query(
        "query ($filter: ExperimentFilter) { experiments(filter: $filter, orderBy: {field: NAME})"
        "{ nodes { runCount runs { totalCount nodes { id experiment { runCount } } }"
        " done: runs(filter: {statuses: [COMPLETED]}) { totalCount nodes { id } } } } }",
        {"filter": {"nameContains": unique}},
    )

    assert found["experiments"]["nodes"] == [
        {
            "runCount": 2,
            "runs": {
                "totalCount": 2,
                "nodes": [
                    {"id": second, "experiment": {"runCount": 2}},
                    {"id": first, "experiment": {"runCount": 2}},
                ],
            },
            "done": {"totalCount": 1, "nodes": [{"id": second}]},
        },
        {
            "runCount": 0,
            "runs": {"totalCount": 0, "nodes": []},
            "done": {"totalCount": 0, "nodes": []},
        },
    ]


async def test_the_best_run_is_the_one_with_the_best_finite_latest_value(
    graph: Graph, unique: str
) -> None:
    def accuracy(*values: float) -> list[Json]:
        return [{"key": "accuracy", "value": value, "step": n} for n, value in enumerate(values)]

    good = await a_run(graph, unique, metrics=accuracy(0.1, 0.8))
    # Was better once, but what counts is its last word.
    worse = await a_run(graph, unique, metrics=accuracy(0.9, 0.5))
    for kind in ("NAN", "POSITIVE_INFINITY", "NEGATIVE_INFINITY"):
        await a_run(graph, unique, metrics=[{"key": "accuracy", "kind": kind}])
    await a_run(graph, unique, metrics=[{"key": "loss", "value": 5}])
    other = await a_run(graph, f"{unique}-other", metrics=accuracy(0.3))
    await a_run(graph, f"{unique}-third", metrics=[{"key": "accuracy", "kind": "NAN"}])

    found = await graph.query(
        """query ($filter: ExperimentFilter) {
          experiments(filter: $filter, orderBy: {field: NAME}) { nodes {
            bestRun(metric: "accuracy") { id metrics(keys: ["accuracy"]) { value } }
            worst: bestRun(metric: "accuracy", goal: MINIMIZE) { id }
            unknown: bestRun(metric: "unknown") { id }
          } } }""",
        {"filter": {"nameContains": unique}},
    )

    assert found["experiments"]["nodes"] == [
        {
            "bestRun": {"id": good, "metrics": [{"value": 0.8}]},
            "worst": {"id": worse},
            "unknown": None,
        },
        {
            "bestRun": {"id": other, "metrics": [{"value": 0.3}]},
            "worst": {"id": other},
            "unknown": None,
        },
        {"bestRun": None, "worst": None, "unknown": None},
    ]


async def test_of_equally_good_runs_it_is_always_the_same_one(graph: Graph, unique: str) -> None:
    same = [{"key": "loss", "value": 0.25}]
    runs = [await a_run(graph, unique, metrics=same) for _ in range(3)]

    found = await graph.query(
        'query ($name: String!) { experiment(name: $name) { most: bestRun(metric: "loss") { id } '
        'least: bestRun(metric: "loss", goal: MINIMIZE) { id } } }',
        {"name": unique},
    )

    assert found["experiment"] == {"most": {"id": runs[-1]}, "least": {"id": runs[0]}}


async def test_an_experiment_gathers_the_artifacts_of_its_runs(graph: Graph, unique: str) -> None:
    model = {"name": "model", "path": "s3://m", "sizeBytes": 2**40, "digest": "sha256:1"}
    plot = {"name": "plot", "path": "plot.png", "sizeBytes": None, "digest": None}
    await a_run(graph, unique, artifacts=[model])
    await a_run(graph, unique, artifacts=[plot])
    await a_run(graph, f"{unique}-other", artifacts=[{"name": "other", "path": "other"}])

    found = await graph.query(
        "query ($name: String!) { experiment(name: $name) "
        "{ artifacts { name path sizeBytes digest } } }",
        {"name": unique},
    )

    assert found["experiment"]["artifacts"] == [plot, model]


async def test_an_experiment_gathers_the_newest_lines_of_its_runs(
    graph: Graph, unique: str
) -> None:
    runs = [await a_run(graph, unique), await a_run(graph, unique)]
    for n in range(6):
        stamp = f"2026-01-01T00:00:0{n}Z"
        lines = [{"message": f"line {n}", "timestamp": stamp}]
        await graph.done("logRunOutput", {"runId": runs[n % 2], "lines": lines}, "run { id }")
    other = await a_run(graph, f"{unique}-other")
    await graph.done("logRunOutput", {"runId": other, "lines": [{"message": "o"}]}, "run { id }")

    async def found(argument: str) -> list[tuple[int, str]]:
        answer = await graph.query(
            f"query ($n: String!) {{ experiment(name: $n) {{ logs{argument} "
            "{ line message } } }",
            {"n": unique},
        )
        return [(line["line"], line["message"]) for line in answer["experiment"]["logs"]]

    every = [(n // 2 + 1, f"line {n}") for n in range(6)]
    assert await found("") == every
    assert await found("(last: 3)") == every[3:]
    assert await found("(last: 1)") == every[5:]


@pytest.mark.parametrize("last", [0, -1, 1_001])
async def test_the_number_of_lines_is_bounded(graph: Graph, unique: str, last: int) -> None:
    await create(graph, unique)

    error = await graph.error(
        "query ($name: String!, $last: Int!) { experiment(name: $name) { logs(last: $last) "
        "{ line } } }",
        {"name": unique, "last": last},
    )

    assert error["message"] == "Ask for 1 to 1,000 lines."
    assert error["extensions"] == {"code": "INVALID_INPUT", "argument": ["last"]}
