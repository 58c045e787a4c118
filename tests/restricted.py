"""Principals who see some models only but may do everything to them, so that it is seen what hides
rows: which roles refuse is tested elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch
from uuid import UUID

from lifecycle.access.origin import Origin
from lifecycle.access.rules import Principal
from schema import view


@contextmanager
def seeing(**models: frozenset[UUID]) -> Iterator[None]:
    """While the block lasts, the services of this process let these actors see these models only;
    others see all."""
    origin = view._origin

    def restricted(principal: Principal, request_id: str) -> Origin:
        return replace(origin(principal, request_id), visible_models=models.get(principal.name))

    with patch.object(view, "_origin", restricted):
        yield
