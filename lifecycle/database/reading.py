"""Reading: what each session can, and how reads that are made together are one statement.

Not here: on which connections, which is `readers` and `writing`.
"""

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextvars import copy_context
from datetime import datetime
from functools import lru_cache, partial
from itertools import count, islice
from typing import Any, NamedTuple, cast, overload

from sqlalchemy import Select, func, select

from lifecycle.statements import STATEMENTS, Columns, Prepared, Row, Values, prepared

# PostgreSQL's bound is 1,664.
_COLUMNS = 1_600
# In one statement: to plan 300 takes PostgreSQL seconds, six times 50 a quarter of one.
_PARTS = 50
# The driver holds the whole answer before anybody can count it. A list with JSON may have 25 MB,
# and weighs 4; another 4 MB, and weighs 1.
_WEIGHT = 16

_PARAMETER = re.compile(r"\$(\d+)")

NO_PARAMETERS: Mapping[str, Any] = {}


class ReadSession(ABC):
    """Reads one statement after the other."""

    @overload
    async def fetch(
        self, statement: Prepared[Row] | Select[Row], parameters: Mapping[str, Any] = ...
    ) -> list[Row]: ...
    @overload
    async def fetch(  # type: ignore[overload-cannot-match]
        self, statement: Select[*Columns], parameters: Mapping[str, Any] = ...
    ) -> list[tuple[*Columns]]: ...
    async def fetch(
        self, statement: Any, parameters: Mapping[str, Any] = NO_PARAMETERS
    ) -> list[Any]:
        """All rows, as `Prepared` says. What is asked often should be prepared."""
        if not isinstance(statement, Prepared):
            statement, values = prepared(statement)
            parameters = {**values, **parameters}
        return await self._rows(statement, statement.values(parameters))

    @overload
    async def fetch_one(
        self, statement: Prepared[Row] | Select[Row], parameters: Mapping[str, Any] = ...
    ) -> Row | None: ...
    @overload
    async def fetch_one(  # type: ignore[overload-cannot-match]
        self, statement: Select[*Columns], parameters: Mapping[str, Any] = ...
    ) -> tuple[*Columns] | None: ...
    async def fetch_one(self, statement: Any, parameters: Mapping[str, Any] = NO_PARAMETERS) -> Any:
        """The first row, or None; for statements that have no more than one."""
        found = await self.fetch(statement, parameters)
        return found[0] if found else None

    async def _rows(self, statement: Prepared[Row], values: Sequence[Any]) -> list[Row]:
        return statement.rows(await self._run(statement.sql, values))

    @abstractmethod
    async def _run(self, sql: str, values: Sequence[Any]) -> Sequence[Values]:
        """Rows as they come from the driver."""


_CLOCK = Prepared(select(func.clock_timestamp()))


async def clock(session: ReadSession) -> datetime:
    """The database's time now, which all processes share; not the transaction's, which may have
    waited long for a lock."""
    now: datetime
    (now,) = await session.fetch(_CLOCK)
    return now


class _Asking(ReadSession):
    """Has no connection: whoever drives the coroutines that read by it is given the statements, and
    sends the rows of each."""

    async def _rows(self, statement: Prepared[Row], values: Sequence[Any]) -> list[Row]:
        (rows,) = await _Asked([_Question(statement, values)])
        return cast("list[Row]", rows)

    async def _run(self, sql: str, values: Sequence[Any]) -> Sequence[Values]:
        raise AssertionError("whoever drives it does so")


class _Question(NamedTuple):
    statement: Prepared[Any]
    values: Sequence[Any]


class _Asked:
    __slots__ = ("questions",)

    def __init__(self, questions: Sequence[_Question]) -> None:
        self.questions = questions

    def __await__(self) -> Generator[Sequence[_Question], list[list[Any]], list[list[Any]]]:
        return (yield self.questions)


class Later:
    """A parameter that is not known yet: an attribute of the one row that the first of the reads
    gives that are asked together. What was read by it says nothing, if it `missed` that row."""

    __slots__ = ("attribute", "missed")

    def __init__(self, attribute: str) -> None:
        self.attribute = attribute
        self.missed = False


# A parameter that is Later: of which statement, at which place, which attribute.
_Place = tuple[int, int, str]


def _replaced(texts: Sequence[str], parameter: re.Match[str]) -> str:
    return texts[int(parameter[1]) - 1]


