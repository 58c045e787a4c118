"""The service as it is started: several processes, large files, a full disk, and being killed."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.artifacts.conftest import files_below
from tests.client import PATIENCE, Graph, Json
from tests.conftest import Process, forked, process
from tests.factories import a_run
from tests.following import until
from tests.objectstore import Store
from tests.uploads import UPLOAD, announced, begin, complete, get, put, send, uploaded

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
BLOCK = bytes(range(256)) * (MIB // 256)


def size_of(*processes: psutil.Process) -> int:
    """Bytes in memory."""
    return sum(each.memory_info().rss for each in processes)


async def large(blocks: int) -> AsyncIterator[bytes]:
    for number in range(blocks):
        yield number.to_bytes(8, "big") + BLOCK[8:]


async def of_large(run: str, blocks: int) -> Json:
    """What announces that file."""
    hashed = hashlib.sha256()
    async for block in large(blocks):
        hashed.update(block)
    size, digest = blocks * MIB, f"sha256:{hashed.hexdigest()}"
    return announced(run, b"", sizeBytes=size, digest=digest)


@pytest.mark.parametrize("location", ["disk", "s3://internal/large"])
async def test_a_large_file_goes_through_and_is_never_held_as_a_whole(
    database_url: str, tmp_path: Path, store: Store, unique: str, location: str
) -> None:
    where = str(tmp_path / "disk") if location == "disk" else location
    blocks = 200
    with process("--database-url", database_url, LIFECYCLE_ARTIFACTS=where) as started:
        async with Graph(started.url) as graph:
            # given
            run = await a_run(graph, unique)
            await uploaded(graph, run, unique.encode(), path="small")
            upload = await graph.done("beginArtifactUpload", await of_large(run, blocks), UPLOAD)
            service = psutil.Process(started.popen.pid)
            before = size_of(service)

            # when
            length = {"content-length": str(blocks * MIB)}
            answer = await send("PUT", upload["uploadUrl"], content=large(blocks), headers=length)
            artifact = await complete(graph, upload)
            hashed = hashlib.sha256()
            async with (
                httpx.AsyncClient(trust_env=False, verify=False, timeout=PATIENCE) as http,
                http.stream("GET", artifact["downloadUrl"]) as content,
            ):
                async for block in content.aiter_bytes():
                    hashed.update(block)
            after = size_of(service)

    # then
    assert answer.status_code == 200
    assert f"sha256:{hashed.hexdigest()}" == artifact["digest"]
    assert after - before < 50 * MIB


async def test_workers_take_each_others_links(
    database_url: str, tmp_path: Path, unique: str
) -> None:
    options = ("--workers", "2", "--data-dir", str(tmp_path), "--database-url", database_url)
    with forked(*options) as started:
        async with Graph(started.url) as graph:
            run = await a_run(graph, unique)
            for number in range(10):
                content = f"{unique} {number}".encode()
                artifact = await uploaded(graph, run, content, path=str(number))
                for _ in range(3):
                    assert (await get(artifact)).content == content

    assert len(files_below(str(tmp_path / "artifacts" / "internal"))) == 10


async def test_a_full_disk_is_said_and_leaves_nothing_behind(
    database_url: str, tmp_path: Path, unique: str
) -> None:
    content = unique.encode() * 400_000
    with forked("--database-url", database_url, LIFECYCLE_ARTIFACTS=str(tmp_path)) as started:
        async with Graph(started.url) as graph:
            upload = await begin(graph, await a_run(graph, unique), content)
            service = psutil.Process(started.popen.pid)

            # when: no file may be larger than this
            service.rlimit(psutil.RLIMIT_FSIZE, (2 * MIB, psutil.RLIM_INFINITY))
            full = await send("PUT", upload["uploadUrl"], content=content)
            left = files_below(str(tmp_path))
            service.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
            await put(upload, content)
            artifact = await complete(graph, upload)
            found = await get(artifact)

    assert (full.status_code, full.json()) == (507, {"message": "There is no space left."})
    assert left == []
    assert found.content == content


async def test_whoever_is_killed_while_he_takes_a_file_leaves_no_half_of_it(
    database_url: str, tmp_path: Path, unique: str
) -> None:
    content = unique.encode() * 400_000
    options = ("--database-url", database_url)

    async def half(started: Process) -> AsyncIterator[bytes]:
        yield content[: len(content) // 2]
        await until(lambda: any(name.endswith(".part") for name in files_below(str(tmp_path))))
        started.popen.kill()
        started.popen.wait()
        yield content[len(content) // 2 :]

    # given
    with forked(*options, LIFECYCLE_ARTIFACTS=str(tmp_path)) as first:
        async with Graph(first.url) as graph:
            upload = await begin(graph, await a_run(graph, unique), content)
            with pytest.raises(httpx.TransportError):
                await send(
                    "PUT",
                    upload["uploadUrl"],
                    content=half(first),
                    headers={"content-length": str(len(content))},
                )

    # when
    with forked(*options, LIFECYCLE_ARTIFACTS=str(tmp_path)) as second:
        async with Graph(second.url) as graph:
            early = await graph.mutate("completeArtifactUpload", {"id": upload["id"]})
            # The link is still good, but for the address.
            upload["uploadUrl"] = upload["uploadUrl"].replace(first.url, second.url)
            await put(upload, content)
            artifact = await complete(graph, upload)
            found = await get(artifact)

    # then
    assert early["message"].startswith("Nothing has been uploaded yet")
    assert found.content == content
    assert [name for name in files_below(str(tmp_path)) if "uploads" in name] == []
