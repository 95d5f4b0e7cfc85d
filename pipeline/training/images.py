"""Training images as pixels: reading, decoding and augmenting."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode

from models.classifiers.determinism import seed_draws
from models.errors import WrongSizeError
from models.preprocess import Preprocess
from models.views.family import IntArray
from pipeline.sources.base import SourceError
from pipeline.sources.decode import UndecodableError, decode
from pipeline.sources.reading import read_bytes_of
from pipeline.training.config import Augmentation
from pipeline.training.recipe import Recipe

# A shift of CIFAR-10's 32 px by up to 4 px, black outside, as in the common recipes.
_SHIFT = 1 / 8
# Half of the area at least: a band shows a tenth of what is left.
_SCALE = (0.5, 1.0)
_AUGMENT = 4  # stream of random numbers; ``order`` and ``learner`` have the others


class Augment:
    """Random changes of a training image by torchvision, each a function of its seed alone.

    Args:
        kind: Kind of the changes.
        preprocess: Size of the grid and filter; the enlargement to model pixels comes later.
        seed: Seed of the training.
    """

    def __init__(self, kind: Augmentation, preprocess: Preprocess, seed: int) -> None:
        self.preprocess, self.seed = replace(preprocess, pixel_scale=1), seed
        self.transform: v2.Transform | None = None
        crop = preprocess.crop_px
        if kind == "none":
            return
        steps: list[v2.Transform] = []
        if preprocess.resize is None:
            steps.append(v2.RandomCrop(crop, padding=max(1, round(min(crop) * _SHIFT))))
        else:
            filters = InterpolationMode(preprocess.interpolation)
            steps.append(v2.RandomResizedCrop(crop, scale=_SCALE, interpolation=filters))
        steps.append(v2.RandomHorizontalFlip())
        if kind == "rand":
            steps.append(v2.RandAugment())
        if kind == "trivial":
            steps.append(v2.TrivialAugmentWide())
        self.transform = v2.Compose(steps)

    def __call__(self, image: Image.Image, key: Sequence[int]) -> NDArray[np.uint8]:
        """Return pixels of the attacker's grid; uint8 (*crop_px, 3).

        Args:
            image: Decoded RGB image.
            key: Epoch and row of the image; with the seed they decide the changes.

        Raises:
            WrongSizeError: The image has another size than the preprocessing takes.
        """
        if self.transform is None:
            return self.preprocess(image)
        if self.preprocess.resize is None:
            self.preprocess(image)  # only to check the size
        # torchvision draws from torch's global generator, which other code uses too.
        with torch.random.fork_rng(devices=[]):
            state = np.random.SeedSequence([self.seed, _AUGMENT, *key]).generate_state(1, np.uint64)
            seed_draws(int(state[0] >> np.uint64(1)), torch.device("cpu"))
            return np.asarray(self.transform(image), dtype=np.uint8)


class TrainingImages:
    """Training images by place, from 0 to the number of them.

    An image's pixels depend on its place, the epoch and the seed, never on the worker or on the
    other images of a call.

    Args:
        recipe: The training.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        config = recipe.config
        self.labels = recipe.labels[recipe.train]
        self.augment = Augment(config.augment, recipe.defense.model_input, config.seed)

    def read(self, places: IntArray) -> list[bytes | None]:
        """Read the encoded bytes.

        Raises:
            SourceError, OSError: As ``read_bytes_of``.
        """
        recipe = self.recipe
        return read_bytes_of(recipe.rows(recipe.train[places]), recipe.options)

    def pixels(
        self, places: IntArray, encoded: Sequence[bytes | None], epoch: int
    ) -> NDArray[np.uint8]:
        """Decode and augment on the attacker's grid; uint8 (B, *crop_px, 3).

        Raises:
            SourceError: An image cannot be decoded, or has the wrong size; the message names it.
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
