"""What a person types, and what is said when it cannot work: one clear line, never a traceback."""

import asyncio
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from lifecycle.__main__ import (
    bring_in,
    create_token,
    documents,
    list_tokens,
    main,
    revoke_token,
    verify,
)
from lifecycle.settings import VARIABLES
from lifecycle.statements import Prepared
from schema import root
from tests.client import PATIENCE, Graph
from tests.conftest import Process, in_thread, serving

COMMANDS = (
    {
        name: main.commands[name]
        for name in ("serve", "worker", "migrate", "retention", "sdl", "demo")
    }
    | {
        "audit verify": verify,
        "mlflow import": bring_in,
        "token create": create_token,
        "token list": list_tokens,
        "token revoke": revoke_token,
    }
    | {f"documents {name}": command for name, command in documents.commands.items()}
)
CONFIGURED = (
    *("serve", "worker", "migrate", "retention", "audit verify", "mlflow import"),
    *("token create", "token list", "token revoke", "documents add"),
)
SDL = Path(root.__file__).parent / "schema.graphql"


def run(*arguments: str, **environment: str) -> Result:
    """A command in this process, in an environment of its own."""
    clean = dict.fromkeys(VARIABLES)
    return CliRunner().invoke(main, arguments, env={**clean, **environment})


def lifecycle(
    *arguments: str, cwd: Path | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "lifecycle", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def options_of(command: click.Command) -> list[click.Option]:
    return [param for param in command.params if isinstance(param, click.Option)]


def a_closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_help_names_every_command_option_and_variable() -> None:
    # given
    options = {
        name for each in COMMANDS.values() for option in options_of(each) for name in option.opts
    }

    # when
    result = run("--help")

    # then
    assert result.exit_code == 0
    assert set(main.commands) == {name.partition(" ")[0] for name in COMMANDS}
    assert options == {
        "--host", "--port", "--workers", "--data-dir", "--database-url",
        "--check", "--write", "--url", "--actor", "--administrator", "--anchor",
        "--tracking-uri", "--follow", "--worker", "--mlflow", "--insecure",
        "--role", "--model", "--stage", "--environment", "--days",
        "--journal", "--logs", "--points", "--keys",
    }  # fmt: skip
    for name in (*COMMANDS, *options, *VARIABLES):
        assert name in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_its_options(command: str) -> None:
    # when
    result = run(*command.split(), "--help")

    # then
    assert result.exit_code == 0
    for option in options_of(COMMANDS[command]):
        assert option.opts[0] in result.output
        assert getattr(option, "help", None), f"{option.opts[0]} is not explained"
    for name in VARIABLES if command in CONFIGURED else ():
        assert name in result.output


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").output == f"lifecycle, version {version('ml-lifecycle')}\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--port", "65536"], {}, "65536 is not in the range 0<=x<=65535"),
        (["--port", "http"], {}, "'http' is not a valid integer range"),
        (["--workers", "0"], {}, "0 is not in the range 1<=x<=64"),
        (["--data-dir", __file__], {}, "is a file"),
        (["--nonsense"], {}, "No such option '--nonsense'"),
        ([], {"LIFECYCLE_PORT": "http"}, "LIFECYCLE_PORT must be a port number, not 'http'."),
        ([], {"LIFECYCLE_PORT": "-1"}, "LIFECYCLE_PORT must be a port number, not '-1'."),
        ([], {"LIFECYCLE_PORT": "65536"}, "LIFECYCLE_PORT must be a port number, not '65536'."),
        ([], {"LIFECYCLE_LOG_FORMAT": "xml"}, "must be json or console, not 'xml'."),
        ([], {"LIFECYCLE_EXECUTION": "fast"}, "must be compiled or stock, not 'fast'."),
        ([], {"LIFECYCLE_DATABASE_URL": "mysql://me:secret@db/x"}, "must begin with postgresql"),
        (["--database-url", "nonsense"], {}, "must begin with postgresql+asyncpg://."),
        (["--database-url", "postgresql://me:secret@db:port/x"], {}, "is the port a number"),
        (["--database-url", "postgresql://me:sec[ret@db/x"], {}, "percent-encoded"),
        ([], {"MLFLOW_TRACKING_URI": "databricks"}, "must be the address of an MLflow server"),
        (["--tracking-uri", "http://me:secret@"], {}, "must be the address of an MLflow server"),
        ([], {"LIFECYCLE_MLFLOW_FOLLOW": "86401"}, "must be 1 to 86400 seconds, not '86401'."),
        ([], {"LIFECYCLE_MLFLOW_WORKER": "maybe"}, "must be yes or no, not 'maybe'."),
        ([], {"LIFECYCLE_SIGN_IN": "maybe"}, "must be none, tokens or oidc, not 'maybe'."),
        ([], {"LIFECYCLE_SIGN_IN": "oidc"}, "LIFECYCLE_SIGN_IN=oidc needs LIFECYCLE_OIDC_ISSUER."),
        (["--host", "0.0.0.0"], {}, "0.0.0.0 can be reached by others, and nobody proves who"),
        ([], {"LIFECYCLE_HOST": "::"}, "set LIFECYCLE_SIGN_IN, or say --insecure."),
    ],
)
def test_nonsense_is_refused_as_wrong_usage(
    arguments: list[str], environment: dict[str, str], message: str
) -> None:
    # when
    result = run("serve", *arguments, **environment)

    # then
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "secret" not in result.output
    assert isinstance(result.exception, SystemExit), "a traceback"


