"""How a line of the log comes about, whoever has something to say."""

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from lifecycle import reporting


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    reporting.configure("json")
    yield
    reporting.configure("json")


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The only line."""
    [line] = capsys.readouterr().err.splitlines()
    found: dict[str, Any] = json.loads(line)
    assert found.pop("timestamp").endswith("Z")
    return found


def test_what_libraries_say_comes_out_like_what_the_service_says(
    capsys: pytest.CaptureFixture[str],
) -> None:
    structlog.get_logger("a.b").warning("told")
    own = told(capsys)
    logging.getLogger("a.b").warning("to%s", "ld")

    assert told(capsys) == own == {"event": "told", "level": "warning", "logger": "a.b"}


@pytest.mark.parametrize(("level", "shown"), [(25, "info"), (45, "error"), (90, "critical")])
def test_a_level_without_a_name_is_told_as_the_one_below(
    capsys: pytest.CaptureFixture[str], level: int, shown: str
) -> None:
    logging.getLogger("a").log(level, "told")

    assert told(capsys)["level"] == shown


def test_the_name_of_an_operation_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.get_logger("a").info("request", operation="N" * 101)

    assert told(capsys)["operation"] == "N" * 100


def test_a_library_that_fails_is_told_with_its_trace(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise RuntimeError("why")
    except RuntimeError:
        logging.getLogger("a").exception("failed")

    line = told(capsys)
    assert (line["event"], line["level"]) == ("failed", "error")
    assert line["exception"].startswith("Traceback (most recent call last)")
    assert line["exception"].endswith("RuntimeError: why")


@pytest.mark.parametrize("value", ["\ud800", 2**70, "Žofie"])
def test_a_value_that_is_hard_to_write_is_logged_all_the_same(
    capsys: pytest.CaptureFixture[str], value: object
) -> None:
    structlog.get_logger("a").info("told", value=value)

    assert told(capsys)["value"] == value


# Sequences that begin with ESC, and with one character that means the same; a change of direction.
COMMANDS = "\x1b[2J \x9b31m \x9d0;x\x9c \x07 \u202e"
SHOWN = "\\x1b[2J \\x9b31m \\x9d0;x\\x9c \\x07 \\u202e"


def test_a_terminal_is_not_commanded_by_what_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    reporting.configure("console")
    try:
        raise RuntimeError(COMMANDS)
    except RuntimeError:
        logging.getLogger("a").exception("of a library: %s", COMMANDS)
    structlog.get_logger("a").info("our own", value=COMMANDS, other="\x9b31m")

    # Without its own colours.
    said = re.sub("\x1b\\[[0-9]*m", "", capsys.readouterr().err)
    assert [each for each in said if not each.isprintable() and each != "\n"] == []
    assert said.count(SHOWN) == 2
    assert "other=\\x9b31m" in said
