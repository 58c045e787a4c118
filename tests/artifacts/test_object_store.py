"""What only an object store has: it can be gone or elsewhere, and has objects of others."""

import gzip
import hashlib
from urllib.parse import urlsplit

import obstore
import pytest
from obstore.store import S3Store

from lifecycle.artifacts.storage import Storage
from lifecycle.runs.rules import ArtifactArea
from lifecycle.settings import Settings
from schema import ids
from tests.artifacts.conftest import Kept, keeping
from tests.client import PATIENCE, Graph
from tests.factories import a_run, a_version
from tests.objectstore import Store, an_object_store
from tests.restricted import seeing
from tests.uploads import announced, begin, complete, get, put, send

GONE = {
    "__typename": "Unavailable",
    "code": "UNAVAILABLE",
    "message": "What stores artifacts is not available; try again.",
    "path": [],
}


def bucket(name: str) -> S3Store:
    """A bucket of the store that the environment names."""
    return S3Store(name, client_options={"allow_http": True})


async def test_bytes_go_straight_to_the_store_and_lie_below_the_prefix(
    in_s3: Kept, store: Store, unique: str
) -> None:
    graph = in_s3.graph

    upload = await begin(graph, await a_run(graph, unique), unique.encode())
    await put(upload, unique.encode())
    artifact = await complete(graph, upload)

    for url in (upload["uploadUrl"], artifact["downloadUrl"]):
        assert url.startswith(f"{store.url}/internal/below/this/")
    key = urlsplit(artifact["downloadUrl"]).path.removeprefix("/internal/")
    listed = obstore.list(bucket("internal"), "below/this").collect()
    assert key in {each["path"] for each in listed}
    assert not any(upload["id"] in each["path"] for each in listed)
    left = obstore.list(bucket("internal"), "below/this/uploads").collect()
    assert not [each for each in left if urlsplit(upload["uploadUrl"]).path.endswith(each["path"])]


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate, gzip"])
async def test_what_clients_would_decode_is_not_kept(
    in_s3: Kept, unique: str, encoding: str
) -> None:
    # given: bytes that are one thing as they stand, and another one unpacked
    graph, content = in_s3.graph, gzip.compress(b"bad") + unique.encode()
    upload = await begin(graph, await a_run(graph, unique), content)
    headers = {"content-encoding": encoding}
    answer = await send("PUT", upload["uploadUrl"], content=content, headers=headers)
    assert answer.status_code == 200

    # when
    refused = await graph.mutate("completeArtifactUpload", {"id": upload["id"]})
    missing = await graph.mutate("completeArtifactUpload", {"id": upload["id"]})
    await put(upload, content)
    artifact = await complete(graph, upload)

    # then
    assert (refused["__typename"], refused["path"]) == ("Conflict", ["id"])
    assert refused["message"] == (
        "What was uploaded was sent with a Content-Encoding, so clients would not get the bytes "
        "that have this digest; upload it again without one."
    )
    assert missing["message"] == (
        "Nothing has been uploaded yet: PUT the bytes to the uploadUrl first."
    )
    assert (await get(artifact)).content == content


async def test_a_version_may_lie_in_an_area_already(in_s3: Kept, unique: str) -> None:
    obstore.put(bucket("internal"), f"below/this/models/{unique} é.pkl", b"weights")
    obstore.put(bucket("external"), f"{unique}.csv", b"1,2")
    paths = {
        f"s3://internal/below/this/models/{unique} é.pkl": b"weights",
        f"s3://external/{unique}.csv": b"1,2",
    }

    for path, content in paths.items():
        version = await a_version(in_s3.graph, unique, artifactPath=path)
        query = "query ($id: ID!) { modelVersion(by: { id: $id }) { artifactUrl } }"
        found = await in_s3.graph.query(query, {"id": version["id"]})
        assert (await send("GET", found["modelVersion"]["artifactUrl"])).content == content


async def test_the_place_of_hidden_content_leads_nowhere(in_s3: Kept, unique: str) -> None:
    content = unique.encode()
    upload = await begin(in_s3.graph, await a_run(in_s3.graph, unique), content)
    await put(upload, content)
    artifact = await complete(in_s3.graph, upload)
    place = f"s3:/{urlsplit(artifact['downloadUrl']).path}"
    version = await a_version(in_s3.graph, unique, artifactPath=place)
    query = "query ($id: ID!) { modelVersion(by: { id: $id }) { artifactUrl model { id } } }"
    found = (await in_s3.graph.query(query, {"id": version["id"]}))["modelVersion"]
    assert (await send("GET", found["artifactUrl"])).content == content

    # The version is visible, but no run that has the content.
    with seeing(**{unique: frozenset({ids.decode("Model", found["model"]["id"])})}):
        async with Graph(in_s3.graph.url, unique) as seer:
            hidden = (await seer.query(query, {"id": version["id"]}))["modelVersion"]

    assert hidden == {"artifactUrl": None, "model": found["model"]}


async def test_the_place_of_content_leads_nowhere_for_a_version_that_names_another(
    in_s3: Kept, unique: str
) -> None:
    # given: a version that could be approved for one content, at whose path there is another
    graph, content = in_s3.graph, unique.encode()
    upload = await begin(graph, await a_run(graph, unique), content)
    await put(upload, content)
    artifact = await complete(graph, upload)
    place = f"s3:/{urlsplit(artifact['downloadUrl']).path}"
    other = f"sha256:{hashlib.sha256(b'another').hexdigest()}"
    query = "query ($id: ID!) { modelVersion(by: { id: $id }) { artifactUrl } }"

    # when
    urls = []
    for digest in (artifact["digest"], other):
        version = await a_version(graph, unique, artifactPath=place, artifactDigest=digest)
        found = await graph.query(query, {"id": version["id"]})
        urls.append(found["modelVersion"]["artifactUrl"])

    # then
    assert (await send("GET", urls[0])).content == content
    assert urls[1] is None


