"""What only a local directory has: links that the service itself answers, and files."""

import asyncio
import errno
import socket
import stat
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import psutil
import pytest
from sqlalchemy import text

from lifecycle.artifacts.disk import BadLink, Disk, Part
from tests.artifacts.conftest import Kept, files_below, keeping
from tests.client import Graph
from tests.factories import a_run
from tests.following import until
from tests.uploads import announced, begin, complete, digest_of, get, put, send, uploaded


@pytest.fixture
def kept(on_disk: Kept) -> Kept:
    return on_disk


def uploads(kept: Kept) -> list[str]:
    """What lies about of uploads that are not complete."""
    return [path for path in files_below(kept.internal) if path.startswith("uploads/")]


def said(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["message"]


# Links.


async def test_content_comes_under_its_name_and_is_no_page(graph: Graph, unique: str) -> None:
    page = b"<script>alert(1)</script>" + unique.encode()
    artifact = await uploaded(graph, await a_run(graph, unique), page, name="Bericht 1;.html")

    answer = await get(artifact)
    head = await send("HEAD", artifact["downloadUrl"])

    shown = {name: answer.headers[name] for name in ("content-type", "content-disposition")}
    assert shown == {
        "content-type": "application/octet-stream",
        "content-disposition": "attachment; filename*=utf-8''Bericht%201%3B.html",
    }
    assert answer.headers["content-security-policy"] == "sandbox"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(page))


@pytest.mark.parametrize(
    "change",
    [
        ("expires=1", "expires=2"),
        ("name=model", "name=evil"),
        ("name=model", "name=model&name=evil"),
        ("signature=", "signature=0"),
        ("&signature=", "&signature=&signature="),
        ("/internal/", "/external/"),
        ("/sha256/", "/sha256/../sha256/"),
    ],
)
async def test_a_link_that_was_altered_is_refused(
    graph: Graph, unique: str, change: tuple[str, str]
) -> None:
    artifact = await uploaded(graph, await a_run(graph, unique), unique.encode())
    url = artifact["downloadUrl"]
    assert change[0] in url
    address, path = urlsplit(url), url.replace(*change, 1)[len(url.partition("/artifacts")[0]) :]

    # httpx would tidy the path up.
    with socket.create_connection((str(address.hostname), address.port or 80)) as raw:
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        await asyncio.to_thread(raw.sendall, request.encode())
        answer = await asyncio.to_thread(lambda: raw.makefile("rb").read().decode())

    assert answer.startswith("HTTP/1.1 403")
    assert "This link was not made here, or was altered." in answer


async def test_a_link_expires(tmp_path: Path) -> None:
    disk = Disk("internal", tmp_path)

    lasting, over = (
        urlsplit(disk.link("GET", "a", seconds, "", name="n")).query for seconds in (60, -1)
    )

    assert disk.check("GET", "a", lasting) == {"name": "n"}
    with pytest.raises(BadLink, match=r"^This link has expired; ask for another\.$"):
        disk.check("GET", "a", over)


async def test_an_expired_link_is_refused_over_http(kept: Kept, unique: str) -> None:
    artifact = await uploaded(kept.graph, await a_run(kept.graph, unique), unique.encode())
    key = urlsplit(artifact["downloadUrl"]).path.removeprefix("/artifacts/internal/")
    old = Disk("internal", Path(kept.internal)).link("GET", key, -1, kept.live.url, name="n")

    assert said(await send("GET", old)) == (403, "This link has expired; ask for another.")


async def test_a_link_of_another_directory_is_refused(kept: Kept, tmp_path: Path) -> None:
    foreign = Disk("internal", tmp_path).link("GET", "secret", 60, kept.live.url, name="n")
    query = urlencode({"expires": int(time.time()) + 60, "name": "n", "signature": "é"})

    for url in (foreign, f"{kept.live.url}/artifacts/internal/secret?{query}"):
        assert said(await send("GET", url)) == (
            403,
            "This link was not made here, or was altered.",
        )
    nowhere = f"{kept.live.url}/artifacts/nowhere/a?{query}"
    assert said(await send("GET", nowhere)) == (404, "There is no such area here.")


