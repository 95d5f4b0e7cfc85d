"""Positions chosen at random, reproducibly: in any numpy version, in any language.

Everything is read off SHA-256 of a short ASCII (UTF-8) text, a digest being a 256-bit big-endian
number. Two choices are made so:

- ``random_offsets``: the fixed public family of ``Ablation(random=N, seed=S)``, the same for every
  image. Nothing about a certificate over it is random: the classifier IS the vote of the family.
- ``draw_positions``: randomized smoothing, fresh draws with replacement for every image, about
  which only statements with a confidence can be made (pipeline/certificates/randomized.py).
"""

import hashlib
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


@lru_cache(maxsize=16)
def _chosen(seed: int, count: int, rows: int, columns: int) -> tuple[tuple[int, int], ...]:
    """``random_offsets`` as a tuple; cached, for a large grid takes a tenth of a second."""
    offsets = product(range(rows), range(columns))
    return tuple(sorted(sorted(offsets, key=lambda yx: _digest(f"{seed}/{yx[0]}/{yx[1]}"))[:count]))


def random_offsets(seed: int, count: int, rows: int, columns: int) -> NDArray[np.int64]:
    """The ``count`` offsets (y, x) of a rows x columns grid with the smallest digests.

    The digest of an offset is SHA-256 of "seed/y/x" in decimal; the chosen ones are listed
    row-major. The first N of a seed are among the first N + 1: families of one seed are nested.

    Args:
        seed: Number of the family.
        count: Offsets to choose, at most ``rows * columns``.
        rows: Vertical offsets 0 .. rows-1 to choose from.
        columns: Horizontal offsets 0 .. columns-1 to choose from.

    Returns:
        Distinct offsets; int64 (count, 2).
    """
    return np.array(_chosen(seed, count, rows, columns), np.int64).reshape(-1, 2)


def draw_positions(image_id: str, seed: int, draws: int, count: int) -> NDArray[np.int64]:
    """Positions drawn with replacement, uniformly, for one image; int64 (draws,).

    Draw k is SHA-256 of "seed/image_id/k", modulo ``count``. The seed and k hold no slash, so
    different (seed, image, k) never share a text; more draws extend fewer. Taking SHA-256 for a
    random function, draws are independent, and uniform up to the modulo bias: a position has
    floor or ceil of 2^256 / count digests, so its probability is within 2^-256 of 1 / count, and n
    draws are within n * count / 2^256 of uniform ones in total variation (below 2^-220 for a
    million draws out of 50,176).

    Args:
        image_id: Name of the image, fixed before any vote is seen.
        seed: Number of the sample.
        draws: Positions to draw.
        count: Positions to draw from, numbered 0 .. count-1.

    Raises:
        ValueError: No draws, or nothing to draw from.
    """
    for name, value in (("draws", draws), ("count", count)):
        if value < 1:
            raise ValueError(f"{name}={value}: randomized smoothing needs at least 1")
    digests = (_digest(f"{seed}/{image_id}/{k}") for k in range(draws))
    return np.array([int.from_bytes(digest, "big") % count for digest in digests], np.int64)
