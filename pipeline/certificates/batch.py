"""The votes of some images, counted: the input of every rule.

Counting gives the smoothed prediction of each image and the rivals it has to beat.

A class has as many votes as views voted for it, whether each voted for one class or for a set.

Shape suffixes: N images, V ablations (views), T slots of a vote set, C classes, K ranks of classes.
"""

from collections.abc import Callable, Hashable, Iterator
from functools import cached_property
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from models.views.ablations import Ablation
from models.views.family import BoolArray, IntArray, Patch, ViewFamily
from models.views.threats import Threat
from pipeline.certificates.touched import CountArray, prefix_sums
from pipeline.certificates.votes import EMPTY, VoteArray, check_votes, chunks, votes_per_image

_Result = TypeVar("_Result")

# Bits of a class number in a key of votes and class.
_CLASS_BITS = 32


class Ranking(NamedTuple):
    """The classes that matter to each image, strongest first: the prediction, then its rivals.

    Rank 0 is the smoothed prediction. The other classes with votes follow, most votes first and
    lowest class first on ties. Every later rank repeats the lowest class without a vote: of all
    voteless classes it is the strongest rival, since they tie in votes and the lowest class wins
    ties. So a class that beats ranks 1 .. K-1 beats all C - 1 rivals, and K <= V T + 1 (T = 1
    without sets) however large C is. Where no class has a vote at all, they all tie: class 0 is
    predicted and class 1 its strongest rival.

    Attributes:
        classes_nk: Class at each rank; int64 (N, K), 2 <= K <= min(C, V T + 1), or 2.
        counts_nk: Its votes, 0 for the voteless class; int64 (N, K).
    """

    classes_nk: IntArray
    counts_nk: IntArray

    @property
    def predictions(self) -> IntArray:
        """The smoothed prediction of each image; int64 (N,)."""
        return self.classes_nk[:, 0]

    @property
    def wins_ties_nk(self) -> IntArray:
        """[j < c]: 1 where the class at a rank wins a tie against the prediction; int64 (N, K)."""
        return (self.classes_nk < self.classes_nk[:, :1]).astype(np.int64)


def rank_votes(votes: VoteArray, num_classes: int) -> Ranking:
    """Rank the classes of each image (see ``Ranking``). Memory O(N V T), so call it on a chunk.

    Args:
        votes: Checked votes (``check_votes``); integers (N, V) or (N, V, T).
        num_classes: Number of classes C.
    """
    num_images, slots = len(votes), votes_per_image(votes)
    if not num_images:
        return Ranking(np.empty((0, 2), np.int64), np.empty((0, 2), np.int64))
    # Sorted votes fall into runs of one class; a run is a (image, class) pair with its votes. Empty
    # slots, -1, come first and begin no run. Four bytes sort fastest.
    sorted_ns = np.sort(votes.reshape(num_images, slots).astype(np.int32), axis=1)
    begins_ns = sorted_ns != EMPTY
    begins_ns[:, 1:] &= sorted_ns[:, 1:] != sorted_ns[:, :-1]
    starts = np.flatnonzero(begins_ns)
    image, label = starts // slots, sorted_ns.ravel()[starts].astype(np.int64)
    # A run ends where the next one begins, or with the slots of its image.
    ends = np.minimum(np.append(starts[1:], sorted_ns.size), (image + 1) * slots)
    voted_n = begins_ns.sum(axis=1)
    place = np.arange(len(starts)) - np.repeat(np.cumsum(voted_n) - voted_n, voted_n)

    # Ascending distinct classes leave 0, 1, 2, ... at the lowest class without a vote, for good.
    voteless_n = np.bincount(image[label == place], minlength=num_images)

    # An image whose classes all have votes has K = C of them, so no voteless class is written.
    ranks = min(num_classes, max(1, int(voted_n.max())) + 1)
    # Votes and class as one number below 0, which sorts most votes first, then the lowest class.
    keys_nk = np.zeros((num_images, ranks), np.int64)
    keys_nk[image, place] = ((starts - ends) << _CLASS_BITS) + label
    keys_nk.sort(axis=1)
    label_nk = keys_nk & ((1 << _CLASS_BITS) - 1)
    classes_nk = np.where(keys_nk < 0, label_nk, voteless_n[:, None])
    counts_nk = -(keys_nk >> _CLASS_BITS)
    # Without any vote class 0 is predicted, and class 1 rather than 0 itself is its rival.
    classes_nk[voted_n == 0, 1:] = 1
    return Ranking(classes_nk, counts_nk)


