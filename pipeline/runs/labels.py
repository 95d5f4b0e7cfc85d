"""Right classes of images: one, several, or unknown."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True)
class Labels:
    """Right classes of N images.

    Attributes:
        classes: Right classes, -1 in empty slots; int (N, K), K >= 1.
    """

    classes: NDArray[np.int64]

    @classmethod
    def of(cls, table: pa.Table) -> "Labels":
        """Labels of rows of the votes dataset."""
        if "labels" not in table.schema.names:
            return cls(table["label"].fill_null(-1).to_numpy().astype(np.int64)[:, None])
        cells = [cell or [] for cell in table["labels"].to_pylist()]
        classes = np.full((len(cells), max(1, *map(len, cells), 1)), -1, dtype=np.int64)
        for row, cell in zip(classes, cells, strict=True):
            row[: len(cell)] = cell
        return cls(classes)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Images with at least one right class; bool (N,)."""
        return np.asarray((self.classes >= 0).any(axis=1))

    def accept(self, given: NDArray[np.int64]) -> NDArray[np.bool_]:
        """True where given classes are right; int (N, ...) to bool (N, ...). -1 never is."""
        count, width = self.classes.shape  # spelled out: of no images, -1 would be ambiguous
        slots = self.classes.reshape(count, *[1] * (given.ndim - 1), width)
        equal = (given[..., None] == slots) & (given[..., None] >= 0)
        return np.asarray(equal.any(axis=-1))
