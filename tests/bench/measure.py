"""How it is measured: in rounds, in each of which every contender has its turn, in random order.

Here: order, statistics, what must be reached. Not here: what is asked (`cases`) and how (`load`).

Absolute figures drift while the machine is busy with other things, so figures are compared within
a round only: a ratio is the median of the rounds' ratios.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import median, quantiles

Figures = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Spread:
    """The median, and between which values the middle half of them lies."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of one value or more."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, _, high = quantiles(values, n=4, method="inclusive")
        return cls(median(values), low, high)


def ratio(of: Sequence[float], to: Sequence[float]) -> Spread:
    """How many times as much one is as the other, round by round."""
    return Spread.of([mine / other for mine, other in zip(of, to, strict=True)])


@dataclass(frozen=True)
class Bound:
    """What must hold: the ratio of one figure to another is at least, or at most, so much."""

    of: str
    to: str
    limit: float
    at_most: bool = False

    def holds(self, figures: Figures) -> bool:
        """Whether what was measured reaches it."""
        reached = ratio(figures[self.of], figures[self.to]).median
        return reached <= self.limit if self.at_most else reached >= self.limit


@dataclass(frozen=True)
class Outcome:
    """What came of a case: for each contender one figure a round, and what must hold of them.
    `notes` are figures that nothing is compared with."""

    case: str
    unit: str
    figures: Figures
    bounds: Sequence[Bound]
    notes: Mapping[str, float] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether everything holds that must."""
        return all(bound.holds(self.figures) for bound in self.bounds)


def orders(names: Sequence[str], rounds: int, random: Random) -> Iterator[list[str]]:
    """For each round an order in which each name comes once.

    Whoever is first in one round is not in the next as long as there are others that were not, so
    that each is first about as often.
    """
    firsts: list[str] = []
    for _ in range(rounds):
        firsts = firsts or random.sample(names, len(names))
        first = firsts.pop()
        others = [name for name in names if name != first]
        yield [first, *random.sample(others, len(others))]


async def in_rounds(
    contenders: Mapping[str, Callable[[], Awaitable[float]]], rounds: int, random: Random
) -> Figures:
    """One figure of each contender a round; nobody runs at the same time as another."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for order in orders(list(contenders), rounds, random):
        for name in order:
            figures[name].append(await contenders[name]())
    return figures
