"""The interface of a family of views: what each view shows, and which views a patch touches.

All lengths are pixels of the *attacker's grid*: the image as the model receives it, or, with
``pixel_scale`` p, the image before an exact p-fold nearest-neighbour enlargement, on which one
pixel is p x p model pixels. Pure numpy: no torch, so that certificates can be computed where no
model can run. Shapes: V views, K rectangles a view, S distinct sets of touched views, Ly x Lx
locations, L of them in all.
"""

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
ViewsKind = Literal["column", "row", "block", "mask", "mask-pair"]


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


class Rectangles(NamedTuple):
    """The union of K rectangles a view, as rows and columns that may wrap.

    Attributes:
        rows_vkh: Pixel rows of each rectangle; bool (V, K, height).
        columns_vkw: Its pixel columns; bool (V, K, width).
        hide: True where a view hides the union and shows the rest; False where it shows the union.
    """

    rows_vkh: BoolArray
    columns_vkw: BoolArray
    hide: bool


class TouchedSets(NamedTuple):
    """The sets of views that a patch touches, and the locations at which it does.

    Attributes:
        touched_sv: The views of each set; bool (S, V). Sets may repeat.
        sets_yx: The set of each location; int64 (Ly, Lx).
    """

    touched_sv: BoolArray
    sets_yx: IntArray


class Description(NamedTuple):
    """A family in the words and numbers of tables, titles and files.

    Attributes:
        shape: Shape of the views, as ``--views`` says it.
        size: Extent of a band, a block or a square mask, in pixels; None where there is not one.
        stride: Distance of neighbouring offsets, in pixels; None where there is not one.
        random: Number of positions chosen at random; None where none are.
        views: The views, such as "column b=4 px".
        places: Their places, such as "stride 1".
        tags: Both in short, such as ("column b4", "s1").
    """

    shape: ViewsKind
    size: int | None
    stride: int | None
    random: int | None
    views: str
    places: str
    tags: tuple[str, str]


class ViewFamily(ABC):
    """A finite family of views, the same for every image.

    One object answers every geometric question, so that the model and the certificate cannot
    disagree about what a view shows.

    Attributes:
        height: Height of the attacker's grid, in pixels.
        width: Width of the attacker's grid, in pixels.
        pixel_scale: Model pixels per pixel of the attacker's grid, along each axis.
    """

    height: int
    width: int
    pixel_scale: int

    @abstractmethod
    def __len__(self) -> int:
        """Number of views V."""

    @property
    @abstractmethod
    def varies(self) -> tuple[bool, bool]:
        """True along y and along x where the views differ, so that a location's y or x matters."""

    @property
    @abstractmethod
    def rectangles(self) -> Rectangles:
        """The rectangles that every view shows, or hides."""

    @property
    def hides(self) -> bool:
        """True where a view hides its rectangles, False where it shows them alone."""
        return self.rectangles.hide

    @abstractmethod
    def touched_sets(self, patch: Patch) -> TouchedSets:
        """Find the views that a patch touches at every location.

        Raises:
            ValueError: The patch does not fit the image.
        """

    @abstractmethod
    def describe(self) -> Description:
        """Describe the family for tables, titles and files."""

    @abstractmethod
    def to_identity(self) -> dict[str, dict[str, Any]]:
        """Write the family as one named entry of a run's identity, plain JSON."""

    def visible(self, view: int) -> BoolArray:
        """The pixels that a view shows; bool (height, width)."""
        rows_vkh, columns_vkw, hide = self.rectangles
        union = (rows_vkh[view][:, :, None] & columns_vkw[view][:, None, :]).any(axis=0)
        shown: BoolArray = union ^ hide
        return shown

    def kept_tokens(self, view: int, token_px: tuple[int, int]) -> IntArray:
        """Tokens with at least one visible pixel, ascending, row-major; int (K,).

        Args:
            view: Number of the view.
            token_px: Height and width of a token in *model* pixels.

        Raises:
            ValueError: The tokens do not tile the model's input.
        """
        for length, token in zip((self.height, self.width), token_px, strict=True):
            if length * self.pixel_scale % token:
                raise ValueError(
                    f"tokens of {token} px do not tile {length * self.pixel_scale} model pixels"
                )
        if self.hides:
            visible = self.visible(view).repeat(self.pixel_scale, 0).repeat(self.pixel_scale, 1)
            high, wide = token_px
            tokens = visible.reshape(len(visible) // high, high, -1, wide).any(axis=(1, 3))
            return np.flatnonzero(tokens).astype(np.int64)
        # A token meets a rectangle iff it does so along both axes, so no pixel need be looked at:
        # there are up to 50,176 blocks.
        rows_kt, columns_kt = (
            shown_kl.repeat(self.pixel_scale, axis=1).reshape(len(shown_kl), -1, token).any(axis=2)
            for shown_kl, token in zip(
                (self.rectangles.rows_vkh[view], self.rectangles.columns_vkw[view]),
                token_px,
                strict=True,
            )
        )
        tokens = (rows_kt[:, :, None] & columns_kt[:, None, :]).any(axis=0)
        return np.flatnonzero(tokens).astype(np.int64)

    def check_patch(self, patch: Patch) -> None:
        """Raise ValueError unless ``patch`` fits inside the image."""
        if not (1 <= patch.height <= self.height and 1 <= patch.width <= self.width):
            raise ValueError(
                f"patch {patch}: it must be at least 1x1 and fit the "
                f"{self.height}x{self.width} px image; choose a smaller --patch"
            )

    def edges(self, patch: Patch) -> tuple[IntArray, IntArray]:
        """The y and the x of ``locations``, ascending; int (Ly,) and (Lx,)."""
        self.check_patch(patch)
        varies_y, varies_x = self.varies
        return (
            np.arange(self.height - patch.height + 1 if varies_y else 1),
            np.arange(self.width - patch.width + 1 if varies_x else 1),
        )

    def locations(self, patch: Patch) -> IntArray:
        """Corners (y, x) of every location that matters, row-major, in pixels; int (L, 2).

        Where the views do not differ along an axis, a location's place along it is 0.

        Raises:
            ValueError: The patch does not fit.
        """
        return corners(*self.edges(patch))

    def coordinates(self, y: int, x: int) -> tuple[int | None, int | None]:
        """The y and the x of a location, None along an axis that the views cannot tell."""
        varies_y, varies_x = self.varies
        return y if varies_y else None, x if varies_x else None

    def touched(self, patch: Patch) -> BoolArray:
        """Views that a patch at each of ``locations`` touches; bool (L, V)."""
        sets = self.touched_sets(patch)
        touched: BoolArray = sets.touched_sv[sets.sets_yx.ravel()]
        return touched

    def max_touched(self, patch: Patch) -> int:
        """Delta: the most views that a patch can touch at any location."""
        return int(self.touched_sets(patch).touched_sv.sum(axis=1).max())


def corners(ys: IntArray, xs: IntArray) -> IntArray:
    """Every (y, x), row-major; int64 (Y * X, 2)."""
    grid = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1)
    return grid.reshape(-1, 2).astype(np.int64)


def arc(start: IntArray, size: IntArray | int, length: int) -> BoolArray:
    """Rows of bool (V, length): True on [start, start + size) modulo ``length``."""
    return (np.arange(length)[None, :] - start[:, None]) % length < np.reshape(size, (-1, 1))
