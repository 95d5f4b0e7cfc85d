"""Geometry and counting that share no code with the rules, which they are used to test.

The rules ask ``ViewFamily.touched_sets``, arithmetic on rectangles, for the views that a patch
touches. Here the answer comes from the masks that the model applies. An attack that asked the same
arithmetic could not find it wrong.

Shapes: R images, V views, T slots of a vote set with -1 in empty ones, C classes, S largest sets of
touched views.
"""

from collections.abc import Sequence

import numpy as np

from models.views.family import BoolArray, IntArray, Patch, ViewFamily
from pipeline.certificates.votes import VoteArray


def shows_patch(views: ViewFamily, patch: Patch, y: int, x: int) -> BoolArray:
    """Tell for each view if it shows a pixel of the patch with upper left corner (y, x); (V,).

    Raises:
        ValueError: The patch is not wholly inside the image.
    """
    if not (0 <= y <= views.height - patch.height and 0 <= x <= views.width - patch.width):
        raise ValueError(
            f"patch {patch} at y = {y}, x = {x} leaves the {views.height}x{views.width} px image"
        )
    here = np.s_[y : y + patch.height, x : x + patch.width]
    return np.array([views.visible(view)[here].any() for view in range(len(views))])


def largest_touched(views: ViewFamily, patch: Patch) -> tuple[BoolArray, IntArray]:
    """Find the largest sets of views that a patch touches, and a place where it touches each.

    Returns:
        The sets, bool (S, V), and upper left corners (y, x), int (S, 2).
    """
    touched_vl = np.stack([_shows(views.visible(view), patch) for view in range(len(views))])
    packed, first_s = np.unique(np.packbits(touched_vl, axis=0), axis=1, return_index=True)
    sets = [frozenset(np.flatnonzero(touched_vl[:, place]).tolist()) for place in first_s]
    largest = [number for number, one in enumerate(sets) if not any(one < other for other in sets)]
    assert packed.shape[1] == len(set(sets))
    places = first_s[largest]
    corners = np.stack(np.divmod(places, views.width - patch.width + 1), axis=1)
    return touched_vl[:, places].T, corners


def _shows(visible: BoolArray, patch: Patch) -> BoolArray:
    """Tell for each place of a patch, row by row, if some pixel of it is visible; bool (L,)."""
    sums = np.zeros((visible.shape[0] + 1, visible.shape[1] + 1), np.int64)
    sums[1:, 1:] = visible.cumsum(axis=0).cumsum(axis=1)
    high, wide = patch
    inside = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    return np.asarray(inside.ravel() > 0)


ANY = -1
"""Stands for any class, where a decision hangs on the labels of views that were not asked."""


def two_location_answers(labels_v: VoteArray, touched_sv: BoolArray, plain: int) -> set[int]:
    """The answers that the two-location decision can give, by its definition, set by set.

    Args:
        labels_v: The labels of one image, -1 where a view was not asked; int (V,).
        touched_sv: The largest sets of touched views; bool (S, V).
        plain: The prediction of the whole image; -1 takes the class of most labels.

    Returns:
        One answer, or several and ``ANY`` where labels that are not known decide.
    """
    possible: set[int] = set()
    for one in ~touched_sv:
        named: set[int] = set()
        known = True
        for other in ~touched_sv:
            labels = labels_v[one & other]
            if (labels < 0).any():
                known = False
            else:
                named.add(int(np.bincount(labels, minlength=1).argmax()))
            if len(named) > 1:
                break
        if len(named) > 1:
            continue  # no witness
        if known:
            return named
        possible |= named or {ANY}
    fallback = plain if plain >= 0 else int(np.bincount(labels_v[labels_v >= 0]).argmax())
    return possible | {fallback}


def votes_for(votes: VoteArray, classes: Sequence[int] | None, num_classes: int) -> IntArray:
    """Count the votes for each class; int (C,). The prediction is the first of the largest.

    Args:
        votes: Votes (V,) or sets (V, T) of some views of one image.
        classes: Classes that can be voted for, the others get -1; None for all.
        num_classes: C.
    """
    counts_c = np.bincount(votes[votes >= 0].ravel(), minlength=num_classes).astype(np.int64)
    if classes is not None:
        barred = np.ones(num_classes, dtype=bool)
        barred[list(classes)] = False
        counts_c[barred] = -1
    return counts_c


def strengths(counts_c: IntArray, prediction: int) -> IntArray:
    """Return r_j + [j < c] for each rival j of the prediction c; int (C,).

    A rival wins as soon as its strength exceeds the votes of c, because ties go to the lower class.
    c itself and classes that cannot be voted for (-1) get -1.
    """
    strength_c = counts_c + (np.arange(len(counts_c)) < prediction)
    strength_c[counts_c < 0] = strength_c[prediction] = -1
    return strength_c


def changed_votes(before: VoteArray, after: VoteArray) -> BoolArray:
    """Tell for each view if its vote changed; bool (R, V).

    Args:
        before: Votes (R, V), or sets (R, V, T).
        after: Votes or sets of the same images, perhaps with another T.
    """
    if before.ndim == 2:
        return np.asarray(before != after)
    slots = max(before.shape[2], after.shape[2])
    one, other = (
        np.sort(
            np.pad(votes, ((0, 0), (0, 0), (0, slots - votes.shape[2])), constant_values=-1), axis=2
        )
        for votes in (before, after)
    )
    return np.asarray((one != other).any(axis=2))


def rewritten(votes: VoteArray, touched_v: BoolArray, rival: int) -> VoteArray:
    """Return one image's votes (V,) or sets (V, T) with every touched view voting for the rival."""
    after = votes.copy()
    if votes.ndim == 1:
        after[touched_v] = rival
    else:
        after[touched_v] = -1
        after[touched_v, 0] = rival
    return after
