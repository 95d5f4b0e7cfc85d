"""What is sent to a cluster, and what is refused before anything is."""

import shlex
import subprocess
import sys

import pytest

from jobs import submit
from jobs.cli import main
from jobs.submit import packed
from pipeline.config import ConfigError


def test_only_code_and_named_files_are_packed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("data: x\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/labels.json").write_text("{}")
    command = ["run", "--config", "my.yaml", "--patch", "1"]
    with packed(command, ["deep/labels.json"]) as (folder, entrypoint):
        from pathlib import Path

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
