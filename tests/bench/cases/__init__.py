"""What is measured, a module for each case.

A case says in `WANTED` whom it compares, and `run` gives what came of it.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from tests.bench.contenders import Server
from tests.bench.data import Size
from tests.bench.load import Request, rate


@dataclass(frozen=True)
class Bench:
    """What a case works with: the contenders that it wants, and how long it may take."""

    servers: Mapping[str, Server]
    postgres_url: str
    database_url: str
    size: Size
    quick: bool
    random: Random

    @property
    def rounds(self) -> int:
        """How many rounds there are."""
        return 5 if self.quick else 7

    @property
    def warm_up(self) -> float:
        """Seconds of each turn that are not counted."""
        return 0.2 if self.quick else 0.4

    @property
    def seconds(self) -> float:
        """Seconds of each turn that are."""
        return 0.7 if self.quick else 1.5

    def turn(
        self, port: int, streams: Sequence[Iterator[Request]], per_answer: float = 1
    ) -> Callable[[], Awaitable[float]]:
        """A contender's turn in a round: how much it does in a second, if each answer is worth so
        much."""

        async def measured() -> float:
            return per_answer * await rate(port, streams, self.warm_up, self.seconds)

        return measured
