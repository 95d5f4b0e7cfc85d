"""Which views a patch touches at each location, and how many of their votes it holds.

Shape suffixes: N images, V ablations (views), L locations; Vy x Vx and Ly x Lx for the cells of the
views' grid and the locations along the two axes. Arrays have the images last, so that every
operation on views or locations is one on whole contiguous rows.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.ablation import Ablation, BoolArray, IntArray, Patch

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
        touched_lv = np.unique(touched_lv, axis=0)
        views, length = touched_lv.shape[1], touched_lv.sum(axis=1)
        # Where all or none are touched, no view begins a run, and argmax says 0 as it should.
        first = (touched_lv & ~np.roll(touched_lv, 1, axis=1)).argmax(axis=1)
        run_lv = (np.arange(views) - first[:, None]) % views < length[:, None]
        assert (run_lv == touched_lv).all(), "a patch touches views that are not one cyclic run"
        return cls(first, first + length)

    def sums(self, votes: CountArray) -> CountArray:
        """Sum votes over each run of views; (V, ...) to (L, ...)."""
        prefix = np.zeros((int(self.end.max()) + 1, *votes.shape[1:]), votes.dtype)
        # Row by row: cumsum walks the columns instead, many times slower.
        for view in range(len(prefix) - 1):
            np.add(prefix[view], votes[view % len(votes)], out=prefix[view + 1])
        sums: CountArray = prefix.take(self.end, axis=0)
        sums -= prefix.take(self.first, axis=0)
        return sums


class TouchedViews(NamedTuple):
    """Which views each location touches, one axis at a time.

    Views lie on some or all cells of a grid of Vy x Vx offsets, locations on one of Ly x Lx, and a
    location touches the view of a cell iff it does so along both axes: a rectangle of the grid,
    summed along one axis and then along the other, where cells without a view (a random family
    leaves most of them empty) add nothing. The (L, V) matrix, 2 GB for blocks at stride 1, is
    never built.

    Attributes:
        rows: The rows of the grid that each vertical edge coordinate touches.
        columns: Its columns that each horizontal one touches.
        shape: Rows and columns of the grid, (Vy, Vx).
        cells_v: Cell of each view, or None where view v is cell v and no cell is empty; int (V,).
        views: Number of views V.
    """

    rows: Runs
    columns: Runs
    shape: tuple[int, int]
    cells_v: IntArray | None
    views: int

    @classmethod
    def of(cls, ablation: Ablation, patch: Patch) -> "TouchedViews":
        """The distinct sets of views that ``patch`` touches, wherever it lies in the image."""
        rows, columns = ablation.touched_grid(patch)
        cells_v, shape = ablation.grid.cells_v, ablation.grid.shape
        in_order = np.array_equal(cells_v, np.arange(shape[0] * shape[1]))
        return cls(
            Runs.of(rows), Runs.of(columns), shape, None if in_order else cells_v, len(ablation)
        )

    @property
    def numbers(self) -> int:
        """Cells and locations: the numbers that ``votes`` handles for one image."""
        return self.shape[0] * self.shape[1] + len(self.rows.first) * len(self.columns.first)

    @property
    def sizes_l(self) -> IntArray:
        """|I|: the number of views that each location touches; int64 (L,)."""
        return self.votes(np.ones((self.views, 1), np.int64))[:, 0].astype(np.int64)

    def votes(self, chosen_vn: CountArray) -> CountArray:
        """How many of each image's chosen views (0 or 1) each location touches; (L, N)."""
        cells = chosen_vn
        if self.cells_v is not None:
            cells = np.zeros((self.shape[0] * self.shape[1], chosen_vn.shape[1]), chosen_vn.dtype)
            cells[self.cells_v] = chosen_vn
        grid = cells.reshape(*self.shape, -1)
        across = self.columns.sums(grid.swapaxes(0, 1))  # (Lx, Vy, N)
        both = self.rows.sums(across.swapaxes(0, 1))  # (Ly, Lx, N)
        return both.reshape(-1, grid.shape[2])
