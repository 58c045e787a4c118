"""Which names objects may have: people decide by what they see of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lifecycle.commands import Command, DistinctName
from lifecycle.names import seen


class Named(Command):
    name: DistinctName


@pytest.mark.parametrize(
    "name",
    ["churn", "fraud model v2", "größe", "модель", "模型", "نموذج", "μ/σ (2 %)", "🚀", "a\ufffd"],
)
def test_a_name_may_be_of_any_script(name: str) -> None:
    assert Named(name=name).name == name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("ch\u200burn", id="of no width"),
        pytest.param("ch\u00adurn", id="soft hyphen"),
        pytest.param("ch\u2060urn", id="word joiner"),
        pytest.param("\u202enruhc", id="from right to left"),
        pytest.param("ch\u2066urn", id="isolate"),
        pytest.param("churn\U000e0041", id="tag"),
        pytest.param("churn\ufe0f", id="variation"),
        pytest.param("churn\U000e0100", id="another variation"),
        pytest.param("ch\u034furn", id="joiner"),
        pytest.param("churn\u3164", id="filler"),
        pytest.param("churn\u2800", id="blank"),
        pytest.param("fraud\u00a0model", id="a space of another kind"),
        pytest.param("a\u2028b", id="separator of lines"),
        pytest.param("a\x85b", id="control character"),
        pytest.param("a\x00b", id="NUL"),
        pytest.param("a\ue000", id="private use"),
        pytest.param("cafe\u0301", id="not composed"),
        pytest.param("\u212b", id="another one when composed"),
    ],
)
def test_a_name_that_looks_like_another_one_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        Named(name=name)


@given(st.text(max_size=50))
def test_what_is_seen_of_a_name_is_seen_of_itself(name: str) -> None:
    assert seen(seen(name)) == seen(name)
