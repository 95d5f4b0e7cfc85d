"""The summary of several runs is that of one run over all of their images."""

import json
import shutil
import tarfile

import pytest

from jobs.cli import main
from pipeline.scoring.pool import pooled
from tests.in_process import stages_here
from tests.jobs import test_cli

# Summaries name and prove the run they are of.
_OWN = ("run_id", "sha256", "votes_sha256")
CLAIMS = ["--patch", "8", "16", "1", "--rule", "exact", "two-location", "one-location"]
SOURCE = ["--patch", "source:9", "8", "--rule", "exact"]


def flags(*arguments):
    """Those of the small runs; half of them may be images with an error."""
    return ["0.5" if flag == "0.1" else flag for flag in test_cli.flags(*arguments)]


def answer(arguments, capsys):
    """What a command says as JSON."""
    capsys.readouterr()
    assert main([*arguments, "--json", "--mlflow", "none"]) == 0
    return json.loads(capsys.readouterr().out)


def without_own(summary):
    return {name: value for name, value in summary.items() if name not in _OWN}


def close(one, other):
    """Equal but for the last digits of means, which are summed in another order."""
    if isinstance(one, float):
        return one == pytest.approx(other, rel=1e-12)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == other


@pytest.mark.parametrize(
    "asked",
    [
        [*CLAIMS, "--detect"],
        ["--views", "mask-pair", "--covers", "16", "--masks", "3", "--patch", "16"],
        SOURCE,
    ],
    ids=["bands", "early exit", "on the source"],
)
def test_slices_are_one_run_in_figures(shards, tiny_weights, tmp_path, capsys, monkeypatch, asked):
    stages_here(monkeypatch)
    data = f"{shards}/shard-{{000..001}}.tar"
    whole = answer(["run", *flags(data, tiny_weights, tmp_path / "whole", *asked)], capsys)
    cut = ["run", *flags(data, tiny_weights, tmp_path / "cut", *asked), "--slices", "2"]
    expected = answer([*cut, "--dry-run"], capsys)
    sliced = answer(cut, capsys)
    assert close(without_own(sliced), without_own(whole))
    ids = sliced["run_id"].split()
    assert ids == [part["run_id"] for part in expected]
    assert sum(part["images"] for part in expected) == sliced["images"]
    assert not any(part["done"] for part in expected)
    stored = {path.name for path in (tmp_path / "cut/votes").iterdir()}
    assert len(ids) == 2
    assert stored == {f"run_id={run_id}" for run_id in ids}
    # Again: nothing is voted on, and the answer is the same.
    monkeypatch.setattr("pipeline.voting.plan.finish_run", None)
    assert answer(cut, capsys) == sliced


def test_what_not_all_answered_is_left_out(shards, tiny_weights, tmp_path, capsys, monkeypatch):
    stages_here(monkeypatch)
    first, second = (
        answer(["run", *flags(shards / name, tiny_weights, tmp_path, "--patch", *patches)], capsys)
        for name, patches in (("shard-000.tar", ["8", "16"]), ("shard-001.tar", ["16"]))
    )
    entries = pooled([first, second])["certified_accuracy"]
    assert {entry["threat"] for entry in entries} == {"16x16"}
    of = [entry for run in (first, second) for entry in run["certified_accuracy"]]
    hits = sum(entry["hits"] for entry in of if entry["threat"] == "16x16")
    assert hits == sum(entry["hits"] for entry in entries)


def test_a_slice_that_fails_lets_the_others_end(
    shards, tiny_weights, tmp_path, capsys, monkeypatch
):
    stages_here(monkeypatch)
    for number, source in (("1", "000"), ("3", "001")):
        shutil.copyfile(shards / f"shard-{source}.tar", tmp_path / f"{number}.tar")
    (tmp_path / "2.tar").write_bytes(b"no tar")
    out = tmp_path / "out"
    cut = ["run", *flags(f"{tmp_path}/{{1..3}}.tar", tiny_weights, out, "--slices", "3")]
    cut += ["--mlflow", "none"]
    assert main(cut) == 1
    said = capsys.readouterr()
    assert "1 of 3 slices failed: 2;" in said.err
    assert f"{tmp_path}/2.tar" in said.err
    assert not said.out
    assert len(list((out / "votes").iterdir())) == 2
    with tarfile.open(tmp_path / "2.tar", "w") as whole, tarfile.open(tmp_path / "1.tar") as first:
        member = first.getmembers()[0]
        whole.addfile(member, first.extractfile(member))
    assert main(cut) == 0
    assert "24 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        ("shard-000.tar", ["--slices", "2"], "no number range"),
        ("shard-{000..001}.tar", ["--slices", "3"], "2 numbers"),
        ("shard-{000..001}.tar", ["--slices", "0"], "from 1 to 2"),
        ("shard-{000..001}.tar", ["--slices", "2", "--limit", "3"], "--limit"),
    ],
)
def test_refused(shards, tiny_weights, tmp_path, capsys, data, more, message):
    arguments = flags(f"{shards}/{data}", tiny_weights, tmp_path / "out", *more)
    assert main(["run", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
