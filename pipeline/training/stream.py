"""Feed training images through Ray Data: the same batches in the same order as from memory."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import DataIterator, Dataset

from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.config import TrainingPlace
from pipeline.training.feed import Batch
from pipeline.training.images import TrainingImages
from pipeline.training.recipe import Recipe

DECODE_CPUS = 0.5
"""CPUs that a decoding task reserves."""

_ROWS_AT_ONCE = 256


def batches_left(recipe: Recipe, place: TrainingPlace) -> Dataset:
    """Build the dataset of the epochs that are left, decoded and augmented piece by piece.

    One dataset spans them, so that the first batches of an epoch are ready when it begins.
    """
    state = read_checkpoint(place.out, recipe)
    done = 0 if state is None else state["learner"]["done"] // recipe.order.steps
    pieces = recipe.order.pieces * (recipe.config.epochs - done)
    blocks = ray.data.range(pieces, override_num_blocks=pieces)
    return blocks.map_batches(
        PreparePiece(recipe, first_epoch=done),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=DECODE_CPUS,
    )


class PreparePiece:
    """Turn the number of a piece into its decoded, augmented images.

    Args:
        recipe: The training.
        first_epoch: Epoch of piece 0.
    """

    def __init__(self, recipe: Recipe, first_epoch: int) -> None:
        self.recipe, self.first_epoch = recipe, first_epoch

    def __call__(self, numbers: pa.Table) -> Iterator[pa.Table]:
        """Yield rows of ``pixels`` (bytes of uint8 (*crop_px, 3)) and ``label``, in order."""
        images = TrainingImages(self.recipe)
        for number in numbers["id"].to_pylist():
            epochs, piece = divmod(number, self.recipe.order.pieces)
            epoch = self.first_epoch + epochs
            places = next(islice(self.recipe.order.pieces_of(epoch), piece, None))
            encoded = images.read(places)
            for start in range(0, len(places), _ROWS_AT_ONCE):
                part = slice(start, start + _ROWS_AT_ONCE)
                pixels = images.pixels(places[part], encoded[part], epoch)
                yield pa.table(
                    {
                        "pixels": pa.array([image.tobytes() for image in pixels], pa.binary()),
                        "label": pa.array(images.labels[places[part]]),
                    }
                )


class StreamFeed:
    """Feed from this worker's shard of ``batches_left``.

    Args:
        recipe: The training.
        shard: The worker's shard.
        world: Workers that share each batch.
    """

    def __init__(self, recipe: Recipe, shard: DataIterator, world: int) -> None:
        self.steps, self.grid_px = recipe.order.steps, recipe.defense.model_input.crop_px
        share = recipe.config.batch // world
        self._stream: Iterator[Any] = iter(
            shard.iter_batches(batch_size=share, batch_format="pyarrow")
        )

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """Yield batches as ``Feed`` does; epochs must be asked for in order, each whole."""
        assert first == 0
        for table in islice(self._stream, self.steps):
            pixels = b"".join(table["pixels"].to_pylist())
            images = np.frombuffer(pixels, np.uint8).reshape(-1, *self.grid_px, 3).copy()
            labels = table["label"].to_numpy().copy()
            yield torch.from_numpy(images), torch.from_numpy(labels)
