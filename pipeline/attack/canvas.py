"""What the attacker writes on: a picture, and the way from it to the model's grid.

A patch on the grid is the case without a resize: then the picture is the grid. One on the source
is pasted into the picture as it is decoded, which then takes the whole way of the run.

Shapes: I x J pixels of the picture, H x W of the grid, h x w of the patch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.preprocess import Preprocess
from models.resampling import Interval, SourceReach
from models.views.family import IntArray, Patch
from models.views.threats import Threat

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """One picture that patches are pasted into.

    Attributes:
        read: Returns the picture; uint8 (I, J, 3). Pictures are large, so none is kept.
        size: I and J.
        patch: Height and width of a patch, in pixels of the picture.
        preprocess: Makes the grid of the picture.
    """

    read: Callable[[], Pixels]
    size: tuple[int, int]
    patch: Patch
    preprocess: Preprocess

    @classmethod
    def of(cls, read: Callable[[], Pixels], threat: Threat, preprocess: Preprocess) -> "Canvas":
        """The canvas of a picture; a patch longer than the picture is as long as it."""
        height, width = read().shape[:2]
        patch = threat.of_picture(height, width).patch
        assert patch is not None, "an attack has a shape"
        return cls(
            read=read,
            size=(height, width),
            patch=Patch(min(patch.height, height), min(patch.width, width)),
            preprocess=replace(preprocess, pixel_scale=1),
        )

    @cached_property
    def reach(self) -> SourceReach:
        """The pixels of the grid that rectangles of the picture can change."""
        return SourceReach.of(self.preprocess, *self.size)

    def grid(self, picture: Pixels) -> Pixels:
        """Make the grid of a picture as a run does; uint8 (H, W, 3)."""
        return self.preprocess(Image.fromarray(picture))

    def pasted(self, picture: Pixels, yx: tuple[int, int], content: Pixels | int) -> Pixels:
        """Return the picture with a patch; ``content`` is one grey level or (h, w, 3)."""
        (y, x), (high, wide) = yx, self.patch
        attacked = picture.copy()
        attacked[y : y + high, x : x + wide] = content
        return attacked

    def corners(self, on_grid: Patch) -> tuple[IntArray, IntArray]:
        """Corners of rectangles of the grid that hold all that a patch can change.

        Args:
            on_grid: Height and width of the rectangles.

        Returns:
            Their y for each y of a patch, and their x for each x; -1 where it changes nothing.
        """
        axes = zip((self.reach.rows, self.reach.columns), self.size, self.patch, on_grid,
                   strict=True)  # fmt: skip
        rows, columns = (
            np.array(
                [
                    min(start, axis.grid - extent) if start < stop else -1
                    for start, stop in (
                        axis.changed(place, long) for place in range(length - long + 1)
                    )
                ]
            )
            for axis, length, long, extent in axes
        )
        return rows, columns

    def pulled_back(
        self, gradient_hwc: NDArray[np.float32], yx: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Turn a gradient by the pixels of the grid into one by those of a patch; (h, w, 3).

        Each pass of a resize is linear but for its rounding, which is passed over.
        """
        rows, columns = self._shares(yx)
        pulled: NDArray[np.float32] = np.einsum(
            "ih,hwc,jw->ijc", rows, gradient_hwc, columns, optimize=True
        )
        return pulled

    def _shares(self, yx: tuple[int, int]) -> list[NDArray[np.float32]]:
        """Shares of a patch's rows (h, H) and columns (w, W) in the grid's, by Pillow itself."""
        shares = []
        for axis, (place, extent) in enumerate(zip(yx, self.patch, strict=True)):
            length = self.size[axis]
            resized = self.preprocess.resized_px(*self.size)[axis]
            first = self.preprocess.crop_corner(*self.size)[axis]
            lone = np.eye(extent, length, place, dtype=np.float32)
            if resized != length:
                filter_ = Image.Resampling[self.preprocess.interpolation.upper()]
                lone = np.asarray(Image.fromarray(lone).resize((resized, extent), filter_))
            shares.append(lone[:, first : first + self.preprocess.crop_px[axis]])
        return shares


def rectangle(rows: Interval, columns: Interval) -> tuple[slice, slice]:
    """Rows and columns of the grid, as an index; empty where either is."""
    return slice(rows.start, max(rows)), slice(columns.start, max(columns))
