"""Between two passes nothing of the first keeps what the second needs."""

import json

import pytest

from tests.faults.own_process import run_module


@pytest.mark.services
def test_what_a_pass_left_behind_gives_its_cpus_back(tmp_path):
    told = json.loads(run_module("tests.faults.left_behind", tmp_path).splitlines()[-1])
    assert told["before"] == 0
    assert told["after"] == 2
