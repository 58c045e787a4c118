"""Who wins between here and MLflow, and what each side can have of the other's names."""

import posixpath
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifecycle.commands import Command, Line, Name, Text
from lifecycle.runs.rules import RunStatus
from lifecycle.tracking.rules import (
    cut,
    here_key,
    here_line,
    here_name,
    here_status,
    here_text,
    keys_there,
    there_key,
    there_name,
    there_status,
)


class Acceptable(Command):
    """What the use cases take."""

    name: Name = "x"
    line: Line = "x"
    text: Text = "x"


# Short alphabets, so that what looks like an escape comes up.
_TRICKY = st.text(alphabet="_x5F40E/. @-:é\u2028 ", max_size=30)
_NAMES = (
    (_TRICKY | st.text(max_size=30))
    .map(str.strip)
    .filter(lambda key: key and not re.search(r"[\x00-\x1f\x7f]", key))
)


def taken_by_mlflow(key: str) -> bool:
    """As `mlflow.utils.validation` says of parameters, metrics and tags."""
    normal = posixpath.normpath(key)
    return (
        re.match(r"^[/\w.\- :]*$", key) is not None
        and normal == key
        and normal != "."
        and not normal.startswith(("..", "/"))
        and len(key) <= 250
    )


def model_taken_by_mlflow(name: str) -> bool:
    normal = posixpath.normpath(name)
    return (
        bool(name.strip())
        and not {"/", ":"} & {*name}
        and normal == name
        and normal != "."
        and not normal.startswith("..")
    )


_KEYS_THERE = (
    st.text(alphabet="_x5F40E/. -:é", min_size=1, max_size=30)
    | st.from_regex(r"\A[/\w.\- :]{1,30}\Z")
).filter(taken_by_mlflow)
_NAMES_THERE = (_TRICKY | st.text(max_size=30)).filter(
    lambda name: model_taken_by_mlflow(name) and not re.search(r"[\x00-\x1f\x7f]", name)
)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("val/loss", "val/loss"),
        ("learning rate", "learning rate"),
        ("größe", "größe"),
        ("recall@5", "recall_x40_5"),
        ("f1 (macro)", "f1 _x28_macro_x29_"),
        ("_x40_", "_x5F_x40_"),
        ("_x5F_x40_", "_x5F_x5F_x5F_x40_"),
        ("_x40@", "_x5F_x40_x40_"),
        ("@x40_", "_x40_x40_"),
        ("max_x10_", "max_x10_"),
        ("/a", "_x_/a"),
        ("a//b/", "a/_x_/b/_x_"),
        ("..", "_x_.."),
        ("a/./b", "a/_x_./b"),
        ("_x_.", "_x__x_."),
        ("_x_ a", " a"),
        ("a _x_", "a "),
    ],
)
def test_a_key_that_mlflow_refuses_is_spelled_out(here: str, there: str) -> None:
    assert there_key(here) == there
    assert here_key(there) == here
    assert taken_by_mlflow(there)


@given(_NAMES)
def test_our_keys_are_read_back(key: str) -> None:
    assert taken_by_mlflow(there_key(key))
    assert here_key(there_key(key)) == key


@given(_KEYS_THERE)
def test_their_keys_are_given_back(key: str) -> None:
    assert there_key(Acceptable(name=here_key(key)).name) == key


@given(_NAMES)
def test_our_models_names_are_read_back(name: str) -> None:
    assert model_taken_by_mlflow(there_name(name))
    assert here_name(there_name(name)) == name


@given(_NAMES_THERE)
def test_their_models_names_are_given_back(name: str) -> None:
    assert there_name(Acceptable(name=here_name(name)).name) == name


def test_a_control_character_in_a_models_name_is_replaced() -> None:
    assert here_name("a\x00b\nc") == "a\ufffdb\ufffdc"


@pytest.mark.parametrize("rename", [there_key, there_name])
def test_keys_that_become_too_long_are_cut_and_stay_apart(rename: Callable[[str], str]) -> None:
    # given: two that are alike in what is left of them
    first, second = "a" + "/:" * 124 + "x", "a" + "/:" * 124 + "y"
    if rename is there_key:
        first, second = first.replace(":", "@"), second.replace(":", "@")

    # then
    assert len(rename(first)) <= 250
    assert rename(first) != rename(second)
    assert rename is there_name or taken_by_mlflow(rename(first))


def test_a_key_that_was_cut_is_found_among_ours() -> None:
    long = "@" * 250
    assert keys_there([long, "a@"]) == {there_key(long): long, "a_x40_": "a@"}


def test_values_are_cut_with_an_ellipsis() -> None:
    assert cut("abcd", 4) == "abcd"
    assert cut("abcde", 4) == "abc…"


@given(st.text() | st.just("x" * 20_001))
def test_values_that_come_in_are_acceptable(value: str) -> None:
    Acceptable(text=here_text(value))
    line = here_line(value)
    if line is not None:
        Acceptable(line=line)
    name = here_line(value, 250)
    if name is not None:
        Acceptable(name=name)


@pytest.mark.parametrize(
    ("value", "text", "line"),
    [
        ("plain", "plain", "plain"),
        (" two\n\tlines ", " two\n\tlines ", "two lines"),
        ("a\x00b", "a\ufffdb", "a\ufffdb"),
        (" \n", " \n", None),
        ("", "", None),
    ],
)
def test_what_is_refused_here_is_cleaned(value: str, text: str, line: str | None) -> None:
    assert here_text(value) == text
    assert here_line(value) == line


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (RunStatus.PENDING, "SCHEDULED"),
        (RunStatus.RUNNING, "RUNNING"),
        (RunStatus.COMPLETED, "FINISHED"),
        (RunStatus.FAILED, "FAILED"),
        (RunStatus.CANCELLED, "KILLED"),
    ],
)
def test_statuses_have_names_on_both_sides(here: RunStatus, there: str) -> None:
    assert there_status(here) == there
    assert here_status(there) is here


def test_mlflow_does_not_know_that_a_run_is_lost() -> None:
    assert there_status(RunStatus.LOST) == "RUNNING"


def test_a_status_of_a_later_mlflow_is_a_run_that_goes_on() -> None:
    assert here_status("PAUSED") is RunStatus.RUNNING
