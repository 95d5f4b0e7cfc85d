"""The votes of some images, counted: what every rule starts from.

Shape suffixes: N images, V ablations (views), T slots of a vote set, C classes, K ranks of a tally.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.ablation import Ablation, IntArray, Patch
from pipeline.certificates.counts import Tally, tally
from pipeline.certificates.threats import Threat
from pipeline.certificates.touched import CountArray, prefix_sums
from pipeline.certificates.votes import VoteArray, check_votes, chunks, votes_per_image

# Ranks whose prefix sums are computed for all images at once and kept: for fewer it takes as long,
# and other questions ask for them again.
_KEPT_RANKS = 32


class Poll:
    """Some images' votes, ranked, with prefix sums that all questions about them share.

    Attributes:
        ablation: The views that voted.
        num_classes: Number of classes C.
        slots: T, the most classes that one view can vote for.
        ballots: Views that voted on each image: V, or the number drawn.
        ranked: Who got how many votes.
    """

    def __init__(
        self, votes: VoteArray, ablation: Ablation, num_classes: int, slots: int | None = None
    ) -> None:
        """Count a chunk of votes, already checked (``check_votes``); arguments as ``polls``."""
        self.ablation = ablation
        self.num_classes = num_classes
        self.slots = slots or (votes.shape[2] if votes.ndim == 3 else 1)
        self.ballots = votes.shape[1]
        self.ranked: Tally = tally(votes, num_classes)
        self._votes_nvt = votes if votes.ndim == 3 else votes[..., None]
        self._kept: dict[int, CountArray] = {}
        self._whole: tuple[Poll, IntArray] | None = None

    def __len__(self) -> int:
        return len(self.ranked.classes_nk)

    def take(self, images: IntArray) -> "Poll":
        """The poll of some of the images; it shares what was computed for all."""
        part = object.__new__(Poll)
        shared = ("ablation", "num_classes", "slots", "ballots")
        part.__dict__ |= {name: getattr(self, name) for name in shared}
        part.ranked = Tally(*(of_nk[images] for of_nk in self.ranked))
        whole, places = self._whole or (self, None)
        part._whole = whole, images if places is None else places[images]
        return part

    @cached_property
    def dtype(self) -> "np.dtype[Any]":
        """Of counts: no number below exceeds 2 V + 1 in size, so two bytes often hold it."""
        return np.dtype(np.int16 if 2 * len(self.ablation) + 1 < 2**15 else np.int32)

    @cached_property
    def _votes_tvn(self) -> NDArray[np.signedinteger[Any]]:
        """The votes with the images last, in as few bytes as classes allow."""
        dtype = np.int16 if self.num_classes <= 2**15 else np.int32
        return np.ascontiguousarray(self._votes_nvt.astype(dtype, copy=False).T)

    @cached_property
    def ranks(self) -> int:
        """K: the prediction and the rivals that any image has."""
        return int(self.ranked.classes_nk.shape[1])

    @cached_property
    def leads_kn(self) -> IntArray:
        """n_c - n_j - [j < c] of the rival j at each rank, ascending in rank; int64 (K, N)."""
        counts = self.ranked.counts_nk
        leads_nk: IntArray = counts[:, :1] - counts - self.ranked.wins_ties_nk
        return np.ascontiguousarray(leads_nk.T)

    @cached_property
    def rivals_n(self) -> IntArray:
        """Ranks that hold a rival of each image: later ones repeat the last; int64 (N,)."""
        voted_n = (self.ranked.counts_nk > 0).sum(axis=1)
        # Without any vote, class 0 is predicted all the same and has a rival at rank 1.
        rivals_n: IntArray = np.clip(voted_n, 1, self.ranks - 1)
        return rivals_n

    def prefix(self, rank: int, images: IntArray | None = None) -> CountArray:
        """Prefix sums of the votes for the class at a rank, of all or some of the images."""
        if self._whole is not None:
            whole, places = self._whole
            return whole.prefix(rank, places if images is None else places[images])
        if rank < _KEPT_RANKS:
            if rank not in self._kept:
                kept = self._kept[rank] = self.prefix_of(self.ranked.classes_nk[:, rank])
                # Every threat reads them; a rule that wrote into them would falsify the next.
                kept.flags.writeable = False
            kept = self._kept[rank]
            return kept if images is None else kept.take(images, axis=2)
        classes_n = self.ranked.classes_nk[:, rank]
        return self.prefix_of(classes_n if images is None else classes_n[images], images)

    def prefix_of(self, classes_n: IntArray, images: IntArray | None = None) -> CountArray:
        """Prefix sums of the votes for one class an image."""
        if self._whole is not None:
            whole, places = self._whole
            return whole.prefix_of(classes_n, places if images is None else places[images])
        votes_tvn = self._votes_tvn if images is None else self._votes_tvn.take(images, axis=2)
        classes_n = classes_n.astype(votes_tvn.dtype)
        chosen_vn = votes_tvn[0] == classes_n
        for votes_vn in votes_tvn[1:]:
            chosen_vn |= votes_vn == classes_n
        return prefix_sums(self.ablation, chosen_vn, self.dtype)


def polls(
    votes: VoteArray,
    ablation: Ablation,
    num_classes: int,
    *,
    slots: int | None = None,
    drawn: bool = False,
) -> Iterator[tuple[slice, Poll]]:
    """The images a chunk at a time, counted, in bounded memory.

    Args:
        votes: Class that each ablation voted for, in the ablation's order, integers (N, V), or the
            set of classes, (N, V, T) with -1 in empty slots.
        ablation: The views that voted, or that were drawn from.
        num_classes: Number of classes C; classes without a vote are rivals too.
        slots: The most classes that one view can vote for, which the attacker may use even where
            no view of these did; None takes T.
        drawn: Whether the votes are those of views drawn at random for each image, however many.

    Raises:
        ValueError: The votes are malformed or not this ablation's.
    """
    votes = check_votes(votes, num_classes, None if drawn else len(ablation))
    for images in chunks(len(votes), votes_per_image(votes) + len(ablation)):
        yield images, Poll(votes[images], ablation, num_classes, slots)


def margins_of(
    rule: Callable[[Poll, Threat], IntArray],
    votes: VoteArray,
    ablation: Ablation,
    threat: Threat | Patch,
    num_classes: int,
    *,
    drawn: bool = False,
) -> IntArray:
    """Margins of a rule over an array of votes, in bounded memory; int64 (N,).

    Args:
        rule: A rule on a poll.
        votes: As ``polls``.
        ablation: As ``polls``.
        threat: What the attacker may do; a patch is the threat of one such rectangle.
        num_classes: As ``polls``.
        drawn: As ``polls``.

    Raises:
        ValueError: The votes are malformed or not this ablation's, the threat does not fit the
            image, or the rule refuses it.
    """
    threat = Threat.of(threat)
    threat.patches(ablation)
    margins_n = np.empty(len(votes), np.int64)
    for images, poll in polls(votes, ablation, num_classes, drawn=drawn):
        margins_n[images] = rule(poll, threat)
    return margins_n
