"""A cluster of two device models: refused by name, or bound to one."""

import json

import pytest

from tests.faults.own_process import run_module

pytestmark = pytest.mark.services


def test_a_run_is_of_one_device_model(tmp_path):
    printed = run_module("tests.faults.two_models", tmp_path, str(tmp_path))
    jobs = json.loads(printed.splitlines()[-1])
    cpu, cuda, pinned = (jobs[name] for name in ("cpu", "cuda", "pinned"))
    # Processors are asked of every node, GPUs first of Ray.
    assert cpu["code"] == 2, cpu["said"]
    assert "Zen 3 " in cpu["said"]
    assert "Zen 4 " in cpu["said"]
    assert cuda["code"] == 2, cuda["said"]
    assert "1 x L4, 1 x T4" in cuda["said"]
    # One model is one that a worker was found for, though there is no GPU to vote on here.
    assert pinned["code"] == 2, pinned["said"]
    assert "no CUDA device is visible" in pinned["said"]