@pytest.mark.parametrize("command", ["worker", "mlflow import"])
def test_without_an_mlflow_server_there_is_nothing_to_do(command: str) -> None:
    # when
    result = run(*command.split())

    # then
    assert result.exit_code == 2
    assert result.output.splitlines()[-1] == (
        "Error: Which MLflow server? Set MLFLOW_TRACKING_URI or --tracking-uri."
    )


@pytest.mark.parametrize("command", ["serve", "worker", "mlflow import"])
@pytest.mark.parametrize(
    "uri", ["sqlite:///mlflow.db", "nonsense", "http://me:secret@", "http://me:secret@host:port"]
)
def test_an_mlflow_server_that_cannot_be_one_is_refused(command: str, uri: str) -> None:
    for result in (
        run(*command.split(), MLFLOW_TRACKING_URI=uri),
        run(*command.split(), "--tracking-uri", uri),
    ):
        assert result.exit_code == 2
        assert result.output.splitlines()[-1].startswith(
            "Error: MLFLOW_TRACKING_URI must be the address of an MLflow server: "
        )
        assert "secret" not in result.output


@pytest.mark.parametrize("variable", ["LIFECYCLE_ARTIFACTS", "LIFECYCLE_EXTERNAL_ARTIFACTS"])
def test_artifacts_are_not_to_be_kept_in_a_file(tmp_path: Path, variable: str) -> None:
    # given
    file = tmp_path / "file"
    file.touch()

    # when
    result = run("serve", "--data-dir", str(tmp_path), **{variable: str(file)})

    # then
    assert result.exit_code == 2
    assert result.output.splitlines()[-1] == (
        f"Error: {variable} must be a directory or s3://bucket/prefix, not '{file}': {file} is no "
        "directory."
    )


def test_only_an_administrator_takes_stages_over() -> None:
    # when
    result = run(
        *("mlflow", "import", "--administrator", "ada"), MLFLOW_TRACKING_URI="http://127.0.0.1:1"
    )

    # then
    assert result.exit_code == 2
    assert result.output.splitlines()[-1] == "Error: ada is not one of LIFECYCLE_ADMINISTRATORS."


def test_an_import_from_where_nobody_is_says_so_in_one_line(database_url: str) -> None:
    # given
    uri = f"http://127.0.0.1:{a_closed_port()}"

    # when
    result = run("mlflow", "import", "--database-url", database_url, "--tracking-uri", uri)

    # then
    assert result.exit_code == 1
    assert result.output == (
        f"Error: MLflow at {uri}: cannot be reached: Connection refused. "
        "What is in stays; repeat to go on.\n"
    )


def test_a_port_in_use_is_reported_in_one_line() -> None:
    # given
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        # when: an empty variable means none
        done = lifecycle("serve", LIFECYCLE_PORT=str(port), LIFECYCLE_HOST="")

    # then
    assert done.returncode == 1
    assert done.stderr == f"Error: Cannot listen on 127.0.0.1:{port}: Address already in use.\n"
    assert done.stdout == ""


def test_a_host_that_is_not_here_is_reported_in_one_line() -> None:
    # when
    done = lifecycle(
        "serve", "--port", "0", LIFECYCLE_HOST="nonsense.invalid", LIFECYCLE_INSECURE="yes"
    )

    # then
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Cannot listen on nonsense.invalid:0: ")
    assert done.stderr.count("\n") == 1


def test_others_are_served_where_nobody_signs_in_if_that_is_said() -> None:
    # given
    url = f"postgresql://me@127.0.0.1:{a_closed_port()}/x"
    others = ("serve", "--host", "0.0.0.0", "--port", "0")

    # when
    done = lifecycle(*others, "--insecure", LIFECYCLE_DATABASE_URL=url)

    # then: it goes on, as far as it can
    assert done.returncode == 1
    assert "The database cannot be used" in done.stderr


