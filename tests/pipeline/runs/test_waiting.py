"""A log says what a command waits for."""

import time

from pipeline.runs import waiting as module
from pipeline.runs.waiting import waiting


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
