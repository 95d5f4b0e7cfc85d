"""What a log says of a job that is on its way."""

import pytest

from pipeline.runs import progress
from pipeline.runs.progress import VotesProgress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when told."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then_with_rate_rest_busy_actors_and_errors(clock, capsys):
    with VotesProgress(100, 20, actors=2) as shown:
        clock[0] += 20  # ten to start, ten for the first unit
        shown.add(10, 0, seconds=10.0)
        # One of two actors worked all the time.
        assert shown.busy == pytest.approx(0.5)
        clock[0] += 5
        shown.add(10, 1, seconds=5.0)
        clock[0] += 15
        shown.add(60, 0, seconds=30.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "votes: 20 of 100 images done, starting",
        "votes: 30 of 100 images, 0.5 images/s, 140 s left, actors 50 % busy",
        "votes: 100 of 100 images, 2.0 images/s, 0 s left, actors 75 % busy, 1 with errors",
    ]


def test_what_earlier_jobs_did_does_not_count_towards_the_rate(clock, capsys):
    with VotesProgress(100, 90, actors=1) as shown:
        clock[0] += 10
        shown.add(10, 0, seconds=10.0)
    assert "1.0 images/s, 0 s left, actors 100 % busy" in capsys.readouterr().err
