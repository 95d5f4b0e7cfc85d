"""Submitting again, at once, after deaths, with errors: the votes job without Ray under it.

Real deaths of real processes are in ``tests/faults``.
"""

import dataclasses
import json
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import pipeline.cluster.connect
import pipeline.runs.lease
import pipeline.sources.listing_cache
import pipeline.voting.dataset
from jobs.run import run
from jobs.votes import votes
from pipeline.cluster.errors import StalledError, WorkersDiedError
from pipeline.config import ClaimsConfig, ConfigError, OutputConfig, VotesConfig
from pipeline.runs.error_images import ErrorRateError
from pipeline.runs.lease import LeaseError, hold_lease
from pipeline.runs.resolve import resolve_defense
from pipeline.runs.store import VotesStore
from pipeline.voting.isolation import Deaths
from pipeline.voting.plan import count_votes
from tests.in_process import stages_here


@pytest.fixture(autouse=True)
def stages(monkeypatch):
    return stages_here(monkeypatch)


@pytest.fixture
def config(shards, tiny_weights):
    return VotesConfig(
        data=str(shards),
        weights=str(tiny_weights),
        microbatch=16,
        threads=1,
        unit_images=6,
        stride=80,
        max_error_rate=1.0,
    )


def vote(config, out):
    return count_votes(config, resolve_defense(config), OutputConfig(out=str(out)))


def rows_of(out):
    (folder,) = (Path(out) / "votes").glob("run_id=*")
    return pq.read_table(folder).sort_by("image_id")


def test_deaths_cost_passes_while_units_are_committed(config, stages, tmp_path):
    calm = vote(config, tmp_path / "calm")
    stages.units.clear()
    stages.dies_after = [1, 2]
    outcome = vote(config, tmp_path / "out")
    assert stages.units == [0, 1, 2, 3]
    assert outcome.voted == calm.voted == 23
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "calm")


def test_the_time_of_votes_is_that_of_all_or_not_known(config, stages, tmp_path):
    """A call that was killed could not write its own."""

    def seconds(out):
        (folder,) = (out / "votes").glob("run_id=*")
        return VotesStore(str(out), folder.name.removeprefix("run_id=")).manifest().execution

    stages.dies_after = [2]
    vote(config, tmp_path / "one")  # two passes of one call
    assert seconds(tmp_path / "one").voting_seconds is not None
    stages.dies_after = [2, 0]
    with pytest.raises(WorkersDiedError):
        vote(config, tmp_path / "two")
    vote(config, tmp_path / "two")
    assert seconds(tmp_path / "two").finished
    assert seconds(tmp_path / "two").voting_seconds is None


def test_a_stop_is_no_death_over_any_image(config, stages, tmp_path, monkeypatch):
    """Notes are again what processes left that died before."""
    stages.died = KeyboardInterrupt()
    store = []

    def begin(units, decode, vote, commit, share, **how):
        store.append(commit.store)
        for stage, unit in (("vote", 2), ("vote", 2), ("decode", 3)):
            Deaths(commit.store, stage).begin(unit)
        return stages(units, decode, vote, commit, share, **how)

    monkeypatch.setattr(pipeline.voting.dataset, "run_units", begin)
    for before in ({}, {("vote", 2): b"1"}):
        if before:
            Deaths(store[0], "vote").begin(2)
        stages.dies_after = [0]
        with pytest.raises(KeyboardInterrupt):
            vote(config, tmp_path)
        found = {store[0].note_path(unit, stage): text for (stage, unit), text in before.items()}
        assert store[0].notes() == found


def test_deaths_without_a_unit_in_between_end_the_job(config, stages, tmp_path):
    stages.dies_after = [1, 0, 0]
    with pytest.raises(WorkersDiedError, match="too often"):
        vote(config, tmp_path)
    assert stages.units == [0]
    assert not list((tmp_path / "leases").iterdir())
    stages.dies_after = []
    assert vote(config, tmp_path).voted == 17


def test_what_hangs_has_three_passes_to_be_isolated_in(config, stages, tmp_path):
    stages.died = StalledError("nothing came to an end")
    stages.dies_after = [1, 0, 0]
    assert vote(config, tmp_path / "out").voted == 23
    assert stages.passes == 4
    stages.dies_after = [1, 0, 0, 0]
    with pytest.raises(StalledError):
        vote(config, tmp_path / "again")


