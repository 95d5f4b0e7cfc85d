"""The reason why an image is not certified: a place for the patch and a rival that wins from there.

Shape suffixes: N images, V ablations (views), T slots of a vote set, S distinct sets of touched
views.
"""

from typing import NamedTuple

import numpy as np

from models.views.ablations import Ablation
from models.views.family import BoolArray, IntArray, Patch
from pipeline.certificates.locations import margins_by_set
from pipeline.certificates.touched import Locations
from pipeline.certificates.votes import EMPTY, VoteArray


class Witnesses(NamedTuple):
    """The location and the rival by which each image comes closest to another prediction.

    Attributes:
        predictions_n: The rule's prediction; int64 (N,).
        rivals_n: The rival; int64 (N,).
        margins_n: The exact margin; int64 (N,). Negative: ``rewrite`` makes the rival win.
        ys_n: Upper edge of the patch, in pixels, the first of several; int64 (N,). 0 for column
            ablations, which cannot tell.
        xs_n: Left edge, in the same way; 0 for row ablations.
    """

    predictions_n: IntArray
    rivals_n: IntArray
    margins_n: IntArray
    ys_n: IntArray
    xs_n: IntArray


def witnesses(votes: VoteArray, ablation: Ablation, patch: Patch, num_classes: int) -> Witnesses:
    """Find location and rival of each image's smallest margin; arguments: ``location_margins``.

    Guarantee: where the margin is negative, ``rewrite`` turns the smoothed prediction into the
    rival by changing only votes of views that the patch touches there.

    Proof: with j the rival of the smallest r_c - r_j - |I| - [j < c] < 0 and all of I voting for j,
    j ends with r_j + |I|, and passes c. It passes every other k, too: r_k + [k < c] <=
    r_j + [j < c] as j is the closest rival, so r_k <= r_j + 1 <= r_j + |I|, with equality only if
    j < c < k, and then j wins the tie. |I| >= 1, for untouched votes predict c.

    Raises:
        ValueError: As ``location_margins``.
    """
    where = Locations.of(ablation, patch)
    # The first location of each set, and the sets in the order of these.
    first_s = np.unique(where.sets_yx, return_index=True)[1]
    order = np.argsort(first_s)
    found = Witnesses(*(np.empty(len(votes), np.int64) for _ in Witnesses._fields))
    for images, predictions_n, margins_sn, rivals_sn in margins_by_set(votes, where, num_classes):
        assert rivals_sn is not None, "the exact rule names a rival"
        worst_n = order[margins_sn[order].argmin(axis=0)]
        inside = np.arange(len(predictions_n))
        found.predictions_n[images] = predictions_n
        found.rivals_n[images] = rivals_sn[worst_n, inside]
        found.margins_n[images] = margins_sn[worst_n, inside]
        found.ys_n[images], found.xs_n[images] = np.divmod(first_s[worst_n], where.sets_yx.shape[1])
    return found


def rewrite(
    votes: VoteArray, ablation: Ablation, patch: Patch, rivals_n: IntArray, yx_n2: IntArray
) -> VoteArray:
    """The votes after every view that the patch touches has voted for the rival, and it alone.

    Args:
        votes: As ``location_margins``.
        ablation: The views that voted.
        patch: Height and width of the patch.
        rivals_n: The class to vote for; integers (N,).
        yx_n2: Upper left corner of the patch on each image, in pixels; integers (N, 2). Along an
            axis that the ablations cannot tell apart any coordinate will do.

    Returns:
        A copy, of the same shape and type.

    Raises:
        ValueError: The patch does not fit the image.
    """
    touched_nv = touched_at(ablation, patch, yx_n2)
    after = np.array(votes)
    if after.ndim == 3:
        after[touched_nv] = EMPTY
    # Of a set, the first slot is enough.
    votes_nv = after[..., 0] if after.ndim == 3 else after
    votes_nv[...] = np.where(touched_nv, rivals_n[:, None], votes_nv)
    return after


def touched_at(ablation: Ablation, patch: Patch, yx_n2: IntArray) -> BoolArray:
    """The views that the patch touches at given corners (y, x); bool (N, V).

    Raises:
        ValueError: The patch does not fit the image, there or anywhere.
    """
    rows, columns = ablation.touched_axes(patch)
    last = np.array([ablation.height - patch.height, ablation.width - patch.width])
    outside = (yx_n2 < 0) | (yx_n2 > last)
    if outside.any():
        y, x = yx_n2[outside.any(axis=1)][0]
        raise ValueError(
            f"patch {patch} at y = {y}, x = {x}: it leaves the {ablation.height}x{ablation.width} "
            f"px image; y runs from 0 to {last[0]}, x from 0 to {last[1]}"
        )
    ys, xs = yx_n2.T
    # Ablations that cannot tell rows (columns) apart have one entry for all of them.
    touched_nv: BoolArray = rows[ys % len(rows)] & columns[xs % len(columns)]
    return touched_nv
