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


def plurality_outside(batch: VoteBatch, untouched_sv: BoolArray) -> IntArray:
    """The class with most labels outside each set, the lowest one on ties; int64 (S, N)."""
    ranked, everyone = batch.ranked, np.arange(len(batch))
    winners_sn = np.zeros((len(untouched_sv), len(batch)), np.int64)
    most_sn = np.zeros(winners_sn.shape, np.float32)
    for rank in range(batch.ranks):
        classes_n = ranked.classes_nk[:, rank]
        images = everyone[ranked.counts_nk[:, rank] >= np.maximum(most_sn.min(axis=0), 1)]
        if not len(images):
            continue
        chosen_vn = batch.chosen(classes_n[images], images)
        counts_sn = sums_outside(untouched_sv, chosen_vn.astype(np.float32))
        most, winners = most_sn[:, images], winners_sn[:, images]
        wins = (counts_sn > most) | ((counts_sn == most) & (classes_n[images] < winners))
        winners_sn[:, images] = np.where(wins, classes_n[images], winners)
        most_sn[:, images] = np.where(wins, counts_sn, most)
    return winners_sn


def least_leads(
    batch: VoteBatch,
    untouched_sv: BoolArray,
    classes_n: IntArray,
    images: IntArray,
    least: Least,
) -> NDArray[np.int32]:
    """The least lead of a class over every other one: min over j of  r_y - r_j - [j < y].

    A set with a view outside it that was not asked (-1) has a lead of at most -1.

    Args:
        batch: The labels.
        untouched_sv: The views outside each set.
        classes_n: The class y of each image; int64 (N,).
        images: Numbers of the images in the batch; int64 (N,).
        least: From labels to r, or to the least r of several.

    Returns:
        The leads; (S, N).
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
    return leads_sn.astype(np.int32)