def test_a_database_that_does_not_answer_stops_the_service_with_one_line() -> None:
    # given
    url = f"postgresql://me:secret@127.0.0.1:{a_closed_port()}/x"

    # when
    done = lifecycle("serve", "--port", "0", LIFECYCLE_DATABASE_URL=url)

    # then
    assert done.returncode == 1
    assert done.stderr.startswith("Error: The database cannot be used: ")
    assert "Connect call failed" in done.stderr
    assert "secret" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == "", "nothing is served, so no address is shown"


def test_a_database_that_does_not_exist_is_named(server_url: str) -> None:
    # given
    base, _, query = server_url.partition("?")
    url = f"{base.rpartition('/')[0]}/nowhere?{query}"

    # when
    result = run("migrate", "--database-url", url)

    # then
    assert result.exit_code == 1
    assert result.output == (
        'Error: The database cannot be used: database "nowhere" does not exist.\n'
    )


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("nonsense=1", 'unrecognized configuration parameter "nonsense"'),
        ("sslmode=nonsense", "`sslmode` parameter must be one of: disable, allow"),
    ],
)
def test_a_parameter_that_means_nothing_is_reported(
    database_url: str, parameter: str, message: str
) -> None:
    # given
    url = f"{database_url}{'&' if '?' in database_url else '?'}{parameter}"

    # when
    result = run("migrate", "--database-url", url)

    # then
    assert result.exit_code == 1
    assert result.output.startswith("Error: The database cannot be used: ")
    assert message in result.output


@contextmanager
def an_old_postgres() -> Iterator[str]:
    """A server that lets everybody in and says that it is PostgreSQL 14."""

    def message(kind: bytes, body: bytes) -> bytes:
        return kind + (len(body) + 4).to_bytes(4, "big") + body

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while b"user\x00" not in connection.recv(4096):
                connection.sendall(b"N")  # no TLS
            connection.sendall(
                message(b"R", bytes(4))  # no password either
                + message(b"S", b"server_version\x0014.12\x00")
                + message(b"Z", b"I")
            )
            connection.recv(4096)  # good-bye

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        yield f"postgresql://me@127.0.0.1:{listener.getsockname()[1]}/x"
        served.result()


def test_a_postgres_that_is_too_old_is_refused_by_its_version() -> None:
    with an_old_postgres() as url:
        # when
        result = run("migrate", "--database-url", url)

    # then
    assert result.exit_code == 1
    assert result.output == "Error: The database is PostgreSQL 14; 15 or later is needed.\n"


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/proc/nowhere", "No such file or directory"), (f"{__file__}/data", "Not a directory")],
)
def test_a_data_directory_that_cannot_be_written_is_named(path: str, reason: str) -> None:
    # when
    result = run("migrate", LIFECYCLE_DATA_DIR=path)

    # then
    assert result.exit_code == 1
    assert result.output == f"Error: Cannot keep data in {path}: {reason}.\n"


def test_a_data_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    # given
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "notes.txt").write_text("mine")

    # when
    result = run("migrate", "--data-dir", str(tmp_path))

    # then
    assert result.exit_code == 1
    assert result.output.startswith("Error: PostgreSQL's pg_ctl failed for")
    assert result.output.count("\n") == 1
    assert (tmp_path / "postgres" / "notes.txt").read_text() == "mine"


def test_migrate_brings_an_empty_database_up_to_date_and_may_be_repeated(
    empty_database_url: str,
) -> None:
    for _ in range(2):
        result = run("migrate", LIFECYCLE_DATABASE_URL=empty_database_url)
        assert result.output == "The database is up to date.\n"
        assert result.exit_code == 0


def test_migrate_check_compares_with_a_database_of_its_own() -> None:
    result = run("migrate", "--check", LIFECYCLE_DATABASE_URL="postgresql://nobody@127.0.0.1:1/x")
    assert result.output == "The migrations lead to the tables that the code expects.\n"
    assert result.exit_code == 0


def test_sdl_prints_the_schema_that_is_in_the_repository() -> None:
    assert run("sdl").output == SDL.read_text()
    assert run("sdl", "--check").output == "schema.graphql is up to date.\n"


def test_sdl_check_fails_on_another_schema_and_write_repairs_it(tmp_path: Path) -> None:
    # given
    for package in ("lifecycle", "schema"):
        shutil.copytree(
            SDL.parents[1] / package,
            tmp_path / package,
            ignore=shutil.ignore_patterns("__pycache__", "graphiql"),
        )
    copy = tmp_path / "schema" / SDL.name
    copy.write_text(SDL.read_text().replace("type Query", "type Question"))

    # when
    check = lifecycle("sdl", "--check", cwd=tmp_path)
    write = lifecycle("sdl", "--write", cwd=tmp_path)

    # then
    assert check.returncode == 1
    assert check.stderr == "Error: schema.graphql is not up to date; run `make schema`.\n"
    assert write.returncode == 0
    assert copy.read_text() == SDL.read_text()


