"""Principals who see some models only, as they go on: what they follow, what they change, and what
becomes visible or hidden while they are at it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import Table, false, func, select, text, true, union
from sqlalchemy.orm import aliased

from lifecycle.access.visibility import MODELS_OF, Unrestrictable
from lifecycle.database import ReadSession, WriteSession
from lifecycle.journal import repository
from lifecycle.journal.repository import Event
from lifecycle.journal.tables import EventRow
from lifecycle.pages import among
from lifecycle.registry.tables import ModelRow, ModelVersionRow
from lifecycle.statements import Prepared
from schema import ids
from schema.subscriptions import Answer, Asked
from tests.client import Graph, Json, socket
from tests.conftest import Live
from tests.factories import a_deployment, a_run, a_version
from tests.following import DEPLOYMENTS, RUN, TRANSPORTS, items, key_of
from tests.mutations import global_id
from tests.restricted import seeing
from tests.statements import rows

STATUS = """
subscription ($after: String) {
  deploymentStatus(after: $after) {
    __typename
    ... on CaughtUp { cursor }
    ... on Heartbeat { cursor }
    ... on DeploymentStatusEvent {
      cursor
      health
      deployment { modelName modelVersion { run { modelVersions { modelName: model { name } } } } }
    }
  }
}"""


async def model_id(graph: Graph, name: str) -> UUID:
    found = await graph.query(
        "query ($name: String!) { model(name: $name) { id } }", {"name": name}
    )
    return ids.decode("Model", found["model"]["id"])


class Two:
    """A model that the principal called like the test sees, and one that it does not."""

    def __init__(self, live: Live, graph: Graph, unique: str, mine: Json, other: Json) -> None:
        self.live, self.graph = live, graph
        self.name = unique
        self.mine, self.other = mine, other


@pytest.fixture
async def two(live: Live, graph: Graph, unique: str) -> AsyncIterator[Two]:
    mine = await a_version(graph, f"{unique}-mine")
    other = await a_version(graph, f"{unique}-other")
    seen = frozenset({await model_id(graph, f"{unique}-mine")})
    with seeing(**{unique: seen}):
        yield Two(live, graph, unique, mine, other)


@pytest.fixture
async def seer(two: Two) -> AsyncIterator[Graph]:
    async with Graph(two.live.url, two.name) as client:
        yield client


async def feel(graph: Graph, deployment: str, health: str) -> None:
    await graph.done("updateDeployment", {"id": deployment, "health": health}, "deployment { id }")


# Subscriptions


async def test_only_what_happens_to_the_visible_is_sent(two: Two) -> None:
    mine = await a_deployment(two.graph, two.mine, status="ACTIVE")
    other = await a_deployment(two.graph, two.other, status="ACTIVE")
    async with (
        socket(two.live.url, actor=two.name) as opened,
        aclosing(opened.subscribe(DEPLOYMENTS)) as sent,  # type: ignore[type-var]
    ):
        present = [await anext(sent), await anext(sent)]
        assert [item["__typename"] for item in present] == ["DeploymentStatusEvent", "CaughtUp"]
        assert present[0]["deployment"] == {"id": mine}

        for health in ("DEGRADED", "UNHEALTHY"):
            await feel(two.graph, other, health)
            await feel(two.graph, mine, health)

        happened = [await anext(sent), await anext(sent)]
        assert [(item["deployment"], item["health"]) for item in happened] == [
            ({"id": mine}, "DEGRADED"),
            ({"id": mine}, "UNHEALTHY"),
        ]


async def test_what_is_followed_is_visible_by_the_same_models_either_way(two: Two) -> None:
    """The feed asks which models each subject is visible by; all others, what some models show."""
    # Given runs of both models, of one, of a deleted version and of none, and deployments
    graph, name = two.graph, two.name
    runs = {each: await a_run(graph, name) for each in ("both", "mine", "other", "deleted", "none")}
    for each in ("both", "mine"):
        await a_version(graph, f"{name}-mine", runId=runs[each])
        await a_version(graph, f"{name}-mine", runId=runs[each])
    for each in ("both", "other"):
        await a_version(graph, f"{name}-other", runId=runs[each])
    version = await a_version(graph, f"{name}-mine", runId=runs["deleted"])
    gone = await a_deployment(graph, version, status="TERMINATED")
    selected = {"modelVersion": {"id": version["id"]}}
    await graph.done("deleteModelVersion", selected, "modelVersion { id }")
    mine, other = await a_deployment(graph, two.mine), await a_deployment(graph, two.other)
    models = {each: await model_id(graph, f"{name}-{each}") for each in ("mine", "other")}

    # When it is asked for the events of all of these, and of one that is not there
    absent = [
        Event(-1, 1, "x", kind, uuid4(), datetime.now(UTC), "a", {}, {}) for kind in MODELS_OF
    ]
    subjects = {*map(key_of, [*runs.values(), gone, mine, other])}
    database = two.live.database
    found = await rows(
        database,
        "SELECT id, subject_kind, subject_id FROM event WHERE subject_id = ANY(:subjects)",
        subjects=list(subjects),
    )
    events = [replace(absent[0], **each._asdict()) for each in found]
    assert {event.subject_id for event in events} == subjects
    assert {event.subject_kind for event in events} == MODELS_OF.keys()
    async with database.read() as session:
        known = await repository.models_of(session, [*events, *absent])

    # Then it is by these models
    both, only = frozenset(models.values()), frozenset({models["mine"]})
    assert known == {
        **{key_of(id): only for id in (runs["mine"], runs["deleted"], gone, mine)},
        **{key_of(id): both - only for id in (runs["other"], other)},
        key_of(runs["both"]): both,
    }
    # And whoever sees some of them is shown the same
    for visible in (frozenset[UUID](), only, both - only, both, both | {uuid4()}):
        shown = select(EventRow.id).where(among(EventRow.id, [event.id for event in events]))
        async with database.seen_by(visible).read() as session:
            assert {*await session.fetch(shown)} == {
                event.id for event in events if visible & known.get(event.subject_id, frozenset())
            }


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_cursor_leads_past_what_is_hidden(two: Two, seer: Graph, transport: str) -> None:
    mine = await a_deployment(two.graph, two.mine, status="ACTIVE")
    other = await a_deployment(two.graph, two.other, status="ACTIVE")
    # Of everybody's stream.
    async with aclosing(items("socket", two.live.url, DEPLOYMENTS, id=other)) as everything:  # type: ignore[type-var]
        cursor = [await anext(everything), await anext(everything)][1]["cursor"]
        await feel(two.graph, mine, "DEGRADED")
        await feel(two.graph, other, "DEGRADED")
        assert (await anext(everything))["health"] == "DEGRADED"

    if transport == "sse":
        async with aclosing(seer.stream(DEPLOYMENTS, {"after": cursor})) as stream:  # type: ignore[type-var]
            sent = [next(iter((await anext(stream))["data"].values())) for _ in range(2)]
    else:
        async with socket(two.live.url, actor=two.name) as opened:
            stream = opened.subscribe(DEPLOYMENTS, {"after": cursor})
            sent = [await anext(stream) for _ in range(2)]

    assert [item.get("deployment") for item in sent] == [{"id": mine}, None]
    assert sent[1]["__typename"] == "CaughtUp"


async def test_a_hidden_object_is_followed_like_one_that_does_not_exist(
    two: Two, seer: Graph
) -> None:
    deployment = await a_deployment(two.graph, two.other)
    run = await a_run(two.graph, two.name)
    for document, kind, id in ((DEPLOYMENTS, "Deployment", deployment), (RUN, "Run", run)):
        answers = []
        for each in (id, global_id(kind)):
            async with socket(two.live.url, actor=two.name) as opened:
                await opened.start(document, {"id": each})
                answers.append(await opened.receive())
        assert answers[0] == answers[1]
        assert answers[0]["payload"][0]["extensions"]["code"] == "NOT_FOUND"


async def test_answers_are_shared_with_those_who_see_the_same_only(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await a_run(two.graph, two.name)
    mine = await a_version(two.graph, f"{two.name}-mine", runId=run)
    await a_version(two.graph, f"{two.name}-other", runId=run)
    deployment = await a_deployment(two.graph, mine, status="ACTIVE")
    executed: list[Json] = []
    execute = Asked.execute

    async def noted(asked: Asked, item: object, whose: Callable[[], str]) -> Answer:
        executed.append(asked.variables)
        return await execute(asked, item, whose)

    async with (
        socket(two.live.url, actor=two.name) as one,
        socket(two.live.url, actor=two.name) as two_,
        socket(two.live.url) as everybody,
    ):
        streams = [each.subscribe(STATUS) for each in (one, two_, everybody)]
        for stream in streams:
            while (await anext(stream))["__typename"] != "CaughtUp":
                pass
        monkeypatch.setattr(Asked, "execute", noted)

        await feel(two.graph, deployment, "DEGRADED")

        shown = []
        for stream in streams:
            while "deployment" not in (item := await anext(stream)):
                pass
            versions = item["deployment"]["modelVersion"]["run"]["modelVersions"]
            shown.append([version["modelName"]["name"] for version in versions])
        assert shown == [[f"{two.name}-mine"]] * 2 + [[f"{two.name}-mine", f"{two.name}-other"]]
        assert len(executed) == 2


# What comes and goes


async def test_what_a_visible_version_comes_out_of_is_visible_from_then_on(
    two: Two, seer: Graph
) -> None:
    run = await a_run(two.graph, two.name, datasetFacts={"name": two.name})
    query = """query ($run: ID!, $name: String!) {
      run(id: $run) { id } experiment(name: $name) { runs { totalCount } }
      dataSet(name: $name) { name } }"""
    variables = {"run": run, "name": two.name}
    assert set((await seer.query(query, variables)).values()) == {None}

    await a_version(two.graph, f"{two.name}-mine", runId=run)

    await a_run(two.graph, two.name)
    assert await seer.query(query, variables) == {
        "run": {"id": run},
        "experiment": {"runs": {"totalCount": 1}},
        "dataSet": {"name": two.name},
    }


@pytest.mark.parametrize("plain", [True, False])
async def test_what_is_written_for_an_answer_is_of_the_visible_only(
    two: Two, seer: Graph, unique: str, plain: bool
) -> None:
    """Plain columns are written by PostgreSQL, with whatever is around one object at once."""
    # Given a run with a hidden parent, of which came a visible version and a hidden one
    parent = await a_run(two.graph, unique, name="hidden")
    run = await a_run(two.graph, unique, name="seen", parentId=parent)
    for name in ("mine", "other"):
        await a_version(two.graph, f"{unique}-{name}", version="of-run", runId=run)
    hidden = await a_deployment(two.graph, two.other)
    mine = await a_deployment(two.graph, two.mine)
    more = "" if plain else "mlflow { state }"
    asked = f"""query ($mine: ID!, $hidden: ID!, $parent: ID!) {{
      none: modelVersion(
        by: {{ nameVersion: {{ modelName: "{unique}-other", version: "of-run" }} }}
      ) {{ version run {{ id }} metrics {{ key }} }}
      noModel: model(name: "{unique}-other") {{ name }}
      noRun: run(id: $parent) {{ name {more} }}
      noDeployment: deployment(id: $hidden) {{ environment }}
      deployment(id: $mine) {{ id }}
    }}"""
    around = f"""{{
      modelVersion(by: {{ nameVersion: {{ modelName: "{unique}-mine", version: "of-run" }} }}) {{
        model {{ name }}
        run {{ name {more} }}
        deployments {{ nodes {{ id }} }}
      }}
    }}"""
    beyond = f"""{{
      modelVersion(by: {{ nameVersion: {{ modelName: "{unique}-mine", version: "of-run" }} }}) {{
        run {{ parent {{ name }} modelVersions {{ modelName }} }}
      }}
    }}"""

    # When
    found = await seer.query(asked, {"mine": mine, "hidden": hidden, "parent": parent})
    version = (await seer.query(around))["modelVersion"]
    further = (await seer.query(beyond))["modelVersion"]

    # Then
    nothing = dict.fromkeys(("none", "noModel", "noRun", "noDeployment"))
    assert found == nothing | {"deployment": {"id": mine}}
    assert version["model"] == {"name": f"{unique}-mine"}
    assert version["run"]["name"] == "seen"
    assert version["deployments"] == {"nodes": []}
    assert further["run"] == {"parent": None, "modelVersions": [{"modelName": f"{unique}-mine"}]}


async def test_a_hidden_parent_is_not_told_of(
    two: Two, seer: Graph, sql: asyncpg.Connection
) -> None:
    parent = await a_run(two.graph, two.name)
    child = await a_run(two.graph, two.name, parentId=parent)
    await a_version(two.graph, f"{two.name}-mine", runId=child)
    log = """query ($run: ID!) {
      node(id: $run) { ... on Run { parent { id } } }
      auditLog(filter: { subject: $run, actions: ["run.created"] }) { nodes { after } } }"""
    id = ids.decode("Run", parent)
    while await sql.fetchval("SELECT count(*) FROM event WHERE position IS NULL"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)

    found = await seer.query(log, {"run": child})

    [entry] = found["auditLog"]["nodes"]
    assert found["node"] == {"parent": None}
    assert entry["after"]["parent_id"] is None
    everything = await two.graph.query(log, {"run": child})
    [whole] = everything["auditLog"]["nodes"]
    assert everything["node"] == {"parent": {"id": parent}}
    assert whole["after"] == {**entry["after"], "parent_id": str(id)}


async def test_who_sees_no_model_sees_nothing_but_what_is_general(two: Two) -> None:
    nobody = f"{two.name}-nobody"
    with seeing(**{nobody: frozenset()}):
        async with Graph(two.live.url, nobody) as graph:
            found = await graph.query("""{
              models { totalCount } runs { totalCount } experiments { totalCount }
              deployments { totalCount } stagePolicy { modelName: model { name } }
              auditLog(filter: { subjectKinds: ["Model", "Run", "Experiment"] }) { totalCount }
            }""")

    assert found.pop("stagePolicy") == {"modelName": None}
    assert {name: each["totalCount"] for name, each in found.items()} == dict.fromkeys(found, 0)


async def test_what_a_key_stood_for_may_be_hidden_by_now(two: Two, seer: Graph) -> None:
    input = {
        "modelVersion": {"id": two.mine["id"]},
        "environment": "DEVELOPMENT",
        "idempotencyKey": two.name,
    }
    made = await seer.mutate("createDeployment", input)
    assert made["__typename"] == "CreateDeploymentSuccess"

    with seeing(**{two.name: frozenset()}):
        again = await seer.mutate("createDeployment", input)

    assert again["code"] == "NOT_FOUND"


# Changes


async def test_who_sees_a_model_may_change_it(two: Two, seer: Graph) -> None:
    made = await a_version(seer, f"{two.name}-mine", checklist=["Read it"])
    moved = await seer.done(
        "setStage",
        {"modelVersion": {"id": made["id"]}, "stage": "STAGING"},
        "modelVersion { stage }",
    )
    deployment = await a_deployment(seer, made, status="ACTIVE")
    drift = {"modelVersion": {"id": made["id"]}, "severity": "HIGH", "metric": "psi"}
    event = await seer.done("recordDriftEvent", drift, "driftEvent { modelVersion { id } }")

    assert moved["stage"] == "STAGING"
    assert event["modelVersion"]["id"] == made["id"]
    assert (await seer.query(f'{{ deployment(id: "{deployment}") {{ status }} }}')) == {
        "deployment": {"status": "ACTIVE"}
    }


async def test_a_version_of_a_model_that_is_not_to_be_seen_makes_no_model(
    two: Two, seer: Graph, sql: asyncpg.Connection
) -> None:
    names = (f"{two.name}-other", f"{two.name}-new")

    found = [await seer.mutate("registerModelVersion", {"modelName": name}) for name in names]

    assert found == [
        {
            "__typename": "NotFound",
            "code": "NOT_FOUND",
            "message": f"There is no model {name}.",
            "path": ["modelName"],
        }
        for name in names
    ]
    assert await sql.fetchval("SELECT count(*) FROM model WHERE name = $1", names[1]) == 0


async def test_a_change_of_a_run_makes_hidden_approvals_stale_too(two: Two, seer: Graph) -> None:
    run = await a_run(two.graph, two.name)
    await a_version(two.graph, f"{two.name}-mine", runId=run)
    hidden = await a_version(two.graph, f"{two.name}-other", runId=run)
    submission = {"modelVersion": {"id": hidden["id"]}}
    await two.graph.done("submitForApproval", submission, "approval { status }")

    await seer.done("updateRun", {"id": run, "params": [{"key": "a", "value": "b"}]}, "run { id }")

    found = await two.graph.query(
        "query ($id: ID!) { node(id: $id) { ... on ModelVersion { approval { status } } } }",
        {"id": hidden["id"]},
    )
    assert found["node"]["approval"]["status"] == "STALE"


async def test_a_data_set_that_is_hidden_is_the_same_data_set(two: Two, seer: Graph) -> None:
    facts = {"name": two.name, "digest": "d"}
    await a_run(two.graph, two.name, datasetFacts=facts)
    run = await a_run(two.graph, two.name)
    await a_version(two.graph, f"{two.name}-mine", runId=run)

    found = await seer.done(
        "updateRun", {"id": run, "datasetFacts": facts}, "run { dataSet { runs { totalCount } } }"
    )

    assert found == {"dataSet": {"runs": {"totalCount": 1}}}
    every = await two.graph.query(
        'query ($name: String!) { dataSet(name: $name, digest: "d") { runs { totalCount } } }',
        {"name": two.name},
    )
    assert every["dataSet"]["runs"]["totalCount"] == 2


# Content


async def test_a_digest_alone_leads_to_no_content(two: Two, seer: Graph) -> None:
    content = two.name.encode()
    other, mine = [await a_run(two.graph, two.name) for _ in range(2)]
    await a_version(two.graph, f"{two.name}-mine", runId=mine)
    announced = {
        "path": "p",
        "name": "n",
        "sizeBytes": len(content),
        "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
    }
    selection = "artifactUpload { id alreadyStored uploadUrl }"
    first = await two.graph.done("beginArtifactUpload", {"runId": other, **announced}, selection)
    await two.graph.http.put(first["uploadUrl"], content=content)
    await two.graph.done("completeArtifactUpload", {"id": first["id"]}, "artifact { path }")

    # Somebody who was told the digest, and perhaps not the size.
    wrong = {"runId": mine, **announced, "sizeBytes": 1}
    guessed = await seer.mutate("beginArtifactUpload", wrong)
    begun = await seer.done("beginArtifactUpload", {"runId": mine, **announced}, selection)
    completed = await seer.mutate("completeArtifactUpload", {"id": begun["id"]})

    assert guessed["__typename"] == "BeginArtifactUploadSuccess"
    assert begun["alreadyStored"] is False
    assert completed["code"] == "CONFLICT"
    assert completed["message"].startswith("Nothing has been uploaded yet")
    # Who has the bytes shows it by sending them.
    await seer.http.put(begun["uploadUrl"], content=content)
    done = await seer.done(
        "completeArtifactUpload", {"id": begun["id"]}, "artifact { downloadUrl }"
    )
    assert (await seer.http.get(done["downloadUrl"])).content == content


# Statements, of each form that PostgreSQL has, without a repository that might help


_model = aliased(ModelRow)
_inner = select(ModelRow.name).subquery()
_named = select(ModelRow.name).cte()
_table = cast(Table, ModelRow.__table__)
_lateral = select(ModelRow.name).where(ModelRow.id == _model.id).lateral()
FORMS: dict[str, Any] = {
    "entity": select(ModelRow).with_only_columns(ModelRow.name),
    "alias": select(_model.name),
    "join": select(ModelRow.name).join(ModelVersionRow, ModelVersionRow.model_id == ModelRow.id),
    "outer join": select(ModelRow.name).outerjoin(_model, false()),
    "subquery": select(_inner.c.name),
    "common table expression": select(_named.c.name),
    "lateral": select(_lateral.c.name).select_from(_model).join(_lateral, true()),
    "scalar subquery": select(select(func.max(ModelRow.name)).scalar_subquery()),
    "exists": select(_model.name).where(select(ModelRow).where(ModelRow.id == _model.id).exists()),
    "union": union(select(ModelRow.name), select(_model.name)).subquery().select(),
    "table": select(_table.c.name),
    "alias of the table": select(_table.alias().c.name),
    "aggregate": select(func.min(ModelRow.name)).group_by(ModelRow.id),
    "entity from a subquery": select(aliased(ModelRow, select(ModelRow).subquery()).name),
}
TEXTS = [
    "SELECT name FROM model",
    "SELECT m.name FROM model AS m, model_version AS v WHERE v.model_id = m.id",
    "WITH m AS (SELECT * FROM model) SELECT name FROM m",
    "WITH RECURSIVE m AS (SELECT name FROM model UNION SELECT name FROM m) SELECT name FROM m",
    "SELECT name FROM (SELECT name FROM model) AS m",
]


async def test_every_form_of_a_query_sees_the_visible_only(two: Two) -> None:
    id = await model_id(two.graph, f"{two.name}-mine")
    only = [f"{two.name}-mine"]
    database = two.live.database.seen_by(frozenset({id}))

    async def look(session: ReadSession) -> None:
        for form, statement in FORMS.items():
            assert {*map(str, await session.fetch(statement))} == {*only}, form
        for each in TEXTS:
            assert {name for (name,) in await session.fetch(Prepared(text(each)))} == {*only}, each

    async with database.read() as session:
        await look(session)
    await database.write(look)
    async with two.live.database.read() as session:
        for form, statement in FORMS.items():
            assert {*map(str, await session.fetch(statement))} != {*only}, form


async def test_every_way_to_a_locked_entity_leads_to_the_visible_only(two: Two) -> None:
    mine, other = [await model_id(two.graph, f"{two.name}-{each}") for each in ("mine", "other")]
    locked = select(ModelRow).with_for_update()

    async def look(session: WriteSession) -> None:
        for options in ({}, {"with_for_update": True}, {"with_for_update": {"key_share": True}}):
            assert await session.get(ModelRow, other, **options) is None
            found = await session.get(ModelRow, mine, populate_existing=True, **options)
            assert found is not None
        for statement in (locked, locked.execution_options(populate_existing=True)):
            assert [row.id for row in await session.scalars(statement)] == [mine]
        one = locked.where(ModelRow.id == other)
        assert await session.scalar(one) is None
        assert [row.id for row in await session.scalars(select(ModelRow))] == [mine]
        with session.seeing_everything():
            assert (await session.get_one(ModelRow, other)).id == other
        for forbidden in (
            select(_model).with_for_update(),
            text("SELECT id FROM model FOR UPDATE"),
            text("TABLE model"),
        ):
            with pytest.raises(Unrestrictable):
                await session.execute(forbidden)

    await two.live.database.seen_by(frozenset({mine})).write(look)


async def test_a_database_that_shows_everything_is_the_same_database(two: Two) -> None:
    database = two.live.database

    assert database.seen_by(None) is database
    assert database.seen_by(frozenset()).seen_by(None).visible is None
