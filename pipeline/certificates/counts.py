"""Counting votes: the smoothed prediction of each image and the rivals it has to beat.

A class has as many votes as views voted for it, whether each voted for one class or for a set.

Shape suffixes: N images, V ablations (views), T slots of a vote set, C classes, K ranks of a tally.
"""

from typing import NamedTuple

import numpy as np

from models.ablation import IntArray
from pipeline.certificates.votes import EMPTY, VoteArray, check_votes, chunks, votes_per_image

# Bits of a class number in a key of votes and class.
_CLASS_BITS = 32


class Tally(NamedTuple):
    """The classes that matter to each image, strongest first: the prediction, then its rivals.

    Rank 0 is the smoothed prediction. The other classes with votes follow, most votes first and
    lowest class first on ties. Every later rank repeats the lowest class without a vote: of all
    voteless classes it is the strongest rival, since they tie in votes and the lowest class wins
    ties. So whoever beats ranks 1 .. K-1 beats all C - 1 rivals, and K <= V T + 1 (T = 1 without
    sets) however large C is. Where no class has a vote at all, they all tie: class 0 is predicted
    and class 1 its strongest rival.

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


def tally(votes: VoteArray, num_classes: int) -> Tally:
    """Rank the classes of each image (see ``Tally``). Memory O(N V T), so call it on a chunk.

    Args:
        votes: Checked votes (``check_votes``); integers (N, V) or (N, V, T).
        num_classes: Number of classes C.
    """
    num_images, slots = len(votes), votes_per_image(votes)
    if not num_images:
        return Tally(np.empty((0, 2), np.int64), np.empty((0, 2), np.int64))
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
    return Tally(classes_nk, counts_nk)


def vote_counts(votes: VoteArray, num_classes: int) -> IntArray:
    """Votes for every class; int64 (N, C).

    Dense: 8 N C bytes, 400 MB for 50,000 images of 1,000 classes. Nothing in this package needs
    it for all images at once; call it on a few, or use ``tally``.

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
        predictions_n[images] = tally(votes[images], num_classes).predictions
    return predictions_n
