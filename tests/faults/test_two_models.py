"""A cluster of two device models: refused by name, bound to one, or mixed and recorded."""

import json
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.services


def test_a_run_is_of_one_device_model_unless_they_are_mixed(tmp_path):
    """In a process of its own, since Ray reads the token of its cluster once."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.two_models", str(tmp_path)],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = json.loads(done.stdout.splitlines()[-1])
    cpu, cuda, pinned, mixed = (jobs[name] for name in ("cpu", "cuda", "pinned", "mixed"))
    # Processors are asked of every node, GPUs first of Ray.
    assert cpu["code"] == 2, cpu["said"]
    assert "Zen 3 " in cpu["said"]
    assert "Zen 4 " in cpu["said"]
    assert "--allow-mixed-devices" in cpu["said"]
    assert cuda["code"] == 2, cuda["said"]
    assert "1 x L4, 1 x T4" in cuda["said"]
    # One model is one that a worker was found for, though there is no GPU to vote on here.
    assert pinned["code"] == 2, pinned["said"]
    assert "no CUDA device is visible" in pinned["said"]
    assert mixed["code"] == 0, mixed["said"]
    assert sum(mixed["devices"].values()) == 24
    assert {device.rsplit(" ", 1)[0] for device in mixed["devices"]} <= {"Zen 3", "Zen 4"}
