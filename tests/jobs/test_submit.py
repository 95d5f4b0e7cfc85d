"""What is sent to a cluster, and what is refused before anything is."""

import json
import shlex
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jobs import submit
from jobs.cli import main
from jobs.submit import packed
from pipeline.config import ConfigError


class _Answers(BaseHTTPRequestHandler):
    """Just what Ray's client asks for to send a job."""

    def do_GET(self):
        self.server.asked.append(f"{self.command} {self.path}")
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = {"version": "4", "ray_version": "2.60.0", "ray_commit": ""}
        if self.path.endswith("/jobs/"):
            body = {"job_id": "j7", "submission_id": "j7"}
        if self.path.endswith("/stop"):
            body = {"stopped": True}
        stored = json.dumps(body).encode()
        packed_before = self.command == "GET" and "/packages/" in self.path
        self.send_response(404 if packed_before else self.server.status)
        self.send_header("Content-Length", str(len(stored)))
        self.end_headers()
        self.wfile.write(stored)

    def do_PUT(self):
        self.do_GET()

    def do_POST(self):
        self.do_GET()

    def log_message(self, *_):
        pass


class _Dashboard(ThreadingHTTPServer):
    """A server on this machine that writes down what it is asked.

    Attributes:
        asked: Method and path of each request.
        status: Of every answer.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.asked, self.status = [], 200
        self.address = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def dashboards():
    given, other = _Dashboard(), _Dashboard()
    yield given, other
    for one in (given, other):
        one.shutdown()
        one.server_close()


@pytest.fixture(autouse=True)
def no_ray_around(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
def test_the_address_given_is_the_one_that_is_asked(name, dashboards, monkeypatch, capsys):
    from click.testing import CliRunner
    from ray.dashboard.modules.job.cli import job_cli_group

    given, other = dashboards
    monkeypatch.setenv(name, other.address)
    send = ["submit", "--address", given.address, "--no-wait", "--", "systems"]
    assert main(send) == 0
    assert "POST /api/jobs/" in given.asked
    said = capsys.readouterr()
    assert said.out == "job_id=j7\n"
    assert f"asking {given.address}, and not {name}={other.address}\n" in said.err
    # The command that is shown asks it, too.
    stop = said.err.partition("stop it: ")[2].splitlines()[0]
    assert stop.endswith(f"ray job stop --address {given.address} j7")
    given.asked.clear()
    emptied, ray, job, *words = shlex.split(stop)
    assert [emptied, ray, job] == [f"{name}=", "ray", "job"]
    done = CliRunner().invoke(job_cli_group, [*words, "--no-wait"], env={name: ""})
    assert done.exit_code == 0, done.output
    assert "POST /api/jobs/j7/stop" in given.asked
    assert other.asked == []


def test_the_token_check_is_of_the_address_given(dashboards, monkeypatch, capsys):
    given, _ = dashboards
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_ADDRESS", given.address)  # of this machine, where none is needed
    assert main(["submit", "--address", "http://198.51.100.7:8265", "--", "systems"]) == 1
    assert "198.51.100.7 is another machine" in capsys.readouterr().err
    assert given.asked == []


def test_what_is_no_dashboard_is_named_in_words(dashboards, monkeypatch, capsys):
    given, _ = dashboards
    monkeypatch.setattr(submit, "FIRST_CONTACT_SECONDS", 0.2)
    given.status = 404  # another web server
    with socket.create_server(("127.0.0.1", 0)) as mute, socket.create_server(("", 0)) as gone:
        silent, closed = (f"http://127.0.0.1:{one.getsockname()[1]}" for one in (mute, gone))
        gone.close()
        for address in (given.address, silent, closed):
            assert main(["submit", "--address", address, "--", "systems"]) == 1
            assert f"{address} cannot be used: " in capsys.readouterr().err


def test_only_code_and_named_files_are_packed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("data: x\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/labels.json").write_text("{}")
    command = ["run", "--config", "my.yaml", "--patch", "1"]
    with packed(command, ["deep/labels.json"]) as (folder, entrypoint):
        root = Path(folder)
        top = {path.name for path in root.iterdir() if not path.name.endswith(".dist-info")}
        assert top == {"jobs", "models", "pipeline", "submitted", "deep"}
        assert (root / "submitted/my.yaml").read_text() == "data: x\n"
        assert not list(root.rglob("__pycache__"))
        assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 4 * 2**20
        expected = "python -m jobs run --config submitted/my.yaml --patch 1"
        assert entrypoint == expected
        # The packed code is whole: it runs where the repository is not.
        words = [sys.executable, *shlex.split(entrypoint)[1:4], "--help"]
        subprocess.run(words, check=True, cwd=folder, capture_output=True)


def test_what_is_too_large_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submit, "_MOST_MIB", 3)
    (tmp_path / "big.bin").write_bytes(bytes(4 * 2**20))
    with pytest.raises(ConfigError, match=r"big\.bin is 4.*s3://"), packed(["run"], ["big.bin"]):
        pass


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--address", "head:8265", "--", "run"], 2, "http://head:8265"),
        (["--address", "http://127.0.0.1:9"], 2, "after --"),
        (["--address", "http://127.0.0.1:9", "--", "run", "--config", "no.yaml"], 2, "no.yaml"),
        (["--address", "http://127.0.0.1:9", "--include", "/etc/x", "--", "run"], 2, "below this"),
        (["--address", "http://198.51.100.7:8265", "--", "run"], 1, "RAY_AUTH_MODE is not set"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(arguments, code, message, capsys, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert main(["submit", *arguments]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["--data", "s3://key:abc/pa55@b/x", "--mlflow", "none"], "s3://***@b/x"),
        (["--data=S3://key:pa55@b/x"], "--data=S3://***@b/x"),
        (["--mlflow", "https://u:pa55@h"], "https://***@h"),
        (["--mlflow=postgresql://h/db?user=u&password=pa55"], "postgresql://h/db?***"),
        (["--data", "x", "--config", "run.yaml"], "run.yaml, line 2"),
        (["--data", "x", "--config=run.yaml"], "run.yaml, line 2"),
    ],
)
def test_no_password_is_packed_or_repeated(command, named, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("data: x\nmlflow: POSTGRESQL://u:pa55@h/db  # shared\n")
    monkeypatch.setattr(submit.shutil, "copytree", lambda *_, **__: pytest.fail("packed"))
    assert main(["submit", "--address", "http://127.0.0.1:9", "--", "run", *command]) == 2
    said = capsys.readouterr().err
    assert f"{named}: whoever sees the dashboard" in said
    assert "pa55" not in said


def test_an_at_sign_or_a_question_mark_of_a_path_is_no_password(tmp_path):
    command = [
        "run",
        "--data",
        "s3://b/cat@2x/shard-?key.tar",
        "--out",
        "me@work",
        "--mlflow",
        "http://h:50",
    ]
    with packed(command, []) as (_, entrypoint):
        assert shlex.split(entrypoint)[3:] == command
