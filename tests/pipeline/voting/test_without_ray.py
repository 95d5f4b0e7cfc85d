"""``--no-ray``: the same runs, computed in the command's own process."""

import os
import signal
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pytest import fixture, mark, raises

import pipeline.voting.isolation
import pipeline.voting.vote
from jobs.cli import main
from pipeline.cluster.executor import IN_PROCESS
from pipeline.runs.store import VotesStore
from pipeline.voting.isolation import Deaths
from pipeline.voting.job import _stages
from tests.conftest import REPOSITORY
from tests.in_process import stages_here, votes_command

# A command that fails where anything imports Ray.
_WITHOUT_RAY = "import sys; sys.modules['ray'] = None; from jobs.cli import main; sys.exit(main())"


def table_of(out, run_id) -> pa.Table:
    files = sorted((out / "votes" / f"run_id={run_id}").glob("*.parquet"))
    return pa.concat_tables(pq.read_table(file, partitioning=None) for file in files)


def test_a_whole_job_needs_no_ray_and_makes_the_run_that_ray_makes(
    shards, tiny_weights, tmp_path, monkeypatch
):
    """The same id and the same rows; certified, reported and resumed by either."""
    job = votes_command(shards, tiny_weights, tmp_path / "alone")
    run = ["run", *job[1:], "--patch=20", "--unit-images=6", "--no-ray"]
    found = subprocess.run(
        [sys.executable, "-c", _WITHOUT_RAY, *run],
        cwd=REPOSITORY,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "voted on 23 of 23 images" in found.stderr
    run_id = found.stdout.strip().splitlines()[-1].removeprefix("run_id=")

    stages = stages_here(monkeypatch)
    job = votes_command(shards, tiny_weights, tmp_path / "ray")
    assert main([*job, "--unit-images=6"]) == 0
    assert stages.units == [0, 1, 2, 3]
    assert table_of(tmp_path / "alone", run_id).equals(table_of(tmp_path / "ray", run_id))


@mark.parametrize(
    ("address", "options", "message"),
    [
        ("head:6379", [], "--no-ray: RAY_ADDRESS=head:6379 names a cluster"),
        ("local", ["--actors=2"], "--no-ray: this process has one copy of the network"),
    ],
)
def test_what_only_ray_can_do_is_refused(
    shards, tiny_weights, tmp_path, monkeypatch, capsys, address, options, message
):
    monkeypatch.setenv("RAY_ADDRESS", address)
    job = votes_command(shards, tiny_weights, tmp_path)
    assert main([*job, "--no-ray", *options]) == 2
    assert message in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


class Receipts:
    """Stands for the commit of a run whose notes lie in ``out``: rows are their own receipt."""

    def __init__(self, out):
        self.store = VotesStore(str(out), "r0")

    def __call__(self, rows):
        return rows


@fixture
def commit(tmp_path):
    return Receipts(tmp_path)


def send(units, decode, vote, commit):
    """Send units through the stages in this process."""
    numbered = [pa.table({"unit": [number]}) for number in range(units)]
    makers = (lambda: decode), (lambda: vote)
    return _stages(IN_PROCESS)(numbered, *makers, commit, None, stall_seconds=60.0, verbose=False)


def test_a_unit_is_decoded_while_the_one_before_it_is_voted_on(commit):
    begun = [threading.Event() for _ in range(4)]

    def decode(rows):
        begun[rows["unit"][0].as_py()].set()
        return rows

    def vote(rows):
        following = rows["unit"][0].as_py() + 1
        assert following == 4 or begun[following].wait(30)
        assert following > 2 or not begun[following + 1].is_set(), "one unit ahead, not all"
        return rows

    done = [rows["unit"][0].as_py() for rows in send(4, decode, vote, commit)]
    assert done == [0, 1, 2, 3]


def test_an_image_that_hangs_does_not_keep_a_job_from_being_stopped(commit):
    """Nor the process from its end, which threads of a pool would."""
    begun, end = threading.Event(), threading.Event()

    def decode(rows):
        begun.set()
        end.wait(60)
        return rows

    def stop():
        begun.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop).start()
    start = time.monotonic()
    with raises(KeyboardInterrupt):
        list(send(1, decode, lambda rows: rows, commit))
    assert time.monotonic() - start < 30
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.endswith("(work)"))
    end.set()


def test_what_fails_at_work_fails_in_words(shards, tiny_weights, tmp_path, monkeypatch, capsys):
    """As Ray's errors do, and the other slices and points of a sweep go on."""
    job = votes_command(shards, tiny_weights, tmp_path)

    def leak(classifier, *, thorough=False):
        return "slot 3 computes other bits"

    monkeypatch.setattr(pipeline.voting.vote, "find_leak", leak)
    assert main([*job, "--no-ray"]) == 1
    said = capsys.readouterr().err
    assert "slot 3 computes other bits: a patch could reach views" in said
    assert "Traceback" not in said


@mark.parametrize("error", [MemoryError("malloc"), torch.OutOfMemoryError("CUDA out of memory")])
def test_no_memory_is_a_machine_s_bad_day(
    shards, tiny_weights, tmp_path, monkeypatch, capsys, error
):
    def full(*_):
        raise error

    monkeypatch.setattr(pipeline.voting.vote.SmoothedClassifier, "__call__", full)
    assert main([*votes_command(shards, tiny_weights, tmp_path), "--no-ray"]) == 1
    said = capsys.readouterr().err
    assert str(error) in said
    assert "Traceback" not in said


def test_the_third_process_that_meets_a_unit_takes_its_images_one_by_one(commit, monkeypatch):
    alone = []
    monkeypatch.setattr(
        pipeline.voting.isolation,
        "in_children",
        lambda make, handler, rows, patience: (
            alone.append((rows["unit"][0].as_py(), patience)) or handler(rows)
        ),
    )
    deaths = Deaths(commit.store, "vote")
    for _ in range(2):
        deaths.begin(1)
    assert len(list(send(3, lambda rows: rows, lambda rows: rows, commit))) == 3
    assert alone == [(1, 15.0)]
    assert deaths.begin(1) == 0, "the unit is done, and what died before is forgotten"
