"""What the client of MLflow promises, held by real servers of both lines, and its failures."""

import asyncio
import base64
import math
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, TypeVar

import httpx
import orjson
import pytest
import pytest_asyncio

from lifecycle.tracking import client as module
from lifecycle.tracking.client import (
    AlreadyThere,
    Client,
    Dataset,
    Denied,
    File,
    Missing,
    MlflowError,
    Model,
    Point,
    Refused,
    Run,
    Unreachable,
    named,
)
from lifecycle.tracking.rules import file_url
from tests.client import PATIENCE
from tests.tracking.conftest import Mlflow, an_mlflow
from tests.tracking.faults import Faults

T = TypeVar("T")

NOBODY = "f" * 32
"""The id of a run that is not there."""


@pytest_asyncio.fixture
async def client(any_mlflow: Mlflow) -> AsyncIterator[Client]:
    """A client of each line of MLflow in turn."""
    opened = Client(any_mlflow.url)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def troubled(faults: Faults) -> AsyncIterator[Client]:
    """A client of the newest MLflow on whose way things go wrong."""
    opened = Client(faults.url)
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def experiment(client: Client, unique: str) -> str:
    """The id of an experiment that nobody else has."""
    return await client.create_experiment(unique, {})


@pytest_asyncio.fixture
async def run(client: Client, experiment: str) -> str:
    """The id of a run that nobody else has."""
    return await client.create_run(experiment, "first", 1_700_000_000_000, {})


@pytest_asyncio.fixture
async def model(client: Client, unique: str) -> str:
    """The name of a registered model that nobody else has."""
    await client.create_model(unique, "", {})
    return unique


async def all_of(pages: AsyncIterator[list[T]]) -> list[T]:
    """What is on all pages."""
    return [one async for page in pages for one in page]


async def there(mlflow: Mlflow, path: str, body: object, method: str = "POST") -> None:
    """Do something in MLflow that the client has no method for."""
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=PATIENCE) as http:
        address = f"{mlflow.url}/api/2.0/mlflow/{path}"
        (await http.request(method, address, json=body)).raise_for_status()


def failing(error: type[MlflowError], said: str) -> "pytest.RaisesExc[MlflowError]":
    """Exactly this kind of failure, in one short line."""

    def check(raised: MlflowError) -> bool:
        line = str(raised)
        return isinstance(raised, error) and len(line) <= 500 and line.splitlines() == [line]

    return pytest.RaisesExc(MlflowError, match=said, check=check)


# Where it is.


@pytest.mark.parametrize(
    ("given", "uri"),
    [
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("http://MLflow:5000//", "http://mlflow:5000"),
        ("https://host/Under/a/Path/", "https://host/Under/a/Path"),
        ("https://user:pass%40word@host:1", "https://host:1"),
        ("http://[::1]:5000", "http://[::1]:5000"),
    ],
)
async def test_a_server_is_known_by_its_address_alone(given: str, uri: str) -> None:
    opened = Client(given)

    assert opened.uri == uri
    assert opened.run_url("3", "ab") == f"{uri}/#/experiments/3/runs/ab"
    await opened.close()


@pytest.mark.parametrize(
    "given",
    [
        "",
        "databricks",
        "file:///mlruns",
        "sqlite:///mlflow.db",
        "mlflow:5000",
        "http://",
        "http://host:port",
        "http://host:99999",
        "http://host/?workspace=1",
        "http://host/#/models",
        "http://user@host",
        "http://[::1",
    ],
)
def test_what_is_no_server_s_address_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"^MLflow's URI "):
        Client(given)


def test_credentials_are_not_in_what_is_said_of_a_bad_address() -> None:
    with pytest.raises(ValueError, match=r"^MLflow's URI ") as refused:
        Client("http://user:secret@host:port")

    assert "secret" not in str(refused.value)


async def test_links_are_pages_that_mlflow_has(client: Client, run: str) -> None:
    await client.write_text(run, "plots/a b.txt", "héllo")
    experiment = (await client.run(run)).experiment_id

    assert client.experiment_url(experiment) == f"{client.uri}/#/experiments/{experiment}"
    assert client.run_url(experiment, run) == f"{client.uri}/#/experiments/{experiment}/runs/{run}"
    assert client.model_url("a b") == f"{client.uri}/#/models/a%20b"
    assert client.version_url("a/b", "3") == f"{client.uri}/#/models/a%2Fb/versions/3"
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=PATIENCE) as http:
        assert (await http.get(f"{client.uri}/")).is_success
        assert (await http.get(file_url(client.uri, run, "plots/a b.txt"))).text == "héllo"


async def test_the_version_is_what_the_server_says(any_mlflow: Mlflow, client: Client) -> None:
    version = await client.server_version()

    assert version.startswith(f"{any_mlflow.line}.")


def test_mlflow_is_not_imported_before_it_is_asked() -> None:
    code = "import sys, schema.app, lifecycle.tracking.client; sys.exit('mlflow' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Experiments.


