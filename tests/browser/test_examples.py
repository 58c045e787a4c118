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

    headers = path.with_suffix(".headers.json")
    if headers.exists():
        assert list(json.loads(headers.read_text())) == ["Lifecycle-Actor"]


def test_every_file_belongs_to_an_example() -> None:
    names = {path.name.split(".")[0] for path in EXAMPLES.iterdir()}
    assert names == {path.stem for path in EXAMPLES.glob("*.graphql")}
