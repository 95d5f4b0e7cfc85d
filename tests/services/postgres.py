"""A real PostgreSQL for tests: Debian's, on loopback, on a free port, in a folder of its own."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.services.object_store import free_ports

USER, DATABASE = "mlflow", "mlflow"
_START_SECONDS = 60
# Whom PostgreSQL runs as where the tests run as root, which it refuses; Debian's package makes it.
_UNPRIVILEGED = "postgres"


def program(name: str) -> str:
    """A program of the newest PostgreSQL that is installed; Debian keeps them off the path."""
    installed = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4])
    )
    found = str(installed[-1]) if installed else shutil.which(name)
    if found is None:
        raise RuntimeError(f"no {name}: apt-get install postgresql, as `make test-services` does")
    return found


@dataclass
class Postgres:
    """A PostgreSQL server.

    Attributes:
        folder: Its data, owned by whom it runs as.
        password: Of its only user.
    """

    folder: Path
    password: str = field(default_factory=lambda: "pg" + secrets.token_hex(16))
    port: int = field(default_factory=lambda: free_ports(1)[0])
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"postgresql+psycopg2://{USER}:{self.password}@127.0.0.1:{self.port}/{DATABASE}"

    def start(self) -> None:
        """Make the cluster and its database, and start the server."""
        data, secret = self.folder / "data", self.folder / "password"
        secret.write_text(self.password)
        if os.geteuid() == 0:
            for path in (self.folder, secret):
                shutil.chown(path, _UNPRIVILEGED, pwd.getpwnam(_UNPRIVILEGED).pw_gid)
        # Every connection, local ones too, has to know the password.
        options = ["--auth=scram-sha-256", f"--username={USER}", f"--pwfile={secret}"]
        log = (self.folder / "log").open("ab")
        made = subprocess.run(
            [program("initdb"), f"--pgdata={data}", "--no-sync", "--encoding=UTF8", *options],
            stdout=log,
            stderr=log,
            check=False,
            **self._as_whom(),
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{self._log()}")
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            # A crash of the machine may lose what a test wrote.
            "fsync": "off",
        }
        command = [program("postgres"), "-D", str(data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, **self._as_whom())
        self._create_database()

    def _as_whom(self) -> dict[str, Any]:
        privileged = os.geteuid() == 0
        who = {"user": _UNPRIVILEGED, "group": _UNPRIVILEGED, "extra_groups": []}
        return {"cwd": self.folder, **(who if privileged else {})}

    def query(self, statement: str, database: str = DATABASE) -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own; its rows."""
        import psycopg2

        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user=USER, password=self.password, dbname=database
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def _create_database(self) -> None:
        import psycopg2

        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.query(f"CREATE DATABASE {DATABASE}", "postgres")
                return
            except psycopg2.OperationalError as error:
                assert self.process is not None
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start:\n{self._log()}") from error
                time.sleep(0.2)

    def _log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        if self.process is not None:
            # Fast shutdown: it does not wait for clients.
            self.process.send_signal(signal.SIGINT)
            self.process.wait(20)
            self.process = None


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    # Not pytest's folder, into which nobody else may look.
    folder = Path(tempfile.mkdtemp(prefix="patchcert-postgres-"))
    server = Postgres(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
