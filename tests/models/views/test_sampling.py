"""Positions from SHA-256: the published texts, in any language, and what uniform draws must do."""

import hashlib
import subprocess
import sys
from itertools import pairwise
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from models.views.sampling import draw_positions, random_offsets

# printf %s TEXT | sha256sum
PUBLISHED = {
    "0/0/0": "54b54709d08c38144e4fc66bf50820d85c75c8bf90efabb0b991d267e3bcf228",
    "0/0/1": "6b147c773f03ef179dc894d4e379aa5f5e8feca277c9c62b833e53b795932431",
    "5/val/n01.JPEG/0": "30c5e0c1007e9c4c7b3f8f54ce00c5c07e5eb33f449295d30684f1b57006db67",
}


def test_the_texts_and_digests_are_the_published_ones():
    assert random_offsets(0, 1, 1, 2).tolist() == [[0, 0]]  # 54... is below 6b...
    for count in (10, 50_176):
        expected = int(PUBLISHED["5/val/n01.JPEG/0"], 16) % count
        assert draw_positions("val/n01.JPEG", 5, 1, count).tolist() == [expected]


def test_pinned_choices():
    """These never change: runs of other versions must be told from and continued by this one."""
    assert random_offsets(0, 4, 1, 12).tolist() == [[0, 2], [0, 4], [0, 8], [0, 10]]
    assert random_offsets(7, 5, 4, 6).tolist() == [[1, 3], [1, 4], [2, 2], [2, 5], [3, 2]]
    drawn = draw_positions("val/n01.JPEG", 5, 6, 50_176)
    assert drawn.tolist() == [27495, 24553, 32020, 15701, 2630, 9568]
    assert draw_positions("é 1", 0, 3, 10).tolist() == [2, 9, 4]


def test_chosen_offsets_have_the_smallest_digests():
    def digest(y, x):
        return hashlib.sha256(f"3/{y}/{x}".encode()).hexdigest()

    every = {(y, x) for y in range(13) for x in range(11)}
    for count in (1, 2, 40, 143):
        found = [tuple(offset) for offset in random_offsets(3, count, 13, 11).tolist()]
        assert found == sorted(set(found))
        assert len(found) == count
        left = [digest(*offset) for offset in every - set(found)]
        assert max(digest(*offset) for offset in found) < min(left, default="g")


def test_families_of_a_seed_are_nested_and_seeds_differ():
    families = [set(map(tuple, random_offsets(1, n, 9, 9).tolist())) for n in range(1, 30)]
    assert all(small < large for small, large in pairwise(families))
    assert random_offsets(1, 20, 9, 9).tolist() != random_offsets(2, 20, 9, 9).tolist()


def test_a_family_is_not_shared_by_reference():
    random_offsets(4, 3, 5, 5)[:] = -1
    assert (random_offsets(4, 3, 5, 5) >= 0).all()


def test_another_process_chooses_the_same():
    code = (
        "from models.views.sampling import *\n"
        "print(random_offsets(7, 5, 4, 6).tolist(), draw_positions('a', 1, 4, 99).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
        env={"PYTHONHASHSEED": "5"},
    )
    here = f"{random_offsets(7, 5, 4, 6).tolist()} {draw_positions('a', 1, 4, 99).tolist()}"
    assert done.stdout.strip() == here


def test_draws_are_uniform_and_independent_of_the_image_before():
    count, draws = 7, 70_000
    drawn = draw_positions("image", 0, draws, count)
    assert drawn.dtype == np.int64
    expected = draws / count
    chi_square = ((np.bincount(drawn, minlength=count) - expected) ** 2 / expected).sum()
    assert chi_square < 22.5  # 99.9 % of six degrees of freedom
    pairs = np.bincount(drawn[1:] * count + drawn[:-1], minlength=count**2)
    assert abs(pairs - draws / count**2).max() < 5 * sqrt(draws / count**2)


def test_draws_depend_on_image_and_seed_and_more_extend_fewer():
    first = draw_positions("a", 0, 50, 1000)
    assert draw_positions("a", 0, 20, 1000).tolist() == first[:20].tolist()
    for image_id, seed in (("b", 0), ("a", 1), ("a/0", 0), ("0/a", 0)):
        assert draw_positions(image_id, seed, 50, 1000).tolist() != first.tolist()


@pytest.mark.parametrize("arguments", [{"draws": 0}, {"count": 0}])
def test_impossible_draws_are_refused(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}=0.*at least 1"):
        draw_positions("a", 0, **({"draws": 1, "count": 1} | arguments))
