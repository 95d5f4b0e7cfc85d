"""The family of ablations a smoothed classifier votes over, and the patches it meets.

One object answers every geometric question, so that the model and the certificate cannot
disagree about what an ablation shows. All lengths are pixels of the *attacker's grid*: the
image as the model receives it, or, with ``pixel_scale`` p, the image before an exact p-fold
nearest-neighbour enlargement, on which one pixel is p x p model pixels.

Pure numpy: no torch, so that certificates can be computed where no model can run.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

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


def _band(start: IntArray, size: int, length: int) -> BoolArray:
    """Rows of bool (V, length): True on [start, start + size) modulo ``length``."""
    return (np.arange(length)[None, :] - start[:, None]) % length < size


def _band_meets(start: IntArray, size: int, length: int, first: IntArray, extent: int) -> BoolArray:
    """Whether the interval [first, first + extent) meets the wrapped band; bool (L, V).

    Two arcs of a circle intersect iff one of them begins inside the other.
    """
    offset = (first[:, None] - start[None, :]) % length
    return (offset < size) | ((-offset) % length < extent)


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Every ablation of one image: what each shows and which a patch can touch.

    A column ablation shows the columns [x, x + size) modulo the width, a row ablation likewise
    rows, a block ablation a size x size square that wraps both ways (Levine & Feizi,
    "(De)Randomized Smoothing", 2020; Salman et al., "Certified Patch Robustness via Smoothed
    Vision Transformers", 2022). Offsets are 0, stride, 2 stride, ... below the length; blocks
    are numbered row-major (y, then x).

    Attributes:
        kind: The shape of what is shown.
        size: Extent of the band or block, in pixels.
        stride: Distance of neighbouring offsets, in pixels.
        height: Height of the attacker's grid, in pixels.
        width: Width of the attacker's grid, in pixels.
        pixel_scale: Model pixels per pixel of the attacker's grid, along each axis.

    Raises:
        ValueError: The size or the stride lies outside 1 .. the length they divide.
    """

    kind: AblationKind
    size: int
    stride: int
    height: int
    width: int
    pixel_scale: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("column", "row", "block"):
            raise ValueError(f"ablation={self.kind!r}: choose column, row or block")
        if min(self.height, self.width, self.pixel_scale) < 1:
            raise ValueError("image height, width and pixel_scale must be at least 1")
        limit = {"column": self.width, "row": self.height}.get(
            self.kind, min(self.height, self.width)
        )
        for name, value in (("size", self.size), ("stride", self.stride)):
            if not 1 <= value <= limit:
                raise ValueError(
                    f"{name}={value}: a {self.kind} ablation of a {self.height}x{self.width} px "
                    f"image needs a {name} from 1 to {limit} px"
                )

    @cached_property
    def positions(self) -> IntArray:
        """Top-left corner (y, x) of every ablation, in pixels; int (V, 2)."""
        ys = np.arange(0, self.height, self.stride) if self.kind != "column" else np.zeros(1, int)
        xs = np.arange(0, self.width, self.stride) if self.kind != "row" else np.zeros(1, int)
        return np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.int64)

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
        """Which pixel rows each ablation shows; bool (V, height)."""
        return _band(self.positions[:, 0], self._extent[0], self.height)

    @cached_property
    def visible_columns(self) -> BoolArray:
        """Which pixel columns each ablation shows; bool (V, width)."""
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
        axes = zip(
            (self.visible_rows[view], self.visible_columns[view]),
            (self.height, self.width),
            token_px,
            strict=True,
        )
        kept = []
        for visible, length, token in axes:
            if (length * self.pixel_scale) % token:
                raise ValueError(
                    f"tokens of {token} px do not tile {length * self.pixel_scale} model pixels"
                )
            kept.append(visible.repeat(self.pixel_scale).reshape(-1, token).any(axis=1))
        return np.flatnonzero(kept[0][:, None] & kept[1][None, :]).astype(np.int64)

    def check_patch(self, patch: Patch) -> None:
        """Raise ValueError unless ``patch`` fits inside the image."""
        if not (1 <= patch.height <= self.height and 1 <= patch.width <= self.width):
            raise ValueError(
                f"patch {patch}: it must be at least 1x1 and fit the "
                f"{self.height}x{self.width} px image; choose a smaller --patch"
            )

    def locations(self, patch: Patch) -> IntArray:
        """Corners (y, x) of every location that matters, row-major, in pixels; int (L, 2).

        A column ablation cannot tell rows apart, so only the left edge varies (y = 0), and
        likewise for rows.

        Raises:
            ValueError: The patch does not fit.
        """
        self.check_patch(patch)
        ys = np.arange(self.height - patch.height + 1) if self.kind != "column" else np.zeros(1)
        xs = np.arange(self.width - patch.width + 1) if self.kind != "row" else np.zeros(1)
        return np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.int64)

    def touched_axes(self, patch: Patch) -> tuple[BoolArray, BoolArray]:
        """Touched rows (Ly, V) and columns (Lx, V) of a patch, per edge coordinate.

        A patch at location (y, x) touches ablation v iff rows[y, v] and columns[x, v].

        Raises:
            ValueError: The patch does not fit.
        """
        corners = self.locations(patch)
        y0, x0 = np.unique(corners[:, 0]), np.unique(corners[:, 1])
        size_y, size_x = self._extent
        rows = _band_meets(self.positions[:, 0], size_y, self.height, y0, patch.height)
        columns = _band_meets(self.positions[:, 1], size_x, self.width, x0, patch.width)
        return rows, columns

    def touched(self, patch: Patch) -> BoolArray:
        """Which ablations a patch at each location touches; bool (L, V), as ``locations``."""
        rows, columns = self.touched_axes(patch)
        both = rows[:, None, :] & columns[None, :, :]
        return both.reshape(-1, len(self))

    def max_touched(self, patch: Patch) -> int:
        """Delta: the most ablations that a patch can touch at any location.

        Counted, not by the published ceil((m + b - 1) / s), which is too small where the stride
        does not divide the length, because the last and the first offset are closer than it.
        """
        rows, columns = self.touched_axes(patch)
        # (Ly, V) x (V, Lx) counts, per location, the ablations touched along both axes. Floats
        # are exact below 2^53 and have a fast matrix product, which numpy's integers lack.
        return int((rows.astype(np.float64) @ columns.T.astype(np.float64)).max())
