"""What each ablation of a family shows: its positions, its pixels, its tokens.

``models.ablation.Ablation`` is the class to use; it adds what a patch can touch. Pure numpy.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from models.geometry import BoolArray, IntArray, OffsetGrid, band, corners, shown_tokens
from models.sampling import random_offsets

AblationKind = Literal["column", "row", "block"]


@dataclass(frozen=True, kw_only=True)
class Views:
    """Every ablation of one image: what each of them shows.

    A column ablation shows the columns [x, x + size) modulo the width, a row ablation likewise
    rows, a block ablation a size x size square that wraps both ways (Levine & Feizi,
    "(De)Randomized Smoothing", 2020; Salman et al., "Certified Patch Robustness via Smoothed
    Vision Transformers", 2022). Offsets are 0, stride, 2 stride, ... below the length, or
    ``random`` many of all offsets (``models.sampling.random_offsets``): public and the same for
    every image. Blocks are numbered row-major (y, then x).

    Attributes:
        kind: The shape of what is shown.
        size: Extent of the band or block, in pixels.
        stride: Distance of neighbouring offsets, in pixels.
        height: Height of the attacker's grid, in pixels.
        width: Width of the attacker's grid, in pixels.
        pixel_scale: Model pixels per pixel of the attacker's grid, along each axis.
        random: Positions chosen among all those of stride 1; None takes every one of ``stride``.
        seed: Which random family; 0 where there is none.

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
        limit = {"column": self.width, "row": self.height}.get(
            self.kind, min(self.height, self.width)
        )
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
        """The distinct offsets along the two axes, and which of their cells hold a view."""
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
        """Which pixel rows each ablation shows; bool (V, height)."""
        return band(self.positions[:, 0], self._extent[0], self.height)

    @cached_property
    def visible_columns(self) -> BoolArray:
        """Which pixel columns each ablation shows; bool (V, width)."""
        return band(self.positions[:, 1], self._extent[1], self.width)

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
            shown_tokens(visible[view], self.pixel_scale, token)
            for visible, token in zip(
                (self.visible_rows, self.visible_columns), token_px, strict=True
            )
        )
        return np.flatnonzero(rows[:, None] & columns[None, :]).astype(np.int64)
