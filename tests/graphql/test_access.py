"""Who is let in, and who may do what, where services sign in with API tokens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta, tzinfo
from itertools import count
from typing import Any, Self
from uuid import uuid4

import asyncpg
import orjson
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect

from lifecycle import migrate
from lifecycle.access.rules import Role
from lifecycle.database import READERS, ReadSession
from lifecycle.principals import repository, rules, terminal
from lifecycle.principals.tables import ApiTokenRow
from schema import ids
from schema.admission import MAX_MUTATIONS
from schema.root import schema
from tests.client import PATIENCE, Graph, Json, Socket, closed, socket
from tests.conftest import Live, a_database, in_thread, serving
from tests.factories import a_deployment, a_run, a_version, a_version_in, approved
from tests.following import connect as connect_to
from tests.following import until
from tests.mutations import MUTATIONS, World, a_world, contents, document, inputs
from tests.statements import written

# Who may do it, besides ADMIN.
MAY: dict[str, set[str]] = {
    "createExperiment": {"CONTRIBUTOR"},
    "updateExperiment": {"CONTRIBUTOR"},
    "logRun": {"CONTRIBUTOR"},
    "updateRun": {"CONTRIBUTOR"},
    "logMetrics": {"CONTRIBUTOR"},
    "logRunOutput": {"CONTRIBUTOR"},
    "beginArtifactUpload": {"CONTRIBUTOR"},
    "completeArtifactUpload": {"CONTRIBUTOR"},
    "registerModelVersion": {"CONTRIBUTOR"},
    "updateModelVersion": {"CONTRIBUTOR"},
    "deleteModelVersion": {"CONTRIBUTOR"},
    "updateModel": {"CONTRIBUTOR"},
    "setStage": {"CONTRIBUTOR", "APPROVER"},
    "validateModelVersion": {"CONTRIBUTOR", "APPROVER"},
    "submitForApproval": {"CONTRIBUTOR"},
    "decideApproval": {"APPROVER"},
    "withdrawApproval": {"CONTRIBUTOR", "APPROVER"},
    "setStagePolicy": set(),
    "appendChecklistItem": {"CONTRIBUTOR", "APPROVER"},
    "markChecklistItem": {"APPROVER"},
    "createDeployment": {"DEPLOYER"},
    "updateDeployment": {"DEPLOYER"},
    "rollbackDeployment": {"DEPLOYER"},
    "terminateDeployment": {"DEPLOYER"},
    "recordDriftEvent": {"DEPLOYER"},
    "updateDriftEvent": {"APPROVER", "DEPLOYER"},
    "setDriftPolicy": set(),
    "retryMlflowSync": {"CONTRIBUTOR"},
    "resolveMlflowConflict": {"CONTRIBUTOR"},
    "grantRole": set(),
    "revokeRole": set(),
    "createApiToken": set(),
    "revokeApiToken": set(),
}

ME = "{ me { name kind grants { role model { name } stages environments } can { administrate } } }"
JSON, STREAM = "application/graphql-response+json", "text/event-stream"
FOLLOW = "subscription { deploymentStatus { __typename } }"


@pytest_asyncio.fixture(scope="module")
async def signed(database_url: str) -> AsyncIterator[Live]:
    """A service where everybody signs in, on the database of the others."""
    async with serving(database_url, sign_in="tokens", mlflow_uri="http://mlflow:5000") as service:
        yield service


@pytest_asyncio.fixture(scope="module")
async def root(signed: Live) -> AsyncIterator[Graph]:
    """Somebody who may do everything."""
    async with Graph(signed.url, token=await a_token(signed, "ADMIN")) as client:
        yield client


async def a_token(
    service: Live,
    role: str,
    model: str | None = None,
    *,
    name: str | None = None,
    stages: list[str] | None = None,
    environments: list[str] | None = None,
) -> str:
    """A new token, made where the first one is made."""
    name = name or f"s-{uuid4().hex[:8]}"
    url = service.database.url
    made = await terminal.create(url, name, role, model, stages or [], environments or [], 1)
    return made.token


async def _code(graph: Graph, mutation: str, input: Json) -> str | None:
    answer = await graph.answer(document(mutation), {"input": input})
    return answer["errors"][0]["extensions"]["code"] if "errors" in answer else None


# Who is let in


@pytest.mark.parametrize("kind", ["query", "mutation", "subscription"])
async def test_every_field_is_refused_to_whoever_has_not_signed_in(signed: Live, kind: str) -> None:
    root = getattr(schema._schema, f"{kind}_type")
    async with Graph(signed.url, actor="admin") as nobody:
        for field in root.fields:
            response = await nobody.http.post("/graphql", json={"query": f"{kind} {{ {field} }}"})

            assert response.status_code == 401, field
            assert response.headers["www-authenticate"] == "Bearer"
            [error] = response.json()["errors"]
            assert error["extensions"] == {"code": "UNAUTHENTICATED"}
            assert error["message"] == "Sign in: send Authorization: Bearer and a token."


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", "Sign in: send Authorization: Bearer and a token."),
        ("Basic YWRtaW46YWRtaW4=", "Sign in: send Authorization: Bearer and a token."),
        ("Bearer", "Sign in: send Authorization: Bearer and a token."),
        ("Bearer admin", "This is not an API token."),
        (f"Bearer lct_{'A' * 43}", "There is no such API token."),
        (f"Bearer lct_{'A' * 44}", "This is not an API token."),
        ("Bearer ü", "This is not an API token."),
        (f"Bearer {'A' * 17_000}", "The token is too long."),
    ],
)
async def test_what_is_no_token_is_refused(signed: Live, header: str, message: str) -> None:
    async with Graph(signed.url) as nobody:
        answer = await nobody.answer(ME, Authorization=header.encode())  # type: ignore[arg-type]

    assert [error["message"] for error in answer["errors"]] == [message]
    assert answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


async def guessed(service: Live, token: str, address: str) -> tuple[int, str]:
    """With what a websocket is closed that signs in by this token."""
    async with connect(
        service.url.replace("http", "ws", 1) + "/graphql",
        subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
        additional_headers={"X-Forwarded-For": address},
        proxy=None,
    ) as connection:
        payload = {"authorization": f"Bearer {token}"}
        await Socket(connection).send({"type": "connection_init", "payload": payload})
        await connection.wait_closed()
    return connection.close_code or 0, connection.close_reason or ""


async def test_who_sends_token_after_token_that_is_none_is_not_looked_for_any_more(
    database_url: str,
) -> None:
    message = "You may send 10 tokens that are none a second; wait a little."
    told = {"code": "LIMIT_EXCEEDED", "name": "signIns", "limit": 10, "value": 11, "retryAfter": 1}
    async with serving(database_url, sign_in="tokens") as service:
        good, other = await a_token(service, "VIEWER"), await a_token(service, "VIEWER")

        async def send(token: str, address: str = "192.0.2.1") -> tuple[int, Json]:
            headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": address}
            response = await nobody.http.post("/graphql", json={"query": ME}, headers=headers)
            return response.status_code, response.json()

        async with Graph(service.url) as nobody:
            assert (await send(good))[0] == 200
            # Given ten seconds' worth of guesses from one address, and what is no guess
            guesses = (f"lct_{n:043}" for n in count())
            answers = await asyncio.gather(*[send(next(guesses)) for _ in range(50)])
            assert {status for status, _ in answers} == {401}
            for _ in range(20):
                assert (await send(good))[0] == 200
            async with asyncio.timeout(PATIENCE):
                while (answer := await send(next(guesses)))[0] == 401:
                    pass

            # Then more are refused, over whichever transport,
            assert answer == (429, {"errors": [{"message": message, "extensions": told}]})
            async with asyncio.timeout(PATIENCE):
                while await guessed(service, next(guesses), "192.0.2.1") != (4429, message):
                    await asyncio.gather(*[send(next(guesses)) for _ in range(20)])
            # but who is known goes on, even when all is looked for anew because of a change,
            assert (await send(good))[0] == 200
            await a_token(service, "VIEWER")
            await until(lambda: service.app.state.sign_in.known(good) is None)
            async with asyncio.timeout(PATIENCE):
                while (await send(next(guesses)))[0] == 401:
                    pass
            assert (await send(good))[0] == 200
            # and so does whoever comes from elsewhere.
            assert (await send(other, "192.0.2.2"))[0] == 200
            assert (await send(next(guesses), "192.0.2.2"))[0] == 401


async def test_many_who_come_at_once_with_one_new_token_are_no_guesses(signed: Live) -> None:
    token = await a_token(signed, "VIEWER")
    async with Graph(signed.url, token=token) as client:
        answers = await asyncio.gather(*[client.answer("{ __typename }") for _ in range(300)])

    assert answers == [{"data": {"__typename": "Query"}}] * 300


async def test_a_token_that_was_revoked_is_a_guess_again(signed: Live, root: Graph) -> None:
    sign_in = signed.app.state.sign_in
    input = {"name": f"s-{uuid4().hex[:8]}", "grants": [{"role": "VIEWER"}]}
    made = await root.mutate("createApiToken", input, "token apiToken { id }")
    async with Graph(signed.url, token=made["token"]) as client:
        await client.query("{ __typename }")
        assert not sign_in.is_guess(made["token"])

        await root.mutate("revokeApiToken", {"id": made["apiToken"]["id"]})
        async with asyncio.timeout(PATIENCE):
            while "errors" not in await client.answer("{ __typename }"):  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # as often as one may ask

    assert sign_in.is_guess(made["token"])


async def test_by_get_and_over_sse_the_same_is_asked_for(signed: Live) -> None:
    async with Graph(signed.url) as nobody:
        by_get = await nobody.http.get("/graphql", params={"query": ME})
        streamed = await nobody.http.post(
            "/graphql", json={"query": FOLLOW}, headers={"accept": "text/event-stream"}
        )

    assert (by_get.status_code, streamed.status_code) == (401, 401)


async def test_the_page_for_browsers_is_everybodys(signed: Live) -> None:
    async with Graph(signed.url) as nobody:
        page = await nobody.http.get("/graphql", headers={"accept": "text/html"})

    assert page.status_code == 200


@pytest.mark.parametrize(
    "payload", [{}, {"actor": "admin"}, {"authorization": "Bearer x"}, {"authorization": 7}]
)
async def test_a_websocket_is_closed_to_whoever_does_not_sign_in(
    signed: Live, payload: Any
) -> None:
    with closed(4403, "Forbidden"):
        async with socket(signed.url, **payload):
            pass


async def test_a_websocket_is_nobodys_before_connection_init(signed: Live) -> None:
    address = signed.url.replace("http", "ws", 1) + "/graphql"
    headers = {"Lifecycle-Actor": "admin"}
    async with connect(
        address,
        subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
        additional_headers=headers,
        proxy=None,
    ) as connection:
        opened = Socket(connection)
        await opened.start(ME)
        with closed(4401, "Unauthorized"):
            await opened.receive()


async def test_who_signs_in_is_who_the_token_says_and_nobody_else(
    signed: Live, unique: str
) -> None:
    token = await a_token(signed, "CONTRIBUTOR", name=unique)
    async with Graph(signed.url, token=token) as service:
        me = await service.query(ME, None, **{"Lifecycle-Actor": "admin"})
        result = await service.mutate(
            "createExperiment",
            {"name": unique},
            "experiment { createdBy }",
            **{"Lifecycle-Actor": "admin"},
        )

    assert me["me"] == {
        "name": f"service:{unique}",
        "kind": "SERVICE",
        "grants": [{"role": "CONTRIBUTOR", "model": None, "stages": None, "environments": None}],
        "can": {"administrate": False},
    }
    assert result["experiment"] == {"createdBy": f"service:{unique}"}


@pytest.mark.parametrize("key", ["authorization", "Authorization"])
async def test_a_websocket_signs_in_by_connection_init(signed: Live, unique: str, key: str) -> None:
    token = await a_token(signed, "VIEWER", name=unique)

    async with socket(signed.url, **{key: f"Bearer {token}", "actor": "admin"}) as opened:
        [me] = [item async for item in opened.subscribe(ME)]

    assert me["name"] == f"service:{unique}"


# What they may do


@pytest_asyncio.fixture
async def world(live: Live, graph: Graph, unique: str) -> World:
    """One object of each kind."""
    return await a_world(live, graph, unique)


def test_of_every_mutation_it_is_said_who_may_do_it(world: World) -> None:
    assert set(MAY) == set(MUTATIONS) == set(inputs(world))


async def test_every_mutation_is_refused_to_who_may_only_see_and_changes_nothing(
    signed: Live, world: World
) -> None:
    token = await a_token(signed, "VIEWER")
    async with Graph(signed.url, token=token) as viewer:
        await viewer.query(ME)
        await _used(signed, token)
        before = await contents(signed.database)

        answers = {
            mutation: await viewer.answer(document(mutation), {"input": inputs(world)[mutation]})
            for mutation in MUTATIONS
        }

    for mutation, answer in answers.items():
        assert "errors" in answer, (mutation, answer)
        [error] = answer["errors"]
        assert error["extensions"] == {"code": "FORBIDDEN"}, mutation
        assert "that takes the role" in error["message"]
        assert answer["data"] is None
    assert await contents(signed.database) == before


async def test_for_whoever_may_not_do_it_little_is_locked_or_read(
    signed: Live, world: World
) -> None:
    """Else they keep others waiting, and see by how long it takes what is hidden."""
    token = await a_token(signed, "VIEWER")
    async with Graph(signed.url, token=token) as viewer:
        await viewer.query(ME)
        await _used(signed, token)
        taken = {}
        for mutation in MUTATIONS:
            with written(signed.database) as statements:
                await viewer.error(document(mutation), {"input": inputs(world)[mutation]})
            taken[mutation] = statements

    # The policies, the model and the version; or the deployment, its version and one of these.
    assert {mutation: len(found) for mutation, found in taken.items() if len(found) > 3} == {}
    # Of these there may be many.
    assert [found for found in taken["updateRun"] if "model_version" in found] == []
    assert [found for found in taken["updateModelVersion"] if "checklist_item" in found] == []


async def _used(signed: Live, token: str) -> None:
    """Until it is noted that the token was used."""
    query = "SELECT last_used_at IS NOT NULL FROM api_token WHERE prefix = $1"
    connection = await asyncpg.connect(signed.database.url.replace("+asyncpg", ""))
    async with asyncio.timeout(PATIENCE):
        while not await connection.fetchval(query, token[:10]):
            pass
    await connection.close()


@pytest.mark.parametrize("role", sorted(set(Role) - {Role.VIEWER}))
async def test_each_role_does_what_it_is_there_for(signed: Live, world: World, role: str) -> None:
    async with Graph(signed.url, token=await a_token(signed, role)) as service:
        refused = {
            mutation
            for mutation in MUTATIONS
            if await _code(service, mutation, inputs(world)[mutation]) == "FORBIDDEN"
        }

    allowed = {mutation for mutation, roles in MAY.items() if role in roles}
    assert refused == (set() if role == "ADMIN" else set(MAY) - allowed)


async def test_a_dry_run_takes_the_same_role(signed: Live, graph: Graph, unique: str) -> None:
    version = await a_version(graph, unique)
    input = {"modelVersion": {"id": version["id"]}, "stage": "STAGING", "dryRun": True}
    async with Graph(signed.url, token=await a_token(signed, "VIEWER")) as viewer:
        error = await viewer.error(document("setStage"), {"input": input})

    assert error["extensions"]["code"] == "FORBIDDEN"


async def test_what_is_not_there_is_not_found_whoever_asks(signed: Live, unique: str) -> None:
    async with Graph(signed.url, token=await a_token(signed, "VIEWER")) as viewer:
        result = await viewer.mutate("updateModel", {"name": unique})

    assert result["code"] == "NOT_FOUND"


async def test_a_role_for_one_model_does_nothing_to_another(
    signed: Live, graph: Graph, unique: str
) -> None:
    other = f"{unique}-other"
    mine = await a_version(graph, unique)
    theirs = await a_version(graph, other)
    async with Graph(signed.url, token=await a_token(signed, "CONTRIBUTOR", unique)) as service:
        done = await service.mutate(
            "updateModelVersion", {"modelVersion": {"id": mine["id"]}, "description": "d"}
        )
        registered = await service.mutate("registerModelVersion", {"modelName": unique})
        refused = [
            await service.answer(document(mutation), {"input": input})
            for mutation, input in (
                ("updateModelVersion", {"modelVersion": {"id": theirs["id"]}}),
                ("registerModelVersion", {"modelName": other}),
                ("registerModelVersion", {"modelName": f"{unique}-new"}),
                ("createExperiment", {"name": unique}),
            )
        ]

    assert done["__typename"] == "UpdateModelVersionSuccess"
    assert registered["__typename"] == "RegisterModelVersionSuccess"
    # What one may not see is not found; whether a model is there is not told either.
    for answer in refused:
        codes = [error["extensions"]["code"] for error in answer.get("errors", ())]
        codes += [found["code"] for found in (answer["data"] or {}).values() if "code" in found]
        assert codes in (["FORBIDDEN"], ["NOT_FOUND"])
    told, as_if_new = (
        answer["data"]["registerModelVersion"]["message"].replace(name, "NAME")
        for answer, name in ((refused[1], other), (refused[2], f"{unique}-new"))
    )
    assert told == as_if_new
    assert (await graph.query(f'{{ model(name: "{unique}-new") {{ id }} }}'))["model"] is None


async def test_who_may_only_look_at_a_model_registers_its_runs_for_no_other(
    signed: Live, root: Graph, graph: Graph, unique: str
) -> None:
    # given: a run of a model that a contributor to another one may see, and one of their own
    other, third = f"{unique}-other", f"{unique}-third"
    seen, mine = await a_run(graph, unique), await a_run(graph, unique)
    await a_version(graph, other, runId=seen)
    await a_version(graph, third)
    version = await a_version(graph, unique, runId=mine)
    grants = [
        {"role": "CONTRIBUTOR", "modelName": unique},
        {"role": "CONTRIBUTOR", "modelName": third},
        {"role": "VIEWER", "modelName": other},
    ]
    made = await root.mutate("createApiToken", {"name": unique, "grants": grants}, "token")
    async with Graph(signed.url, token=made["token"]) as service:
        # when
        input = {"modelName": unique, "runId": seen}
        error = await service.error(document("registerModelVersion"), {"input": input})
        # then: what they contribute to goes on, also once it was deleted
        for each in (version, await a_version(service, unique, runId=mine)):
            deleted = {"modelVersion": {"id": each["id"]}}
            await service.done("deleteModelVersion", deleted, "modelVersion { id }")
        await a_version(service, unique, runId=mine)
        await a_version(service, third, runId=mine)

    assert error["extensions"]["code"] == "FORBIDDEN"
    assert error["message"] == (
        f"service:{unique} may not register versions of a run of other models: that takes the role "
        "CONTRIBUTOR or ADMIN."
    )
    found = await graph.query(
        "query ($id: ID!) { run(id: $id) { modelVersions { modelName } } }", {"id": seen}
    )
    assert found["run"]["modelVersions"] == [{"modelName": other}]
    # Once somebody has registered it for one of theirs, it is theirs to see, and to go on with.
    await a_version(graph, third, runId=seen)
    async with Graph(signed.url, token=made["token"]) as service:
        await a_version(service, unique, runId=seen)


async def test_who_sees_everything_registers_any_run_for_their_own_model(
    signed: Live, root: Graph, graph: Graph, unique: str
) -> None:
    run, other = await a_run(graph, unique), await a_run(graph, unique)
    await a_version(graph, unique)
    await a_version(graph, f"{unique}-other", runId=other)
    grants = [{"role": "CONTRIBUTOR", "modelName": unique}, {"role": "VIEWER"}]
    made = await root.mutate("createApiToken", {"name": unique, "grants": grants}, "token")
    async with Graph(signed.url, token=made["token"]) as service:
        codes = [
            await _code(service, "registerModelVersion", {"modelName": unique, "runId": id})
            for id in (run, other)
        ]

    assert codes == [None, None]


async def test_who_may_not_promote_moves_nothing_into_production_nor_out_of_it(
    signed: Live, graph: Graph, unique: str
) -> None:
    inside = await a_version_in(graph, unique, "PRODUCTION")
    outside = await a_version_in(graph, unique, "STAGING")
    async with Graph(signed.url, token=await a_token(signed, "CONTRIBUTOR")) as service:
        errors = [
            await service.error(
                document("setStage"),
                {"input": {"modelVersion": {"id": version["id"]}, "stage": stage}},
            )
            for version, stage in (
                (outside, "PRODUCTION"),
                (inside, "STAGING"),
                (inside, "ARCHIVED"),
            )
        ]

    for error in errors:
        assert error["extensions"]["code"] == "FORBIDDEN"
        assert error["message"].endswith(
            "may not move versions of this model: that takes the role APPROVER or DEPLOYER or "
            "ADMIN for PRODUCTION."
        )


async def test_a_deployer_promotes_if_its_grant_names_the_stage(
    signed: Live, graph: Graph, unique: str
) -> None:
    version = await a_version_in(graph, unique, "STAGING")
    await graph.mutate("submitForApproval", {"modelVersion": {"id": version["id"]}})
    input = {"modelVersion": {"id": version["id"]}, "stage": "PRODUCTION", "dryRun": True}
    plain = await a_token(signed, "DEPLOYER", unique)
    named = await a_token(signed, "DEPLOYER", unique, stages=["PRODUCTION"])
    async with Graph(signed.url, token=plain) as a, Graph(signed.url, token=named) as b:
        codes = [await _code(client, "setStage", input) for client in (a, b)]

    assert codes == ["FORBIDDEN", None]


async def test_who_may_deploy_to_staging_does_not_deploy_to_production(
    signed: Live, graph: Graph, unique: str
) -> None:
    version = await a_version_in(graph, unique, "PRODUCTION")
    token = await a_token(signed, "DEPLOYER", environments=["STAGING"])

    def to(environment: str) -> Json:
        return {"modelVersion": {"id": version["id"]}, "environment": environment}

    deployed = await graph.done("createDeployment", to("PRODUCTION"), "deployment { id }")
    async with Graph(signed.url, token=token) as service:
        codes = [
            await _code(service, "createDeployment", to("STAGING")),
            await _code(service, "createDeployment", to("PRODUCTION")),
            await _code(service, "updateDeployment", {"id": deployed["id"], "status": "FAILED"}),
            await _code(service, "terminateDeployment", {"id": deployed["id"]}),
        ]

    assert codes == [None, "FORBIDDEN", "FORBIDDEN", "FORBIDDEN"]


async def test_who_administrates_one_model_sets_its_policy_and_not_the_general_one(
    signed: Live, graph: Graph, unique: str
) -> None:
    await a_version(graph, unique)
    policy = {"stage": "STAGING", "rules": []}
    async with Graph(signed.url, token=await a_token(signed, "ADMIN", unique)) as service:
        own = await service.mutate("setStagePolicy", {**policy, "modelName": unique})
        general = await _code(service, "setStagePolicy", policy)

    assert own["__typename"] == "SetStagePolicySuccess"
    assert general == "FORBIDDEN"


async def test_what_is_possible_is_told_before_it_is_tried(
    signed: Live, graph: Graph, unique: str
) -> None:
    await a_version_in(graph, unique, "PRODUCTION")
    await a_version(graph, unique)
    can = "viewerCan { register change review decide administrate moveTo deployTo }"
    query = f'{{ model(name: "{unique}") {{ {can} versions {{ nodes {{ {can} }} }} }} }}'

    async def told(role: str, **narrowed: Any) -> Any:
        token = await a_token(signed, role, unique, **narrowed)
        async with Graph(signed.url, token=token) as service:
            return (await service.query(query))["model"]

    nothing = {
        **dict.fromkeys(("register", "change", "review", "decide", "administrate"), False),
        "moveTo": [],
        "deployTo": [],
    }
    viewer = await told("VIEWER")
    contributor = await told("CONTRIBUTOR")
    deployer = await told("DEPLOYER", environments=["STAGING"])
    admin = await told("ADMIN")

    assert viewer["viewerCan"] == nothing
    assert contributor["viewerCan"] == {
        **nothing,
        **dict.fromkeys(("register", "change", "review"), True),
        "moveTo": ["EXPERIMENTAL", "STAGING", "ARCHIVED"],
    }
    moves = [version["viewerCan"]["moveTo"] for version in contributor["versions"]["nodes"]]
    assert moves == [["EXPERIMENTAL", "STAGING", "ARCHIVED"], []]
    assert deployer["viewerCan"] == {**nothing, "deployTo": ["STAGING"]}
    assert admin["viewerCan"]["moveTo"] == ["EXPERIMENTAL", "STAGING", "PRODUCTION", "ARCHIVED"]
    assert admin["viewerCan"]["administrate"] is True


# Tokens


async def test_a_token_is_shown_once_and_kept_nowhere(
    signed: Live, root: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    input = {"name": unique, "grants": [{"role": "VIEWER"}], "idempotencyKey": unique}
    selection = "token apiToken { id name prefix grants { role } lastUsedAt revokedAt }"

    first = await root.mutate("createApiToken", input, selection)
    again = await root.mutate("createApiToken", input, selection)

    token = first["token"]
    assert len(token) == 47
    assert first["apiToken"]["prefix"] == token[:10]
    assert again == {**first, "token": None}
    for table in ("api_token", "event", "idempotency_key"):
        held = await sql.fetchval(
            f"SELECT count(*) FROM {table} AS r WHERE to_jsonb(r)::text LIKE '%' || $1 || '%'",
            token[10:],
        )
        assert held == 0, table


async def test_of_a_token_only_those_rights_are_shown_whose_models_are_seen(
    signed: Live, root: Graph, graph: Graph, unique: str
) -> None:
    # Given a service with rights to two models, which has made a token for both
    models = [f"{unique}-kept", f"{unique}-lost"]
    for model in models:
        await a_version(graph, model)
    admin = [{"role": "ADMIN", "modelName": model} for model in models]
    mine = {"name": unique, "grants": admin}
    maker = await root.mutate("createApiToken", mine, "token apiToken { id }")
    input = {
        "name": f"{models[0]}/made",
        "grants": [{"role": "VIEWER", "modelName": model} for model in models],
        "idempotencyKey": unique,
    }
    selection = "apiToken { name grants { role model { name } } }"
    async with Graph(signed.url, token=maker["token"]) as service:
        made = await service.mutate("createApiToken", input, selection)
    await root.done("revokeApiToken", {"id": maker["apiToken"]["id"]}, "apiToken { id }")

    # When it repeats that with rights to one of them
    fewer = await root.mutate("createApiToken", {**mine, "grants": admin[:1]}, "token")
    async with Graph(signed.url, token=fewer["token"]) as service:
        again = await service.mutate("createApiToken", input, selection)

    # Then the right to the other is not there, rather than one to everything.
    given = [{"role": "VIEWER", "model": {"name": model}} for model in models]
    assert [each["apiToken"]["grants"] for each in (made, again)] == [given, given[:1]]


async def test_what_a_token_does_is_in_the_journal_and_so_is_what_was_done_to_it(
    signed: Live, root: Graph, unique: str
) -> None:
    made = await root.mutate(
        "createApiToken", {"name": unique, "grants": [{"role": "VIEWER"}]}, "token apiToken { id }"
    )
    await root.mutate("revokeApiToken", {"id": made["apiToken"]["id"]})
    query = "query ($id: ID!) { auditLog(filter: {subject: $id}) { nodes { action } } }"

    async with asyncio.timeout(PATIENCE):
        while True:
            found = await root.query(query, {"id": made["apiToken"]["id"]})
            actions = [each["action"] for each in found["auditLog"]["nodes"]]
            if len(actions) == 2:
                break

    assert actions == ["api_token.revoked", "api_token.created"]


async def test_the_journal_does_not_tell_of_a_tokens_rights_to_hidden_models(
    signed: Live, root: Graph, graph: Graph, unique: str
) -> None:
    mine, other = f"{unique}-mine", f"{unique}-other"
    for name in (mine, other):
        await a_version(graph, name)
    grants = [{"role": "VIEWER", "modelName": mine}, {"role": "DEPLOYER", "modelName": other}]
    input = {"name": unique, "grants": [{"role": "APPROVER"}, *grants]}
    made = await root.mutate("createApiToken", input, "apiToken { id }")
    await root.mutate("revokeApiToken", {"id": made["apiToken"]["id"]})
    query = "query ($id: ID!) { auditLog(filter: {subject: $id}) { nodes { before after } } }"

    async with Graph(signed.url, token=await a_token(signed, "VIEWER", mine)) as viewer:
        async with asyncio.timeout(PATIENCE):
            while True:
                found = await viewer.query(query, {"id": made["apiToken"]["id"]})
                entries = found["auditLog"]["nodes"]
                if len(entries) == 2:
                    break

    everything = await root.query(query, {"id": made["apiToken"]["id"]})
    for entry, whole in zip(entries, everything["auditLog"]["nodes"], strict=True):
        [said] = [each for each in entry.values() if each]
        [all_said] = [each for each in whole.values() if each]
        assert [each["role"] for each in all_said["grants"]] == ["APPROVER", "VIEWER", "DEPLOYER"]
        assert said == {**all_said, "grants": all_said["grants"][:2]}


async def test_a_token_that_was_revoked_is_refused_within_seconds(
    signed: Live, root: Graph, unique: str
) -> None:
    made = await root.mutate(
        "createApiToken", {"name": unique, "grants": [{"role": "VIEWER"}]}, "token apiToken { id }"
    )
    async with Graph(signed.url, token=made["token"]) as service:
        assert (await service.query(ME))["me"]["name"] == f"service:{unique}"

        revoked = await root.mutate(
            "revokeApiToken", {"id": made["apiToken"]["id"]}, "apiToken { revokedBy }"
        )
        async with asyncio.timeout(PATIENCE):
            while "errors" not in (answer := await service.answer(ME)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # as often as one may ask

    assert revoked["apiToken"]["revokedBy"].startswith("service:")
    assert answer["errors"][0]["message"] == "The API token was revoked."


async def test_a_token_expires(signed: Live, sql: asyncpg.Connection, unique: str) -> None:
    token = await a_token(signed, "VIEWER", name=unique)
    await sql.execute("UPDATE api_token SET expires_at = clock_timestamp() WHERE name = $1", unique)

    async with Graph(signed.url, token=token) as service:
        answer = await service.answer(ME)

    assert answer["errors"][0]["message"] == "The token has expired."


class _Behind(datetime):
    """The clock of a machine that is two hours behind."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) - timedelta(hours=2)


