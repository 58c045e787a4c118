"""MLflow as this service speaks to it: the only module that imports mlflow.

It is MLflow's documented REST API, sent by mlflow's own HTTP layer. That layer knows the ways to
prove who we are (MLFLOW_TRACKING_USERNAME and _PASSWORD, _TOKEN, plugins, client certificates),
which are read for each request. mlflow's own client above it is not used, because it takes any JSON
object for an answer (a proxy's `{"status": "ok"}` is an empty list of experiments to it), opens
artifact stores itself, and loses what kind of failure there was.

mlflow is synchronous and takes seconds to import, so all of it happens in threads of the client's
own. Nothing is tried twice here: a request that was not answered may have been carried out, and who
asks again must look first.

What MLflow takes as the source of a version (2.22 and 3.17):

| source | run_id | 2.22 | 3.17 |
|---|---|---|---|
| `runs:/RUN/path` | RUN | taken | taken |
| `runs:/RUN/path` | another, or none | taken | refused |
| `mlflow-artifacts:/…/RUN/artifacts/…` | RUN | taken | taken |
| `mlflow-artifacts:/…` | another, or none | taken | refused |
| `models:/NAME/NUMBER`, which is there | none | taken | taken, with that version's run |
| `models:/m-…` | any | 500 | refused, because it wants a model_id |
| `s3://…`, `gs://…`, `dbfs:/…`, an unknown scheme (`ours:/…`) | any | taken | taken |
| `http://…`, `https://…`, `ftp://…`, `hdfs://…` | any | taken | refused |
| `file:/…`, a path, a plain name | any | refused unless among the run's files | as 2.22 |
| `ours://NAME` without a path, anything with `..` in its path | any | refused | refused |

Longest values: a parameter has 6,000 characters and a run's tag 8,000 (what is longer is cut in
silence), an experiment's tag 5,000 (3.17: 20,000), a tag in the registry 5,000 (3.17: 100,000), a
key 250. A model's name has neither `/` nor `:` in 3.17, which then refuses to look it up, too.
"""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import orjson

from lifecycle.names import printable
from lifecycle.settings import without_credentials

T = TypeVar("T")
_Json = dict[str, Any]

DEFAULT_EXPERIMENT = "0"
"""MLflow makes it by itself: it is nobody's while it has no runs."""

TIMEOUT = 10
"""Seconds for a connection, and again for each sign of life of an answer."""
_THREADS = 8
_PAGE = 200
_HISTORY_PAGE = 10_000
_INTERVAL = 2_500
"""The most points that MLflow gives of an interval; where there are more, it leaves some out."""
_LEAVES_OUT_POINTS = (3, 17)
_FILES = 1_000
_MESSAGE = 500

_BATCH = {"tags": 100, "params": 100, "metrics": 1_000}
_BATCH_IN_ALL = 1_000
_BATCH_BYTES = 1_000_000

_API = "/api/2.0/mlflow/"
_PROMPT = "mlflow.prompt.is_prompt"
_OUR_ID = "lifecycle.id"
_INFINITE = sys.float_info.max
"""What MLflow's database keeps in place of infinity."""


class MlflowError(Exception):
    """MLflow has not done what was asked. The message is one line for people, without secrets."""


class Unreachable(MlflowError):
    """No answer, none in time, or none of MLflow's: it may do so later, or have done it already."""


class Unanswered(Unreachable):
    """No answer in time: what was asked may still be under way."""


class Denied(MlflowError):
    """MLflow does not let us."""


class Refused(MlflowError):
    """MLflow does not take this, and will not if it is asked again."""


class Missing(MlflowError):
    """There is no such object, or it is deleted and cannot be worked on."""


