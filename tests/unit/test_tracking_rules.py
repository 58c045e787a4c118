"""Who wins between here and MLflow, and what each side can have of the other's names."""

import posixpath
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifecycle.commands import Command, DistinctName, Line, Name, Text
from lifecycle.names import seen
from lifecycle.runs.rules import RunStatus
from lifecycle.tracking import rules
from lifecycle.tracking.rules import (
    Agreed,
    Base,
    Changes,
    Conflict,
    FieldRule,
    Fields,
    Merge,
    Resolution,
    cut,
    here_key,
    here_line,
    here_name,
    here_status,
    here_text,
    here_title,
    keys_there,
    merge,
    milliseconds,
    moment,
    settle,
    there_key,
    there_name,
    there_status,
    with_changes,
)
from lifecycle.tracking.sides import NoRoom, tags_with


class Acceptable(Command):
    """What the use cases take."""

    name: Name = "x"
    distinct: DistinctName = "x"
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
    lambda name: model_taken_by_mlflow(name) and seen(name) == name
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
        ("..a", "_x_..a"),
        ("a/..b", "a/..b"),
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


@given(_NAMES.map(seen))
def test_our_models_names_are_read_back(name: str) -> None:
    assert model_taken_by_mlflow(there_name(name))
    assert here_name(there_name(name)) == name


@given(_NAMES_THERE)
def test_their_models_names_are_given_back(name: str) -> None:
    assert there_name(Acceptable(distinct=here_name(name)).distinct) == name


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("a\x00b\nc", "a\ufffdb\ufffdc_214df3f68e1a607f"),
        ("churn\u200b", "churn\ufffd_"),
        ("churn\u200c", "churn\ufffd_"),
        ("cafe\u0301", "caf\u00e9_"),
    ],
)
def test_a_models_name_that_may_look_like_another_one_has_its_digest(there: str, here: str) -> None:
    assert here_name(there).startswith(here)
    assert here_title(f"x{there}", "otherwise").startswith("x" + here[:3])
    assert there_name(here_name(there)) == here_name(there)


@given(st.text(min_size=1, max_size=300))
def test_whatever_a_model_or_an_experiment_is_called_there_has_a_name_here(name: str) -> None:
    Acceptable(distinct=here_name(name))
    Acceptable(distinct=here_title(name, "otherwise"))


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


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("churn", "churn"),
        (" two\nlines ", "two lines"),
        ("\n", "MLflow experiment 7"),
        ("x" * 251, "x" * 233 + "_"),
    ],
)
def test_a_title_is_another_one_for_each_name(name: str, title: str) -> None:
    found = here_title(name, "MLflow experiment 7")
    Acceptable(distinct=found)
    assert found.startswith(title)
    assert len(found) == (250 if len(name) > 250 else len(title))


