"""The exact rule: each location is charged only for the votes that it really holds.

Shape suffixes: N images, V ablations (views), T slots of a vote set, L sets of touched views, S the
distinct ones of one patch, C classes, K ranks of classes. Arrays of a batch have the images last.
"""

import numpy as np

from models.views.ablations import Ablation
from models.views.family import IntArray, Patch, ViewFamily
from models.views.threats import Threat
from pipeline.certificates.attack_sets import attack_sets, check_count
from pipeline.certificates.batch import VoteBatch, margins_of
from pipeline.certificates.rule import Rule
from pipeline.certificates.top_k import check_places, top_k
from pipeline.certificates.touched import CountArray, Locations, TouchedViews
from pipeline.certificates.uniform import Uniform
from pipeline.certificates.votes import VoteArray


def exact(batch: VoteBatch, threat: Threat) -> IntArray:
    """Margin of each image under the exact rule; int64 (N,), certified iff >= 0.

    With c the smoothed prediction, I the set of views that the attacker touches in one of the ways
    open to them, and r_j the votes for j outside I:

        margin = min over I and j != c of  r_c - r_j - |I| - [j < c]

    Guarantee: a margin >= 0 means that nothing the attacker writes, anywhere, changes the smoothed
    prediction. Tight: a negative margin means that some location and some rewriting of the votes
    it touches do change it, so no rule that sees only votes can certify more.

    Proof: a view outside I shows no pixel of the attacker's and votes as before. Inside I any votes
    may appear, so c ends with n'_c >= r_c and j with n'_j <= r_j + |I|, and both are equalities
    when all of I votes for j. c is still predicted iff n'_c - n'_j - [j < c] >= 0 for all j != c
    (lowest class wins ties). Never below the uniform margin: r_c >= n_c - |I|, r_j <= n_j, and
    |I| <= Delta.

    How it is computed. A view v of I costs c's lead over j

        g_j(v) = 1 + [v votes c] - [v votes j],    0 <= g_j(v) <= 1 + [v votes c] = g(v),

    so margin = min over j of  n_c - n_j - [j < c] - max over I of g_j(I). Since no view costs less
    than 0, of nested I only the largest matter (``attack_sets``), and the margin never rises with a
    patch that grows. Since g_j <= g, rival j cannot undercut a margin m found already if its lead
    n_c - n_j - [j < c] is at least m + max g(I); leads ascend with the rank, so then no later rival
    can either.

    Vote sets (a view votes for every class that its softmax gives at least theta, up to
    T = floor(1 / theta) of them, maybe none): the proof holds word for word, n and r counting the
    views whose set has the class, since a view adds at most one vote to each class. That one view
    can feed T rivals at once does not help to change the prediction: c loses it as soon as ONE
    rival passes, and each rival's best case, all of I votes {j}, is there for T = 1 already. It
    does matter where several classes must rise together (``top_k``).

    Args:
        batch: The votes.
        threat: What the attacker may do: one rectangle, any rectangle of an area, or two rectangles
            on column and row ablations.

    Raises:
        ValueError: The threat does not fit the image, or is none of these.

    Source: this project: the argument of Levine & Feizi, "(De)Randomized Smoothing", 2020, made
        for the touched set of each location instead of the size of the largest one.
    """
    # More than any margin, which is at most the lead.
    margins_n = np.full(len(batch), len(batch.ablation) + 1, np.int64)
    for reach in attack_sets(batch.ablation, threat):
        costs_ln = reach.counts(batch.prefix(0)) + reach.sizes_l[:, None].astype(batch.dtype)
        most_n = reach.worst(costs_ln)
        for rank in range(1, batch.ranks):
            leads_n = batch.leads_kn[rank]
            images = np.flatnonzero((rank <= batch.rivals_n) & (leads_n - most_n < margins_n))
            if not len(images):
                break
            # Gathering all of them would be a copy for nothing.
            some = None if len(images) == len(batch) else images
            rivals_ln = reach.counts(batch.prefix(rank, some))
            fed_ln = (costs_ln if some is None else costs_ln[:, some]) - rivals_ln
            margins_n[images] = np.minimum(margins_n[images], leads_n[images] - reach.worst(fed_ln))
    return margins_n


def exact_at(batch: VoteBatch, touched: TouchedViews) -> tuple[CountArray, CountArray]:
    """Compute r_c - max of r_j + [j < c] - |I| for each set I; a pass a rank.

    Returns:
        The margins, (S, N), of which that of ``exact`` is the smallest, and the rivals j that
        attain them, (S, N): of several the one with most votes, and of those the lowest.
    """
    ranked = batch.ranked
    # n_c - |I| - the votes of c inside I: r_c - |I|.
    left_sn = ranked.counts_nk[:, 0].astype(batch.dtype) - touched.counts(batch.prefix(0))
    left_sn -= touched.sizes_l[:, None].astype(batch.dtype)
    strongest_sn: CountArray = np.full_like(left_sn, -1)
    rivals_sn: CountArray = np.zeros(left_sn.shape, np.int32)
    for rank in range(1, batch.ranks):
        # One with so few votes that it is closest nowhere need not be asked: it has r_j <= n_j.
        hopes_n = ranked.counts_nk[:, rank] + ranked.wins_ties_nk[:, rank]
        images = np.flatnonzero((rank <= batch.rivals_n) & (hopes_n > strongest_sn.min(axis=0)))
        if not len(images):
            continue
        inside_sn = touched.counts(batch.prefix(rank, images))
        strength_sn = hopes_n[images].astype(batch.dtype) - inside_sn
        stronger_sn = strength_sn > strongest_sn[:, images]
        strongest_sn[:, images] = np.where(stronger_sn, strength_sn, strongest_sn[:, images])
        rivals_sn[:, images] = np.where(
            stronger_sn, ranked.classes_nk[images, rank], rivals_sn[:, images]
        )
    return left_sn - strongest_sn, rivals_sn


class Exact(Rule):
    """``exact`` as a rule, with the margins of every location and of top-k."""

    name = "exact"
    guarantee = "No rewriting of the votes that any one location touches changes the prediction."
    default = True
    ranks_places = True
    covers = frozenset({Uniform.name})

    def check(self, views: ViewFamily, threat: Threat, num_classes: int, top_k: int = 1) -> None:
        """Raise ValueError as ``exact`` does, or ``top_k`` for several places."""
        if top_k > 1:
            check_places(threat, num_classes, top_k)
        super().check(views, threat, num_classes, top_k)
        check_count(views, threat.count)

    def margins(self, batch: VoteBatch, threat: Threat) -> IntArray:
        """See ``exact``."""
        return exact(batch, threat)

    def top_k_margins(
        self, batch: VoteBatch, threat: Threat, k: int, classes_n: IntArray
    ) -> IntArray:
        """See ``top_k``."""
        return top_k(batch, threat, k, classes_n)

    def margins_at(self, batch: VoteBatch, where: Locations) -> tuple[CountArray, CountArray]:
        """See ``exact_at``."""
        return exact_at(batch, where.grid)


def exact_margins(
    votes: VoteArray, ablation: Ablation, threat: Threat | Patch, num_classes: int
) -> IntArray:
    """``exact`` of an array of votes; arguments and errors as ``margins_of``."""
    return margins_of(exact, votes, ablation, threat, num_classes)
