"""Subscriptions: each item is executed and encoded once for all who are answered the same.

graphql-core would execute an event for each subscriber, though there may be thousands who ask for
the same of it. So what it does in one go is done here in its parts: the stream of items is each
subscriber's own, their answers are shared. Which items come, in which order, is in journal.py.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Iterable
from contextvars import copy_context
from dataclasses import dataclass
from functools import cached_property, partial
from inspect import isawaitable
from typing import Any
from weakref import WeakValueDictionary

import orjson
import strawberry
from graphql import ExecutionResult as Executed
from graphql import GraphQLError, OperationType, get_operation_ast
from graphql.execution import Executor, create_source_event_stream, execute_subscription_event
from strawberry.types import ExecutionResult
from structlog.contextvars import bind_contextvars

from lifecycle.errors import LimitExceeded, Unauthenticated, Unavailable
from lifecycle.principals.sign_in import CHANGED
from schema.context import Context
from schema.documents import Document, accepted
from schema.errors import shown, told
from schema.limits import MAX_SUBSCRIPTION

# All who follow take an event within moments of each other. Whoever is slower than this waits for
# an answer of the state as it is then.
_SHARED_SECONDS = 1.0


class Answer(ExecutionResult):
    """What an item is answered with, the same object for all who are answered the same."""

    # Whether the subscription ends with it.
    ends = False

    @cached_property
    def json(self) -> str:
        """The payload of a `next`, as JSON."""
        payload: dict[str, object] = {"data": self.data}
        if self.errors:
            payload["errors"] = [error.formatted for error in self.errors]
        return orjson.dumps(payload).decode()


@dataclass(frozen=True, slots=True)
class Asked:
    """A subscription, and who asks."""

    schema: strawberry.Schema
    document: Document
    operation_name: str | None
    variables: dict[str, Any]
    context: Context

    @property
    def alike(self) -> Hashable:
        """Equal for those who are answered the same."""
        names = self.document.inner_variables
        mattering = {name: self.variables[name] for name in names if name in self.variables}
        values = orjson.dumps(mattering).decode()
        context = self.context
        return context.feed, self.document, self.operation_name, values, context.audience

    def executor(self, context: Context) -> Executor[Any] | list[GraphQLError]:
        """What executes it. Made when it is needed: it is as large as all else that a subscriber
        has."""
        return self.schema.execution_context_class.build(
            self.schema._schema,
            self.document.node,
            context_value=context,
            raw_variable_values=self.variables,
            operation_name=self.operation_name,
        )

    async def execute(self, item: object, whose: Callable[[], str]) -> Answer:
        """The answer to one item; `whose` says for each of its reads in which principal's line it
        stands. Raises LimitExceeded when it takes too long."""
        context = self.context.for_item(whose)
        executor = self.executor(context)
        assert isinstance(executor, Executor)
        try:
            executed = execute_subscription_event(executor.build_per_event_executor(item))
            result = await executed if isawaitable(executed) else executed
        except asyncio.CancelledError:
            context.loaders.abandon()
            raise
        errors = result.errors or []
        missing = [each for each in errors if isinstance(each.original_error, Unavailable)]
        if not missing:
            return self.answer(result.data, errors)
        # What could not be looked up must not be passed by: who comes back with the last cursor
        # gets it.
        answer = self.answer(None, missing[:1])
        answer.ends = True
        return answer

    def answer(self, data: dict[str, Any] | None, errors: Iterable[GraphQLError]) -> Answer:
        """With the errors as clients are shown them."""
        logged: set[int] = set()
        found = [shown(each, self.context, self.operation_name, logged) for each in errors]
        return Answer(data, found or None)


class _Alike:
    """Those who are answered the same as who asked first."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        # How many there are of each principal.
        self.followers = Counter[str]()
        self._logged_as = copy_context()
        # By the identity of the item, which no other object can have as long as it is kept here.
        self._answers: dict[int, tuple[object, asyncio.Task[Answer]]] = {}

    def answer(self, item: object) -> asyncio.Task[Answer]:
        """The answer to an item for all of them, each of whom may leave."""
        if id(item) not in self._answers:
            execution = self._logged_as.run(asyncio.create_task, self._execute(item))
            self._answers[id(item)] = item, execution
            forget = partial(self._answers.pop, id(item))
            loop = asyncio.get_running_loop()
            execution.add_done_callback(lambda _: loop.call_later(_SHARED_SECONDS, forget))
        return self._answers[id(item)][1]

    async def _execute(self, item: object) -> Answer:
        try:
            async with self._asked.context.admission.item(self._least_busy()):
                if not self.followers.total():  # all have left while it waited for its turn
                    return Answer(None, None)
                return await self._asked.execute(item, self._least_busy)
        except LimitExceeded as error:
            return self._asked.answer(None, [told(error)])

    def _least_busy(self) -> str:
        """Who of them has least in line now: what one asks besides, be it because of an item of
        which the rest is still to be read, is not to be in the way of the others."""
        context = self._asked.context

        def load(principal: str) -> int:
            return context.admission.items.load(principal) + context.database.load(principal)

        return min(self.followers, key=load, default="")