async def test_a_token_expires_by_the_clock_of_the_database(
    monkeypatch: pytest.MonkeyPatch,
    signed: Live,
    database_url: str,
    sql: asyncpg.Connection,
    unique: str,
) -> None:
    # given: a token that expired an hour ago, and one that is good
    expired, good = [await a_token(signed, "VIEWER", name=unique) for _ in range(2)]
    await sql.execute(
        "UPDATE api_token SET expires_at = clock_timestamp() - interval '1 hour' WHERE prefix = $1",
        expired[:10],
    )

    # when: a service is asked whose clock is behind
    monkeypatch.setattr("lifecycle.principals.sign_in.datetime", _Behind)
    async with serving(database_url, sign_in="tokens") as service:
        answers = []
        for token in (expired, good):
            async with Graph(service.url, token=token) as client:
                answers.append(await client.answer("{ me { name } }"))

    # then
    assert answers[0]["errors"][0]["message"] == "The token has expired."
    assert answers[1] == {"data": {"me": {"name": f"service:{unique}"}}}


@pytest.mark.parametrize(
    ("input", "code", "path"),
    [
        ({"name": "service:x"}, "INVALID_INPUT", ["name"]),
        ({"name": "system:x"}, "INVALID_INPUT", ["name"]),
        ({"grants": []}, "INVALID_INPUT", ["grants"]),
        ({"grants": [{"role": "VIEWER", "modelName": "no such"}]}, "NOT_FOUND", None),
        ({"grants": [{"role": "ADMIN", "stages": ["STAGING"]}]}, "INVALID_INPUT", None),
        ({"grants": [{"role": "APPROVER", "environments": ["STAGING"]}]}, "INVALID_INPUT", None),
        ({"expiresAt": "2020-01-01T00:00:00Z"}, "INVALID_INPUT", ["expiresAt"]),
        ({"expiresAt": "2099-01-01T00:00:00Z"}, "INVALID_INPUT", ["expiresAt"]),
    ],
)
async def test_a_token_that_makes_no_sense_is_not_made(
    root: Graph, unique: str, input: Json, code: str, path: list[str] | None
) -> None:
    given = {"name": unique, "grants": [{"role": "VIEWER"}], **input}

    result = await root.mutate("createApiToken", given)

    assert result["code"] == code
    assert path is None or result["path"] == path


