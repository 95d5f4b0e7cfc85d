"""``patchcert export`` and ``import`` as a user meets them, and what docs/interchange.md shows."""

import json
import os
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from jobs.cli import main
from pipeline.analysis import open_run
from pipeline.interchange.formats import NPZ_ARRAYS, PARQUET_COLUMNS
from pipeline.runs.manifest import AS_GIVEN
from tests.conftest import REPOSITORY
from tests.documentation.commands import documented

DOCUMENT = REPOSITORY / "docs/interchange.md"
COMMANDS = [command for command in documented() if "--out theirs/" in command.text]
SNIPPET = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[1]


def released_batches(folder, *, missing: tuple[int, ...] = (), mode: str = "col"):
    """Files as smoothed-vit's ``certify`` saves them: 12 batches of 4 images, the last of 3.

    Returns:
        Their votes, (47, 23), and labels, (47,).
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 1000, 47)
    noise = rng.random((47, 23)) < 0.7 * rng.random((47, 1))
    votes = np.where(noise, rng.integers(0, 1000, noise.shape), labels[:, None])
    for batch in set(range(12)) - set(missing):
        images = slice(4 * batch, 4 * batch + 4)
        right = votes[images] == labels[images, None]
        content = {
            "total_delta": float(len(labels[images])),
            "certified_delta": 1,
            "smooth_delta": 2,
            "ablation_delta": int(right.sum()),
            "delta_delta": 5,
            "s": 19,
            "m": 32,
            "mode": mode,
            "ablations": torch.from_numpy(votes[images]),
            "y": torch.from_numpy(labels[images]),
        }
        torch.save(content, folder / f"m32_s19_b{batch}.pth")
    # Beside them lie the sum of all, and files of another evaluation.
    torch.save({"acc": 0.5, "s": 19, "m": 32, "mode": mode}, folder / "m32_s19_summary.pth")
    torch.save({"mode": mode}, folder / "m23_s19_b0.pth")
    return votes, labels


def run_snippet() -> None:
    exec(compile(SNIPPET, str(DOCUMENT), "exec"), {})


def test_the_documented_snippet_and_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    votes, labels = released_batches(tmp_path)
    run_snippet()
    rng = np.random.default_rng(1)
    small = rng.integers(0, 10, (20, 32))
    np.savez("votes.npz", votes=small, labels=rng.integers(0, 10, 20))
    assert len(COMMANDS) == 4
    for command in COMMANDS:
        # MLflow's first start takes seconds.
        tokens = [*command.tokens, *(["--mlflow", "none"] if "certify" in command.tokens else [])]
        assert main(tokens) == 0, f"{command.text}: {capsys.readouterr().err}"
    capsys.readouterr()
    theirs = open_run("theirs/vit/")
    assert (theirs.votes.votes == votes).all()
    assert theirs.votes.labels.classes[:, 0].tolist() == labels.tolist()
    assert theirs.ablation.stride == 10
    assert len(theirs.ablation) == 23
    assert main(["audit", "--patch", "32", "--out", "theirs/vit/", "--json"]) == 0
    (audited,) = json.loads(capsys.readouterr().out)
    assert (audited["stride"], audited["images"]) == (10, 47)
    assert audited["run_id"] == theirs.run_id
    assert pq.read_table(audited["flips"]).num_rows >= audited["wrongly"]


def test_the_snippet_stops_at_what_is_not_one_evaluation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    released_batches(tmp_path, missing=(5,))
    with pytest.raises(SystemExit, match="batches are missing"):
        run_snippet()
    released_batches(tmp_path, mode="both")
    with pytest.raises(SystemExit, match="rows and columns voted together"):
        run_snippet()
    assert not (tmp_path / "smoothed_vit.npz").exists()


def test_the_document_names_every_array_and_column():
    text = DOCUMENT.read_text()
    for name in (*NPZ_ARRAYS, *PARQUET_COLUMNS):
        assert f"`{name}`" in text, name


def test_there_and_back(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.savez("v.npz", votes=rng.integers(0, 10, (20, 32)), labels=rng.integers(-1, 10, 20))
    meaning = ["--ablation", "column", "--size", "4", "--image-size", "32", "--num-classes", "10"]
    assert main(["import", "v.npz", *meaning]) == 0
    said = capsys.readouterr()
    assert said.err.splitlines() == ["votes of 20 images stored", AS_GIVEN]
    run_id = said.out.splitlines()[-1].removeprefix("run_id=")
    assert main(["import", "v.npz", *meaning]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("votes of 20 images were there already")
    assert said.out.endswith(f"run_id={run_id}\n")
    assert main(["certify", "--patch", "2", "--mlflow", "none"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert AS_GIVEN in text
    assert "plain │ unknown" in text
    assert main(["export", run_id[:5], "--to", "sent", "--votes", "parquet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"run_id={run_id}"
    assert [line.split()[0] for line in lines[:-1]] == [f"{name}:" for name in (
        "summary.json", "images.parquet", "images.csv", "manifest.json", "votes.parquet"
    )]  # fmt: skip
    assert all(os.path.exists(line.split()[1]) for line in lines[:-1])
    assert main(["import", "sent/votes.parquet", "--out", "again"]) == 0
    # Under the name that the export gave, it is the same run.
    assert capsys.readouterr().out.endswith(f"run_id={run_id}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["import"], "give one or more files of votes"),
        (["import", "no.npz"], "no.npz"),
        (["import", "v.npz"], "give --views, --size, --image-size, --num-classes"),
        (["export", "--to", "x"], "holds 0 runs"),
        (["export", "--to", "x", "--patch", "much"], "holds 0 runs"),
        (["attack", "--patch", "2"], "was imported"),
        (["register", "--name", "theirs"], "was imported: its votes came without weights"),
    ],
)
def test_mistakes_end_with_one_line(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("v.npz", votes=np.zeros((2, 8), int), labels=[0, 1])
    if said.startswith("was imported"):
        meaning = ["--ablation", "column", "--size", "2", "--image-size", "8"]
        assert main(["import", "v.npz", *meaning, "--num-classes", "3"]) == 0
        capsys.readouterr()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
