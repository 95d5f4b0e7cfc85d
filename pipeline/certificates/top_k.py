"""Top-k: margins by which a class stays among the k classes with the most votes.

Shape suffixes: N images, L sets of touched views, K ranks of classes. Arrays of a batch have the
images last.
"""

import numpy as np

from models.views.ablations import Ablation
from models.views.family import IntArray, Patch
from models.views.threats import Threat
from pipeline.certificates.attack_sets import AttackSets, attack_sets
from pipeline.certificates.batch import VoteBatch, vote_batches
from pipeline.certificates.touched import CountArray
from pipeline.certificates.votes import VoteArray


def top_k(batch: VoteBatch, threat: Threat, k: int, classes_n: IntArray) -> IntArray:
    """Margin by which a class stays among the k first of each image; int64 (N,), stays iff >= 0.

    With c the class, usually the true one, I the set of views that the attacker touches in one of
    the ways open to them, r_j the votes for j outside I, and the deficit of j

        d_j = max(0, r_c - r_j + [c < j]),    d_(1) <= d_(2) <= ... over all j != c,

        margin = min over I of  max(d_(1) + ... + d_(k) - T |I|,  d_(k) - |I|) - 1,

    where a view votes for at most T classes (T = 1 without sets: then the sum alone decides, for it
    is at least d_(k)).

    Guarantee: a margin >= 0 means that whatever the attacker writes, anywhere, fewer than k classes
    end ahead of c: with more votes, or with as many and a lower number. Tight: a negative margin
    means that some location and some rewriting of the votes it touches put k classes ahead. For a
    class that is not among the first k unattacked the margin is negative.

    Proof: c ends with n'_c >= r_c. To be ahead, j needs n'_j - [c < j] >= n'_c, so at least d_j
    votes of views in I, each from another view, as a view adds at most one vote to a class. If k
    classes are ahead, each of them has d_j <= |I|, and together they have at most T |I| votes of
    views in I, so both hold for the k smallest deficits. Conversely, let both hold for these. Go
    round the views of I and deal out d_(1) votes for the first of the k classes, then d_(2) for the
    second, and so on: as d_(i) <= |I| no view is given one class twice, and as the sum is at most
    T |I| none is given more than T. Views left without a vote, where each must cast one, vote for
    the first of the k, and none votes for c, which so ends with r_c and behind all k.

    An attacker who touches more views can leave the votes of some as they are. So of nested I only
    the largest matter: one more view lowers r_c and the r_j of at most T classes by one each, so
    the sum rises by at most T and d_(k) by at most 1, and the margin never rises.

    Args:
        batch: The votes.
        threat: What the attacker may do: one rectangle, or any rectangle of an area.
        k: Places to stay in, from 1 to C - 1.
        classes_n: The class to keep there; int (N,).

    Raises:
        ValueError: k or the threat is none of these.

    Source: this project.
    """
    check_places(threat, batch.num_classes, k)
    margins_n = np.full(len(batch), np.iinfo(np.int64).max)
    for reach in attack_sets(batch.ablation, threat):
        kept_ln = _outside(batch, reach, classes_n)
        needed_ln = np.zeros(kept_ln.shape, np.int32)
        # Ahead of c iff strength > n'_c, for r_j - [c < j] = r_j + [j < c] - 1.
        for strength_ln in _strongest(batch, reach, k, classes_n):
            deficit_ln = np.maximum(kept_ln + 1 - strength_ln, 0)
            needed_ln += deficit_ln
        sizes_l1 = reach.sizes_l[:, None].astype(np.int32)
        spare_ln = np.maximum(needed_ln - batch.slots * sizes_l1, deficit_ln - sizes_l1)
        np.minimum(margins_n, spare_ln.min(axis=0) - 1, out=margins_n)
    return margins_n


def check_places(threat: Threat, num_classes: int, k: int) -> None:
    """Raise ValueError unless ``top_k`` knows such places and threats."""
    if not 1 <= k < num_classes:
        raise ValueError(
            f"top_k={k}: of {num_classes} classes, choose 1 to {num_classes - 1} places"
        )
    if threat.count > 1:
        raise ValueError(f"patch {threat}: top-k is computed for one patch; ask for one")


def top_k_margins(
    votes: VoteArray,
    ablation: Ablation,
    threat: Threat | Patch,
    num_classes: int,
    *,
    k: int,
    classes_n: IntArray,
    slots: int | None = None,
) -> IntArray:
    """``top_k`` of an array of votes; arguments and errors as it and ``vote_batches``."""
    margins_n = np.empty(len(votes), np.int64)
    for images, batch in vote_batches(votes, ablation, num_classes, slots=slots):
        margins_n[images] = top_k(batch, Threat.of(threat), k, classes_n[images])
    return margins_n


def _outside(batch: VoteBatch, reach: AttackSets, classes_n: IntArray) -> CountArray:
    """The r of one class an image, whether it has votes or not; (L, N)."""
    is_class_nk = batch.ranked.classes_nk == classes_n[:, None]
    counts_n = (batch.ranked.counts_nk * is_class_nk).max(axis=1).astype(batch.dtype)
    left_ln: CountArray = counts_n - reach.counts(batch.prefix_of(classes_n))
    return left_ln


def _strongest(batch: VoteBatch, reach: AttackSets, k: int, classes_n: IntArray) -> CountArray:
    """The k largest r_j + [j < c] of all j != c, largest first; (k, L, N)."""
    ranked = batch.ranked
    voted_nk = ranked.counts_nk > 0
    rival_nk = voted_nk & (ranked.classes_nk != classes_n[:, None])
    below_nk = ranked.classes_nk < classes_n[:, None]
    # Classes without a vote: those below c have strength 1, those above it 0.
    below_n = classes_n - (voted_nk & below_nk).sum(axis=1)
    above_n = batch.num_classes - 1 - classes_n - (rival_nk & ~below_nk).sum(axis=1)
    place_k1 = np.arange(k)[:, None]
    voteless_kn = np.where(place_k1 < below_n, 1, np.where(place_k1 < below_n + above_n, 0, -1))
    strongest_kln = np.repeat(voteless_kn[:, None].astype(batch.dtype), len(reach.sizes_l), axis=1)

    for rank in range(batch.ranks):
        hopes_n = ranked.counts_nk[:, rank] + below_nk[:, rank]
        # Outside I a class has no more votes than in all.
        images = np.flatnonzero(rival_nk[:, rank] & (hopes_n > strongest_kln[-1].min(axis=0)))
        if not len(images):
            continue
        strength_ln = hopes_n[images].astype(batch.dtype) - reach.counts(batch.prefix(rank, images))
        for place_ln in strongest_kln:
            higher_ln = np.maximum(place_ln[:, images], strength_ln)
            np.minimum(place_ln[:, images], strength_ln, out=strength_ln)
            place_ln[:, images] = higher_ln
    return strongest_kln
