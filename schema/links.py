"""Where content can be read: addresses that expire."""

from urllib.parse import urlsplit

from lifecycle.artifacts.transfers import is_known
from lifecycle.runs.rules import ArtifactArea
from schema.context import Context


async def download_url(
    context: Context, area: ArtifactArea | None, digest: str | None, name: str
) -> str | None:
    """Where the content with this digest can be read; None unless it is kept in an area."""
    if area is None:
        return None
    link = await context.storage.download_link(area, digest, name, context.base_url)
    return link.url if link else None


async def resolve(context: Context, uri: str, digest: str | None) -> str | None:
    """Where what is at a URI can be read: an address of the web as it is, by a link that expires
    what lies within one of the areas; None for everything else, and for content that has another
    digest, if one is named."""
    if uri.startswith("s3://"):
        content = context.storage.content_at(uri)
        if content is not None and (
            digest not in (None, content[1]) or not await is_known(context.database, *content)
        ):
            return None
        link = await context.storage.link_to(uri)
        return link.url if link else None
    return uri if _is_of_the_web(uri) else None


def _is_of_the_web(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False
