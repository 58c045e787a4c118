"""How the bench measures: a ratio of it is a claim, so its statistics are tested like a rule."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from tests.bench.measure import Bound, Outcome, Spread, in_rounds, orders, ratio

NAMES = ["service", "stock", "postgraphile", "limit"]


def test_each_contender_comes_once_in_each_round() -> None:
    rounds = list(orders(NAMES, 50, Random(1)))
    assert [sorted(order) for order in rounds] == [sorted(NAMES)] * 50


def test_each_contender_is_first_equally_often() -> None:
    firsts = Counter(order[0] for order in orders(NAMES, 40, Random(2)))
    assert firsts == dict.fromkeys(NAMES, 10)


def test_the_order_is_not_the_same_in_all_rounds() -> None:
    others = {tuple(order[1:]) for order in orders(NAMES, 200, Random(3)) if order[0] == "stock"}
    assert len(others) == 6


async def test_contenders_take_turns() -> None:
    began: list[str] = []
    running: set[str] = set()

    def turn(name: str, value: float) -> Callable[[], Awaitable[float]]:
        async def measure() -> float:
            assert not running
            running.add(name)
            began.append(name)
            await asyncio.sleep(0)
            running.remove(name)
            return value

        return measure

    turns = {name: turn(name, float(n)) for n, name in enumerate(NAMES)}
    figures = await in_rounds(turns, 3, Random(4))

    assert figures == {name: [n] * 3 for n, name in enumerate(NAMES)}
    assert [sorted(began[n : n + 4]) for n in (0, 4, 8)] == [sorted(NAMES)] * 3


def test_a_spread_is_the_median_and_where_the_middle_half_lies() -> None:
    assert Spread.of([5, 1, 2, 4, 3]) == Spread(3, 2, 4)
    assert Spread.of([7]) == Spread(7, 7, 7)


def test_a_ratio_is_taken_within_rounds() -> None:
    # The machine was three times as slow in the last round; that is nobody's doing.
    assert ratio([200, 220, 66], [100, 110, 33]) == Spread(2, 2, 2)


@pytest.mark.parametrize(
    ("bound", "holds"),
    [
        (Bound("a", "b", 2), True),
        (Bound("a", "b", 2.01), False),
        (Bound("b", "a", 0.5, at_most=True), True),
        (Bound("b", "a", 0.49, at_most=True), False),
    ],
)
def test_a_bound_holds_exactly_at_its_limit(bound: Bound, holds: bool) -> None:
    assert bound.holds({"a": [4, 4], "b": [2, 2]}) is holds


def test_an_outcome_holds_if_all_its_bounds_do() -> None:
    figures = {"a": [4.0], "b": [2.0]}
    reached, missed = Bound("a", "b", 2), Bound("b", "a", 1)
    assert Outcome("case", "answers/s", figures, [reached]).holds
    assert not Outcome("case", "answers/s", figures, [reached, missed]).holds
