"""Files to upload, and the three steps by which a client does it."""

import hashlib
from typing import Any

import httpx

from tests.client import PATIENCE, Graph, Json

UPLOAD = """artifactUpload {
  id path name area sizeBytes digest createdBy createdAt completeBy completedAt alreadyStored
  uploadUrl uploadUrlExpiresAt
}"""
ARTIFACT = "artifact { name path sizeBytes digest area downloadUrl }"


def digest_of(content: bytes) -> str:
    """As artifacts have it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def announced(run: str, content: bytes, path: str = "model.pkl", **input: object) -> Json:
    """What beginArtifactUpload takes for a file of this content."""
    return {
        "runId": run,
        "path": path,
        "name": "model",
        "sizeBytes": len(content),
        "digest": digest_of(content),
        **input,
    }


async def begin(graph: Graph, run: str, content: bytes, **input: Any) -> Json:
    """The upload of a file of this content."""
    return await graph.done("beginArtifactUpload", announced(run, content, **input), UPLOAD)


async def send(method: str, url: str, **request: Any) -> httpx.Response:
    """What a link answers, to a client that knows nothing but the link."""
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=PATIENCE) as http:
        return await http.request(method, url, **request)


async def put(upload: Json, content: bytes) -> None:
    """Send the bytes."""
    answer = await send("PUT", upload["uploadUrl"], content=content)
    assert answer.status_code == 200, answer.text


async def complete(graph: Graph, upload: Json, selection: str = ARTIFACT) -> Json:
    """The artifact, once its bytes have been sent."""
    return await graph.done("completeArtifactUpload", {"id": upload["id"]}, selection)


async def uploaded(graph: Graph, run: str, content: bytes, **input: Any) -> Json:
    """An artifact of this content."""
    upload = await begin(graph, run, content, **input)
    if not upload["alreadyStored"]:
        await put(upload, content)
    return await complete(graph, upload)


async def get(artifact: Json, **headers: str) -> httpx.Response:
    """What the artifact's link gives."""
    return await send("GET", artifact["downloadUrl"], headers=headers)
