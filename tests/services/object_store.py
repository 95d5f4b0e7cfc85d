"""A real S3 server for tests: SeaweedFS on loopback, on random ports, in a temporary folder."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

KEY, SECRET = "patchcert-tests", "S3cr3tOfTheTestsN0body"
BUCKET = "patchcert"
_START_SECONDS = 60


def free_ports(count: int) -> list[int]:
    """Ports of loopback that were free a moment ago, all different.

    SeaweedFS's gRPC ports are these plus 10000, so both must be free. Both lie between the ports
    of Ray's workers (up to 19999) and those the kernel gives out (from 32768).
    """
    ports: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in range(20000 + (os.getpid() * 97 + time.time_ns()) % 2000, 22700):
            if len(ports) == count:
                return ports
            with contextlib.suppress(OSError):
                for number in (port, port + 10000):
                    one = stack.enter_context(socket.socket())
                    one.bind(("127.0.0.1", number))
                ports.append(port)
    raise RuntimeError("no free ports")


@dataclass
class ObjectStore:
    """An S3 server that can be stopped and started again with its data."""

    folder: Path
    ports: list[int] = field(default_factory=lambda: free_ports(9))
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def environment(self) -> dict[str, str]:
        """What a client needs, all of it in the environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            # Nothing of the machine's own account may be used.
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def start(self) -> None:
        """Start the server, if it does not run; returns when it answers and its bucket is there."""
        if self.process is not None:
            return
        s3, master, volume, filer, metrics, iceberg, lance, webdav, admin = self.ports
        self.folder.mkdir(exist_ok=True)
        identities = self.folder / "identities.json"
        rights = ["Admin", "Read", "Write", "List", "Tagging"]
        credentials = [{"accessKey": KEY, "secretKey": SECRET}]
        identities.write_text(
            json.dumps(
                {"identities": [{"name": "t", "credentials": credentials, "actions": rights}]}
            )
        )
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        command = [
            str(Path(sys.executable).parent / "weed"),
            "mini",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-s3.port={s3}",
            f"-master.port={master}",
            f"-volume.port={volume}",
            f"-filer.port={filer}",
            f"-metricsPort={metrics}",
            f"-s3.port.iceberg={iceberg}",
            f"-s3.port.lance={lance}",
            f"-webdav.port={webdav}",
            f"-admin.port={admin}",
            "-master.telemetry=false",
            f"-s3.config={identities}",
            f"-bucket={BUCKET}",
            "-admin.ui=false",
            "-webdav=false",
        ]
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
        )
        self._await_bucket()

    def _await_bucket(self) -> None:
        import botocore.session

        os_environment = self.environment()
        client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=os_environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=os_environment["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"1")
                client.delete_object(Bucket=BUCKET, Key="ready")
                return
            except Exception as error:
                assert self.process is not None
                if self.process.poll() is not None or time.monotonic() > deadline:
                    tail = (self.folder / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"the S3 server did not start: {error}\n{tail}") from error
                time.sleep(0.2)

    def stop(self) -> None:
        """Kill the server at once, as a crash would; its data stay."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@contextlib.contextmanager
def running(folder: Path) -> Iterator[ObjectStore]:
    store = ObjectStore(folder)
    try:
        store.start()
        yield store
    finally:
        store.stop()