def test_a_run_that_another_job_is_at_is_refused_or_waited_for(
    config, stages, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(pipeline.runs.lease, "_POLL_SECONDS", 0.01)
    finished = vote(config, tmp_path)
    store = VotesStore(str(tmp_path), finished.run_id)
    first_unit = Path(store.folder, "unit-00000.parquet")
    bytes_of_first = first_unit.read_bytes()
    first_unit.unlink()
    stages.units.clear()
    with hold_lease(store.lease_path, "the other", wait=False):
        with pytest.raises(LeaseError, match=f"run_id={finished.run_id}: another job is at it"):
            vote(config, tmp_path)
        outcomes = []
        patient = dataclasses.replace(config, wait=True)
        waiter = threading.Thread(target=lambda: outcomes.append(vote(patient, tmp_path)))
        waiter.start()
        while "waiting for another job" not in capsys.readouterr().err:
            time.sleep(0.01)
        # The other job finishes while this one waits.
        first_unit.write_bytes(bytes_of_first)
    waiter.join()
    assert [outcome.voted for outcome in outcomes] == [0]
    assert stages.units == []


def test_a_finished_run_asks_nobody(config, tmp_path):
    finished = vote(config, tmp_path)
    store = VotesStore(str(tmp_path), finished.run_id)
    with hold_lease(store.lease_path, "the other", wait=False):
        assert vote(config, tmp_path).voted == 0


def test_what_killed_jobs_left_is_removed(config, tmp_path):
    finished = vote(config, tmp_path)
    folder = Path(VotesStore(str(tmp_path), finished.run_id).folder)
    whole = {path.name for path in folder.iterdir()}
    (folder / "unit-00002.parquet").unlink()
    left = (
        ".unit-00002.parquet.0123456789abcdef.tmp",
        "._manifest.json.0123456789abcdef.new",
        "..name.0123.new.4567.tmp",
        ".unit-00001.vote.begun",
    )
    for name in left:
        (folder / name).write_bytes(b"2")
    store = VotesStore(str(tmp_path), finished.run_id)
    assert store.committed() == {0, 1, 3}
    assert vote(config, tmp_path).voted == 6
    assert {path.name for path in folder.iterdir()} == whole


@pytest.mark.parametrize("overwrite", [False, True])
def test_errors_are_counted_over_the_whole_run(config, tmp_path, overwrite):
    """By a resume too, and by a call that finds all there."""
    first = vote(config, tmp_path)
    assert first.error_images.count == 2
    assert list(first.error_images.first) == ["shard-001/021", "shard-001/022"]
    folder = Path(VotesStore(str(tmp_path), first.run_id).folder)
    (folder / "unit-00000.parquet").unlink()
    again = vote(dataclasses.replace(config, overwrite=overwrite), tmp_path)
    assert again.error_images == vote(config, tmp_path).error_images == first.error_images
    body = json.loads((folder / "_manifest.json").read_text())
    assert body["execution"]["faulty"]["count"] == 2


@pytest.mark.parametrize("job", ["votes", "run"])
def test_too_many_errors_fail_the_job_after_everything_is_written(config, tmp_path, job, capsys):
    output = OutputConfig(out=str(tmp_path))

    def submit(rate):
        asked = dataclasses.replace(config, max_error_rate=rate)
        if job == "votes":
            return votes(what=asked, output=output)
        claims = ClaimsConfig(patch=(8,), mlflow="none")
        return run(what=asked, claims=claims, output=output)

    for _ in range(2):  # also when all is there already
        with pytest.raises(ErrorRateError) as caught:
            submit(0.08)
        message = str(caught.value)
        for part in ("2 of 23 images (8.7%)", "--max-error-rate 8.0%", "shard-001/021: not a JPEG"):
            assert part in message
        assert capsys.readouterr().out.strip().splitlines()[-1].startswith("run_id=")
    assert len(rows_of(tmp_path)) == 23
    assert list((tmp_path / "summary").glob("*.json")) if job == "run" else True
    assert submit(0.09) == 0


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_is_a_share(config, rate):
    with pytest.raises(ConfigError, match="--max-error-rate"):
        dataclasses.replace(config, max_error_rate=rate)


def test_a_resume_reads_no_shard_again(config, tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline.sources.listing_cache, "_TICK_SECONDS", -60.0)
    finished = vote(config, tmp_path)
    Path(VotesStore(str(tmp_path), finished.run_id).folder, "unit-00001.parquet").unlink()
    from pipeline.sources import listing

    monkeypatch.setattr(listing, "digest_of", lambda file: pytest.fail(f"{file.path} was read"))
    assert vote(config, tmp_path).voted == 6
