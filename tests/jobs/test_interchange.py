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
OF_DUMPS = [command for command in COMMANDS if "theirs/pc/" in command.text]
SNIPPET, OF_DUMP = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


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


def run_snippet(snippet: str = SNIPPET) -> None:
    exec(compile(snippet, str(DOCUMENT), "exec"), {})


def test_the_documented_snippet_and_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    votes, labels = released_batches(tmp_path)
    run_snippet()
    rng = np.random.default_rng(1)
    small = rng.integers(0, 10, (20, 32))
    np.savez("votes.npz", votes=small, labels=rng.integers(0, 10, 20))
    commands = [command for command in COMMANDS if command not in OF_DUMPS]
    assert len(commands) == 4
    for command in commands:
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


def dumped(folder, *, as_dictionaries: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Files as PatchCleanser's ``pc_certification.py`` keeps them, of 12 images and 36 masks.

    Returns:
        The labels of all pairs of masks, (12, 36, 36), symmetric; right classes; plain predictions.
    """
    joblib = pytest.importorskip("joblib")
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 1000, 12)
    upper = np.triu(np.broadcast_to(labels[:, None, None], (12, 36, 36))).copy()
    # The first three images agree throughout; the others have ever more labels of another class.
    for image in range(3, 12):
        masks = rng.integers(0, 36, (image - 2, 2))
        upper[image, masks.min(axis=1), masks.max(axis=1)] = (labels[image] + 1) % 1000
    # The last one: all views that hide mask 5 say another class, so that double masking answers it.
    upper[11, 5, 5:], upper[11, :6, 5] = 3, 3
    maps: object = upper
    if as_dictionaries:
        rows, columns = np.triu_indices(36)
        # Whichever mask is named first, and in any order.
        maps = [
            {(int(j), int(i)): one[i, j] for i, j in zip(rows[::-1], columns[::-1], strict=True)}
            for one in upper
        ]
    of = "imagenet_vit_base_patch16_224_cutout2_128"
    name = f"prediction_map_list_two_mask_{of}_m(64, 64)_s(33, 33)_50000.z"
    joblib.dump(maps, folder / name)
    joblib.dump(labels, folder / f"label_list_{of}_50000.z")
    plain = np.where(np.arange(12) % 4, labels, 7)
    joblib.dump(plain, folder / f"orig_prediction_list_{of}_50000.z")
    return upper + np.triu(upper, 1).transpose(0, 2, 1), labels, plain


def published(labels_mm: np.ndarray) -> int:
    """The answer of double masking, from its description, one image at a time."""
    alone = np.diag(labels_mm)
    classes, counts = np.unique(alone, return_counts=True)
    majority = classes[counts.argmax()]
    for mask in np.flatnonzero(alone != majority):
        if (labels_mm[mask] == alone[mask]).all():
            return int(alone[mask])
    return int(majority)


@pytest.mark.parametrize("as_dictionaries", [False, True])
def test_dumps_of_patchcleanser_are_imported_and_every_report_answers(
    as_dictionaries, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    maps, labels, plain = dumped(tmp_path, as_dictionaries=as_dictionaries)
    run_snippet(OF_DUMP)
    assert len(OF_DUMPS) == 3
    for command in OF_DUMPS:
        tokens = [*command.tokens, *(["--mlflow", "none"] if "certify" in command.tokens else [])]
        assert main(tokens) == 0, f"{command.text}: {capsys.readouterr().err}"
    theirs = open_run("theirs/pc/")
    assert theirs.manifest.defense.voting.early_exit is False
    assert theirs.table("votes")["plain_prediction"].to_pylist() == plain.tolist()
    found = theirs.table("certificates").to_pylist()
    certified = (maps == maps[:, :1, :1]).all(axis=(1, 2))
    assert certified.tolist() == [True] * 3 + [False] * 9
    for rule in ("double-masking", "two-location"):
        rows = [row for row in found if row["rule"] == rule]
        assert [row["certified"] for row in rows] == certified.tolist()
        assumes = None if rule == "double-masking" else "32x32"
        assert {row["assumes"] for row in rows} == {assumes}
    answers = [row["prediction"] for row in found if row["rule"] == "double-masking"]
    assert (answers[-1], labels[-1]) == (3, 728)
    assert answers == [published(one) for one in maps]
    alone = np.diagonal(maps, axis1=1, axis2=2)
    silent = (alone == alone[:, :1]).all(axis=1)
    detected = [row for row in found if row["rule"] == "one-location"]
    assert [row["certified"] for row in detected] == silent.tolist()
    assert [row["prediction"] is not None for row in detected] == silent.tolist()


def test_votes_of_another_number_of_masks_are_refused_with_the_number_that_fits(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    np.savez("v.npz", votes=np.zeros((2, 136), int), labels=[0, 1])
    flags = ["--views", "mask-pair", "--covers", "32", "--image-size", "224"]
    assert main(["import", "v.npz", *flags, "--num-classes", "3"]) == 2
    said = capsys.readouterr().err
    assert "136 votes an image" in said
    assert "are 666; 136 would be --covers 32x32 --masks 4" in said
    assert main(["import", "v.npz", *flags, "--num-classes", "3", "--masks", "4"]) == 0


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
    assert "plain unknown" in text
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