async def test_a_token_never_has_more_than_who_makes_it_could_grant(
    signed: Live, graph: Graph, unique: str
) -> None:
    await a_version(graph, unique)
    mine, everything = {"role": "DEPLOYER", "modelName": unique}, {"role": "VIEWER"}
    async with Graph(signed.url, token=await a_token(signed, "ADMIN", unique)) as service:
        own = await service.mutate(
            "createApiToken", {"name": f"{unique}/ci", "grants": [mine]}, "apiToken { id }"
        )
        more = [
            await _code(service, "createApiToken", {"name": f"{unique}/2", "grants": grants})
            for grants in ([everything], [mine, everything])
        ]

    assert own["__typename"] == "CreateApiTokenSuccess"
    assert more == ["FORBIDDEN", "FORBIDDEN"]


async def test_who_administrates_one_model_gives_nobody_a_role_that_approves(
    signed: Live, graph: Graph, root: Graph, unique: str
) -> None:
    # Or a second name of theirs would approve what the first has made.
    await a_version(graph, unique)
    other = f"{unique}@example.com"
    token = await a_token(signed, "ADMIN", unique, name=f"{unique}-admin")
    async with Graph(signed.url, token=token) as service:

        async def grant(role: str) -> list[str | None]:
            grant = {"role": role, "modelName": unique}
            inputs: dict[str, Json] = {
                "grantRole": {"subject": other, "grant": grant},
                "createApiToken": {"name": f"{unique}/ci", "grants": [grant]},
            }
            answers = [
                await service.answer(document(mutation), {"input": input})
                for mutation, input in inputs.items()
            ]
            return [answer.get("errors", [{"message": None}])[0]["message"] for answer in answers]

        given = {role: await grant(role) for role in Role}
        kept = await root.done(
            "grantRole",
            {"subject": other, "grant": {"role": "APPROVER", "modelName": unique}},
            "roleGrant { id }",
        )
        taken = await service.done("revokeRole", {"id": kept["id"]}, "roleGrant { revokedAt }")

    refused = (
        f"service:{unique}-admin may not say who approves, with a role for one model: that takes "
        "the role ADMIN."
    )
    assert given == {
        "VIEWER": [None, None],
        "CONTRIBUTOR": [None, None],
        "APPROVER": [refused, refused],
        "DEPLOYER": [None, None],
        "ADMIN": [refused, refused],
    }
    assert taken["revokedAt"] is not None