async def test_an_experiment_is_made_changed_and_found(client: Client, unique: str) -> None:
    id = await client.create_experiment(unique, {"team": "ranking"})
    await client.set_experiment_tag(id, "mlflow.note.content", "Ümläute\nand lines")
    await client.set_experiment_tag(id, "team", "search")
    await client.rename_experiment(id, f"{unique}-2")

    found = await client.experiment(id)

    assert found.name == f"{unique}-2"
    assert not found.deleted
    assert found.updated_at is not None
    assert found.tags == {"team": "search", "mlflow.note.content": "Ümläute\nand lines"}
    assert await client.experiment_named(f"{unique}-2") == found
    assert await client.experiment_named(unique) is None
    assert found in await all_of(client.experiments())


async def test_an_experiment_s_tag_is_removed_or_empty_where_mlflow_cannot(
    any_mlflow: Mlflow, client: Client, unique: str
) -> None:
    id = await client.create_experiment(unique, {"a": "1", "b": "2"})

    await client.delete_experiment_tag(id, "a")
    await client.delete_experiment_tag(id, "a")

    emptied = {"a": ""} if any_mlflow.line == "2" else {}
    assert (await client.experiment(id)).tags == {"b": "2"} | emptied


async def test_experiments_that_are_not_there_are_missing(client: Client) -> None:
    for asked in (
        client.experiment("999999999"),
        client.set_experiment_tag("999999999", "a", "b"),
        client.rename_experiment("999999999", "other"),
        client.create_run("999999999", "run", 1, {}),
    ):
        with failing(Missing, "No Experiment with id=999999999"):
            await asked


async def test_a_name_is_taken_by_a_deleted_experiment_too(
    any_mlflow: Mlflow, client: Client, experiment: str, unique: str
) -> None:
    other = await client.create_experiment(f"{unique}-other", {})
    with failing(AlreadyThere, f"{unique}.* already exists"):
        await client.create_experiment(unique, {})

    await there(any_mlflow, "experiments/delete", {"experiment_id": experiment})

    with failing(AlreadyThere, f"{unique}.* already exists"):
        await client.create_experiment(unique, {})
    with failing(AlreadyThere, f"{unique}.* already exists"):
        await client.rename_experiment(other, unique)
    holder = await client.experiment_named(unique)
    assert holder is not None
    assert (holder.id, holder.deleted) == (experiment, True)


async def test_a_deleted_experiment_is_seen_but_missing_for_changes_until_it_is_restored(
    any_mlflow: Mlflow, client: Client, experiment: str, run: str, unique: str
) -> None:
    await there(any_mlflow, "experiments/delete", {"experiment_id": experiment})

    assert (await client.experiment(experiment)).deleted
    assert experiment in [e.id for e in await all_of(client.experiments()) if e.deleted]
    assert (await client.run(run)).deleted
    for asked in (
        client.create_run(experiment, "run", 1, {}),
        client.set_experiment_tag(experiment, "a", "b"),
        client.rename_experiment(experiment, f"{unique}-2"),
        client.log(run, [Point("loss", 1, 1, 1)], {}, {}),
    ):
        with failing(Missing, "active"):
            await asked

    await there(any_mlflow, "experiments/restore", {"experiment_id": experiment})

    assert not (await client.experiment(experiment)).deleted
    assert not (await client.run(run)).deleted


# Runs.


async def test_a_run_has_all_that_was_logged(client: Client, experiment: str) -> None:
    id = await client.create_run(experiment, "first", 1_700_000_000_000, {"lifecycle.id": "abc"})
    await client.log(
        id,
        [Point("loss", 0.5, 1, 1000), Point("loss", 0.25, 2, 2000), Point("f1", -1e-9, -3, 0)],
        {"lr": "0.1", "empty": ""},
        {"team": "ränking"},
    )
    await client.update_run(id, "FINISHED", 1_700_000_005_000, "second")

    found = await client.run(id)

    assert found == Run(
        id=id,
        experiment_id=experiment,
        name="second",
        status="FINISHED",
        started_at=1_700_000_000_000,
        ended_at=1_700_000_005_000,
        deleted=False,
        artifact_uri=f"mlflow-artifacts:/{experiment}/{id}/artifacts",
        params={"lr": "0.1", "empty": ""},
        tags={"lifecycle.id": "abc", "team": "ränking", "mlflow.runName": "second"},
        metrics={"loss": Point("loss", 0.25, 2, 2000), "f1": Point("f1", -1e-9, -3, 0)},
        datasets=(),
    )
    assert await all_of(client.runs([experiment])) == [found]
    assert await client.find_run(experiment, "abc") == [found]
    assert await client.find_run(experiment, "other") == []


async def test_a_run_without_a_start_has_none_and_what_is_not_given_stays(
    client: Client, experiment: str
) -> None:
    id = await client.create_run(experiment, "first", None, {})
    await client.update_run(id, "FINISHED", 5000, None)
    await client.update_run(id, "RUNNING", None, None)

    found = await client.run(id)

    assert (found.started_at, found.ended_at) == (None, 5000)
    assert (found.name, found.status) == ("first", "RUNNING")


async def test_a_run_s_tag_is_removed_once_and_for_all(client: Client, run: str) -> None:
    await client.log(run, [], {}, {"a": "1", "b": "2"})

    await client.delete_run_tag(run, "a")
    await client.delete_run_tag(run, "a")

    assert (await client.run(run)).tags == {"b": "2", "mlflow.runName": "first"}


