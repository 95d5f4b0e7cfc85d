"""Runs in MLflow's own sqlite store: found again, never doubled, with what users look for."""

import json
import subprocess

import mlflow
import numpy as np
import pytest

from jobs.cli import main
from pipeline.config import ClaimsConfig
from pipeline.runs import versions as revision
from pipeline.runs.manifest import Execution, Manifest
from pipeline.runs.store import VotesStore
from pipeline.runs.versions import git_revision
from pipeline.tracking import TrackingError, log_page, quiet_client, run_name, watched
from pipeline.tracking.description import RUN_ID, description, ray_job_id
from pipeline.tracking.points import Point
from pipeline.tracking.server import connect, failures_as_text
from tests.pipeline.analysis.stored_runs import COLUMNS, identity, write_run


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """(out, run_id) of a certified run."""
    out = tmp_path_factory.mktemp("tracked")
    run_id = write_run(out, np.ones((6, 10), int), [1, 1, 1, 1, 1, 0])
    assert main(["certify", "--out", str(out), "--patch", "2", "--experiment", "a study"]) == 0
    return out, run_id


def only(out, experiment: str = "a study"):
    client = quiet_client(f"sqlite:///{out}/mlflow.db")
    study = client.get_experiment_by_name(experiment)
    (run,) = client.search_runs([study.experiment_id])
    return client, run


