"""A cluster of two device models: refused by name, bound to one, or mixed and recorded."""

import json

import pytest

from tests.faults.own_process import run_module

pytestmark = pytest.mark.services


def test_a_run_is_of_one_device_model_unless_they_are_mixed(tmp_path):
    printed = run_module("tests.faults.two_models", tmp_path, str(tmp_path))
    jobs = json.loads(printed.splitlines()[-1])
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