@pytest.mark.parametrize(
    ("there", "here"),
    [
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (1_772_366_400_123, datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
    ],
)
def test_times_are_in_milliseconds_there(there: int, here: datetime) -> None:
    assert moment(there) == here
    assert milliseconds(here) == there
    # What MLflow cannot have of it is left out.
    assert milliseconds(here + timedelta(microseconds=999)) == there


@given(st.integers(-(2**63), 2**63 - 1))
def test_times_that_there_are_not_here_are_the_nearest(there: int) -> None:
    here = moment(there)
    assert milliseconds(here) == there or here.year in (1, 9999)


def test_pairs_change_by_the_keys_that_mlflow_has() -> None:
    long = "@" * 250
    known = {"recall@5": "1", long: "2", "gone": "3", "kept": "4"}
    changes: Changes = {
        "tag:recall_x40_5": "5",
        f"tag:{there_key(long)}": "6",
        "tag:gone": None,
        "tag:never": None,
        "tag:a_x40_": "7",
        "param:kept": "8",
    }
    assert with_changes(known, changes, "tag:") == {
        "recall@5": "5",
        long: "6",
        "kept": "4",
        "a@": "7",
    }


def test_tags_for_which_there_is_no_room_are_those_that_do_not_fit_beside_the_ones_before() -> None:
    many = {f"k{n:03}": "v" for n in range(999)}
    changes: Changes = {"tag:a": "1", "tag:b": "2", "tag:k000": None, "tag:c": "3", "tag:k001": "4"}
    assert without_room(many, changes) == {"tag:b": "tags: must not be more than 1,000 in all."}

    long = {"a": "v" * 124_999, "b": "v" * 124_990}
    changes = {"tag:a": "v" * 125_010, "tag:b": "v", "tag:c": "v" * 124_997, "tag:d": "v"}
    too_long = "tags: must not have more than 250,000 characters in all."
    assert without_room(long, changes) == {"tag:a": too_long, "tag:d": too_long}
    assert tags_with(long, {"tag:a": None, "param:a": "v" * 250_000}) == {"b": long["b"]}


def without_room(known: dict[str, str], changes: Changes) -> Mapping[str, str]:
    with pytest.raises(NoRoom) as refused:
        tags_with(known, changes)
    return refused.value.reasons


# Who wins.


@pytest.mark.parametrize(
    ("rule", "base", "ours", "theirs", "merged"),
    [
        # Equal, whatever was before.
        ("EITHER", None, "a", "a", Merge(base={"f": Agreed("a", "a")})),
        ("EITHER", ("b", "c"), "a", "a", Merge(base={"f": Agreed("a", "a")})),
        ("EITHER", ("b", "b"), None, None, Merge()),
        # Only on one side.
        ("EITHER", None, "a", None, Merge(push={"f": "a"})),
        ("EITHER", None, None, "a", Merge(pull={"f": "a"})),
        # Changed on one side.
        ("EITHER", ("a", "a"), "b", "a", Merge(push={"f": "b"}, base={"f": Agreed("a", "a")})),
        ("EITHER", ("a", "a"), None, "a", Merge(push={"f": None}, base={"f": Agreed("a", "a")})),
        ("EITHER", ("a", "a"), "a", "b", Merge(pull={"f": "b"}, base={"f": Agreed("a", "a")})),
        ("EITHER", ("a", "a"), "a", None, Merge(pull={"f": None}, base={"f": Agreed("a", "a")})),
        # What one side cannot have exactly has not changed.
        ("EITHER", ("a", "A"), "a", "A", Merge(base={"f": Agreed("a", "A")})),
        # Changed on both.
        ("EITHER", None, "a", "b", Merge(conflicts=[Conflict("f", "a", "b")])),
        (
            "EITHER",
            ("a", "a"),
            "b",
            "c",
            Merge(conflicts=[Conflict("f", "b", "c")], base={"f": Agreed("a", "a")}),
        ),
        (
            "EITHER",
            ("a", "a"),
            None,
            "c",
            Merge(conflicts=[Conflict("f", None, "c")], base={"f": Agreed("a", "a")}),
        ),
        # Ours.
        ("OURS", ("a", "a"), "b", "a", Merge(push={"f": "b"}, base={"f": Agreed("a", "a")})),
        (
            "OURS",
            ("a", "a"),
            "a",
            "b",
            Merge(
                conflicts=[Conflict("f", "a", "b", "Only changed here.")],
                base={"f": Agreed("a", "a")},
            ),
        ),
        # Watched: ours, and not told by the field itself.
        ("WATCHED", None, "b", None, Merge(base={"f": Agreed("b", None)})),
        ("WATCHED", ("a", "a"), "b", "a", Merge(base={"f": Agreed("b", "a")})),
        ("WATCHED", ("b", None), "a", "a", Merge(base={"f": Agreed("a", "a")})),
        (
            "WATCHED",
            None,
            None,
            "b",
            Merge(conflicts=[Conflict("f", None, "b", "Only changed here.")]),
        ),
        (
            "WATCHED",
            ("b", None),
            "c",
            "a",
            Merge(conflicts=[Conflict("f", "c", "a")], base={"f": Agreed("b", None)}),
        ),
        # Theirs.
        ("THEIRS", ("a", "a"), "b", "a", Merge(base={"f": Agreed("b", "a")})),
        ("THEIRS", None, "b", None, Merge(base={"f": Agreed("b", None)})),
        ("THEIRS", ("a", "a"), "a", "b", Merge(pull={"f": "b"}, base={"f": Agreed("a", "a")})),
        # Once.
        ("ONCE", None, "a", None, Merge(push={"f": "a"})),
        (
            "ONCE",
            ("a", "a"),
            "b",
            "a",
            Merge(conflicts=[Conflict("f", "b", "a")], base={"f": Agreed("a", "a")}),
        ),
    ],
)
def test_a_field_is_merged_by_what_it_was(
    rule: str, base: tuple[str, str] | None, ours: str | None, theirs: str | None, merged: Merge
) -> None:
    known = {} if base is None else {"f": Agreed(*base)}
    here = {} if ours is None else {"f": ours}
    there = {} if theirs is None else {"f": theirs}
    found = merge(known, here, there, lambda _: FieldRule(rule))
    merged.conflicts[:] = [each._replace(rule=FieldRule(rule)) for each in merged.conflicts]
    assert found == merged


@pytest.mark.parametrize(
    ("ours", "theirs", "push", "pull", "conflicts"),
    [
        ("FINISHED", "RUNNING", {"f": "FINISHED"}, {}, []),
        ("SCHEDULED", "RUNNING", {}, {"f": "RUNNING"}, []),
        ("RUNNING", "KILLED", {}, {"f": "KILLED"}, []),
        (
            "FINISHED",
            "FAILED",
            {},
            {},
            [Conflict("f", "FINISHED", "FAILED", rule=FieldRule.FORWARD)],
        ),
    ],
)
def test_of_two_statuses_the_one_that_is_further_on_is_right(
    ours: str,
    theirs: str,
    push: dict[str, str],
    pull: dict[str, str],
    conflicts: list[Conflict],
) -> None:
    for base in ({}, {"f": Agreed("PAUSED", "PAUSED")}):
        found = merge(base, {"f": ours}, {"f": theirs}, lambda _: FieldRule.FORWARD)
        assert (found.push, found.pull, found.conflicts) == (push, pull, conflicts)


_VALUES = st.sampled_from([None, "", "a", "b", "RUNNING", "FINISHED"])
_SIDES = st.fixed_dictionaries(dict.fromkeys("abcd", _VALUES))
_BASES = st.dictionaries(st.sampled_from("abcd"), st.builds(Agreed, _VALUES, _VALUES))


def having(values: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def applied(merged: Merge, ours: Fields, theirs: Fields) -> tuple[Base, Fields, Fields]:
    """What is agreed on, and both sides, when what has to happen has happened."""
    base = merged.base | {n: Agreed(v, v) for n, v in (merged.push | merged.pull).items()}
    return base, having({**ours, **merged.pull}), having({**theirs, **merged.push})


@given(_BASES, _SIDES, _SIDES, st.sampled_from(FieldRule))
def test_when_it_has_happened_nothing_is_left_but_the_conflicts(
    base: Base, ours: dict[str, str | None], theirs: dict[str, str | None], rule: FieldRule
) -> None:
    first = merge(base, having(ours), having(theirs), lambda _: rule)
    base, here, there = applied(first, having(ours), having(theirs))
    second = merge(base, here, there, lambda _: rule)
    assert (second.push, second.pull) == ({}, {})
    assert second.conflicts == first.conflicts


@given(_BASES, _SIDES, _SIDES, st.sampled_from(Resolution))
def test_what_was_decided_is_what_happens(
    base: Base, ours: dict[str, str | None], theirs: dict[str, str | None], decided: Resolution
) -> None:
    # given: whatever could be done is done
    first = merge(base, having(ours), having(theirs), lambda _: FieldRule.EITHER)
    base, here, there = applied(first, having(ours), having(theirs))

    # when
    settled = {each.field: settle(base, each, decided) for each in first.conflicts}
    second = merge({**base, **settled}, here, there, lambda _: FieldRule.EITHER)

    # then
    wanted = {
        Resolution.KEEP_OURS: ({each.field: each.ours for each in first.conflicts}, {}),
        Resolution.TAKE_THEIRS: ({}, {each.field: each.theirs for each in first.conflicts}),
        Resolution.LEAVE: ({}, {}),
    }
    assert (second.push, second.pull) == wanted[decided]
    assert second.conflicts == []


# Links.


@pytest.mark.parametrize(
    ("artifact", "page"),
    [
        ("runs:/r1/model", "http://m/#/experiments/1/runs/r1/artifacts/model"),
        ("runs:/r1/a b/c#d", "http://m/#/experiments/1/runs/r1/artifacts/a%20b/c%23d"),
        ("runs:/r1", "http://m/#/experiments/1/runs/r1/artifacts"),
        ("runs:/r2/model", "http://m/#/runs/r2"),
        ("models:/churn rate/12", "http://m/#/models/churn%20rate/versions/12"),
        ("mlflow-artifacts:/1/r2/artifacts/a/b", "http://m/#/experiments/1/runs/r2/artifacts/a/b"),
        ("models:/churn@best", None),
        ("models:/churn/Production", None),
        ("models:/m-17", None),
        ("mlflow-artifacts:/1/models/m-17/artifacts", None),
        ("mlflow-artifacts://elsewhere:5000/1/r2/artifacts/a", None),
        ("runs://profile@databricks/r1/model", None),
        ("runs:/", None),
        ("s3://bucket/model", None),
    ],
)
def test_a_uri_of_mlflow_leads_to_its_page_where_it_says_enough(
    artifact: str, page: str | None
) -> None:
    pages = {"r1": "http://m/#/experiments/1/runs/r1"}

    assert rules.page_of("http://m", artifact, pages) == page


def test_a_file_is_served_by_its_run_and_path() -> None:
    url = rules.file_url("http://m/x", "r 1", "a b/c&d?.txt")

    assert url == "http://m/x/get-artifact?run_uuid=r%201&path=a%20b/c%26d%3F.txt"