_alike = WeakValueDictionary[Hashable, _Alike]()


class Answers(AsyncIterator[Answer]):
    """What one subscriber is sent; to be closed, when nobody takes it any more.

    It is one of the principal's subscriptions until then. An exception of the stream of items is
    its last answer, as is an item for which the database was missing. Raises LimitExceeded when the
    principal has too many.
    """

    def __init__(self, asked: Asked, items: AsyncGenerator[object, None]) -> None:
        self._asked = asked
        self._principal = asked.context.counted_as
        asked.context.admission.subscriptions.take(self._principal)
        self._open, self._begun, self._ended = True, False, False
        self._alike = _alike.setdefault(asked.alike, _Alike(asked))
        self._alike.followers[self._principal] += 1
        self._items = items
        asked.context.prepare = self._alike.answer

    async def __anext__(self) -> Answer:
        if self._ended:
            raise StopAsyncIteration
        try:
            item = await self._next()
        except StopAsyncIteration:
            raise
        except Exception as error:  # whatever it is, it is what the client is told
            return self._asked.answer(None, [GraphQLError(str(error), original_error=error)])
        execution = self._alike.answer(item)
        answer = execution.result() if execution.done() else await asyncio.shield(execution)
        self._ended = answer.ends
        return answer

    async def _next(self) -> object:
        if self._begun:
            return await anext(self._items)
        # What comes first is looked up, as an item is executed, when it is the principal's turn.
        self._begun = True
        async with self._asked.context.admission.item(self._principal):
            return await anext(self._items)

    async def aclose(self) -> None:
        """End it, wherever it is."""
        if self._open:
            self._open = False
            self._alike.followers[self._principal] -= 1
            self._alike.followers += Counter()  # forget who has none
            self._asked.context.admission.subscriptions.give_back(self._principal)
            self._asked.context.prepare = None  # else it would keep itself
            await self._items.aclose()
            self._asked.context.ended()


async def answers(
    schema: strawberry.Schema,
    text: str,
    variables: dict[str, Any],
    operation_name: str | None,
    given: Context,
) -> Answers | Answer | None:
    """The answers to a subscription; the only one, if it cannot begin; None if it is none, or if
    anything is wrong with the document. Raises LimitExceeded, Unauthenticated and Unavailable."""
    document = accepted(schema, text, operation_name, variables)
    operation = document and get_operation_ast(document.node, operation_name)
    if not document or not operation or operation.operation is not OperationType.SUBSCRIPTION:
        return None
    _check_short(text, variables)
    name = operation.name.value if operation.name else None
    context = given.fresh()
    # What has just happened is shown as it is now.
    context.be_current()
    asked = Asked(schema, document, name, variables, context)
    bind_contextvars(operation=name)
    # When it is the principal's turn, because a thousand may begin together.
    async with context.admission.item(context.counted_as):
        await context.go_by_present_rights()
        # By those of its request or websocket it is told to end.
        if context.origin.rights != given.origin.rights:
            raise Unauthenticated(CHANGED)
        executor = asked.executor(context)
        if isinstance(executor, list):
            errors = executor
        else:
            created = create_source_event_stream(executor)
            items = await created if isawaitable(created) else created
            if not isinstance(items, Executed):
                assert isinstance(items, AsyncGenerator)
                return Answers(asked, items)
            errors = items.errors or []
    # Not left to Strawberry: asked again it may begin, and its items would be nobody's here.
    context.ended()
    return asked.answer(None, errors)


def _check_short(text: str, variables: dict[str, Any]) -> None:
    """Raise LimitExceeded when it is more than one subscription may hold."""
    length = len(text) + len(orjson.dumps(variables))
    if length > MAX_SUBSCRIPTION:
        raise LimitExceeded(
            f"A subscription and its variables may have {MAX_SUBSCRIPTION:,} characters.",
            "subscription",
            MAX_SUBSCRIPTION,
            length,
        )