def vote_counts(votes: VoteArray, num_classes: int) -> IntArray:
    """Votes for every class; int64 (N, C).

    Dense: 8 N C bytes, 400 MB for 50,000 images of 1,000 classes. Nothing in this package needs
    it for all images at once; call it on a few, or use ``rank_votes``.

    Args:
        votes: Class that each ablation voted for, integers (N, V), or sets of them, (N, V, T).
        num_classes: Number of classes C.

    Raises:
        ValueError: The votes are malformed (``check_votes``).
    """
    votes = check_votes(votes, num_classes)
    images = np.arange(len(votes)).reshape(-1, *[1] * (votes.ndim - 1))
    cells = images * num_classes + votes.astype(np.int64)
    counts = np.bincount(cells[votes != EMPTY], minlength=len(votes) * num_classes)
    return counts.reshape(-1, num_classes).astype(np.int64, copy=False)


def smoothed_predictions(votes: VoteArray, num_classes: int) -> IntArray:
    """The class with the most votes, the lowest one on ties (0 without any vote); int64 (N,).

    Args:
        votes: Class that each ablation voted for, integers (N, V), or sets of them, (N, V, T).
        num_classes: Number of classes C.

    Raises:
        ValueError: The votes are malformed (``check_votes``).
    """
    votes = check_votes(votes, num_classes)
    predictions_n = np.empty(len(votes), np.int64)
    for images in chunks(len(votes), 4 * votes_per_image(votes)):
        predictions_n[images] = rank_votes(votes[images], num_classes).predictions
    return predictions_n


# Ranks whose prefix sums are computed for all images at once and kept: for fewer it takes as long,
# and other questions ask for them again.
_KEPT_RANKS = 32


class VoteBatch:
    """Some images' votes, ranked, with prefix sums that all questions about them share.

    Attributes:
        views: The views that voted.
        num_classes: Number of classes C.
        fallback_n: The answer of a decision that finds none: the plain prediction, or the class
            with most votes where no plain prediction is known; int64 (N,).
        gaps_nv: Gap of the two largest logits of every view, where a question needs it; (N, V).
        slots: T, the most classes that one view can vote for.
        votes_per_image: Views that voted on each image: V, or the number drawn.
        ranked: The classes with their votes, strongest first.
    """

    def __init__(
        self,
        votes: VoteArray,
        views: ViewFamily,
        num_classes: int,
        slots: int | None = None,
        *,
        plain_n: IntArray | None = None,
        gaps_nv: NDArray[np.floating] | None = None,
    ) -> None:
        """Count a chunk of checked votes (``check_votes``); arguments as ``vote_batches``."""
        self.views = views
        self.num_classes = num_classes
        self.slots = slots or (votes.shape[2] if votes.ndim == 3 else 1)
        self.votes_per_image = votes.shape[1]
        self.ranked: Ranking = rank_votes(votes, num_classes)
        self._are_sets = votes.ndim == 3
        self._votes_nvt = votes if self._are_sets else votes[..., None]
        self._kept: dict[int, CountArray] = {}
        self._results: dict[Hashable, Any] = {}
        self.gaps_nv = gaps_nv
        self.fallback_n = self.ranked.predictions
        if plain_n is not None:
            self.fallback_n = np.where(plain_n >= 0, plain_n, self.fallback_n)

    @property
    def ablation(self) -> Ablation:
        """The views, for a rule that counts votes of ablations.

        Raises:
            ValueError: They are no ablations.
        """
        if self.views.hides:
            raise ValueError(f"{self.views}: this rule counts the votes of ablations")
        return cast("Ablation", self.views)

    @property
    def votes(self) -> VoteArray:
        """The votes as they were given; integers (N, V) or (N, V, T)."""
        return self._votes_nvt if self._are_sets else self._votes_nvt[..., 0]

    @property
    def labels_nv(self) -> VoteArray:
        """The one label of every view, -1 where it was not asked; integers (N, V).

        Raises:
            ValueError: The views voted for sets of classes.
        """
        if self.votes.ndim == 3:
            raise ValueError(
                "these are sets of votes, and this rule is about one label a view; use two-location"
            )
        return self.votes

    def of_views(self, family: ViewFamily, numbers: IntArray) -> "VoteBatch":
        """The batch of some of the views, which are a family of their own."""
        gaps_nv = None if self.gaps_nv is None else self.gaps_nv[:, numbers]
        return self.once(
            ("views", family),
            lambda: VoteBatch(self.votes[:, numbers], family, self.num_classes, gaps_nv=gaps_nv),
        )

    def once(self, key: Hashable, compute: Callable[[], _Result]) -> _Result:
        """Compute a result about the batch once, for all questions that need it."""
        if key not in self._results:
            self._results[key] = compute()
        result: _Result = self._results[key]
        return result

    def __len__(self) -> int:
        return len(self.ranked.classes_nk)

    def take(self, images: IntArray) -> "VoteBatch":
        """The batch of some of the images; it shares what was computed for all."""
        return _PartOfBatch(self, images)

    @cached_property
    def dtype(self) -> "np.dtype[Any]":
        """Type of counts: no number below exceeds 2 V + 1 in size, so two bytes often hold it."""
        return np.dtype(np.int16 if 2 * len(self.views) + 1 < 2**15 else np.int32)

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
        return prefix_sums(self.ablation, self.chosen(classes_n, images), self.dtype)

    def chosen(self, classes_n: IntArray, images: IntArray | None = None) -> BoolArray:
        """Tell the views that voted for one class an image; bool (V, N)."""
        votes_tvn = self._votes_tvn if images is None else self._votes_tvn.take(images, axis=2)
        classes_n = classes_n.astype(votes_tvn.dtype)
        chosen_vn: BoolArray = votes_tvn[0] == classes_n
        for votes_vn in votes_tvn[1:]:
            chosen_vn |= votes_vn == classes_n
        return chosen_vn

    def unknown(self, images: IntArray) -> BoolArray | None:
        """Tell the views that some images were not asked about; bool (V, N), None for no view."""
        if self._are_sets:  # an empty set of votes is an answer
            return None
        unknown_vn: BoolArray = self._votes_tvn[0].take(images, axis=1) == EMPTY
        return unknown_vn if unknown_vn.any() else None


