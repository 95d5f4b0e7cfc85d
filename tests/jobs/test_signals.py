"""Ctrl-c, evictions and ends of a queue's time: words and an exit code, no dump."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tests.conftest import REPOSITORY
from tests.jobs.test_cli import flags

# A command that never ends by itself.
_ENDLESS = """
import sys, time, jobs.systems
from jobs.cli import entry
def endless() -> int:
    print("here", flush=True)
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        {then}
jobs.systems.systems = endless
sys.argv[1:] = ["systems"]
entry()
"""
SIGNALS = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@contextmanager
def inherited(handler):
    """Start processes with ctrl-c heard or ignored: these tests may run in a background job."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def endless(then, handler):
    """A command at work; ``then`` is what it does when it is interrupted."""
    with inherited(handler):
        command = subprocess.Popen(
            [sys.executable, "-c", _ENDLESS.format(then=then)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
    assert command.stdout.readline() == "here\n"
    return command


@SIGNALS
@pytest.mark.parametrize("then", ["raise", "raise RuntimeError('closed')", "raise OSError('gone')"])
def test_a_signal_ends_a_command_in_words(number, code, then):
    command = endless(then, signal.default_int_handler)
    command.send_signal(number)
    _, said = command.communicate(timeout=60)
    assert command.returncode == code
    assert said == "patchcert: interrupted; run again to resume\n"


def test_a_job_in_the_background_of_a_shell_does_not_end_by_ctrl_c():
    command = endless("raise", signal.SIG_IGN)
    command.send_signal(signal.SIGINT)
    time.sleep(1)  # in which it would have ended
    assert command.poll() is None
    command.send_signal(signal.SIGTERM)
    assert command.wait(timeout=60) == 143


@pytest.mark.services
@SIGNALS
def test_no_committed_vote_is_lost(number, code, shards, tiny_weights, tmp_path):
    asked = flags(shards, tiny_weights, tmp_path, "--patch", "8", "--mlflow", "none")
    asked[asked.index("--unit-images") + 1] = "1"
    command = [sys.executable, "-m", "jobs", "run", *asked]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    how = {"text": True, "cwd": REPOSITORY, "env": environment, "start_new_session": True}
    with inherited(signal.default_int_handler):
        job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **how)
    said = []
    for line in job.stderr:
        said.append(line)
        if line.startswith("votes: ") and line.endswith("starting\n"):
            while job.poll() is None and not list(tmp_path.glob("votes/*/unit-*.parquet")):
                time.sleep(0.01)
            os.killpg(job.pid, number)  # as a terminal, timeout and queues do
    assert (said[-1], job.wait(timeout=60)) == (
        "patchcert: interrupted; run again to resume\n",
        code,
    ), "".join(said)
    kept = len(list(tmp_path.glob("votes/*/unit-*.parquet")))
    assert 0 < kept < 23
    again = subprocess.run([*command, "--json"], capture_output=True, check=True, **how)
    assert f"voted on {23 - kept} of 23 images" in again.stderr
    assert json.loads(again.stdout)["images"] == 23
