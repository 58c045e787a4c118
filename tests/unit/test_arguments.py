"""Arguments that depend on variables, filled in or coerced anew, are what Strawberry makes."""

from typing import Any

import pytest
from graphql import OperationDefinitionNode, parse
from graphql.execution.collect_fields import collect_fields
from graphql.execution.values import VariableValues, get_variable_values
from strawberry import Some

from lifecycle.registry.rules import Stage
from schema.execution.arguments import Arguments
from schema.root import schema

SELECTOR = "query ($name: String!, $version: String) { modelVersion(by: %s) { id } }"
BY_NAME = SELECTOR % "{ nameVersion: { modelName: $name, version: $version } }"


class Asked:
    """The first field of a document, asked for with one set of variables after the other."""

    def __init__(self, text: str) -> None:
        (operation,) = parse(text).definitions
        assert isinstance(operation, OperationDefinitionNode)
        self._operation = operation
        root = schema._schema.query_type
        assert root is not None
        nothing = VariableValues({}, {})
        collected = collect_fields(schema._schema, {}, nothing, root, operation)
        ((details, *_),) = collected.grouped_field_set.values()
        definition = root.fields[details.node.name.value]
        self.arguments = Arguments(schema, definition, details, operation)

    def given(self, **variables: Any) -> dict[str, Any]:
        values = get_variable_values(
            schema._schema, self._operation.variable_definitions or (), variables
        )
        assert isinstance(values, VariableValues), values
        filled = self.arguments.given(values)
        # What is given for each request is made for it alone, by graphql-core and Strawberry.
        assert filled == self.arguments._converted(values)
        return filled


def test_scalars_are_filled_in_wherever_they_stand() -> None:
    asked = Asked(BY_NAME)

    first = asked.given(name="churn", version="1")["by"]
    second = asked.given(name="fraud", version="2")["by"]

    assert isinstance(first.name_version, Some)
    assert vars(first.name_version.value) == {"model_name": "churn", "version": "1"}
    assert vars(second.name_version.value) == {"model_name": "fraud", "version": "2"}


def test_lists_and_enums_are_filled_in() -> None:
    asked = Asked(
        "query ($stage: Stage!, $owner: String) "
        "{ modelVersions(filter: { modelName: $owner, stages: [$stage, STAGING] }) { totalCount } }"
    )

    assert asked.given(stage="PRODUCTION", owner="a")["filter"].stages == [
        Stage.PRODUCTION,
        Stage.STAGING,
    ]
    assert asked.given(stage="ARCHIVED", owner="b")["filter"].model_name == "b"


def test_what_is_null_or_left_out_is_coerced_anew() -> None:
    asked = Asked(
        "query ($owner: String, $first: Int = 7) "
        "{ models(filter: { owner: $owner }, first: $first) { totalCount } }"
    )
    assert asked.given(owner="risk", first=3)["first"] == 3

    assert asked.given()["first"] == 7
    assert asked.given()["filter"].owner is None
    assert asked.given(owner=None, first=None)["first"] is None
    assert asked.given(owner="risk")["filter"].owner == "risk"


@pytest.mark.parametrize("variable", ["ModelFilter", "ModelFilter!"])
def test_whole_inputs_are_coerced_anew(variable: str) -> None:
    asked = Asked(f"query ($filter: {variable}) {{ models(filter: $filter) {{ totalCount }} }}")

    assert asked.given(filter={"owner": "a"})["filter"].owner == "a"
    assert asked.given(filter={"owner": "b"})["filter"].owner == "b"


def test_one_request_does_not_see_what_another_did_with_its_arguments() -> None:
    asked = Asked(
        "query ($stage: Stage!) { modelVersions(filter: { stages: [$stage] }) { totalCount } }"
    )

    asked.given(stage="PRODUCTION")["filter"].stages.clear()

    assert asked.given(stage="PRODUCTION")["filter"].stages == [Stage.PRODUCTION]