@lru_cache(STATEMENTS)
def _joined(statements: tuple[Prepared[Any], ...], later: tuple[_Place, ...]) -> str:
    """One statement that gives all columns of each of these: of one row as they are, and whether it
    is there; of several as arrays. To make rows of arrays takes the driver half as long as arrays
    of records; with one group alone PostgreSQL keeps the order. With what is later the first gives
    one row, as it is, or there is nothing at all.
    """
    attributes = {(n, place): attribute for n, place, attribute in later}
    parts, numbers = ["(SELECT) AS always"], count(1)
    for n, each in enumerate(statements):
        places = [attributes.get((n, place)) for place in range(each.parameters)]
        texts = [
            f"found.c{statements[0].place(attribute)}"
            if attribute is not None
            else f"${next(numbers)}"
            for attribute in places
        ]
        rows = f"({_PARAMETER.sub(partial(_replaced, texts), each.sql)})"
        names = [f"c{column}" for column in range(each.columns)]
        if later and n == 0:
            parts = [f"{rows} AS found ({', '.join(names)})"]
            continue
        shown = ["*", "true"] if each.one_row else [f"array_agg({name})" for name in names]
        part = f"SELECT {', '.join(shown)} FROM {rows} AS row ({', '.join(names)})"
        parts.append(f"LATERAL ({part}) AS part_{n} ON true")
    return f"SELECT * FROM {' LEFT JOIN '.join(parts)}"


Read = Callable[[ReadSession], Coroutine[Any, Any, Any]]


async def together(session: ReadSession, reads: Sequence[Read]) -> list[Any]:
    """What each of the reads returns. What they ask at the same time is one statement: a round
    trip takes longer than most of what is asked. They must wait for nothing but their session, of
    which they may read together in turn, and to give others a turn, by `asyncio.sleep(0)`.
    """
    if len(reads) == 1:
        return [await reads[0](session)]
    results: list[Any] = [None] * len(reads)
    coroutines = [(read(_Asking()), copy_context()) for read in reads]
    going: list[tuple[int, Any]] = [(n, None) for n in range(len(reads))]
    try:
        while going:
            asked: list[_Question] = []
            waiting = []
            for n, rows in going:
                coroutine, context = coroutines[n]
                try:
                    questions = context.run(coroutine.send, rows)
                    while questions is None:
                        await asyncio.sleep(0)
                        questions = context.run(coroutine.send, None)
                    asked += questions
                    waiting.append((n, len(questions)))
                except StopIteration as end:
                    results[n] = end.value
            found = iter(await _answered(session, asked))
            going = [(n, list(islice(found, questions))) for n, questions in waiting]
    finally:
        for coroutine, context in coroutines:
            context.run(coroutine.close)
    return results


async def _answered(session: ReadSession, asked: Sequence[_Question]) -> list[list[Any]]:
    """The rows of each statement, in one round trip for all that can be joined."""
    if isinstance(session, _Asking):
        return await _Asked(asked)
    width = sum(each.statement.columns + 1 for each in asked)
    weight = sum(each.statement.weight for each in asked)
    if len(asked) > _PARTS or (len(asked) > 1 and (width > _COLUMNS or weight > _WEIGHT)):
        half = len(asked) // 2
        return [
            *await _answered(session, asked[:half]),
            *await _answered(session, asked[half:]),
        ]
    joined = [each for each in asked if each.statement.columns]
    later = [
        (n, place, value.attribute)
        for n, each in enumerate(joined)
        for place, value in enumerate(each.values)
        if isinstance(value, Later)
    ]
    # What is later refers to the first of all, which is not among those that are later themselves.
    apart = later and (joined[0] is not asked[0] or later[0][0] == 0)
    if len(joined) < 2 or apart:
        return [await _alone(session, each) for each in asked]
    sql = _joined(tuple(each.statement for each in joined), tuple(later))
    values = (value for each in joined for value in each.values)
    found = await session._run(sql, [each for each in values if not isinstance(each, Later)])
    if not found:
        return [[] for _ in asked]
    columns = iter(found[0])
    rows = []
    for n, each in enumerate(asked):
        own = list(islice(columns, each.statement.columns))
        if not own:
            rows.append(await _alone(session, each))
        elif later and n == 0:
            rows.append(each.statement.rows([own]))
        elif each.statement.one_row:
            rows.append(each.statement.rows([own]) if next(columns) else [])
        else:
            rows.append(each.statement.rows_of(own) if own[0] is not None else [])
    return rows


async def _alone(session: ReadSession, asked: _Question) -> list[Any]:
    """The rows of a statement; none of one that is Later, which is not known yet."""
    missed = [value for value in asked.values if isinstance(value, Later)]
    for each in missed:
        each.missed = True
    return [] if missed else await session._rows(asked.statement, asked.values)