async def test_nobody_makes_a_token_under_the_name_of_somebody_elses_service(
    signed: Live, graph: Graph, root: Graph, unique: str
) -> None:
    await a_version(graph, unique)
    await a_token(signed, "DEPLOYER", name=f"{unique}/prod")
    input = {"name": f"{unique}/prod", "grants": [{"role": "VIEWER", "modelName": unique}]}
    async with Graph(signed.url, token=await a_token(signed, "ADMIN", unique)) as service:
        refused = await service.mutate("createApiToken", input)
    done = await root.mutate("createApiToken", input)

    assert (refused["code"], refused["path"]) == ("ALREADY_EXISTS", ["name"])
    assert done["__typename"] == "CreateApiTokenSuccess"


async def test_who_administrates_models_names_services_by_them(
    signed: Live, root: Graph, graph: Graph, unique: str
) -> None:
    # Given somebody who administrates two models, one of which is called by the other, and a
    # service of everybody's
    models = [unique, f"{unique}/eu"]
    for model in (*models, f"{unique}/us"):
        await a_version(graph, model)
    admin = [{"role": "ADMIN", "modelName": model} for model in models]
    maker = await root.mutate("createApiToken", {"name": unique, "grants": admin}, "token")
    await a_token(signed, "DEPLOYER", name=f"{unique}-prod")
    one, other = ({"role": "VIEWER", "modelName": model} for model in models)

    # When
    async with Graph(signed.url, token=maker["token"]) as client:
        made = [
            await client.mutate("createApiToken", {"name": name, "grants": grants}, "token")
            for name, grants in (
                (f"{unique}/nightly", [one]),
                (f"{unique}/eu/nightly", [one, other]),
            )
        ]
        refused = {
            name: await client.mutate("createApiToken", {"name": name, "grants": [one]})
            for name in (
                *(f"{unique}-prod", f"{unique}-free", "nightly", f"{unique}/", f"/{unique}"),
                *(f"{unique}/eu/weekly", f"{unique}/us/weekly", f"{unique}/nightly/weekly"),
            )
        }
    names = []
    for each in made:
        async with Graph(signed.url, token=each["token"]) as service:
            names.append((await service.query(ME))["me"]["name"])

    # Then a name that is taken is refused as one that is not.
    assert names == [f"service:{unique}/nightly", f"service:{unique}/eu/nightly"]
    said = {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": f"Call it {unique}/NAME, by a model that the token is for, with no slash in "
        "NAME: who administrates everything gives other names.",
        "path": ["name"],
    }
    assert refused == dict.fromkeys(refused, said)


