"""`patchcert sweep` and `register` as a user meets them, on the tiny network."""

import json
import subprocess
import sys

import mlflow
import pytest

import jobs.sweep
from jobs.cli import main
from models.errors import JobError
from pipeline.tracking import quiet_client
from tests.conftest import TINY
from tests.in_process import stages_here
from tests.jobs.test_cli import flags

STRIDES = ["--stride", "16", "32", "80", "--patch", "8", "--experiment", "a study"]


@pytest.fixture(scope="module")
def swept(shards, tiny_weights, tmp_path_factory):
    """Results of a sweep over three strides, of which one votes."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    with pytest.MonkeyPatch.context() as patch:
        stages_here(patch)
        assert main(["sweep", *flags(shards, tiny_weights, out, *STRIDES)]) == 0
    return out


def study(out):
    client = quiet_client(f"sqlite:///{out}/mlflow.db")
    experiment = client.get_experiment_by_name("a study").experiment_id
    return client, {run.info.run_name: run for run in client.search_runs([experiment])}


def own() -> str:
    return f"{TINY} column b24 s16 drop float32"


def test_help_and_mistakes_import_nothing_heavy():
    for arguments, code in ((["sweep", "--help"], 0), (["sweep", "--size", "1"], 2)):
        source = (
            "import sys\nfrom jobs.cli import main\n"
            f"code = main({arguments!r})\n"
            "assert not {'torch', 'ray', 'mlflow', 'pandas'} & set(sys.modules)\nsys.exit(code)"
        )
        done = subprocess.run([sys.executable, "-c", source], capture_output=True, check=False)
        assert done.returncode == code, done.stderr


def test_nested_runs_and_one_pass(swept):
    assert len(list((swept / "votes").iterdir())) == 1
    client, runs = study(swept)
    parent = runs.pop("sweep over " + runs[own()].inputs.dataset_inputs[0].dataset.name)
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert set(runs) == {own(), *(own().replace("16", s) + " (from s16)" for s in ("32", "80"))}
    mlflow.set_tracking_uri(f"sqlite:///{swept}/mlflow.db")
    table = client.load_table(parent.info.experiment_id, "sweep.json", [parent.info.run_id])
    assert list(table["stride"]) == [16, 32, 80]
    assert list(table["views"]) == [10, 5, 2]


def test_a_second_sweep_computes_nothing_and_doubles_nothing(
    swept, shards, tiny_weights, capsys, monkeypatch
):
    def refuse(*_, **__):
        raise AssertionError("there is nothing to compute")

    _, before = study(swept)
    monkeypatch.setattr("pipeline.cluster.connect.ray_cluster", refuse)
    monkeypatch.setattr("pipeline.voting.plan.finish_run", refuse)
    assert main(["sweep", *flags(shards, tiny_weights, swept, *STRIDES, "--json")]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["stride"], row["votes of"]) for row in rows] == [
        (16, None),
        (32, "stride 16"),
        (80, "stride 16"),
    ]
    assert len({row["run_id"] for row in rows}) == 1
    _, after = study(swept)
    assert {name: run.data.metrics for name, run in after.items()} == {
        name: run.data.metrics for name, run in before.items()
    }


def test_a_dry_run_says_what_is_missing_and_writes_nothing(swept, shards, tiny_weights, capsys):
    files = sorted(swept.rglob("*"))
    more = [*STRIDES, "--size", "24", "32", "--dry-run"]
    assert main(["sweep", *flags(shards, tiny_weights, swept, *more)]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 7
    assert "all 23 images are there" in lines[0]
    assert "no pass of its own" in lines[1]
    assert f"{23 * 11} sequences to compute, 0 of 23" in lines[3]
    assert sorted(swept.rglob("*")) == files


def test_one_that_fails_does_not_stop_the_others(
    shards, tiny_weights, tmp_path, capsys, monkeypatch
):
    stages_here(monkeypatch)
    count = jobs.sweep.checked_votes

    def fail_at_24(config, *rest):
        if config.size == 24:
            raise JobError("no luck")
        return count(config, *rest)

    monkeypatch.setattr(jobs.sweep, "checked_votes", fail_at_24)
    more = ["--size", "24", "48", "--stride", "40", "80", "--patch", "8", "--experiment", "a study"]
    assert main(["sweep", *flags(shards, tiny_weights, tmp_path / "out", *more, "--json")]) == 1
    captured = capsys.readouterr()
    assert "no luck" in captured.err
    rows = json.loads(captured.out)
    assert [row["failure"] is None for row in rows] == [False, False, True, True]
    assert rows[1]["failure"].startswith(f"run {rows[0]['run_id']}, whose votes")
    _, runs = study(tmp_path / "out")
    (parent,) = (run for name, run in runs.items() if name.startswith("sweep"))
    assert parent.info.status == "FAILED"


def test_a_failure_without_words_is_one(shards, tiny_weights, tmp_path, capsys, monkeypatch):
    """As timeouts of S3 are."""
    stages_here(monkeypatch)

    def stall(*_):
        raise TimeoutError

    monkeypatch.setattr(jobs.sweep, "checked_votes", stall)
    more = ["--size", "24", "48", "--patch", "8", "--mlflow", "none"]
    assert main(["sweep", *flags(shards, tiny_weights, tmp_path / "out", *more, "--json")]) == 1
    assert {row["failure"] for row in json.loads(capsys.readouterr().out)} == {"TimeoutError"}
    monkeypatch.setattr("jobs.votes.require_stores", stall)
    assert main(["votes", *flags(shards, tiny_weights, tmp_path / "out")]) == 1
    assert "patchcert: TimeoutError" in capsys.readouterr().err


def test_what_cannot_be_swept_is_refused_before_anything(shards, tiny_weights, tmp_path, capsys):
    for more, said in (
        (["--size", "24", "500"], "500"),
        (["--patch", "900"], "900"),
    ):
        assert main(["sweep", *flags(shards, tiny_weights, tmp_path / "out", *more)]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out" / "votes").exists()


def test_register_enters_the_weights_once(swept, tiny_weights, tmp_path, capsys):
    for said in ("registered", "there already"):
        assert main(["register", "--name", "tiny", "--out", str(swept)]) == 0
        assert f"models:/tiny/1: {said}" in capsys.readouterr().out
    client, runs = study(swept)
    version = client.get_model_version("tiny", "1")
    assert version.run_id == runs[own()].info.run_id
    assert float(version.tags["certified_at.exact_8x8"]) == pytest.approx(
        runs[own()].data.metrics["certified_at/exact_8x8"], abs=1e-5
    )
    assert "| certified 8x8 px, 0.2 %, exact, stride 80 |" in version.description
    # An address of a registered model is looked up at MLflow's own, process-wide server.
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{swept}/mlflow.db")
    try:
        folder = mlflow.artifacts.download_artifacts("models:/tiny/1", dst_path=str(tmp_path))
    finally:
        mlflow.set_tracking_uri(before)
    (file,) = (tmp_path / folder).rglob("*.safetensors")
    assert file.read_bytes() == tiny_weights.read_bytes()


def test_register_refuses_other_weights_and_names(swept, tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"other")
    given = ["register", "--name", "tiny", "--out", str(swept)]
    assert main([*given, "--weights", str(other)]) == 2
    assert "not those that voted" in capsys.readouterr().err
    assert main([*given, "--experiment", "another"]) == 2
    assert "is not in experiment another" in capsys.readouterr().err
    assert main(["register", "--name", "a/b", "--out", str(swept)]) == 2


def test_families_of_masks_are_swept(shards, tiny_weights, tmp_path, capsys, monkeypatch):
    stages_here(monkeypatch)
    out = tmp_path / "out"
    more = ["--views", "mask-pair", "--covers", "24", "40", "--masks", "1", "2"]
    more += ["--mlflow", "none", "--json"]
    assert main(["sweep", *flags(shards, tiny_weights, out, *more)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["covers"], row["masks"], row["views"]) for row in rows] == [
        ("24x24", 1, 1),
        ("24x24", 4, 10),
        ("40x40", 1, 1),
        ("40x40", 4, 10),
    ]
    assert len({row["run_id"] for row in rows}) == 4
    for row in rows:
        assert (row["failure"], row["smoothed"], row["stride"]) == (None, None, None)
        claims = {f"{rule} {row['covers']}" for rule in ("two-location", "one-location")}
        assert set(row["certified"]) == set(row["clean"]) == claims
        assert all(row["certified"][claim] <= row["clean"][claim] for claim in claims)
    assert main(["sweep", *flags(shards, tiny_weights, out, *more[:-1])]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "covers masks views" in said
    assert "24x24 4 10" in said


def test_bands_and_masks_are_swept_side_by_side(shards, tiny_weights, tmp_path, capsys):
    """Each with the options of its own; a dry run says that no point is there twice."""
    more = ["--views", "column", "mask-pair", "--size", "24", "--stride", "16", "80"]
    more += ["--covers", "24", "--masks", "1", "2", "--rule", "two-location", "--patch", "24"]
    asked = flags(shards, tiny_weights, tmp_path / "out", *more, "--dry-run")
    assert main(["sweep", *asked]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 5
    assert [" column " in line for line in lines[:4]] == [True, True, False, False]
