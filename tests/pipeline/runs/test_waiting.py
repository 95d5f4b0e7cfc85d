"""A log says what a command waits for."""

import re
import time

import pytest

from pipeline.runs import waiting as module
from pipeline.runs.progress import VotesProgress
from pipeline.runs.waiting import say_stages, waiting


def test_a_long_wait_is_said_and_a_short_one_is_not(capsys, monkeypatch):
    with waiting("something short"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(module, "_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(module, "_NEXT_SECONDS", 0.01)
    said = ""
    with waiting("listing images") as say:
        while not said:
            time.sleep(0.01)
            said = capsys.readouterr().err
        assert said.startswith("listing images ...\n")
        say("listing: 7 files")
        while "7 files" not in said:
            time.sleep(0.01)
            said = capsys.readouterr().err
    time.sleep(0.05)
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


@pytest.fixture
def verbose():
    """Stages are said in this process while a test lasts."""
    say_stages()
    yield
    module._say_stages.clear()


def test_with_verbose_each_stage_says_how_long_it_took(capsys, verbose):
    started = time.monotonic()
    with waiting("listing images"):
        time.sleep(0.06)
    with VotesProgress(total=4, done=0, actors=1) as progress:
        progress.add(images=2, errors=0, seconds=0.0)
        progress.add(images=2, errors=0, seconds=0.0)
    said = re.findall(r"stage: (.*) took (\d+\.\d) s, at (\d+\.\d) s", capsys.readouterr().err)
    assert [what for what, *_ in said] == [
        "listing images",
        "starting actors",
        "the first unit's votes",
    ]
    assert float(said[0][1]) > 0
    # The clock is this process's own, which began before this test.
    assert float(said[0][2]) >= time.monotonic() - started


def test_without_verbose_no_stage_is_said(capsys):
    with waiting("listing images"):
        pass
    assert "stage" not in capsys.readouterr().err