class _PartOfBatch(VoteBatch):
    """Some images of a batch, with its prefix sums."""

    def __init__(self, whole: VoteBatch, images: IntArray) -> None:
        self.views, self.num_classes = whole.views, whole.num_classes
        self.slots, self.votes_per_image = whole.slots, whole.votes_per_image
        ranked = whole.ranked
        self.ranked = Ranking(ranked.classes_nk[images], ranked.counts_nk[images])
        self._whole, self._images = whole, images
        self._results: dict[Hashable, Any] = {}
        self.fallback_n = whole.fallback_n[images]
        self.gaps_nv = None if whole.gaps_nv is None else whole.gaps_nv[images]

    @property
    def votes(self) -> VoteArray:
        return self._whole.votes[self._images]

    def take(self, images: IntArray) -> VoteBatch:
        return self._whole.take(self._images[images])

    def prefix(self, rank: int, images: IntArray | None = None) -> CountArray:
        return self._whole.prefix(rank, self._images if images is None else self._images[images])

    def prefix_of(self, classes_n: IntArray, images: IntArray | None = None) -> CountArray:
        return self._whole.prefix_of(
            classes_n, self._images if images is None else self._images[images]
        )

    def chosen(self, classes_n: IntArray, images: IntArray | None = None) -> BoolArray:
        return self._whole.chosen(
            classes_n, self._images if images is None else self._images[images]
        )

    def unknown(self, images: IntArray) -> BoolArray | None:
        return self._whole.unknown(self._images[images])


def vote_batches(
    votes: VoteArray,
    views: ViewFamily,
    num_classes: int,
    *,
    slots: int | None = None,
    drawn: bool = False,
    plain_n: IntArray | None = None,
    gaps_nv: NDArray[np.floating] | None = None,
) -> Iterator[tuple[slice, VoteBatch]]:
    """The images a chunk at a time, counted, in bounded memory.

    Args:
        votes: Class that each view voted for, in the family's order, integers (N, V), -1 where a
            view that hides was not asked; or the set of classes, (N, V, T) with -1 in empty slots.
        views: The views that voted, or that were drawn from.
        num_classes: Number of classes C; classes without a vote are rivals too.
        slots: The most classes that one view can vote for, which the attacker may use even where
            no view of these did; None takes T.
        drawn: Whether the votes are those of views drawn at random for each image, however many.
        plain_n: The prediction of each whole image, -1 where it is unknown; integers (N,).
        gaps_nv: Gap of the two largest logits of every view; (N, V).

    Raises:
        ValueError: The votes are malformed or not this family's.
    """
    votes = check_votes(votes, num_classes, None if drawn else len(views), partial=views.hides)
    for images in chunks(len(votes), votes_per_image(votes) + len(views)):
        yield (
            images,
            VoteBatch(
                votes[images],
                views,
                num_classes,
                slots,
                plain_n=None if plain_n is None else plain_n[images],
                gaps_nv=None if gaps_nv is None else gaps_nv[images],
            ),
        )


def margins_of(
    rule: Callable[[VoteBatch, Threat], IntArray],
    votes: VoteArray,
    views: ViewFamily,
    threat: Threat | Patch,
    num_classes: int,
    *,
    drawn: bool = False,
) -> IntArray:
    """Margins of a rule over an array of votes, in bounded memory; int64 (N,).

    Args:
        rule: A rule on a batch.
        votes: As ``vote_batches``.
        views: As ``vote_batches``.
        threat: What the attacker may do; a patch is the threat of one such rectangle.
        num_classes: As ``vote_batches``.
        drawn: As ``vote_batches``.

    Raises:
        ValueError: The votes are malformed or not this ablation's, the threat does not fit the
            image, or the rule refuses it.
    """
    threat = Threat.of(threat)
    threat.patches(views)
    margins_n = np.empty(len(votes), np.int64)
    for images, batch in vote_batches(votes, views, num_classes, drawn=drawn):
        margins_n[images] = rule(batch, threat)
    return margins_n
