"""What the image and the compose file promise to whoever lets them in. Nothing here runs docker."""

import re
import tomllib
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile's last stage, from which the image comes."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    found: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, lines)):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            found = []
        found.append((name, rest.strip()))
    return found


def services() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(ROOT / "docker-compose.yml")["services"]
    return found


def test_the_image_runs_as_a_user_of_its_own() -> None:
    stage = instructions()
    users = [rest for name, rest in stage if name == "USER"]

    assert users == ["lifecycle"]
    assert any("useradd" in rest and "--uid 1000" in rest for name, rest in stage if name == "RUN")
    # what it runs was copied before, and belongs to root
    names = [name for name, _ in stage]
    assert max(i for i, name in enumerate(names) if name in ("COPY", "RUN")) < names.index("USER")
    assert [rest for name, rest in stage if name == "CMD"] == ['["lifecycle", "serve"]']


def test_the_image_has_only_what_is_locked() -> None:
    text = (ROOT / "Dockerfile").read_text()

    synced = re.findall(r"uv sync (.*)", text)
    assert len(synced) == 2
    assert all("--frozen" in options and "--no-dev" in options for options in synced)
    assert "npm ci" in text
    assert "npm install" not in text
    locked = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    for package in locked:
        if package["name"] != "ml-lifecycle":
            files = [*package.get("wheels", []), *filter(None, [package.get("sdist")])]
            assert files, package["name"]
            assert all(file["hash"].startswith("sha256:") for file in files), package["name"]


def test_the_service_cannot_write_to_its_root_nor_gain_rights() -> None:
    service = services()["lifecycle"]

    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["user"] == "lifecycle"
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "volumes" not in service
    # so all that it keeps is kept elsewhere
    environment = service["environment"]
    assert "@database:" in environment["LIFECYCLE_DATABASE_URL"]
    for area in ("LIFECYCLE_ARTIFACTS", "LIFECYCLE_EXTERNAL_ARTIFACTS"):
        assert environment[area].startswith("s3://")


def test_nothing_is_reachable_from_other_machines() -> None:
    for name, service in services().items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
        assert service.get("network_mode") is None, name
