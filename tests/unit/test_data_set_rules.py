"""Which data set facts speak of."""

from typing import Any

import pytest

from lifecycle.datasets.rules import DataSetName, named


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"name": "churn"}, DataSetName("churn")),
        ({"name": "churn", "digest": "1", "rows": 5}, DataSetName("churn", "1")),
        ({"name": "\t churn \r\n", "digest": " 1 "}, DataSetName("churn", "1")),
        ({"name": "x" * 250, "digest": "y" * 250}, DataSetName("x" * 250, "y" * 250)),
        ({"name": " " + "x" * 250}, DataSetName("x" * 250)),
        ({"name": "\u00a0churn"}, DataSetName("\u00a0churn")),
        ({"name": "churn", "digest": "y" * 251}, DataSetName("churn")),
        ({"name": "churn", "digest": 1}, DataSetName("churn")),
        ({"name": "x" * 251, "digest": "1"}, None),
        ({"name": "a\x00b"}, None),
        ({"name": "  "}, None),
        ({"name": {"name": "churn"}}, None),
        ({"Name": "churn"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_name_and_a_digest_are_short_single_lines(
    facts: dict[str, Any] | None, found: DataSetName | None
) -> None:
    assert named(facts) == found
