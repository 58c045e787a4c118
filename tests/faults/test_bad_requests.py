"""Thousands of bad requests: each is answered or closed, none finds a bug, and nothing of them
stays."""

import asyncio
import gc
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.client import Graph
from tests.conftest import serving
from tests.faults.bad_requests import send
from tests.following import until

pytestmark = pytest.mark.slow

NUMBER = 2_000


@pytest.mark.parametrize("execution", ["compiled", "stock"])
async def test_bad_requests_are_answered_or_closed_and_leave_nothing(
    own_database_url: str, execution: str
) -> None:
    async with serving(own_database_url, execution=execution) as live, Graph(live.url) as graph:
        # Given a service that has seen some of each kind
        await send(live.url, range(NUMBER, NUMBER + 100))
        database, admission = live.database, live.app.state.admission
        pool: Any = database.write_engine.pool

        def idle() -> bool:
            busy = database.reading + pool.checkedout() + admission.subscriptions.taken
            return not busy and not admission.operations.taken

        await until(idle)
        before = len(asyncio.all_tasks())

        # When there are many
        with capture_logs() as entries:
            tally = await send(live.url, range(NUMBER))

        # Then none was a bug of ours,
        assert tally.faults == []
        assert [entry for entry in entries if entry["log_level"] in ("error", "critical")] == []
        # nothing of them stays
        await until(idle)
        gc.collect()
        await until(lambda: len(asyncio.all_tasks()) <= before)
        # and others are served.
        assert await graph.query("{ __typename }") == {"__typename": "Query"}
