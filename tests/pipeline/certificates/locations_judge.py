"""The judge of margins by location: locations as pixel masks, every rewriting of the touched."""

from itertools import product
from types import ModuleType

import numpy as np

from models.views.ablations import Ablation
from models.views.family import Patch
from tests.pipeline.certificates.bruteforce import (
    Geometry,
    class_counts,
    outcomes,
    patch_masks,
    predictions,
    view_masks,
)
from tests.pipeline.certificates.cases import some_sets, some_votes

GEOMETRIES = (
    Geometry("column", 2, 1, 3, 6, 2, 2),
    Geometry("column", 2, 4, 2, 7, 1, 3),  # a stride that does not divide the width
    Geometry("row", 3, 2, 7, 2, 2, 1),
    Geometry("block", 2, 2, 4, 5, 1, 2),
    Geometry("block", 2, 3, 5, 4, 2, 1),
    Geometry("block", 2, 1, 3, 4, 1, 2, random=5, seed=3),
    Geometry("column", 2, 1, 2, 7, 2, 1, random=4, seed=1),
    # One view, which some places do not touch.
    Geometry("column", 2, 1, 2, 6, 1, 2, random=1, seed=2),
    Geometry("block", 2, 1, 4, 5, 1, 1, random=1, seed=3),
)


def cases() -> list[tuple[Geometry, np.ndarray, int]]:
    """Geometries with votes and with vote sets, and the number of classes."""
    found = []
    for g, classes in product(GEOMETRIES, (2, 4)):
        views = len(view_masks(g))
        found.append((g, some_votes(views, classes, 50, seed=classes), classes))
        found.append((g, some_sets(views, classes, 2, 12, seed=classes), classes))
    return found


CASES = cases()


def judge(locations: ModuleType, witness: ModuleType) -> None:
    """Hold everything the modules say against pixels and reassignments.

    Raises:
        AssertionError: One says something wrong.
    """
    for g, votes, classes in CASES:
        ablation, patch = Ablation(**g.ablation), Patch(g.patch_height, g.patch_width)
        _judge_case(locations, witness, g, (votes, ablation, patch, classes))


def _judge_case(locations: ModuleType, witness: ModuleType, g: Geometry, arguments: tuple) -> None:
    votes, ablation, patch, classes = arguments
    ((images, found),) = locations.location_margins(*arguments)
    assert images == slice(0, len(votes))
    predicted = predictions(votes, classes)
    np.testing.assert_array_equal(found.predictions_n, predicted)
    counts = class_counts(votes, classes)
    views, most = view_masks(g), votes.shape[2] if votes.ndim == 3 else None
    sizes = locations.touched_counts(ablation, patch)
    breaking, anywhere = np.zeros(sizes.shape, int), np.zeros(len(votes), bool)
    shape = (g.height - g.patch_height + 1, g.width - g.patch_width + 1)
    places = list(product(range(shape[0]), range(shape[1])))
    for (y, x), mask in zip(places, patch_masks(g), strict=True):
        touched = (views & mask).any(axis=(1, 2))
        # Ablations that cannot tell rows (columns) apart have one location for all of them.
        cell = (0 if g.kind == "column" else y, 0 if g.kind == "row" else x)
        at = np.tile([y, x], (len(votes), 1))
        np.testing.assert_array_equal(
            witness.touched_at(ablation, patch, at), np.tile(touched, (len(votes), 1))
        )
        assert sizes[cell] == touched.sum()
        outside = class_counts(votes[:, ~touched], classes)
        after = outside[:, None, :] + outcomes(int(touched.sum()), classes, most)[None]
        changed = (after.argmax(axis=2) != predicted[:, None]).any(axis=1)
        margins, rivals = found.margins_nyx[:, *cell], found.rivals_nyx[:, *cell]
        np.testing.assert_array_equal(margins < 0, changed, err_msg=str(g))
        for image, c in enumerate(predicted):
            expected = [
                (int(outside[image, c] - outside[image, j] - touched.sum() - (j < c)), j)
                for j in range(classes)
                if j != c
            ]
            closest = [j for margin, j in expected if margin == min(expected)[0]]
            assert margins[image] == min(expected)[0]
            assert rivals[image] == min(closest, key=lambda j: (-counts[image, j], j))
        anywhere |= changed
        if cell == (y, x):
            breaking[cell] = changed.sum()
    counted = locations.breaking(*arguments)
    np.testing.assert_array_equal(counted.counts_yx, breaking)
    assert counted.images == len(votes)
    assert counted.anywhere == anywhere.sum()
    _judge_witnesses(witness, arguments, found)


def _judge_witnesses(witness: ModuleType, arguments: tuple, found: tuple) -> None:
    votes, ablation, patch, classes = arguments
    witnesses = witness.witnesses(*arguments)
    flat = found.margins_nyx.reshape(len(votes), -1)
    np.testing.assert_array_equal(witnesses.predictions_n, found.predictions_n)
    np.testing.assert_array_equal(witnesses.margins_n, flat.min(axis=1))
    place = witnesses.ys_n * found.margins_nyx.shape[2] + witnesses.xs_n
    np.testing.assert_array_equal(place, flat.argmin(axis=1))
    everyone = np.arange(len(votes))
    np.testing.assert_array_equal(
        witnesses.rivals_n, found.rivals_nyx[everyone, witnesses.ys_n, witnesses.xs_n]
    )
    at = np.stack([witnesses.ys_n, witnesses.xs_n], axis=1)
    before = votes.copy()
    after = witness.rewrite(votes, ablation, patch, witnesses.rivals_n, at)
    np.testing.assert_array_equal(votes, before)
    touched = witness.touched_at(ablation, patch, at)
    np.testing.assert_array_equal(after[~touched], votes[~touched])
    flips = witnesses.margins_n < 0
    np.testing.assert_array_equal(
        predictions(after, classes),
        np.where(flips, witnesses.rivals_n, witnesses.predictions_n),
    )
