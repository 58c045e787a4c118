"""People who sign in with what an OpenID provider has issued."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from lifecycle.errors import Unauthenticated, Unavailable
from lifecycle.principals.oidc import Oidc, Provider
from tests.client import PATIENCE, Graph, closed, socket
from tests.conftest import Live, serving
from tests.factories import a_version
from tests.issuer import AUDIENCE, Issuer, an_issuer
from tests.mutations import document

ME = "{ me { name kind grants { role model { name } } can { administrate log } } }"
FOLLOW = "subscription { deploymentStatus { __typename } }"


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with an_issuer() as found:
        yield found


@pytest.fixture
def own_issuer() -> Iterator[Issuer]:
    """One that a test may change."""
    with an_issuer() as found:
        yield found


@pytest_asyncio.fixture(scope="module")
async def signed(database_url: str, issuer: Issuer) -> AsyncIterator[Live]:
    """A service that takes its tokens."""
    async with serving(
        database_url,
        sign_in="oidc",
        oidc_issuer=issuer.url,
        oidc_audience=AUDIENCE,
        oidc_groups_claim="groups",
        administrators=frozenset({"root@example.com"}),
    ) as service:
        yield service


@pytest_asyncio.fixture(scope="module")
async def root(signed: Live, issuer: Issuer) -> AsyncIterator[Graph]:
    async with Graph(signed.url, token=issuer.token("root@example.com")) as client:
        yield client


async def refused(signed: Live, token: str) -> str:
    """Why a token is refused."""
    async with Graph(signed.url, token=token) as client:
        response = await client.http.post("/graphql", json={"query": ME})
    assert response.status_code == 401
    [error] = response.json()["errors"]
    assert error["extensions"] == {"code": "UNAUTHENTICATED"}
    return str(error["message"])


# Who it is


async def test_a_person_is_who_the_token_says_and_may_do_what_was_granted(
    signed: Live, issuer: Issuer, root: Graph, unique: str
) -> None:
    name = f"{unique}@example.com"
    await root.mutate("grantRole", {"subject": name, "grant": {"role": "CONTRIBUTOR"}})
    async with Graph(signed.url, token=issuer.token(name)) as person:
        me = (await person.query(ME))["me"]
        made = await person.done("createExperiment", {"name": unique}, "experiment { createdBy }")

    assert me == {
        "name": name,
        "kind": "PERSON",
        "grants": [{"role": "CONTRIBUTOR", "model": None}],
        "can": {"administrate": False, "log": True},
    }
    assert made == {"createdBy": name}


async def test_who_was_granted_nothing_is_known_and_may_do_nothing(
    signed: Live, issuer: Issuer, unique: str
) -> None:
    async with Graph(signed.url, token=issuer.token(f"{unique}@example.com")) as person:
        me = (await person.query(ME))["me"]
        error = await person.error(
            'mutation { createExperiment(input: { name: "x" }) { __typename } }'
        )

    assert (me["grants"], me["can"]) == ([], {"administrate": False, "log": False})
    assert error["extensions"]["code"] == "FORBIDDEN"


async def test_a_group_shares_what_was_granted_to_it(
    signed: Live, issuer: Issuer, root: Graph, graph: Graph, unique: str
) -> None:
    await a_version(graph, unique)
    grant = {"role": "APPROVER", "modelName": unique}
    await root.mutate("grantRole", {"subject": f"group:{unique}", "grant": grant})
    token = issuer.token("ada@example.com", groups=["others", unique])
    # A group is not a person of that name.
    pretender = issuer.token(unique, groups=[])

    async with Graph(signed.url, token=token) as a, Graph(signed.url, token=pretender) as b:
        member, other = [(await client.query(ME))["me"] for client in (a, b)]

    assert member["grants"] == [{"role": "APPROVER", "model": {"name": unique}}]
    assert other["grants"] == []


async def test_a_person_is_one_whichever_way_the_provider_writes_their_name(
    signed: Live, issuer: Issuer, root: Graph, graph: Graph, unique: str
) -> None:
    # Given somebody to whom roles were granted under names that differ in case alone
    await a_version(graph, unique)
    name = f"ada.{unique}@example.com"
    for subject, role in ((name.upper(), "CONTRIBUTOR"), (name.title(), "APPROVER")):
        grant = {"role": role, "modelName": unique}
        await root.mutate("grantRole", {"subject": subject, "grant": grant})
    async with (
        Graph(signed.url, token=issuer.token(name.title())) as one,
        Graph(signed.url, token=issuer.token(name.upper())) as other,
    ):
        # When they approve under one what they have registered under the other
        version = await a_version(one, unique)
        input = {"modelVersion": {"id": version["id"]}}
        await one.mutate("submitForApproval", input)
        error = await other.error(
            document("decideApproval"), {"input": {**input, "decision": "APPROVE"}}
        )
        me = (await other.query(ME))["me"]
    found = await root.query(
        "query ($of: String!) { roleGrants(filter: { subject: $of }) { nodes { subject } } }",
        {"of": name.upper()},
    )

    # Then they are one person, who has all of it.
    assert error["extensions"]["code"] == "FORBIDDEN"
    assert error["message"] == f"{name} registered this version; somebody else has to approve it."
    assert (me["name"], [each["role"] for each in me["grants"]]) == (
        name,
        ["CONTRIBUTOR", "APPROVER"],
    )
    assert found["roleGrants"]["nodes"] == [{"subject": name}] * 2


async def test_a_token_whose_maker_was_written_otherwise_is_theirs(
    signed: Live, issuer: Issuer, root: Graph, graph: Graph, sql: asyncpg.Connection, unique: str
) -> None:
    # Given a service whose token was made before names were without case
    await a_version(graph, unique)
    name = f"ada.{unique}@example.com"
    grant = {"role": "ADMIN", "modelName": unique}
    await root.mutate("grantRole", {"subject": name, "grant": grant})
    async with Graph(signed.url, token=issuer.token(name)) as maker:
        token = {"name": f"{unique}/ci", "grants": [{**grant, "role": "CONTRIBUTOR"}]}
        made = await maker.mutate("createApiToken", token, "token")
        await sql.execute(
            "UPDATE api_token SET created_by = $1 WHERE name = $2", name.title(), token["name"]
        )
        async with Graph(signed.url, token=made["token"]) as service:
            version = await a_version(service, unique)
            input = {"modelVersion": {"id": version["id"]}}
            await service.mutate("submitForApproval", input)

        # When its maker approves what it has registered, that is refused.
        error = await maker.error(
            document("decideApproval"), {"input": {**input, "decision": "APPROVE"}}
        )

    assert error["message"] == (
        f"{name} stands for service:{unique}/ci, who registered this version; somebody else has to "
        "approve it."
    )


async def test_an_administrator_is_one_whichever_way_they_are_written(
    signed: Live, issuer: Issuer
) -> None:
    async with Graph(signed.url, token=issuer.token("ROOT@example.com")) as person:
        me = (await person.query(ME))["me"]

    assert (me["name"], me["can"]["administrate"]) == ("root@example.com", True)


async def test_administrators_by_configuration_may_do_everything(root: Graph) -> None:
    assert (await root.query(ME))["me"]["can"]["administrate"] is True


async def test_a_service_that_is_called_like_an_administrator_is_none(
    signed: Live, root: Graph
) -> None:
    input = {"name": "root@example.com", "grants": [{"role": "VIEWER"}]}
    made = await root.mutate("createApiToken", input, "token")
    async with Graph(signed.url, token=made["token"]) as service:
        me = (await service.query(ME))["me"]

    assert (me["name"], me["can"]["administrate"]) == ("service:root@example.com", False)


@pytest.mark.parametrize(
    "name",
    [
        *("system:drift", "service:ci", "group:all", "System:x", "\u017fervice:ci"),
        *("", " ada", "a\nb", "x" * 251),
        *("a\u200bda", "a\u0301da", "ada\u00a0l"),
    ],
)
async def test_nobody_signs_in_under_a_name_that_is_nobodys_to_choose(
    signed: Live, issuer: Issuer, name: str
) -> None:
    said = await refused(signed, issuer.token(name))

    assert said == (
        "The token says no name in email that can be one: a short line of composed characters "
        "(NFC), each of which can be seen."
    )


@pytest.mark.parametrize("verified", [None, False, "true", 1])
async def test_an_email_is_a_name_only_if_it_was_verified(
    signed: Live, issuer: Issuer, verified: Any
) -> None:
    said = await refused(signed, issuer.token("ada@example.com", email_verified=verified))

    assert said == "The token does not say that the email is verified."


# Which tokens are taken


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"aud": "another"}, "The token is not one that is taken here."),
        ({"aud": None}, "The token is not one that is taken here."),
        ({"iss": "https://login.example.com"}, "The token is not one that is taken here."),
        ({"iss": None}, "The token is not one that is taken here."),
        ({"exp": None}, "The token is not one that is taken here."),
        ({"exp": "soon"}, "The token is not one that is taken here."),
        ({"exp": 10**30}, "The token does not say when it expires."),
        ({"exp": int(time.time()) - 60}, "The token has expired."),
        ({"nbf": int(time.time()) + 3600}, "The token is not one that is taken here."),
        ({"iat": int(time.time()) + 3600}, "The token is not one that is taken here."),
    ],
)
async def test_what_is_not_for_here_or_not_for_now_is_refused(
    signed: Live, issuer: Issuer, claims: dict[str, Any], message: str
) -> None:
    assert await refused(signed, issuer.token("ada@example.com", **claims)) == message


async def test_of_several_audiences_one_is_enough(signed: Live, issuer: Issuer) -> None:
    token = issuer.token("ada@example.com", aud=["another", AUDIENCE])
    async with Graph(signed.url, token=token) as person:
        assert (await person.query(ME))["me"]["name"] == "ada@example.com"


async def test_what_somebody_else_signed_is_refused(signed: Live, issuer: Issuer) -> None:
    other = rsa.generate_private_key(65537, 2048)

    said = await refused(signed, issuer.token("root@example.com", key=other))

    assert said == "The token is not one that is taken here."


async def test_what_was_changed_after_it_was_signed_is_refused(
    signed: Live, issuer: Issuer
) -> None:
    head, _, signature = issuer.token("ada@example.com").split(".")
    claims = _encoded(issuer.claims("root@example.com"))

    said = await refused(signed, f"{head}.{claims}.{signature}")

    assert said == "The token is not one that is taken here."


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", ""])
async def test_what_is_not_signed_is_refused(signed: Live, issuer: Issuer, algorithm: str) -> None:
    head = _encoded({"alg": algorithm, "kid": next(iter(issuer.keys))})

    said = await refused(signed, f"{head}.{_encoded(issuer.claims('root@example.com'))}.")

    assert said in (
        "The token is not signed by a key pair.",
        "This is neither an API token nor a JWT.",
    )


async def test_a_public_key_is_no_secret_to_sign_with(signed: Live, issuer: Issuer) -> None:
    kid = next(iter(issuer.keys))
    public = issuer.keys[kid].public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = f"{_encoded({'alg': 'HS256', 'kid': kid})}.{_encoded(issuer.claims('root@example.com'))}"
    signature = hmac.new(pem, text.encode(), hashlib.sha256).digest()

    said = await refused(signed, f"{text}.{_base64(signature)}")

    assert said == "The token is not signed by a key pair."


@pytest.mark.parametrize("token", ["a.b.c", "..", "e30.e30.", "x" * 200, "[].{}.()"])
async def test_what_is_no_token_at_all_is_refused(signed: Live, token: str) -> None:
    assert await refused(signed, token) in (
        "This is neither an API token nor a JWT.",
        "The token is not signed by a key pair.",
    )


@pytest.mark.parametrize("kid", [7, [], {}, None, "../../etc/passwd"])
async def test_a_key_that_is_not_one_of_the_providers_is_refused(
    signed: Live, issuer: Issuer, kid: Any
) -> None:
    other = rsa.generate_private_key(65537, 2048)
    head = _encoded({"alg": "RS256", "kid": kid})
    text = f"{head}.{_encoded(issuer.claims('root@example.com'))}"
    signature = RSAAlgorithm(RSAAlgorithm.SHA256).sign(text.encode(), other)

    assert (await refused(signed, f"{text}.{_base64(signature)}")).startswith(("The token", "This"))


def _base64(given: bytes) -> str:
    return base64.urlsafe_b64encode(given).decode().rstrip("=")


def _encoded(value: Any) -> str:
    return _base64(json.dumps(value).encode())


# Keys


def checking(issuer: Issuer, pause: float = 0.0, **others: Any) -> Oidc:
    """What checks its tokens, as a service does that asks for keys so often at most."""
    return Oidc(Provider(issuer.url, AUDIENCE, **others), pause_seconds=pause)


async def test_a_new_key_is_fetched_when_a_token_names_it(own_issuer: Issuer) -> None:
    oidc = checking(own_issuer)
    former = own_issuer.token("ada@example.com")
    await oidc.claims(former)

    own_issuer.rotate()
    found = await oidc.claims(own_issuer.token("bob@example.com"))

    assert found.name == "bob@example.com"
    assert own_issuer.asked == 2
    # The provider has withdrawn the key by which it was signed.
    with pytest.raises(Unauthenticated, match="a key that the provider does not have"):
        await oidc.claims(former)


async def test_keys_are_fetched_once_for_all_who_come_at_the_same_time(own_issuer: Issuer) -> None:
    oidc = checking(own_issuer)
    tokens = [own_issuer.token(f"{n}@example.com") for n in range(20)]

    await asyncio.gather(*map(oidc.claims, tokens))

    assert own_issuer.asked == 1


async def test_a_flood_of_keys_that_do_not_exist_asks_the_provider_once(own_issuer: Issuer) -> None:
    oidc = checking(own_issuer, pause=PATIENCE)
    await oidc.claims(own_issuer.token("ada@example.com"))

    for n in range(200):
        with pytest.raises(Unauthenticated):
            await oidc.claims(own_issuer.token("ada@example.com", kid=f"no-{n}"))

    assert own_issuer.asked == 1
    assert (await oidc.claims(own_issuer.token("ada@example.com"))).name == "ada@example.com"


async def test_while_the_provider_is_away_its_keys_go_on(own_issuer: Issuer) -> None:
    oidc = checking(own_issuer)
    await oidc.claims(own_issuer.token("ada@example.com"))

    own_issuer.fails = True
    with pytest.raises(Unauthenticated):
        await oidc.claims(own_issuer.token("ada@example.com", kid="unknown"))
    found = await oidc.claims(own_issuer.token("bob@example.com"))

    assert found.name == "bob@example.com"


async def test_before_there_are_keys_it_is_said_that_there_are_none(own_issuer: Issuer) -> None:
    oidc = checking(own_issuer)
    own_issuer.fails = True
    token = own_issuer.token("ada@example.com")

    with pytest.raises(Unavailable, match="cannot be fetched"):
        await oidc.claims(token)
    own_issuer.fails = False

    assert (await oidc.claims(token)).name == "ada@example.com"


async def test_a_provider_that_calls_itself_otherwise_is_not_believed(own_issuer: Issuer) -> None:
    oidc = checking(own_issuer)
    own_issuer.named = "https://login.example.com"

    with pytest.raises(Unavailable):
        await oidc.claims(own_issuer.token("ada@example.com"))


async def test_keys_that_are_said_to_be_elsewhere_are_not_fetched(
    issuer: Issuer, own_issuer: Issuer
) -> None:
    oidc = checking(own_issuer)
    own_issuer.elsewhere = f"{issuer.url}/keys"

    with pytest.raises(Unavailable):
        await oidc.claims(own_issuer.token("ada@example.com"))


@pytest.mark.parametrize(("kind", "algorithm"), [("RSA", "PS384"), ("EC", "ES256")])
async def test_a_key_without_a_name_is_the_only_one(
    own_issuer: Issuer, kind: str, algorithm: str
) -> None:
    own_issuer.rotate(kind=kind, named=False)
    token = own_issuer.token("ada@example.com", kid=None, algorithm=algorithm)

    assert (await checking(own_issuer).claims(token)).name == "ada@example.com"


async def test_keys_that_are_secrets_or_for_something_else_are_left_out(
    own_issuer: Issuer,
) -> None:
    secret = {"kty": "oct", "kid": "secret", "k": _base64(b"x" * 32)}
    encryption = {**own_issuer.published[0], "kid": "encryption", "use": "enc"}
    own_issuer.published = [secret, encryption, {"kty": "RSA", "kid": "broken"}, "text"]  # type: ignore[list-item]

    with pytest.raises(Unavailable):
        await checking(own_issuer).claims(own_issuer.token("ada@example.com"))


async def test_another_claim_can_be_the_name(own_issuer: Issuer) -> None:
    oidc = checking(own_issuer, name_claim="sub")

    found = await oidc.claims(own_issuer.token("ada", email=None))

    assert found.name == "id of ada"


@pytest.mark.parametrize("groups", [None, "all", 7, {"a": 1}, [1, None], ["a\0b", "\ud800", ""]])
async def test_groups_that_are_no_list_of_names_are_none(own_issuer: Issuer, groups: Any) -> None:
    oidc = checking(own_issuer, groups_claim="groups")

    assert (await oidc.claims(own_issuer.token("ada@example.com", groups=groups))).groups == ()


# What lasts


async def test_a_websocket_ends_when_rights_change_and_the_next_one_has_the_new_ones(
    signed: Live, issuer: Issuer, root: Graph, unique: str
) -> None:
    name = f"{unique}@example.com"
    token = issuer.token(name)
    given = await root.done(
        "grantRole", {"subject": name, "grant": {"role": "VIEWER"}}, "roleGrant { id }"
    )
    async with socket(signed.url, authorization=f"Bearer {token}") as opened:
        items = opened.subscribe(FOLLOW)
        await anext(items)
        await root.mutate("revokeRole", {"id": given["id"]})
        with closed(4403, "Your rights have changed; connect again."):
            while True:
                await anext(items)
    async with socket(signed.url, authorization=f"Bearer {token}") as opened:
        [me] = [item async for item in opened.subscribe(ME)]

    assert me["grants"] == []


async def test_what_lasts_begins_under_the_rights_by_which_it_is_told_to_end(
    signed: Live, issuer: Issuer, root: Graph, unique: str
) -> None:
    name = f"{unique}@example.com"
    async with Graph(signed.url, token=issuer.token(name)) as person:
        assert (await person.query(ME))["me"]["grants"] == []
        begun, granted = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield b"{"
            begun.set()
            await granted.wait()
            yield json.dumps({"query": FOLLOW}).encode()[1:]

        # given: a subscription that is asked for slowly
        headers = {"content-type": "application/json", "accept": "text/event-stream"}
        sent = person.http.post("/graphql", content=slowly(), headers=headers)
        answering = asyncio.create_task(sent)
        await begun.wait()

        # when: they are given a role meanwhile
        await root.mutate("grantRole", {"subject": name, "grant": {"role": "VIEWER"}})
        async with asyncio.timeout(PATIENCE):
            while not (await person.query(ME))["me"]["grants"]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # as often as one may ask
        granted.set()
        answer = await answering

    # then: nothing goes on of which nobody would notice that the role is taken back
    assert "Your rights have changed; connect again." in answer.text
    assert "UNAUTHENTICATED" in answer.text
    assert "CaughtUp" not in answer.text


async def test_what_is_granted_holds_for_requests_within_seconds(
    signed: Live, issuer: Issuer, root: Graph, unique: str
) -> None:
    name = f"{unique}@example.com"
    async with Graph(signed.url, token=issuer.token(name)) as person:
        assert (await person.query(ME))["me"]["can"]["log"] is False
        await root.mutate("grantRole", {"subject": name, "grant": {"role": "CONTRIBUTOR"}})
        async with asyncio.timeout(PATIENCE):
            while not (await person.query(ME))["me"]["can"]["log"]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # as often as one may ask


async def test_what_a_person_has_open_ends_when_the_token_expires(
    signed: Live, issuer: Issuer
) -> None:
    # The clocks of others may be some seconds ahead.
    token = issuer.token("ada@example.com", exp=int(time.time()) - 27)
    with closed(4403, "The token has expired."):
        async with socket(signed.url, authorization=f"Bearer {token}") as opened:
            async for _ in opened.subscribe(FOLLOW):
                pass
