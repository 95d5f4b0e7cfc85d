"""The reach of a patch on the source picture: which pixels of the model's grid it can change.

An attacker writes on the picture as it is delivered; the program resizes and crops it, and the
certificates speak of the grid after the crop. This module is proof code: plain numpy, on the
coefficients of the very filter, for the very size of the picture.

Shape suffixes: I source pixels along an axis, O pixels of the resized picture along it, K taps of
a window, E pairs of a resized pixel and a source pixel that it depends on.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.preprocess import Interpolation, Preprocess
from models.views.family import IntArray, Patch

# Pillow multiplies bytes by coefficients in fixed point, which are the weights times this, rounded.
_ONE = 1 << 22
# A weight counts unless its coefficient is certain to round to 0: what the machine's double
# arithmetic may differ by, some 1e-9 here, is far within the distance to one half.
_LEAST = 0.49 / _ONE
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}


class Interval(NamedTuple):
    """Pixels [start, stop) of the grid along an axis; none where start >= stop."""

    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class AxisReach:
    """Pixels of the grid along one axis that source pixels can change.

    Attributes:
        first_i: Lowest grid pixel that depends on any source pixel from i on; int64 (I,).
        last_i: Highest grid pixel that depends on any source pixel up to i; int64 (I,).
        grid: Length of the grid; both may lie outside of it, which means none.
    """

    first_i: IntArray
    last_i: IntArray
    grid: int

    def changed(self, start: int, extent: int) -> Interval:
        """Grid pixels that the source pixels [start, start + extent) can change."""
        return Interval(
            max(int(self.first_i[start]), 0),
            min(int(self.last_i[start + extent - 1]) + 1, self.grid),
        )

    def extent(self, extent: int) -> int:
        """The most pixels of the grid that ``changed`` spans, over all starts."""
        extent = min(extent, len(self.first_i))
        first = np.maximum(self.first_i[: len(self.first_i) - extent + 1], 0)
        last = np.minimum(self.last_i[extent - 1 :], self.grid - 1)
        return max(int((last - first).max()) + 1, 1)


@dataclass(frozen=True)
class SourceReach:
    """Pixels of the model's grid that a rectangle of a source picture can change.

    Theorem. Let a picture be resized and cropped by ``Preprocess``, and let rows R and columns C of
    it be rewritten in any way, R and C intervals. Then every pixel of the grid outside
    ``rows.changed(R) x columns.changed(C)`` keeps each of its bits. So wherever a patch of h x w
    source pixels lies, what it changes lies within some rectangle of ``extent(h x w)`` in the grid.

    Proof. Pillow resizes in two passes, first along x, then along y, and rounds to bytes after
    each. Pixel (r, x) after the first pass is a function of those source pixels of row r whose
    coefficient for x is not 0, and of nothing else; clipping and rounding are part of the function.
    Pixel (y, x) after the second is such a function of the pixels (r, x) with a coefficient for y.
    So (y, x) depends on source pixels (r, c) only with r in the window of y and c in the window of
    x, a window being the set of source pixels with a coefficient other than 0. If (y, x) changes,
    some such r lies in R and some such c in C. A pass that is left out, because the length stays,
    has windows of one pixel. For the nearest neighbour (y, x) is one source pixel, and the same
    holds. The crop takes pixels away and moves the others by its corner; the exact enlargement
    after it repeats pixels of the grid.

    Of the y whose window meets R = [a, b), the lowest is not below ``first_i[a]``, since the window
    of that y has a pixel from a on; likewise the highest is not above ``last_i[b - 1]``. The
    changed rows of the grid lie in that interval, cut to the grid, and so within an interval of the
    largest such length inside the grid, and the same holds for columns.  []

    The windows are those of Pillow's own tables (``_dependences``): the filter's support, which is
    stretched by the scale where the picture shrinks (antialiasing) and not where it grows, cut at
    the border, normalized, and rounded to 22 binary digits. torchvision resizes PIL images by the
    same code.

    What is not covered: a decoder that shrinks (``scaled_decode``), and lossy compression *after*
    the attack, which spreads every change over blocks of the picture. That is another model.

    Attributes:
        rows: Reach along y.
        columns: Reach along x.
    """

    rows: AxisReach
    columns: AxisReach

    @classmethod
    def of(cls, preprocess: Preprocess, height: int, width: int) -> "SourceReach":
        """Compute the reach in a picture of height x width pixels.

        Raises:
            ValueError: The decoder itself shrinks (``scaled_decode``), so that the picture that is
                resized is not the one that was delivered.
        """
        if preprocess.scaled_decode:
            raise ValueError(
                "--scaled-decode lets libjpeg shrink a picture before it is resized, and no pixel "
                "of the delivered picture is known to end where; vote without it, or ask about "
                "patches on the model's grid, such as --patch 32"
            )
        resized, corner = (
            preprocess.resized_px(height, width),
            preprocess.crop_corner(height, width),
        )
        return cls(
            *(
                _axis(*lengths, preprocess.interpolation)
                for lengths in zip(
                    (height, width), resized, corner, preprocess.crop_px, strict=True
                )
            )
        )

    def changed(self, y: int, x: int, patch: Patch) -> tuple[Interval, Interval]:
        """Rows and columns of the grid that a patch with its corner at (y, x) can change."""
        return self.rows.changed(y, patch.height), self.columns.changed(x, patch.width)

    def extent(self, patch: Patch) -> Patch:
        """The rectangle of the grid that holds all that the patch can change, wherever it lies.

        A patch that is longer than the picture is as long as it.
        """
        return Patch(self.rows.extent(patch.height), self.columns.extent(patch.width))


@lru_cache(maxsize=4096)
def _axis(length: int, resized: int, corner: int, grid: int, filter_: Interpolation) -> AxisReach:
    """The reach along an axis of ``length`` source pixels."""
    first_i, last_i = np.full(length, resized), np.full(length, -1)
    resized_e, source_e = _dependences(length, resized, filter_)
    np.minimum.at(first_i, source_e, resized_e)
    np.maximum.at(last_i, source_e, resized_e)
    # Source pixels "from i on" and "up to i".
    first_i = np.minimum.accumulate(first_i[::-1])[::-1] - corner
    last_i = np.maximum.accumulate(last_i) - corner
    for array in (first_i, last_i):
        array.flags.writeable = False
    return AxisReach(first_i, last_i, grid)


def _dependences(length: int, resized: int, filter_: Interpolation) -> tuple[IntArray, IntArray]:
    """Pairs of a resized pixel and a source pixel of its window; int64 (E,) each."""
    number_o = np.arange(resized)
    if length == resized:
        return number_o, number_o
    scale = length / resized
    if filter_ == "nearest":
        # As ImagingScaleAffine does it: a running sum, whose rounding errors decide ties.
        place_o = np.cumsum(np.r_[scale * 0.5, np.full(resized - 1, scale)])
        source_o = place_o.astype(np.int64)
        inside = source_o < length
        return number_o[inside], source_o[inside]
    # Enlarging interpolates, shrinking averages: there the filter is stretched by the scale.
    stretch = max(scale, 1.0)
    support = _SUPPORT[filter_] * stretch
    center_o = (number_o + 0.5) * scale
    first_o = np.floor(center_o - support).astype(np.int64)
    source_ok = first_o[:, None] + np.arange(int(2 * support) + 3)
    distance_ok = (source_ok + 0.5 - center_o[:, None]) / stretch
    weight_ok = np.where((source_ok >= 0) & (source_ok < length), _weight(distance_ok, filter_), 0)
    weight_ok = weight_ok / weight_ok.sum(axis=1, keepdims=True)
    row, column = np.nonzero(np.abs(weight_ok) >= _LEAST)
    return row, source_ok[row, column]


def _weight(distance: NDArray[np.float64], filter_: Interpolation) -> NDArray[np.float64]:
    """The filter at a distance, in units of its stretched pixel."""
    away = np.abs(distance)
    if filter_ == "bilinear":
        return np.maximum(1.0 - away, 0.0)
    # Cubic convolution with a = -0.5, as Pillow's.
    near = (1.5 * away - 2.5) * away * away + 1.0
    far = ((-0.5 * away + 2.5) * away - 4.0) * away + 2.0
    weight: NDArray[np.float64] = np.where(away < 1.0, near, np.where(away < 2.0, far, 0.0))
    return weight
