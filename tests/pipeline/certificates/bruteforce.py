"""The judge of the certificates: pixels, ballots and every reassignment of them, nothing clever.

Touched sets come from overlapping pixel masks, not from ``Ablation``: what a view shows and
where a patch lies is written out pixel by pixel, and a location touches a view iff the two share a
pixel. Whether a prediction can change is found by rewriting the touched votes in every way.

A new rule needs nothing here: agreement.py and the mutants ask it the same questions. Votes are
(N, V), or vote sets (N, V, T) with -1 in empty slots: then a rewritten view may vote for any set of
at most T classes, the empty one among them.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, combinations_with_replacement, product

import numpy as np

ViewSet = frozenset[int]


@dataclass(frozen=True)
class Geometry:
    """What to ablate and what to attack, in pixels, in terms that involve no code under test."""

    kind: str
    size: int
    stride: int
    height: int
    width: int
    patch_height: int
    patch_width: int
    random: int | None = None
    seed: int = 0
    # Instead of the patch, every rectangle of at most so many pixels; and so many patches at once.
    area: int | None = None
    count: int = 1

    @property
    def ablation(self) -> dict[str, int | str | None]:
        """Keyword arguments of ``models.views.ablations.Ablation``."""
        names = ("kind", "size", "stride", "height", "width", "random", "seed")
        return {name: getattr(self, name) for name in names}


def view_corners(g: Geometry) -> list[tuple[int, int]]:
    """The offset (y, x) of each view: all on the grid, or the ``random`` of smallest SHA-256."""
    ys = range(0, g.height, g.stride) if g.kind != "column" else [0]
    xs = range(0, g.width, g.stride) if g.kind != "row" else [0]
    every = list(product(ys, xs))
    digests = [hashlib.sha256(b"%d/%d/%d" % (g.seed, y, x)).hexdigest() for y, x in every]
    chosen = sorted(digests)[: g.random]
    return [offset for offset, digest in zip(every, digests, strict=True) if digest in chosen]


def view_masks(g: Geometry) -> np.ndarray:
    """The pixels that each view shows, wrapping around; bool (V, height, width)."""
    views = view_corners(g)
    masks = np.zeros((len(views), g.height, g.width), bool)
    for mask, (y0, x0) in zip(masks, views, strict=True):
        for y in range(g.height if g.kind == "column" else g.size):
            for x in range(g.width if g.kind == "row" else g.size):
                mask[(y0 + y) % g.height, (x0 + x) % g.width] = True
    return masks


def patch_masks(g: Geometry) -> Iterator[np.ndarray]:
    """The pixels of one patch at every place wholly inside the image; bool (height, width)."""
    shapes = [(g.patch_height, g.patch_width)]
    if g.area is not None:
        every = product(range(1, g.height + 1), range(1, g.width + 1))
        shapes = [(height, width) for height, width in every if height * width <= g.area]
    for height, width in shapes:
        for y in range(g.height - height + 1):
            for x in range(g.width - width + 1):
                mask = np.zeros((g.height, g.width), bool)
                mask[y : y + height, x : x + width] = True
                yield mask


def touched_sets(g: Geometry) -> set[ViewSet]:
    """The views that share a pixel with the patches, for every place each of them can lie."""
    views = view_masks(g)
    one = {
        frozenset(np.flatnonzero((views & patch).any(axis=(1, 2))).tolist())
        for patch in patch_masks(g)
    }
    return {frozenset().union(*patches) for patches in product(one, repeat=g.count)}


def most_views(g: Geometry) -> int:
    """What the uniform rule takes its attacker to touch: the most of one patch, times the count."""
    alone = max(map(len, touched_sets(replace(g, count=1))))
    return min(g.count * alone, len(view_masks(g)))


def any_views(num_views: int, how_many: int) -> set[ViewSet]:
    """Every set of so many views: the attacker that the uniform rule assumes."""
    return {frozenset(views) for views in combinations(range(num_views), how_many)}


def ballots(num_classes: int, most: int | None) -> list[tuple[int, ...]]:
    """All that one view can vote: one class, or with ``most`` any set of at most so many."""
    sizes = [1] if most is None else range(most + 1)
    return [ballot for size in sizes for ballot in combinations(range(num_classes), size)]


@cache
def outcomes(set_size: int, num_classes: int, most: int | None = None) -> np.ndarray:
    """The votes that a set of rewritten views can add to the classes; int (outcomes, C).

    Only how many views cast a ballot matters, so the reassignments of a ballot to each view
    (``product``) are listed as multisets, and those that add the same votes once;
    ``test_outcomes_cover_every_reassignment`` compares the two.
    """
    added = np.zeros((1, num_classes), int)
    kinds = ballots(num_classes, most)
    votes = np.array([[c in ballot for c in range(num_classes)] for ballot in kinds], int)
    if set_size:
        rewritten = combinations_with_replacement(range(len(kinds)), set_size)
        added = votes[np.array(list(rewritten))].sum(axis=1)
    return np.unique(added, axis=0)


def class_counts(votes: np.ndarray, num_classes: int) -> np.ndarray:
    """Views that vote for each class; int (N, C)."""
    sets = votes if votes.ndim == 3 else votes[:, :, None]
    return np.stack([(sets == c).any(axis=2).sum(axis=1) for c in range(num_classes)], axis=1)


def predictions(votes: np.ndarray, num_classes: int) -> np.ndarray:
    """The class with the most votes; argmax takes the first, so the lowest class wins ties."""
    return class_counts(votes, num_classes).argmax(axis=1)


def after_attack(
    votes: np.ndarray, sets: Iterable[ViewSet], num_classes: int
) -> Iterator[np.ndarray]:
    """The class counts after every rewriting, a set of views at a time; int (N, outcomes, C)."""
    most = votes.shape[2] if votes.ndim == 3 else None
    for views in sets:
        outside = class_counts(np.delete(votes, list(views), axis=1), num_classes)
        yield outside[:, None, :] + outcomes(len(views), num_classes, most)[None, :, :]


def can_change(votes: np.ndarray, sets: Iterable[ViewSet], num_classes: int) -> np.ndarray:
    """Whether rewriting one of the sets of views can change each prediction; bool (N,)."""
    predicted = predictions(votes, num_classes)
    changed = np.zeros(len(votes), bool)
    for after in after_attack(votes, sets, num_classes):
        changed |= (after.argmax(axis=2) != predicted[:, None]).any(axis=1)
    return changed


def exact_by_definition(votes: np.ndarray, sets: Iterable[ViewSet], num_classes: int) -> np.ndarray:
    """The smallest r_c - r_j - |I| - [j < c], as the formula reads; int (N,)."""
    predicted = predictions(votes, num_classes)
    classes = np.arange(num_classes)
    margins = np.full(len(votes), 10**6)
    for views in sets:
        r = class_counts(np.delete(votes, list(views), axis=1), num_classes)
        own = np.take_along_axis(r, predicted[:, None], axis=1)
        values = own - r - len(views) - (classes < predicted[:, None])
        values[classes == predicted[:, None]] = 10**6
        margins = np.minimum(margins, values.min(axis=1))
    return margins


def can_evict(
    votes: np.ndarray, sets: Iterable[ViewSet], num_classes: int, classes: np.ndarray, k: int
) -> np.ndarray:
    """Whether rewriting one of the sets can put k classes ahead of a class; bool (N,)."""
    evicted = np.zeros(len(votes), bool)
    images, numbers = np.arange(len(votes)), np.arange(num_classes)
    for after in after_attack(votes, sets, num_classes):
        own = after[images, :, classes][..., None]
        ahead = (after > own) | ((after == own) & (numbers < classes[:, None, None]))
        evicted |= (ahead.sum(axis=2) >= k).any(axis=1)
    return evicted


def worst_leads(
    votes: np.ndarray, sets: Iterable[ViewSet], num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The largest lead of another class, and the smallest of the prediction; int (N,) each."""
    predicted = predictions(votes, num_classes)
    attack, kept = np.full((2, len(votes)), -(10**6))
    kept = -kept
    for after in after_attack(votes, sets, num_classes):
        for c in range(num_classes):
            lead = after[..., c] - np.delete(after, c, axis=2).max(axis=2)
            own = predicted == c
            attack[~own] = np.maximum(attack, lead.max(axis=1))[~own]
            kept[own] = np.minimum(kept, lead.min(axis=1))[own]
    return attack, kept
