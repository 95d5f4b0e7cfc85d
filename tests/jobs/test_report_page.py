"""``patchcert report`` as a user meets it."""

import sys

import mlflow
import numpy as np
import pytest

from jobs.cli import main
from tests.conftest import REPOSITORY

sys.path.append(str(REPOSITORY / "tests/pipeline/questions"))
from tests.pipeline.analysis.stored_runs import write_run

DATA = {"kind": "tar", "fingerprint": "f00d", "several_labels": False, "limit": None}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(out, ids) of two runs over the same images; the first is certified and logged."""
    out, ids = tmp_path_factory.mktemp("report") / "out", []
    labels = np.random.default_rng(0).integers(0, 3, 30)
    for seed, model in enumerate(("one", "two")):
        rng = np.random.default_rng(seed)
        noise = rng.random((30, 10)) < 0.8 * rng.random((30, 1))
        votes = np.where(noise, rng.integers(0, 3, noise.shape), labels[:, None])
        more = {"classes": 3, "unit_images": 15, "data": DATA}
        ids.append(write_run(out, votes, labels.tolist(), model=model, **more))
    assert main(["certify", "--out", str(out), "--run-id", ids[0], "--patch", "2"]) == 0
    return out, ids


def test_a_page_beside_its_run_in_mlflow(runs, tmp_path, capsys):
    out, (first, _) = runs
    page = tmp_path / "page.html"
    capsys.readouterr()
    assert main(["report", first[:6], "--to", str(page), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"page:   {page}"
    assert lines[1] == f"MLflow: sqlite:///{out}/mlflow.db"
    assert lines[-1] == f"run_id={first}"
    client = mlflow.MlflowClient(f"sqlite:///{out}/mlflow.db")
    (logged,) = client.search_runs(["1"], f"tags.`patchcert.run_id` = '{first}'")
    artifact = client.download_artifacts(logged.info.run_id, "report.html", str(tmp_path))
    with open(artifact, "rb") as stream:
        assert stream.read() == page.read_bytes()
    assert f"run <code>{first}</code>" in page.read_text()


def test_two_runs_on_one_page(runs, tmp_path, capsys):
    out, ids = runs
    page = tmp_path / "both.html"
    asked = ["report", *ids, "--to", str(page), "--out", str(out), "--mlflow", "none"]
    assert main(asked) == 2
    assert f"patchcert certify --run-id {ids[1]}" in capsys.readouterr().err
    assert not page.exists()
    certify = ["certify", "--out", str(out), "--run-id", ids[1], "--patch", "2"]
    assert main([*certify, "--mlflow", "none"]) == 0
    capsys.readouterr()
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("run_id=")] == [
        f"run_id={run_id}" for run_id in ids
    ]
    assert said.count("was not logged") == 2
    assert "<h2>Comparison</h2>" in page.read_text()


def test_a_wrong_request_is_one_line(runs, tmp_path, capsys):
    out, (first, _) = runs
    for asked, said in (
        (["report", first, "--to", str(tmp_path / "page.pdf")], "end the name in .html"),
        (["report", "r0000", "--to", str(tmp_path / "page.html")], "there is no such run"),
        (["report", "--to", str(tmp_path / "page.html")], "holds 2 runs"),
    ):
        assert main([*asked, "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error
        assert not list(tmp_path.iterdir())
