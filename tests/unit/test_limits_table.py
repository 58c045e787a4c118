"""OPERATIONS.md says what each limit is."""

import ast
from dataclasses import astuple, replace
from pathlib import Path

import pytest
from graphql import parse
from graphql.language.parser import MAX_NESTING_DEPTH

from lifecycle import commands
from lifecycle.artifacts.rules import MAX_BYTES
from lifecycle.database.connections import MAX_READ
from lifecycle.logs.repository import MAX_LINES
from lifecycle.pages import MAX_FILTER, MAX_SIZE
from lifecycle.runs.rules import MAX_PARAMS, MAX_PARAMS_CHARACTERS
from lifecycle.runs.service import MAX_POINTS
from lifecycle.settings import VARIABLES
from schema import admission, app, door, limits, sockets, wire
from tests.unit.test_settings import GIVEN

ROOT = Path(__file__).parents[2]
UNSET = replace(
    GIVEN,
    max_seconds=60,
    max_operations=None,
    max_subscriptions=None,
    max_websockets=None,
    max_rate=None,
)
# What each principal may have where people sign in.
SECONDS, OPERATIONS, SUBSCRIPTIONS, WEBSOCKETS, RATE = astuple(app._bounds(UNSET))

NAMED = {
    "body": (limits.MAX_BODY_BYTES,),
    "characters": (limits.MAX_CHARACTERS,),
    "compared": (limits.MAX_VALUES_COMPARED,),
    "comparisons": (limits.MAX_COMPARISONS,),
    "cost": (limits.MAX_COST,),
    "depth": (limits.MAX_DEPTH,),
    "errors": (limits.MAX_ERRORS,),
    "fields": (limits.MAX_FIELDS,),
    "memory": (admission.MAX_HELD // 2,),
    "nesting": (MAX_NESTING_DEPTH,),
    "objects": (limits.MAX_OBJECTS,),
    "operations": (OPERATIONS,),
    "rate": (RATE,),
    "read": (MAX_READ,),
    "seconds": (SECONDS,),
    "signIns": (door._MAX_FAILURES,),
    "subscription": (limits.MAX_SUBSCRIPTION,),
    "subscriptions": (SUBSCRIPTIONS,),
    "text": (limits.MAX_SHOWN,),
    "tokens": (limits.MAX_TOKENS,),
    "variables": (limits.MAX_GIVEN, limits.MAX_GIVEN_TEXTS, limits.MAX_GIVEN_VALUES),
    "websocketOperations": (sockets._MAX_OPERATIONS,),
    "websockets": (WEBSOCKETS,),
    "websockets before connection_init": (WEBSOCKETS,),
}
UNNAMED = {
    "executed at a time": (admission.MAX_QUERIES, admission.MAX_MUTATIONS, admission.MAX_ITEMS),
    "waiting": (admission.MAX_WAITING,),
    "seconds of waiting": (admission.MAX_SECONDS,),
    "head": (wire.MAX_HEAD_BYTES,),
    "connections without a head": (wire.MAX_HEADS,),
    "seconds for a request": (wire.REQUEST_SECONDS,),
    "seconds for an answer": (wire._STUCK_SECONDS,),
    "frames": (wire.MAX_FRAMES,),
    "message before connection_ack": (wire.MAX_UNKNOWN_BYTES,),
}
INPUT = {
    "page": (MAX_SIZE,),
    "filter": (MAX_FILTER,),
    "JSON": (commands.MAX_JSON_BYTES,),
    "tags": (commands.MAX_TAGS, commands.MAX_TAGS_CHARACTERS),
    "params": (MAX_PARAMS, MAX_PARAMS_CHARACTERS),
    "points": (MAX_POINTS,),
    "lines": (MAX_LINES,),
    "content": (MAX_BYTES,),
}


def tables() -> list[list[list[str]]]:
    """The rows of the tables below "Limits", cell by cell."""
    text = (ROOT / "OPERATIONS.md").read_text()
    section = text.partition("\n## Limits\n")[2].partition("\n## ")[0]
    found: list[list[list[str]]] = []
    for part in section.split("\n\n"):
        lines = [line for line in part.splitlines() if line.startswith("|")]
        if lines:
            rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
            found.append(rows[2:])
    return found


def shown(expected: dict[str, tuple[int, ...]], quote: str = "") -> list[list[str]]:
    """The first two cells of each row as they are to be."""
    return [
        [f"{quote}{name}{quote}", " and ".join(f"{value:,}" for value in values)]
        for name, values in expected.items()
    ]


@pytest.mark.parametrize(
    ("number", "expected", "quote"), [(0, NAMED, "`"), (1, UNNAMED, ""), (2, INPUT, "")]
)
def test_the_tables_say_what_is_allowed(
    number: int, expected: dict[str, tuple[int, ...]], quote: str
) -> None:
    assert [row[:2] for row in tables()[number]] == shown(expected, quote)


def test_each_setting_that_changes_a_limit_stands_with_it() -> None:
    settings = {row[0].strip("`"): row[3].strip("`") for row in tables()[0] if row[3]}

    assert settings == {
        "operations": "LIFECYCLE_MAX_OPERATIONS",
        "rate": "LIFECYCLE_MAX_RATE",
        "seconds": "LIFECYCLE_MAX_SECONDS",
        "subscriptions": "LIFECYCLE_MAX_SUBSCRIPTIONS",
        "websockets": "LIFECYCLE_MAX_WEBSOCKETS",
        "websockets before connection_init": "LIFECYCLE_MAX_WEBSOCKETS",
    }
    assert set(settings.values()) == {name for name in VARIABLES if "_MAX_" in name}


def test_no_name_is_missing() -> None:
    # Given the names with which errors are raised
    places = {"LimitExceeded": 1, "Shares": 0, "Rate": 0}
    names = set()
    for folder in ("lifecycle", "schema"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    place = places.get(node.func.id)
                    name = None if place is None else node.args[place]
                    if isinstance(name, ast.Constant):
                        names.add(name.value)
    # and those that graphql-core's errors, and refused documents, get
    names |= {name for _, name, _, _ in limits._ABORTED}
    fields = "a { " * 20 + "a " * 60_000 + "}" * 20
    large = f"{{ a(first: 100) {{ a(first: 100) {{ a(first: 100) {{ {fields} }} }} }} }}"
    names |= {(each.extensions or {})["name"] for each in limits.refusals(parse(large), {})}

    # Then
    assert names == set(NAMED)