@pytest.mark.parametrize("slash", ["/", "\\"])
async def test_the_place_of_an_upload_that_goes_on_leads_nowhere(
    in_s3: Kept, unique: str, slash: str
) -> None:
    """It is its uploader's alone, who may still send something else there. To some stores a
    backslash is a slash."""
    upload = await begin(in_s3.graph, await a_run(in_s3.graph, unique), unique.encode())
    await put(upload, unique.encode())
    place = f"s3:/{urlsplit(upload['uploadUrl']).path}".replace("/uploads/", f"/uploads{slash}")

    version = await a_version(in_s3.graph, unique, artifactPath=place)

    query = "query ($id: ID!) { modelVersion(by: { id: $id }) { artifactUrl } }"
    found = await in_s3.graph.query(query, {"id": version["id"]})
    assert found == {"modelVersion": {"artifactUrl": None}}


async def test_the_place_of_an_upload_is_known_where_one_area_lies_within_the_other(
    store: Store,
) -> None:
    areas = {ArtifactArea.INTERNAL: "s3://internal", ArtifactArea.EXTERNAL: "s3://internal/outer"}
    storage = Storage(areas)

    for location in areas.values():
        assert await storage.link_to(f"{location}/uploads/{'0' * 32}/content") is None
        assert await storage.link_to(f"{location}/of-others/uploads/content") is not None
    storage.close()


def test_the_place_of_content_is_known_where_one_area_lies_within_the_other(
    store: Store,
) -> None:
    digest = "ab" * 32
    areas = {ArtifactArea.INTERNAL: "s3://internal", ArtifactArea.EXTERNAL: "s3://internal/outer"}
    storage = Storage(areas)

    for area, location in areas.items():
        found = storage.content_at(f"{location}/sha256/ab/{digest}")
        assert found == (area, f"sha256:{digest}")
    storage.close()


async def test_while_the_store_is_gone_nothing_begins_and_nothing_is_lost(
    artifact_database_url: str, unique: str
) -> None:
    with an_object_store() as store, pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        async with keeping(artifact_database_url, "s3://internal", "s3://external") as kept:
            # given
            graph, run = kept.graph, await a_run(kept.graph, unique)
            content = unique.encode()
            upload = await begin(graph, run, content)
            await put(upload, content)

            # when
            store.process.terminate()
            store.process.wait(PATIENCE)
            new = await graph.mutate("beginArtifactUpload", announced(run, b"new"))
            completed = await graph.mutate("completeArtifactUpload", {"id": upload["id"]})
            query = "query ($id: ID!) { run(id: $id) { artifacts { path downloadUrl } } }"
            listed = await graph.query(query, {"id": run})

    # then
    assert new == completed == GONE
    assert listed == {"run": {"artifacts": []}}


async def test_a_bucket_that_is_not_there_is_unavailable(
    artifact_database_url: str, store: Store, unique: str
) -> None:
    async with keeping(artifact_database_url, "s3://nothing/here", "s3://external") as kept:
        run = await a_run(kept.graph, unique)

        assert await kept.graph.mutate("beginArtifactUpload", announced(run, b"")) == GONE


async def test_links_lead_to_where_clients_reach_the_store(
    artifact_database_url: str, store: Store, unique: str
) -> None:
    elsewhere = store.url.replace("127.0.0.1", "localhost")
    async with keeping(
        artifact_database_url, "s3://internal/public", "s3://external", s3_public_url=elsewhere
    ) as kept:
        upload = await begin(kept.graph, await a_run(kept.graph, unique), unique.encode())
        await put(upload, unique.encode())
        artifact = await complete(kept.graph, upload)
        answer = await get(artifact)

    assert upload["uploadUrl"].startswith(f"{elsewhere}/internal/public/uploads/")
    assert artifact["downloadUrl"].startswith(f"{elsewhere}/internal/public/sha256/")
    assert answer.content == unique.encode()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "LIFECYCLE_ARTIFACTS",
            "gs://bucket",
            "LIFECYCLE_ARTIFACTS must be a directory or s3://bucket/prefix, not 'gs://bucket'.",
        ),
        (
            "LIFECYCLE_EXTERNAL_ARTIFACTS",
            "s3:///prefix",
            "LIFECYCLE_EXTERNAL_ARTIFACTS must be a directory or s3://bucket/prefix, not "
            "'s3:///prefix'.",
        ),
        (
            "LIFECYCLE_S3_PUBLIC_URL",
            "localhost:8333",
            "LIFECYCLE_S3_PUBLIC_URL must begin with http:// or https://, not 'localhost:8333'.",
        ),
    ],
)
def test_a_setting_that_cannot_be_right_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ValueError, match="must") as raised:
        Settings.from_environment()

    assert str(raised.value) == message


def test_without_settings_areas_are_in_the_data_directory() -> None:
    settings = Settings()

    assert settings.internal_area == ".lifecycle/artifacts/internal"
    assert settings.external_area == ".lifecycle/artifacts/external"
