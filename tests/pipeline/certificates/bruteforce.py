"""The judge of the certificates: pixels, ballots and every reassignment of them, nothing clever.

Touched sets come from overlapping pixel masks, not from ``models.ablation``: what a view shows and
where a patch lies is written out pixel by pixel, and a location touches a view iff the two share a
pixel. Whether a prediction can change is found by rewriting the touched votes in every way.

To prove a new rule, compare its ``margins >= 0`` with ``~can_change(votes, sets, classes)``, where
``sets`` are the sets of views that its attacker may rewrite (see agreement.py). Votes are (N, V),
or vote sets (N, V, T) with -1 in empty slots: then a rewritten view may vote for any set of at
most T classes, the empty one among them.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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

    @property
    def ablation(self) -> dict[str, int | str | None]:
        """Keyword arguments of ``models.ablation.Ablation``."""
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
    """The pixels of the patch at every place wholly inside the image; bool (height, width)."""
    for y in range(g.height - g.patch_height + 1):
        for x in range(g.width - g.patch_width + 1):
            mask = np.zeros((g.height, g.width), bool)
            mask[y : y + g.patch_height, x : x + g.patch_width] = True
            yield mask


def touched_sets(g: Geometry) -> set[ViewSet]:
    """The views that share a pixel with the patch, for every place it can lie."""
    views = view_masks(g)
    return {
        frozenset(np.flatnonzero((views & patch).any(axis=(1, 2))).tolist())
        for patch in patch_masks(g)
    }


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


def can_change(votes: np.ndarray, sets: Iterable[ViewSet], num_classes: int) -> np.ndarray:
    """Whether rewriting one of the sets of views can change each prediction; bool (N,)."""
    predicted = predictions(votes, num_classes)
    most = votes.shape[2] if votes.ndim == 3 else None
    changed = np.zeros(len(votes), bool)
    for views in sets:
        outside = class_counts(np.delete(votes, list(views), axis=1), num_classes)
        after = outside[:, None, :] + outcomes(len(views), num_classes, most)[None, :, :]
        changed |= (after.argmax(axis=2) != predicted[:, None]).any(axis=1)
    return changed
