"""Uploads and downloads over HTTP, on local disk and in S3: the same for a client."""

import asyncio
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from threading import Event
from urllib.parse import urlsplit

import pytest

from lifecycle.artifacts.disk import Disk
from lifecycle.database import connect
from tests.artifacts.conftest import Kept
from tests.client import PATIENCE, Graph, Json
from tests.factories import VERSION, a_deployment, a_run, a_version, a_version_in, approved
from tests.following import until
from tests.mutations import global_id
from tests.statements import read, rows
from tests.uploads import (
    ARTIFACT,
    UPLOAD,
    announced,
    begin,
    complete,
    digest_of,
    get,
    put,
    send,
    uploaded,
)

GIB = 1024**3


async def artifacts(graph: Graph, run: str) -> list[Json]:
    query = f"query ($id: ID!) {{ run(id: $id) {{ artifacts {{ {FIELDS} }} }} }}"
    found: list[Json] = (await graph.query(query, {"id": run}))["run"]["artifacts"]
    return found


FIELDS = "name path sizeBytes digest area downloadUrl"


def without_link(artifact: Json) -> Json:
    return {name: value for name, value in artifact.items() if name != "downloadUrl"}


async def failed(graph: Graph, upload: Json) -> tuple[str, str]:
    """How completing an upload that cannot be completed fails."""
    result = await graph.mutate("completeArtifactUpload", {"id": upload["id"]})
    assert result["path"] == ["id"]
    return result["__typename"], result["message"]


# The way there and back.


async def test_a_file_goes_in_and_comes_out(graph: Graph, unique: str) -> None:
    # given
    run = await a_run(graph, unique)
    content = f"weights of {unique}".encode()
    before = datetime.now(UTC)

    # when
    upload = await begin(graph, run, content, path="models/größe 1+1%.pkl", name="Modell №1")
    await put(upload, content)
    before_completion = await artifacts(graph, run)
    artifact = await complete(graph, upload)
    answer = await get(artifact)

    # then
    assert before_completion == []
    described = {
        "path": "models/größe 1+1%.pkl",
        "name": "Modell №1",
        "area": "INTERNAL",
        "sizeBytes": len(content),
        "digest": digest_of(content),
    }
    expires = datetime.fromisoformat(upload.pop("uploadUrlExpiresAt"))
    complete_by = datetime.fromisoformat(upload.pop("completeBy"))
    created = datetime.fromisoformat(upload.pop("createdAt"))
    assert before + timedelta(minutes=14) < expires < datetime.now(UTC) + timedelta(minutes=15)
    assert complete_by - created == timedelta(hours=24)
    assert upload.pop("uploadUrl").startswith("http://127.0.0.1:")
    assert upload == {
        **described,
        "id": upload["id"],
        "createdBy": "tester",
        "completedAt": None,
        "alreadyStored": False,
    }
    assert without_link(artifact) == described
    assert [without_link(each) for each in await artifacts(graph, run)] == [described]
    assert (answer.status_code, answer.content) == (200, content)


@pytest.mark.parametrize("area", ["INTERNAL", "EXTERNAL"])
async def test_both_areas_keep_what_is_theirs(graph: Graph, unique: str, area: str) -> None:
    run, content = await a_run(graph, unique), unique.encode()

    artifact = await uploaded(graph, run, content, area=area)
    other = "EXTERNAL" if area == "INTERNAL" else "INTERNAL"
    there = await begin(graph, run, content, area=area, path="again")
    elsewhere = await begin(graph, run, content, area=other, path="elsewhere")

    assert artifact["area"] == area
    assert (await get(artifact)).content == content
    assert (there["alreadyStored"], there["uploadUrl"]) == (True, None)
    assert elsewhere["alreadyStored"] is False


async def test_a_file_may_be_empty(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique)

    artifact = await uploaded(graph, run, b"")
    answer = await get(artifact)

    assert (artifact["sizeBytes"], artifact["digest"]) == (0, digest_of(b""))
    assert (answer.status_code, answer.content) == (200, b"")


async def test_a_part_of_a_file_can_be_read(graph: Graph, unique: str) -> None:
    artifact = await uploaded(graph, await a_run(graph, unique), unique.encode())

    answer = await get(artifact, range="bytes=2-5")

    assert (answer.status_code, answer.content) == (206, unique[2:6].encode())
    assert answer.headers["content-range"] == f"bytes 2-5/{len(unique)}"


