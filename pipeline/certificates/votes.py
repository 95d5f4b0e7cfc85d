"""Votes as the rules take them: one class an ablation, or a set of classes an ablation.

Shape suffixes: N images, V ablations (views), T slots of a vote set, C classes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from models.views.family import IntArray

VoteArray = NDArray[np.integer[Any]]
"""One vote an ablation, (N, V), or a set of at most T votes, (N, V, T) with -1 in empty slots."""

EMPTY = -1
"""Content of a slot of a vote set that holds no class."""

# Numbers that a chunk of images may hold at once: 32 MiB as int64, whatever N, V or L.
CHUNK_NUMBERS = 1 << 22


def chunks(num_images: int, numbers_per_image: int) -> Iterator[slice]:
    """Cut the images into consecutive slices of bounded memory, at least one image each."""
    step = max(1, CHUNK_NUMBERS // numbers_per_image)
    for start in range(0, num_images, step):
        yield slice(start, min(start + step, num_images))


def votes_per_image(votes: VoteArray) -> int:
    """Slots that one image has for votes: V, or V T for sets."""
    return int(np.prod(votes.shape[1:]))


def check_votes(
    votes: VoteArray, num_classes: int, num_views: int | None = None, *, partial: bool = False
) -> VoteArray:
    """Return the votes as an array if every one of them names a class.

    Args:
        votes: Class that each ablation voted for, integers (N, V); or the set of classes that it
            voted for, integers (N, V, T) with -1 in empty slots, wherever those are.
        num_classes: Number of classes C.
        num_views: Number of ablations that V must equal; None accepts any V >= 1.
        partial: Whether -1 may stand for the vote of a view that was not asked.

    Raises:
        ValueError: Fewer than two classes or 2^31 of them, votes that are not an array of integers
            with a column an ablation, a vote outside 0 .. C-1, or a set that holds a class twice.
    """
    if not 2 <= num_classes < 2**31:
        raise ValueError(
            f"num_classes={num_classes}: a prediction needs a rival, so at least 2 classes (and "
            "fewer than 2^31); pass the number of classes of the model's head"
        )
    votes = np.asarray(votes)
    if votes.ndim not in (2, 3) or not np.issubdtype(votes.dtype, np.integer):
        raise ValueError(
            f"votes of shape {votes.shape} and type {votes.dtype}: they must be a 2-D array "
            "of integers, images x ablations (or 3-D for sets of votes, -1 in empty slots); "
            "stack one row of class indices per image"
        )
    views = votes.shape[1]
    if views != (num_views or max(views, 1)):
        raise ValueError(
            f"votes with {views} columns: there must be one for each of the {num_views or '>= 1'} "
            "ablations; use the ablation that the votes were cast with"
        )
    if not votes.size:
        if len(votes):
            raise ValueError("votes with 0 slots a set: pad sets to at least one slot, -1 if empty")
        return votes
    lowest = EMPTY if votes.ndim == 3 or partial else 0
    if not lowest <= votes.min() <= votes.max() < num_classes:
        image, view = np.argwhere((votes < lowest) | (votes >= num_classes))[0, :2]
        wrong = [vote for vote in np.ravel(votes[image, view]) if not lowest <= vote < num_classes]
        raise ValueError(
            f"vote {wrong[0]} of image {image}, ablation {view}: classes run from 0 "
            f"to {num_classes - 1}; pass the num_classes of the model that voted"
        )
    if votes.ndim == 3:
        _check_sets(votes)
    return votes


def _check_sets(votes_nvt: VoteArray) -> None:
    """Raise ValueError if a set holds a class twice: one view would then count as two."""
    for images in chunks(len(votes_nvt), 2 * votes_per_image(votes_nvt)):
        sorted_nvt = np.sort(votes_nvt[images], axis=2)
        twice = (sorted_nvt[..., 1:] == sorted_nvt[..., :-1]) & (sorted_nvt[..., 1:] != EMPTY)
        if twice.any():
            image, view, slot = np.argwhere(twice)[0]
            raise ValueError(
                f"votes of image {images.start + image}, ablation {view}: class "
                f"{sorted_nvt[image, view, slot]} is there twice; give each class one vote a set"
            )


def pad_sets(classes: VoteArray, sizes_nv: IntArray) -> NDArray[np.int32]:
    """Vote sets of any size as one array, from the flat list that a file holds.

    Args:
        classes: The classes of all sets, one set after the other; integers (sum of the sizes,).
        sizes_nv: Classes in the set of each ablation, 0 for none; integers (N, V).

    Returns:
        The sets, -1 in empty slots; int32 (N, V, T) with T the largest size, at least 1.

    Raises:
        ValueError: There are more or fewer classes than the sizes say.
    """
    if len(classes) != sizes_nv.sum():
        raise ValueError(
            f"{len(classes)} votes for sets of {sizes_nv.sum()} votes in all: pass the sizes that "
            "belong to these votes"
        )
    slots = np.arange(max(1, int(sizes_nv.max(initial=0))))
    filled_nvt = slots < sizes_nv[..., None]
    votes_nvt = np.full(filled_nvt.shape, EMPTY, np.int32)
    votes_nvt[filled_nvt] = classes
    return votes_nvt


@overload
def renumbered(given: IntArray, classes: Sequence[int] | None) -> IntArray: ...
@overload
def renumbered(given: VoteArray, classes: Sequence[int] | None) -> VoteArray: ...
def renumbered(given: VoteArray, classes: Sequence[int] | None) -> VoteArray:
    """Classes as the rules take them: their places among those that can be voted for.

    Classes that no ablation can vote for are no rivals. The order of the others stays, and with it
    every tie.

    Args:
        given: Class numbers of the model, and -1 for none; integers of any shape.
        classes: The classes that can be voted for, ascending; None for all.

    Returns:
        Places, -1 for whatever is not among ``classes``.
    """
    if classes is None:
        return given
    allowed = np.asarray(classes)
    places = np.searchsorted(allowed, given)
    found = allowed[np.minimum(places, len(allowed) - 1)] == given
    return np.where(found, places, -1)
