"""The services: an S3 server behind a proxy that can fail, and a Ray head with a dashboard."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.storage.s3 import PatientS3FileSystem
from tests.conftest import REPOSITORY
from tests.services.faulty_proxy import FaultyProxy
from tests.services.object_store import BUCKET, ObjectStore, free_ports, running

_START_SECONDS = 90


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("services")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running(tmp_path_factory.mktemp("s3")) as store:
        yield store


@pytest.fixture(scope="session")
def proxy(server: ObjectStore) -> Iterator[FaultyProxy]:
    faulty = FaultyProxy(server.endpoint, free_ports(1)[0])
    yield faulty
    faulty.close()


@pytest.fixture(scope="session")
def s3(server: ObjectStore, proxy: FaultyProxy) -> Iterator[str]:
    """Address of a bucket; credentials and endpoint are in the environment."""
    before = dict(os.environ)
    os.environ.update(server.environment() | {"AWS_ENDPOINT_URL": proxy.endpoint})
    PatientS3FileSystem.clear_instance_cache()
    yield f"s3://{BUCKET}"
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def calm(proxy: FaultyProxy) -> Iterator[None]:
    """Whatever a test made the proxy do ends with the test."""
    yield
    proxy.failing, proxy.on_put = 0.0, None


@dataclass(frozen=True)
class Head:
    """A Ray head.

    Attributes:
        address: Of its control store.
        dashboard: Of its dashboard.
        token: What it demands.
        pid: Of the process that all of its own descend from.
    """

    address: str
    dashboard: str
    token: str
    pid: int


@pytest.fixture(scope="session")
def head(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A Ray head with token authentication and a dashboard, in processes of its own."""
    control, dashboard, agent, agent_grpc, client, metrics, listen = free_ports(7)
    folder = tmp_path_factory.mktemp("ray")
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    os.environ["PATCHCERT_CACHE"] = str(folder / "cache")
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [
        *("ray", "start", "--head", "--block", f"--port={control}", "--num-cpus=2"),
        *("--include-dashboard=true", "--dashboard-host=127.0.0.1"),
        *(f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--dashboard-agent-grpc-port={agent_grpc}", f"--ray-client-server-port={client}"),
        *(f"--metrics-export-port={metrics}", "--disable-usage-stats"),
        *(f"--runtime-env-agent-port={listen}", "--object-store-memory=150000000"),
        f"--temp-dir=/tmp/pc{os.getpid()}",
    ]
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        command, stdout=log, stderr=log, start_new_session=True, cwd=REPOSITORY
    )
    found = Head(
        f"127.0.0.1:{control}", f"http://127.0.0.1:{dashboard}", token.read_text(), process.pid
    )
    try:
        _await(found, process, folder / "log")
        yield found
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await(head: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    request = urllib.request.Request(
        f"{head.dashboard}/api/jobs/", headers={"Authorization": f"Bearer {head.token}"}
    )
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            urllib.request.urlopen(request, timeout=5).read()
            return
        except (OSError, urllib.error.URLError) as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Ray did not start: {error}\n{log.read_text()}") from error
            time.sleep(0.5)


@pytest.fixture(scope="session")
def cluster(head: Head) -> Iterator[Head]:
    """The head, joined by this process too."""
    import ray

    os.environ["RAY_ADDRESS"] = head.address
    ray.init(log_to_driver=False, logging_level="error")
    yield head
    ray.shutdown()
    del os.environ["RAY_ADDRESS"]


def upload(local: Path, address: str) -> str:
    """Copy a file or a folder's files to S3; the address."""
    for path in [local] if local.is_file() else sorted(p for p in local.rglob("*") if p.is_file()):
        name = "" if local.is_file() else f"/{path.relative_to(local)}"
        storage.write_atomically(address + name, path.read_bytes())
    return address
