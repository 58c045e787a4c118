"""A real S3-compatible store, SeaweedFS, as docker-compose.yml starts it."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.store import S3Store

from tests.client import PATIENCE

KEY, SECRET = "test-key", "test-secret"
BUCKETS = ("internal", "external")
_PORTS = (
    *("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port"),
    *("volume.port.grpc", "filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc"),
    "metricsPort",
)


@dataclass(frozen=True)
class Store:
    """A store that is running."""

    url: str
    process: "subprocess.Popen[bytes]"

    @property
    def environment(self) -> dict[str, str]:
        """How to reach it."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
        }


@contextmanager
def an_object_store() -> Iterator[Store]:
    """A store of its own with empty buckets, on ports that are free."""
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        data.mkdir()
        ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        options = [
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.telemetry=false",
            "-webdav=false",
            "-admin.ui=false",
            "-s3.iam=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.localSocket={directory}/s3.sock",
            f"-filer.localSocket={directory}/filer.sock",
            *(f"-{name}={port}" for name, port in ports.items()),
        ]
        with (Path(directory) / "log").open("wb") as log:
            process = subprocess.Popen(
                [Path(sys.executable).with_name("weed"), "mini", *options],
                stdout=log,
                stderr=log,
                env=os.environ
                | {
                    "AWS_ACCESS_KEY_ID": KEY,
                    "AWS_SECRET_ACCESS_KEY": SECRET,
                    "S3_BUCKET": ",".join(BUCKETS),
                },
            )
        store = Store(f"http://127.0.0.1:{ports['s3.port']}", process)
        try:
            _wait(store, Path(directory) / "log")
            yield store
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in held]


def _wait(store: Store, log: Path) -> None:
    """Until it answers and has its buckets, which it makes last."""
    end = time.monotonic() + PATIENCE
    while not all(_is_there(store.url, bucket) for bucket in BUCKETS):
        assert store.process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)


def _is_there(url: str, bucket: str) -> bool:
    found = S3Store(
        bucket,
        endpoint=url,
        access_key_id=KEY,
        secret_access_key=SECRET,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    try:
        obstore.list_with_delimiter(found)
    except obstore.exceptions.BaseError:
        return False
    return True
