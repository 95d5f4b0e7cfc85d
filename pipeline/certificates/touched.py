"""Views that a patch touches at each location, and their votes, counted.

Shape suffixes: N images, V ablations (views), L locations; Vy x Vx and Ly x Lx for the cells of the
views' grid and the locations along the two axes. Arrays have the images last, so that every
operation on views or locations is one on whole contiguous rows.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.views.ablations import Ablation
from models.views.family import BoolArray, IntArray, Patch, ViewFamily

# Votes of a chunk, in as few bytes as their number allows.
CountArray = NDArray[np.signedinteger[Any]]


class Runs(NamedTuple):
    """The views that each location touches along one axis: [first, end) modulo the views.

    The views touched are those whose offsets lie on one arc of the circle, so they follow each
    other in cyclic order and are summed as a difference of two prefix sums.

    Attributes:
        first: First view of the run; int64 (L,).
        end: One behind its last, counted on past the number of views where the run wraps; (L,).
    """

    first: IntArray
    end: IntArray

    @classmethod
    def of(cls, touched_lv: BoolArray) -> "Runs":
        """The distinct runs among the rows of ``touched_lv``; equal rows give equal margins.

        Raises:
            AssertionError: The views touched at some location are not one cyclic run.
        """
        return cls.each(np.unique(touched_lv, axis=0))

    @classmethod
    def each(cls, touched_lv: BoolArray) -> "Runs":
        """The run of each row of ``touched_lv``.

        Raises:
            AssertionError: As ``of``.
        """
        views, length = touched_lv.shape[1], touched_lv.sum(axis=1)
        # Where all or none are touched, no view begins a run, and argmax says 0 as it should.
        first = (touched_lv & ~np.roll(touched_lv, 1, axis=1)).argmax(axis=1)
        run_lv = (np.arange(views) - first[:, None]) % views < length[:, None]
        assert (run_lv == touched_lv).all(), "a patch touches views that are not one cyclic run"
        return cls(first, first + length)

    def within(self, other: "Runs", views: int) -> BoolArray:
        """Tell which of these runs lie within which others, on a circle of ``views``; (L, L')."""
        length, room = (self.end - self.first)[:, None], other.end - other.first
        shift = (self.first[:, None] - other.first) % views
        # No view lies anywhere, and the circle as a whole holds all, wherever it begins.
        inside: BoolArray = (shift + length <= room) | (length == 0) | (room == views)
        return inside

    def largest(self, views: int) -> "Runs":
        """Those that lie within no other, in the order of their first views: ends ascend as well.

        Args:
            views: Number of views on the circle.
        """
        inside = self.within(self, views)
        # Of equal runs the first one stays: the circle as a whole may begin anywhere.
        earlier = np.tri(len(inside), k=-1, dtype=bool)
        kept = np.flatnonzero(~(inside & (~inside.T | earlier)).any(axis=1))
        kept = kept[np.argsort(self.first[kept])]
        return Runs(self.first[kept], self.end[kept])


class TouchedViews(NamedTuple):
    """Sets of views that a patch touches, one axis at a time.

    Views lie on some or all cells of a grid of Vy x Vx offsets, locations on one of Ly x Lx, and a
    location touches the view of a cell iff it does so along both axes: a rectangle of the grid,
    counted along one axis and then along the other, where cells without a view (a random family
    leaves most of them empty) add nothing. The (L, V) matrix, 2 GB for blocks at stride 1, is
    never built.

    Attributes:
        rows: Runs of rows of the grid; a set is one of them and one of ``columns``, L in all.
        columns: Runs of its columns.
        ablation: The views.
    """

    rows: Runs
    columns: Runs
    ablation: Ablation

    @classmethod
    def of(cls, ablation: Ablation, patch: Patch) -> "TouchedViews":
        """The distinct sets of views that ``patch`` touches, wherever it lies in the image.

        Raises:
            ValueError: The patch does not fit.
        """
        rows, columns = ablation.touched_grid(patch)
        return cls(Runs.of(rows), Runs.of(columns), ablation)

    @property
    def views(self) -> int:
        """Number of views V."""
        return len(self.ablation)

    @property
    def sizes_l(self) -> IntArray:
        """|I|: the number of views in each set; int64 (L,)."""
        return self.votes(np.ones((self.views, 1), np.int64))[:, 0].astype(np.int64)

    def votes(self, chosen_vn: CountArray) -> CountArray:
        """Count each image's chosen views (0 or 1) in each set; (L, N)."""
        return self.counts(prefix_sums(self.ablation, chosen_vn, chosen_vn.dtype))

    def counts(self, prefix: CountArray) -> CountArray:
        """The same from ``prefix_sums`` of the chosen views, which many questions can share."""
        counts = _along(_along(prefix, self.rows, 0), self.columns, 1)
        return counts.reshape(counts.shape[0] * counts.shape[1], counts.shape[2])


@dataclass(frozen=True)
class Locations:
    """Every location of a patch, by the set of views that it touches: S sets, of any family.

    Attributes:
        views: The views.
        patch: The patch.
        sets_yx: The set of each location, each number below S at some; int64 (Ly, Lx).
    """

    views: ViewFamily
    patch: Patch
    sets_yx: IntArray

    @classmethod
    def of(cls, views: ViewFamily, patch: Patch) -> "Locations":
        """All locations of ``patch`` wholly inside the image.

        Raises:
            ValueError: The patch does not fit.
        """
        if not isinstance(views, Ablation):
            return cls(views, patch, views.touched_sets(patch).sets_yx)
        # TouchedViews numbers its sets by np.unique too.
        row_y, column_x = (
            np.unique(touched_lv, axis=0, return_inverse=True)[1].ravel()
            for touched_lv in views.touched_grid(patch)
        )
        return cls(views, patch, row_y[:, None] * (column_x.max() + 1) + column_x[None, :])

    @property
    def sets(self) -> int:
        """Number of sets S."""
        return int(self.sets_yx.max()) + 1

    @cached_property
    def grid(self) -> TouchedViews:
        """The sets of ablations, counted along the axes of their grid."""
        assert isinstance(self.views, Ablation), "masks have no grid of offsets"
        return TouchedViews.of(self.views, self.patch)

    @cached_property
    def touched_sv(self) -> BoolArray:
        """The sets one by one; bool (S, V)."""
        first_s = np.unique(self.sets_yx, return_index=True)[1]
        found = self.views.touched_sets(self.patch)
        touched_sv: BoolArray = found.touched_sv[found.sets_yx.ravel()[first_s]]
        return touched_sv


def prefix_sums(ablation: Ablation, chosen_vn: NDArray[Any], dtype: "np.dtype[Any]") -> CountArray:
    """Chosen views above and to the left of each corner of the grid of offsets.

    Args:
        ablation: The views.
        chosen_vn: Which of them are chosen for each image; bool, or 0 and 1, (V, N).
        dtype: Of the sums, which reach V.

    Returns:
        Sums; (Vy + 1, Vx + 1, N), without the "+ 1" along an axis of one cell, which needs none.
    """
    rows, columns = ablation.grid.shape
    down, right = int(rows > 1), int(columns > 1)
    sums = np.zeros((rows + down, columns + right, chosen_vn.shape[1]), dtype)
    row_v, column_v = np.divmod(ablation.grid.cells_v, columns)
    sums[row_v + down, column_v + right] = chosen_vn
    # Row by row: cumsum walks the columns instead, many times slower.
    for row in range(rows if down else 0):
        sums[row + 1] += sums[row]
    for column in range(columns if right else 0):
        sums[:, column + 1] += sums[:, column]
    return sums


def _along(prefix: CountArray, runs: Runs, axis: int) -> CountArray:
    """Sums over the runs of one axis, from prefix sums along it."""
    sums: CountArray
    cells = prefix.shape[axis] - 1
    if not cells:  # one cell: no sums, it is touched or not
        if len(runs.first) == 1:
            return prefix  # somewhere it is
        sums = prefix.take(np.zeros_like(runs.first), axis)
        sums[(slice(None),) * axis + (runs.end == runs.first,)] = 0
        return sums
    wraps = runs.end > cells
    sums = prefix.take(runs.end - cells * wraps, axis)
    sums -= prefix.take(runs.first, axis)
    if wraps.any():
        sums[(slice(None),) * axis + (wraps,)] += prefix.take([cells], axis)
    return sums
