"""Modules run in a process of their own, since Ray reads the token of its cluster once."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY


def run_module(module: str, home: Path, *arguments: str) -> str:
    """What ``python -m module`` prints, which must end well."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        # Nothing of other services: no cluster, no token, no S3.
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
