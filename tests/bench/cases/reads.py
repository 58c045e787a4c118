"""What all cases that read have in common: the same question to everybody, the same answer.

A question is asked with different variables in turn, so that nobody can answer from memory.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson

from tests.bench.cases import Bench
from tests.bench.contenders import CONNECTIONS
from tests.bench.load import Request, WrongAnswer, ask, post, staggered
from tests.bench.measure import Bound, Outcome, in_rounds

Variables = Mapping[str, object]


@dataclass(frozen=True)
class Question:
    """The same question in GraphQL to this service and to PostGraphile, with aliases where they
    name things differently, and as one SQL statement whose parameters are the variables. Of
    PostGraphile, the rows' own ids are in `row_variables`."""

    name: str
    service: str
    postgraphile: str
    limit: str
    variables: Sequence[Variables]
    row_variables: Sequence[Variables] | None = None

    def requests(self, contender: str, port: int) -> list[Request]:
        """What is sent to one of the contenders that speak GraphQL, or to the limit."""
        if contender == "limit":
            variables = self.row_variables or self.variables
            return [post(port, f"/{self.name}", list(each.values())) for each in variables]
        if contender == "postgraphile":
            query, variables = self.postgraphile, self.row_variables or self.variables
        else:
            query, variables = self.service, self.variables
        content = [{"query": query, "variables": each} for each in variables]
        return [post(port, "/graphql", each) for each in content]


def plain(value: Any) -> Any:
    """An answer without what may differ: lists with and without `nodes`, forms of ids, of times and
    of numbers."""
    if isinstance(value, dict):
        if value.keys() == {"nodes"}:
            return plain(value["nodes"])
        return {key: key if key == "id" else plain(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
        with suppress(ValueError):
            return datetime.fromisoformat(value)
    return value


async def checked(
    port: int, requests: Sequence[Request], expected: Sequence[Any], read: Callable[[Any], Any]
) -> list[Request]:
    """The requests, which from now on are held to the lengths of their answers. Raises WrongAnswer
    where an answer is not what everybody else's is."""
    sent = []
    for request, right in zip(requests, expected, strict=True):
        body = await ask(port, request)
        found = read(orjson.loads(body))
        if found != right:
            raise WrongAnswer(f"{str(found)[:2000]}\nis not\n{str(right)[:2000]}")
        sent.append(replace(request, length=len(body)))
    return sent


async def held(port: int, requests: Sequence[Request]) -> list[Request]:
    """The same where there is nobody to compare with: the answers must be without errors."""
    found = []
    for request in requests:
        body = await ask(port, request)
        if orjson.loads(body).get("errors"):
            raise WrongAnswer(body[:2000].decode())
        found.append(replace(request, length=len(body)))
    return found


async def compare(
    bench: Bench,
    question: Question,
    bounds: Sequence[Bound],
    mlflow: Callable[[int], list[Request]] | None = None,
    read_mlflow: Callable[[Any], Any] | None = None,
    read_service: Callable[[Any], Any] = plain,
) -> Outcome:
    """Answers a second of everybody. MLflow has questions and answers of its own, which are
    compared with what `read_service` makes of this service's."""
    service = bench.servers["service"]
    asked = await held(service.port, question.requests("service", service.port))
    answers = [orjson.loads(await ask(service.port, request)) for request in asked]
    turns = {}
    for name, server in bench.servers.items():
        if name == "mlflow":
            if mlflow is None or read_mlflow is None:
                continue
            right = [read_service(answer) for answer in answers]
            requests = await checked(server.port, mlflow(server.port), right, read_mlflow)
        else:
            right = [plain(answer) for answer in answers]
            asked = question.requests(name, server.port)
            requests = await checked(server.port, asked, right, plain)
        turns[name] = bench.turn(server.port, staggered(requests, CONNECTIONS))
    figures = await in_rounds(turns, bench.rounds, bench.random)
    return Outcome(question.name, "answers/s", figures, bounds)
