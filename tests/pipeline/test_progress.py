"""What a log says of a job that is on its way."""

import io
import time

import pytest

from pipeline import progress
from pipeline.progress import CalmProgress, VotesProgress


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


@pytest.fixture
def hurried(monkeypatch):
    """Half a minute is over in a moment."""
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 0.01)
    monkeypatch.setattr(progress, "_CALM_SECONDS", 0.01)


def until(said, line: str) -> None:
    """Wait for a line."""
    so_far = ""
    for _ in range(2000):
        so_far += said()
        if line in so_far:
            return
        time.sleep(0.005)
    raise AssertionError(so_far)


def test_what_takes_long_says_now_and_then_how_far_it_is(hurried, clock, capsys):
    def said() -> str:
        return capsys.readouterr().err

    with CalmProgress("certifying", 100) as shown:
        until(said, "certifying: 0 of 100 images, 0 s so far\n")
        shown.done = 65
        clock[0] += 40
        until(said, "certifying: 65 of 100 images, 40 s so far\n")
    with CalmProgress("listing images"):
        until(said, "listing images: 0 s so far\n")


def test_nothing_is_said_of_what_is_over_at_once(capsys):
    with CalmProgress("certifying", 100) as shown:
        shown.done = 100
    with pytest.raises(KeyError), CalmProgress("listing images"):
        raise KeyError("a failure ends it too")
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_one_line_and_leaves_none(hurried, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_DRAWN_SECONDS", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    with CalmProgress("certifying", 100) as shown:
        shown.done = 3
        until(terminal.getvalue, "certifying: 3 of 100 images")
    assert terminal.getvalue().endswith("\x1b[2K")  # the line is wiped
