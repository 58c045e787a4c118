"""The commands a person types. Each says by --help what it does and what it reads."""

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from textwrap import fill, indent
from typing import Any, TypeVar

import click

from lifecycle.access.rules import known_as
from lifecycle.errors import InvalidInput, LifecycleError, Unavailable
from lifecycle.names import printable
from lifecycle.settings import (
    VARIABLES,
    Settings,
    asyncpg_url,
    mlflow_address,
    without_credentials,
)

Result = TypeVar("Result")

_ENVIRONMENT = "Environment variables (options win over them):\n\n" + "\n\n".join(
    f"\b\n  {name}\n{indent(fill(meaning, 72), '    ')}" for name, meaning in VARIABLES.items()
)


def _leaves(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    """The commands of a group and of the groups in it, by what is typed."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", leaf) for inner, leaf in _leaves(command))
        else:
            yield name, command


class _Commands(click.Group):
    """Explains everything at once, and expected failures in one line."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for name, command in _leaves(self):
            with formatter.section(f"lifecycle {name}"):
                formatter.write_text(command.get_short_help_str(limit=200))
                rows = [option.get_help_record(ctx) for option in command.params]
                formatter.write_dl([row for row in rows if row is not None])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Unavailable as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, epilog=_ENVIRONMENT, context_settings={"max_content_width": 100})
@click.version_option(version("ml-lifecycle"), prog_name="lifecycle")
def main() -> None:
    """The life of machine-learning models, served over GraphQL."""


def _settings(**given: Any) -> Settings:
    try:
        settings = Settings.from_environment()
        if given.get("database_url"):
            given["database_url"] = asyncpg_url(given["database_url"])
        if given.get("mlflow_uri") is not None:
            given["mlflow_uri"] = mlflow_address(given["mlflow_uri"])
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return replace(settings, **{key: value for key, value in given.items() if value is not None})


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    if settings.database_url is not None:
        yield settings.database_url
    else:
        from lifecycle import embedded

        with embedded.running(settings.data_dir) as url:
            yield url


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        # The message of a bind also names the address, in Python's way.
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        raise click.ClickException(f"Cannot listen on {host}:{port}: {reason}.") from error


@contextmanager
def _metrics(settings: Settings, database_url: str) -> Iterator[str | None]:
    """Where metrics can be read while the block lasts, if that is wanted."""
    if settings.metrics is None:
        yield None
        return
    with (
        _listen(*settings.metrics) as sock,
        tempfile.TemporaryDirectory(prefix="lifecycle-metrics-") as directory,
    ):
        # Where those that serve keep what they count. It is looked up when Prometheus's client is
        # imported.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
        from lifecycle.telemetry import address

        host, port = sock.getsockname()[:2]
        with address.answering(sock, Path(directory), database_url, settings.read_url):
            yield f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"


_data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the embedded PostgreSQL keeps its data (default ./.lifecycle).",
)
_database_url = click.option(
    "--database-url", help="PostgreSQL 15 or later to use instead of the embedded one."
)


_tracking_uri = click.option(
    "--tracking-uri", "mlflow_uri", help="The MLflow server (default: none)."
)
_follow = click.option(
    "--follow",
    "mlflow_follow",
    type=click.IntRange(1, 86_400),
    metavar="SECONDS",
    help="Take in what begins in MLflow, looking so often (default: do not).",
)


def _configured(settings: Settings) -> str:
    """The MLflow server, as it may be shown."""
    if settings.mlflow_uri is None:
        raise click.UsageError("Which MLflow server? Set MLFLOW_TRACKING_URI or --tracking-uri.")
    return without_credentials(settings.mlflow_uri)


def _plural(kind: str) -> str:
    return kind.lower().replace("_", " ") + "s"