def test_all_who_share_a_directory_make_and_take_the_same_links(tmp_path: Path) -> None:
    # given: nobody was there before
    disks = [Disk("internal", tmp_path / "new") for _ in range(8)]

    # when
    with ThreadPoolExecutor(len(disks)) as pool:
        links = list(pool.map(lambda disk: disk.link("GET", "a", 60, ""), disks))

    # then
    for disk in disks:
        for link in links:
            assert disk.check("GET", "a", urlsplit(link).query) == {}
    [secret] = (tmp_path / "new").iterdir()
    assert (secret.name, stat.S_IMODE(secret.stat().st_mode)) == ("secret", 0o600)
    assert len(secret.read_bytes()) == 64


async def test_a_link_that_leads_out_of_the_area_is_not_followed(kept: Kept, unique: str) -> None:
    # given
    graph, content = kept.graph, unique.encode()
    artifact = await uploaded(graph, await a_run(graph, unique), content)
    key = urlsplit(artifact["downloadUrl"]).path.removeprefix("/artifacts/internal/")
    file = Path(kept.internal) / key

    # when
    file.unlink()
    gone = await get(artifact)
    file.symlink_to("/etc/passwd")
    symbolic = await get(artifact)

    # then
    assert said(gone) == said(symbolic) == (404, "The content is not there any more.")


# Writing.


async def test_more_or_less_than_was_announced_is_not_taken(kept: Kept, unique: str) -> None:
    # given
    graph, content = kept.graph, unique.encode() * 100_000
    upload = await begin(graph, await a_run(graph, unique), content)

    async def without_length(content: bytes) -> Any:
        for start in range(0, len(content), 70_000):
            yield content[start : start + 70_000]

    # when
    answers = [
        await send("PUT", upload["uploadUrl"], content=given)
        for given in (content + b"1", content[1:], without_length(content[1:]), b"")
    ]
    too_long = await send("PUT", upload["uploadUrl"], content=without_length(content + content))
    nothing = uploads(kept)
    taken = await send("PUT", upload["uploadUrl"], content=without_length(content))

    # then
    size = len(content)
    wrong = f"{size:,} bytes were announced for this link, not"
    assert [said(answer) for answer in answers] == [
        (413, f"{wrong} {size + 1:,}."),
        (400, f"{wrong} {size - 1:,}."),
        (400, f"{wrong} {size - 1:,}."),
        (400, f"{wrong} 0."),
    ]
    assert said(too_long)[0] == 413
    assert nothing == []
    assert taken.status_code == 200
    assert (await get(await complete(graph, upload))).content == content
    assert uploads(kept) == []


