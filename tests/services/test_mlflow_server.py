"""A real MLflow server, its runs in PostgreSQL and its artifacts on S3, which clients never see."""

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest

from jobs.cli import main
from pipeline.tracking import quiet_client
from tests.conftest import TINY
from tests.services import postgres
from tests.services.object_store import BUCKET, KEY, SECRET, ObjectStore, free_ports

_START_SECONDS = 180
STUDY = "strides of a tiny network"


@dataclass(frozen=True)
class MlflowServer:
    """A tracking server.

    Attributes:
        uri: Where it answers.
        database: Where it keeps runs.
        log: What it says.
    """

    uri: str
    database: postgres.Postgres
    log: Path


@pytest.fixture(scope="module")
def tracking(
    server: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("mlflow")
    (port,) = free_ports(1)
    with postgres.running() as database:
        # Secrets go into its environment alone: a command line is for all to see.
        environment = {
            **os.environ,
            **server.environment(),
            "MLFLOW_S3_ENDPOINT_URL": server.endpoint,
            "MLFLOW_BACKEND_STORE_URI": database.uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        command = [
            *(str(Path(sys.executable).parent / "mlflow"), "server", "--host=127.0.0.1"),
            *(f"--port={port}", "--workers=1", f"--artifacts-destination=s3://{BUCKET}/mlflow"),
        ]
        log = folder / "log"
        process = subprocess.Popen(
            command,
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        found = MlflowServer(f"http://127.0.0.1:{port}", database, log)
        try:
            _await(found, process)
            yield found
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)


def _await(found: MlflowServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{found.uri}/health", timeout=5).read()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"MLflow did not start:\n{found.log.read_text()}") from error
            time.sleep(0.3)


@pytest.fixture(scope="module")
def without_s3() -> Iterator[None]:
    """Nothing in this process that opens the bucket: artifacts go through the server."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("AWS_"):
            del os.environ[name]
    yield
    os.environ.update(before)


@pytest.fixture(scope="module")
def swept(without_s3, tracking, shards, tiny_weights, tmp_path_factory) -> Path:
    """Results of a sweep that was logged there: a run, and a stride that it answers."""
    out = tmp_path_factory.mktemp("swept") / "out"
    sweep(shards, tiny_weights, out, tracking)
    return out


def sweep(shards, weights, out, tracking) -> str:
    """What a sweep says, in a process of its own: it starts its own Ray."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_"))
    }
    command = [sys.executable, "-m", "jobs", "sweep"]
    done = subprocess.run(
        [*command, *arguments(shards, weights, out, tracking)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def arguments(shards, weights, out, tracking) -> list[str]:
    fixed = ["--microbatch", "16", "--threads", "1", "--unit-images", "12", "--actors", "1"]
    fixed += ["--max-error-rate", "0.1", "--patch", "8", "16", "--stride", "16", "32"]
    where = ["--out", str(out), "--mlflow", tracking.uri, "--experiment", STUDY]
    return ["--data", str(shards), "--weights", str(weights), *fixed, *where]


def runs(tracking: MlflowServer) -> dict[str, mlflow.entities.Run]:
    client = quiet_client(tracking.uri)
    study = client.get_experiment_by_name(STUDY)
    return {run.info.run_name: run for run in client.search_runs([study.experiment_id])}


def test_a_sweep_is_a_parent_with_a_run_nested_in_it_for_every_point(swept, tracking, shards):
    found = runs(tracking)
    own, coarser = (
        f"{TINY} column b24 s16 drop float32",
        f"{TINY} column b24 s32 drop float32 (from s16)",
    )
    parent = f"sweep over {shards.name}"
    assert set(found) == {own, coarser, parent}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    for name in (own, coarser):
        assert found[name].data.tags["mlflow.parentRunId"] == found[parent].info.run_id
        (used,) = found[name].inputs.dataset_inputs
        fingerprint = found[name].data.tags["patchcert.data_fingerprint"]
        assert (used.dataset.name, used.dataset.digest) == (shards.name, fingerprint[:32])
    assert found[coarser].data.params["ablation.stride"] == "32"
    client = quiet_client(tracking.uri)
    mlflow.set_tracking_uri(tracking.uri)  # load_table looks there, whatever its client
    history = client.get_metric_history(found[own].info.run_id, "certified_accuracy/exact")
    assert {0, 1, 8, 16} <= {point.step for point in history}
    table = client.load_table(
        found[parent].info.experiment_id, "sweep.json", [found[parent].info.run_id]
    )
    assert list(table["stride"]) == [16, 32]
    figures = [found[name].data.metrics["certified_at/exact_8x8"] for name in (own, coarser)]
    assert list(table["exact 8x8"]) == pytest.approx(figures)


def test_runs_are_in_postgresql_and_artifacts_on_s3(swept, tracking, server):
    assert tracking.database.query("SELECT count(*) FROM runs") == [(3,)]
    names = {path.rsplit("/", 1)[-1] for path in objects(server)}
    assert {"summary.json", "manifest.json", "certified_accuracy.png", "sweep.json"} <= names


def test_saying_it_again_doubles_nothing(swept, tracking, shards, tiny_weights):
    before = counts(tracking)
    assert "from the votes of" in sweep(shards, tiny_weights, swept, tracking)
    (summary,) = (p for p in (swept / "summary").glob("*.json") if "tracked" not in p.name)
    (swept / "summary" / f"{summary.stem}.tracked.json").unlink()
    where = ["--mlflow", tracking.uri, "--experiment", STUDY]
    assert main(["certify", "--out", str(swept), "--patch", "8", *where]) == 0
    assert counts(tracking) == before
    assert before["metrics"] > 20


def test_the_registry_has_the_very_weights_and_what_is_certified(
    swept, tracking, tiny_weights, tmp_path
):
    for _ in range(2):
        assert main(["register", "--name", "tiny", "--out", str(swept)]) == 0
    client = quiet_client(tracking.uri)
    (version,) = client.search_model_versions("name = 'tiny'")
    own = runs(tracking)[f"{TINY} column b24 s16 drop float32"]
    figure = own.data.metrics["certified_at/exact_8x8"]
    assert float(version.tags["certified_at.exact_8x8"]) == pytest.approx(figure, abs=1e-5)
    assert version.tags["patchcert.run_id"] == own.data.tags["patchcert.run_id"]
    assert re.search(r"certified 8x8 px, 0\.[23] %, exact", version.description)
    mlflow.set_tracking_uri(tracking.uri)
    copy = mlflow.artifacts.download_artifacts("models:/tiny/1", dst_path=str(tmp_path))
    (file,) = (path for path in Path(copy).rglob("*") if path.is_file())
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest == hashlib.sha256(tiny_weights.read_bytes()).hexdigest()


def test_no_row_no_artifact_and_no_log_holds_a_credential(swept, tracking, server, capfd):
    where = ["--mlflow", tracking.uri, "--experiment", STUDY]
    assert main(["certify", "--out", str(swept), "--patch", "8", "24", *where, "--verbose"]) == 0
    said = "".join(capfd.readouterr())
    secrets = (SECRET, KEY, tracking.database.password)
    searched = {
        "output": said.encode(),
        "server's log": tracking.log.read_bytes(),
        **objects(server),
        **{str(path): path.read_bytes() for path in swept.rglob("*") if path.is_file()},
    }
    for table in counts(tracking):
        rows = tracking.database.query(f'SELECT * FROM "{table}"')
        searched[f"table {table}"] = repr(rows).encode()
    assert len(searched) > 40
    for place, data in searched.items():
        for secret in secrets:
            assert secret.encode() not in data, place


def objects(server: ObjectStore) -> dict[str, bytes]:
    """Every object of the server's artifacts, read with credentials of this call alone."""
    import s3fs

    filesystem = s3fs.S3FileSystem(
        key=KEY, secret=SECRET, endpoint_url=server.endpoint, skip_instance_cache=True
    )
    return {path: filesystem.cat_file(path) for path in filesystem.find(f"{BUCKET}/mlflow")}


def counts(tracking: MlflowServer) -> dict[str, int]:
    """Rows of every table of the server's database."""
    named = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    return {
        name: tracking.database.query(f'SELECT count(*) FROM "{name}"')[0][0]
        for (name,) in tracking.database.query(named)
    }