class AlreadyThere(MlflowError):
    """The name is taken; it may be by a deleted object."""


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a metric; `timestamp` in milliseconds. MLflow does not tell the largest numbers
    that there are from infinity."""

    key: str
    value: float
    step: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set that a run has used; `context` says for what."""

    name: str
    digest: str
    source_type: str
    source: str
    profile: str | None
    context: str | None


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment as MLflow has it."""

    id: str
    name: str
    deleted: bool
    tags: dict[str, str]
    updated_at: int | None


@dataclass(frozen=True, slots=True)
class Run:
    """A run as MLflow has it; `metrics` has the last point of each key."""

    id: str
    experiment_id: str
    name: str
    status: str
    started_at: int | None
    ended_at: int | None
    deleted: bool
    artifact_uri: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, Point]
    datasets: tuple[Dataset, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A registered model as MLflow has it; `aliases` says which version each one means."""

    name: str
    description: str | None
    tags: dict[str, str]
    aliases: dict[str, str]
    updated_at: int


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a registered model as MLflow has it; `stage` is "None" where it has none."""

    model_name: str
    number: str
    description: str | None
    tags: dict[str, str]
    aliases: tuple[str, ...]
    source: str
    run_id: str | None
    stage: str
    status: str
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class File:
    """A file among a run's artifacts."""

    path: str
    size_bytes: int | None