async def test_a_data_set_is_there_once(client: Client, run: str) -> None:
    census = Dataset("census", "d1", "http", '{"url": "https://x"}', '{"rows": 3}', "training")
    plain = Dataset("plain", "d2", "local", "{}", None, None)
    for dataset in (census, plain, census):
        await client.log_dataset(run, dataset)

    found = (await client.run(run)).datasets

    assert sorted(found, key=lambda dataset: dataset.name) == [census, plain]


async def test_runs_that_are_not_there_are_missing(client: Client) -> None:
    for asked in (
        client.run(NOBODY),
        client.update_run(NOBODY, "FAILED", None, None),
        client.log(NOBODY, [Point("loss", 1, 1, 1)], {}, {}),
        client.delete_run_tag(NOBODY, "a"),
        client.files(NOBODY),
        client.write_text(NOBODY, "a", "b"),
        client.log_dataset(NOBODY, Dataset("a", "b", "c", "d", None, None)),
    ):
        with failing(Missing, f"Run with id={NOBODY} not found"):
            await asked
    assert await all_of(client.runs(["999999999"])) == []


async def test_a_deleted_run_is_seen_only_if_asked_for_until_it_is_restored(
    any_mlflow: Mlflow, client: Client, experiment: str, run: str
) -> None:
    await client.log(run, [], {}, {"lifecycle.id": "abc"})
    await there(any_mlflow, "runs/delete", {"run_id": run})

    assert (await client.run(run)).deleted
    assert await all_of(client.runs([experiment])) == []
    assert [r.id for r in await all_of(client.runs([experiment], deleted=True))] == [run]
    assert [r.deleted for r in await client.find_run(experiment, "abc")] == [True]
    for asked in (
        client.log(run, [Point("loss", 1, 1, 1)], {}, {}),
        client.update_run(run, "FAILED", None, None),
        client.delete_run_tag(run, "lifecycle.id"),
    ):
        with failing(Missing, "Current state is deleted"):
            await asked

    await there(any_mlflow, "runs/restore", {"run_id": run})

    assert not (await client.run(run)).deleted


