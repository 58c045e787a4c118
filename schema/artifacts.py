"""Uploads as clients see them."""

from datetime import UTC, datetime
from typing import Annotated, Self
from uuid import UUID

import strawberry
from strawberry import Private

import schema.runs
from lifecycle.artifacts import service, transfers
from lifecycle.artifacts.service import BeginArtifactUpload, CompleteArtifactUpload
from lifecycle.artifacts.storage import Link
from lifecycle.artifacts.tables import ArtifactUploadRow
from lifecycle.runs import repository as runs
from lifecycle.runs.rules import ArtifactArea
from schema import ids
from schema.admission import unhurried
from schema.context import Context, Info
from schema.errors import Conflict, IdempotencyConflict, InvalidInput, NotFound, Unavailable
from schema.inputs import Given, WriteInput, parse
from schema.runs import Artifact, Run
from schema.scalars import BigInt


@strawberry.type(description="A file of a run that was announced, and is to be uploaded.")
class ArtifactUpload:
    id: strawberry.ID = strawberry.field(description="For completeArtifactUpload.")
    path: str = strawberry.field(description="Where the artifact will lie in its run.")
    name: str = strawberry.field(description="For people.")
    area: ArtifactArea = strawberry.field(description="Where its content will be kept.")
    size_bytes: BigInt = strawberry.field(description="How large it must be.")
    digest: str = strawberry.field(description="The digest that it must have.")
    created_by: str = strawberry.field(description="Who announced it.")
    created_at: datetime = strawberry.field(description="When it was announced.")
    complete_by: datetime = strawberry.field(
        description="Until when it can be completed; then it is forgotten."
    )
    completed_at: datetime | None = strawberry.field(description="When it was.")
    already_stored: bool = strawberry.field(
        description="Whether such content is kept already: then there is nothing to upload, and it "
        "can be completed at once."
    )
    upload_url: str | None = strawberry.field(
        description="PUT the bytes here, with their Content-Length; no other header is needed. "
        "Whoever has this address needs nothing else. Null where there is nothing to upload any "
        "more."
    )
    upload_url_expires_at: datetime | None = strawberry.field(
        description="Until when a PUT may begin; later, call beginArtifactUpload again, with the "
        "same idempotency key."
    )

    @classmethod
    def from_row(cls, row: ArtifactUploadRow, stored: bool, link: Link | None) -> Self:
        return cls(
            id=ids.encode("ArtifactUpload", row.id),
            path=row.path,
            name=row.name,
            area=row.area,
            size_bytes=BigInt(row.size_bytes),
            digest=row.digest,
            created_by=row.created_by,
            created_at=row.created_at,
            complete_by=row.expires_at,
            completed_at=row.completed_at,
            already_stored=stored,
            upload_url=link.url if link else None,
            upload_url_expires_at=link.expires_at if link else None,
        )


@strawberry.input(description="A file of a run, before its bytes are sent.")
class BeginArtifactUploadInput(WriteInput):
    run_id: strawberry.ID = strawberry.field(description="Which run wrote it.")
    path: str = strawberry.field(
        description="Where it lies; unique in the run. One of the same path is replaced."
    )
    name: str = strawberry.field(description="For people, and for those who download it.")
    area: ArtifactArea = strawberry.field(
        default=ArtifactArea.INTERNAL, description="Where its content is to be kept."
    )
    size_bytes: BigInt = strawberry.field(
        description="How large it is: at most 5,368,709,120 bytes, which is 5 GiB."
    )
    digest: str = strawberry.field(
        description="The SHA-256 of its content: sha256: and 64 hexadecimal digits in small "
        "letters."
    )


@strawberry.input(description="A file whose bytes have been sent.")
class CompleteArtifactUploadInput(WriteInput):
    id: strawberry.ID = strawberry.field(description="Which upload.")


@strawberry.type(description="The file can be sent.")
class BeginArtifactUploadSuccess:
    artifact_upload: ArtifactUpload = strawberry.field(description="Where to, and until when.")


@strawberry.type(description="The file is stored, and an artifact of its run.")
class CompleteArtifactUploadSuccess:
    key: Private[UUID]
    path: Private[str]

    @strawberry.field(description="The artifact as it is now.")
    async def artifact(self, info: Info) -> Artifact:
        place = (self.key, self.path)
        row = await info.context.loaders.load(runs.artifacts_by_path, place)
        assert row is not None
        return Artifact.from_row(row)

    @strawberry.field(description="The run as it is now.")
    async def run(self, info: Info) -> Run:
        found = await schema.runs.run_by_id(info, self.key)
        assert found is not None
        return found


BeginArtifactUploadResult = Annotated[
    BeginArtifactUploadSuccess | NotFound | InvalidInput | IdempotencyConflict | Unavailable,
    strawberry.union("BeginArtifactUploadResult", description="What came of beginArtifactUpload."),
]
CompleteArtifactUploadResult = Annotated[
    CompleteArtifactUploadSuccess
    | NotFound
    | Conflict
    | InvalidInput
    | IdempotencyConflict
    | Unavailable,
    strawberry.union(
        "CompleteArtifactUploadResult", description="What came of completeArtifactUpload."
    ),
]


@strawberry.type
class ArtifactMutations:
    @strawberry.mutation(
        description="Announce a file of a run, and get an address to send its bytes to: by PUT, "
        "straight to where they are kept. Then call completeArtifactUpload."
    )
    async def begin_artifact_upload(
        self, info: Info, input: Given[BeginArtifactUploadInput]
    ) -> BeginArtifactUploadResult:
        context = info.context
        command = parse(BeginArtifactUpload, input, run_id="Run")
        stored = await transfers.prepare(context.database, context.storage, context.origin, command)
        row = await context.write(service.begin, command)
        link = None if stored else await _upload_link(context, row)
        return BeginArtifactUploadSuccess(
            artifact_upload=ArtifactUpload.from_row(row, stored, link)
        )

    @strawberry.mutation(
        description="Say that the bytes of a file have been sent. Size and digest are checked; "
        "then it is an artifact of its run. What is not as announced can be sent again."
    )
    async def complete_artifact_upload(
        self, info: Info, input: Given[CompleteArtifactUploadInput]
    ) -> CompleteArtifactUploadResult:
        context = info.context
        command = parse(CompleteArtifactUpload, input, id="ArtifactUpload")
        storage, origin = context.storage, context.origin
        with unhurried():
            await transfers.receive(context.database, storage, origin, command.id)
        row = await context.write(service.complete, command)
        await transfers.clear(context.storage, row)
        return CompleteArtifactUploadSuccess(key=row.run_id, path=row.path)


async def _upload_link(context: Context, row: ArtifactUploadRow) -> Link | None:
    """Where the bytes of an upload go; nowhere once it is too late."""
    if row.expires_at < datetime.now(UTC):
        return None
    size, base = row.size_bytes, context.base_url
    return await context.storage.upload_link(row.area, row.id.hex, size, base)
