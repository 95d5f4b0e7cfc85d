"""Randomized smoothing: a probabilistic certificate from votes at randomly drawn positions.

The reference that the deterministic rules are compared with. Needs scipy, for beta quantiles.
Shape suffixes: N images, n draws, C classes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.views.ablations import Ablation
from models.views.family import BoolArray, IntArray, Patch
from models.views.threats import Threat
from pipeline.certificates.batch import VoteBatch, vote_batches
from pipeline.certificates.rule import Rule, Terms
from pipeline.certificates.uniform import max_touched_views
from pipeline.certificates.votes import VoteArray

FloatArray = NDArray[np.float64]

CONFIDENCE = 0.999
"""Probability, for each image, that what its certificate says is true."""

# By how much a bound is widened: far more than the quantiles' rounding, far less than a vote.
ROUNDING = 1e-10


class RandomizedCertificates(NamedTuple):
    """Statements of the drawn votes about the ideal classifier, which asks every position.

    Attributes:
        certified: No patch changes the ideal prediction, which is the drawn one; bool (N,).
        lower_n: Lower bound of the share of positions voting for the prediction; float64 (N,).
        rival_upper_n: Upper bound of the share of every other class; float64 (N,).
        threshold: What lower - upper must exceed, 2 Delta / P.
        margins_n: The same in votes of the ideal classifier to spare; int64 (N,), certified
            iff >= 0.
    """

    certified: BoolArray
    lower_n: FloatArray
    rival_upper_n: FloatArray
    threshold: float
    margins_n: IntArray


def share_bounds(votes_n: IntArray, draws: int, tail: float) -> tuple[FloatArray, FloatArray]:
    """Clopper-Pearson bounds of a share, each of them wrong with probability at most ``tail``.

    The lower bound is the share under which that many votes or more have probability ``tail``, the
    upper one that under which so few have; 0 votes leave 0, all of them 1.

    Args:
        votes_n: Votes for the class; int64 (N,).
        draws: Votes drawn, n.
        tail: Probability of each error.

    Returns:
        Lower and upper bounds; float64 (N,) each.

    Source: Clopper & Pearson, "The use of confidence or fiducial limits", Biometrika 1934.
    """
    # Most of a second to import, and only for this rule.
    from scipy.special import betainccinv, betaincinv  # noqa: PLC0415

    k = np.asarray(votes_n, np.float64)
    # The clips only keep the quantiles defined where the bound is trivial.
    low = betaincinv(np.maximum(k, 1), draws - k + 1, tail)
    high = betainccinv(k + 1, np.maximum(draws - k, 1), tail)
    lower_n = np.where(k > 0, np.maximum(low - ROUNDING, 0), 0.0)
    upper_n = np.where(k < draws, np.minimum(high + ROUNDING, 1), 1.0)
    return lower_n, upper_n


def randomized_certificates(
    votes: VoteArray,
    ablation: Ablation,
    threat: Threat | Patch,
    num_classes: int,
    confidence: float = CONFIDENCE,
) -> RandomizedCertificates:
    """Certify the ideal classifier over all positions from votes at some drawn at random.

    Let p_j be the share of the P positions of ``ablation`` that vote for class j on this image, the
    ideal classifier predict the class of the largest share, Delta be the most positions that the
    attacker can touch, c the class with the most drawn votes and alpha = 1 - confidence. Certified
    iff

        lower(p_c) - max over j != c of upper(p_j)  >  2 Delta / P

    with two-sided Clopper-Pearson intervals of error alpha / C for each of the C classes.

    Guarantee: for each image, with probability at least 1 - alpha over its draws, either nothing
    is certified or the ideal classifier predicts c and no content of the patch, anywhere, changes
    that. It is probabilistic, and about the ideal classifier: that one is not evaluated, and
    votes drawn on the attacked image may well say something else. It is per image: among N images
    up to alpha N wrong certificates are to be expected, so a certified accuracy is too high by at
    most alpha in expectation. All patches asked of one draw share its error: no bound depends on
    them. That the attacker knows the draws does not matter, since the claim is not about them.

    Proof: the draws are independent and uniform, so the votes for class j are binomial (n, p_j).
    Each of the 2 C one-sided bounds errs with probability at most alpha / (2 C), so with
    probability 1 - alpha none errs, rivals without a vote included, and the bounds of whichever
    class the votes select as c are then true. Given that, P p_c - P p_j > 2 Delta for all j. A
    patch leaves the votes of P - Delta positions or more alone, so c loses at most Delta and j
    gains at most Delta of them, and c still has strictly more. Vote sets change nothing: a
    position votes for j or not, and changes n_c and n_j by at most one.

    Args:
        votes: Class voted for at each drawn position, integers (N, n), or sets, (N, n, T). Each
            image's positions are drawn with replacement, uniformly and independently of
            everything else, from those of ``ablation`` (``models.views.sampling.draw_positions``).
        ablation: The family drawn from: all P positions, of stride 1 in the published comparison.
        threat: What the attacker may do, in pixels of the ablation's grid.
        num_classes: Number of classes C.
        confidence: 1 - alpha, inside (0, 1).

    Raises:
        ValueError: The votes are malformed, the threat does not fit the image, or the
            confidence is no probability.

    Source: the randomized smoothing that Levine & Feizi, "(De)Randomized Smoothing", 2020, compare
        with, after Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via Randomized
        Smoothing", 2019; all classes bounded at once, so that no sample is spent on selecting c.
    """
    if not 0 < confidence < 1:
        raise ValueError(
            f"confidence={confidence}: choose a probability inside (0, 1), such as {CONFIDENCE}"
        )
    threat = Threat.of(threat)
    parts = [
        _certify(batch, threat, confidence)
        for _, batch in vote_batches(votes, ablation, num_classes, drawn=True)
    ] or [_certify(VoteBatch(votes, ablation, num_classes), threat, confidence)]
    return RandomizedCertificates(
        np.concatenate([part.certified for part in parts]),
        np.concatenate([part.lower_n for part in parts]),
        np.concatenate([part.rival_upper_n for part in parts]),
        parts[0].threshold,
        np.concatenate([part.margins_n for part in parts]),
    )


def randomized(batch: VoteBatch, threat: Threat, confidence: float = CONFIDENCE) -> IntArray:
    """Margins of ``randomized_certificates``, as a rule; int64 (N,)."""
    return _certify(batch, threat, confidence).margins_n


class Randomized(Rule):
    """``randomized_certificates`` as a rule."""

    name = "randomized"
    deterministic = False
    default = True

    def __init__(self, confidence: float = CONFIDENCE) -> None:
        """Certify at a confidence for each image."""
        self.confidence: float = confidence
        self.guarantee = (
            f"With confidence {confidence:g} for each image, no rewriting of the votes that a "
            "patch touches changes the prediction of the ideal classifier, which asks every "
            "position."
        )

    def margins(self, batch: VoteBatch, threat: Threat) -> IntArray:
        """See ``randomized_certificates``."""
        return randomized(batch, threat, self.confidence)

    def at(self, terms: Terms) -> "Randomized":
        """Return the rule at another confidence."""
        return self if terms.confidence is None else Randomized(terms.confidence)


def _certify(batch: VoteBatch, threat: Threat, confidence: float) -> RandomizedCertificates:
    positions, touched = len(batch.ablation), max_touched_views(batch.ablation, threat)
    tail = (1 - confidence) / (2 * batch.num_classes)
    draws = batch.votes_per_image
    lower_n, _ = share_bounds(batch.ranked.counts_nk[:, 0], draws, tail)
    # The upper bound grows with the votes: of all rivals, the runner-up has the largest.
    _, rival_upper_n = share_bounds(batch.ranked.counts_nk[:, 1], draws, tail)
    # lower - upper > 2 Delta / P, in votes: iff the smallest integer not below the left exceeds it.
    lead_n = np.ceil(positions * (lower_n - rival_upper_n)).astype(np.int64)
    margins_n = lead_n - 2 * touched - 1
    return RandomizedCertificates(
        margins_n >= 0, lower_n, rival_upper_n, 2 * touched / positions, margins_n
    )