class _Bars:
    """A progress bar for each thing that takes long, one after the other; where nobody looks at a
    terminal, a line for each tenth."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._kind: str | None = None
        self._tenth = 0

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def show(self, kind: str, done: int, total: int) -> None:
        """So many of so many are done."""
        if not sys.stderr.isatty():
            if kind != self._kind or done * 10 // total > self._tenth:
                click.echo(f"{_plural(kind)}: {done:,} of {total:,}", err=True)
            self._kind, self._tenth = kind, done * 10 // total
            return
        if kind != self._kind or done < self._bar.pos:
            self.__exit__()
            self._kind = kind
            self._bar = click.progressbar(
                length=total, label=f"{_plural(kind):15}", show_pos=True, file=sys.stderr
            )
            self._bar.render_progress()
        self._bar.update(done - self._bar.pos)


@main.command(epilog=_ENVIRONMENT)
@click.option("--host", help="Address to serve on (default 127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65535), help="Port, 0 for any (default 8000).")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="How many processes serve the one address on the one database.",
)
@_data_dir
@_database_url
@_tracking_uri
@_follow
@click.option(
    "--worker/--no-worker",
    "mlflow_worker",
    default=None,
    help="Mirror to MLflow in the processes that serve, or leave that to `lifecycle worker` "
    "(default: --worker).",
)
@click.option(
    "--insecure",
    is_flag=True,
    default=None,
    help="Serve other machines, too, though nobody proves who they are.",
)
def serve(workers: int, **given: Any) -> None:
    """Start the service, with a PostgreSQL of its own unless told of another.

    Migrates the database, then serves GraphQL over HTTP, SSE and websockets, and GraphiQL for
    browsers, at /graphql; health at /healthz and /readyz. Ctrl-C stops all of it.
    """
    import uvicorn
    from uvicorn.config import STARTUP_FAILURE
    from uvicorn.supervisors import Multiprocess

    from lifecycle import migrate, reporting

    settings = _settings(**given)
    try:
        settings.check_exposed()
        settings.check_directories()
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    reporting.configure(settings.log_format)
    # The server passes the signal on once it has finished; then we still have to clean up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # the terminal is closed, without nohup
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    if settings.otlp_endpoint is not None:
        from lifecycle.telemetry import traces

        try:
            traces.check()
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    with (
        _listen(settings.host, settings.port) as sock,
        _database(settings) as url,
        _metrics(settings, url) as metrics,
    ):
        migrate.upgrade(url)
        # The processes that serve are started anew and read their settings from here.
        os.environ |= replace(settings, database_url=url).to_environment()
        config = uvicorn.Config(
            "schema.app:served",
            factory=True,
            workers=workers,
            http="schema.wire:Http",
            loop="uvloop",
            ws="schema.wire:WebSockets",
            ws_per_message_deflate=False,
            ws_max_size=8 * 1024 * 1024,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=10,
        )
        host, port = sock.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"GraphiQL: http://{shown}:{port}/graphql   (Ctrl-C stops)")
        if settings.sign_in == "none" and settings.insecure:
            click.echo("Nobody signs in: whoever reaches this may do everything.", err=True)
        if metrics:
            click.echo(f"Metrics: {metrics}")
        try:
            if workers > 1:
                supervisor = Multiprocess(config, [sock])
                supervisor.run()
                failed = any(each.exitcode == STARTUP_FAILURE for each in supervisor.processes)
            else:
                server = uvicorn.Server(config)
                server.run([sock])
                failed = not server.started
        except KeyboardInterrupt:
            return
    if failed:
        raise click.ClickException("The service could not be started; its log says why.")


@main.command(epilog=_ENVIRONMENT)
@click.option("--check", is_flag=True, help="Migrate a throw-away database and compare instead.")
@_data_dir
@_database_url
def migrate(check: bool, **given: Any) -> None:
    """Bring the database's tables up to date; `serve` does so too."""
    from alembic.util import CommandError

    from lifecycle import embedded
    from lifecycle import migrate as migrations

    if check:
        with tempfile.TemporaryDirectory() as directory:
            # PostgreSQL does not run as root; its own user has to reach the directory.
            os.chmod(directory, 0o755)
            with embedded.running(Path(directory)) as url:
                migrations.upgrade(url)
                try:
                    migrations.check(url)
                except CommandError as error:
                    raise click.ClickException(str(error)) from error
        click.echo("The migrations lead to the tables that the code expects.")
        return
    with _database(_settings(**given)) as url:
        migrations.upgrade(url)
    click.echo("The database is up to date.")


@main.command(epilog=_ENVIRONMENT)
@_data_dir
@_database_url
@_tracking_uri
@_follow
def worker(**given: Any) -> None:
    """Mirror to MLflow in a process of its own, beside `serve --no-worker`.

    Any number of them may run. Ctrl-C stops it; what is not done by then is done by the next.
    """
    from lifecycle import migrate, reporting
    from lifecycle.tracking import worker as tracking

    settings = _settings(**given)
    uri = _configured(settings)
    reporting.configure(settings.log_format)
    # A shell has what it starts in the background ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with (
        _database(settings) as url,
        _metrics(settings, url) as metrics,
        suppress(KeyboardInterrupt),
    ):
        migrate.upgrade(url)
        click.echo(f"Mirroring to {uri}   (Ctrl-C stops)")
        watches: list[tracking.Watch] = []
        if metrics is not None:
            from lifecycle.telemetry.metrics import WorkerMetrics

            watches.append(WorkerMetrics().count)
            click.echo(f"Metrics: {metrics}")
        uri = settings.mlflow_uri or ""
        asyncio.run(tracking.alone(url, uri, settings.mlflow_follow, *watches))


