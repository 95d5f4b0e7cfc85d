"""The judge of decisions that look at locations: pixels, definitions as they read, every vector.

What a view shows and where a patch lies is written out pixel by pixel, in no code under test. A
decision is tabulated over *every* vector of labels of a tiny family; a certificate holds iff the
answer is the same all over the vectors that one patch can reach, and that is read off the table.

Shapes: V views, N vectors, S sets, C classes, T slots of a vote set.
"""

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np

from tests.pipeline.certificates.bruteforce import (
    Geometry,
    ViewSet,
    ballots,
    patch_masks,
    view_masks,
)
from tests.pipeline.certificates.mutants import (
    ABLATIONS,
    BATCH,
    FAMILY,
    MASKS,
    MODULES,
    THREATS,
)

Modules = dict[str, ModuleType]
INSTALLED: Modules = {name: importlib.import_module(name) for name in MODULES}


@dataclass(frozen=True)
class Scene:
    """Views and an attacker.

    Attributes:
        g: Size of the image and the attacker; of bands and blocks the views as well.
        masks: Hidden rectangles (y, x, height, width), which may wrap; none for bands and blocks.
        pairs: Whether views hide two of them.
    """

    g: Geometry
    masks: tuple[tuple[int, int, int, int], ...] = ()
    pairs: bool = False

    def shown(self) -> np.ndarray:
        """The pixels that each view shows; bool (V, height, width)."""
        if not self.masks:
            return view_masks(self.g)
        hidden = np.zeros((len(self.masks), self.g.height, self.g.width), bool)
        for pixels, (y0, x0, high, wide) in zip(hidden, self.masks, strict=True):
            for y, x in product(range(y0, y0 + high), range(x0, x0 + wide)):
                pixels[y % self.g.height, x % self.g.width] = True
        return np.array([~(hidden[i] | hidden[j]) for i, j in self.numbering()])

    def numbering(self) -> list[tuple[int, int]]:
        """The masks i <= j that each view hides, in the order of its number."""
        numbers = range(len(self.masks))
        return [(i, j) for i in numbers for j in numbers if (i <= j if self.pairs else i == j)]

    def touched(self) -> list[ViewSet]:
        """The views of which one patch covers a shown pixel, for every place; sets repeat."""
        shown = self.shown()
        return [
            frozenset(np.flatnonzero((shown & patch).any(axis=(1, 2))).tolist())
            for patch in patch_masks(self.g)
        ]

    def family(self, modules: Modules = INSTALLED) -> Any:
        """The views, as the code under test has them."""
        if not self.masks:
            return modules[ABLATIONS].Ablation(**self.g.ablation)
        masks = modules[MASKS]
        return masks.Masks(
            height=self.g.height,
            width=self.g.width,
            masks=tuple(masks.Mask(*mask) for mask in self.masks),
            pairs=self.pairs,
            covers=(),
        )

    def threat(self, modules: Modules = INSTALLED) -> Any:
        """The attacker, as the code under test has them."""
        if self.g.area is not None:
            return modules[THREATS].Threat(area=self.g.area)
        patch = modules[FAMILY].Patch(self.g.patch_height, self.g.patch_width)
        return modules[THREATS].Threat(patch, count=self.g.count)

    def batch(
        self,
        votes: np.ndarray,
        num_classes: int,
        modules: Modules = INSTALLED,
        plain: np.ndarray | None = None,
    ) -> Any:
        """Some votes on the views, as the code under test has them."""
        return modules[BATCH].VoteBatch(votes, self.family(modules), num_classes, plain_n=plain)


def line(length: int, *masks: tuple[int, int], patch: int = 1, pairs: bool = True) -> Scene:
    """Masks (start, extent) of an image one pixel high."""
    g = Geometry("mask", 0, 0, 1, length, 1, patch)
    return Scene(g, tuple((0, start, 1, extent) for start, extent in masks), pairs)


def grid(
    height: int, width: int, *masks: tuple[int, int, int, int], patch: tuple[int, int] = (1, 1)
) -> Scene:
    """Pairs of masks of an image."""
    return Scene(Geometry("mask", 0, 0, height, width, *patch), masks, pairs=True)


def largest(sets: Iterable[ViewSet]) -> list[ViewSet]:
    """The distinct sets that lie within no other one."""
    distinct = set(sets)
    return [one for one in distinct if not any(one < other for other in distinct)]


