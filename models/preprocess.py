"""From a decoded image to the model's input pixels, explicitly and bit for bit.

The arithmetic is that of ``torchvision.transforms`` on PIL images (tests compare them), without
importing torch, so that decoding tasks stay light. Everything here is part of a run's identity.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.errors import WrongSizeError

Interpolation = Literal["nearest", "bilinear", "bicubic"]
PresetName = Literal["model", "imagenet", "cifar10"]

# One image must not fill the memory of a worker, as a line of 2 x 40,000 px would when enlarged.
# Pillow's own bound against decompression bombs, as a constant: Image.MAX_IMAGE_PIXELS is a global
# that any library may lift. An RGB image at the bound takes 0.36 GB in memory.
MAX_PIXELS = 89_478_485

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Resize, crop and normalization that make an RGB image the model's input.

    Attributes:
        resize: Length of the shorter side before cropping, in pixels; None takes only images
            that already have the size ``crop``.
        crop: Centre crop in pixels of the attacker's grid: a side, or (height, width).
        interpolation: Filter of the resize.
        pixel_scale: Exact nearest-neighbour enlargement after the crop: the model's input is
            so many times as high and wide, and the attacker writes on the smaller grid.
        mean: Subtracted per channel, in [0, 1] units.
        std: Divided by per channel, in [0, 1] units.
        scaled_decode: Let libjpeg itself shrink a large JPEG to a half, a quarter or an eighth,
            never below ``resize``, before the resize: faster, and other pixels.

    Raises:
        ValueError: A length is not positive, the crop exceeds the resize, a std is not > 0, or
            ``scaled_decode`` has no ``resize`` to go by.
    """

    resize: int | None
    crop: int | tuple[int, int]
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pixel_scale: int = 1
    scaled_decode: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if not isinstance(self.crop, int):
            height, width = (int(length) for length in self.crop)
            # One way to write a square, since the digits are part of a run's identity.
            object.__setattr__(self, "crop", height if height == width else (height, width))
        lengths = (*self.crop_px, self.pixel_scale, 1 if self.resize is None else self.resize)
        if min(lengths) < 1:
            raise ValueError("resize, crop and pixel_scale must be at least 1 px")
        # The shorter side is as long as the resize, whichever side of the crop lies along it.
        if self.resize is not None and self.resize < max(self.crop_px):
            raise ValueError(
                f"resize={self.resize} is smaller than crop={self.crop}: the crop would show "
                "padding; choose a --resize of at least the crop"
            )
        if self.scaled_decode and self.resize is None:
            raise ValueError("scaled_decode shrinks towards a resize: give --resize, or leave it")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation={self.interpolation!r}: use {get_args(Interpolation)}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError("mean and std need three channels each, and every std must be > 0")

    @property
    def crop_px(self) -> tuple[int, int]:
        """Height and width of the attacker's grid, in its pixels."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop

    @property
    def model_px(self) -> tuple[int, int]:
        """Height and width of the model's input, in model pixels."""
        height, width = self.crop_px
        return height * self.pixel_scale, width * self.pixel_scale

    def resized_px(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after the resize of a picture, in pixels.

        The shorter side is ``resize``; the longer is truncated, as torchvision's.
        """
        if self.resize is None:
            return height, width
        if width <= height:
            return int(self.resize * height / width), self.resize
        return self.resize, int(self.resize * width / height)

    def crop_corner(self, height: int, width: int) -> tuple[int, int]:
        """Corner (y, x) of the crop in the resized picture, of a picture of height x width."""
        return _centered(self.resized_px(height, width), self.crop_px)

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize, crop and enlarge an RGB image; uint8 (*model_px, 3).

        Raises:
            WrongSizeError: ``resize`` is None and the image has not the size of the crop, or the
                resized image would be enormous.
        """
        if self.resize is not None:
            longest = self.resize * max(image.size) // max(1, min(image.size))
            if self.resize * longest > MAX_PIXELS:
                raise WrongSizeError(
                    f"image is {image.width}x{image.height} px: scaled to {self.resize} px on its "
                    f"shorter side it would have more than {MAX_PIXELS:,} pixels"
                )
            height, width = self.resized_px(image.height, image.width)
            if image.size != (width, height):
                image = image.resize((width, height), _RESAMPLING[self.interpolation])
            top, left = _centered((height, width), self.crop_px)
            high, wide = self.crop_px
            image = image.crop((left, top, left + wide, top + high))
        elif (image.height, image.width) != self.crop_px:
            height, width = self.crop_px
            raise WrongSizeError(
                f"image is {image.width}x{image.height} px, the model takes "
                f"{width}x{height}; give --resize to scale it"
            )
        pixels = np.asarray(image, dtype=np.uint8)
        if self.pixel_scale > 1:
            pixels = pixels.repeat(self.pixel_scale, axis=0).repeat(self.pixel_scale, axis=1)
        return pixels

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the inverse of ``Preprocess(**...)``."""
        fields = asdict(self) | {"mean": list(self.mean), "std": list(self.std)}
        if not self.scaled_decode:
            # Part of the identity of runs only where it is used: earlier runs keep theirs.
            del fields["scaled_decode"]
        return fields


def check_unit_range(preprocess: Preprocess) -> None:
    """Raise ValueError for a normalization of pixels in 0..255; it is of pixels in [0, 1].

    Not part of the type: what earlier runs voted with stays readable.
    """
    given = {"mean": preprocess.mean, "std": preprocess.std}
    large = {name: values for name, values in given.items() if max(values) > 1}
    if large:
        raise ValueError(
            f"{_listed(large, 1)}: these normalize pixels in 0..255, but pixels are in [0, 1] when "
            f"they are normalized; give them divided by 255: {_listed(large, 255)}"
        )


def _listed(channels: Mapping[str, tuple[float, ...]], divisor: int) -> str:
    return ", ".join(
        f"{name} {' '.join(f'{value / divisor:.6g}' for value in values)}"
        for name, values in channels.items()
    )


PRESETS: dict[str, Preprocess] = {
    # The published evaluation on ImageNet: Resize 256 (bilinear), CenterCrop 224.
    "imagenet": Preprocess(
        resize=256,
        crop=224,
        interpolation="bilinear",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    # The published evaluation on CIFAR-10: 32 px enlarged 7 times; one pixel is 7 model pixels.
    "cifar10": Preprocess(
        resize=None,
        crop=32,
        interpolation="nearest",
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        pixel_scale=7,
    ),
}


def _centered(size: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int]:
    """Corner (y, x) of the central crop of a size, rounding half to even as torchvision does."""
    (height, width), (high, wide) = size, crop
    return round((height - high) / 2.0), round((width - wide) / 2.0)
