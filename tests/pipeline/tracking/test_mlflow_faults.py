"""MLflow that fails: the job's own work is done all the same, and a remedy is said that works."""

import re
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking._tracking_service import utils

from jobs.cli import main
from pipeline.config import ClaimsConfig
from pipeline.preflight.findings import CheckError, look_at
from pipeline.preflight.tracker import reach_tracker
from pipeline.report import plots
from pipeline.runs.store import VotesStore
from pipeline.tracking import database, log_page, quiet_client, server, watched
from pipeline.tracking.database import address_of, check_database, file_of
from pipeline.tracking.record import where_logged
from pipeline.tracking.server import connect, in_words
from pipeline.tracking.sweeps import TrackedSweep
from tests.in_process import stages_here
from tests.pipeline.analysis.stored_runs import write_run


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """No waits that are seconds for a user, and no pictures: what is tested is what follows."""
    monkeypatch.setattr(plots, "draw_certified_accuracy", lambda *_: b"PNG")
    monkeypatch.setattr(plots, "draw_run", lambda *_: SimpleNamespace(picture=b"PNG"))
    monkeypatch.setattr(database, "_LOCK_SECONDS", 0.2)
    monkeypatch.setattr(server, "_CONTACT_SECONDS", 1.5)
    monkeypatch.setattr(server, "_QUIET_SECONDS", 0.2)


@pytest.fixture
def out(tmp_path) -> Path:
    """Folder of a run with votes alone."""
    folder = tmp_path / "out"
    write_run(folder, np.ones((3, 10), int), [1, 1, 0])
    return folder


def certify(folder: Path, *more: str) -> int:
    return main(["certify", "--out", str(folder), *(more or ("--patch", "2"))])


def logged(folder: Path, experiment: str = "patchcert"):
    """The only run in a folder's MLflow, and the names of its artifacts."""
    client = quiet_client(address_of(f"{folder}/mlflow.db"))
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return run, {one.path for one in client.list_artifacts(run.info.run_id)}


def half_made(path: Path) -> None:
    path.write_bytes(server._new_database())
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM experiments")
        db.execute("DROP TABLE issues")
        db.execute("UPDATE alembic_version SET version_num = '534353b11cbc'")


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE mine (x)")


BROKEN = {
    "half made": half_made,
    "is empty": Path.touch,
    "not one of MLflow's": foreign,
    "damaged": lambda path: path.write_bytes(server._new_database()[:100_000]),
    "file is not a database": lambda path: path.write_text("no database" * 100),
    "cannot be written": Path.mkdir,
}


@pytest.mark.parametrize("said", BROKEN)
def test_a_broken_file_costs_the_entry_alone_and_its_remedy_works(out, said, capsys):
    path = out / "mlflow.db"
    BROKEN[said](path)
    (finding,) = look_at([("MLflow", lambda: reach_tracker(ClaimsConfig(), str(out)))])
    assert not finding.ok
    assert said in finding.said
    assert certify(out) == 0
    captured = capsys.readouterr()
    assert "exact" in captured.out
    assert "mlflow ui" not in captured.out
    (line,) = captured.err.splitlines()
    assert line.startswith(f"patchcert: not logged: MLflow at sqlite:///{path}: ")
    assert said in line
    if said == "cannot be written":
        path.rmdir()
    else:
        subprocess.run(re.search(r"`((?:rm|mv) .*?)`", line)[1], shell=True, check=True)
    later = shlex.split(line.split("then log them: `patchcert ")[1].removesuffix("`"))
    assert main(later) == 0
    assert capsys.readouterr().err == ""
    assert "summary.json" in logged(out)[1]