async def test_runs_come_on_pages_and_filtered(
    client: Client, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAGE", 2)
    made = [await client.create_run(experiment, f"r{n}", 1000 + n, {}) for n in range(5)]
    await client.update_run(made[3], "FAILED", 9000, None)

    pages = [[run.id for run in page] async for page in client.runs([experiment])]
    failed = await all_of(client.runs([experiment], "attributes.status = 'FAILED'"))

    assert pages == [made[0:2], made[2:4], made[4:]]
    assert [run.id for run in failed] == [made[3]]
    with failing(Refused, "Invalid"):
        await all_of(client.runs([experiment], "nonsense !!"))


async def test_experiments_come_on_pages(
    client: Client, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAGE", 2)
    made = [await client.create_experiment(f"{unique}-{n}", {}) for n in range(5)]

    pages = [[found.id for found in page] async for page in client.experiments()]

    assert {len(page) for page in pages[:-1]} == {2}
    assert [id for page in pages for id in page if id in made] == made


# Metrics, parameters and tags, in numbers.


async def test_numbers_that_are_not_finite_come_back_as_they_went(client: Client, run: str) -> None:
    points = [
        Point("x", math.inf, 1, 10),
        Point("x", -math.inf, 2, 20),
        Point("x", 1e308, 3, 30),
        Point("x", 5e-324, 4, 40),
        Point("x", math.nan, 5, 50),
    ]
    await client.log(run, points, {}, {})

    whole = await all_of(client.history(run, "x", None))
    later = await all_of(client.history(run, "x", 1))
    last = (await client.run(run)).metrics["x"]

    # NaN is not equal to itself.
    assert list(map(repr, sorted(whole, key=lambda p: p.step))) == list(map(repr, points))
    assert list(map(repr, sorted(later, key=lambda p: p.step))) == list(map(repr, points))
    assert repr(last) == repr(points[-1])


async def test_as_much_as_there_is_goes_in_as_few_requests_as_mlflow_takes(
    troubled: Client, faults: Faults, unique: str
) -> None:
    experiment = await troubled.create_experiment(unique, {})
    run = await troubled.create_run(experiment, "large", 1, {})
    points = [Point(f"m{n % 3}", n, n, n) for n in range(2345)]
    params = {f"p{n}": str(n) for n in range(234)}
    tags = {f"t{n}": str(n) for n in range(123)}

    await troubled.log(run, points, params, tags)

    # 100 tags; 23 with 100 parameters; 100 more; 34 with 966 points; 1,000; the last 379.
    assert faults.count("runs/log-batch") == 6
    found = await troubled.run(run)
    assert found.params == params
    assert found.tags == tags | {"mlflow.runName": "large"}
    assert found.metrics["m2"] == Point("m2", 2342, 2342, 2342)
    for key in ("m0", "m1", "m2"):
        expected = [point for point in points if point.key == key]
        assert sorted(await all_of(troubled.history(run, key, None)), key=lambda p: p.step) == (
            expected
        )


async def test_a_megabyte_is_the_most_that_goes_in_one_request(client: Client, run: str) -> None:
    params = {f"p{n}": "ü" * 6000 for n in range(99)}
    tags = {f"t{n}": "💡" * 4000 for n in range(60)}
    batches = list(module._batches(run, [], params, tags))

    await client.log(run, [], params, tags)

    assert [len(batch) <= 1_000_000 for batch in batches] == [True] * len(batches)
    # 960 kB of tags and 1,200 kB of parameters.
    assert len(batches) == 3
    assert sum(len(orjson.loads(batch)["params"]) for batch in batches) == 99
    found = await client.run(run)
    assert found.params == params
    assert found.tags == tags | {"mlflow.runName": "first"}


async def test_nothing_to_log_asks_nothing(troubled: Client, faults: Faults) -> None:
    await troubled.log(NOBODY, [], {}, {})

    assert faults.requests == []


async def test_the_same_again_changes_nothing(client: Client, run: str) -> None:
    points = [Point("loss", 0.5, 1, 1000), Point("loss", 0.25, 2, 2000)]
    for _ in range(2):
        await client.log(run, points, {"lr": "0.1"}, {"team": "a"})

    assert sorted(await all_of(client.history(run, "loss", None)), key=lambda p: p.step) == points
    with failing(Refused, "Changing param values is not allowed"):
        await client.log(run, [], {"lr": "0.2"}, {})
    assert (await client.run(run)).params == {"lr": "0.1"}


async def test_what_is_too_long_is_cut_in_silence_or_refused(
    client: Client, experiment: str, run: str, model: str
) -> None:
    await client.log(run, [], {"p": "v" * 7000}, {"t": "v" * 9000})

    found = await client.run(run)
    assert (len(found.params["p"]), len(found.tags["t"])) == (6000, 8000)
    for refused in (
        client.log(run, [], {"k" * 251: "v"}, {}),
        client.log(run, [], {}, {"k" * 251: "v"}),
        client.log(run, [Point("k" * 251, 1, 1, 1)], {}, {}),
        client.set_experiment_tag(experiment, "k", "v" * 20_001),
        client.set_model_tag(model, "k", "v" * 100_001),
        client.set_model_tag(model, "k" * 251, "v"),
    ):
        with failing(Refused, "exceeds the maximum length"):
            await refused
    await client.set_experiment_tag(experiment, "k", "v" * 5000)
    await client.set_model_tag(model, "k", "v" * 5000)
    await client.log(run, [Point("k" * 250, 1, 1, 1)], {"k" * 250: "v"}, {"k" * 250: "v"})


@pytest.mark.parametrize("key", ["a$", "ümlaut%", "a\x00b", "/a", "a/../b", "a//b", ".."])
async def test_keys_that_mlflow_cannot_have_are_refused(client: Client, run: str, key: str) -> None:
    for refused in (
        client.log(run, [], {key: "v"}, {}),
        client.log(run, [Point(key, 1, 1, 1)], {}, {}),
    ):
        with failing(Refused, "Names may|Invalid value"):
            await refused


# Histories.


@pytest.mark.slow
async def test_a_history_comes_from_a_step_on(client: Client, run: str) -> None:
    points = [Point("loss", 1 / n, n, n) for n in range(1, 3501)]
    points += [Point("loss", 9, 3500, 9000), Point("loss", 8, 4_000_000_000, 9001)]
    await client.log(run, [*points, Point("other", 1, 3000, 1)], {}, {})

    for first in (None, -1, 500, 1001, 1002, 3499, 3500, 3501, 4_000_000_000, 4_000_000_001):
        found = await all_of(client.history(run, "loss", first))

        expected = [point for point in points if first is None or point.step >= first]
        assert sorted(found, key=lambda p: (p.step, p.timestamp)) == expected, first


async def test_many_points_at_one_step_are_all_there(client: Client, run: str) -> None:
    points = [Point("loss", n, 0, n) for n in range(3000)]
    await client.log(run, points, {}, {})

    found = await all_of(client.history(run, "loss", 0))

    assert sorted(found, key=lambda p: p.timestamp) == points


async def test_a_few_new_points_are_read_without_the_others(
    troubled: Client, faults: Faults, unique: str
) -> None:
    run = await troubled.create_run(await troubled.create_experiment(unique, {}), "long", 1, {})
    # So many steps apart that MLflow 2 may leave some out.
    await troubled.log(run, [Point("loss", n, n * 100, n) for n in range(3000)], {}, {})

    recent = await all_of(troubled.history(run, "loss", 100_000))

    assert [point.value for point in recent] == list(range(1000, 3000))
    assert faults.count(r"metrics/get-history\?") == 0


async def test_a_long_history_comes_on_pages(
    troubled: Client, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HISTORY_PAGE", 100)
    run = await troubled.create_run(await troubled.create_experiment(unique, {}), "long", 1, {})
    await troubled.log(run, [Point("loss", n, n, n) for n in range(250)], {}, {})

    pages = [[point.step for point in page] async for page in troubled.history(run, "loss", None)]

    assert pages == [list(range(100)), list(range(100, 200)), list(range(200, 250))]


async def test_what_was_never_logged_has_no_history(client: Client, run: str) -> None:
    assert await all_of(client.history(run, "loss", None)) == []
    assert await all_of(client.history(run, "loss", 3)) == []
    assert await all_of(client.history(NOBODY, "loss", None)) == []


# Files.


async def test_files_are_listed_in_all_folders(
    client: Client, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("top.txt", "plots/a b.txt", "plots/deep/ü.txt"):
        await client.write_text(run, path, f"at {path}")
    await client.write_text(run, "top.txt", "anew")
    await client.write_text(run, "empty.txt", "")

    found = await client.files(run)

    assert sorted(found, key=lambda file: file.path) == [
        File("plots/a b.txt", 16),
        File("plots/deep/ü.txt", 20),
        File("top.txt", 4),
    ]
    monkeypatch.setattr(module, "_FILES", 2)
    assert len(await client.files(run)) == 2
    with failing(Refused, "Invalid path"):
        await client.write_text(run, "../out.txt", "x")


# The registry.


async def test_a_model_is_made_changed_and_found(client: Client, unique: str) -> None:
    await client.create_model(unique, "First.", {"team": "a", "gone": "b"})
    await client.update_model(unique, "Second.")
    await client.set_model_tag(unique, "team", "c")
    await client.delete_model_tag(unique, "gone")
    await client.delete_model_tag(unique, "gone")

    found = await client.model(unique)

    assert found == Model(unique, "Second.", {"team": "c"}, {}, found.updated_at)
    assert found in await all_of(client.models())
    with failing(AlreadyThere, f"{unique}.* already exists"):
        await client.create_model(unique, "", {})
    await client.update_model(unique, "")
    assert (await client.model(unique)).description is None


async def test_a_version_is_made_changed_and_found(client: Client, model: str, run: str) -> None:
    source = f"runs:/{run}/model"
    number = await client.create_version(model, source, run, "First.", {"lifecycle.id": "v-1"})
    await client.update_version(model, number, "Second.")
    await client.set_version_tag(model, number, "team", "a")
    await client.set_version_tag(model, number, "gone", "b")
    await client.delete_version_tag(model, number, "gone")
    await client.delete_version_tag(model, number, "gone")
    await client.set_alias(model, "production", number)
    await client.set_alias(model, "champion", number)

    found = await client.version(model, number)

    assert replace(found, created_at=0, updated_at=0) == module.Version(
        model_name=model,
        number="1",
        description="Second.",
        tags={"lifecycle.id": "v-1", "team": "a"},
        aliases=("champion", "production"),
        source=source,
        run_id=run,
        stage="None",
        status="READY",
        created_at=0,
        updated_at=0,
    )
    assert await all_of(client.versions(f"name = '{model}'")) == [found]
    assert await client.find_version(model, "v-1") == [found]
    assert await client.find_version(f"{model}-other", "v-1") == []
    assert (await client.model(model)).aliases == {"champion": "1", "production": "1"}


@pytest.mark.parametrize("name", ["{} o'clock", '{} "best"', "{} `6'2\"`", "{} %_\\ ü"])
async def test_the_versions_of_a_model_are_found_whatever_its_name(
    client: Client, unique: str, name: str
) -> None:
    model = name.format(unique)
    for other in (model, unique):
        await client.create_model(other, "", {})
        await client.create_version(other, "s3://bucket/model", None, "", {})

    found = [v.model_name for v in await all_of(client.versions(named(model)))]

    assert found.count(model) == 1
    # In both kinds of quotes there is no way to write it.
    both = "'" in model and '"' in model
    assert (unique in found) == both


async def test_an_alias_means_one_version(client: Client, model: str) -> None:
    for _ in range(2):
        await client.create_version(model, "s3://bucket/model", None, "", {})
    await client.set_alias(model, "champion", "1")
    await client.set_alias(model, "champion", "2")
    await client.set_alias(model, "gone", "1")
    await client.delete_alias(model, "gone")
    await client.delete_alias(model, "gone")

    found = await all_of(client.versions(f"name = '{model}'"))

    assert [(version.number, version.aliases) for version in found] == [
        ("1", ()),
        ("2", ("champion",)),
    ]
    for alias in ("v1", "latest", "a b", "a/b"):
        with failing(Refused, "reserved|Invalid alias name"):
            await client.set_alias(model, alias, "1")
    with failing(Missing, "not found"):
        await client.set_alias(model, "champion", "3")


async def test_a_stage_of_mlflow_s_is_seen(any_mlflow: Mlflow, client: Client, model: str) -> None:
    await client.create_version(model, "s3://bucket/model", None, "", {})
    await there(
        any_mlflow,
        "model-versions/transition-stage",
        {"name": model, "version": "1", "stage": "Staging", "archive_existing_versions": False},
    )

    assert (await client.version(model, "1")).stage == "Staging"


async def test_models_and_versions_come_on_pages(
    client: Client, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PAGE", 2)
    models = [f"{unique}-{n}" for n in range(3)]
    for name in models:
        await client.create_model(name, "", {})
        for _ in range(3):
            await client.create_version(name, "s3://bucket/model", None, "", {})
        await client.set_alias(name, "champion", "2")

    found_models = await all_of(client.models())
    found = await all_of(client.versions())

    assert [model.name for model in found_models if model.name in models] == models
    assert [
        (version.model_name, version.number, version.aliases)
        for version in found
        if version.model_name in models
    ] == [
        (name, number, ("champion",) if number == "2" else ())
        for name in models
        for number in ("1", "2", "3")
    ]


async def test_models_and_versions_that_are_not_there_are_missing(
    any_mlflow: Mlflow, client: Client, model: str
) -> None:
    nobody = f"{model}-nobody"
    for asked in (
        client.model(nobody),
        client.update_model(nobody, "x"),
        client.set_model_tag(nobody, "a", "b"),
        client.delete_model_tag(nobody, "a"),
        client.version(nobody, "1"),
        client.create_version(nobody, "s3://bucket/model", None, "", {}),
        client.version(model, "1"),
        client.update_version(model, "1", "x"),
        client.set_version_tag(model, "1", "a", "b"),
        client.delete_version_tag(model, "1", "a"),
        client.set_alias(model, "champion", "1"),
    ):
        with failing(Missing, "not found"):
            await asked
    await client.create_version(model, "s3://bucket/model", None, "", {})
    deleted = {"name": model, "version": "1"}
    await there(any_mlflow, "model-versions/delete", deleted, "DELETE")
    with failing(Missing, "not found"):
        await client.version(model, "1")
    assert await all_of(client.versions(f"name = '{model}'")) == []


async def test_prompts_are_no_models(any_mlflow: Mlflow, client: Client, unique: str) -> None:
    prompt = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    text = [*prompt, {"key": "mlflow.prompt.text", "value": "Say {{ it }}."}]
    await there(any_mlflow, "registered-models/create", {"name": unique, "tags": prompt})
    version = {"name": unique, "source": "prompt-template", "tags": text}
    await there(any_mlflow, "model-versions/create", version)

    assert unique not in [model.name for model in await all_of(client.models())]
    assert unique not in [version.model_name for version in await all_of(client.versions())]
    assert await all_of(client.versions("tags.`mlflow.prompt.is_prompt` = 'true'")) == []
    with failing(Missing, f"{unique} is a prompt there"):
        await client.model(unique)
    with failing(AlreadyThere, "taken by a prompt"):
        await client.create_model(unique, "", {})


SOURCES = [
    # source, whose run, what versions 2 and 3 do
    ("runs:/{run}/model", "its own", None, None),
    ("runs:/{run}/model", "another", None, Refused),
    ("runs:/{run}/model", "none", None, Refused),
    ("mlflow-artifacts:/{experiment}/{run}/artifacts/model", "its own", None, None),
    ("mlflow-artifacts:/{experiment}/{run}/artifacts/model", "none", None, Refused),
    ("models:/m-0123456789", "none", Unreachable, Refused),
    ("models:/m-0123456789", "its own", Unreachable, Refused),
    ("s3://bucket/a b", "its own", None, None),
    ("s3://bucket/model", "another", None, None),
    ("gs://bucket/model", "none", None, None),
    ("dbfs:/model", "none", None, None),
    ("ours:/0123", "none", None, None),
    ("ours://0123/4567", "its own", None, None),
    ("ours://0123", "its own", Refused, Refused),
    ("https://host/model", "none", None, Refused),
    ("http://host/model", "its own", None, Refused),
    ("ftp://host/model", "none", None, Refused),
    ("hdfs://host:1/model", "none", None, Refused),
    ("file:///tmp/model", "its own", Refused, Refused),
    ("/tmp/model", "none", Refused, Refused),
    ("model.pkl", "none", Refused, Refused),
    ("s3://bucket/../model", "none", Refused, Refused),
]


@pytest.mark.parametrize(("source", "whose", "in_2", "in_3"), SOURCES)
async def test_sources_are_taken_as_it_is_written_down(
    any_mlflow: Mlflow,
    client: Client,
    model: str,
    run: str,
    source: str,
    whose: str,
    in_2: type[MlflowError] | None,
    in_3: type[MlflowError] | None,
) -> None:
    experiment = (await client.run(run)).experiment_id
    source = source.format(run=run, experiment=experiment)
    run_id = {"its own": run, "another": NOBODY, "none": None}[whose]
    expected = in_2 if any_mlflow.line == "2" else in_3

    if expected is not None:
        with failing(expected, "."):
            await client.create_version(model, source, run_id, "", {})
        assert await all_of(client.versions(f"name = '{model}'")) == []
    else:
        assert await client.create_version(model, source, run_id, "", {}) == "1"
        made = await client.version(model, "1")
        assert (made.source, made.run_id) == (source, run_id)


# What goes wrong.


async def test_nobody_there(troubled: Client, faults: Faults) -> None:
    await faults.refuse()

    with failing(Unreachable, f"^MLflow at {faults.url}: cannot be reached: Connection refused$"):
        await troubled.server_version()

    await faults.accept()
    assert await troubled.server_version()


async def test_no_such_host() -> None:
    opened = Client("http://nobody.invalid:5000")

    with failing(Unreachable, r"^MLflow at http://nobody\.invalid:5000: cannot be reached: "):
        await opened.server_version()
    await opened.close()


async def test_no_answer_in_time(
    troubled: Client, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 1)
    faults.slow(600)

    with failing(Unreachable, f"^MLflow at {faults.url}: no answer within 1 s$"):
        await troubled.model("any")


async def test_an_answer_that_takes_a_while_is_one(troubled: Client, faults: Faults) -> None:
    faults.slow(0.5, times=1)

    assert await troubled.server_version()


@pytest.mark.parametrize(
    ("status", "body", "content_type", "error", "said"),
    [
        (500, "<html>Internal Server Error</html>", "text/html", Unreachable, "answered 500$"),
        (500, '{"error_code": "INTERNAL_ERROR", "message": "Ouch\\nline"}', "application/json",
         Unreachable, "answered 500 Ouch line$"),
        (500, '{"error_code": "INTERNAL_ERROR", "message": "\\u009b2J\\u001b[2J\\u0000"}',
         "application/json", Unreachable, r"answered 500 \\x9b2J\\x1b\[2J\\x00$"),
        (502, "upstream " * 9999, "text/plain", Unreachable, "answered 502 upstream .*…$"),
        (503, "", "text/plain", Unreachable, "answered 503$"),
        (429, "slower", "text/plain", Unreachable, "answered 429 slower$"),
        (408, "", "text/plain", Unreachable, "answered 408$"),
        (401, "You are not authenticated.", "text/plain", Denied,
         r"access denied \(401\) You are not authenticated\.$"),
        (403, '{"error_code": "PERMISSION_DENIED", "message": "No."}', "application/json", Denied,
         r"access denied \(403\) No\.$"),
        (413, "<html>", "text/html", Refused, r"what was sent is too large \(413\)$"),
        (400, '{"error_code": "BAD_REQUEST", "message": "No."}', "application/json", Refused,
         r": No\.$"),
        (400, "<html>", "text/html", Unreachable, "the answer, 400, is not MLflow's$"),
        (404, '{"detail": "Not Found"}', "application/json", Unreachable,
         "the answer, 404, is not MLflow's$"),
        (404, "<html>", "text/html", Unreachable, "the answer, 404, is not MLflow's$"),
        (404, '{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "No."}', "application/json",
         Missing, r": No\.$"),
        (400, '{"error_code": "RESOURCE_ALREADY_EXISTS", "message": "Is."}', "application/json",
         AlreadyThere, r": Is\.$"),
        (200, "<html>Please log in</html>", "text/html", Unreachable, "is not MLflow's$"),
        (200, "", "application/json", Unreachable, "is not MLflow's$"),
        (200, "[]", "application/json", Unreachable, "is not MLflow's$"),
        (200, '{"run": ', "application/json", Unreachable, "is not MLflow's$"),
        (200, '{"status": "ok"}', "application/json", Unreachable, "is not MLflow's$"),
        (200, '{"run": {"info": {}}}', "application/json", Unreachable, "is not MLflow's$"),
        (204, "", "application/json", Unreachable, "the answer, 204, is not MLflow's$"),
        (302, "", "text/html", Unreachable, "the answer, 302, is not MLflow's$"),
    ],
)  # fmt: skip
async def test_each_answer_is_the_failure_that_it_is(
    troubled: Client,
    faults: Faults,
    status: int,
    body: str,
    content_type: str,
    error: type[MlflowError],
    said: str,
) -> None:
    faults.answering(status, body, content_type)

    with failing(error, f"^MLflow at {faults.url}: .*{said.removeprefix(': ')}"):
        await troubled.run(NOBODY)

    # Whether it is tried again is for others to say.
    assert len(faults.requests) == 1


@pytest.mark.parametrize("body", ['{"status": "ok"}', '{"experiments": [{"name": "x"}]}', "null"])
async def test_what_is_not_a_list_of_mlflow_s_is_no_empty_list(
    troubled: Client, faults: Faults, body: str
) -> None:
    faults.answering(200, body, "application/json")

    lists: list[AsyncIterator[list[Any]]] = [
        troubled.experiments(),
        troubled.runs(["0"]),
        troubled.models(),
        troubled.versions(),
        troubled.history(NOBODY, "loss", None),
        troubled.history(NOBODY, "loss", 1),
    ]
    for pages in lists:
        with failing(Unreachable, "is not MLflow's$"):
            await all_of(pages)
    with failing(Unreachable, "is not MLflow's$"):
        await troubled.files(NOBODY)
    with failing(Unreachable, "is not MLflow's$"):
        await troubled.server_version()


async def test_an_empty_page_is_not_the_last_if_another_is_named(
    troubled: Client, faults: Faults, unique: str
) -> None:
    experiment = await troubled.create_experiment(unique, {})
    for n in (1, 2):
        await troubled.create_run(experiment, f"r{n}", n, {})
    asked = {"experiment_ids": [experiment], "max_results": 1}
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=PATIENCE) as http:
        page = (await http.post(f"{faults.url}/api/2.0/mlflow/runs/search", json=asked)).json()
    only_a_token = f'{{"next_page_token": "{page["next_page_token"]}"}}'
    faults.answering(200, only_a_token, "application/json", "runs/search", times=1)

    assert len(await all_of(troubled.runs([experiment]))) == 1

    faults.answering(200, only_a_token, "application/json")
    with failing(Unreachable, "is not MLflow's$"):
        await all_of(troubled.runs([experiment]))


async def test_the_database_behind_mlflow_counts_too(troubled: Client, faults: Faults) -> None:
    faults.answering(500, matching="experiments/search")

    with failing(Unreachable, "answered 500$"):
        await troubled.server_version()


async def test_what_nobody_was_told_of_is_done_once_and_found(
    troubled: Client, faults: Faults, unique: str
) -> None:
    experiment = await troubled.create_experiment(unique, {})
    faults.dropping("runs/create")

    with failing(Unreachable, f"^MLflow at {faults.url}: cannot be reached: "):
        await troubled.create_run(experiment, "first", 1, {"lifecycle.id": "abc"})

    assert faults.count("runs/create") == 1
    assert len(await troubled.find_run(experiment, "abc")) == 1


async def test_what_was_cut_off_before_it_arrived_is_not_done(
    troubled: Client, faults: Faults, unique: str
) -> None:
    experiment = await troubled.create_experiment(unique, {})
    faults.hanging_up("runs/create", times=1)

    with failing(Unreachable, "cannot be reached: "):
        await troubled.create_run(experiment, "first", 1, {"lifecycle.id": "abc"})

    assert await troubled.find_run(experiment, "abc") == []
    assert await troubled.create_run(experiment, "first", 1, {"lifecycle.id": "abc"})


async def test_seven_that_wait_do_not_hold_up_the_eighth(troubled: Client, faults: Faults) -> None:
    faults.slow(600, "experiments/get")
    waiting = [asyncio.create_task(troubled.experiment("0")) for _ in range(7)]

    assert await troubled.server_version()

    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()


# Who asks.


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_a_token_that_cannot_be_sent_is_not_shown(
    faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "s3cret\n")
    opened = Client(faults.url)
    with failing(Unreachable, "cannot be reached: InvalidHeader$") as refused:
        await opened.server_version()
    await opened.close()
    assert "s3cret" not in f"{refused.value!r}"


async def test_credentials_of_the_address_are_sent_and_never_shown(faults: Faults) -> None:
    opened = Client(faults.url.replace("://", "://me:s%40cret:x@"))
    await opened.server_version()
    faults.answering(401, "")

    with failing(Denied, r"access denied \(401\)$") as refused:
        await opened.server_version()

    await faults.refuse()
    with failing(Unreachable, "Connection refused$") as silent:
        await opened.server_version()
    await opened.close()
    assert {request.authorization for request in faults.requests} == {basic("me", "s@cret:x")}
    for shown in (refused.value, silent.value, opened.uri, opened):
        assert "cret" not in f"{shown} {shown!r}"


async def test_credentials_of_the_environment_are_read_as_mlflow_does(
    faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, plain = Client(faults.url.replace("://", "://me:secret@")), Client(faults.url)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "somebody")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "else")
    await named.experiment("0")
    await plain.experiment("0")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    await named.experiment("0")
    await plain.experiment("0")

    assert [request.authorization for request in faults.requests] == [
        basic("me", "secret"),
        basic("somebody", "else"),
        basic("me", "secret"),
        "Bearer abc",
    ]
    for opened in (named, plain):
        await opened.close()


# The servers that these tests are about.


@pytest.mark.slow
async def test_a_server_that_was_killed_comes_back_as_it_was(unique: str) -> None:
    with an_mlflow() as server:
        opened = Client(server.url)
        id = await opened.create_experiment(unique, {})

        server.kill()

        with failing(Unreachable, "Connection refused$"):
            await opened.experiment(id)
        await asyncio.to_thread(server.start)
        assert (await opened.experiment(id)).name == unique
        await asyncio.to_thread(server.stop)
        with failing(Unreachable, "Connection refused$"):
            await opened.experiment(id)
        await opened.close()


@pytest.mark.slow
async def test_what_a_plain_client_logs_is_found(any_mlflow: Mlflow, unique: str) -> None:
    script = """
import sys, mlflow
mlflow.set_experiment(sys.argv[1])
with mlflow.start_run(run_name="plain") as run:
    mlflow.log_params({"lr": 0.1})
    for step in range(3):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.log_text("hello", "notes/hello.txt")
print(run.info.run_id)
"""
    opened = Client(any_mlflow.url)

    id = (await asyncio.to_thread(any_mlflow.train, script, unique)).split()[-1]

    found = await opened.run(id)
    experiment = await opened.experiment_named(unique)
    assert experiment is not None
    assert (found.name, found.status, found.params) == ("plain", "FINISHED", {"lr": "0.1"})
    assert found.experiment_id == experiment.id
    points = await all_of(opened.history(id, "loss", None))
    assert [(point.step, point.value) for point in points] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert await opened.files(id) == [File("notes/hello.txt", 5)]
    await opened.close()
