"""The whole job on S3, on a Ray head with a token: from sources to certificates and MLflow."""

import io
import json
import os
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from pipeline import storage
from tests.services.conftest import upload
from tests.services.object_store import KEY, SECRET

pytestmark = pytest.mark.usefixtures("cluster")
FIXED = ["--microbatch", "16", "--threads", "1", "--unit-images", "2", "--actors", "1"]
MLFLOW = ["--mlflow", "none", "--max-error-rate", "1"]


@pytest.fixture(scope="module")
def inputs(s3, shards, tiny_weights) -> list[str]:
    upload(shards, f"{s3}/in/shards")
    upload(tiny_weights, f"{s3}/in/tiny.safetensors")
    return ["--data", f"{s3}/in/shards/*.tar", "--weights", f"{s3}/in/tiny.safetensors", *FIXED]


def last_line(capsys) -> str:
    return capsys.readouterr().out.strip().splitlines()[-1].removeprefix("run_id=")


def rows(out: str, run_id: str) -> list[dict]:
    """What any reader of the votes sees, sorted by image."""
    found = []
    for path in storage.list_files(f"{out}/votes/run_id={run_id}"):
        if path.endswith(".parquet"):
            found += pq.read_table(io.BytesIO(storage.read_bytes(path))).to_pylist()
    return sorted(found, key=lambda row: row["image_id"])


@pytest.fixture(scope="module")
def undisturbed(inputs, s3, tmp_path_factory) -> tuple[str, str]:
    """(out, run_id) of a run that nothing happened to, logged to MLflow with artifacts on S3."""
    import mlflow

    out = f"{s3}/out"
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    mlflow.create_experiment("on-s3", artifact_location=f"{s3}/artifacts")
    arguments = [*inputs, "--out", out, "--patch", "8", "--max-error-rate", "1"]
    assert main(["run", *arguments, "--mlflow", uri, "--experiment", "on-s3"]) == 0
    (folder,) = storage.list_folders(f"{out}/votes")
    return out, folder.removeprefix("run_id=")


def test_everything_is_on_s3(undisturbed, s3):
    out, run_id = undisturbed
    found = rows(out, run_id)
    assert len(found) == len({row["image_id"] for row in found}) == 23
    assert sum(row["error"] is not None for row in found) == 2
    names = [path.rsplit("/", 1)[-1] for path in storage.list_files(f"{out}/summary")]
    assert {f"run_id={run_id}.json", f"run_id={run_id}.png"} <= set(names)
    assert storage.list_files(f"{out}/certificates/run_id={run_id}")
    artifacts = storage.filesystem(f"{s3}/artifacts")[0].find(f"{s3}/artifacts")
    assert {path.rsplit("/", 1)[-1] for path in artifacts} >= {"summary.json", "manifest.json"}
    assert not [path for path in storage.list_files(out) if "probe" in path]


def test_a_second_run_and_a_dry_run_compute_and_write_nothing(undisturbed, inputs, capsys, proxy):
    out, run_id = undisturbed
    written: list[str] = []
    proxy.on_put = written.append
    assert main(["votes", *inputs, "--out", out, "--max-error-rate", "1"]) == 0
    assert last_line(capsys) == run_id
    assert not [path for path in written if "/votes/" in path]
    written.clear()
    dry = ["--dry-run", "--images-per-second", "0.5", "--price-per-hour", "3600", "--json"]
    assert main(["votes", *inputs, "--out", f"{out}-dry", *dry]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["images"], said["done"], said["views"], said["sequences"]) == (23, 0, 10, 253)
    assert said["actor_hours"] == pytest.approx(46 / 3600)
    assert said["cost"] == pytest.approx(46)
    assert written == []


def test_resuming_on_s3_votes_on_what_is_missing(undisturbed, inputs, s3, capsys):
    out, run_id = undisturbed
    there = storage.filesystem(out)[0]
    there.copy(f"{out}/votes", f"{s3}/resumed/votes", recursive=True)
    gone = f"{s3}/resumed/votes/run_id={run_id}/unit-00003.parquet"
    storage.remove(gone)
    assert main(["votes", *inputs, "--out", f"{s3}/resumed", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 21
    assert main(["votes", *inputs, "--out", f"{s3}/resumed", "--max-error-rate", "1"]) == 0
    assert "voted on 2 of 23" in capsys.readouterr().err
    assert rows(f"{s3}/resumed", run_id) == rows(out, run_id)


def test_throttling_and_an_outage_of_20_seconds_cost_time_only(
    undisturbed, inputs, s3, server, proxy, capsys
):
    """Every tenth request is refused, and after two units the server dies for 20 seconds."""
    out, run_id = undisturbed
    committed: list[str] = []
    died: list[float] = []

    def away() -> None:
        server.stop()
        died.append(time.monotonic())
        time.sleep(20)
        server.start()
        died.append(time.monotonic())

    def count(path: str) -> None:
        if "/unit-" in path:
            committed.append(path)
            if len(committed) == 2:
                threading.Thread(target=away).start()

    proxy.failing, proxy.on_put, before = 0.1, count, proxy.refused
    assert main(["votes", *inputs, "--out", f"{s3}/harried", "--max-error-rate", "1"]) == 0
    assert len(died) == 2, "the job ended before the server was back"
    assert len(committed) >= 12
    assert proxy.refused - before > 5
    assert rows(f"{s3}/harried", run_id) == rows(out, run_id)


def test_no_artifact_log_or_param_holds_the_credentials(undisturbed, s3, server, tmp_path):
    """Everything that the runs of this file have written, and what Ray logged, is searched."""
    there = storage.filesystem(s3)[0]
    searched = 0
    for path in there.find(s3):
        data = storage.read_bytes(f"s3://{path}")
        assert SECRET.encode() not in data, path
        assert KEY.encode() not in data, path
        searched += 1
    assert searched > 20
    import mlflow

    for run in mlflow.search_runs(experiment_names=["on-s3"], output_format="list"):
        assert SECRET not in str(run.to_dictionary())
    logs = list(Path(f"/tmp/pc{os.getpid()}").glob("session_*/logs/**/*"))
    assert len(logs) > 5
    for path in logs:
        if path.is_file() and not path.is_symlink():
            assert SECRET.encode() not in path.read_bytes(), path
