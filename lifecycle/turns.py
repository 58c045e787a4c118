"""Who is let in when more come than there is room for. What is to be told to those who are not is
said by whoever uses it."""

import asyncio

# Between two of one principal that come in after a rest.
_SECONDS_BETWEEN = 0.005


class Turns:
    """Lets in so many at a time. Of those who come next principals take turns, and each principal's
    own come in their order.

    Who has none in is let in `beyond` that, up to so many more: others may be busy for minutes.
    """

    def __init__(self, most: int, beyond: int) -> None:
        self._most = most
        self._beyond = beyond
        self._inside: dict[str, int] = {}
        # Until when.
        self._resting: dict[str, float] = {}
        # Whose turn it is comes first; of each, who waits longest.
        self._lines: dict[str, dict[asyncio.Future[bool], None]] = {}
        # How many are in.
        self.running = 0

    @property
    def waiting(self) -> int:
        """How many wait to be let in."""
        return sum(map(len, self._lines.values()))

    def load(self, principal: str) -> int:
        """How many of a principal are in or wait."""
        return self._inside.get(principal, 0) + len(self._lines.get(principal, ()))

    def enters(self, principal: str) -> bool:
        """Let one more of a principal in, if there is room; otherwise it is to wait."""
        # After a rest there is room, but those in line come one after the other.
        if principal in self._resting and principal in self._lines:
            return False
        return self._takes(principal)

    def _takes(self, principal: str) -> bool:
        if self._resting and not self._has_rested(principal):
            return False
        inside = self._inside.get(principal, 0)
        if self.running >= self._most and (inside or self.running >= self._most + self._beyond):
            return False
        self._inside[principal] = inside + 1
        self.running += 1
        return True

    async def wait(self, principal: str, seconds: float | None = None) -> bool:
        """Wait to be let in; False for whoever makes room for others. Raises TimeoutError after so
        many seconds."""
        place = asyncio.get_running_loop().create_future()
        self._lines.setdefault(principal, {})[place] = None
        try:
            # Not by asyncio.timeout(), because who drives resolvers by hand is not their task.
            await asyncio.wait((place,), timeout=seconds)
            if not place.done():
                raise TimeoutError
        except BaseException:
            # Also cancelled, or closed by who drives it. What comes for nobody would be lost.
            if place.done() and place.result():
                self.leave(principal)
            self._drop(principal, place)
            raise
        let_in: bool = place.result()
        return let_in

    def leave(self, principal: str) -> None:
        """One of a principal's is out again; whose turn it is comes in."""
        self.running -= 1
        left = self._inside.pop(principal) - 1
        if left:
            self._inside[principal] = left
        for each in self._lines:
            if self._takes(each):
                self._let_in(each)
                return

    def rest(self, principal: str, seconds: float) -> None:
        """Let none of a principal's in for so long, and then one after the other, so that each may
        have it rest again."""
        loop = asyncio.get_running_loop()
        if principal not in self._resting:
            loop.call_later(seconds, self._go_on, principal)
        self._resting[principal] = loop.time() + seconds

    def _has_rested(self, principal: str) -> bool:
        return asyncio.get_running_loop().time() >= self._resting.get(principal, 0)

    def _go_on(self, principal: str) -> None:
        loop = asyncio.get_running_loop()
        if not self._has_rested(principal):
            loop.call_at(self._resting[principal], self._go_on, principal)
        elif principal in self._lines:
            if self._takes(principal):
                self._let_in(principal)
            loop.call_later(_SECONDS_BETWEEN, self._go_on, principal)
        else:
            del self._resting[principal]

    def makes_room_for(self, principal: str) -> bool:
        """Send away the last of whoever has most in line; not for a line that would be as long."""
        longest = max(self._lines, key=lambda each: len(self._lines[each]))
        if len(self._lines[longest]) <= len(self._lines.get(principal, ())) + 1:
            return False
        place = next(reversed(self._lines[longest]))
        self._drop(longest, place)
        place.set_result(False)
        return True

    def _let_in(self, principal: str) -> None:
        line = self._lines.pop(principal)
        place = next(iter(line))
        del line[place]
        if line:
            self._lines[principal] = line
        place.set_result(True)

    def _drop(self, principal: str, place: asyncio.Future[bool]) -> None:
        line = self._lines.get(principal, {})
        line.pop(place, None)
        if not line:
            self._lines.pop(principal, None)