def every_vector(num_views: int, num_classes: int, most: int | None = None) -> np.ndarray:
    """Every vector of labels, or of sets of at most ``most``; int (A ** V, V) or (A ** V, V, T)."""
    kinds = ballots(num_classes, most)
    if most is None:
        return np.array(list(product(range(num_classes), repeat=num_views)))
    padded = [ballot + (-1,) * (most - len(ballot)) for ballot in kinds]
    return np.array(list(product(padded, repeat=num_views))).reshape(-1, num_views, most)


def counted(votes: np.ndarray, num_classes: int) -> np.ndarray:
    """Mark the class that each view names; int (V, N, C)."""
    sets = votes if votes.ndim == 3 else votes[:, :, None]
    named = [(sets == c).any(axis=2) for c in range(num_classes)]
    return np.stack(named, axis=2).transpose(1, 0, 2).astype(int)


def outside(votes: np.ndarray, touched: ViewSet, num_classes: int) -> np.ndarray:
    """Votes outside a set; int (N, C)."""
    kept = [view for view in range(votes.shape[1]) if view not in touched]
    return counted(votes, num_classes)[kept].sum(axis=0)


@dataclass(frozen=True)
class Pairs:
    """phi of what is outside two sets, of all of them, as it reads.

    Attributes:
        phi_ssn: The class with most votes, the lowest on ties; int (S, S, N).
        leads_ssnc: r_y less the largest r_j + [j < y] of another class j; int (S, S, N, C).
    """

    phi_ssn: np.ndarray
    leads_ssnc: np.ndarray

    @classmethod
    def of(cls, votes: np.ndarray, sets: list[ViewSet], num_classes: int) -> "Pairs":
        """Count outside every two sets."""
        counts = np.array([[outside(votes, s | t, num_classes) for t in sets] for s in sets])
        leads = np.empty_like(counts)
        for y in range(num_classes):
            others = [counts[..., j] + (j < y) for j in range(num_classes) if j != y]
            leads[..., y] = counts[..., y] - np.max(others, axis=0)
        return cls(counts.argmax(axis=-1), leads)

    def witnesses(self, y: int) -> np.ndarray:
        """The sets that are a witness for y; bool (S, N)."""
        return (self.phi_ssn == y).all(axis=1)

    def answers(self, fallback: np.ndarray) -> np.ndarray:
        """The two-location answer; int (N,)."""
        named = np.array([self.witnesses(y).any(axis=0) for y in range(self.leads_ssnc.shape[-1])])
        assert (named.sum(axis=0) <= 1).all(), "two witnesses disagree"
        return np.where(named.any(axis=0), named.argmax(axis=0), fallback)


def broken(
    answers: np.ndarray, certified: np.ndarray, sets: Iterable[ViewSet], views: int, alert: int = -9
) -> int:
    """Certified vectors from which rewriting one of the sets leads to another answer.

    Args:
        answers: Of ``every_vector``, in its order.
        certified: The same.
        sets: What the attacker can touch.
        views: Number of views V.
        alert: An answer that does the attacker no good.
    """
    kinds = round(len(answers) ** (1 / views))
    assert kinds**views == len(answers)
    table = answers.reshape((kinds,) * views)
    low, high = np.where(table == alert, 10**6, table), np.where(table == alert, -(10**6), table)
    bad = np.zeros(table.shape, bool)
    for touched in set(sets):
        axes = tuple(touched)
        reached_low = low.min(axis=axes, keepdims=True)
        reached_high = high.max(axis=axes, keepdims=True)
        bad |= (reached_low < table) | (reached_high > table)
    return int((bad.ravel() & certified).sum())


def patchcleanser(table: np.ndarray, num_classes: int) -> int:
    """The published inference, step by step, from the labels of pairs; int (M, M), symmetric.

    First round: one mask at a time. If all labels agree, that is the answer. Each mask whose label
    is not the majority's is then tried with every second mask on top (itself among them): if all of
    these agree, the label of the second round is the answer. If no such mask does, the majority is.
    """
    masks = range(len(table))
    first_round = [int(table[i][i]) for i in masks]
    votes = [first_round.count(c) for c in range(num_classes)]
    majority = votes.index(max(votes))
    if len(set(first_round)) == 1:
        return majority
    for i in masks:
        if first_round[i] == majority:
            continue
        second_round = {int(table[i][j]) for j in masks}
        if len(second_round) == 1:
            return second_round.pop()
    return majority


def label_tables(labels: np.ndarray, masks: int) -> np.ndarray:
    """Symmetric tables of the labels of pairs, numbered row by row from the diagonal on."""
    tables = np.zeros((len(labels), masks, masks), int)
    number = 0
    for i in range(masks):
        for j in range(i, masks):
            tables[:, i, j] = tables[:, j, i] = labels[:, number]
            number += 1
    return tables
