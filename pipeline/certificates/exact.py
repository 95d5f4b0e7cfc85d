"""The exact rule: each location is charged only for the votes that it really holds.

Shape suffixes: N images, V ablations (views), T slots of a vote set, L locations, C classes, K
ranks of a tally. Arrays of a chunk have the images last, so that every operation on views or
locations is one on whole contiguous rows.
"""

import numpy as np

from models.ablation import Ablation, IntArray, Patch
from pipeline.certificates.counts import tally
from pipeline.certificates.touched import CountArray, TouchedViews
from pipeline.certificates.votes import VoteArray, check_votes, chunks, votes_per_image


def exact_margins(votes: VoteArray, ablation: Ablation, patch: Patch, num_classes: int) -> IntArray:
    """Margin of each image under the exact rule; int64 (N,), certified iff >= 0.

    With c the smoothed prediction, I the set of views that the patch touches at a location, and
    r_j the votes for j outside I:

        margin = min over locations I and j != c of  r_c - r_j - |I| - [j < c]

    Guarantee: a margin >= 0 means that no content of the patch, anywhere, changes the smoothed
    prediction. Tight: a negative margin means that some location and some rewriting of the votes
    it touches do change it, so no rule that sees only votes can certify more.

    Proof: a view outside I shows no pixel of the patch and votes as before. Inside I any votes may
    appear, so c ends with n'_c >= r_c and j with n'_j <= r_j + |I|, and both are equalities when
    all of I votes for j. c is still predicted iff n'_c - n'_j - [j < c] >= 0 for all j != c (lowest
    class wins ties). Never below the uniform margin: r_c >= n_c - |I|, r_j <= n_j, |I| <= Delta.

    Vote sets (a view votes for every class that its softmax gives at least theta, up to
    T = floor(1 / theta) of them, maybe none): the proof holds word for word, n and r counting the
    views whose set has the class, since a view adds at most one vote to each class. That one view
    can feed T rivals at once does not help to change the prediction: c loses it as soon as ONE
    rival passes, and each rival's best case, all of I votes {j}, is there for T = 1 already. It
    would matter where several classes must rise together: to evict c from the top k, or in
    detection, where a second rival's votes decide whether there is an alert.

    Args:
        votes: Class that each ablation voted for, in the ablation's order, integers (N, V), or
            the set of classes, (N, V, T) with -1 in empty slots.
        ablation: The views that voted.
        patch: Height and width of the adversarial patch, in pixels of the ablation's grid.
        num_classes: Number of classes C; classes without a vote are rivals too.

    Raises:
        ValueError: The votes are malformed or not this ablation's, or the patch does not fit.

    Source: this project: the argument of Levine & Feizi, "(De)Randomized Smoothing", 2020, made
        for the touched set of each location instead of the size of the largest one.
    """
    votes = check_votes(votes, num_classes, len(ablation))
    touched = TouchedViews.of(ablation, patch)
    margins_n = np.empty(len(votes), np.int64)
    for images in chunks(len(votes), 4 * (votes_per_image(votes) + touched.numbers)):
        margins_n[images] = _margins(votes[images], touched, num_classes)
    return margins_n


def _margins(votes: VoteArray, touched: TouchedViews, num_classes: int) -> IntArray:
    """``exact_margins`` of a chunk: one pass a rank, over the images that have such a rival."""
    ranked = tally(votes, num_classes)
    # Images with many rivals first, so that those with a rival at a rank are the first ones.
    # Without any vote, class 0 is predicted all the same and has a rival at rank 1.
    voted_n = np.maximum(1, (ranked.counts_nk > 0).sum(axis=1))
    order = np.argsort(-voted_n, kind="stable")
    voted_n = voted_n[order]
    # No number below exceeds 2 V + 1 in size: two bytes hold it unless there are many views.
    dtype = np.dtype(np.int16 if 2 * touched.views + 1 < 2**15 else np.int32)
    votes_nvt = votes[order].reshape(len(votes), touched.views, -1)
    votes_tvn = np.ascontiguousarray(votes_nvt.T, np.int32)
    classes_kn = np.ascontiguousarray(ranked.classes_nk[order].T, np.int32)
    counts_kn: CountArray = ranked.counts_nk[order].T.astype(dtype)
    wins_ties_kn: CountArray = ranked.wins_ties_nk[order].T.astype(dtype)
    sizes_l: CountArray = touched.sizes_l.astype(dtype)

    def votes_outside(rank: int, images: int) -> CountArray:
        """The r of the class at this rank, for the first images, at every location; (L, images)."""
        chosen_vn = votes_tvn[0, :, :images] == classes_kn[rank, :images]
        for votes_vn in votes_tvn[1:]:
            chosen_vn |= votes_vn[:, :images] == classes_kn[rank, :images]
        outside_ln: CountArray = counts_kn[rank, :images] - touched.votes(chosen_vn.astype(dtype))
        return outside_ln

    # The strongest rival at each location, r_j + [j < c]; no rival has less than 0.
    strongest_ln: CountArray = np.zeros((len(sizes_l), len(votes)), dtype)
    for rank in range(1, len(classes_kn)):
        # Up to its first voteless rank an image has a new rival; the later ones repeat it.
        images = int(np.count_nonzero(voted_n >= rank))
        strength_ln = votes_outside(rank, images) + wins_ties_kn[rank, :images]
        np.maximum(strongest_ln[:, :images], strength_ln, out=strongest_ln[:, :images])

    margins_ln = votes_outside(0, len(votes)) - strongest_ln - sizes_l[:, None]
    margins_n = np.empty(len(votes), np.int64)
    margins_n[order] = margins_ln.min(axis=0)
    return margins_n
