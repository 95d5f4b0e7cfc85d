"""The family of ablations a smoothed classifier votes over, and the patches it meets.

One object answers every geometric question, so that the model and the certificate cannot
disagree about what an ablation shows. All lengths are pixels of the *attacker's grid*: the
image as the model receives it, or, with ``pixel_scale`` p, the image before an exact p-fold
nearest-neighbour enlargement, on which one pixel is p x p model pixels.

Pure numpy: no torch, so that certificates can be computed where no model can run.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from models.geometry import BoolArray, IntArray, band_meets, corners
from models.views import AblationKind, Views

__all__ = ["Ablation", "AblationKind", "BoolArray", "IntArray", "Patch"]


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


@dataclass(frozen=True, kw_only=True)
class Ablation(Views):
    """Every ablation of one image: what each shows (``Views``) and which a patch can touch."""

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
        return corners(*self._edges(patch))

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
        rows = band_meets(self.grid.ys, size_y, self.height, y0, patch.height)
        columns = band_meets(self.grid.xs, size_x, self.width, x0, patch.width)
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
        """Which ablations a patch at each location touches; bool (L, V), as ``locations``."""
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
