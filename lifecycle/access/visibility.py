"""Which rows exist for a principal who may see some models only.

Each table says which of its rows those are, in terms of the models and of tables before it. What a
restricted session reads is put behind a WITH that gives the tables' names to those rows: PostgreSQL
then looks nowhere else, whatever the statement is like, an alias, a subquery, a recursion or plain
text. Who asks for the rows in this way is `lifecycle.database`; nobody else has to think of it.
"""

import re
from collections.abc import Set as AbstractSet
from functools import lru_cache

# How many narrowed statements are kept.
_KEPT = 1_000

_OF_VERSION = "model_version_id IN (SELECT id FROM model_version)"
_OF_RUN = "run_id IN (SELECT id FROM run)"
_SUBJECTS = (
    *("model", "model_version", "deployment", "drift_event", "run", "experiment", "data_set"),
    *("stage_policy", "drift_policy", "mlflow_item", "role_grant", "api_token"),
)

# The rows that are visible, in an order in which each needs only those before it. {models} is the
# ids of the visible models. Runs belong to no model: they are seen with the versions that came out
# of them, and experiments and data sets with those runs.
VISIBLE = {
    "model": "id = ANY({models})",
    "model_version": "model_id = ANY({models})",
    "version_metric": _OF_VERSION,
    "stage_assignment": "model_id = ANY({models})",
    "stage_policy": "model_id IS NULL OR model_id = ANY({models})",
    "validation_report": _OF_VERSION,
    "approval": _OF_VERSION,
    "approval_decision": "approval_id IN (SELECT id FROM approval)",
    "checklist_item": _OF_VERSION,
    "deployment": _OF_VERSION,
    "deployment_transition": "deployment_id IN (SELECT id FROM deployment)",
    "drift_policy": "model_name IS NULL OR model_name IN (SELECT name FROM model)",
    "drift_event": _OF_VERSION,
    "drift_response": "drift_event_id IN (SELECT id FROM drift_event)",
    "run": "id IN (SELECT run_id FROM model_version)",
    "metric_point": _OF_RUN,
    "latest_metric": _OF_RUN,
    "artifact": _OF_RUN,
    "artifact_upload": _OF_RUN,
    "experiment": "id IN (SELECT experiment_id FROM run)",
    "data_set": "id IN (SELECT data_set_id FROM run)",
    "role_grant": "model_id = ANY({models})",
    "api_token": "EXISTS (SELECT FROM jsonb_array_elements(grants) AS given "
    "WHERE (given ->> 'model_id')::uuid = ANY({models}))",
    "log_line": "owner_id IN (SELECT id FROM run UNION ALL SELECT id FROM deployment)",
    # What is in MLflow only is nothing of a model's yet.
    "mlflow_item": "object_id IN (SELECT id FROM model UNION ALL SELECT id FROM model_version "
    "UNION ALL SELECT id FROM run UNION ALL SELECT id FROM experiment)",
    # By keys, so that of few events nothing is read but their subjects; of many, PostgreSQL reads
    # the ids of all that is visible first.
    "event": "CASE subject_kind "
    + " ".join(
        f"WHEN '{kind}' THEN EXISTS (SELECT FROM {kind} WHERE {kind}.id = event.subject_id)"
        for kind in _SUBJECTS
    )
    + " END",
}

# The same the other way round, of the kinds of subjects that are followed: each of these subjects
# with the models that it is visible by, so that it is asked once for however many follow.
MODELS_OF = {
    "deployment": "SELECT deployment.id, model_id FROM deployment "
    "JOIN model_version ON model_version.id = model_version_id WHERE deployment.id = ANY({ids})",
    "run": "SELECT DISTINCT run_id, model_id FROM model_version WHERE run_id = ANY({ids})",
}

# The columns of a table, where a visible row may say something of a hidden one: a run has a parent,
# a token rights to several models.
_RIGHTS = (
    "jsonb_set({column}, '{{grants}}', (SELECT jsonb_agg(given) "
    "FROM jsonb_array_elements({column} -> 'grants') AS given WHERE given ->> 'model_id' IS NULL "
    "OR (given ->> 'model_id')::uuid IN (SELECT id FROM model)))"
)
SHOWN = {
    "event": "id, position, type, subject_kind, subject_id, at, actor, request_id, "
    "idempotency_key, reason, CASE WHEN type = 'api_token.revoked' "
    f"THEN {_RIGHTS.format(column='before')} ELSE before END AS before, "
    "CASE WHEN type = 'run.created' AND NOT EXISTS "
    "(SELECT FROM run AS parent WHERE parent.id = CAST(event.after ->> 'parent_id' AS uuid)) "
    "THEN jsonb_set(after, '{parent_id}', 'null') WHEN type = 'api_token.created' "
    f"THEN {_RIGHTS.format(column='after')} ELSE after END AS after, hash",
}

