"""Who executes a query: its plan, or graphql-core where there is none or something is unusual."""

from collections.abc import AsyncIterator
from copy import copy
from typing import Any

import strawberry
from graphql import ExecutionResult, get_operation_ast
from graphql.execution.values import get_variable_values
from strawberry.extensions import SchemaExtension
from strawberry.types.graphql import OperationType

from schema.documents import Document, documents
from schema.execution.columns import Unusual
from schema.execution.plan import Compiler, Plan
from schema.execution.run import Run
from schema.kept import Kept

MAX_PLANS = 1_000
MAX_FIELDS = 50_000

_plans: Kept[tuple[object, ...], Plan] = Kept(MAX_PLANS, MAX_FIELDS)


class Compiled(SchemaExtension):
    """Answers queries by their plans. Whatever is unusual about one is left to graphql-core, which
    executes the operation from its beginning: reads have changed nothing."""

    async def on_execute(self) -> AsyncIterator[None]:
        context = self.execution_context
        document = documents.get(context.query or "")
        if document is not None and context.operation_type is OperationType.QUERY:
            try:
                context.result = ExecutionResult(await self._data(document), None)
            except Exception:  # whatever it is, graphql-core has the answer to it
                context.context.forget()
        yield

    async def _data(self, document: Document) -> dict[str, Any]:
        context = self.execution_context
        if document.conditions is None:
            raise Unusual("introspection, or a directive that is not known here")
        schema = context.schema._schema
        operation = get_operation_ast(document.node, context.operation_name)
        assert operation is not None
        variables = get_variable_values(
            schema, operation.variable_definitions or (), context.variables or {}
        )
        if isinstance(variables, list):
            raise Unusual("variables that cannot be read")
        decided = (variables.coerced.get(name) for name in document.conditions)
        key = (context.query, context.operation_name, *decided)
        plan = _plans.get(key)
        if plan is None:
            plan = Compiler(schema, document.node, operation, variables).plan()
            _plans.keep(key, plan, plan.size)
        return await Run(context.schema, plan, variables, context.context).answer()


def compiled(schema: strawberry.Schema) -> strawberry.Schema:
    """The same schema, whose queries are answered by their plans."""
    faster = copy(schema)
    faster.extensions = (*schema.extensions, Compiled)
    return faster