@main.group()
def mlflow() -> None:
    """What has to do with an MLflow server."""


@mlflow.command("import", epilog=_ENVIRONMENT)
@click.option(
    "--administrator",
    default="admin",
    show_default=True,
    help="Under whose name versions get the stages that they have there, into PRODUCTION past the "
    "policies if need be: one of LIFECYCLE_ADMINISTRATORS.",
)
@_data_dir
@_database_url
@_tracking_uri
def bring_in(administrator: str, **given: Any) -> None:
    """Bring in what an MLflow server has: experiments, runs, models, versions and their stages.

    May be stopped, and repeated: it goes on where it was, and what is in already does not come in
    twice. Nothing is written to MLflow.
    """
    from lifecycle import migrate, reporting
    from lifecycle.tracking import importing
    from lifecycle.tracking.client import MlflowError

    settings = _settings(**given)
    uri = _configured(settings)
    name = known_as(administrator)
    if name not in map(known_as, settings.administrators):
        raise click.UsageError(f"{administrator} is not one of LIFECYCLE_ADMINISTRATORS.")
    reporting.configure(settings.log_format)
    # What goes wrong with an object is said in the end.
    logging.getLogger().setLevel(logging.ERROR)
    with _database(settings) as url:
        migrate.upgrade(url)
        try:
            with _Bars() as bars:
                done = asyncio.run(importing.run(url, settings.mlflow_uri or "", name, bars.show))
        except MlflowError as error:
            said = printable(str(error)).rstrip(".")
            raise click.ClickException(f"{said}. What is in stays; repeat to go on.") from error
    for each in done:
        click.echo(f"{_plural(each.kind)}: {each.listed:,} there, {each.done:,} looked at.")
        for text in each.failures:
            click.echo(f"  not in: {printable(text)}")
        for text in each.conflicts:
            click.echo(f"  conflict: {printable(text)}")
    if any(each.failures for each in done):
        raise click.ClickException(f"Not everything of {uri} is in; the lines above say why.")


_days = click.IntRange(min=1)


@main.command(epilog=_ENVIRONMENT)
@click.option("--journal", type=_days, metavar="DAYS", help="Remove older entries of the journal.")
@click.option(
    "--logs",
    type=_days,
    metavar="DAYS",
    help="Remove the lines of runs that were last heard of before, and of deployments that serve "
    "nobody any more since then.",
)
@click.option(
    "--points",
    type=_days,
    metavar="DAYS",
    help="Remove the metric points of such runs, but for the last one of each metric.",
)
@click.option("--keys", type=_days, metavar="DAYS", help="Forget older idempotency keys.")
@_data_dir
@_database_url
def retention(
    journal: int | None, logs: int | None, points: int | None, keys: int | None, **given: Any
) -> None:
    """Remove what is older than so many days, in small batches; what is not named is kept.

    May run beside the service, and be stopped and repeated. Runs from which a model version was
    registered keep what they have. After it, subscribers with older cursors are told that those
    have expired, and `lifecycle audit verify` begins after the anchor that is printed.
    """
    from lifecycle import migrate
    from lifecycle import retention as policies

    if {journal, logs, points, keys} == {None}:
        raise click.UsageError("Say what is to be removed, as --logs 90.")
    with _database(_settings(**given)) as url:
        migrate.upgrade(url)
        done = asyncio.run(policies.apply(url, policies.Policy(journal, logs, points, keys)))
    click.echo(
        f"Removed: {done.events:,} entries of the journal, {done.lines:,} lines, "
        f"{done.points:,} points, {done.keys:,} keys."
    )
    click.echo(f"The journal begins after: {done.anchor}")


@main.group()
def token() -> None:
    """API tokens, in the database itself: so the first one comes to be."""


