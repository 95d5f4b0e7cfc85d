"""The uniform rule: every location costs as much as the worst one.

Shape suffixes: N images, V ablations (views), C classes, K ranks of a tally.
"""

import numpy as np

from models.ablation import Ablation, IntArray, Patch
from pipeline.certificates.counts import tally
from pipeline.certificates.votes import VoteArray, check_votes, chunks, votes_per_image


def uniform_margins(
    votes: VoteArray, ablation: Ablation, patch: Patch, num_classes: int
) -> IntArray:
    """Margin of each image under the uniform rule; int64 (N,), certified iff >= 0.

    With c the smoothed prediction, n the vote counts and Delta the most ablations that the patch
    touches at any location:

        margin = min over j != c of  n_c - n_j - 2 Delta - [j < c]

    Guarantee: a margin >= 0 means that no content of the patch, anywhere, changes the smoothed
    prediction. Indeed it means that rewriting any Delta votes whatsoever does not, and conversely.

    Proof: a view that shows no pixel of the patch votes as before, so at most Delta votes change;
    then c keeps at least n_c - Delta and j reaches at most n_j + Delta. c is still predicted iff
    no rival j has more votes, or as many with j < c, that is iff n'_c - n'_j - [j < c] >= 0 for all
    j. Conversely, if the margin of j is negative, moving Delta votes of c (or all of them, if it
    has fewer) to j makes j beat c.

    Vote sets (a view votes for every class that its softmax gives at least theta, up to
    T = floor(1 / theta) of them, maybe none): the same, n counting the views whose set has the
    class, since a view takes at most one vote from c and gives at most one to j. Feeding several
    rivals at once is of no use here, one that passes c is enough; see ``exact_margins`` for where
    it would be. Conversely, let Delta views vote {j}, first those with c but not j: each lowers
    n_c - n_j by 2. If there are fewer than Delta of them, none is left, and the lead is minus the
    views that had one of c and j alone, minus the others rewritten: below 0, as Delta >= 1.

    Args:
        votes: Class that each ablation voted for, in the ablation's order, integers (N, V), or
            the set of classes, (N, V, T) with -1 in empty slots.
        ablation: The views that voted.
        patch: Height and width of the adversarial patch, in pixels of the ablation's grid.
        num_classes: Number of classes C; classes without a vote are rivals too.

    Raises:
        ValueError: The votes are malformed or not this ablation's, or the patch does not fit.

    Source: Levine & Feizi, "(De)Randomized Smoothing for Certifiable Defense against Patch
        Attacks", 2020, with Delta counted on the geometry instead of by a formula that
        is too small where the stride does not divide the length.
    """
    votes = check_votes(votes, num_classes, len(ablation))
    cost = 2 * ablation.max_touched(patch)
    margins_n = np.empty(len(votes), np.int64)
    for images in chunks(len(votes), 4 * votes_per_image(votes)):
        ranked = tally(votes[images], num_classes)
        strength_nk = ranked.counts_nk + ranked.wins_ties_nk
        margins_n[images] = ranked.counts_nk[:, 0] - strength_nk[:, 1:].max(axis=1) - cost
    return margins_n
