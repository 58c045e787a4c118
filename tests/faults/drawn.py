"""What hypothesis draws: documents of the schema, right and wrong, and values of JSON.

Drawing takes long, 10 to 140 ms for a document, so it is done once, and bad requests are made of it
by the thousand. The same is drawn each time.
"""

from functools import cache
from typing import Any

from graphql import GraphQLSchema
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis_graphql import Mode, mutations, nodes, queries

from schema.root import schema

# Of each root type, as many right as wrong ones.
_DOCUMENTS = 100
_VALUES = 500

_SCHEMA = schema._schema
_SCALARS = {
    "BigInt": st.integers(-(2**70), 2**70).map(nodes.Int),
    "DateTime": (st.datetimes().map(str) | st.text()).map(nodes.String),
    "JSON": st.text().map(nodes.String) | st.integers().map(nodes.Int),
}
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@cache
def documents(root: str) -> list[str]:
    """Operations of a root type."""
    found = []
    for mode in Mode:
        match root:
            case "Mutation":
                drawn = mutations(_SCHEMA, custom_scalars=_SCALARS, mode=mode)
            case "Subscription":
                drawn = queries(_of_subscriptions(), custom_scalars=_SCALARS, mode=mode)
                drawn = drawn.map("subscription {}".format)
            case _:
                drawn = queries(_SCHEMA, custom_scalars=_SCALARS, mode=mode)
        found += _drawn(drawn, _DOCUMENTS)
    return found


def draw() -> None:
    """Draw it all, which takes a minute, before it is needed."""
    for root in ("Query", "Mutation", "Subscription"):
        documents(root)
    values()
    texts()


@cache
def values() -> list[Any]:
    """Values of JSON."""
    nested = st.recursive(
        _LEAVES, lambda of: st.lists(of) | st.dictionaries(st.text(), of), max_leaves=10
    )
    return _drawn(nested, _VALUES)


@cache
def texts() -> list[str]:
    """Texts, of all the characters that there are."""
    return _drawn(st.text(), _VALUES)


def _of_subscriptions() -> GraphQLSchema:
    """The schema as if subscriptions were queries, which is what can be drawn."""
    given = _SCHEMA.to_kwargs()
    given |= {"query": _SCHEMA.subscription_type, "mutation": None, "subscription": None}
    return GraphQLSchema(**given)


def _drawn(strategy: st.SearchStrategy[Any], number: int) -> list[Any]:
    found: list[Any] = []

    @seed(0)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def keep(value: Any) -> None:
        found.append(value)

    keep()
    return found
