"""The uniform rule: every location costs as much as the worst one.

Shape suffixes: N images, V ablations (views), C classes, K ranks of classes.
"""

from functools import lru_cache

from models.views.ablations import Ablation
from models.views.family import IntArray, Patch, ViewFamily
from models.views.threats import Threat
from pipeline.certificates.batch import VoteBatch, margins_of
from pipeline.certificates.rule import Rule
from pipeline.certificates.votes import VoteArray


@lru_cache(maxsize=4096)
def max_touched_views(views: ViewFamily, threat: Threat) -> int:
    """Delta: no attacker touches more views; at most n times what one of n patches touches, or V.

    Raises:
        ValueError: The threat does not fit the image.
    """
    one = max(views.max_touched(patch) for patch in threat.patches(views))
    return min(threat.count * one, len(views))


def uniform(batch: VoteBatch, threat: Threat) -> IntArray:
    """Margin of each image under the uniform rule; int64 (N,), certified iff >= 0.

    With c the smoothed prediction, n the vote counts and Delta the most ablations that the attacker
    touches in any way (``max_touched_views``):

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
        batch: The votes.
        threat: What the attacker may do.

    Raises:
        ValueError: The threat does not fit the image.

    Source: Levine & Feizi, "(De)Randomized Smoothing for Certifiable Defense against Patch
        Attacks", 2020, with Delta counted on the geometry instead of by a formula that
        is too small where the stride does not divide the length.
    """
    # Leads ascend in rank: the smallest is that of the runner-up.
    margins_n: IntArray = batch.leads_kn[1] - 2 * max_touched_views(batch.ablation, threat)
    return margins_n


class Uniform(Rule):
    """``uniform`` as a rule."""

    name = "uniform"
    guarantee = (
        "No rewriting of as many votes as the worst location touches changes the prediction."
    )
    default = True

    def margins(self, batch: VoteBatch, threat: Threat) -> IntArray:
        """See ``uniform``."""
        return uniform(batch, threat)


def uniform_margins(
    votes: VoteArray, ablation: Ablation, threat: Threat | Patch, num_classes: int
) -> IntArray:
    """``uniform`` of an array of votes; arguments and errors as ``margins_of``."""
    return margins_of(uniform, votes, ablation, threat, num_classes)