def test_the_demo_says_in_one_line_that_nothing_is_there() -> None:
    # given
    url = f"http://127.0.0.1:{a_closed_port()}"

    # when
    result = run("demo", "--url", url)

    # then
    assert result.exit_code == 1
    assert result.output == (
        f"Error: No service answers at {url}/graphql (All connection attempts failed); "
        "`lifecycle serve` starts one.\n"
    )


def test_the_demo_beside_mlflow_says_what_it_needs(served: Process) -> None:
    # when
    result = run("demo", "--mlflow", "--url", served.url)

    # then
    assert result.exit_code == 1
    assert result.output == (
        f"Error: The service at {served.url}/graphql knows no MLflow server. Start it with one: "
        "MLFLOW_TRACKING_URI=http://127.0.0.1:5000 LIFECYCLE_MLFLOW_FOLLOW=2 make serve\n"
    )


def test_the_demo_refuses_what_is_not_a_url() -> None:
    result = run("demo", "--url", "nonsense")
    assert result.exit_code == 1
    assert result.output == (
        "Error: 'nonsense' is not a URL that begins with http:// or https://.\n"
    )


async def test_a_token_is_made_used_listed_and_revoked(database_url: str, unique: str) -> None:
    def token(*arguments: str) -> Result:
        result: list[Result] = []
        in_thread(lambda: result.append(run("token", *arguments, "--database-url", database_url)))
        return result[0]

    name = f"{unique}/nightly"
    me = "{ me { name grants { role stages } } }"

    # when
    narrowed = ("--role", "APPROVER", "--stage", "STAGING", "--stage", "PRODUCTION")
    made = token("create", name, *narrowed, "--days", "7")
    secret = made.stdout.strip()
    async with (
        serving(database_url, sign_in="tokens") as service,
        Graph(service.url, token=secret) as client,
    ):
        asked = await client.query(me)
        # That it was used is noted beside the request; while commands run here, nothing goes on.
        noted = f"SELECT last_used_at FROM api_token WHERE name = '{name}'"
        async with service.database.read() as session:
            while not (await session.fetch(Prepared(text(noted))))[0][0]:
                pass
        listed = token("list")
        revoked = token("revoke", secret[:10])
        again = token("revoke", secret[:10])
        assert revoked.stdout == f"{secret[:10]}… of service:{name} cannot be used any more.\n"
        async with asyncio.timeout(PATIENCE):
            while "errors" not in (refused := await client.answer(me)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # as often as one may ask

    # then
    assert re.fullmatch(r"lct_[\w-]{43}", secret)
    assert made.stderr.startswith(f"service:{name}, APPROVER, until ")
    assert asked["me"] == {
        "name": f"service:{name}",
        "grants": [{"role": "APPROVER", "stages": ["PRODUCTION", "STAGING"]}],
    }
    [line] = [line for line in listed.stdout.splitlines() if unique in line]
    assert line.startswith(
        f"{secret[:10]}…  service:{name}  APPROVER for PRODUCTION, STAGING  until "
    )
    assert line.endswith(", made by system:command-line")
    assert secret not in listed.stdout
    assert again.stderr == f"Error: There is no API token that begins with {secret[:10]}.\n"
    assert refused["errors"][0]["message"] == "The API token was revoked."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--role", "BOSS"], "'BOSS' is not one of"),
        (["x"], "Missing option '--role'"),
        (["system:x", "--role", "ADMIN"], "not begin with system:, service: or group:."),
        (["x", "--role", "ADMIN", "--model", "nothing"], "There is no model nothing."),
        (["x", "--role", "ADMIN", "--stage", "STAGING"], "so it takes no stages."),
        (["x", "--role", "APPROVER", "--stage", "NOWHERE"], "'NOWHERE' is not a valid Stage."),
        (["x", "--role", "VIEWER", "--days", "367"], "367 is not in the range 1<=x<=366"),
    ],
)
def test_a_token_that_makes_no_sense_is_refused_in_one_line(
    database_url: str, arguments: list[str], message: str
) -> None:
    # when
    result = run("token", "create", *arguments, "--database-url", database_url)

    # then
    assert result.exit_code != 0
    assert message in " ".join(result.output.split())
    assert "lct_" not in result.output
    assert isinstance(result.exception, SystemExit), "a traceback"