def test_a_locked_file_is_said_and_what_was_logged_before_is_not_believed(out, capsys):
    assert certify(out) == 0
    with closing(sqlite3.connect(out / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert certify(out, "--patch", "3") == 0
        assert "another program has locked the file" in capsys.readouterr().err
    assert "certified_at/exact_3x3" not in logged(out)[0].data.metrics
    assert certify(out, "--patch", "3") == 0
    assert "certified_at/exact_3x3" in logged(out)[0].data.metrics


def test_the_votes_begin_without_mlflow(out, capsys):
    half_made(out / "mlflow.db")
    store = VotesStore(str(out), next((out / "votes").iterdir()).name.removeprefix("run_id="))
    with watched(store.manifest(), ClaimsConfig(), str(out)):
        print("voted")
    captured = capsys.readouterr()
    assert captured.out == "voted\n"
    assert "half made" in captured.err


def test_a_sweep_says_it_once(out, capsys):
    half_made(out / "mlflow.db")
    store = VotesStore(str(out), next((out / "votes").iterdir()).name.removeprefix("run_id="))
    with TrackedSweep(store.manifest(), {}, ClaimsConfig(patch=(2,)), str(out)) as sweep:
        assert sweep.claims == ClaimsConfig(patch=(2,), mlflow="none")
        sweep.adopt(store.run_id)
        sweep.end([{"a": 1}], failed=False)
    assert capsys.readouterr().err.count("half made") == 1


def test_jobs_vote_and_certify_without_mlflow(shards, tiny_weights, out, capsys, monkeypatch):
    stages_here(monkeypatch)
    (out / "mlflow.db").touch()
    place = ["--data", str(shards), "--weights", str(tiny_weights), "--out", str(out)]
    place += ["--size", "24", "--stride", "40", "--patch", "8", "--max-error-rate", "0.1"]
    assert main(["run", *place]) == 0
    captured = capsys.readouterr()
    first, last = re.findall("patchcert: not logged: .*", captured.err)
    assert "the file is empty" in first
    assert "The votes begin all the same" in first
    assert "the file is empty" in last
    assert captured.out.splitlines()[-1].startswith("run_id=")
    assert main(["sweep", *place, "--stride", "40", "80"]) == 0
    assert capsys.readouterr().err.count("patchcert: not logged: ") == 1


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://127.0.0.1:9", "refused"),
        (
            "mysql://u:pa55@127.0.0.1:9/db",
            "its driver is not installed .* `pip install mysqlclient`",
        ),
        ("postgresql+psycopg2://u:pa55@127.0.0.1:9/db", "refused"),
        ("nothing://x", "nothing"),
    ],
)
def test_a_server_that_cannot_be_used_costs_the_entry_alone(out, uri, said, capsys):
    if "psycopg2" in uri:
        pytest.importorskip("psycopg2")
    with pytest.raises(CheckError, match=said):
        reach_tracker(ClaimsConfig(mlflow=uri), str(out))
    assert certify(out, "--patch", "2", "--mlflow", uri) == 0
    captured = capsys.readouterr()
    assert "exact" in captured.out
    line = captured.err.splitlines()[-1]
    assert line.startswith("patchcert: not logged: ")
    assert re.search(said, line)
    assert "pa55" not in captured.err + captured.out
    assert not (out / "mlflow.db").exists()


def test_a_server_that_accepts_and_never_answers_is_given_up(capsys, monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for name in server._BRIEF:
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(TimeoutError, match=r"no answer within 1\.5 s"):
            server.first_contact(uri)
        assert capsys.readouterr().err == f"waiting for MLflow at {uri}\n"
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(MlflowException, match="read timeout=1"):
            server.first_contact(uri)


def test_a_job_stopped_while_the_file_is_made_leaves_none(out, monkeypatch):
    def stopped() -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "_new_database", stopped)
    with pytest.raises(KeyboardInterrupt):
        connect(ClaimsConfig(), str(out))
    assert not list(out.glob("*mlflow*"))
    monkeypatch.undo()
    assert certify(out) == 0
    assert logged(out)


def test_two_jobs_at_once_in_a_new_folder_both_finish(tmp_path):
    server._new_database()
    both = Barrier(2)

    def job(number: int) -> str:
        both.wait()
        tracker = connect(ClaimsConfig(experiment="a study"), str(tmp_path))
        run = tracker.create(f"run {number}", {})
        tracker.log_points(run.info.run_id, [server.Point("x", number)])
        return tracker.experiment

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(job, range(2))
    assert first == second
    assert len(quiet_client(address_of(f"{tmp_path}/mlflow.db")).search_runs([first])) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


