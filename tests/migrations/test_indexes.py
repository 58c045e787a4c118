"""Each list reads as many rows as it shows: an index gives them in the list's order.

What is explained is what the service sends. Sequential scans and sorts are made expensive, so that
one in a plan means that there is no index to do without.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import orjson
import pytest
import pytest_asyncio
from sqlalchemy import event

from lifecycle.database import Database
from tests.client import Graph
from tests.conftest import Live
from tests.factories import a_deployment, a_run, a_version_in
from tests.following import connect

# Lists of everything, in every order that they have.
LISTS = [
    "experiments(first: 3) { nodes { id } }",
    "experiments(first: 3, orderBy: [{ field: UPDATED_AT }]) { nodes { id } }",
    "experiments(first: 3, orderBy: [{ field: NAME, direction: ASC }]) { nodes { id } }",
    'experiments(first: 3, filter: { owner: "me" }) { nodes { id } }',
    "runs(first: 3) { nodes { id } }",
    "runs(first: 3, orderBy: [{ field: CREATED_AT, direction: ASC }]) { nodes { id } }",
    'runs(first: 3, filter: { experimentName: "$" }) { nodes { id } }',
    "models(first: 3) { nodes { id } }",
    "modelVersions(first: 3) { nodes { id } }",
    "modelVersions(first: 3, orderBy: [{ field: UPDATED_AT }]) { nodes { id } }",
    'modelVersions(first: 3, filter: { modelName: "$" }) { nodes { id } }',
    "deployments(first: 3) { nodes { id } }",
    "deployments(first: 3, orderBy: [{ field: UPDATED_AT }]) { nodes { id } }",
    'deployments(first: 3, filter: { modelName: "$" }) { nodes { id } }',
    "driftEvents(first: 3) { nodes { id } }",
    'driftEvents(first: 3, filter: { modelName: "$" }) { nodes { id } }',
]

# What belongs to one object.
CHILDREN = [
    'experiment(name: "$") { runs(first: 3) { nodes { id } } }',
    'model(name: "$") { versions(first: 3) { nodes { id } } }',
    'model(name: "$") { stageHistory(first: 3) { nodes { stage } } }',
    'modelVersion(by: $v) { stageHistory(first: 3) { nodes { stage } } }',
    'modelVersion(by: $v) { deployments(first: 3) { nodes { id } } }',
    'modelVersion(by: $v) { driftEvents(first: 3) { nodes { id } } }',
]
