"""A function applied by tasks of Ray: every result, on all CPUs, and nothing after an error."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from models.errors import JobError, StalledError
from pipeline.cluster import tasks
from pipeline.cluster.executor import LOCAL
from pipeline.config import ConfigError

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def meet(tmp_path):
    folder = str(tmp_path)

    def wait_for_another(number):
        """Wait until another process is at its item, too."""
        Path(folder, str(os.getpid())).touch()
        until = time.monotonic() + 60
        while len(os.listdir(folder)) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        return number, len(os.listdir(folder))

    return wait_for_another


def test_every_item_has_a_result_and_all_cpus_work(meet):
    assert sorted(LOCAL.map(meet, range(6))) == [(number, 2) for number in range(6)]
    assert list(LOCAL.map(meet, [])) == []


def test_results_do_not_lie_in_a_store_that_the_driver_may_leave():
    (found,) = LOCAL.map(np.zeros, [10**6])
    assert found.flags.writeable  # what lies in Ray's shared memory is not


@pytest.mark.parametrize(
    ("kind", "raised", "said"),
    [
        (ValueError, JobError, "ValueError: no good; do better"),
        (ConfigError, ConfigError, "no good;\ndo better"),
    ],
)
def test_an_error_ends_the_others_and_is_said_in_words(tmp_path, kind, raised, said):
    def fail(number):
        if number == 0:
            raise kind("no good;\ndo better")
        time.sleep(0.5)
        Path(tmp_path, str(number)).touch()

    with pytest.raises(raised) as caught:
        list(LOCAL.map(fail, range(40)))
    assert str(caught.value) == said
    time.sleep(2)
    assert len(os.listdir(tmp_path)) < 10


def test_tasks_that_do_not_end_are_given_up(meet, monkeypatch):
    monkeypatch.setattr(tasks, "_TASK_SECONDS", 0.3)
    with pytest.raises(StalledError, match="hangs"):
        list(LOCAL.map(time.sleep, [3600.0]))
    # What was given up does not keep a CPU.
    monkeypatch.undo()
    assert sorted(LOCAL.map(meet, range(2))) == [(0, 2), (1, 2)]
