"""Who may do what: the table, and what grants narrow it to."""

import sys
from uuid import UUID

import pytest

from lifecycle.access.rules import (
    EVERYTHING,
    NOTHING,
    POLICY,
    UNPROVEN,
    Action,
    Grant,
    Rights,
    Role,
    known_as,
    missing,
)

CHURN, FRAUD = UUID(int=1), UUID(int=2)
STAGES = ("EXPERIMENTAL", "STAGING", "PRODUCTION", "ARCHIVED")


def rights(*grants: Grant) -> Rights:
    return Rights(frozenset(grants))


@pytest.mark.parametrize("role", Role)
def test_a_role_for_everything_does_what_the_table_says_and_nothing_else(role: Role) -> None:
    allowed = {
        action
        for action in Action
        if rights(Grant(role)).may(action, CHURN, stage="STAGING", environment="STAGING")
    }

    in_table = {action for action, roles in POLICY.items() if role in roles}
    # A DEPLOYER moves versions only between stages that its grant names.
    expected = in_table - ({Action.MOVE} if role is Role.DEPLOYER else set())
    assert allowed == (set(Action) if role is Role.ADMIN else expected)


def test_every_action_is_in_the_table_and_nothing_but_administration_is_for_admins_alone() -> None:
    assert set(POLICY) == set(Action)
    assert [action for action, roles in POLICY.items() if not roles] == [Action.ADMINISTER]
    assert not any(Role.VIEWER in roles for roles in POLICY.values())


@pytest.mark.parametrize("action", Action)
def test_a_role_for_one_model_says_nothing_about_others_or_about_what_belongs_to_none(
    action: Action,
) -> None:
    mine = rights(*(Grant(role, CHURN) for role in Role))

    assert mine.may(action, CHURN, stage="PRODUCTION", environment="PRODUCTION")
    assert not mine.may(action, FRAUD, stage="STAGING", environment="STAGING")
    assert not mine.may(action, stage="STAGING", environment="STAGING")


@pytest.mark.parametrize(
    ("role", "stages", "expected"),
    [
        (Role.VIEWER, None, ()),
        (Role.VIEWER, STAGES, ()),
        (Role.CONTRIBUTOR, None, ("EXPERIMENTAL", "STAGING", "ARCHIVED")),
        (Role.CONTRIBUTOR, ("STAGING",), ("STAGING",)),
        (Role.CONTRIBUTOR, ("PRODUCTION",), ("PRODUCTION",)),
        (Role.APPROVER, None, STAGES),
        (Role.APPROVER, ("STAGING",), ("STAGING",)),
        (Role.APPROVER, (), ()),
        (Role.DEPLOYER, None, ()),
        (Role.DEPLOYER, ("PRODUCTION",), ("PRODUCTION",)),
        (Role.ADMIN, None, STAGES),
    ],
)
def test_which_stages_a_grant_moves_versions_to(
    role: Role, stages: tuple[str, ...] | None, expected: tuple[str, ...]
) -> None:
    given = rights(Grant(role, stages=None if stages is None else frozenset(stages)))

    assert tuple(s for s in STAGES if given.may(Action.MOVE, CHURN, stage=s)) == expected


def test_a_grant_for_environments_deploys_to_those_alone() -> None:
    given = rights(Grant(Role.DEPLOYER, environments=frozenset({"STAGING"})))

    assert given.may(Action.DEPLOY, CHURN, environment="STAGING")
    assert not given.may(Action.DEPLOY, CHURN, environment="PRODUCTION")


def test_what_one_grant_lacks_another_may_give_but_not_half_of_it_each() -> None:
    here = Grant(Role.DEPLOYER, CHURN, environments=frozenset({"STAGING"}))
    there = Grant(Role.DEPLOYER, FRAUD)
    both = rights(here, there)

    assert both.may(Action.DEPLOY, CHURN, environment="STAGING")
    assert both.may(Action.DEPLOY, FRAUD, environment="PRODUCTION")
    assert not both.may(Action.DEPLOY, CHURN, environment="PRODUCTION")


def test_who_has_any_role_for_everything_sees_everything() -> None:
    assert rights(Grant(Role.VIEWER)).visible_models is None
    assert rights(Grant(Role.DEPLOYER), Grant(Role.VIEWER, CHURN)).visible_models is None
    assert EVERYTHING.visible_models is None
    assert UNPROVEN.visible_models is None


def test_who_has_roles_for_models_alone_sees_those_models() -> None:
    given = rights(Grant(Role.VIEWER, CHURN), Grant(Role.ADMIN, FRAUD))

    assert given.visible_models == frozenset({CHURN, FRAUD})
    assert NOTHING.visible_models == frozenset()


@pytest.mark.parametrize("action", Action)
def test_who_has_nothing_may_do_nothing(action: Action) -> None:
    assert not NOTHING.may(action)
    assert not NOTHING.may(action, CHURN, stage="STAGING", environment="STAGING")


@pytest.mark.parametrize("action", sorted(set(Action) - {Action.ADMINISTER}))
def test_who_need_not_prove_who_they_are_may_do_all_but_administrate(action: Action) -> None:
    assert UNPROVEN.may(action, CHURN, stage="PRODUCTION", environment="PRODUCTION")
    assert not UNPROVEN.may(Action.ADMINISTER, CHURN)


def test_who_is_refused_is_told_which_role_it_takes() -> None:
    assert missing(Action.LOG) == "that takes the role CONTRIBUTOR or ADMIN."
    assert missing(Action.ADMINISTER) == "that takes the role ADMIN."
    assert missing(Action.DEPLOY, environment="PRODUCTION") == (
        "that takes the role DEPLOYER or ADMIN for PRODUCTION."
    )
    assert missing(Action.MOVE, stage="PRODUCTION") == (
        "that takes the role APPROVER or DEPLOYER or ADMIN for PRODUCTION."
    )


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("Ada@Example.COM", "ada@example.com"),
        ("STRASSE", "strasse"),
        ("Straße", "straße"),
        # Not another one, to whom `casefold` gives the same name.
        ("\u017fteve@example.com", "\u017fteve@example.com"),
        ("\ufb01nn", "\ufb01nn"),
        ("service:CI", "service:CI"),
        ("group:ML", "group:ML"),
        ("system:drift", "system:drift"),
    ],
)
def test_names_of_people_are_without_case(written: str, known: str) -> None:
    assert known_as(written) == known


def test_what_is_too_long_to_be_a_name_stays_as_it_is() -> None:
    """To compose it would take days."""
    long = "A" + "\u0301" * 4_000_000 + "\u0323" * 4_000_000

    assert known_as(long) is long


def test_what_somebody_is_known_as_stays_it() -> None:
    every = [chr(n) for n in range(sys.maxunicode + 1) if not 0xD800 <= n < 0xE000]

    assert [each for each in every if known_as(known_as(each)) != known_as(each)] == []
