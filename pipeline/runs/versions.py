"""Revisions of this program and of its dependencies, where they are known."""

import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def git_revision() -> str | None:
    """The commit of the checkout this runs from, ``-dirty`` where it is changed; else None."""
    root = Path(__file__).parents[2]
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    if not (root / ".git").exists() or not shutil.which("git"):
        return None
    answer = subprocess.run(git, capture_output=True, text=True, check=False)  # noqa: S603
    return answer.stdout.strip() if answer.returncode == 0 else None


def installed_version(distribution: str) -> str | None:
    """Its version; None where it is not installed, as a copy of the code alone on a cluster."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def program_version() -> str:
    """This program's version, for people to read."""
    return installed_version("patchcert") or "unknown: not installed"
