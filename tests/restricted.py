"""Principals who see some models only but may do everything to them, so that it is seen what hides
rows: which roles refuse is tested elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch
from uuid import UUID

from lifecycle.access.origin import Origin
from schema.context import Context


@contextmanager
def seeing(**models: frozenset[UUID]) -> Iterator[None]:
    """While the block lasts, the services of this process let these actors see these models only;
    others see all."""
    own: property = vars(Context)["origin"]

    def origin(self: Context) -> Origin:
        found: Origin = own.__get__(self)
        visible = models.get(found.actor, found.visible_models)
        return replace(found, visible_models=visible)

    with patch.object(Context, "origin", own.getter(origin)):
        yield