async def test_what_is_stored_already_is_not_sent_again(graph: Graph, unique: str) -> None:
    # given
    first, second = await a_run(graph, unique), await a_run(graph, unique)
    content = unique.encode()
    await uploaded(graph, first, content)

    # when
    upload = await begin(graph, second, content, path="copy.pkl")
    artifact = await complete(graph, upload)

    # then
    assert (upload["alreadyStored"], upload["uploadUrl"]) == (True, None)
    assert upload["uploadUrlExpiresAt"] is None
    assert artifact["path"] == "copy.pkl"
    assert (await get(artifact)).content == content
    assert [each["path"] for each in await artifacts(graph, first)] == ["model.pkl"]


async def test_one_of_the_same_path_is_replaced(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique)
    old = await uploaded(graph, run, f"{unique} old".encode())

    new = await uploaded(graph, run, f"{unique} new".encode())

    assert [each["digest"] for each in await artifacts(graph, run)] == [new["digest"]]
    assert (await get(new)).text == f"{unique} new"
    assert (await get(old)).text == f"{unique} old", "a link leads to what it was made for"


async def test_the_journal_tells_of_an_upload_and_of_the_artifact(
    graph: Graph, unique: str
) -> None:
    run, content = await a_run(graph, unique), unique.encode()

    await uploaded(graph, run, content)

    described = {
        "name": "model",
        "path": "model.pkl",
        "size_bytes": len(content),
        "digest": digest_of(content),
        "area": "INTERNAL",
    }
    log = """query ($id: ID!) { auditLog(filter: { subject: $id }, first: 3) {
        nodes { action actor before after } } }"""

    async def entries() -> list[Json]:
        found: list[Json] = (await graph.query(log, {"id": run}))["auditLog"]["nodes"]
        return found

    # What is there is numbered, and shown, a moment later.
    async with asyncio.timeout(PATIENCE):
        for _ in count():
            if len(found := await entries()) == 3:
                break
            await asyncio.sleep(0.05)
    assert found[:2] == [
        {
            "action": "run.artifacts_logged",
            "actor": "tester",
            "before": {"artifacts": []},
            "after": {"artifacts": [described]},
        },
        {
            "action": "run.artifact_upload_begun",
            "actor": "tester",
            "before": None,
            "after": described,
        },
    ]


async def test_what_is_described_again_stays_what_it_is_and_something_else_does_not(
    graph: Graph, unique: str
) -> None:
    run, content = await a_run(graph, unique), unique.encode()
    artifact = await uploaded(graph, run, content)
    described = {"path": "model.pkl", "name": "other", "digest": artifact["digest"]}

    same = {**described, "sizeBytes": len(content)}
    await graph.done("updateRun", {"id": run, "artifacts": [same]}, "run { id }")
    [as_before] = await artifacts(graph, run)
    await graph.done("updateRun", {"id": run, "artifacts": [described]}, "run { id }")
    [merely_described] = await artifacts(graph, run)

    assert (as_before["name"], as_before["area"]) == ("other", "INTERNAL")
    assert (await get(as_before)).content == content
    assert (merely_described["area"], merely_described["downloadUrl"]) == (None, None)


# What is wrong with what was uploaded.


async def test_nothing_is_completed_before_it_is_uploaded(graph: Graph, unique: str) -> None:
    run, content = await a_run(graph, unique), unique.encode()
    upload = await begin(graph, run, content)

    too_early = await failed(graph, upload)
    await put(upload, content)
    artifact = await complete(graph, upload)

    assert too_early == (
        "Conflict",
        "Nothing has been uploaded yet: PUT the bytes to the uploadUrl first.",
    )
    assert (await get(artifact)).content == content


async def test_other_content_than_was_announced_is_refused_and_can_be_sent_again(
    graph: Graph, unique: str
) -> None:
    # given
    run, content = await a_run(graph, unique), unique.encode()
    other = content[::-1]
    upload = await begin(graph, run, content)
    await put(upload, other)

    # when
    refused = await failed(graph, upload)
    nothing = await artifacts(graph, run)
    await put(upload, content)
    artifact = await complete(graph, upload)

    # then
    assert refused == (
        "Conflict",
        f"What was uploaded has the digest {digest_of(other)}, but {digest_of(content)} was "
        "announced; upload it again.",
    )
    assert nothing == []
    assert (await get(artifact)).content == content
    assert (await begin(graph, run, other, path="b"))["alreadyStored"] is False


