"""Masks: the views that hide one rectangle or two, and show the rest of the image.

A network can be asked on them as it is: most of the image stays visible. In exchange the masks are
cut for a largest patch, so a decision over them assumes a patch of at most that size.

All lengths are pixels of the attacker's grid (``family``). Shapes: M masks, V views, S sets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from models.views.family import (
    BoolArray,
    Description,
    IntArray,
    Patch,
    Rectangles,
    TouchedSets,
    ViewFamily,
    ViewsKind,
    arc,
)


class Mask(NamedTuple):
    """A hidden rectangle; one that leaves the image at the lower or right edge wraps round it."""

    y: int
    x: int
    height: int
    width: int


class Placement(NamedTuple):
    """Extent and starts of the masks along one axis, in pixels."""

    extent: int
    starts: tuple[int, ...]

    @classmethod
    def covering(cls, length: int, patch: int, most: int) -> "Placement":
        """Place at most ``most`` masks so that every patch lies within one.

        With s = ceil((n - p + 1) / k) and M = min(p + s - 1, n) the starts are 0, s, 2 s, ... up
        to n - M, and n - M itself. Of the largest start b <= a, a - b <= s - 1, so the patch
        [a, a + p) lies within [b, b + M) (Xiang et al., "PatchCleanser", 2022, section 3.3).

        Args:
            length: Length n of the axis.
            patch: Extent p of the largest patch along it.
            most: Number k of starts at most.
        """
        stride = -(-(length - patch + 1) // most)
        return cls.at_stride(length, min(patch + stride - 1, length), stride)

    @classmethod
    def at_stride(
        cls, length: int, extent: int, stride: int, *, wraps: bool = False
    ) -> "Placement":
        """Place masks of an extent at every multiple of a stride.

        Args:
            length: Length of the axis.
            extent: Extent of a mask.
            stride: Distance of neighbouring starts.
            wraps: Whether masks go on round the edge, instead of ending at it with one last start.
        """
        if wraps:
            return cls(extent, tuple(range(0, length, stride)))
        last = length - extent
        return cls(extent, tuple(sorted({*range(0, last + 1, stride), last})))


@dataclass(frozen=True, kw_only=True)
class Masks(ViewFamily):
    """A family of views, each of which hides one mask, or each of which hides two.

    With ``pairs`` the views are numbered by the upper triangle of the M x M table, row by row: view
    (i, j), i <= j, hides masks i and j, and the diagonal is the view that hides one mask alone.
    The masks are stored, not a recipe for them, so that no change of a formula can change the
    meaning of stored votes. That each patch lies within a mask is checked, not trusted.

    Attributes:
        height: Height of the attacker's grid, in pixels.
        width: Width of the attacker's grid, in pixels.
        pixel_scale: Model pixels per pixel of the attacker's grid, along each axis.
        masks: The hidden rectangles, no two alike.
        pairs: Whether a view hides two masks.
        covers: The patches for which the masks are cut: each of them, at every location, lies
            within some mask.

    Raises:
        ValueError: A mask lies outside the image or appears twice, or a patch that is to be covered
            lies within none of them at some location.
    """

    height: int
    width: int
    pixel_scale: int = 1
    masks: tuple[Mask, ...]
    pairs: bool
    covers: tuple[Patch, ...]

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.pixel_scale) < 1:
            raise ValueError("image height, width and pixel_scale must be at least 1")
        if not self.masks or len(set(self.masks)) < len(self.masks):
            raise ValueError("masks: give at least one, and none of them twice")
        for mask in self.masks:
            inside = 0 <= mask.y < self.height and 0 <= mask.x < self.width
            fits = 1 <= mask.height <= self.height and 1 <= mask.width <= self.width
            if not (inside and fits):
                raise ValueError(
                    f"{_mask_words(mask)}: it must begin inside the {self.height}x{self.width} px "
                    "image and be no larger than it"
                )
        for patch in self.covers:
            self.check_covers(patch)

    @classmethod
    def placed(
        cls,
        *,
        height: int,
        width: int,
        placements: Sequence[tuple[Placement, Placement]],
        pairs: bool,
        covers: Sequence[Patch] = (),
        pixel_scale: int = 1,
    ) -> "Masks":
        """Make the masks of every combination of vertical and horizontal starts.

        Args:
            height: As the attribute.
            width: As the attribute.
            placements: Vertical and horizontal extents and starts, of one or several sets of masks.
            pairs: As the attribute.
            covers: As the attribute; none takes the largest square that is covered.
            pixel_scale: As the attribute.

        Raises:
            ValueError: As the class; or there is no square that the masks cover.
        """
        masks = dict.fromkeys(
            Mask(y, x, rows.extent, columns.extent)
            for rows, columns in placements
            for y, x in product(rows.starts, columns.starts)
        )
        made = cls(
            height=height,
            width=width,
            pixel_scale=pixel_scale,
            masks=tuple(masks),
            pairs=pairs,
            covers=tuple(covers),
        )
        return made if covers else made._covering_largest()

    def _covering_largest(self) -> "Masks":
        """The same family, for the largest square that lies within a mask wherever it is."""
        side, too_large = 0, min(self.height, self.width) + 1
        while too_large - side > 1:
            middle = (side + too_large) // 2
            if self._covered(Patch.square(middle)).all():
                side = middle
            else:
                too_large = middle
        if not side:
            raise ValueError(
                "masks: some pixel lies within none of them, so that no patch is covered; use a "
                "stride of at most the size"
            )
        return replace(self, covers=(Patch.square(side),))

    def __str__(self) -> str:
        sizes = sorted({(mask.height, mask.width) for mask in self.masks})
        extents = ", ".join(f"{high}x{wide}" for high, wide in sizes)
        pairs = ", alone and in pairs" if self.pairs else ""
        return f"{len(self.masks)} masks of {extents} px{pairs}"

    def __len__(self) -> int:
        return len(self.first_v)

    @property
    def varies(self) -> tuple[bool, bool]:
        """True along y and along x where some mask is shorter than the image."""
        return (
            any(mask.height < self.height for mask in self.masks),
            any(mask.width < self.width for mask in self.masks),
        )

    @cached_property
    def _pairs(self) -> tuple[IntArray, IntArray]:
        if self.pairs:
            first_v, second_v = np.triu_indices(len(self.masks))
            return first_v.astype(np.int64), second_v.astype(np.int64)
        alone = np.arange(len(self.masks))
        return alone, alone

    @property
    def first_v(self) -> IntArray:
        """Number of the first mask that each view hides; int64 (V,)."""
        return self._pairs[0]

    @property
    def second_v(self) -> IntArray:
        """Number of the second one, which is the first where a view hides one; int64 (V,)."""
        return self._pairs[1]

    @cached_property
    def alone(self) -> IntArray:
        """Numbers of the views that hide one mask, in the order of the masks; int64 (M,)."""
        return np.flatnonzero(self.first_v == self.second_v).astype(np.int64)

    @cached_property
    def one_mask_views(self) -> "Masks":
        """The family of the views that hide one mask alone."""
        return replace(self, pairs=False)

    @cached_property
    def _hidden_axes(self) -> tuple[BoolArray, BoolArray]:
        """Pixel rows (M, height) and columns (M, width) of every mask."""
        y, x, high, wide = np.array(self.masks).T
        return arc(y, high, self.height), arc(x, wide, self.width)

    @cached_property
    def rectangles(self) -> Rectangles:
        """The rectangles that every view hides."""
        rows_mh, columns_mw = self._hidden_axes
        hidden = [self.first_v, self.second_v] if self.pairs else [self.first_v]
        of_view = np.stack(hidden, axis=1)
        return Rectangles(rows_mh[of_view], columns_mw[of_view], hide=True)

    def touched_sets(self, patch: Patch) -> TouchedSets:
        """Find the views that a patch touches at every location.

        A patch leaves a view untouched iff it lies within what the view hides, and so within the
        union of two masks. A rectangle R lies within the union of rectangles A and B iff it lies
        within one of them, or its rows lie within the rows of both and its columns within the union
        of their columns, or the same with rows and columns exchanged.

        Proof: "if" is plain. Let R lie within the union and within neither. If some row r of R is
        none of A's, then all of row r lies in B, so all columns of R are B's; as R does not lie
        within B, some row r' of R is none of B's, and all columns of R are A's as well: its columns
        lie within both, and each of its rows is one of A's or of B's. If every row of R is one of
        A's, some column of R is none of A's, all of it lies in B, and the rows of R lie within
        both. Rows and columns may be any sets, so masks may wrap.

        Raises:
            ValueError: The patch does not fit the image.
        """
        patterns = []
        for hidden_mn, edges, extent in zip(
            self._hidden_axes, self.edges(patch), patch, strict=True
        ):
            either_vn = hidden_mn[self.first_v] | hidden_mn[self.second_v]
            within = np.concatenate(
                [_within(hidden_mn, edges, extent), _within(either_vn, edges, extent)]
            )
            patterns.append(np.unique(within, axis=1, return_inverse=True))
        (rows, row_y), (columns, column_x) = patterns
        masks = len(self.masks)
        rows_m, rows_v = rows[:masks, :, None], rows[masks:, :, None]
        columns_m, columns_v = columns[:masks, None, :], columns[masks:, None, :]
        hidden_m = rows_m & columns_m
        one, two = self.first_v, self.second_v
        untouched_v = hidden_m[one] | hidden_m[two]
        untouched_v |= rows_m[one] & rows_m[two] & columns_v
        untouched_v |= columns_m[one] & columns_m[two] & rows_v
        touched_sv = ~untouched_v.reshape(len(self), -1).T
        sets_yx = row_y.reshape(-1, 1) * columns.shape[1] + column_x.reshape(1, -1)
        return TouchedSets(touched_sv, sets_yx.astype(np.int64))

    @cached_property
    def hides_two(self) -> bool:
        """True where some view hides any two locations of every covered patch together."""
        touched = [~self.touched_sets(patch).touched_sv for patch in self.covers]
        untouched_sv = np.concatenate(touched).astype(np.float32)
        return bool((untouched_sv @ untouched_sv.T).all())

    def describe(self) -> Description:
        """Describe the family for tables, titles and files."""
        shape: ViewsKind = "mask-pair" if self.pairs else "mask"
        sizes = {(mask.height, mask.width) for mask in self.masks}
        high, wide = max(sizes)
        covers = ", ".join(f"{patch.height}x{patch.width}" for patch in self.covers)
        return Description(
            shape,
            high if sizes == {(high, high)} else None,
            None,
            None,
            str(self),
            f"for patches up to {covers} px",
            (f"{shape} {len(self.masks)}x{high}x{wide}", f"p{covers}"),
        )

    def to_identity(self) -> dict[str, dict[str, Any]]:
        """Write the family as the entry ``masks`` of a run's identity, plain JSON."""
        return {
            "masks": {
                "height": self.height,
                "width": self.width,
                "pixel_scale": self.pixel_scale,
                "masks": [list(mask) for mask in self.masks],
                "pairs": self.pairs,
                "covers": [list(patch) for patch in self.covers],
            }
        }

    @classmethod
    def from_identity(cls, facts: dict[str, Any]) -> "Masks":
        """Read what ``to_identity`` wrote."""
        return cls(
            **facts
            | {
                "masks": tuple(Mask(*mask) for mask in facts["masks"]),
                "covers": tuple(Patch(*patch) for patch in facts["covers"]),
            }
        )

    def _covered(self, patch: Patch) -> BoolArray:
        """Tell the locations at which a patch lies within some one mask; bool (Ly, Lx)."""
        rows_m, columns_m = (
            _within(hidden_mn, edges, extent)
            for hidden_mn, edges, extent in zip(
                self._hidden_axes, self.edges(patch), patch, strict=True
            )
        )
        # Counts of masks are exact in float32, whose matrix product is fast.
        held_yx = rows_m.T.astype(np.float32) @ columns_m.astype(np.float32)
        covered: BoolArray = held_yx > 0
        return covered

    def check_covers(self, patch: Patch) -> None:
        """Raise ValueError unless a patch lies within some mask at every location."""
        covered_yx = self._covered(patch)
        if not covered_yx.all():
            y, x = np.argwhere(~covered_yx)[0].tolist()
            raise ValueError(
                f"patch {patch}: at y={y}, x={x} it lies within none of the {len(self.masks)} "
                "masks; use larger masks, a smaller stride, or cover a smaller patch"
            )


