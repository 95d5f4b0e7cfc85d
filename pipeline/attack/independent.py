"""Geometry and counting that share no code with the rules, which they are used to test.

The rules ask ``Ablation.touched``, arithmetic on arcs, for the views that a patch touches. Here the
answer comes from the masks that the model applies. An attack that asked the same arithmetic could
not find it wrong.

Shapes: R images, V views, T slots of a vote set with -1 in empty ones, C classes.
"""

from collections.abc import Sequence

import numpy as np

from models.views.family import BoolArray, IntArray, Patch, ViewFamily
from pipeline.certificates.votes import VoteArray


def shows_patch(views: ViewFamily, patch: Patch, y: int, x: int) -> BoolArray:
    """Tell for each view if it shows a pixel of the patch with upper left corner (y, x); (V,).

    Raises:
        ValueError: The patch is not wholly inside the image.
    """
    if not (0 <= y <= views.height - patch.height and 0 <= x <= views.width - patch.width):
        raise ValueError(
            f"patch {patch} at y = {y}, x = {x} leaves the {views.height}x{views.width} px image"
        )
    here = np.s_[y : y + patch.height, x : x + patch.width]
    return np.array([views.visible(view)[here].any() for view in range(len(views))])


def votes_for(votes: VoteArray, classes: Sequence[int] | None, num_classes: int) -> IntArray:
    """Count the votes for each class; int (C,). The prediction is the first of the largest.

    Args:
        votes: Votes (V,) or sets (V, T) of some views of one image.
        classes: Classes that can be voted for, the others get -1; None for all.
        num_classes: C.
    """
    counts_c = np.bincount(votes[votes >= 0].ravel(), minlength=num_classes).astype(np.int64)
    if classes is not None:
        barred = np.ones(num_classes, dtype=bool)
        barred[list(classes)] = False
        counts_c[barred] = -1
    return counts_c


def strengths(counts_c: IntArray, prediction: int) -> IntArray:
    """Return r_j + [j < c] for each rival j of the prediction c; int (C,).

    A rival wins as soon as its strength exceeds the votes of c, because ties go to the lower class.
    c itself and classes that cannot be voted for (-1) get -1.
    """
    strength_c = counts_c + (np.arange(len(counts_c)) < prediction)
    strength_c[counts_c < 0] = strength_c[prediction] = -1
    return strength_c


def changed_votes(before: VoteArray, after: VoteArray) -> BoolArray:
    """Tell for each view if its vote changed; bool (R, V).

    Args:
        before: Votes (R, V), or sets (R, V, T).
        after: Votes or sets of the same images, perhaps with another T.
    """
    if before.ndim == 2:
        return np.asarray(before != after)
    slots = max(before.shape[2], after.shape[2])
    one, other = (
        np.sort(
            np.pad(votes, ((0, 0), (0, 0), (0, slots - votes.shape[2])), constant_values=-1), axis=2
        )
        for votes in (before, after)
    )
    return np.asarray((one != other).any(axis=2))


def rewritten(votes: VoteArray, touched_v: BoolArray, rival: int) -> VoteArray:
    """Return one image's votes (V,) or sets (V, T) with every touched view voting for the rival."""
    after = votes.copy()
    if votes.ndim == 1:
        after[touched_v] = rival
    else:
        after[touched_v] = -1
        after[touched_v, 0] = rival
    return after