def state(out) -> dict:
    """Everything that MLflow holds of the only run, with the length of every history."""
    client, run = only(out)
    mlflow.set_tracking_uri(f"sqlite:///{out}/mlflow.db")  # load_table looks nowhere else
    histories = {
        name: [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    table = client.load_table(run.info.experiment_id, "certified_accuracy.json", [run.info.run_id])
    inputs = [used.dataset.digest for used in run.inputs.dataset_inputs]
    return histories | {"rows": len(table), "inputs": inputs, "params": run.data.params}


def test_certifying_again_changes_nothing_and_more_questions_add(logged):
    out, run_id = logged
    before = state(out)
    where = ["--out", str(out), "--experiment", "a study"]
    (out / "summary" / f"run_id={run_id}.tracked.json").unlink()
    assert main(["certify", *where, "--patch", "2"]) == 0
    assert state(out) == before
    assert main(["certify", *where, "--patch", "3"]) == 0
    after = state(out)
    assert after["rows"] == before["rows"] + 2
    assert after["certified_at/exact_3x3"] == [(0, pytest.approx(5 / 6))]
    for name, history in after.items():
        if isinstance(history, list) and name != "inputs":
            assert len({step for step, _ in history}) == len(history), name
    assert after["inputs"] == ["f00d"]


def test_what_a_user_sees_of_a_run(logged):
    out, run_id = logged
    client, run = only(out)
    assert run.info.run_name == "tiny column b2 s1 drop float32"
    assert run.info.status == "FINISHED"
    tags = run.data.tags
    assert tags[RUN_ID] == run_id
    assert tags["patchcert.data_fingerprint"] == "f00d"
    assert tags.get("patchcert.git_revision") == git_revision()
    assert "83.3 % at 2x2 px (exact)" in tags["mlflow.note.content"]
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [
        {"path": "certified_accuracy.json", "type": "table"}
    ]
    assert run.data.params["ablation.size"] == "2"
    names = {one.path for one in client.list_artifacts(run.info.run_id)}
    assert {"certified_accuracy.png", "summary.json", "manifest.json"} <= names


def test_what_someone_wrote_of_a_run_stays(logged):
    out, _ = logged
    client, run = only(out)
    summary = {
        "certified_accuracy": [],
        "coarser": [],
        "smoothed_accuracy": {"value": 0.5, "of": 2},
    }
    assert description(summary, "our best so far") is None
    assert description(summary, None) is None
    client.set_tag(run.info.run_id, "mlflow.note.content", "our best so far")
    where = ["--out", str(out), "--experiment", "a study"]
    assert main(["certify", *where, "--patch", "4"]) == 0
    assert only(out)[1].data.tags["mlflow.note.content"] == "our best so far"


def test_a_page_goes_to_the_run_where_it_was_logged(logged):
    out, run_id = logged
    store = VotesStore(str(out), run_id)
    assert log_page(store, b"<html></html>") == f"sqlite:///{out}/mlflow.db"
    client, run = only(out)
    assert "report.html" in {one.path for one in client.list_artifacts(run.info.run_id)}
    assert log_page(store, b"", "none") is None
    assert log_page(store, b"", None, "elsewhere") is None, "there is no run to add it to"


def test_a_run_is_there_while_it_votes(logged, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    manifest = Manifest(
        identity=identity(COLUMNS, 4, "tiny", None),
        execution=Execution(data="images/*.tar", weights="w.safetensors", images=3),
    )
    claims, out = ClaimsConfig(experiment="watched"), str(logged[0])

    def vote_in_vain() -> None:
        with watched(manifest, claims, out):
            client, run = only(out, "watched")
            assert run.info.status == "RUNNING"
            while "system/cpu_utilization_percentage" not in run.data.metrics:
                run = client.get_run(run.info.run_id)
            raise RuntimeError("voting failed")

    with pytest.raises(RuntimeError, match="voting failed"):
        vote_in_vain()
    assert only(out, "watched")[1].info.status == "FAILED"
    with watched(manifest, claims, out):
        assert only(out, "watched")[1].info.status == "RUNNING"
    assert only(out, "watched")[1].info.status == "FINISHED"
    with watched(manifest, ClaimsConfig(mlflow="none"), str(tmp_path / "nothing")):
        assert not (tmp_path / "nothing").exists()


def test_points_are_logged_once(logged):
    tracker = connect(ClaimsConfig(experiment="points"), str(logged[0]))
    run = tracker.create("r", {}).info.run_id
    points = [Point("curve", step / 7, step) for step in range(1500)]
    for _ in range(2):
        tracker.log_points(run, [*points, Point("figure", 1.0)])
    assert len(tracker.client.get_metric_history(run, "curve")) == 1500
    assert len(tracker.client.get_metric_history(run, "figure")) == 1


def test_names_say_what_differs():
    def name(ablation=COLUMNS, **more) -> str:
        return run_name(
            Manifest(identity=identity(ablation, 4, "deit_tiny_patch16_224", None, **more))
        )

    assert name() == "deit_tiny column b2 s1 drop float32"
    assert name(voting={"theta": 0.2, "gaps": False}).endswith("theta0.2")
    assert " draws1000 " in name(randomized={"draws": 1000, "seed": 1})


def test_the_ray_job_is_the_submitted_one(monkeypatch):
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    monkeypatch.delenv(RAY_JOB_CONFIG_JSON_ENV_VAR, raising=False)
    assert ray_job_id() is None
    config = {"runtime_env": {}, "metadata": {"job_submission_id": "patchcert-1"}}
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, json.dumps(config))
    assert ray_job_id() == "patchcert-1"


def test_the_revision_is_that_of_the_checkout(monkeypatch, tmp_path):
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    monkeypatch.setattr(revision, "__file__", str(tmp_path / "pipeline" / "runs" / "versions.py"))
    assert git_revision() is None
    git("init", "--quiet")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--quiet", "-m", "x")
    assert git_revision() == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("2")
    assert git_revision() == git("rev-parse", "HEAD") + "-dirty"


def test_failures_name_the_server_without_its_password():
    claims = ClaimsConfig(mlflow="http://me:pa55word@localhost:9")
    with pytest.raises(TrackingError) as caught, failures_as_text(claims, "out", "Do this"):
        raise OSError("http://me:pa55word@localhost:9 refuses")
    assert "pa55word" not in str(caught.value)
    assert str(caught.value).endswith("Do this")
