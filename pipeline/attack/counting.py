"""Votes counted, compared and rewritten without the rules' code, which they are to judge.

Shapes: R images, V ablations, T slots of a vote set with -1 in empty ones, C classes.
"""

from collections.abc import Sequence

import numpy as np

from models.ablation import BoolArray, IntArray
from pipeline.certificates.votes import VoteArray


def votes_for(votes: VoteArray, classes: Sequence[int] | None, num_classes: int) -> IntArray:
    """Votes for each class; int (C,). The prediction is the first of the largest.

    Args:
        votes: Votes (V,) or sets (V, T) of some ablations of one image.
        classes: Those that can be voted for, the others get -1; None for all.
        num_classes: C.
    """
    counts_c = np.bincount(votes[votes >= 0].ravel(), minlength=num_classes).astype(np.int64)
    if classes is not None:
        barred = np.ones(num_classes, dtype=bool)
        barred[list(classes)] = False
        counts_c[barred] = -1
    return counts_c


def changed_votes(before: VoteArray, after: VoteArray) -> BoolArray:
    """Which ablations vote otherwise; bool (R, V).

    Args:
        before: Votes (R, V), or sets (R, V, T).
        after: Likewise, perhaps with another T.
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


def rewritten(votes: VoteArray, seen_v: BoolArray, rival: int) -> VoteArray:
    """One image's votes (V,) or sets (V, T) after the seen have voted for the rival alone."""
    after = votes.copy()
    if votes.ndim == 1:
        after[seen_v] = rival
    else:
        after[seen_v] = -1
        after[seen_v, 0] = rival
    return after