class Client:
    """One MLflow server. All methods that ask it raise the MlflowErrors above; those that are for
    one object raise Missing if it is not there.

    What comes in pages comes in an order in which nothing is passed over because something else
    changes in the meantime; something may come twice.
    """

    uri: str
    """Where it is, without credentials and without a slash at the end."""

    def __init__(self, uri: str) -> None:
        """Raises ValueError if `uri` is not an address that a tracking server can have."""
        try:
            parts = urlsplit(uri)
            _ = parts.port
        except ValueError:
            raise ValueError("MLflow's URI is not a valid address.") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("MLflow's URI must be that of a server: http://… or https://…")
        if parts.query or parts.fragment:
            raise ValueError("MLflow's URI must not have a query or a fragment.")
        credentials = parts.netloc.rpartition("@")[0]
        user, _, password = credentials.partition(":")
        if bool(user) != bool(password):
            raise ValueError("MLflow's URI must have both a user and a password, or neither.")
        self.uri = without_credentials(uri)
        self._login = (unquote(user), unquote(password)) if user else None
        self._version: tuple[int, int] | None = None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="mlflow")

    async def close(self) -> None:
        """Nothing can be asked any more. Does not wait for what is under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def server_version(self) -> str:
        """MLflow's version, when both the server and its database answer."""
        said = await self._in_thread(self._said, "GET", "/version", {})
        found = re.fullmatch(r"(\d+)\.(\d+)[\w.+-]{0,50}", said.strip())
        if found is None:
            raise self._not_mlflow()
        self._version = int(found[1]), int(found[2])
        page = _listed("experiments", _experiment)
        await self._ask("POST", "experiments/search", {"max_results": 1}, page)
        return found[0]

    # Experiments.

    def experiments(self) -> AsyncIterator[list[Experiment]]:
        """All experiments, deleted ones too."""
        order = ["creation_time ASC", "experiment_id ASC"]
        body = {"max_results": _PAGE, "view_type": "ALL", "order_by": order}
        return self._pages("POST", "experiments/search", body, "experiments", _experiment)

    async def experiment(self, id: str) -> Experiment:
        """An experiment, deleted or not."""
        return await self._ask(
            "GET",
            "experiments/get",
            {"experiment_id": id},
            lambda found: _experiment(found["experiment"]),
        )

    async def experiment_named(self, name: str) -> Experiment | None:
        """The experiment of this name, deleted or not."""
        try:
            return await self._ask(
                "GET",
                "experiments/get-by-name",
                {"experiment_name": name},
                lambda found: _experiment(found["experiment"]),
            )
        except Missing:
            return None

    async def create_experiment(self, name: str, tags: Mapping[str, str]) -> str:
        """The id of a new experiment. Raises AlreadyThere, also for the name of a deleted one."""
        body = {"name": name, "tags": _pairs(tags)}
        return await self._ask(
            "POST", "experiments/create", body, lambda found: str(found["experiment_id"])
        )

    async def set_experiment_tag(self, id: str, key: str, value: str) -> None:
        """Set a tag of an experiment that is not deleted."""
        body = {"experiment_id": id, "key": key, "value": value}
        await self._do("POST", "experiments/set-experiment-tag", body)

    async def delete_experiment_tag(self, id: str, key: str) -> None:
        """Remove a tag, if it is there. Where MLflow cannot (before 2.22), it becomes empty."""
        body = {"experiment_id": id, "key": key}
        try:
            await self._delete_tag("POST", "experiments/delete-experiment-tag", body)
        except _NoSuchEndpoint:
            await self.set_experiment_tag(id, key, "")

    async def rename_experiment(self, id: str, name: str) -> None:
        """Give an experiment another name. Raises AlreadyThere if it is taken."""
        body = {"experiment_id": id, "new_name": name}
        try:
            await self._do("POST", "experiments/update", body)
        except Refused as error:
            # What MLflow says is its database's error, which is not the same everywhere.
            holder = await self.experiment_named(name)
            if holder is None or holder.id == id:
                raise
            raise AlreadyThere(self._line(f"Experiment(name={name}) already exists.")) from error

    # Runs.

    def runs(
        self, experiment_ids: Sequence[str], filter: str = "", deleted: bool = False
    ) -> AsyncIterator[list[Run]]:
        """The runs of these experiments that MLflow's filter lets through, deleted ones too if
        `deleted` says so."""
        body = {
            "experiment_ids": list(experiment_ids),
            "filter": filter,
            "run_view_type": "ALL" if deleted else "ACTIVE_ONLY",
            "max_results": _PAGE,
            "order_by": ["attributes.start_time ASC"],
        }
        return self._pages("POST", "runs/search", body, "runs", _run)

    async def run(self, id: str) -> Run:
        """A run, deleted or not."""
        return await self._ask("GET", "runs/get", {"run_id": id}, lambda found: _run(found["run"]))

    async def find_run(self, experiment_id: str, our_id: str) -> list[Run]:
        """The runs, deleted or not, whose tag lifecycle.id is this."""
        pages = self.runs([experiment_id], _tagged(our_id), deleted=True)
        return [run async for page in pages for run in page]

    async def create_run(
        self, experiment_id: str, name: str, started_at: int | None, tags: Mapping[str, str]
    ) -> str:
        """The id of a new run, which is RUNNING. MLflow names it itself if `name` is empty."""
        body: _Json = {"experiment_id": experiment_id, "run_name": name, "tags": _pairs(tags)}
        if started_at is not None:
            body["start_time"] = started_at
        return await self._ask(
            "POST", "runs/create", body, lambda found: str(found["run"]["info"]["run_id"])
        )

    async def update_run(
        self, id: str, status: str | None, ended_at: int | None, name: str | None
    ) -> None:
        """Set status, end and name; what is None stays. MLflow cannot remove an end or a name."""
        changes = {"status": status, "end_time": ended_at, "run_name": name}
        body = {"run_id": id} | {key: new for key, new in changes.items() if new is not None}
        await self._do("POST", "runs/update", body)

    async def log(
        self,
        run_id: str,
        points: Sequence[Point],
        params: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> None:
        """Add points, parameters and tags, in as few requests as MLflow allows.

        What is there already with the same value is not added again, so it may be repeated as a
        whole after any error. Raises Refused for a parameter that has another value.
        """
        for batch in _batches(run_id, points, params, tags):
            await self._do("POST", "runs/log-batch", batch)

    async def delete_run_tag(self, id: str, key: str) -> None:
        """Remove a tag, if it is there."""
        await self._delete_tag("POST", "runs/delete-tag", {"run_id": id, "key": key})

    async def log_dataset(self, run_id: str, dataset: Dataset) -> None:
        """Add a data set to a run; once, however often it is called."""
        body = {
            "name": dataset.name,
            "digest": dataset.digest,
            "source_type": dataset.source_type,
            "source": dataset.source,
        }
        if dataset.profile is not None:
            body["profile"] = dataset.profile
        context = {} if dataset.context is None else {"mlflow.data.context": dataset.context}
        used = {"dataset": body, "tags": _pairs(context)}
        await self._do("POST", "runs/log-inputs", {"run_id": run_id, "datasets": [used]})

    async def history(
        self, run_id: str, key: str, from_step: int | None
    ) -> AsyncIterator[list[Point]]:
        """All points of a metric at this step and later, in no particular order.

        Up to 2,499 points from a step on come without the others being read; before 3.17 only if
        the last is less than 2,500 steps away. Otherwise the whole history is read, in pages, which
        MLflow 2 sends as one. A run that is not there has none.
        """
        asked = {"run_id": run_id, "metric_key": key, "max_results": _HISTORY_PAGE}
        if from_step is not None:
            recent = await self._interval(run_id, key, from_step)
            if recent is not None:
                if recent:
                    yield recent
                return
        async for page in self._pages("GET", "metrics/get-history", asked, "metrics", _point):
            yield [point for point in page if from_step is None or point.step >= from_step]

    async def _interval(self, run_id: str, key: str, from_step: int) -> list[Point] | None:
        """All points from a step on; None if MLflow may have left some out."""
        asked = {
            "run_ids": run_id,
            "metric_key": key,
            "start_step": from_step,
            "end_step": 2**63 - 1,
            "max_results": _INTERVAL,
        }
        recent = await self._ask(
            "GET", "metrics/get-history-bulk-interval", asked, _listed("metrics", _point)
        )
        if len(recent) >= _INTERVAL:
            return None
        # Before 3.17 it left out steps, and then often gave far fewer than it may; always the last.
        if recent and max(point.step for point in recent) - from_step >= _INTERVAL:
            if self._version is None:
                await self.server_version()
            if self._version is None or self._version < _LEAVES_OUT_POINTS:
                return None
        return recent

    async def files(self, run_id: str) -> list[File]:
        """A run's artifacts in all folders, at most 1,000; what MLflow's server can list of them,
        wherever they are."""
        found: list[File] = []
        folders: list[str | None] = [None]
        for looked, folder in enumerate(folders):
            if looked == _FILES:
                break
            asked = {"run_id": run_id} | ({} if folder is None else {"path": folder})
            listed = await self._ask("GET", "artifacts/list", asked, _artifacts)
            for path, is_folder, size in listed:
                if is_folder:
                    folders.append(path)
                else:
                    found.append(File(path, size))
            if len(found) >= _FILES:
                return found[:_FILES]
        return found

    async def write_text(self, run_id: str, path: str, text: str) -> None:
        """Write a run's artifact, at most 10 MB, over what may be there. An empty text is not
        written, because MLflow takes none."""
        # As MLflow's own pages do it, because its server then finds the place, whatever it is.
        if text:
            where = f"/ajax-api/2.0/mlflow/upload-artifact?run_uuid={quote(run_id, safe='')}"
            sent = {
                "data": text.encode(),
                "extra_headers": {"Content-Type": "application/octet-stream"},
            }
            address = f"{where}&path={quote(path, safe='')}"
            await self._in_thread(self._said, "POST", address, sent)

    # The registry.

    async def models(self) -> AsyncIterator[list[Model]]:
        """All registered models. Prompts, which MLflow keeps among them, are left out."""
        asked = {"max_results": _PAGE, "order_by": ["name ASC"]}
        path, key = "registered-models/search", "registered_models"
        async for page in self._pages("GET", path, asked, key, _model):
            if kept := [model for model in page if not _is_prompt(model.tags)]:
                yield kept

    async def model(self, name: str) -> Model:
        """A registered model. Raises Missing for a prompt, although the name is taken then."""
        found = await self._ask(
            "GET",
            "registered-models/get",
            {"name": name},
            lambda found: _model(found["registered_model"]),
        )
        if _is_prompt(found.tags):
            raise Missing(self._line(f"{name} is a prompt there, not a model"))
        return found

    async def create_model(self, name: str, description: str, tags: Mapping[str, str]) -> None:
        """Make a registered model. Raises AlreadyThere, also for the name of a prompt."""
        body = {"name": name, "description": description, "tags": _pairs(tags)}
        await self._do("POST", "registered-models/create", body)

    async def update_model(self, name: str, description: str) -> None:
        """Set a model's description."""
        body = {"name": name, "description": description}
        await self._do("PATCH", "registered-models/update", body)

    async def set_model_tag(self, name: str, key: str, value: str) -> None:
        """Set a tag of a model."""
        body = {"name": name, "key": key, "value": value}
        await self._do("POST", "registered-models/set-tag", body)

    async def delete_model_tag(self, name: str, key: str) -> None:
        """Remove a tag, if it is there."""
        await self._delete_tag("DELETE", "registered-models/delete-tag", {"name": name, "key": key})

    async def versions(self, filter: str = "") -> AsyncIterator[list[Version]]:
        """The versions that MLflow's filter lets through, without those of prompts. Deleted ones
        are nowhere in MLflow."""
        asked = {
            "filter": filter,
            "max_results": _PAGE,
            "order_by": ["name ASC", "version_number ASC"],
        }
        aliases: dict[str, dict[str, str]] = {}
        path, key = "model-versions/search", "model_versions"
        async for page in self._pages("GET", path, asked, key, _version):
            kept = [version for version in page if not _is_prompt(version.tags)]
            # What is found by a search has no aliases.
            new = sorted({version.model_name for version in kept} - aliases.keys())
            aliases.update(zip(new, await asyncio.gather(*map(self._aliases, new)), strict=True))
            if kept:
                yield [_with_aliases(version, aliases[version.model_name]) for version in kept]

    async def _aliases(self, model: str) -> dict[str, str]:
        try:
            return (await self.model(model)).aliases
        except Missing:
            return {}

    async def version(self, model: str, number: str) -> Version:
        """A version of a model. Raises Missing for a prompt's."""
        found = await self._ask(
            "GET",
            "model-versions/get",
            {"name": model, "version": number},
            lambda found: _version(found["model_version"]),
        )
        if _is_prompt(found.tags):
            raise Missing(self._line(f"{model} is a prompt there, not a model"))
        return found

    async def find_version(self, model: str, our_id: str) -> list[Version]:
        """The versions of a model whose tag lifecycle.id is this."""
        return [
            version
            async for page in self.versions(_tagged(our_id))
            for version in page
            if version.model_name == model
        ]

    async def create_version(
        self,
        model: str,
        source: str,
        run_id: str | None,
        description: str,
        tags: Mapping[str, str],
    ) -> str:
        """The number of a new version, without waiting until MLflow calls it READY.

        Raises Missing if the model is not there, and Refused for a source that MLflow does not
        take; see above which it does.
        """
        body = {"name": model, "source": source, "description": description, "tags": _pairs(tags)}
        if run_id is not None:
            body["run_id"] = run_id
        return await self._ask(
            "POST",
            "model-versions/create",
            body,
            lambda found: str(found["model_version"]["version"]),
        )

    async def update_version(self, model: str, number: str, description: str) -> None:
        """Set a version's description."""
        body = {"name": model, "version": number, "description": description}
        await self._do("PATCH", "model-versions/update", body)

    async def set_version_tag(self, model: str, number: str, key: str, value: str) -> None:
        """Set a tag of a version."""
        body = {"name": model, "version": number, "key": key, "value": value}
        await self._do("POST", "model-versions/set-tag", body)

    async def delete_version_tag(self, model: str, number: str, key: str) -> None:
        """Remove a tag, if it is there."""
        body = {"name": model, "version": number, "key": key}
        await self._delete_tag("DELETE", "model-versions/delete-tag", body)

    async def set_alias(self, model: str, alias: str, number: str) -> None:
        """Make an alias mean this version and no other."""
        body = {"name": model, "alias": alias, "version": number}
        await self._do("POST", "registered-models/alias", body)

    async def delete_alias(self, model: str, alias: str) -> None:
        """Remove an alias, if it is there."""
        await self._do("DELETE", "registered-models/alias", {"name": model, "alias": alias})

    # Pages for people.

    def experiment_url(self, id: str) -> str:
        """MLflow's page of an experiment."""
        return f"{self.uri}/#/experiments/{quote(id, safe='')}"

    def run_url(self, experiment_id: str, run_id: str) -> str:
        """MLflow's page of a run."""
        return f"{self.experiment_url(experiment_id)}/runs/{quote(run_id, safe='')}"

    def model_url(self, name: str) -> str:
        """MLflow's page of a registered model."""
        return f"{self.uri}/#/models/{quote(name, safe='')}"

    def version_url(self, name: str, number: str) -> str:
        """MLflow's page of a version."""
        return f"{self.model_url(name)}/versions/{quote(number, safe='')}"

    # How it asks.

    async def _pages(
        self, method: str, path: str, asked: _Json, key: str, read: Callable[[_Json], T]
    ) -> AsyncIterator[list[T]]:
        def page(found: _Json) -> tuple[list[T], str | None]:
            return _listed(key, read)(found), found.get("next_page_token") or None

        token: str | None = None
        while True:
            # A page may be short, or empty, and not the last.
            listed, following = await self._ask(
                method, path, asked | ({} if token is None else {"page_token": token}), page
            )
            if listed:
                yield listed
            if following is None:
                return
            if following == token:
                raise self._not_mlflow()
            token = following

    async def _do(self, method: str, path: str, body: _Json | bytes) -> None:
        await self._ask(method, path, body, lambda found: None)

    async def _delete_tag(self, method: str, path: str, body: _Json) -> None:
        try:
            await self._do(method, path, body)
        except Missing as error:
            # Experiments and runs mind; models and versions do not.
            if "No tag with" not in str(error):
                raise

    async def _ask(
        self, method: str, path: str, asked: _Json | bytes, read: Callable[[_Json], T]
    ) -> T:
        """What `read` makes of the answer; what it cannot read is not MLflow's."""
        return await self._in_thread(self._answer, method, _API + path, asked, read)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *arguments))

    def _answer(
        self, method: str, address: str, asked: _Json | bytes, read: Callable[[_Json], T]
    ) -> T:
        if method == "GET":
            sent: _Json = {"params": asked}
        else:
            sent = {
                "data": asked if isinstance(asked, bytes) else orjson.dumps(asked),
                "extra_headers": {"Content-Type": "application/json"},
            }
        said = self._said(method, address, sent)
        try:
            found = orjson.loads(said)
            if not isinstance(found, dict):
                raise TypeError
            return read(found)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._not_mlflow() from None

    def _said(self, method: str, address: str, sent: _Json) -> str:
        """The text of an answer that is not an error."""
        http_request, host_credentials, mlflow_exception = _mlflow()
        try:
            host = host_credentials(self.uri)
            if self._login is not None:
                host.username, host.password = self._login
            response = http_request(
                host,
                address,
                method,
                max_retries=0,
                retry_codes=frozenset(),
                raise_on_status=False,
                timeout=TIMEOUT,
                **sent,
            )
        except mlflow_exception as error:
            raise self._silence(error) from None
        if response.status_code == 200:
            text: str = response.content.decode(errors="replace")
            return text
        raise self._failure(response.status_code, response.content)

    def _silence(self, error: BaseException) -> Unreachable:
        """What is behind an error of mlflow's, which itself says it at length."""
        cause: BaseException | None = error
        last = error
        while cause is not None:
            if isinstance(cause, TimeoutError):
                return Unanswered(self._line(f"no answer within {TIMEOUT} s"))
            if isinstance(cause, OSError) and isinstance(cause.strerror, str):
                return Unreachable(self._line(f"cannot be reached: {cause.strerror}"))
            last = cause
            cause = cause.__cause__ or cause.__context__
        # Not by its words, which may be those of a header.
        return Unreachable(self._line(f"cannot be reached: {type(last).__name__}"))

    def _failure(self, status: int, content: bytes) -> MlflowError:
        code, message = _error(content)
        if status in {401, 403}:
            return Denied(self._line(f"access denied ({status}) {message}"))
        if "Cannot rename a non-active experiment" in message:
            return Missing(self._line(message))
        if status >= 500 or status in {408, 429}:
            return Unreachable(self._line(f"answered {status} {message}"))
        if status == 413:
            return Refused(self._line(f"what was sent is too large ({status}) {message}"))
        if code is None:
            said = self._line(f"the answer, {status}, is not MLflow's")
            return _NoSuchEndpoint(said) if status in {404, 405} else Unreachable(said)
        # What is done to a deleted run or experiment is an invalid value to MLflow.
        if code == "RESOURCE_DOES_NOT_EXIST" or "must be in the 'active' state" in message:
            return Missing(self._line(message))
        if code == "RESOURCE_ALREADY_EXISTS":
            return AlreadyThere(self._line(message.partition(" Error: ")[0]))
        return Refused(self._line(message))

    def _not_mlflow(self) -> Unreachable:
        return Unreachable(self._line("the answer is not MLflow's"))

    def _line(self, said: str) -> str:
        line = f"MLflow at {self.uri}: {printable(' '.join(said.split()))}"
        return line if len(line) <= _MESSAGE else line[: _MESSAGE - 1] + "…"


