"""The published certificate, to hold others against; it is not sound for every stride.

Kept out of the registry of rules, so that no command certifies by it.
"""

import math

import numpy as np

from models.views.ablations import Ablation
from models.views.family import IntArray, Patch
from pipeline.certificates.batch import vote_batches
from pipeline.certificates.votes import VoteArray


def published_delta(ablation: Ablation, patch: Patch) -> int:
    """The number of touched ablations by the published formula.

    ceil((m + b - 1) / s) along each axis in which the ablation is bounded, for a patch of side m,
    a band or block of size b and a stride s. Where s does not divide the length, the last offset
    and the first, which follow each other on the circle, are closer than s, and a patch near them
    can touch one more (``Ablation.max_touched``).

    Args:
        ablation: Bands or blocks at every stride.
        patch: Height and width of the patch.

    Raises:
        ValueError: The positions are random, so there is no stride, or the patch does not fit.

    Source: Salman et al., "Certified Patch Robustness via Smoothed Vision Transformers", 2022,
        section 2, after Levine & Feizi 2020, where the stride is 1.
    """
    ablation.check_patch(patch)
    if ablation.random is not None:
        raise ValueError("random positions have no stride, which the published formula needs")
    lengths = [m for m, varies in zip(patch, ablation.varies, strict=True) if varies]
    return math.prod(math.ceil((m + ablation.size - 1) / ablation.stride) for m in lengths)


def published_margins(
    votes: VoteArray, ablation: Ablation, patch: Patch, num_classes: int
) -> IntArray:
    """Margin of each image by the published rule; int64 (N,), "certified" iff >= 0.

    n_1 - n_2 - 2 Delta - 1 with n_1 and n_2 the most and second most votes: the lead must exceed
    2 Delta strictly, whichever class wins ties.

    No guarantee: Delta may be too small, and then a margin >= 0 proves nothing.

    Args:
        votes: Class that each ablation voted for, integers (N, V), or sets of them, (N, V, T).
        ablation: The views that voted.
        patch: Height and width of the patch.
        num_classes: Number of classes.

    Raises:
        ValueError: As ``published_delta``, or the votes are not this ablation's.
    """
    delta = published_delta(ablation, patch)
    margins_n = np.empty(len(votes), np.int64)
    for images, batch in vote_batches(votes, ablation, num_classes):
        counts_nk = batch.ranked.counts_nk
        margins_n[images] = counts_nk[:, 0] - counts_nk[:, 1] - 2 * delta - 1
    return margins_n
