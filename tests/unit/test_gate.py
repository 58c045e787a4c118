"""Whose turn it is when more come than are let in."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest

from lifecycle import turns
from lifecycle.errors import LimitExceeded, Unavailable
from schema import admission
from schema.admission import FREE, MAX_ITEMS, Admission, Bounds, Gate, Held, Room, network_of
from tests.following import until


class Crowd:
    """Those who come to a gate, each under the name of a principal and a number."""

    def __init__(self, most: int) -> None:
        self.gate = Gate(most, beyond=most)
        self.let_in: list[str] = []
        self.refused: list[str] = []
        self.coming: dict[str, asyncio.Task[None]] = {}

    async def come(self, *names: str) -> None:
        """They come, one after the other."""
        for name in names:
            self.coming[name] = asyncio.create_task(self._enter(name))
            await _settle()

    async def go(self, *names: str) -> None:
        """They leave, one after the other."""
        for name in names:
            self.gate.leave(name[:-1])
            await _settle()

    async def _enter(self, name: str) -> None:
        try:
            await self.gate.enter(name[:-1])
        except Unavailable:
            self.refused.append(name)
        else:
            self.let_in.append(name)


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_all_addresses_of_one_network_of_ipv6_count_as_one() -> None:
    assert (
        network_of("2001:db8:1:2:3:4:5:6") == network_of("2001:db8:1:2::1") == "2001:db8:1:2::/64"
    )
    assert network_of("2001:db8:1:3::1") != network_of("2001:db8:1:2::1")
    assert network_of("192.0.2.1") == "192.0.2.1"
    assert network_of("") == ""


async def test_principals_take_turns_and_each_has_its_own_order() -> None:
    # Given three, each of whom has one in, and more in line
    crowd = Crowd(3)
    await crowd.come("ada1", "eve1", "bob1", "ada2", "ada3", "ada4", "eve2", "bob2", "eve3")
    assert crowd.let_in == ["ada1", "eve1", "bob1"]

    # When one leaves after the other, Then it does not matter whose place it was.
    await crowd.go("ada1")
    assert crowd.let_in[3:] == ["ada2"]
    await crowd.go("ada2")
    assert crowd.let_in[4:] == ["eve2"]
    await crowd.go("eve2", "eve1", "bob1", "bob2", "ada3", "eve3")
    assert crowd.let_in[5:] == ["bob2", "ada3", "eve3", "ada4"]
    await crowd.go("ada4")
    assert (crowd.gate.running, crowd.gate.waiting) == (0, 0)


async def test_whoever_rests_is_not_let_in_and_then_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    real, ahead = loop.time, 0
    monkeypatch.setattr(loop, "time", lambda: real() + ahead)
    monkeypatch.setattr(turns, "_SECONDS_BETWEEN", 1)
    crowd = Crowd(6)
    crowd.gate.rest("ada", 1)
    crowd.gate.rest("ada", 1)

    # Given some in line, though there is room
    await crowd.come("ada1", "ada2", "ada3", "eve1")
    assert crowd.let_in == ["eve1"]

    # When the first has come in, and has the others rest once more
    ahead += 1
    await until(lambda: len(crowd.let_in) == 2)
    crowd.gate.rest("ada", 2)
    await crowd.come("eve2", "ada4")
    assert crowd.let_in == ["eve1", "ada1", "eve2"]

    # Then they come later, in their order.
    for number, name in enumerate(("ada2", "ada3", "ada4"), 4):
        ahead += 2
        await until(lambda: len(crowd.let_in) == number)  # noqa: B023
        assert crowd.let_in[-1] == name


async def test_one_alone_has_every_place_and_who_has_none_is_let_in_beyond_up_to_as_many() -> None:
    crowd = Crowd(2)

    await crowd.come("ada1", "ada2", "ada3", "eve1", "eve2", "bob1", "joe1")

    assert crowd.let_in == ["ada1", "ada2", "eve1", "bob1"]
    assert crowd.gate.waiting == 3
    await crowd.go("ada1")
    assert crowd.let_in[4:] == ["joe1"]
    await crowd.go("ada2", "eve1", "bob1", "joe1")
    assert crowd.let_in[5:] == ["ada3", "eve2"]


async def test_where_too_many_wait_the_last_of_the_longest_line_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission, "MAX_WAITING", 3)
    crowd = Crowd(1)
    await crowd.come("ada1", "eve1", "ada2", "ada3", "ada4")

    # Whoever has most in line is refused himself.
    await crowd.come("ada5")
    assert crowd.refused == ["ada5"]
    # Another takes the place of his last,
    await crowd.come("eve2")
    assert crowd.refused == ["ada5", "ada4"]
    # but not for a line that would be as long.
    await crowd.come("eve3")
    assert crowd.refused == ["ada5", "ada4", "eve3"]
    assert crowd.gate.waiting == 3


@pytest.mark.parametrize("leave", [lambda gate: gate.leave("ada"), lambda gate: None])
async def test_who_gives_up_waiting_keeps_nobody_out(leave: Callable[[Gate], None]) -> None:
    crowd = Crowd(1)
    await crowd.come("ada1", "ada2", "ada3")

    # Given that it may have been let in at that moment
    leave(crowd.gate)
    crowd.coming["ada2"].cancel()
    await _settle()
    if crowd.gate.waiting:
        await crowd.go("ada1")

    assert crowd.let_in == ["ada1", "ada3"]
    await crowd.go("ada3")
    assert (crowd.gate.running, crowd.gate.waiting) == (0, 0)


async def test_who_gives_up_just_before_its_turn_keeps_nobody_out() -> None:
    crowd = Crowd(1)
    await crowd.come("ada1", "ada2", "ada3")

    crowd.coming["ada2"].cancel()
    await crowd.go("ada1")

    assert crowd.let_in == ["ada1", "ada3"]
    assert (crowd.gate.running, crowd.gate.waiting) == (1, 0)


async def test_of_items_that_wait_for_nothing_a_few_are_executed_in_each_turn_of_the_loop() -> None:
    counted = Admission(Bounds())
    executed = 0

    async def execute() -> None:
        nonlocal executed
        async with counted.item("ada"):
            executed += 1

    begun = [asyncio.create_task(execute()) for _ in range(10 * MAX_ITEMS)]
    seen = [0]
    while executed < len(begun):
        await asyncio.sleep(0)
        seen.append(executed)

    assert {later - earlier for earlier, later in pairwise(seen)} <= {*range(MAX_ITEMS + 1)}
    await asyncio.gather(*begun)


# What is held


def test_each_may_hold_as_much_as_is_free() -> None:
    room = Room(1_000)

    room.take("somebody", 500)
    room.take("another", 250)

    for who in ("somebody", "another"):
        with pytest.raises(LimitExceeded) as error:
            room.take(who, 1)
        assert (error.value.name, error.value.limit, error.value.retry_after) == ("memory", 500, 1)
    room.take("a third", 125)
    assert room.held == 875


def test_what_is_given_back_is_free() -> None:
    room = Room(1_000)
    room.take("somebody", 500)

    room.give_back("somebody", 500)

    room.take("another", 500)
    assert room.held == 500


def test_what_is_held_of_a_request_counts_beyond_what_is_free_for_each() -> None:
    room = Room()

    with Held(room, "somebody") as held:
        held.add(FREE)
        assert room.held == 0
        held.add(10)
        held.add(20)
        assert room.held == 30
    assert room.held == 0


def test_what_is_refused_is_not_held() -> None:
    room = Room(100)

    with Held(room, "somebody") as held, pytest.raises(LimitExceeded):
        held.add(FREE + 51)

    assert room.held == 0