async def test_who_has_made_tokens_of_a_service_makes_more_whatever_it_is_called(
    signed: Live, root: Graph, graph: Graph, unique: str
) -> None:
    # Given a maker who administrated everything, and now administrates one model
    await a_version(graph, unique)
    maker = f"{unique}-maker"
    async with Graph(signed.url, token=await a_token(signed, "ADMIN", name=maker)) as former:
        await a_token_by(former, "DEPLOYER", f"{unique}-prod")
    input = {"name": f"{unique}-prod", "grants": [{"role": "VIEWER", "modelName": unique}]}

    # When somebody else makes one, too
    async with Graph(signed.url, token=await a_token(signed, "ADMIN", unique, name=maker)) as now:
        before = await now.mutate("createApiToken", input)
        await root.mutate("createApiToken", input)
        after = await now.mutate("createApiToken", input)

    # Then the service is not the maker's alone any more.
    assert before["__typename"] == "CreateApiTokenSuccess"
    assert (after["code"], after["path"]) == ("ALREADY_EXISTS", ["name"])


async def test_who_may_not_register_versions_keeps_nobody_from_the_run(
    signed: Live, graph: Graph, unique: str
) -> None:
    await a_version(graph, unique)
    run = await a_run(graph, unique)
    sql = await connect_to(signed.database.url)
    token = await a_token(signed, "VIEWER")
    async with Graph(signed.url, token=token) as viewer, sql.transaction():
        # Given a run that is held
        await sql.execute("SELECT FROM run WHERE id = $1 FOR UPDATE", ids.decode("Run", run))

        # Then that is not waited for, whether or not there is the model.
        for model in (unique, f"{unique}-new"):
            input = {"modelName": model, "runId": run}
            assert await _code(viewer, "registerModelVersion", input) == "FORBIDDEN"
    await sql.close()


async def a_token_by(maker: Graph, role: str, name: str) -> str:
    """A token that this client makes."""
    input = {"name": name, "grants": [{"role": role}]}
    return str((await maker.mutate("createApiToken", input, "token"))["token"])


@pytest.mark.parametrize("registers", ["maker", "first", "second"])
@pytest.mark.parametrize("approves", ["maker", "first", "second", "made by the first"])
async def test_nobody_approves_what_is_their_own_by_a_token_that_they_have_made(
    signed: Live, graph: Graph, unique: str, registers: str, approves: str
) -> None:
    # Given a maker of two services, of which one has made a third
    await a_version(graph, unique)
    tokens = {"maker": await a_token(signed, "ADMIN", name=f"{unique}-maker")}
    for name, maker in (("first", "maker"), ("second", "maker"), ("made by the first", "first")):
        async with Graph(signed.url, token=tokens[maker]) as client:
            tokens[name] = await a_token_by(client, "ADMIN", f"{unique}-{name}")
    async with (
        Graph(signed.url, token=tokens[registers]) as author,
        Graph(signed.url, token=tokens[approves]) as approver,
        Graph(signed.url, token=await a_token(signed, "APPROVER", unique)) as other,
    ):
        # When one of them approves what another has registered
        version = await a_version(author, unique)
        input = {"modelVersion": {"id": version["id"]}}
        await author.mutate("submitForApproval", input)
        decision = {**input, "decision": "APPROVE"}
        error = await approver.error(document("decideApproval"), {"input": decision})
        added = {**input, "title": "fair to all"}
        item = await author.done("appendChecklistItem", added, "checklistItem { id }")
        mark = {"input": {"id": item["id"], "status": "APPROVED"}}
        unchecked = await approver.error(document("markChecklistItem"), mark)

        # Then that is refused, but not to somebody else's.
        assert error["extensions"]["code"] == "FORBIDDEN"
        who = f"service:{unique}-{approves}"
        if registers != approves:
            who = f"{who} stands for service:{unique}-{registers}, who"
        assert error["message"] == (
            f"{who} registered this version; somebody else has to approve it."
        )
        assert unchecked["message"] == (
            f"{who} registered this version; somebody else has to approve items of its checklist."
        )
        assert (await other.mutate("decideApproval", decision))["__typename"].endswith("Success")