def _within(hidden_mn: BoolArray, edges: IntArray, extent: int) -> BoolArray:
    """Tell whether the pixels [edge, edge + extent) are all hidden; bool (M, edges)."""
    sums = np.zeros((len(hidden_mn), hidden_mn.shape[1] + 1), np.int64)
    np.cumsum(hidden_mn, axis=1, out=sums[:, 1:])
    within: BoolArray = sums[:, edges + extent] - sums[:, edges] == extent
    return within


def _mask_words(mask: Mask) -> str:
    return f"mask of {mask.height}x{mask.width} px at y={mask.y}, x={mask.x}"


def bounding_shapes(patches: Sequence[Patch], most: int) -> tuple[Patch, ...]:
    """Few rectangles that hold all the given ones, with the least sum of areas.

    Args:
        patches: Rectangles in ascending order of height, and so in descending order of width, as
            those of an area budget are.
        most: Rectangles at most, each of which holds a group of neighbours.
    """
    # best[end]: least area, and shapes, that hold the first ``end`` rectangles.
    best: dict[int, tuple[int, tuple[Patch, ...]]] = {0: (0, ())}
    for _ in range(most):
        longer = dict(best)
        for start, (area, shapes) in best.items():
            for end in range(start + 1, len(patches) + 1):
                shape = Patch(patches[end - 1].height, patches[start].width)
                total = area + shape.height * shape.width
                if end not in longer or total < longer[end][0]:
                    longer[end] = total, (*shapes, shape)
        best = longer
    return best[len(patches)][1]