class _NoSuchEndpoint(Unreachable):
    """Another server's answer, or that of an MLflow which does not know what was asked for."""


@cache
def _mlflow() -> tuple[Callable[..., Any], Callable[..., Any], type[Exception]]:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    return http_request, get_default_host_creds, MlflowException


def _error(content: bytes) -> tuple[str | None, str]:
    """The code and message of MLflow's, or no code and what little text there is."""
    text = content[:4000].decode(errors="replace").strip()
    try:
        found = orjson.loads(content)
        # With its database's complaints come statements and their values.
        message = str(found.get("message", "")).partition("[SQL:")[0]
        return str(found["error_code"]), message
    except (KeyError, TypeError, ValueError, AttributeError):
        return None, "" if text.startswith(("<", "{", "[")) else text


def _batches(
    run_id: str, points: Sequence[Point], params: Mapping[str, str], tags: Mapping[str, str]
) -> Iterator[bytes]:
    entities: Iterator[tuple[str, _Json]] = chain(
        (("tags", pair) for pair in _pairs(tags)),
        (("params", pair) for pair in _pairs(params)),
        (("metrics", _sent(point)) for point in points),
    )
    batch: _Json = {"run_id": run_id, "tags": [], "params": [], "metrics": []}
    empty = len(orjson.dumps(batch))
    size, count = empty, 0
    for kind, entity in entities:
        more = len(orjson.dumps(entity)) + 1
        full = count == _BATCH_IN_ALL or len(batch[kind]) == _BATCH[kind]
        if count and (full or size + more > _BATCH_BYTES):
            yield orjson.dumps(batch)
            batch = {"run_id": run_id, "tags": [], "params": [], "metrics": []}
            size, count = empty, 0
        batch[kind].append(entity)
        size, count = size + more, count + 1
    if count:
        yield orjson.dumps(batch)