async def test_what_is_cut_off_leaves_nothing_and_can_be_sent_again(
    kept: Kept, unique: str
) -> None:
    # given
    graph, content = kept.graph, unique.encode() * 200_000
    upload = await begin(graph, await a_run(graph, unique), content)
    address = urlsplit(upload["uploadUrl"])

    # when
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(
        f"PUT {address.path}?{address.query} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(content)}\r\n\r\n".encode()
    )
    writer.write(content[: len(content) // 2])
    await writer.drain()
    await until(lambda: len(uploads(kept)) == 1)
    [part] = uploads(kept)
    early = await graph.mutate("completeArtifactUpload", {"id": upload["id"]})
    writer.transport.abort()
    await until(lambda: uploads(kept) == [])

    # then
    assert part.endswith(".part")
    assert early["message"].startswith("Nothing has been uploaded yet")
    await put(upload, content)
    assert (await get(await complete(graph, upload))).content == content


async def test_what_is_still_being_sent_when_its_upload_is_completed_is_refused(
    kept: Kept, unique: str
) -> None:
    # given
    graph, content = kept.graph, unique.encode() * 100_000
    upload = await begin(graph, await a_run(graph, unique), content)
    await put(upload, content)
    completed = asyncio.Event()

    async def again() -> AsyncIterator[bytes]:
        yield content[:70_000]
        await completed.wait()
        yield content[70_000:]

    # when
    sending = asyncio.create_task(send("PUT", upload["uploadUrl"], content=again()))
    await until(lambda: any(path.endswith(".part") for path in uploads(kept)))
    artifact = await complete(graph, upload)
    completed.set()

    # then
    assert said(await sending) == (
        409,
        "The upload was completed meanwhile, or has expired: begin another one.",
    )
    assert (await get(artifact)).content == content
    assert uploads(kept) == []


async def test_content_is_there_once_and_belongs_to_nobody_else(kept: Kept, unique: str) -> None:
    graph, content = kept.graph, unique.encode()
    run = await a_run(graph, unique)

    for path in ("a", "b"):
        await uploaded(graph, run, content, path=path)

    hexadecimal = digest_of(content).removeprefix("sha256:")
    key = f"sha256/{hexadecimal[:2]}/{hexadecimal}"
    assert [path for path in files_below(kept.internal) if hexadecimal in path] == [key]
    assert stat.S_IMODE((Path(kept.internal) / key).stat().st_mode) == 0o600


@pytest.mark.parametrize("location", ["/sys/artifacts", "/proc/artifacts"])
async def test_a_directory_that_cannot_be_written_to_is_unavailable(
    artifact_database_url: str, unique: str, location: str
) -> None:
    async with keeping(artifact_database_url, location, location) as kept:
        run = await a_run(kept.graph, unique)

        result = await kept.graph.mutate("beginArtifactUpload", announced(run, b"content"))

    assert result == {
        "__typename": "Unavailable",
        "code": "UNAVAILABLE",
        "message": "What stores artifacts is not available; try again.",
        "path": [],
    }


@pytest.mark.parametrize("step", ["write", "finish"])
async def test_a_disk_that_is_full_before_its_first_use_has_nothing_left_on_it(
    artifact_database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unique: str,
    step: str,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with keeping(artifact_database_url, str(tmp_path), str(tmp_path)) as kept:
        run = await a_run(kept.graph, unique)

        # when
        with monkeypatch.context() as patch:
            patch.setattr(Part, step, full)
            results = [
                await kept.graph.mutate("beginArtifactUpload", announced(run, b"content"))
                for _ in range(3)
            ]
        left = files_below(str(tmp_path))
        opened = [file.path for file in psutil.Process().open_files()]

        # then
        assert [result["__typename"] for result in results] == ["Unavailable"] * 3
        assert left == []
        assert [path for path in opened if path.startswith(str(tmp_path))] == []
        assert (await get(await uploaded(kept.graph, run, b"content"))).content == b"content"


async def test_what_is_left_of_old_uploads_is_removed(kept: Kept, unique: str) -> None:
    # given: one that was never completed, and one to which something was sent afterwards
    graph, run = kept.graph, await a_run(kept.graph, unique)
    abandoned = await begin(graph, run, unique.encode(), path="abandoned")
    await put(abandoned, unique.encode())
    late = await begin(graph, run, unique.encode()[::-1], path="late")
    await put(late, unique.encode()[::-1])
    artifact = await complete(graph, late)
    await put(late, unique.encode())
    fresh = await begin(graph, run, b"fresh" + unique.encode(), path="fresh")
    await put(fresh, b"fresh" + unique.encode())
    assert len(uploads(kept)) == 3

    # when
    await age(kept, "abandoned", "late")
    await until(lambda: len(uploads(kept)) == 1)

    # then
    result = await graph.mutate("completeArtifactUpload", {"id": abandoned["id"]})
    assert result["__typename"] == "Conflict"
    assert (await get(artifact)).content == unique.encode()[::-1]
    assert (await complete(graph, late))["digest"] == artifact["digest"]
    assert (await get(await complete(graph, fresh))).content == b"fresh" + unique.encode()


async def age(kept: Kept, *paths: str) -> None:
    """Let two days pass for these uploads."""
    statement = text(
        "UPDATE artifact_upload SET expires_at = expires_at - interval '2 days', "
        "remains_until = remains_until - interval '2 days' WHERE path = ANY(:paths)"
    )

    async def write(session: Any) -> None:
        await session.execute(statement, {"paths": list(paths)})

    await kept.live.database.write(write)


async def test_what_was_uploaded_too_long_ago_is_not_completed(kept: Kept, unique: str) -> None:
    graph, run = kept.graph, await a_run(kept.graph, unique)
    content = unique.encode()
    await uploaded(graph, run, content)
    upload = await begin(graph, run, content, path=unique)
    await age(kept, unique)

    result = await graph.mutate("completeArtifactUpload", {"id": upload["id"]})

    assert (result["__typename"], result["message"], result["path"]) == (
        "Conflict",
        "The upload has expired; begin it anew.",
        ["id"],
    )
