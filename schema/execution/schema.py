"""Who executes a query: its plan, or graphql-core where there is none or something is unusual."""

from collections.abc import AsyncIterator
from typing import Any

import graphql
import strawberry
import structlog
from graphql import GraphQLError, OperationType, get_operation_ast
from graphql.execution.values import get_variable_values
from strawberry.types import ExecutionResult
from structlog.contextvars import bind_contextvars

from lifecycle.errors import LifecycleError, LimitExceeded, Unauthenticated, Unavailable
from schema.admission import Admitted
from schema.documents import Document, documents, mistakes
from schema.errors import told
from schema.execution.columns import Unusual
from schema.execution.plan import Compiler
from schema.execution.run import Run
from schema.root import Schema

_log = structlog.get_logger(__name__)


class CompiledSchema(Schema):
    """The same schema, whose queries are executed by plans, over whichever transport they come.

    What is unusual about a query is left to graphql-core, which executes the operation from its
    beginning: reads have changed nothing. So its answer is the truth, here as there.
    """

    def __init__(self, stock: Schema) -> None:
        # All that it is made of is shared.
        self.__dict__.update(stock.__dict__)
        self.extensions = tuple(_ByPlan if each is Admitted else each for each in stock.extensions)
        self._stock = stock

    async def execute(
        self,
        query: str | None,
        variable_values: dict[str, Any] | None = None,
        context_value: Any = None,
        root_value: Any = None,
        operation_name: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> ExecutionResult:
        """The answer. A query whose text is known takes none of the steps around which Strawberry
        asks its extensions: there is nothing left to do in them but to wait its turn, and for a
        small query they take longer than all the rest."""
        variables = variable_values or {}
        document = documents.get(query or "")
        given = (query, variable_values, context_value, root_value, operation_name)
        if document is None or not document.only_queries:
            return await super().execute(*given, *args, **kwargs)
        try:
            admission = context_value.admission
            async with admission.executing(context_value.counted_as, admission.queries):
                await context_value.go_by_present_rights()
                data = await _by_plan(self, document, operation_name, variables, context_value)
        except (LimitExceeded, Unauthenticated, Unavailable) as error:
            return ExecutionResult(None, [told(error)])
        if isinstance(data, dict):
            return ExecutionResult(data, None)
        if isinstance(data, LimitExceeded):
            return ExecutionResult(None, [told(data)])
        context_value.spare()
        result = await self._stock.execute(*given, *args, **kwargs)
        _look_into(data, result)
        return result


class _ByPlan(Admitted):
    """Executes a query whose text is new, or that comes over a websocket or in a stream."""

    async def on_execute(self) -> AsyncIterator[None]:
        context = self.execution_context
        document = documents.get(context.query or "")
        # Not beside the extension that admits: what ends a plan has to pass by it.
        async with self.admitted():
            if document is None:
                yield
                return
            name, variables = context.operation_name, context.variables or {}
            data = await _by_plan(context.schema, document, name, variables, context.context)
            if isinstance(data, dict):
                context.result = graphql.ExecutionResult(data, None)
            elif isinstance(data, LimitExceeded):
                context.result = graphql.ExecutionResult(None, [told(data)])
            context.context.spare()
            yield
        if not isinstance(data, dict):
            _look_into(data, context.result)


def _look_into(failure: Exception | None, result: object) -> None:
    """A plan that fails where graphql-core does not is a mistake of ours that nobody else would
    notice."""
    usual = failure is None or isinstance(failure, Unusual | GraphQLError | LifecycleError)
    if not usual and not getattr(result, "errors", None):
        _log.warning("execution.plan_failed", error=repr(failure))


async def _by_plan(
    schema: strawberry.Schema,
    document: Document,
    operation_name: str | None,
    variables: dict[str, Any],
    context: Any,
) -> dict[str, Any] | Exception | None:
    """The data of an operation; None if there is no plan for it, or what its plan failed with."""
    operation = get_operation_ast(document.node, operation_name)
    if operation is None or operation.operation is not OperationType.QUERY:
        return None
    if document.conditions is None:
        return None
    bind_contextvars(operation=operation.name and operation.name.value)
    try:
        if mistakes(document, operation_name, variables):
            return None
        plan, values = None, None
        if not document.conditions:
            plan = document.plans.get((operation_name,))
            values = plan.texts.given(variables) if plan and plan.texts else None
        if values is None:
            # Of what is wrong nothing is told here, and each mistake may take long to put.
            found = get_variable_values(
                schema._schema,
                operation.variable_definitions or (),
                variables,
                max_errors=0,
                hide_suggestions=True,
            )
            if isinstance(found, list):
                return None
            values = found
        key = (operation_name, *map(values.coerced.get, document.conditions))
        plan = plan or document.plans.get(key)
        if plan is None:
            plan = Compiler(schema, document.node, operation, values).plan()
            document.keep(key, plan, plan.size)
        return await Run(schema, plan, values, context).answer()
    except Exception as error:  # whatever it is, graphql-core has the answer to it
        # Not with its frames, which would hold what was read as long as it is read once more.
        return error.with_traceback(None)