# All rows are visible, and why.
OPEN = {
    "trusted_document": "says what may be asked, which is the same for everybody",
    "idempotency_key": "is looked up by its actor alone, who has used it",
    "rights_head": "says how often rights have changed, which is nothing of anybody",
    "journal_head": "says how far the journal goes, which the cursors of subscriptions show too",
    "mlflow_server": "is the one that the service is configured with, and says if that answers",
}

_WORD = re.compile(r"[a-z_0-9]+")
_QUALIFIED = re.compile(r"\.\s*\"?([a-z_0-9]+)")
_WRITES = re.compile(r"(insert\s+into|delete\s+from|update\s+\w+\s+set)\b")
_LOCKS = re.compile(r"\bfor\s+((no\s+key\s+)?update|(key\s+)?share)\b")

_NEEDED = {
    table: frozenset(_WORD.findall(which)) & VISIBLE.keys() for table, which in VISIBLE.items()
}
_MARK = "AS NOT MATERIALIZED"


class Unrestrictable(Exception):
    """A statement that cannot be kept to the visible rows, so that it must not be executed."""


def ids_of(table: str, models: str) -> str:
    """A statement for the ids of the visible rows of a table; `models` stands for the ids of the
    models in it. Raises Unrestrictable."""
    if table not in VISIBLE:
        raise Unrestrictable(f"Nothing says which rows of {table} are visible.")
    return f"WITH {_shadows({table}, models)} SELECT id FROM {table}"


@lru_cache(_KEPT)
def narrowed(sql: str, parameters: int, tables: frozenset[str]) -> tuple[str, bool]:
    """A statement of so many parameters that sees of all `tables` only what is visible, and whether
    it has one more parameter for that, the ids of the models.

    What is written is left as it is, because it names rows that were looked up before. Raises
    Unrestrictable when nothing is known of a table, when it does not read by the plain name, and
    when it locks what it reads and is not for the ids of visible rows.
    """
    text = sql.strip()
    small = text.lower()
    named = tables.intersection(_WORD.findall(small))
    if unknown := sorted(named - VISIBLE.keys() - OPEN.keys()):
        raise Unrestrictable(f"Nothing says which rows of {', '.join(unknown)} are visible.")
    named &= VISIBLE.keys()
    with_ = re.match(r"with(\s+recursive)?\s", small)
    if not named or (_WRITES.search(small) if with_ else _WRITES.match(small)):
        return sql, False
    if not (with_ or small.startswith(("select", "("))):
        raise Unrestrictable("This is neither a query nor a change.")
    if not named.isdisjoint(_QUALIFIED.findall(small)):
        raise Unrestrictable("Tables are named without their schema.")
    if _LOCKS.search(small):
        # What a WITH gives cannot be locked.
        if _MARK not in sql:
            raise Unrestrictable("What locks rows asks for them by `ids_of`.")
        return sql, False
    models = f"${parameters + 1}::uuid[]"
    shadows = _shadows(named, models)
    if with_ and with_[1]:
        # There the names would stand for themselves. The order is kept by what only passes on.
        text = f"SELECT * FROM ({text}) AS narrowed"
    elif with_:
        shadows, text = f"{shadows},", text[with_.end() :]
    return f"WITH {shadows} {text}", models in shadows


def _shadows(named: AbstractSet[str], models: str) -> str:
    """What gives the names of these tables, and of those that they need, to the visible rows."""
    wanted = set(named)
    for table in reversed(VISIBLE):
        if table in wanted:
            wanted |= _NEEDED[table]
    return ", ".join(
        f"{table} {_MARK} (SELECT {SHOWN.get(table, '*')} FROM {table} "
        f"WHERE {which.format(models=models)})"
        for table, which in VISIBLE.items()
        if table in wanted
    )
