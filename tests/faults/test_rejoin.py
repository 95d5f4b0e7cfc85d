"""Between two passes nothing of the first keeps what the second needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.services
def test_what_a_pass_left_behind_gives_its_cpus_back(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.left_behind"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["before"] == 0
    assert told["after"] == 2
