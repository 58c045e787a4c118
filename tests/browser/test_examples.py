"""The queries in GraphiQL's tabs are the first that people run: they have to be right."""

import json
from pathlib import Path

import pytest
from graphql import OperationDefinitionNode, parse, validate
from graphql.execution.values import get_variable_values

from schema.root import schema

EXAMPLES = Path(__file__).parents[2] / "schema" / "graphiql" / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.graphql")), ids=lambda path: path.stem)
def test_the_example_is_valid(path: Path) -> None:
    document = parse(path.read_text())
    assert validate(schema._schema, document) == []

    [operation] = document.definitions
    assert isinstance(operation, OperationDefinitionNode)
    assert operation.name, "the tab is called after it"

    variables = path.with_suffix(".json")
    given = json.loads(variables.read_text()) if variables.exists() else {}
    coerced = get_variable_values(schema._schema, operation.variable_definitions or (), given)
    assert not isinstance(coerced, list), coerced
