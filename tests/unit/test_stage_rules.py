"""Which stage may follow which."""

import pytest

from lifecycle.errors import InvalidTransition
from lifecycle.promotion.rules import STAGE
from lifecycle.registry.rules import Stage

FOLLOWING = {
    "EXPERIMENTAL": ["ARCHIVED", "STAGING"],
    "STAGING": ["ARCHIVED", "EXPERIMENTAL", "PRODUCTION"],
    "PRODUCTION": ["ARCHIVED", "STAGING"],
    "ARCHIVED": ["EXPERIMENTAL", "STAGING"],
}


@pytest.mark.parametrize("wanted", Stage)
@pytest.mark.parametrize("current", Stage)
def test_a_stage_follows_another_exactly_when_the_contract_says_so(
    current: Stage, wanted: Stage
) -> None:
    if wanted in FOLLOWING[current]:
        STAGE.check(current, wanted, ("stage",))
        return

    with pytest.raises(InvalidTransition) as refused:
        STAGE.check(current, wanted, ("stage",))

    error = refused.value
    assert (error.code, error.path) == ("INVALID_TRANSITION", ("stage",))
    assert (error.current, error.wanted, error.allowed) == (current, wanted, FOLLOWING[current])
    assert str(error) == (
        f"{current} cannot become {wanted}; allowed next: {', '.join(FOLLOWING[current])}."
    )


def test_every_stage_can_be_left_and_reached() -> None:
    assert set(STAGE.following) == set(Stage)
    assert all(STAGE.following.values())
    assert frozenset.union(*STAGE.following.values()) == set(Stage)
