"""Votes of which some are missing: what every completion of them has in common.

Shape suffixes: N images, V ablations (views), L sets of touched views.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np

from models.ablation import Ablation, BoolArray, IntArray
from pipeline.certificates.exact import least_lead
from pipeline.certificates.poll import Poll
from pipeline.certificates.threats import Threat
from pipeline.certificates.touched import prefix_sums
from pipeline.certificates.uniform import most_touched
from pipeline.certificates.votes import VoteArray, check_votes, chunks

MISSING = -1
"""In place of a vote that was not cast."""


class Bracket(NamedTuple):
    """Margins between which those of all completions lie.

    Attributes:
        lower_n: The least of them; int64 (N,).
        upper_n: The largest of them; int64 (N,).
    """

    lower_n: IntArray
    upper_n: IntArray

    @property
    def decided_n(self) -> BoolArray:
        """Whether all completions are certified, or none is; bool (N,)."""
        return (self.lower_n >= 0) | (self.upper_n < 0)


class PartialPoll:
    """Some images' votes, a part of them cast, the set R of views missing (another R an image).

    A *completion* gives each view of R one vote for any class. n counts the votes that were cast,
    c is the class with most of them, the lowest on ties.

    Attributes:
        cast: The votes that were cast; a view of R votes for nobody.
        missing_n: |R| of each image; int64 (N,).
    """

    def __init__(self, votes: VoteArray, ablation: Ablation, num_classes: int) -> None:
        """Count a chunk of votes, already checked; arguments as ``partial_polls``."""
        self._votes_nv = votes
        self._shape = ablation, num_classes
        self.cast = Poll(votes[..., None], ablation, num_classes)
        self.missing_n: IntArray = (votes == MISSING).sum(axis=1).astype(np.int64)

    def __len__(self) -> int:
        return len(self._votes_nv)

    def take(self, images: IntArray) -> "PartialPoll":
        """The poll of some of the images."""
        return PartialPoll(self._votes_nv[images], *self._shape)

    @property
    def predictions_n(self) -> IntArray:
        """c, which where ``foregone_n`` holds is the prediction of every completion; int64 (N,)."""
        return self.cast.ranked.predictions

    @cached_property
    def foregone_n(self) -> BoolArray:
        """Whether every completion predicts c; bool (N,).

        Proof: j gets at most |R| votes more, and gets them all, c none, in one completion. So c is
        always predicted iff n_c - n_j - |R| - [j < c] >= 0 for every rival j, voted for or not.
        """
        # Leads ascend in rank, and ranks hold the strongest voteless class too.
        foregone: BoolArray = self.cast.leads_kn[1] >= self.missing_n
        return foregone

    @cached_property
    def filled(self) -> Poll:
        """The completion in which all of R votes for c: by any rule here the best for c."""
        missing = self._votes_nv == MISSING
        filled = np.where(missing, self.predictions_n[:, None], self._votes_nv)
        return Poll(filled, *self._shape)

    @cached_property
    def cast_prefix(self) -> "np.ndarray[tuple[int, ...], np.dtype[np.signedinteger]]":
        """``prefix_sums`` of the views that voted."""
        cast_vn = np.ascontiguousarray((self._votes_nv != MISSING).T)
        return prefix_sums(self.cast.ablation, cast_vn, self.cast.dtype)


def partial_polls(
    votes: VoteArray, ablation: Ablation, num_classes: int
) -> Iterator[tuple[slice, PartialPoll]]:
    """The images a chunk at a time, counted, in bounded memory.

    Args:
        votes: Class that each ablation voted for, ``MISSING`` where it did not; integers (N, V).
        ablation: The views that vote.
        num_classes: Number of classes C; classes without a vote are rivals too.

    Raises:
        ValueError: The votes are malformed or not this ablation's.
    """
    if votes.ndim != 2:
        raise ValueError(f"votes of shape {votes.shape}: give one class an ablation, (N, V)")
    check_votes(votes[..., None], num_classes, len(ablation))
    for images in chunks(len(votes), 3 * len(ablation)):
        yield images, PartialPoll(votes[images], ablation, num_classes)


def least_uniform(poll: PartialPoll, threat: Threat) -> IntArray:
    """The least margin of ``uniform`` over all completions, where c is foregone; int64 (N,).

        min over j != c of  n_c - n_j - |R| - 2 Delta - [j < c]

    Proof: a completion counts n_c + a votes for c and n_j + b for j, a >= 0, b <= |R|, and its
    margin is the least over j of n_c + a - n_j - b - 2 Delta - [j < c], at least the above; it is
    equal where all of R votes for the j at which the minimum lies.

    Raises:
        ValueError: As ``uniform``.
    """
    lost = 2 * most_touched(poll.cast.ablation, threat)
    least_n: IntArray = poll.cast.leads_kn[1] - poll.missing_n - lost
    return least_n


def least_exact(poll: PartialPoll, threat: Threat) -> IntArray:
    """The least margin of ``exact`` over all completions, where c is foregone; int64 (N,).

    With I the views touched in one of the ways open to the attacker, and r_j the votes that were
    cast for j outside I:

        min over I and j != c of  r_c - r_j - |I or R| - [j < c]

    Proof: for given I and j, outside I a completion adds at most |R without I| votes to j and at
    least none to c, both at once where all of R votes j; inside I it changes nothing, for the rule
    counts all of I as j's. So the least of r'_c - r'_j - |I| - [j < c] is r_c - r_j - |R without I|
    - |I| - [j < c]. The least over completions of the least over I and j is the least over I and j
    of these.

    How it is computed. |I or R| = |R| + |I without R|, so |R| is taken off ``least_lead``, where a
    touched view gives j a vote if it was cast and nothing if it is missing. At least 0 in any case,
    so of nested I only the largest matter, as there. The value at any I is at most n_c - n_j - |R|
    - [j < c]: where it is >= 0 for all, c is foregone.

    Raises:
        ValueError: As ``exact``.
    """
    # From their prefix sums, since which views voted differs between images.
    least_n = least_lead(poll.cast, threat, lambda reach: reach.counts(poll.cast_prefix))
    return least_n - poll.missing_n
