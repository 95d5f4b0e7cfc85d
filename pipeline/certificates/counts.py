"""Counting votes: the smoothed prediction of each image and the rivals it has to beat.

Shape suffixes: N images, V ablations (views), L locations, C classes, K ranks of a tally.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.ablation import IntArray

VoteArray = NDArray[np.integer[Any]]

# Numbers that a chunk of images may hold at once: 32 MiB as int64, whatever N, V or L.
CHUNK_NUMBERS = 1 << 22


class Tally(NamedTuple):
    """The classes that matter to each image, strongest first: the prediction, then its rivals.

    Rank 0 is the smoothed prediction. The other classes with votes follow, most votes first and
    lowest class first on ties. Every later rank repeats the lowest class without a vote: of all
    voteless classes it is the strongest rival, since they tie in votes and the lowest class wins
    ties. So whoever beats ranks 1 .. K-1 beats all C - 1 rivals, and K <= V + 1 however large C is.

    Attributes:
        classes_nk: Class at each rank; int64 (N, K), 2 <= K <= min(C, V + 1).
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


def check_votes(votes_nv: VoteArray, num_classes: int, num_views: int | None = None) -> VoteArray:
    """Return the votes as an array if every one of them names a class.

    Args:
        votes_nv: Class that each ablation voted for; integers (N, V).
        num_classes: Number of classes C.
        num_views: Number of ablations that V must equal; None accepts any V >= 1.

    Raises:
        ValueError: Fewer than two classes, votes that are not a 2-D array of integers with a
            column an ablation, or a vote outside 0 .. C-1.
    """
    if num_classes < 2:
        raise ValueError(
            f"num_classes={num_classes}: a prediction needs a rival, so at least 2 classes; "
            "pass the number of classes of the model's head"
        )
    votes_nv = np.asarray(votes_nv)
    if votes_nv.ndim != 2 or not np.issubdtype(votes_nv.dtype, np.integer):
        raise ValueError(
            f"votes of shape {votes_nv.shape} and type {votes_nv.dtype}: they must be a 2-D array "
            "of integers, images x ablations; stack one row of class indices per image"
        )
    views = votes_nv.shape[1]
    if views != (num_views or max(views, 1)):
        raise ValueError(
            f"votes with {views} columns: there must be one for each of the {num_views or '>= 1'} "
            "ablations; use the ablation that the votes were cast with"
        )
    if votes_nv.size and not 0 <= votes_nv.min() <= votes_nv.max() < num_classes:
        image, view = np.argwhere((votes_nv < 0) | (votes_nv >= num_classes))[0]
        raise ValueError(
            f"vote {votes_nv[image, view]} of image {image}, ablation {view}: classes run from 0 "
            f"to {num_classes - 1}; pass the num_classes of the model that voted"
        )
    return votes_nv


def chunks(num_images: int, numbers_per_image: int) -> Iterator[slice]:
    """Cut the images into consecutive slices of bounded memory, at least one image each."""
    step = max(1, CHUNK_NUMBERS // numbers_per_image)
    for start in range(0, num_images, step):
        yield slice(start, min(start + step, num_images))


def tally(votes_nv: VoteArray, num_classes: int) -> Tally:
    """Rank the classes of each image (see ``Tally``). Memory O(N V), so call it on a chunk.

    Args:
        votes_nv: Checked votes (``check_votes``); integers (N, V).
        num_classes: Number of classes C.
    """
    num_images, views = votes_nv.shape
    if not num_images:
        return Tally(np.empty((0, 2), np.int64), np.empty((0, 2), np.int64))
    # Sorted votes fall into runs of one class; a run is a (image, class) pair with its votes.
    sorted_nv = np.sort(votes_nv.astype(np.int64), axis=1)
    begins_nv = np.diff(sorted_nv, axis=1, prepend=-1) != 0
    starts = np.flatnonzero(begins_nv)
    image, label = starts // views, sorted_nv.ravel()[starts]
    votes = np.diff(starts, append=sorted_nv.size)
    voted_n = begins_nv.sum(axis=1)
    place = np.arange(len(starts)) - np.repeat(np.cumsum(voted_n) - voted_n, voted_n)

    # Ascending distinct classes leave 0, 1, 2, ... at the lowest class without a vote, for good.
    voteless_n = np.bincount(image[label == place], minlength=num_images)

    # An image whose classes all have votes has K = C of them, so no voteless class is written.
    ranks = min(num_classes, int(voted_n.max()) + 1)
    classes_nk = np.repeat(voteless_n[:, None], ranks, axis=1)
    counts_nk = np.zeros((num_images, ranks), np.int64)
    order = np.lexsort((label, -votes, image))
    # The order keeps each image's runs together, so ``image`` and ``place`` need no sorting.
    classes_nk[image, place] = label[order]
    counts_nk[image, place] = votes[order]
    return Tally(classes_nk, counts_nk)


def vote_counts(votes_nv: VoteArray, num_classes: int) -> IntArray:
    """Votes for every class; int64 (N, C).

    Dense: 8 N C bytes, 400 MB for 50,000 images of 1,000 classes. Nothing in this package needs
    it for all images at once; call it on a few, or use ``tally``.

    Args:
        votes_nv: Class that each ablation voted for; integers (N, V).
        num_classes: Number of classes C.

    Raises:
        ValueError: The votes are malformed (``check_votes``).
    """
    votes_nv = check_votes(votes_nv, num_classes)
    cells = np.arange(len(votes_nv))[:, None] * num_classes + votes_nv.astype(np.int64)
    counts = np.bincount(cells.ravel(), minlength=len(votes_nv) * num_classes)
    return counts.reshape(-1, num_classes).astype(np.int64, copy=False)


def smoothed_predictions(votes_nv: VoteArray, num_classes: int) -> IntArray:
    """The class with the most votes, the lowest one on ties; int64 (N,).

    Args:
        votes_nv: Class that each ablation voted for; integers (N, V).
        num_classes: Number of classes C.

    Raises:
        ValueError: The votes are malformed (``check_votes``).
    """
    votes_nv = check_votes(votes_nv, num_classes)
    predictions_n = np.empty(len(votes_nv), np.int64)
    for images in chunks(len(votes_nv), 4 * votes_nv.shape[1]):
        predictions_n[images] = tally(votes_nv[images], num_classes).predictions
    return predictions_n
