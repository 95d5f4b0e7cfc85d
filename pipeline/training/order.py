"""The order in which an epoch sees the training images, in pieces that can be read one by one."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.sources.base import Kind

IntArray = NDArray[np.int64]

_ORDER = 2  # stream of random numbers; ``split``, ``learner`` and ``augment`` have the others
# Images a piece, about: what one task reads, decodes and holds.
_PIECE_IMAGES = 2048
# Up to here every image may be anywhere. Beyond, neighbours in a file are read together.
_SHUFFLED_WHOLLY = 100_000
_NEIGHBOURS: dict[Kind, int] = {"folder": 1, "webdataset": 8, "parquet": 64}


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """Permutations of the training images, one an epoch; the same wherever it is asked.

    Attributes:
        images: How many there are.
        batch: Images a step; what does not fill a batch is left out of the epoch.
        seed: Of the whole training.
        kind: Layout of the files, which decides how finely many images are shuffled.
    """

    images: int
    batch: int
    seed: int
    kind: Kind = "folder"

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return self.images // self.batch

    @property
    def piece(self) -> int:
        """Images of a piece: whole batches."""
        return max(1, _PIECE_IMAGES // self.batch) * self.batch

    @property
    def pieces(self) -> int:
        """Pieces of an epoch."""
        return -(-self.steps * self.batch // self.piece)

    def of(self, epoch: int) -> IntArray:
        """Places among the training images, in order; int64 (steps * batch,).

        A uniform permutation of up to 100,000 images. Of more, runs of neighbours are shuffled,
        and then the images of each piece.
        """
        rng = np.random.default_rng([self.seed, _ORDER, epoch])
        if self.images <= _SHUFFLED_WHOLLY:
            order = rng.permutation(self.images)
        else:
            run = _NEIGHBOURS[self.kind]
            starts = rng.permutation(np.arange(0, self.images, run))
            runs = [np.arange(start, min(start + run, self.images)) for start in starts]
            order = np.concatenate(runs)
            for start in range(0, self.images, self.piece):
                rng.shuffle(order[start : start + self.piece])
        return order[: self.steps * self.batch].astype(np.int64)

    def pieces_of(self, epoch: int) -> Iterator[IntArray]:
        """``of(epoch)``, cut into its pieces."""
        order = self.of(epoch)
        for start in range(0, len(order), self.piece):
            yield order[start : start + self.piece]