async def test_content_that_is_there_has_another_size_than_is_said(
    graph: Graph, unique: str
) -> None:
    run, content = await a_run(graph, unique), unique.encode()
    await uploaded(graph, run, content)

    input = announced(run, content, sizeBytes=len(content) + 1)
    result = await graph.mutate("beginArtifactUpload", input)

    assert (result["__typename"], result["path"]) == ("InvalidInput", ["sizeBytes"])
    assert result["message"] == f"The content with this digest has {len(content)} bytes."


@pytest.mark.parametrize(
    ("wrong", "path", "message"),
    [
        (
            {"sizeBytes": 5 * GIB + 1},
            "sizeBytes",
            "sizeBytes: must not be larger than 5,368,709,120 bytes, the most that is taken at "
            "once",
        ),
        *(
            (
                {"digest": digest},
                "digest",
                "digest: must be sha256: and 64 hexadecimal digits in small letters",
            )
            for digest in (
                "a" * 64,
                f"sha256:{'a' * 63}",
                f"sha256:{'A' * 64}",
                f"md5:{'a' * 32}",
                f"sha256:../../../../{'a' * 52}",
            )
        ),
    ],
)
async def test_what_cannot_be_taken_is_refused_before_anything_is_sent(
    graph: Graph, unique: str, wrong: Json, path: str, message: str
) -> None:
    run = await a_run(graph, unique)

    result = await graph.mutate("beginArtifactUpload", announced(run, b"content") | wrong)

    assert result == {
        "__typename": "InvalidInput",
        "code": "INVALID_INPUT",
        "message": message,
        "path": [path],
    }


async def test_the_largest_file_that_is_taken_may_be_announced(graph: Graph, unique: str) -> None:
    run = await a_run(graph, unique)
    largest = announced(run, b"", sizeBytes=5 * GIB, digest=digest_of(unique.encode()))

    upload = await graph.done("beginArtifactUpload", largest, UPLOAD)

    assert upload["sizeBytes"] == 5 * GIB
    assert upload["uploadUrl"] is not None


async def test_there_is_no_such_run_and_no_such_upload(graph: Graph, unique: str) -> None:
    no_run = await graph.mutate("beginArtifactUpload", announced(global_id("Run"), b""))
    no_upload = await graph.mutate("completeArtifactUpload", {"id": global_id("ArtifactUpload")})

    assert (no_run["__typename"], no_run["path"]) == ("NotFound", ["runId"])
    assert (no_upload["__typename"], no_upload["path"]) == ("NotFound", ["id"])


# The same more than once, and at once.


async def test_an_upload_is_completed_once_however_often_it_is_said(
    kept: Kept, graph: Graph, unique: str
) -> None:
    run, content = await a_run(graph, unique), unique.encode()
    upload = await begin(graph, run, content)
    await put(upload, content)

    many = await asyncio.gather(*(complete(graph, upload) for _ in range(8)))
    again = await complete(graph, upload)

    assert {each["digest"] for each in (*many, again)} == {digest_of(content)}
    ((logged,),) = await rows(
        kept.live.database,
        "SELECT count(*) FROM event WHERE type = 'run.artifacts_logged' AND after::text "
        "LIKE '%' || :digest || '%'",
        digest=digest_of(content),
    )
    assert logged == 1


async def test_a_key_stands_for_one_upload_with_a_new_link_each_time(
    graph: Graph, unique: str
) -> None:
    run, content = await a_run(graph, unique), unique.encode()
    key = {"idempotencyKey": unique}

    first = await begin(graph, run, content, **key)
    again = await begin(graph, run, content, **key)
    await put(again, content)
    artifact = await complete(graph, first)
    at_last = await begin(graph, run, content, **key)

    assert first["id"] == again["id"] == at_last["id"]
    assert (at_last["alreadyStored"], at_last["uploadUrl"]) == (True, None)
    assert at_last["completedAt"] is not None
    assert (await get(artifact)).content == content


async def test_the_same_content_may_be_uploaded_twice_at_once(graph: Graph, unique: str) -> None:
    # given
    content = unique.encode()
    runs = [await a_run(graph, unique) for _ in range(4)]
    uploads = [await begin(graph, run, content) for run in runs]

    # when
    async def send_and_complete(upload: Json) -> Json:
        await put(upload, content)
        return await complete(graph, upload)

    found = await asyncio.gather(*map(send_and_complete, uploads))

    # then
    assert [upload["alreadyStored"] for upload in uploads] == [False] * 4
    for artifact in found:
        assert (await get(artifact)).content == content


