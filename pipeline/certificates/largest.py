"""Every patch size at once: the largest square patch that each image is certified against."""

import numpy as np

from models.views.ablations import Ablation
from models.views.family import IntArray
from models.views.threats import Threat
from pipeline.certificates.batch import VoteBatch, vote_batches
from pipeline.certificates.rule import Rule
from pipeline.certificates.rules import rule_for
from pipeline.certificates.uniform import max_touched_views
from pipeline.certificates.votes import VoteArray


def largest(batch: VoteBatch, rule: Rule, at_least_n: IntArray | None = None) -> IntArray:
    """Side s of the largest square patch that a rule certifies each image against; int64 (N,).

    Guarantee: the rule certifies exactly the sides 1 .. s; 0 is none.

    Proof: an s x s square inside the image lies within an (s + 1) x (s + 1) square inside it (one
    that begins a pixel earlier where it would leave the image), so whatever it touches is a part of
    what that one can touch. A rule's margin never rises with the views touched (that of ``exact``
    is shown there; Delta never falls, so neither does that of ``uniform``), so an image that is
    certified at some side is certified at every smaller one, and adding the bits of s from the
    highest down finds it. No
    sound rule certifies an image against a patch that touches more than half of the views: c keeps
    at most V - |I| < |I| votes, and any rival can have |I|.

    Args:
        batch: The votes.
        rule: A deterministic, monotone rule.
        at_least_n: Sides known to be certified, such as those of the uniform rule for the exact
            one, which need not be asked about; int (N,).
    """
    limit = _largest_side(batch.ablation)
    side_n = np.zeros(len(batch), np.int64)
    # All images go by the same steps, so that many ask about one side at a time.
    for step in (1 << bit for bit in reversed(range(limit.bit_length()))):
        tried_n = side_n + step
        certified_n = np.zeros(len(batch), bool) if at_least_n is None else tried_n <= at_least_n
        for side in np.unique(tried_n[~certified_n]):
            if side <= limit:
                images = np.flatnonzero((tried_n == side) & ~certified_n)
                margins_n = rule.margins(batch.take(images), Threat.square(int(side)))
                certified_n[images] = margins_n >= 0
        side_n[certified_n] += step
    return side_n


def largest_certified(
    votes: VoteArray, ablation: Ablation, num_classes: int, rule_name: str = "exact"
) -> IntArray:
    """``largest`` of an array of votes, in bounded memory; int64 (N,).

    Args:
        votes: As ``vote_batches``.
        ablation: As ``vote_batches``.
        num_classes: As ``vote_batches``.
        rule_name: A deterministic rule.

    Raises:
        ValueError: The votes are malformed or not this ablation's, or there is no such rule.
    """
    rule = rule_for(rule_name, randomized=False)
    sides_n = np.empty(len(votes), np.int64)
    for images, batch in vote_batches(votes, ablation, num_classes):
        sides_n[images] = largest(batch, rule)
    return sides_n


def _largest_side(ablation: Ablation) -> int:
    """The largest square that fits and touches at most half of the views; 0 where none does."""
    side, too_large = 0, min(ablation.height, ablation.width) + 1
    while too_large - side > 1:
        middle = (side + too_large) // 2
        if 2 * max_touched_views(ablation, Threat.square(middle)) <= len(ablation):
            side = middle
        else:
            too_large = middle
    return side
