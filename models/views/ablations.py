"""Ablations: the views that a smoothed classifier votes over, and the patches they meet.

All lengths are pixels of the *attacker's grid*: the image as the model receives it, or, with
``pixel_scale`` p, the image before an exact p-fold nearest-neighbour enlargement, on which one
pixel is p x p model pixels. Pure numpy: no torch, so that certificates can be computed where no
model can run. Shapes: V views, L locations, Y x X a grid.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.views.sampling import random_offsets

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
AblationKind = Literal["column", "row", "block"]


class Patch(NamedTuple):
    """A rectangle of adversarial pixels, wholly inside the image (it does not wrap)."""

    height: int
    width: int

    @classmethod
    def square(cls, side: int) -> "Patch":
        """A patch of ``side`` x ``side`` pixels."""
        return cls(side, side)

    def __str__(self) -> str:
        return f"{self.height}x{self.width} px"


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
class Ablation:
    """The family of ablations of an image: what each of them shows, and which a patch can touch.

    One object answers every geometric question, so that the model and the certificate cannot
    disagree about what an ablation shows.

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
        return _corners(*(np.arange(0, steps, self.stride) for steps in self._steps))

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
        return _band(self.positions[:, 0], self._extent[0], self.height)

    @cached_property
    def visible_columns(self) -> BoolArray:
        """Pixel columns that each ablation shows; bool (V, width)."""
        return _band(self.positions[:, 1], self._extent[1], self.width)

    def visible(self, view: int) -> BoolArray:
        """The pixels that ablation ``view`` shows; bool (height, width)."""
        shown: BoolArray = self.visible_rows[view][:, None] & self.visible_columns[view][None, :]
        return shown

    def kept_tokens(self, view: int, token_px: tuple[int, int]) -> IntArray:
        """Tokens with at least one visible pixel, ascending, row-major; int (K,).

        Args:
            view: Number of the ablation.
            token_px: Height and width of a token in *model* pixels.

        Raises:
            ValueError: The tokens do not tile the model's input.
        """
        rows, columns = (
            _shown_tokens(visible[view], self.pixel_scale, token)
            for visible, token in zip(
                (self.visible_rows, self.visible_columns), token_px, strict=True
            )
        )
        return np.flatnonzero(rows[:, None] & columns[None, :]).astype(np.int64)

    def check_patch(self, patch: Patch) -> None:
        """Raise ValueError unless ``patch`` fits inside the image."""
        if not (1 <= patch.height <= self.height and 1 <= patch.width <= self.width):
            raise ValueError(
                f"patch {patch}: it must be at least 1x1 and fit the "
                f"{self.height}x{self.width} px image; choose a smaller --patch"
            )

    def locations(self, patch: Patch) -> IntArray:
        """Corners (y, x) of every location that matters, row-major, in pixels; int (L, 2).

        A column ablation cannot tell rows apart, so only the left edge varies (y = 0); of a row
        ablation only the upper edge does (x = 0).

        Raises:
            ValueError: The patch does not fit.
        """
        return _corners(*self._edges(patch))

    def coordinates(self, y: int, x: int) -> tuple[int | None, int | None]:
        """The y and the x of a location, None along an axis that the views cannot tell."""
        varies_y, varies_x = self.varies
        return y if varies_y else None, x if varies_x else None

    def _edges(self, patch: Patch) -> tuple[IntArray, IntArray]:
        """The y and the x of ``locations``, ascending; int (Ly,) and (Lx,)."""
        self.check_patch(patch)
        return (
            np.arange(1 if self.kind == "column" else self.height - patch.height + 1),
            np.arange(1 if self.kind == "row" else self.width - patch.width + 1),
        )

    def touched_grid(self, patch: Patch) -> tuple[BoolArray, BoolArray]:
        """Touched rows (Ly, Vy) and columns (Lx, Vx) of ``grid``, per edge coordinate.

        A patch at location (y, x) touches the view of a cell iff it does so along both axes.

        Raises:
            ValueError: The patch does not fit.
        """
        y0, x0 = self._edges(patch)
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

    def touched(self, patch: Patch) -> BoolArray:
        """Ablations that a patch at each of ``locations`` touches; bool (L, V)."""
        rows, columns = self.touched_axes(patch)
        both = rows[:, None, :] & columns[None, :, :]
        return both.reshape(-1, len(self))

    def max_touched(self, patch: Patch) -> int:
        """Delta: the most ablations that a patch can touch at any location.

        Counted, not by the published ceil((m + b - 1) / s), which is too small where the stride
        does not divide the length, because the last and the first offset are closer than it.
        """
        rows, columns = self.touched_grid(patch)
        # Floats are exact below 2^53 and have a fast matrix product, which numpy's integers lack.
        taken = self.grid.taken().astype(np.float64)
        return int((rows.astype(np.float64) @ taken @ columns.T.astype(np.float64)).max())


def _band(start: IntArray, size: int, length: int) -> BoolArray:
    """Rows of bool (V, length): True on [start, start + size) modulo ``length``."""
    return (np.arange(length)[None, :] - start[:, None]) % length < size


def _band_meets(start: IntArray, size: int, length: int, first: IntArray, extent: int) -> BoolArray:
    """True where the interval [first, first + extent) meets the wrapped band; bool (L, V).

    Two arcs of a circle intersect iff one of them begins inside the other.
    """
    offset = (first[:, None] - start[None, :]) % length
    return (offset < size) | ((-offset) % length < extent)


def _corners(ys: IntArray, xs: IntArray) -> IntArray:
    """Every (y, x), row-major; int64 (Y * X, 2)."""
    grid = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1)
    return grid.reshape(-1, 2).astype(np.int64)


def _shown_tokens(visible: BoolArray, scale: int, token: int) -> BoolArray:
    """Tokens along one axis that hold a visible pixel; bool (tokens,).

    Args:
        visible: Visible pixels of the attacker's grid along this axis; bool (length,).
        scale: Model pixels per pixel of the attacker's grid.
        token: Extent of a token, in model pixels.

    Raises:
        ValueError: The tokens do not tile the axis.
    """
    if (len(visible) * scale) % token:
        raise ValueError(f"tokens of {token} px do not tile {len(visible) * scale} model pixels")
    shown: BoolArray = np.any(visible.repeat(scale).reshape(-1, token), axis=1)
    return shown