@token.command("create", epilog=_ENVIRONMENT)
@click.argument("name")
@click.option(
    "--role",
    required=True,
    type=click.Choice(["VIEWER", "CONTRIBUTOR", "APPROVER", "DEPLOYER", "ADMIN"]),
    help="What it is for.",
)
@click.option("--model", help="The one model that it is for (default: everything).")
@click.option("--stage", "stages", multiple=True, help="Moves versions between these stages only.")
@click.option("--environment", "environments", multiple=True, help="Deploys to these only.")
@click.option(
    "--days",
    type=click.IntRange(1, 366),
    default=90,
    show_default=True,
    help="For how long it can be used.",
)
@_data_dir
@_database_url
def create_token(
    name: str,
    role: str,
    model: str | None,
    stages: tuple[str, ...],
    environments: tuple[str, ...],
    days: int,
    **given: Any,
) -> None:
    """Make a token for the service NAME, and print it, this one time.

    More than one role: the mutation createApiToken.
    """
    from lifecycle.principals import terminal

    with _token_database(given) as url:
        made = asyncio.run(
            terminal.create(url, name, role, model, list(stages), list(environments), days)
        )
    click.echo(f"service:{name}, {role}, until {made.expires_at:%Y-%m-%d}:", err=True)
    click.echo(made.token)


@token.command("list", epilog=_ENVIRONMENT)
@_data_dir
@_database_url
def list_tokens(**given: Any) -> None:
    """The tokens that can still be used, without what is secret of them."""
    from lifecycle.principals import terminal

    with _token_database(given) as url:
        for line in asyncio.run(terminal.listed(url)):
            click.echo(line)


@token.command("revoke", epilog=_ENVIRONMENT)
@click.argument("prefix")
@_data_dir
@_database_url
def revoke_token(prefix: str, **given: Any) -> None:
    """End the token that begins with PREFIX, as `list` shows it."""
    from lifecycle.principals import terminal

    with _token_database(given) as url:
        name = asyncio.run(terminal.revoke(url, prefix))
    click.echo(f"{prefix}… of service:{name} cannot be used any more.")


@contextmanager
def _token_database(given: dict[str, Any]) -> Iterator[str]:
    """The database, migrated; what is wrong with an input is said in one line."""
    from lifecycle import migrate

    with _database(_settings(**given)) as url:
        migrate.upgrade(url)
        try:
            yield url
        except LifecycleError as error:
            raise click.ClickException(str(error)) from error


@main.group()
def audit() -> None:
    """The journal of all changes, which is the audit log."""


def _anchor(_ctx: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> list[Any]:
    from lifecycle.journal.verification import Anchor

    try:
        return [Anchor.parse(text) for text in given]
    except ValueError as error:
        raise click.BadParameter(
            f"{error} is not a position and a hash, as 12:3af0… with 64 digits."
        ) from error


@audit.command(epilog=_ENVIRONMENT)
@click.option(
    "--anchor",
    "kept",
    metavar="POSITION:HASH",
    multiple=True,
    callback=_anchor,
    help="A head that was printed earlier and kept elsewhere; the journal must still have it. "
    "May be given several times.",
)
@_data_dir
@_database_url
def verify(kept: list[Any], **given: Any) -> None:
    """Say whether anything in the journal was altered or removed, and where.

    Each entry's hash covers the one before it, so that only who computes all of them anew can hide
    a change. That, too, is found with a head from earlier: keep the one that is printed where those
    who can change the database cannot.
    """
    from lifecycle.journal import verification

    with _database(_settings(**given)) as url:
        verdict = asyncio.run(verification.verify(url, kept))
    bounds = verdict.bounds
    through = f"through position {bounds.position:,}"
    if bounds.trimmed_through:
        click.echo(f"Removed as too old, before: positions 1 to {bounds.trimmed_through:,}.")
    if verdict.before_chain:
        click.echo(f"From before there was a chain, not covered by it: {verdict.before_chain:,}.")
    if verdict.not_chained:
        click.echo(f"Numbered by an earlier release, not chained yet: {verdict.not_chained:,}.")
    if verdict.waiting:
        click.echo(f"Just written, not numbered yet: {verdict.waiting:,}.")
    if verdict.faults:
        for fault in verdict.faults:
            click.echo(fault)
        if verdict.more_faults:
            click.echo(f"And so on, {verdict.more_faults:,} more.")
        raise click.ClickException("The journal is not as it was written.")
    click.echo(f"The journal is whole: {verdict.entries:,} entries {through}.")
    click.echo(f"Head: {bounds.chain}")


@main.group()
def documents() -> None:
    """Trusted documents: the operations that clients may ask for by an id."""


@documents.command(epilog=_ENVIRONMENT)
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False, exists=True)
)
@_data_dir
@_database_url
def add(files: tuple[Path, ...], **given: Any) -> None:
    """Register documents, one a file, and print the id of each.

    An id is the SHA-256 digest of exactly the file's text: clients send it as `documentId`. All
    are checked against the schema first; if there is anything wrong with one, none is registered.
    Services that run learn of them at once.
    """
    from lifecycle.documents import repository

    schema, trusted = import_module("schema.root").schema, import_module("schema.trusted")
    rows = []
    for file in files:
        try:
            rows.append(trusted.checked(schema, file.read_text(encoding="utf-8")))
        except (InvalidInput, UnicodeError) as error:
            raise click.ClickException(f"{file} cannot be registered.\n{error}") from error
    _in_database(given, lambda session: repository.add(session, rows))
    for file, row in zip(files, rows, strict=True):
        click.echo(f"{row.id} {file}")