async def test_two_tokens_of_one_maker_are_one_of_two_who_have_to_approve(
    signed: Live, graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    rules = [{"approvals": {"count": 2}}]
    admin = {"Lifecycle-Actor": "admin"}
    policy = {"modelName": unique, "stage": "PRODUCTION", "rules": rules}
    await graph.mutate("setStagePolicy", policy, **admin)
    input = {"modelVersion": {"id": version["id"]}}
    await graph.mutate("submitForApproval", input)
    decision = {**input, "decision": "APPROVE"}
    maker = await a_token(signed, "ADMIN", name=f"{unique}-maker")
    async with Graph(signed.url, token=maker) as client:
        made = await a_token_by(client, "APPROVER", f"{unique}-made")
        first = await client.mutate("decideApproval", decision, "approval { status }")
    async with Graph(signed.url, token=made) as client:
        second = await client.mutate("decideApproval", decision, "approval { status }")

    assert first["approval"] == {"status": "PENDING"}
    assert (second["code"], second["message"]) == (
        "CONFLICT",
        f"service:{unique}-made stands for service:{unique}-maker, who has approved it already; "
        "2 people must.",
    )


async def test_who_may_not_move_to_staging_does_not_do_so_by_an_approval(
    signed: Live, graph: Graph, unique: str
) -> None:
    version = await a_version(graph, unique)
    input = {"modelVersion": {"id": version["id"]}}
    await graph.mutate("submitForApproval", input)
    decision = {**input, "decision": "APPROVE"}
    narrow = await a_token(signed, "APPROVER", unique, stages=["PRODUCTION"])
    async with Graph(signed.url, token=narrow) as client:
        error = await client.error(document("decideApproval"), {"input": decision})
        seen = await client.query(
            "query ($id: ID!) { modelVersion(by: { id: $id }) { stage approval { status } } }",
            {"id": version["id"]},
        )
        # What is there already is moved nowhere.
        await graph.mutate("setStage", {**input, "stage": "STAGING"})
        approved = await client.mutate("decideApproval", decision)

    assert error["extensions"]["code"] == "FORBIDDEN"
    assert error["message"].endswith(
        "may not move versions of this model: that takes the role CONTRIBUTOR or APPROVER or "
        "DEPLOYER or ADMIN for STAGING."
    )
    assert seen["modelVersion"] == {"stage": "EXPERIMENTAL", "approval": {"status": "NEEDS_REVIEW"}}
    assert approved["__typename"] == "DecideApprovalSuccess"


async def test_who_may_not_move_to_production_lets_nothing_else_in_there_by_an_approval(
    signed: Live, graph: Graph, unique: str
) -> None:
    # given: what is in production has become something else, and somebody has submitted that
    version = await a_version_in(graph, unique, "PRODUCTION")
    input = {"modelVersion": {"id": version["id"]}}
    await graph.mutate("updateModelVersion", {**input, "artifactPath": "other"})
    await graph.mutate("submitForApproval", input)
    decision = {**input, "decision": "APPROVE"}

    # when
    narrow = await a_token(signed, "APPROVER", unique, stages=["STAGING"])
    async with Graph(signed.url, token=narrow) as client:
        error = await client.error(document("decideApproval"), {"input": decision})
    wide = await a_token(signed, "APPROVER", unique)
    async with Graph(signed.url, token=wide) as client:
        by_another = await client.mutate("decideApproval", decision)

    # then
    assert error["extensions"]["code"] == "FORBIDDEN"
    assert error["message"].endswith(
        "may not move versions of this model: that takes the role APPROVER or DEPLOYER or ADMIN "
        "for PRODUCTION."
    )
    assert by_another["__typename"] == "DecideApprovalSuccess"


async def test_what_waited_for_its_turn_while_its_token_was_revoked_is_not_done(
    signed: Live, sql: asyncpg.Connection, unique: str
) -> None:
    token = await a_token(signed, "CONTRIBUTOR", name=unique)
    gate = signed.app.state.admission.mutations
    async with Graph(signed.url, token=token) as client:
        async with sql.transaction():
            # Given changes that cannot go on, and one that waits for its turn
            await sql.execute("LOCK TABLE experiment")
            sent = [
                asyncio.create_task(
                    client.answer(
                        document("createExperiment"), {"input": {"name": f"{unique}-{n}"}}
                    )
                )
                for n in range(MAX_MUTATIONS + 1)
            ]
            await until(lambda: gate.waiting == 1)

            # When the token is revoked, and the service knows
            await terminal.revoke(signed.database.url, token[:10])
            async with asyncio.timeout(PATIENCE):
                while "errors" not in await client.answer(ME):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)  # as often as one may ask

        # Then those that had begun are done, and it is not.
        answers = await asyncio.gather(*sent)
    refused = [answer for answer in answers if "errors" in answer]
    assert [answer["errors"][0]["message"] for answer in refused] == ["The API token was revoked."]
    assert refused[0]["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    made = await sql.fetchval("SELECT count(*) FROM experiment WHERE name LIKE $1", f"{unique}-%")
    assert made == MAX_MUTATIONS


@pytest.mark.parametrize(
    ("kind", "accept"),
    [("query", JSON), ("query", STREAM), ("subscription", STREAM)],
)
@pytest.mark.parametrize("known", [False, True])
async def test_what_is_asked_slowly_while_its_token_is_revoked_is_not_answered(
    signed: Live, root: Graph, unique: str, kind: str, accept: str, known: bool
) -> None:
    # given: a document that the service has or has not read before
    await root.done("createExperiment", {"name": unique}, "experiment { id }")
    asked = f'{{ experiment(name: "{unique}") {{ name }} }}'
    if kind == "subscription":
        asked = f'subscription {{ deploymentStatus(modelName: "{unique}") {{ __typename }} }}'
    if known:
        async for _ in root.stream(asked):
            break
    made = await root.mutate(
        "createApiToken", {"name": unique, "grants": [{"role": "VIEWER"}]}, "token apiToken { id }"
    )
    async with Graph(signed.url, token=made["token"]) as service:
        begun, revoked = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b"{"
            begun.set()
            await revoked.wait()
            yield orjson.dumps({"query": asked})[1:]

        # when: the token is revoked after the request has begun, and the service knows
        headers = {"content-type": "application/json", "accept": accept}
        sent = service.http.post("/graphql", content=slowly(), headers=headers)
        answering = asyncio.create_task(sent)
        await begun.wait()
        await root.mutate("revokeApiToken", {"id": made["apiToken"]["id"]})
        async with asyncio.timeout(PATIENCE):
            while "errors" not in await service.answer(ME):  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # as often as one may ask
        revoked.set()
        answer = await answering

    # then
    assert answer.status_code == (401 if accept == JSON else 200)
    assert "The API token was revoked." in answer.text
    assert "UNAUTHENTICATED" in answer.text
    assert unique not in answer.text
    assert "CaughtUp" not in answer.text


@pytest.mark.parametrize("known", [False, True])
async def test_what_begins_on_a_websocket_goes_by_the_rights_of_then(
    signed: Live, root: Graph, unique: str, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    # given: a websocket whose token was revoked, that is not closed yet
    monkeypatch.setattr(signed.app.state.sign_in, "_end", lambda *_: None)
    asked = f'{{ experiment(name: "{unique}") {{ name }} }}'
    if known:
        await root.query(asked)
    token = await a_token(signed, "VIEWER", name=unique)
    async with (
        Graph(signed.url, token=token) as service,
        socket(signed.url, authorization=f"Bearer {token}") as opened,
    ):
        await terminal.revoke(signed.database.url, token[:10])
        async with asyncio.timeout(PATIENCE):
            while "errors" not in await service.answer(ME):  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # as often as one may ask

        # when
        found = []
        for query in (asked, FOLLOW):
            await opened.start(query)
            found.append(await opened.receive())

    # then
    assert [each["type"] for each in found] == ["error"] * 2
    for each in found:
        [error] = each["payload"]
        assert error["message"] == "The API token was revoked."
        assert error["extensions"] == {"code": "UNAUTHENTICATED"}


async def test_whoever_comes_first_is_let_in_beside_what_else_is_read(
    signed: Live, unique: str
) -> None:
    # given: somebody who has not come yet, and a long line of what the service itself reads
    token = await a_token(signed, "VIEWER", name=unique)
    async with AsyncExitStack() as held, Graph(signed.url, token=token) as service:
        for _ in range(READERS):
            await held.enter_async_context(signed.database.read())
        waiting = [
            asyncio.create_task(held.enter_async_context(signed.database.read()))
            for _ in range(READERS)
        ]
        await until(lambda: signed.database.waiting_to_read >= READERS)

        # when
        answer = await service.query(ME)

        # then
        assert answer["me"]["name"] == f"service:{unique}"
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_of_all_who_are_connected_it_is_asked_together_whether_they_may_go_on(
    signed: Live, root: Graph, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given: two who are connected, of whom one is looked up when the other is
    tokens = [await a_token(signed, "VIEWER", name=f"{unique}-{n}") for n in range(2)]
    both = asyncio.Barrier(2)
    digests = set(map(rules.digest, tokens))
    token_of = repository.token_of

    async def together(session: ReadSession, digest: bytes) -> ApiTokenRow | None:
        if digest in digests:
            await both.wait()
        return await token_of(session, digest)

    async with (
        socket(signed.url, authorization=f"Bearer {tokens[0]}") as one,
        socket(signed.url, authorization=f"Bearer {tokens[1]}") as another,
    ):
        monkeypatch.setattr(repository, "token_of", together)

        # when
        for token in tokens:
            await terminal.revoke(signed.database.url, token[:10])

        # then
        for opened in (one, another):
            with closed(4403, "The API token was revoked."):
                await opened.receive()


# Grants


async def test_grants_are_given_replaced_and_taken_back(root: Graph, unique: str) -> None:
    listed = """query ($subject: String, $revoked: Boolean!) {
      roleGrants(filter: { subject: $subject, revoked: $revoked }) {
        totalCount nodes { id grant { role environments } revokedAt } } }"""

    async def give(*environments: str) -> Json:
        grant: Json = {"role": "DEPLOYER", "environments": list(environments) or None}
        selection = "roleGrant { id grant { environments } }"
        return await root.done("grantRole", {"subject": unique, "grant": grant}, selection)

    first = await give("STAGING")
    same = await give("STAGING")
    other = await give("STAGING", "PRODUCTION")
    held = (await root.query(listed, {"subject": unique, "revoked": False}))["roleGrants"]
    revoked = await root.done("revokeRole", {"id": other["id"]}, "roleGrant { id revokedAt }")
    again = await root.done("revokeRole", {"id": other["id"]}, "roleGrant { id revokedAt }")
    ever = (await root.query(listed, {"subject": unique, "revoked": True}))["roleGrants"]

    assert same == first
    assert other["grant"]["environments"] == ["PRODUCTION", "STAGING"]
    assert [each["id"] for each in held["nodes"]] == [other["id"]]
    assert revoked == again
    assert [each["id"] for each in ever["nodes"]] == [other["id"], first["id"]]
    assert all(each["revokedAt"] for each in ever["nodes"])


async def test_of_two_who_grant_the_same_at_once_one_grant_holds(root: Graph, unique: str) -> None:
    input = {"subject": unique, "grant": {"role": "APPROVER"}}

    made = await asyncio.gather(
        *(root.done("grantRole", input, "roleGrant { id }") for _ in range(5))
    )

    assert len({each["id"] for each in made}) == 1


@pytest.mark.parametrize("subject", ["service:x", "system:drift", "System:x", "a\tb", "group:"])
async def test_nobody_is_granted_a_role_under_a_name_that_is_nobodys_to_choose(
    root: Graph, subject: str
) -> None:
    result = await root.mutate("grantRole", {"subject": subject, "grant": {"role": "VIEWER"}})

    assert (result["code"], result["path"]) == ("INVALID_INPUT", ["subject"])


@pytest.mark.parametrize("field", ["roleGrants", "apiTokens"])
@pytest.mark.parametrize("role", ["VIEWER", "DEPLOYER"])
async def test_who_has_been_given_what_is_seen_by_administrators(
    signed: Live, field: str, role: str
) -> None:
    async with Graph(signed.url, token=await a_token(signed, role)) as service:
        error = await service.error(f"{{ {field} {{ totalCount }} }}")

    assert error["extensions"]["code"] == "FORBIDDEN"


@pytest.mark.parametrize(("field", "filter"), [("roleGrants", "subject"), ("apiTokens", "name")])
async def test_pages_of_what_was_granted_are_the_whole_list(
    root: Graph, unique: str, field: str, filter: str
) -> None:
    # Given five of them, newest first
    made = []
    for role in ("VIEWER", "CONTRIBUTOR", "APPROVER", "DEPLOYER", "ADMIN"):
        if field == "roleGrants":
            input: Json = {"subject": unique, "grant": {"role": role}}
            made.append(await root.done("grantRole", input, "roleGrant { id }"))
        else:
            input = {"name": unique, "grants": [{"role": role}]}
            made.append(await root.done("createApiToken", input, "apiToken { id }"))
    query = f"""query ($name: String!, $after: String) {{
      found: {field}(filter: {{ {filter}: $name }}, first: 2, after: $after) {{
        totalCount nodes {{ id }} pageInfo {{ hasNextPage endCursor }} }} }}"""

    # When
    pages: list[Json] = []
    after = None
    while not pages or pages[-1]["pageInfo"]["hasNextPage"]:
        pages.append((await root.query(query, {"name": unique, "after": after}))["found"])
        after = pages[-1]["pageInfo"]["endCursor"]

    # Then
    assert [node for page in pages for node in page["nodes"]] == made[::-1]
    assert [len(page["nodes"]) for page in pages] == [2, 2, 1]
    assert {page["totalCount"] for page in pages} == {5}


async def test_what_somebody_has_made_is_found_when_they_leave(
    signed: Live, root: Graph, unique: str
) -> None:
    mine, others = [], f"{unique}-others"
    async with Graph(signed.url, token=await a_token(signed, "ADMIN", name=unique)) as maker:
        for name in (f"{unique}-a", f"{unique}-b"):
            input = {"name": name, "grants": [{"role": "VIEWER"}]}
            mine.append(await maker.done("createApiToken", input, "apiToken { id }"))
    await root.mutate("createApiToken", {"name": others, "grants": [{"role": "VIEWER"}]})

    query = (
        "query ($by: String!) { apiTokens(filter: { createdBy: $by }) { totalCount nodes { id } }}"
    )
    found = await root.query(query, {"by": f"service:{unique}"})

    assert found["apiTokens"] == {"totalCount": 2, "nodes": mine[::-1]}


# What lasts


async def test_a_websocket_ends_when_its_token_is_revoked(
    signed: Live, root: Graph, unique: str
) -> None:
    made = await root.mutate(
        "createApiToken", {"name": unique, "grants": [{"role": "VIEWER"}]}, "token apiToken { id }"
    )
    async with socket(signed.url, authorization=f"Bearer {made['token']}") as opened:
        items = opened.subscribe(FOLLOW)
        await anext(items)
        await root.mutate("revokeApiToken", {"id": made["apiToken"]["id"]})

        with closed(4403, "The API token was revoked."):
            while True:
                await anext(items)


async def test_a_websocket_ends_when_its_token_expires(
    signed: Live, sql: asyncpg.Connection, unique: str
) -> None:
    token = await a_token(signed, "VIEWER", name=unique)
    await sql.execute(
        "UPDATE api_token SET expires_at = clock_timestamp() + interval '1 second' WHERE name = $1",
        unique,
    )
    with closed(4403, "The token has expired."):
        async with socket(signed.url, authorization=f"Bearer {token}") as opened:
            async for _ in opened.subscribe(FOLLOW):
                pass


async def test_a_stream_of_events_ends_when_its_token_is_revoked(
    signed: Live, root: Graph, unique: str
) -> None:
    made = await root.mutate(
        "createApiToken", {"name": unique, "grants": [{"role": "VIEWER"}]}, "token apiToken { id }"
    )
    async with Graph(signed.url, token=made["token"]) as service, asyncio.timeout(PATIENCE):
        stream = service.stream(FOLLOW)
        await anext(stream)
        await root.mutate("revokeApiToken", {"id": made["apiToken"]["id"]})
        rest = [item async for item in stream]

    [error] = rest[-1]["errors"]
    assert error["message"] == "The API token was revoked."
    assert error["extensions"] == {"code": "UNAUTHENTICATED"}


async def test_nothing_is_kept_of_connections_that_have_ended(signed: Live, unique: str) -> None:
    token = await a_token(signed, "VIEWER", name=unique)

    def kept() -> int:
        sessions = signed.app.state.sign_in._sessions
        return sum(each.principal.name == f"service:{unique}" for each in sessions)

    async with (
        socket(signed.url, authorization=f"Bearer {token}") as opened,
        Graph(signed.url, token=token) as service,
    ):
        items, stream = opened.subscribe(FOLLOW), service.stream(FOLLOW)
        await anext(items)
        await anext(stream)
        assert kept() == 2
        await stream.aclose()  # type: ignore[attr-defined]

    # The server hears of it in its own time, but before what is asked from here on and on.
    async with Graph(signed.url, token=token) as service, asyncio.timeout(PATIENCE):
        while kept():
            await service.query(ME)


async def test_who_it_is_cannot_be_found_out_without_the_database(server_url: str) -> None:
    with a_database(server_url) as url:
        in_thread(lambda: migrate.upgrade(url))
        name = url.partition("?")[0].rpartition("/")[2]
        async with serving(url, sign_in="tokens") as service:
            token = await a_token(service, "VIEWER")
            connection = await asyncpg.connect(server_url.replace("+asyncpg", ""))
            await connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name
            )
            await connection.close()

            async with Graph(service.url, token=token) as client:
                response = await client.http.post("/graphql", json={"query": ME})
            with closed(1013, "The database is not available; try again."):
                async with socket(service.url, authorization=f"Bearer {token}"):
                    pass

    assert response.status_code == 503
    assert response.json()["errors"][0]["extensions"] == {"code": "UNAVAILABLE"}


async def test_what_one_process_revokes_every_process_refuses(
    signed: Live, database_url: str, root: Graph, unique: str
) -> None:
    input = {"name": unique, "grants": [{"role": "VIEWER"}]}
    made = await root.mutate("createApiToken", input, "token apiToken { id }")
    async with (
        serving(database_url, sign_in="tokens") as other,
        Graph(other.url, token=made["token"]) as there,
    ):
        assert (await there.query(ME))["me"]["name"] == f"service:{unique}"
        await root.mutate("revokeApiToken", {"id": made["apiToken"]["id"]})
        async with asyncio.timeout(PATIENCE):
            while "errors" not in (answer := await there.answer(ME)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # as often as one may ask

    assert answer["errors"][0]["message"] == "The API token was revoked."


# Where nobody signs in


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("[::1]:8000", 200),
        ("lifecycle.example.com", 421),
        ("10.0.0.1:8000", 421),
        ("127.0.0.1.example.com", 421),
    ],
)
async def test_a_page_from_elsewhere_does_not_get_in_by_a_name_that_leads_here(
    live: Live, host: str, status: int
) -> None:
    async with Graph(live.url) as client:
        response = await client.http.post(
            "/graphql", json={"query": "{ __typename }"}, headers={"host": host}
        )

    assert response.status_code == status


@pytest.mark.parametrize(
    "header",
    ["Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Real-IP", "CF-Connecting-IP", "Via"],
)
async def test_what_a_proxy_passes_on_does_not_come_from_this_machine(
    live: Live, header: str
) -> None:
    async with Graph(live.url) as client:
        response = await client.http.post(
            "/graphql", json={"query": "{ __typename }"}, headers={header: "203.0.113.7"}
        )

    assert response.status_code == 403


async def test_others_than_this_machine_are_served_if_it_is_said_so(database_url: str) -> None:
    async with (
        serving(database_url, insecure=True) as service,
        Graph(service.url) as client,
    ):
        response = await client.http.post(
            "/graphql", json={"query": "{ __typename }"}, headers={"host": "example.com"}
        )

    assert response.status_code == 200


async def test_a_token_counts_for_nothing_where_nobody_signs_in(live: Live) -> None:
    token = await a_token(live, "ADMIN")
    async with Graph(live.url, token=token) as client:
        me = (await client.query(ME))["me"]

    assert me["name"] == "anonymous"
    assert me["can"]["administrate"] is False


async def test_who_deploys_to_staging_says_nothing_of_drift_in_production(
    signed: Live, graph: Graph, unique: str
) -> None:
    # given
    to = {"modelVersion": {"id": (await a_version_in(graph, unique, "PRODUCTION"))["id"]}}
    events = []
    for environment in ("STAGING", "PRODUCTION", None):
        input = {**to, "severity": "LOW", "metric": "psi"}
        if environment is not None:
            running = await graph.done(
                "createDeployment", {**to, "environment": environment}, "deployment { id }"
            )
            input["deploymentId"] = running["id"]
        events.append(await graph.done("recordDriftEvent", input, "driftEvent { id }"))

    # when
    token = await a_token(signed, "DEPLOYER", environments=["STAGING"])
    async with Graph(signed.url, token=token) as service:
        codes = [
            await _code(service, "updateDriftEvent", {"id": event["id"], "status": "RESOLVED"})
            for event in events
        ]

    # then
    assert codes == [None, "FORBIDDEN", "FORBIDDEN"]


async def test_who_may_not_move_to_archived_does_not_do_so_by_deleting(
    signed: Live, graph: Graph, unique: str
) -> None:
    version = await a_version_in(graph, unique, "STAGING")
    delete = {"modelVersion": {"id": version["id"]}}
    narrow = await a_token(signed, "CONTRIBUTOR", unique, stages=["EXPERIMENTAL"])
    usual = await a_token(signed, "CONTRIBUTOR", unique)
    async with Graph(signed.url, token=narrow) as one, Graph(signed.url, token=usual) as other:
        codes = [await _code(client, "deleteModelVersion", delete) for client in (one, other)]

    assert codes == ["FORBIDDEN", None]


async def test_who_reports_on_staging_does_not_have_production_rolled_back(
    signed: Live, graph: Graph, unique: str
) -> None:
    version = await a_version_in(graph, unique, "PRODUCTION")
    to = {"modelVersion": {"id": version["id"]}}
    staging, production = [
        await graph.done(
            "createDeployment", {**to, "environment": environment}, "deployment { id }"
        )
        for environment in ("STAGING", "PRODUCTION")
    ]
    drift = {**to, "severity": "CRITICAL", "metric": "psi"}
    token = await a_token(signed, "DEPLOYER", environments=["STAGING"])
    async with Graph(signed.url, token=token) as service:
        codes = [
            await _code(service, "recordDriftEvent", {**drift, "deploymentId": staging["id"]}),
            await _code(service, "recordDriftEvent", {**drift, "deploymentId": production["id"]}),
            await _code(service, "recordDriftEvent", drift),
        ]

    assert codes == [None, "FORBIDDEN", "FORBIDDEN"]


@pytest.mark.parametrize("how", ["recorded", "found in figures"])
async def test_who_reports_on_staging_does_not_change_the_approval_of_what_is_in_production(
    signed: Live, graph: Graph, unique: str, how: str
) -> None:
    # given
    version = await a_version_in(graph, unique, "PRODUCTION", artifactPath="model.bin")
    to = {"modelVersion": {"id": version["id"]}}
    waiting = await approved(graph, await a_version(graph, unique, artifactPath="model.bin"))
    staged = {"modelVersion": {"id": waiting["id"]}}
    policy: Json = {
        "modelName": unique,
        "responses": [
            {"fromSeverity": "HIGH", "action": "MARK_STALE"},
            {"fromSeverity": "HIGH", "action": "OPEN_REVIEW"},
        ],
        "degradation": [
            {"figure": "ERROR_RATE", "limit": "MAX_VALUE", "value": 0.5, "severity": "HIGH"}
        ],
        "reason": "Because.",
    }
    admin = {"Lifecycle-Actor": "admin"}
    await graph.mutate("setDriftPolicy", policy, "driftPolicy { version }", **admin)

    async def drift(client: Graph, of: Json, environment: str) -> None:
        id = await a_deployment(graph, of["modelVersion"], environment, "ACTIVE")
        if how == "recorded":
            event = {**of, "severity": "HIGH", "metric": "psi", "deploymentId": id}
            await client.done("recordDriftEvent", event, "driftEvent { id }")
        else:
            figures = {
                "id": id,
                "metrics": {"errorRate": 0.9, "requestCount": 10, "avgLatencyMs": 1},
            }
            await client.done("updateDeployment", figures, "deployment { id }")

    async def found(of: Json) -> Json:
        query = """query ($by: ModelVersionSelector!) { modelVersion(by: $by) {
            approval { status } driftEvents(first: 1) { nodes {
              status responses { action outcome message } } } } }"""
        return dict((await graph.query(query, {"by": of["modelVersion"]}))["modelVersion"])

    # when
    name = f"s-{uuid4().hex[:8]}"
    narrow = await a_token(signed, "DEPLOYER", name=name, environments=["STAGING"])
    wide = await a_token(signed, "DEPLOYER", environments=["STAGING", "PRODUCTION"])
    async with Graph(signed.url, token=narrow) as staging, Graph(signed.url, token=wide) as all_:
        await drift(staging, to, "STAGING")
        refused = await found(to)
        await drift(staging, staged, "STAGING")
        there = await found(staged)
        deployed = await graph.mutate("createDeployment", {**to, "environment": "PRODUCTION"})
        await drift(all_, to, "STAGING")
        done = await found(to)

    # then
    why = (
        f"service:{name} may not change the approval of what is or was in PRODUCTION by drift: "
        "that takes the role DEPLOYER or ADMIN for PRODUCTION."
    )
    responses = [
        {"action": action, "outcome": "FAILED", "message": why}
        for action in ("MARK_STALE", "OPEN_REVIEW")
    ]
    event = {"status": "OPEN", "responses": responses}
    assert refused == {"approval": {"status": "APPROVED"}, "driftEvents": {"nodes": [event]}}
    assert there["approval"] == done["approval"] == {"status": "NEEDS_REVIEW"}
    # Nor by what is the same there.
    assert deployed["__typename"] == "CreateDeploymentSuccess"


async def test_who_may_not_decide_takes_back_their_own_alone(
    signed: Live, graph: Graph, unique: str
) -> None:
    # given: what is in production, and what a contributor has had the policy approve of the same
    alike: Json = {
        "metrics": [{"key": "accuracy", "value": 0.9}],
        "artifactPath": "model.bin",
    }
    version = await a_version_in(graph, unique, "PRODUCTION", **alike)
    to = {"modelVersion": {"id": version["id"]}}
    async with Graph(signed.url, token=await a_token(signed, "CONTRIBUTOR")) as contributor:
        same = {"modelVersion": {"id": (await a_version(contributor, unique, **alike))["id"]}}
        approval = await contributor.done("submitForApproval", same, "approval { decidedBy }")
        assert approval == {"decidedBy": "system:policy"}

        # when
        await contributor.done("withdrawApproval", same, "approval { status }")

    # then
    deployed = await graph.mutate("createDeployment", {**to, "environment": "PRODUCTION"})
    assert deployed["__typename"] == "CreateDeploymentSuccess"


async def test_who_may_decide_takes_back_what_the_policy_has_approved(
    signed: Live, graph: Graph, unique: str
) -> None:
    metrics = [{"key": "accuracy", "value": 0.9}]
    version = {"modelVersion": {"id": (await a_version(graph, unique, metrics=metrics))["id"]}}
    approval = await graph.done("submitForApproval", version, "approval { decidedBy }")
    assert approval == {"decidedBy": "system:policy"}
    codes = {}

    for role in ("CONTRIBUTOR", "APPROVER"):
        async with Graph(signed.url, token=await a_token(signed, role)) as client:
            codes[role] = await _code(client, "withdrawApproval", version)

    assert codes == {"CONTRIBUTOR": "FORBIDDEN", "APPROVER": None}