@pytest.fixture
def as_processes(monkeypatch):
    """Forget what MLflow keeps in memory by id of a run, since a copy has the same ids."""
    monkeypatch.setattr(utils, "_artifact_repos_cache", Forgetful())


class Forgetful(OrderedDict):
    """A cache that keeps nothing."""

    def __setitem__(self, *_):
        pass


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.usefixtures("as_processes")
def test_artifacts_follow_a_folder_that_is_copied_or_moved(out, tmp_path, capsys):
    assert certify(out) == 0
    before, copy, moved = bytes_of(out), tmp_path / "copy", tmp_path / "moved"
    shutil.copytree(out, copy)
    assert certify(copy, "--patch", "3") == 0
    (run_id,) = (path.name.removeprefix("run_id=") for path in (copy / "votes").iterdir())
    log_page(VotesStore(str(copy), run_id), b"<html></html>")
    assert bytes_of(out) == before
    run, names = logged(copy)
    assert run.info.artifact_uri.startswith(f"{copy.as_uri()}/mlflow-artifacts/")
    assert {"summary.json", "certified_accuracy.png", "report.html"} <= names
    out.rename(moved)
    capsys.readouterr()
    assert certify(moved) == 0
    assert str(out) + "/" not in capsys.readouterr().out
    assert not out.exists()
    assert "summary.json" in logged(moved)[1]
    assert where_logged(VotesStore(str(moved), run_id), None, None).mlflow is None


def test_places_that_a_user_chose_stay(out):
    tracker = connect(ClaimsConfig(), str(out))
    client, elsewhere = tracker.client, "file:///elsewhere/mlflow-artifacts"
    client.create_experiment("mine", artifact_location="s3://bucket/mlflow")
    run = tracker.create("a run", {}).info
    client.create_registered_model("ours")
    client.create_model_version("ours", f"{run.artifact_uri}/model", run_id=run.run_id)
    check_database(out / "mlflow.db", elsewhere)
    places = {one.name: one.artifact_location for one in client.search_experiments()}
    assert places["mine"] == "s3://bucket/mlflow"
    assert places["patchcert"] == places["Default"] == elsewhere
    model = f"{elsewhere}/{run.run_id}/artifacts/model"
    assert client.get_model_version("ours", "1").source == model
    assert client.get_model_version_download_uri("ours", "1") == model


@pytest.mark.parametrize("name", ["feature%2Fpatch", "what?", "a b#c", "it's $HOME; +x", "größe"])
def test_any_name_of_a_folder_will_do(tmp_path, name, capsys):
    folder = tmp_path / name
    write_run(folder, np.ones((3, 10), int), [1, 1, 0])
    assert certify(folder) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    (shown,) = re.findall(r"mlflow ui --backend-store-uri (.*)", captured.out)
    code = "import sys; print(sys.argv[1], end='')"
    pasted = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {shown}"
    done = subprocess.run(pasted, shell=True, check=True, capture_output=True, text=True)
    assert file_of(done.stdout) == folder / "mlflow.db"
    client = quiet_client(done.stdout)
    study = client.get_experiment_by_name("patchcert")
    (run,) = client.search_runs([study.experiment_id])
    assert "summary.json" in {one.path for one in client.list_artifacts(run.info.run_id)}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_deleted_experiment_is_restored(out, capsys):
    assert certify(out) == 0
    client = quiet_client(address_of(f"{out}/mlflow.db"))
    client.delete_experiment(client.get_experiment_by_name("patchcert").experiment_id)
    assert certify(out, "--patch", "3") == 0
    assert "experiment patchcert had been deleted, and is restored" in capsys.readouterr().err
    assert client.get_experiment_by_name("patchcert").lifecycle_stage == "active"
    assert "certified_at/exact_3x3" in logged(out)[0].data.metrics


def test_a_mistake_of_ours_is_no_failure_of_mlflow():
    with pytest.raises(KeyError) as caught:
        raise KeyError("ours")
    assert in_words(caught.value) is None