def _sent(point: Point) -> _Json:
    # Protobuf's names of what JSON has no numbers for.
    names = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    value = names.get(str(point.value), point.value)
    return {"key": point.key, "value": value, "timestamp": point.timestamp, "step": point.step}


def _pairs(values: Mapping[str, str]) -> list[_Json]:
    return [{"key": key, "value": value} for key, value in values.items()]


def named(model: str) -> str:
    """A filter for the versions of a model. It lets through those of all models where MLflow has no
    way to write the name: whoever uses it looks at the names."""
    quotes = [quote for quote in "'\"" if quote not in model]
    return f"name = {quotes[0]}{model}{quotes[0]}" if quotes else ""


def _tagged(our_id: str) -> str:
    if not re.fullmatch(r"[\w-]+", our_id):
        raise ValueError("An id of ours has letters, digits and dashes.")
    return f"tags.`{_OUR_ID}` = '{our_id}'"


def _is_prompt(tags: Mapping[str, str]) -> bool:
    return tags.get(_PROMPT, "").lower() == "true"


# What MLflow's answers say. Empty lists are left out there.


def _listed(key: str, read: Callable[[_Json], T]) -> Callable[[_Json], list[T]]:
    def listed(found: _Json) -> list[T]:
        if found and key not in found and "next_page_token" not in found:
            raise ValueError(key)
        return [read(one) for one in found.get(key, [])]

    return listed


