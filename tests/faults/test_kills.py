"""A handful of kills and two images that kill; ``make chaos N=50`` kills more."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY, TINY_CLASSES, TINY_PX, png, random_images, write_shard
from tests.faults.chaos import SABOTAGE, VICTIMS
from tests.faults.own_process import run_module

pytestmark = pytest.mark.services

KILLS = 5
# What the saboteur looks for. Importing it would sabotage this process.
POISON, UNLUCKY = b"POISON", 13
REASON = "kills the process that handles it (SIGABRT)"


def test_whatever_is_killed_every_image_has_its_votes_once(tmp_path: Path):
    printed = run_module("tests.faults.chaos", tmp_path, str(KILLS))
    print(printed)
    *kills, total = printed.splitlines()
    found = re.fullmatch(r"(\d+) kills: (\d+) equal, (\d+) mid-run, (\d+) rows recomputed", total)
    assert found, total
    count, equal, mid_run, recomputed = map(int, found.groups())
    assert count == equal == len(kills) == KILLS
    assert mid_run >= 0.8 * KILLS
    assert recomputed > 0
    assert len({victim for kill in kills for victim in VICTIMS if f"killed {victim} " in kill}) > 2


def test_images_that_kill_become_rows_and_the_job_goes_on(tmp_path: Path, tiny_weights):
    """One kills the process that decodes it, one the actor that votes on it."""
    samples: dict[str, bytes] = {}
    pixels = random_images(24)
    for index, image in enumerate(pixels):
        samples[f"{index:03d}.png"] = png(image)
        samples[f"{index:03d}.cls"] = str(index % TINY_CLASSES).encode()
    (tmp_path / "calm").mkdir()
    write_shard(tmp_path / "calm" / "s.tar", samples)
    samples["005.png"] += POISON
    samples["014.png"] = png(np.full((TINY_PX, TINY_PX, 3), UNLUCKY, np.uint8))
    (tmp_path / "bad").mkdir()
    write_shard(tmp_path / "bad" / "s.tar", samples)

    def votes(data: str, *more: str) -> tuple[subprocess.CompletedProcess[str], list[dict]]:
        fixed = ["--unit-images", "4", "--actors", "1", "--threads", "1", "--microbatch", "16"]
        out = tmp_path / f"out-{data}"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "jobs", "votes", *fixed, *more),
                *("--data", str(tmp_path / data), "--weights", str(tiny_weights)),
                *("--out", str(out)),
            ],
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(SABOTAGE)},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        table = pq.read_table(out / "votes").drop_columns(["run_id"])
        return done, table.sort_by("image_id").to_pylist()

    calm, expected = votes("calm")
    assert calm.returncode == 0, calm.stderr
    done, rows = votes("bad")
    assert done.returncode == 1, done.stderr
    assert "2 of 24 images (8.3%) have an error" in done.stderr
    assert f"s/005: {REASON}; s/014: {REASON}" in done.stderr
    assert [row["error"] for row in rows if row["error"]] == [REASON, REASON]
    for index, (row, calm_row) in enumerate(zip(rows, expected, strict=True)):
        if index not in (5, 14):
            assert row == calm_row
    # Nobody dies again over what is stored.
    again, _ = votes("bad", "--max-error-rate", "0.1")
    assert again.returncode == 0, again.stderr
    assert "all 24 images were there already" in again.stderr
