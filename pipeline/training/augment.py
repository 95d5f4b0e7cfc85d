"""Random changes of a training image, by torchvision; each a function of its seed alone."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode

from models.preprocess import Preprocess
from pipeline.training.config import Augmentation

# A shift of CIFAR-10's 32 px by up to 4 px, black outside, as in the common recipes.
_SHIFT = 1 / 8
# Half of the area at least: a band shows a tenth of what is left.
_SCALE = (0.5, 1.0)
_AUGMENT = 4  # stream of random numbers; ``split``, ``order`` and ``learner`` have the others


class Augment:
    """From a decoded image to pixels of the attacker's grid.

    Args:
        kind: Which changes.
        preprocess: Size of the grid and filter; the enlargement to model pixels comes later.
        seed: Of the whole training.
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
        """Pixels of the grid; uint8 (*crop_px, 3).

        Args:
            image: Decoded RGB image.
            key: What, with the seed, decides the changes: the epoch and the image's row.

        Raises:
            WrongSizeError: As the preprocessing says.
        """
        if self.transform is None:
            return self.preprocess(image)
        if self.preprocess.resize is None:
            self.preprocess(image)  # its check of the size
        # torchvision draws from torch's one generator, which others use as well.
        with torch.random.fork_rng(devices=[]):
            state = np.random.SeedSequence([self.seed, _AUGMENT, *key]).generate_state(1, np.uint64)
            torch.manual_seed(int(state[0] >> np.uint64(1)))
            return np.asarray(self.transform(image), dtype=np.uint8)
