"""Bands on a circle, grids of corners, tokens of a line: the arithmetic behind ``Ablation``.

Pure numpy. Lengths are pixels. Shape suffixes: V bands, L intervals, Y x X a grid.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


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


def band(start: IntArray, size: int, length: int) -> BoolArray:
    """Rows of bool (V, length): True on [start, start + size) modulo ``length``."""
    return (np.arange(length)[None, :] - start[:, None]) % length < size


def band_meets(start: IntArray, size: int, length: int, first: IntArray, extent: int) -> BoolArray:
    """Whether the interval [first, first + extent) meets the wrapped band; bool (L, V).

    Two arcs of a circle intersect iff one of them begins inside the other.
    """
    offset = (first[:, None] - start[None, :]) % length
    return (offset < size) | ((-offset) % length < extent)


def corners(ys: IntArray, xs: IntArray) -> IntArray:
    """Every (y, x), row-major; int64 (Y * X, 2)."""
    grid = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1)
    return grid.reshape(-1, 2).astype(np.int64)


def shown_tokens(visible: BoolArray, scale: int, token: int) -> BoolArray:
    """Which tokens along one axis hold a visible pixel; bool (tokens,).

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
