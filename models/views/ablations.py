"""Ablations: the views that show one band or block and hide the rest of the image.

All lengths are pixels of the attacker's grid (``family``). Shapes: V views, L locations, Vy x Vx
the grid of their offsets.
"""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from models.views.family import (
    BoolArray,
    Description,
    IntArray,
    Patch,
    Rectangles,
    TouchedSets,
    ViewFamily,
    arc,
    corners,
)
from models.views.sampling import random_offsets

AblationKind = Literal["column", "row", "block"]


class OffsetGrid(NamedTuple):
    """The smallest grid that holds every position of a family, some of its cells perhaps empty.

    What a patch touches is a product of two axes, so it is found once per distinct offset instead
    of once per view: 224 + 224 questions, not 50,176, for blocks at stride 1.

    Attributes:
        ys: Distinct vertical offsets, ascending; int64 (Vy,).
        xs: Distinct horizontal offsets, ascending; int64 (Vx,).
        cells_v: Row-major cell of every view, no two alike; int64 (V,).
    """

    ys: IntArray
    xs: IntArray
    cells_v: IntArray

    @classmethod
    def of(cls, positions: IntArray) -> "OffsetGrid":
        """The grid of distinct positions (y, x); int (V, 2)."""
        ys, row_v = np.unique(positions[:, 0], return_inverse=True)
        xs, column_v = np.unique(positions[:, 1], return_inverse=True)
        return cls(ys, xs, (row_v * len(xs) + column_v).astype(np.int64))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns: (Vy, Vx)."""
        return len(self.ys), len(self.xs)

    def taken(self) -> IntArray:
        """1 where a view lies on the cell, 0 elsewhere; int64 (Vy, Vx)."""
        cells = np.zeros(len(self.ys) * len(self.xs), np.int64)
        cells[self.cells_v] = 1
        return cells.reshape(self.shape)


@dataclass(frozen=True, kw_only=True)
class Ablation(ViewFamily):
    """The family of ablations of an image: what each of them shows, and which a patch can touch.

    A column ablation shows the columns [x, x + size) modulo the width, a row ablation the rows
    [y, y + size) modulo the height, a block ablation a size x size square that wraps both ways
    (Levine & Feizi, "(De)Randomized Smoothing", 2020; Salman et al., "Certified Patch Robustness
    via Smoothed Vision Transformers", 2022). Offsets are 0, stride, 2 stride, ... below the length,
    or ``random`` many of all offsets (``models.views.sampling``): public and the same for every
    image. Blocks are numbered row-major (y, then x).

    Attributes:
        kind: Shape of the shown pixels: column, row or block.
        size: Extent of the band or block, in pixels.
        stride: Distance of neighbouring offsets, in pixels.
        height: Height of the attacker's grid, in pixels.
        width: Width of the attacker's grid, in pixels.
        pixel_scale: Model pixels per pixel of the attacker's grid, along each axis.
        random: Positions chosen among all those of stride 1; None takes all those of ``stride``.
        seed: Number of the random family; 0 where there is none.

    Raises:
        ValueError: The size or the stride lies outside 1 .. the length they divide, more positions
            are asked for than there are, or the stride or the seed contradicts ``random``.
    """

    kind: AblationKind
    size: int
    stride: int
    height: int
    width: int
    pixel_scale: int = 1
    random: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("column", "row", "block"):
            raise ValueError(f"ablation={self.kind!r}: choose column, row or block")
        if min(self.height, self.width, self.pixel_scale) < 1:
            raise ValueError("image height, width and pixel_scale must be at least 1")
        limit = min(self.lengths)
        for name, value in (("size", self.size), ("stride", self.stride)):
            if not 1 <= value <= limit:
                raise ValueError(
                    f"{name}={value}: a {self.kind} ablation of a {self.height}x{self.width} px "
                    f"image needs a {name} from 1 to {limit} px"
                )

        if self.random is None:
            if self.seed:
                raise ValueError(
                    f"seed={self.seed}: only random positions have a seed; leave it at 0"
                )
            return
        if self.stride != 1:
            raise ValueError(
                f"stride={self.stride}: random positions are chosen among all offsets; use stride 1"
            )
        every = self._steps[0] * self._steps[1]
        if not 1 <= self.random <= every:
            raise ValueError(
                f"random={self.random}: a {self.kind} ablation of a {self.height}x{self.width} px "
                f"image has 1 to {every} positions to choose from"
            )

    @property
    def varies(self) -> tuple[bool, bool]:
        """True along y and along x where the views differ, so that a location's y or x matters."""
        return self.kind != "column", self.kind != "row"

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the image along the axes on which the views differ, in pixels."""
        sides = zip((self.height, self.width), self.varies, strict=True)
        return tuple(length for length, varies in sides if varies)

    @property
    def _steps(self) -> tuple[int, int]:
        """Vertical and horizontal extent of the offsets, in pixels: 1 where they do not vary."""
        return (
            1 if self.kind == "column" else self.height,
            1 if self.kind == "row" else self.width,
        )

    @cached_property
    def positions(self) -> IntArray:
        """Top-left corner (y, x) of every ablation, row-major, in pixels; int (V, 2)."""
        if self.random is not None:
            return random_offsets(self.seed, self.random, *self._steps)
        return corners(*(np.arange(0, steps, self.stride) for steps in self._steps))

    @cached_property
    def grid(self) -> OffsetGrid:
        """The distinct offsets along the two axes, and the cells of them that hold a view."""
        return OffsetGrid.of(self.positions)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def _extent(self) -> tuple[int, int]:
        """Visible height and width of one ablation, in pixels."""
        return (
            self.height if self.kind == "column" else self.size,
            self.width if self.kind == "row" else self.size,
        )

    @cached_property
    def visible_rows(self) -> BoolArray:
        """Pixel rows that each ablation shows; bool (V, height)."""
        return arc(self.positions[:, 0], self._extent[0], self.height)

    @cached_property
    def visible_columns(self) -> BoolArray:
        """Pixel columns that each ablation shows; bool (V, width)."""
        return arc(self.positions[:, 1], self._extent[1], self.width)

    @cached_property
    def rectangles(self) -> Rectangles:
        """The rows and columns that every ablation shows."""
        return Rectangles(self.visible_rows[:, None], self.visible_columns[:, None], hide=False)

    def __str__(self) -> str:
        places = f"stride {self.stride}" if self.random is None else "random positions"
        return f"{self.kind} ablations of {self.size} px, {places}"

    def describe(self) -> Description:
        """Describe the family for tables, titles and files."""
        places, tag = f"stride {self.stride}", f"s{self.stride}"
        if self.random is not None:
            places = f"{self.random} random positions (seed {self.seed})"
            tag = f"random{self.random}"
        return Description(
            self.kind,
            self.size,
            None if self.random is not None else self.stride,
            self.random,
            f"{self.kind} b={self.size} px",
            places,
            (f"{self.kind} b{self.size}", tag),
        )

    def to_identity(self) -> dict[str, dict[str, Any]]:
        """Write the family as the entry ``ablation`` of a run's identity, plain JSON."""
        return {"ablation": asdict(self)}

    def touched_grid(self, patch: Patch) -> tuple[BoolArray, BoolArray]:
        """Touched rows (Ly, Vy) and columns (Lx, Vx) of ``grid``, per edge coordinate.

        A patch at location (y, x) touches the view of a cell iff it does so along both axes.

        Raises:
            ValueError: The patch does not fit.
        """
        y0, x0 = self.edges(patch)
        size_y, size_x = self._extent
        rows = _band_meets(self.grid.ys, size_y, self.height, y0, patch.height)
        columns = _band_meets(self.grid.xs, size_x, self.width, x0, patch.width)
        return rows, columns

    def touched_axes(self, patch: Patch) -> tuple[BoolArray, BoolArray]:
        """Touched rows (Ly, V) and columns (Lx, V) of a patch, per view.

        A patch at location (y, x) touches ablation v iff rows[y, v] and columns[x, v].

        Raises:
            ValueError: The patch does not fit.
        """
        rows, columns = self.touched_grid(patch)
        row_v, column_v = np.divmod(self.grid.cells_v, self.grid.shape[1])
        return rows[:, row_v], columns[:, column_v]

    def touched_sets(self, patch: Patch) -> TouchedSets:
        """Find the views that a patch touches at every location.

        Raises:
            ValueError: The patch does not fit.
        """
        rows, columns = self.touched_axes(patch)
        rows, row_y = np.unique(rows, axis=0, return_inverse=True)
        columns, column_x = np.unique(columns, axis=0, return_inverse=True)
        touched_sv = (rows[:, None, :] & columns[None, :, :]).reshape(-1, len(self))
        sets_yx = row_y.reshape(-1, 1) * len(columns) + column_x.reshape(1, -1)
        return TouchedSets(touched_sv, sets_yx.astype(np.int64))

    def max_touched(self, patch: Patch) -> int:
        """Delta: the most ablations that a patch can touch at any location.

        Counted, not by the published ceil((m + b - 1) / s), which is too small where the stride
        does not divide the length, because the last and the first offset are closer than it.
        """
        rows, columns = self.touched_grid(patch)
        # Floats are exact below 2^53 and have a fast matrix product, which numpy's integers lack.
        taken = self.grid.taken().astype(np.float64)
        return int((rows.astype(np.float64) @ taken @ columns.T.astype(np.float64)).max())


def _band_meets(start: IntArray, size: int, length: int, first: IntArray, extent: int) -> BoolArray:
    """True where the interval [first, first + extent) meets the wrapped band; bool (L, V).

    Two arcs of a circle intersect iff one of them begins inside the other.
    """
    offset = (first[:, None] - start[None, :]) % length
    return (offset < size) | ((-offset) % length < extent)
