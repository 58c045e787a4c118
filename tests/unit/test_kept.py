"""What is kept for the next request, and for how long."""

from lifecycle.kept import Kept


def test_a_value_is_found_by_its_key() -> None:
    kept: Kept[str, str] = Kept(10, 100)
    kept.keep("a", "x", 1)

    assert kept.get("a") == "x"
    assert kept.get("b") is None


def test_when_there_is_one_too_many_the_one_goes_that_was_not_asked_for_the_longest() -> None:
    kept: Kept[str, str] = Kept(3, 100)
    for key in "abc":
        kept.keep(key, key, 1)
    kept.get("a")

    kept.keep("d", "d", 1)

    assert [kept.get(key) for key in "abcd"] == ["a", None, "c", "d"]


def test_when_they_weigh_too_much_so_many_go_that_the_rest_does_not() -> None:
    kept: Kept[int, int] = Kept(100, 100)
    for key in range(20):
        kept.keep(key, key, 5)
    assert [kept.get(key) for key in range(20)] == list(range(20))

    kept.keep(20, 20, 6)

    assert [key for key in range(21) if kept.get(key) is None] == [0, 1]


def test_one_that_weighs_more_than_a_tenth_of_all_is_not_kept() -> None:
    kept: Kept[str, str] = Kept(10, 100)

    kept.keep("a", "x", 10)
    kept.keep("b", "x", 11)

    assert kept.get("a") == "x"
    assert kept.get("b") is None


def test_what_becomes_heavier_has_others_go_and_itself_where_it_is_too_heavy() -> None:
    kept: Kept[str, str] = Kept(100, 100)
    for key in "abcdefghijk":
        kept.keep(key, key, 9)

    kept.weigh_down("b", 1)
    assert [key for key in "abcdefghijk" if kept.get(key) is None] == []
    kept.weigh_down("c", 1)
    assert [key for key in "abcdefghijk" if kept.get(key) is None] == ["a"]
    kept.weigh_down("c", 1)
    kept.weigh_down("x", 1)

    assert [key for key in "abcdefghijk" if kept.get(key) is None] == ["a", "c"]


def test_keeping_a_key_twice_counts_once() -> None:
    kept: Kept[str, str] = Kept(3, 100)
    for _ in range(4):
        kept.keep("a", "x", 10)

    kept.keep("b", "y", 10)

    assert [kept.get(key) for key in "ab"] == ["x", "y"]
