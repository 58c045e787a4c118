"""What the environment says, and what of it may be shown."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from lifecycle.settings import VARIABLES, Settings, mlflow_address, without_credentials

GIVEN = Settings(
    database_url="postgresql+asyncpg://me:secret@db/x",
    data_dir=Path("/data"),
    host="::1",
    port=0,
    administrators=frozenset({"alice", "bob"}),
    log_format="json",
    execution="stock",
    allowed_hosts=frozenset({"lifecycle.example.com", "::1"}),
    allowed_origins=frozenset({"https://example.com", "http://localhost:3000"}),
    graphiql=False,
    introspection=False,
    trusted_documents=True,
    max_seconds=0,
    max_operations=0,
    max_subscriptions=7,
    max_websockets=9,
    max_rate=1_000_000,
    mlflow_uri="http://me:secret@mlflow:5000",
    mlflow_follow=86_400,
    mlflow_worker=False,
    artifacts="s3://bucket/internal",
    external_artifacts="/external",
    s3_public_url="https://s3.example.com",
    sign_in="oidc",
    oidc_issuer="https://login.example.com/",
    oidc_audience="lifecycle",
    oidc_name_claim="preferred_username",
    oidc_groups_claim="groups",
    insecure=True,
    token="lct_secret",
    metrics=("::1", 9464),
    read_url="postgresql+asyncpg://me:secret@replica/x",
    otlp_endpoint="http://collector:4318",
)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that says nothing."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("settings", [Settings(data_dir=Path("/data")), GIVEN])
def test_a_process_that_is_started_gets_all_settings_of_the_one_that_starts_it(
    environment: pytest.MonkeyPatch, settings: Settings
) -> None:
    for name, value in settings.to_environment().items():
        environment.setenv(name, value)

    assert Settings.from_environment() == settings


def test_every_setting_has_been_tried() -> None:
    usual = Settings()
    assert [f.name for f in fields(usual) if getattr(usual, f.name) == getattr(GIVEN, f.name)] == []


@pytest.mark.parametrize(
    ("given", "follow"), [("", None), ("0", None), ("1", 1), ("86400", 86_400)]
)
def test_what_begins_in_mlflow_comes_in_only_if_it_is_wanted(
    environment: pytest.MonkeyPatch, given: str, follow: int | None
) -> None:
    environment.setenv("LIFECYCLE_MLFLOW_FOLLOW", given)

    assert Settings.from_environment().mlflow_follow == follow


@pytest.mark.parametrize("given", ["-1", "86401", "1.5", "often"])
def test_a_pause_that_makes_no_sense_is_refused(
    environment: pytest.MonkeyPatch, given: str
) -> None:
    environment.setenv("LIFECYCLE_MLFLOW_FOLLOW", given)

    with pytest.raises(ValueError, match=r"^LIFECYCLE_MLFLOW_FOLLOW must be 1 to 86400 seconds"):
        Settings.from_environment()


def test_an_empty_address_is_none(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MLFLOW_TRACKING_URI", "")

    assert Settings.from_environment().mlflow_uri is None


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://localhost:5000", "http://localhost:5000"),
        ("HTTPS://MLflow.Example.com/", "https://mlflow.example.com"),
        ("http://me:se%40cret@mlflow:5000//", "http://mlflow:5000"),
        (" http://mlflow/behind/Proxy/ ", "http://mlflow/behind/Proxy"),
        ("http://[::1]:5000", "http://[::1]:5000"),
    ],
)
def test_one_server_has_one_name_without_credentials(given: str, shown: str) -> None:
    assert without_credentials(mlflow_address(given)) == shown


@pytest.mark.parametrize(
    "given",
    [
        "databricks",
        "file:///mlruns",
        "mlruns",
        "sqlite:///secret.db",
        "postgresql://me:secret@db/mlflow",
        "localhost:5000",
        "http://",
        "http://:5000",
        "http://me:secret@",
        "http://me:secret@mlflow:port",
        "http://me:secret@mlflow:65536",
        "http://secret@mlflow",
        "http://:secret@mlflow",
        "http://me:secret@[mlflow",
        "http://mlflow?token=secret",
        "http://mlflow#secret",
    ],
)
def test_what_is_no_server_of_mlflow_is_refused_without_repeating_it(given: str) -> None:
    with pytest.raises(ValueError, match=r"^MLFLOW_TRACKING_URI must be the address") as refused:
        mlflow_address(given)

    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"SIGN_IN": "yes"}, "LIFECYCLE_SIGN_IN must be none, tokens or oidc, not 'yes'."),
        ({"SIGN_IN": "oidc"}, "LIFECYCLE_SIGN_IN=oidc needs LIFECYCLE_OIDC_ISSUER."),
        (
            {"SIGN_IN": "oidc", "OIDC_ISSUER": "https://login.example.com"},
            "LIFECYCLE_SIGN_IN=oidc needs LIFECYCLE_OIDC_AUDIENCE.",
        ),
        (
            {"OIDC_ISSUER": "https://login.example.com", "OIDC_AUDIENCE": "a"},
            "LIFECYCLE_OIDC_ISSUER is set, but LIFECYCLE_SIGN_IN is none, not oidc.",
        ),
        (
            {"SIGN_IN": "tokens", "OIDC_GROUPS_CLAIM": "groups"},
            "LIFECYCLE_OIDC_GROUPS_CLAIM is set, but LIFECYCLE_SIGN_IN is tokens, not oidc.",
        ),
        ({"INSECURE": "true"}, "LIFECYCLE_INSECURE must be yes or no, not 'true'."),
    ],
)
def test_what_is_said_of_signing_in_must_make_sense(
    environment: pytest.MonkeyPatch, given: dict[str, str], message: str
) -> None:
    for name, value in given.items():
        environment.setenv(f"LIFECYCLE_{name}", value)

    with pytest.raises(ValueError, match=re.escape(message)):
        Settings.from_environment()


@pytest.mark.parametrize(
    "issuer",
    [
        "login.example.com",
        "http://login.example.com",
        "https://",
        "https://me@login.example.com",
        "https://login.example.com/?x=1",
        "https://login.example.com:port",
        "ftp://127.0.0.1",
    ],
)
def test_an_issuer_is_an_address_that_can_be_trusted(
    environment: pytest.MonkeyPatch, issuer: str
) -> None:
    environment.setenv("LIFECYCLE_SIGN_IN", "oidc")
    environment.setenv("LIFECYCLE_OIDC_AUDIENCE", "lifecycle")
    environment.setenv("LIFECYCLE_OIDC_ISSUER", issuer)

    with pytest.raises(ValueError, match="LIFECYCLE_OIDC_ISSUER must be an address"):
        Settings.from_environment()


@pytest.mark.parametrize(
    ("sign_in", "given", "expected"),
    [
        ("none", None, {"admin"}),
        ("none", "", set()),
        ("tokens", None, set()),
        ("tokens", "ada@example.com, bob", {"ada@example.com", "bob"}),
    ],
)
def test_nobody_is_an_administrator_because_of_what_they_are_called(
    environment: pytest.MonkeyPatch, sign_in: str, given: str | None, expected: set[str]
) -> None:
    environment.setenv("LIFECYCLE_SIGN_IN", sign_in)
    if given is not None:
        environment.setenv("LIFECYCLE_ADMINISTRATORS", given)

    assert Settings.from_environment().administrators == frozenset(expected)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_without_signing_in_this_machine_is_served(host: str) -> None:
    Settings(host=host).check_exposed()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", ""])
def test_without_signing_in_nobody_else_is_served_unless_it_is_said_so(host: str) -> None:
    with pytest.raises(ValueError, match="nobody proves who they are"):
        Settings(host=host).check_exposed()
    Settings(host=host, insecure=True).check_exposed()
    Settings(host=host, sign_in="tokens").check_exposed()


@pytest.mark.parametrize(
    ("given", "metrics"),
    [
        ("", None),
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("[::1]:0", ("::1", 0)),
        ("metrics.internal:80", ("metrics.internal", 80)),
    ],
)
def test_metrics_are_read_where_it_is_said_or_nowhere(
    environment: pytest.MonkeyPatch, given: str, metrics: tuple[str, int] | None
) -> None:
    environment.setenv("LIFECYCLE_METRICS", given)

    assert Settings.from_environment().metrics == metrics


@pytest.mark.parametrize("given", ["9464", ":9464", "host", "host:", "host:x", "host:65536", "yes"])
def test_an_address_for_metrics_that_is_none_is_refused(
    environment: pytest.MonkeyPatch, given: str
) -> None:
    environment.setenv("LIFECYCLE_METRICS", given)

    with pytest.raises(ValueError, match=r"^LIFECYCLE_METRICS must be host:port, not "):
        Settings.from_environment()


def test_a_collector_is_an_address(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")

    with pytest.raises(ValueError, match=r"^OTEL_EXPORTER_OTLP_ENDPOINT must begin with http"):
        Settings.from_environment()


@pytest.mark.parametrize("below", ["", "models/internal"])
@pytest.mark.parametrize("name", ["artifacts", "external_artifacts", "data_dir"])
def test_a_file_is_no_directory(tmp_path: Path, name: str, below: str) -> None:
    file = tmp_path / "file"
    file.touch()
    given: Any = Path(file / below) if name == "data_dir" else str(file / below)
    settings = replace(Settings(data_dir=tmp_path), **{name: given})

    with pytest.raises(ValueError, match=rf"^LIFECYCLE_\w+ must be .*: {file} is no directory\.$"):
        settings.check_directories()


@pytest.mark.parametrize("area", ["made/later", ".", "s3://bucket/prefix"])
def test_a_directory_may_be_made_later(tmp_path: Path, area: str) -> None:
    here = area if area.startswith("s3://") else str(tmp_path / area)
    settings = Settings(data_dir=tmp_path / "data", artifacts=here, external_artifacts=here)

    settings.check_directories()
