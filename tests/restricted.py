"""Principals who may see some models only, before there is anybody who grants that."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch
from uuid import UUID

from lifecycle.access.origin import Origin
from schema.view import View


@contextmanager
def seeing(**models: frozenset[UUID]) -> Iterator[None]:
    """While the block lasts, the services of this process let these actors see these models only;
    others see all."""
    origin = View._origin

    def restricted(self: View, actor: str, request_id: str) -> Origin:
        return replace(origin(self, actor, request_id), visible_models=models.get(actor))

    with patch.object(View, "_origin", restricted):
        yield
