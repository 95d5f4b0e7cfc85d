"""Batches in the order of the training, for one worker."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.config import ConfigError
from pipeline.training.images import TrainingImages
from pipeline.training.recipe import Recipe

Batch = tuple[Tensor, Tensor]
# Limit of the encoded images in the memory of one process.
_MOST_BYTES = 16 * 2**30
_READ_IMAGES = 4096


class Feed(Protocol):
    """Source of a worker's batches."""

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """Yield this worker's shares of the batches of an epoch, from batch ``first`` on.

        uint8 pixels of the attacker's grid (B, *crop_px, 3) and int64 classes (B,).
        """


class MemoryFeed:
    """Feed from memory, in one process: every encoded image is read once, at the start.

    Raises:
        ConfigError: The images take too much memory.
        SourceError: They cannot be read.
    """

    def __init__(self, recipe: Recipe, rank: int = 0, world: int = 1) -> None:
        self.recipe, self.rank, self.world = recipe, rank, world
        self.images = TrainingImages(recipe)
        self.encoded: list[bytes | None] = []
        held = 0
        for start in range(0, len(recipe.train), _READ_IMAGES):
            places = np.arange(start, min(start + _READ_IMAGES, len(recipe.train)))
            part = self.images.read(places)
            held += sum(len(data or b"") for data in part)
            if held > _MOST_BYTES:
                raise ConfigError(
                    f"--no-ray holds all encoded images in memory, and these take more than "
                    f"{_MOST_BYTES >> 30} GiB; leave it out"
                )
            self.encoded += part

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """Yield batches as ``Feed`` does."""
        batch, share = self.recipe.config.batch, self.recipe.config.batch // self.world
        order = self.recipe.order.of(epoch)
        for start in range(first * batch + self.rank * share, len(order), batch):
            places = order[start : start + share]
            encoded = [self.encoded[place] for place in places]
            pixels = self.images.pixels(places, encoded, epoch)
            yield torch.from_numpy(pixels), torch.from_numpy(self.images.labels[places])
