"""Rows of a listing to pixels to learn from: reading, decoding, augmenting."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.preprocess import WrongSizeError
from pipeline.decode import UndecodableError, decode
from pipeline.sources.base import SourceError
from pipeline.sources.reading import read_bytes_of
from pipeline.training.augment import Augment
from pipeline.training.recipe import Recipe

IntArray = NDArray[np.int64]


class TrainingImages:
    """Training images by place, from 0 to the number of them.

    An image's pixels depend on its place, the epoch and the seed, never on who asks, or on what
    is asked for at once.

    Args:
        recipe: What is trained.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        config = recipe.config
        self.labels = recipe.labels[recipe.train]
        self.augment = Augment(config.augment, recipe.voter.preprocess, config.seed)

    def read(self, places: IntArray) -> list[bytes | None]:
        """Encoded bytes.

        Raises:
            SourceError, OSError: As ``read_bytes_of``.
        """
        recipe = self.recipe
        return read_bytes_of(recipe.rows(recipe.train[places]), recipe.options)

    def pixels(
        self, places: IntArray, encoded: Sequence[bytes | None], epoch: int
    ) -> NDArray[np.uint8]:
        """Decoded and augmented, on the attacker's grid; uint8 (B, *crop_px, 3).

        Raises:
            SourceError: An image cannot be decoded, or has the wrong size; it is named.
        """
        pixels = []
        for place, data in zip(places, encoded, strict=True):
            try:
                pixels.append(self.augment(decode(data), (epoch, int(place))))
            except (UndecodableError, WrongSizeError) as error:
                name = self.recipe.listing.table["image_id"][int(self.recipe.train[place])]
                raise SourceError(
                    f"training image {name}: {error}; repair it or leave it out of --data"
                ) from error
        return np.stack(pixels)
