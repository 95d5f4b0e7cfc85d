"""Leads of a class outside touched sets: the common arithmetic of one and of two locations.

Shape suffixes: N images, V views, S sets of touched views, K ranks of classes.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.views.family import BoolArray, IntArray
from pipeline.certificates.batch import VoteBatch

Counts = NDArray[np.float32]
"""Whole numbers below 2^24, which float32 holds exactly and multiplies fast."""

Least = Callable[[BoolArray, Counts], Counts]
"""From the views outside each set, (S, V), and numbers of views, (V, N), to a sum a set, (S, N)."""


def sums_outside(untouched_sv: BoolArray, numbers_vn: Counts) -> Counts:
    """The sum outside each set; (S, N)."""
    return untouched_sv.astype(np.float32) @ numbers_vn


def least_outside_two(untouched_sv: BoolArray, numbers_vn: Counts) -> Counts:
    """The least sum outside each set and another one, or itself; (S, N)."""
    weights_sv = untouched_sv.astype(np.float32)
    least_sn = np.full((len(untouched_sv), numbers_vn.shape[1]), np.inf, np.float32)
    for number, untouched_v in enumerate(untouched_sv):
        views = np.flatnonzero(untouched_v)
        # Both sets of a pair have its sum, so that each pair is summed once.
        sums_tn = weights_sv[number:, views] @ numbers_vn[views]
        np.minimum(least_sn[number:], sums_tn, out=least_sn[number:])
        np.minimum(least_sn[number], sums_tn.min(axis=0), out=least_sn[number])
    return least_sn


def least_leads(
    batch: VoteBatch,
    untouched_sv: BoolArray,
    classes_n: IntArray,
    images: IntArray,
    least: Least,
) -> tuple[NDArray[np.int32], Counts]:
    """The least lead of a class over every other one: min over j of  r_y - r_j - [j < y].

    A set with a view outside it that was not asked (-1) has a lead of at most -1.

    Args:
        batch: The labels.
        untouched_sv: The views outside each set.
        classes_n: The class y of each image; int64 (N,).
        images: Numbers of the images in the batch; int64 (N,).
        least: From labels to r, or to the least r of several.

    Returns:
        The leads, (S, N), and the least r_y, (S, N).
    """
    ranked = batch.ranked
    ours_vn = batch.chosen(classes_n, images).astype(np.float32)
    fewest_sn = least(untouched_sv, ours_vn)
    leads_sn = np.full(fewest_sn.shape, len(batch.views) + 1, np.float32)
    for rank in range(batch.ranks):
        rivals_n = ranked.classes_nk[images, rank]
        wins_ties_n = (rivals_n < classes_n).astype(np.float32)
        # Nowhere has a rival more labels than in all: one that cannot lower a lead is not summed.
        hopes_sn = fewest_sn - ranked.counts_nk[images, rank] - wins_ties_n
        some = np.flatnonzero(
            (rivals_n != classes_n)
            & (rank <= batch.rivals_n[images])
            & (hopes_sn < leads_sn).any(axis=0)
        )
        if len(some):
            theirs_vn = batch.chosen(rivals_n[some], images[some])
            lead_sn = least(untouched_sv, ours_vn[:, some] - theirs_vn) - wins_ties_n[some]
            leads_sn[:, some] = np.minimum(leads_sn[:, some], lead_sn)
    unknown_vn = batch.unknown(images)
    if unknown_vn is not None:
        missing_sn = sums_outside(untouched_sv, unknown_vn.astype(np.float32)) > 0
        leads_sn[missing_sn] = np.minimum(leads_sn[missing_sn], -1)
    return leads_sn.astype(np.int32), fewest_sn
