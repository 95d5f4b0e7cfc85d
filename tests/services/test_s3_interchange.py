"""Export to S3, import from S3, with everything on S3."""

import json
import sys

import numpy as np
import pytest

from jobs.cli import main
from pipeline import storage
from pipeline.analysis import open_run
from tests.conftest import REPOSITORY

sys.path.append(str(REPOSITORY / "tests/pipeline/questions"))
from tests.pipeline.analysis.stored_runs import COLUMNS, write_run


@pytest.fixture(scope="module")
def run(s3) -> tuple[str, str]:
    """(out, run_id) of a run on S3."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 30)
    noise = rng.random((30, len(COLUMNS))) < 0.6 * rng.random((30, 1))
    votes = np.where(noise, rng.integers(0, 4, noise.shape), truth[:, None])
    out = f"{s3}/interchange/out"
    return out, write_run(out, votes, truth.tolist(), errors=(4,))


def names(folder: str) -> list[str]:
    return [path.rsplit("/", 1)[-1] for path in storage.list_files(folder)]


def test_there_and_back_on_s3(run, s3, capsys):
    out, run_id = run
    to = f"{s3}/interchange/sent"
    export = ["export", run_id, "--out", out, "--to", to, "--patch", "2"]
    assert main([*export, "--votes", "parquet"]) == 0
    assert names(to) == [
        "images.csv",
        "images.parquet",
        "manifest.json",
        "summary.json",
        "votes.parquet",
    ]
    assert main(["import", f"{to}/votes*.parquet", "--out", out]) == 0
    imported = capsys.readouterr().out.splitlines()[-1].removeprefix("run_id=")
    tables = [
        open_run(out, name).table("votes").drop_columns("run_id") for name in (run_id, imported)
    ]
    assert tables[0].equals(tables[1])
    assert open_run(out, imported).manifest.execution.files[0]["path"] == f"{to}/votes.parquet"
    assert (
        main(["certify", "--run-id", imported, "--out", out, "--patch", "2", "--mlflow", "none"])
        == 0
    )

    # What is there is refused; replaced, nothing of it is left.
    assert main(export) == 2
    assert "it is there already" in capsys.readouterr().err
    assert main([*export, "--overwrite"]) == 0
    assert names(to) == ["images.csv", "images.parquet", "manifest.json", "summary.json"]
    headline = json.loads(storage.read_bytes(f"{to}/summary.json"))
    assert headline["patches"] == ["2x2"]
    storage.write_atomically(f"{to}/thesis.tex", b"years of work")
    assert main([*export, "--overwrite"]) == 2
    assert "thesis.tex" in capsys.readouterr().err