@documents.command("list", epilog=_ENVIRONMENT)
@_data_dir
@_database_url
def list_documents(**given: Any) -> None:
    """Print the id of each document, and the operations in it."""
    from lifecycle.documents import repository

    for id, operations in _in_database(given, repository.listed):
        click.echo(f"{id} {operations}")


@documents.command(epilog=_ENVIRONMENT)
@click.argument("ids", nargs=-1, required=True)
@_data_dir
@_database_url
def remove(ids: tuple[str, ...], **given: Any) -> None:
    """Remove documents by their ids. Services that run forget them within ten seconds."""
    from lifecycle.documents import repository

    removed = _in_database(given, lambda session: repository.remove(session, ids))
    unknown = [id for id in ids if id not in removed]
    if unknown:
        raise click.ClickException(f"There was no document {', '.join(unknown)}.")


def _in_database(given: dict[str, Any], use: Callable[[Any], Awaitable[Result]]) -> Result:
    """Do something in one transaction on the migrated database."""
    from lifecycle import migrate
    from lifecycle.database import Database

    async def run(url: str) -> Result:
        database = Database(url)
        try:
            return await database.write(use)
        finally:
            await database.close()

    with _database(_settings(**given)) as url:
        migrate.upgrade(url)
        return asyncio.run(run(url))


@main.command()
@click.option("--check", is_flag=True, help="Fail if schema/schema.graphql is not up to date.")
@click.option("--write", is_flag=True, help="Write schema/schema.graphql.")
def sdl(check: bool, write: bool) -> None:
    """Print the GraphQL schema."""
    root = import_module("schema.root")
    text = root.sdl()
    path = Path(str(root.__file__)).parent / "schema.graphql"
    if write:
        path.write_text(text)
    elif check:
        if not path.exists() or path.read_text() != text:
            raise click.ClickException(f"{path.name} is not up to date; run `make schema`.")
        click.echo(f"{path.name} is up to date.")
    else:
        click.echo(text, nl=False)


@main.command()
@click.option("--url", help="The service (default: where `serve` would be).")
@click.option("--actor", default="demo", show_default=True, help="The name it acts under.")
@click.option(
    "--administrator",
    default="admin",
    show_default=True,
    help="One of the service's administrators, under whose name it sets policies.",
)
@click.option(
    "--mlflow",
    "with_mlflow",
    is_flag=True,
    help="Show instead how it goes together with the MLflow server that the service mirrors to and "
    "follows.",
)
def demo(url: str | None, actor: str, administrator: str, with_mlflow: bool) -> None:
    """A model's life on real data, told to a running service through its public API.

    Where clients sign in, it does so by LIFECYCLE_TOKEN, an administrator's token.
    Needs the extra `demo`: pip install 'ml-lifecycle[demo]'.
    """
    try:
        from lifecycle.demo import mlflow as beside_mlflow
        from lifecycle.demo.client import DemoFailed
        from lifecycle.demo.story import tell
    except ModuleNotFoundError as error:
        hint = "pip install 'ml-lifecycle[demo]'"
        raise click.ClickException(f"{error.name} is not installed: {hint}") from error
    settings = _settings()
    where = url or f"http://{settings.host}:{settings.port}"
    try:
        story = (
            beside_mlflow.tell(where, actor, settings.token)
            if with_mlflow
            else tell(where, actor, administrator, settings.token)
        )
        asyncio.run(story)
    except DemoFailed as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
