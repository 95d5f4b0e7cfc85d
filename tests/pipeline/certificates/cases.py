"""What the rules are tried on: votes, vote sets and geometries, all small ones or a sample."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from tests.pipeline.certificates.bruteforce import Geometry, ballots


def some_votes(num_views: int, num_classes: int, limit: int, seed: int = 0) -> np.ndarray:
    """Every vote of the views where there are at most ``limit``, a random sample elsewhere.

    Each image of the sample has a favourite class and up to 60 % of other votes, scattered or in
    one run, for one rival or many, so that some are certified and some are not.
    """
    if num_classes**num_views <= limit:
        return np.array(list(product(range(num_classes), repeat=num_views)))
    rng = np.random.default_rng([seed, num_views, num_classes])
    each, every = (limit, 1), (limit, num_views)
    run = (np.arange(num_views) + rng.integers(num_views, size=each)) % num_views
    place = np.where(rng.random(each) < 0.5, run / num_views, rng.random(every))
    one_rival, many = rng.integers(num_classes, size=each), rng.integers(num_classes, size=every)
    rivals = np.where(rng.random(each) < 0.5, one_rival, many)
    favourite = rng.integers(num_classes, size=each)
    return np.where(place < 0.6 * rng.random(each), rivals, favourite)


def clustered_votes(num_views: int, num_classes: int, images: int, seed: int = 0) -> np.ndarray:
    """Votes in stretches, most for one class, so that each rival has a place of its own; (N, V)."""
    rng = np.random.default_rng([seed, num_views, num_classes])
    shape = (images, num_views)
    favourite = rng.integers(num_classes, size=(images, 1))
    votes = np.where(rng.random(shape) < 0.66, favourite, rng.integers(num_classes, size=shape))
    begins = rng.random(shape) < 0.5
    begins[:, 0] = True
    last = np.maximum.accumulate(np.where(begins, np.arange(num_views), 0), axis=1)
    return np.take_along_axis(votes, last, axis=1)


def some_sets(num_views: int, num_classes: int, most: int, limit: int, seed: int = 0) -> np.ndarray:
    """Vote sets of at most ``most`` classes, all or a sample as ``some_votes``; int (N, V, most).

    Each image of the sample has its own share of views that vote for nothing and of views that
    vote for more than one class. The first votes for nothing at all.
    """
    kinds = [ballot + (-1,) * (most - len(ballot)) for ballot in ballots(num_classes, most)]
    if len(kinds) ** num_views <= limit:
        return np.array(list(product(kinds, repeat=num_views))).reshape(-1, num_views, most)
    sets = np.full((limit, num_views, most), -1)
    rng = np.random.default_rng([seed, num_views, num_classes, most])
    votes = some_votes(num_views, num_classes, limit, seed)
    votes = votes[rng.integers(len(votes), size=limit)]
    silent, many = rng.random((2, limit, 1)) * [[[0.6]], [[1.0]]]
    for image, view in np.ndindex(limit, num_views):
        others = np.delete(np.arange(num_classes), votes[image, view])
        size = rng.integers(0, most) if rng.random() < many[image, 0] else 0
        ballot = [votes[image, view], *rng.permutation(others)[:size]]
        sets[image, view, : len(ballot)] = rng.permutation(ballot)
    sets[rng.random((limit, num_views)) < silent] = -1
    sets[0] = -1
    return sets


def line_geometries(
    lengths: range, kind: str = "column", thickest: int | None = None
) -> Iterator[Geometry]:
    """Every column (or row) geometry of these lengths, bands and patches up to ``thickest`` px."""
    for length in lengths:
        thick = range(1, min(length, thickest or length) + 1)
        for size, patch, stride in product(thick, thick, range(1, length + 1)):
            if kind == "column":
                yield Geometry(kind, size, stride, 1, length, 1, patch)
            else:
                yield Geometry(kind, size, stride, length, 1, patch, 1)


def block_geometries(longest: int) -> Iterator[Geometry]:
    """Every block geometry on images and with rectangles of 1 .. longest px along each axis."""
    for height, width in product(range(1, longest + 1), repeat=2):
        sides = range(1, min(height, width) + 1)
        for size, stride in product(sides, repeat=2):
            for patch in product(range(1, height + 1), range(1, width + 1)):
                yield Geometry("block", size, stride, height, width, *patch)


def random_families(longest: int, kinds: tuple[str, ...] = ("block",)) -> Iterator[Geometry]:
    """Random families on images of 2 .. longest px: of a few positions, of half and of all."""
    for kind, height, width in product(kinds, *[range(2, longest + 1)] * 2):
        limit = {"column": width, "row": height, "block": min(height, width)}[kind]
        every = {"column": width, "row": height, "block": height * width}[kind]
        for size, count in product((1, limit - 1), {1, 2, every // 2, every}):
            for patch in {(1, 1), (1, 2), (2, 1), (height - 1, width)}:
                seed = height + 7 * width
                yield Geometry(kind, size, 1, height, width, *patch, random=count, seed=seed)