def _dict(pairs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {str(pair["key"]): str(pair.get("value", "")) for pair in pairs}


def _moment(value: Any) -> int | None:
    return int(value) if value else None


def _experiment(found: _Json) -> Experiment:
    return Experiment(
        id=str(found["experiment_id"]),
        name=str(found["name"]),
        deleted=found["lifecycle_stage"] == "deleted",
        tags=_dict(found.get("tags", [])),
        updated_at=_moment(found.get("last_update_time")),
    )


def _run(found: _Json) -> Run:
    info, data = found["info"], found.get("data", {})
    tags = _dict(data.get("tags", []))
    points = [_point(point) for point in data.get("metrics", [])]
    return Run(
        id=str(info["run_id"]),
        experiment_id=str(info["experiment_id"]),
        name=str(info.get("run_name") or tags.get("mlflow.runName", "")),
        status=str(info["status"]),
        started_at=_moment(info.get("start_time")),
        ended_at=_moment(info.get("end_time")),
        deleted=info["lifecycle_stage"] == "deleted",
        artifact_uri=str(info.get("artifact_uri", "")),
        params=_dict(data.get("params", [])),
        tags=tags,
        metrics={point.key: point for point in points},
        datasets=tuple(
            _dataset(used) for used in found.get("inputs", {}).get("dataset_inputs", [])
        ),
    )


def _dataset(found: _Json) -> Dataset:
    dataset = found["dataset"]
    return Dataset(
        name=str(dataset["name"]),
        digest=str(dataset["digest"]),
        source_type=str(dataset.get("source_type", "")),
        source=str(dataset.get("source", "")),
        profile=dataset.get("profile") or None,
        context=_dict(found.get("tags", [])).get("mlflow.data.context"),
    )


def _point(found: _Json) -> Point:
    value = float(found["value"])
    if abs(value) == _INFINITE:
        value *= 2
    return Point(
        str(found["key"]), value, int(found.get("step", 0)), int(found.get("timestamp", 0))
    )


def _artifacts(found: _Json) -> list[tuple[str, bool, int | None]]:
    if found and "files" not in found and "root_uri" not in found:
        raise ValueError("files")
    return [
        (
            str(one["path"]),
            bool(one.get("is_dir", False)),
            int(one["file_size"]) if "file_size" in one else None,
        )
        for one in found.get("files", [])
    ]


def _model(found: _Json) -> Model:
    return Model(
        name=str(found["name"]),
        description=found.get("description") or None,
        tags=_dict(found.get("tags", [])),
        aliases={str(one["alias"]): str(one["version"]) for one in found.get("aliases", [])},
        updated_at=int(found["last_updated_timestamp"]),
    )


def _version(found: _Json) -> Version:
    return Version(
        model_name=str(found["name"]),
        number=str(found["version"]),
        description=found.get("description") or None,
        tags=_dict(found.get("tags", [])),
        aliases=tuple(sorted(str(alias) for alias in found.get("aliases", []))),
        source=str(found.get("source", "")),
        run_id=found.get("run_id") or None,
        stage=str(found.get("current_stage") or "None"),
        status=str(found.get("status", "")),
        created_at=int(found["creation_timestamp"]),
        updated_at=int(found["last_updated_timestamp"]),
    )


def _with_aliases(version: Version, aliases: Mapping[str, str]) -> Version:
    own = (alias for alias, number in aliases.items() if number == version.number)
    return replace(version, aliases=tuple(sorted(own)))
