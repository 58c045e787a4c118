"""What the environment says, and what of it may be shown."""

from dataclasses import fields
from pathlib import Path

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
    mlflow_uri="http://me:secret@mlflow:5000",
    mlflow_follow=86_400,
    mlflow_worker=False,
    artifacts="s3://bucket/internal",
    external_artifacts="/external",
    s3_public_url="https://s3.example.com",
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