async def test_what_is_put_while_it_is_being_completed_changes_nothing(
    graph: Graph, unique: str
) -> None:
    """What is kept under a digest has that digest, whoever writes at the same time."""
    run, content = await a_run(graph, unique), unique.encode() * 50_000
    other = bytes(len(content))

    for attempt in range(6):
        good = content + str(attempt).encode()
        upload = await begin(graph, run, good, path=str(attempt))
        await put(upload, good)
        result, answer = await asyncio.gather(
            graph.mutate("completeArtifactUpload", {"id": upload["id"]}, ARTIFACT),
            send("PUT", upload["uploadUrl"], content=other + b"0"),
        )
        assert answer.status_code in (200, 409), answer.text
        if result["__typename"] == "CompleteArtifactUploadSuccess":
            found = (await get(result["artifact"])).content
            assert hashlib.sha256(found).hexdigest() == hashlib.sha256(good).hexdigest()
        else:
            assert result["__typename"] == "Conflict", result
            assert (await begin(graph, run, good, path="x"))["alreadyStored"] is False


async def test_principals_take_turns_to_have_their_uploads_read(
    on_disk: Kept, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, live = on_disk.graph, on_disk.live
    # given: one whose uploads take long to read, as many as may be read of one, and more
    go_on, chunks = Event(), Disk.chunks

    def slowly(disk: Disk, key: str) -> Iterator[bytes]:
        for chunk in chunks(disk, key):
            assert not chunk.startswith(b"slow") or go_on.wait(PATIENCE)
            yield chunk

    monkeypatch.setattr(Disk, "chunks", slowly)
    run = await a_run(graph, unique)

    async def sent(content: bytes) -> Json:
        upload = await begin(graph, run, content, path=content.decode())
        await put(upload, content)
        return upload

    slow = [await sent(f"slow {unique} {n}".encode()) for n in range(7)]
    content = unique.encode()
    quick = await sent(content)
    reading = [asyncio.create_task(complete(graph, upload)) for upload in slow]
    turns = live.app.state.storage._turns
    await until(lambda: (turns.running, turns.waiting) == (4, 3))

    # when: another completes one
    async with Graph(live.url, "eve") as eve:
        artifact = await complete(eve, quick)

    # then: that is read first, and the others when it is their turn
    assert (await get(artifact)).content == content
    assert (turns.running, turns.waiting) == (4, 3)
    go_on.set()
    assert len(await asyncio.gather(*reading)) == 7
    assert (turns.running, turns.waiting) == (0, 0)


# Links.


async def test_a_link_does_what_it_was_made_for_and_nothing_else(graph: Graph, unique: str) -> None:
    # given
    run, content = await a_run(graph, unique), unique.encode()
    first = await uploaded(graph, run, content)
    upload = await begin(graph, run, content[::-1], path="other")
    down, up = first["downloadUrl"], upload["uploadUrl"]
    key = urlsplit(down).path.partition("sha256/")[2]

    # when
    answers = {
        "write by a link to read": await send("PUT", down, content=b"x"),
        "read by a link to write": await send("GET", up),
        "remove": await send("DELETE", down),
        "another object": await send("GET", down.replace(key, f"00/{'0' * 64}")),
        "above": await send("GET", down.replace(f"sha256/{key}", "secret")),
        "no signature": await send("GET", down.partition("?")[0]),
        "another place": await send("PUT", up.replace("/content", "/other"), content=b"x"),
    }

    # then
    statuses = {name: answer.status_code for name, answer in answers.items()}
    assert {name: status for name, status in statuses.items() if status not in (403, 405)} == {}
    assert (await get(first)).content == content


# Of versions.


WAITS = """SELECT count(*) > 0 FROM pg_locks
WHERE NOT granted AND relation = 'deployment'::regclass"""


async def artifact_url(graph: Graph, version: Json) -> str | None:
    query = "query ($id: ID!) { modelVersion(by: { id: $id }) { artifactUrl } }"
    found: str | None = (await graph.query(query, {"id": version["id"]}))["modelVersion"][
        "artifactUrl"
    ]
    return found


async def test_what_is_in_production_leads_to_nothing_that_was_not_approved(
    graph: Graph, unique: str
) -> None:
    # given
    run, contents = await a_run(graph, unique), {"good": unique.encode(), "bad": b"bad"}
    for path, content in contents.items():
        await uploaded(graph, run, content, path=path)
    version = await a_version_in(graph, unique, "PRODUCTION", runId=run, artifactPath="good")

    async def served() -> bytes | None:
        url = await artifact_url(graph, version)
        return None if url is None else (await send("GET", url)).content

    async def change(path: str) -> None:
        file = {"artifactPath": path, "artifactDigest": digest_of(contents[path])}
        input = {"modelVersion": {"id": version["id"]}, **file}
        await graph.done("updateModelVersion", input, VERSION)

    # when, then
    assert await served() == contents["good"]
    await change("bad")
    assert await served() is None
    await change("good")
    assert await served() == contents["good"]
    await change("bad")
    await approved(graph, version)
    assert await served() == contents["bad"]
    # Displaced, it is live as long as its deployment.
    deployment = await a_deployment(graph, version, "PRODUCTION")
    await a_version_in(graph, unique, "PRODUCTION")
    assert await served() == contents["bad"]
    await change("good")
    assert await served() is None
    # What is approved now comes into production by a promotion, not by what is live there.
    await approved(graph, version)
    assert await served() is None
    await graph.done("terminateDeployment", {"id": deployment}, "deployment { id }")
    assert await served() == contents["good"]


async def test_what_changes_while_it_is_looked_at_leads_to_nothing_that_was_not_approved(
    kept: Kept, graph: Graph, unique: str
) -> None:
    # given: what is in production has become something else
    run = await a_run(graph, unique)
    for path in ("good", "bad"):
        await uploaded(graph, run, f"{path} {unique}".encode(), path=path)
    version = await a_version_in(graph, unique, "PRODUCTION", runId=run, artifactPath="good")

    async def change(path: str) -> None:
        file = {"artifactPath": path, "artifactDigest": digest_of(f"{path} {unique}".encode())}
        input = {"modelVersion": {"id": version["id"]}, **file}
        await graph.done("updateModelVersion", input, VERSION)

    await change("bad")

    # when: it becomes what it was after somebody has read what it is, and before they look whether
    # that was approved
    sql = await connect(kept.live.database.url, "test")
    async with sql.transaction():
        await sql.execute("LOCK TABLE deployment IN ACCESS EXCLUSIVE MODE")
        asking = asyncio.create_task(artifact_url(graph, version))
        async with asyncio.timeout(PATIENCE):
            while not await sql.fetchval(WAITS):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await change("good")
    await sql.close()
    found = await asking

    # then
    assert found is None
    assert (await send("GET", await artifact_url(graph, version) or "")).content.startswith(b"good")


async def test_a_version_leads_to_what_its_run_has_uploaded(graph: Graph, unique: str) -> None:
    # given
    run, content = await a_run(graph, unique), unique.encode()
    await uploaded(graph, run, content, path="models/a.pkl")
    version = await a_version(graph, unique, runId=run, artifactPath="models/a.pkl")

    # when
    url = await artifact_url(graph, version)
    other = await a_version(graph, unique, artifactPath="models/a.pkl")
    without = await artifact_url(graph, other)
    await uploaded(graph, run, content[::-1], path="models/a.pkl")
    replaced = await artifact_url(graph, version)

    # then
    assert url is not None
    assert (await send("GET", url)).content == content
    assert without is None, "it has no run"
    assert replaced is not None, "what its run has there by now is not what it is"
    assert (await send("GET", replaced)).content == content


async def test_a_version_leads_to_its_file_whatever_its_run_uploads_at_the_path_later(
    kept: Kept, graph: Graph, unique: str
) -> None:
    """As a run does that writes each of its checkpoints to the same path."""
    # given
    run, first, second = await a_run(graph, unique), unique.encode(), unique.encode()[::-1]
    file: Json = {"runId": run, "artifactPath": "model.pkl"}
    await uploaded(graph, run, first)
    version = await a_version_in(graph, unique, "PRODUCTION", **file)
    await uploaded(graph, run, second, area="EXTERNAL")
    later = await a_version(graph, unique, **file)
    # What is only described is kept nowhere, be it the same.
    described = {"name": "model", "path": "model.pkl", "digest": digest_of(first)}
    await graph.done("updateRun", {"id": run, "artifacts": [described]}, "run { id }")

    async def of(content: bytes) -> Json:
        return await a_version(graph, unique, **file, artifactDigest=digest_of(content))

    async def elsewhere(place: str, content: bytes, path: str) -> Json:
        await uploaded(graph, place, content, path=path)
        return await of(content)

    # when
    await begin(graph, run, b"never sent")
    nowhere = [
        await of(b"never sent"),
        await of(b"never announced"),
        await elsewhere(run, b"at another path", "other.pkl"),
        await elsewhere(await a_run(graph, unique), b"of another run", "model.pkl"),
    ]
    query = (
        "query ($name: String!) { model(name: $name) { versions { nodes { id artifactUrl } } } }"
    )
    with read(kept.live.database) as statements:
        found = await graph.query(query, {"name": unique})
    urls = {node["id"]: node["artifactUrl"] for node in found["model"]["versions"]["nodes"]}

    # then
    assert (await send("GET", urls[version["id"]])).content == first
    assert (await send("GET", urls[later["id"]])).content == second
    assert [urls[each["id"]] for each in nowhere] == [None] * 4
    # Of what is in PRODUCTION something else is looked at before.
    assert len([sql for sql, _ in statements if "FROM artifact_upload" in sql]) in (1, 2)


async def test_what_is_submitted_is_what_its_run_had_uploaded_by_then(
    graph: Graph, unique: str
) -> None:
    # given
    run, content = await a_run(graph, unique), unique.encode()
    path = {"path": "models/a.pkl"}
    version = await a_version(graph, unique, runId=run, artifactPath="models/a.pkl")
    await uploaded(graph, run, content, **path)
    unnamed = await artifact_url(graph, version)
    input: Json = {"modelVersion": {"id": version["id"]}}
    selection = "modelVersion { artifactDigest sizeBytes }"

    # when
    found = (await graph.mutate("submitForApproval", input, selection))["modelVersion"]
    url = await artifact_url(graph, version)
    await uploaded(graph, run, content[::-1], **path)
    replaced = await artifact_url(graph, version)

    # then
    assert unnamed is None, "nobody has said that it is this one"
    assert found == {"artifactDigest": digest_of(content), "sizeBytes": len(content)}
    assert url is not None
    assert (await send("GET", url)).content == content
    assert (await send("GET", replaced or "")).content == content


async def test_what_comes_after_the_approval_is_not_given_out_as_approved(
    graph: Graph, unique: str
) -> None:
    # given
    run, content = await a_run(graph, unique), unique.encode()
    version = await a_version(graph, unique, runId=run, artifactPath="models/a.pkl")
    version = await approved(graph, version)

    # when
    await uploaded(graph, run, content, path="models/a.pkl")
    unapproved = await artifact_url(graph, version)
    input = {"modelVersion": {"id": version["id"]}, "artifactDigest": digest_of(content)}
    selection = "modelVersion { approval { status } }"
    named = await graph.done("updateModelVersion", input, selection)
    # What else is said of it does not hide it.
    resized = {"modelVersion": {"id": version["id"]}, "sizeBytes": 1}
    await graph.done("updateModelVersion", resized, "modelVersion { id }")
    url = await artifact_url(graph, version)

    # then
    assert unapproved is None
    assert named == {"approval": {"status": "STALE"}}
    assert url is not None


async def test_an_address_is_what_it_is_whatever_is_uploaded_under_its_name(
    graph: Graph, unique: str
) -> None:
    """Else what is approved as an upload becomes whatever is at the address."""
    # given: an upload whose path is an address, which is approved
    run, address = await a_run(graph, unique), f"https://models.example/{unique}"
    await uploaded(graph, run, b"good", path=address)
    version = await a_version_in(graph, unique, "PRODUCTION", runId=run, artifactPath=address)
    reviewed = await artifact_url(graph, version)

    # when: somebody uploads something else there
    await uploaded(graph, run, b"other", path=address)
    served = await artifact_url(graph, version)

    # then
    assert (reviewed, served) == (address, address)


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("https://models.example/a.pkl?b=1", "https://models.example/a.pkl?b=1"),
        ("http://models.example", "http://models.example"),
        ("https:///a", None),
        ("http://[a", None),
        ("file:///etc/passwd", None),
        ("/etc/passwd", None),
        ("../secret", None),
        ("javascript:alert(1)", None),
        ("runs:/0/model", None),
        ("s3://elsewhere/a", None),
        ("s3://internal/below/other", None),
        ("s3://internal/below/this/../../a", None),
        ("s3://internal/below/this/", None),
        ("s3://internal/below/this/a\\b", None),
        ("s3://internal/below/thisandthat", None),
        ("gs://internal/a", None),
        (None, None),
    ],
)
async def test_where_the_file_of_a_version_lies_elsewhere(
    graph: Graph, unique: str, path: str | None, url: str | None
) -> None:
    version = await a_version(graph, unique, artifactPath=path)

    assert await artifact_url(graph, version) == url
