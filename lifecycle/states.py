"""State machines: which state may follow which, as a table that can be read aloud."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Generic, TypeVar

from lifecycle.errors import InvalidTransition, Path

State = TypeVar("State", bound=StrEnum)


class StateMachine(Generic[State]):
    """The legal changes of one kind of object."""

    def __init__(self, following: Mapping[State, frozenset[State]]) -> None:
        self.following = following

    def check(self, current: State, wanted: State, path: Path = ("status",)) -> None:
        """Raise InvalidTransition unless `wanted` may follow `current`."""
        if wanted not in self.following[current]:
            raise InvalidTransition(current, wanted, self.following[current], path)
