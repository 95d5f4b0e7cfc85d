"""Split of the images, and the order in which an epoch sees those to train on."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.views.family import IntArray
from pipeline.sources.base import Kind

# Streams of random numbers; ``learner`` and ``images`` have the others.
_SPLIT, _ORDER = 1, 2
# Images a piece, about: one task reads, decodes and holds them.
_PIECE_IMAGES = 2048
# Of more images, neighbours in a file are read together.
_SHUFFLED_WHOLLY = 100_000
_NEIGHBOURS: dict[Kind, int] = {"folder": 1, "webdataset": 8, "parquet": 64}


def stratified_split(
    labels: NDArray[np.integer], held_out: int, seed: int
) -> tuple[IntArray, IntArray]:
    """Split rows into training and held out, ascending; int64 (N - held_out,) and (held_out,).

    Every class gives the same share, rounded so that the total is ``held_out``. The rows of a
    class that are held out depend only on the seed, on their number and on the places of the class.

    Raises:
        ValueError: A class would keep no image to train on.
    """
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * (held_out / max(1, len(labels)))
    quota = np.floor(exact).astype(np.int64)
    # Largest remainders first; of equal ones the lower class.
    for place in np.argsort(quota - exact, kind="stable")[: max(0, held_out - int(quota.sum()))]:
        quota[place] += 1
    if np.any(quota >= counts):
        raise ValueError(f"class {classes[quota >= counts][0]} would keep none to train on")
    chosen = [
        np.random.default_rng([seed, _SPLIT, int(c)]).permutation(np.flatnonzero(labels == c))[:q]
        for c, q in zip(classes, quota, strict=True)
    ]
    held = np.sort(np.concatenate([np.empty(0, np.int64), *chosen])).astype(np.int64)
    return np.setdiff1d(np.arange(len(labels)), held), held


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """Permutations of the training images, one an epoch; the same on every worker.

    An epoch is cut into pieces, which can be read one by one.

    Attributes:
        images: Number of training images.
        batch: Images a step; the rest, which fills no batch, is left out of the epoch.
        seed: Seed of the training.
        kind: Layout of the files; decides how finely many images are shuffled.
    """

    images: int
    batch: int
    seed: int
    kind: Kind = "folder"

    @property
    def steps(self) -> int:
        """Number of batches of an epoch."""
        return self.images // self.batch

    @property
    def piece(self) -> int:
        """Number of images of a piece: whole batches."""
        return max(1, _PIECE_IMAGES // self.batch) * self.batch

    @property
    def pieces(self) -> int:
        """Number of pieces of an epoch."""
        return -(-self.steps * self.batch // self.piece)

    def of(self, epoch: int) -> IntArray:
        """Return the places of the training images in their order; int64 (steps * batch,).

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
        """Yield ``of(epoch)`` piece by piece."""
        order = self.of(epoch)
        for start in range(0, len(order), self.piece):
            yield order[start : start + self.piece]
