"""What is kept for the next request, within bounds."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Kept(Generic[Key, Value]):
    """The values that were last asked for: as many as `most_values`, of `most_weight` together."""

    def __init__(self, most_values: int, most_weight: int) -> None:
        self._most_values = most_values
        self._most_weight = most_weight
        self._kept: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._weight = 0

    def get(self, key: Key) -> Value | None:
        """The value of this key, if it is kept."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def keep(self, key: Key, value: Value, weight: int) -> None:
        """Keep a value, unless it weighs more than a tenth of all, and let go of those that were
        not asked for the longest time where there are too many."""
        if weight > self._most_weight // 10 or key in self._kept:
            return
        self._kept[key] = (value, weight)
        self._weight += weight
        self._let_go()

    def weigh_down(self, key: Key, more: int) -> None:
        """The value of this key, if it is kept, has become heavier. It goes itself, where it weighs
        too much now."""
        found = self._kept.pop(key, None)
        if found is not None:
            value, weight = found
            self._weight -= weight
            self.keep(key, value, weight + more)

    def _let_go(self) -> None:
        while len(self._kept) > self._most_values or self._weight > self._most_weight:
            _, (_, former) = self._kept.popitem(last=False)
            self._weight -= former
