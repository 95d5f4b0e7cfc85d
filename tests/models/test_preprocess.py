"""The arithmetic of torchvision's transforms, bit for bit, without torchvision."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from models.errors import WrongSizeError
from models.preprocess import PRESETS, Preprocess, check_unit_range

MODES = {
    "nearest": InterpolationMode.NEAREST,
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
}
GREY = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (227, 227), (256, 256), (257, 31)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("resize", "crop"), [(256, 224), (248, 224), (33, 32), (225, 224), (96, (64, 95))]
)
def test_equals_torchvision(size, mode, resize, crop):
    image = noise(*size)
    expected = transforms.Compose(
        [transforms.Resize(resize, interpolation=MODES[mode]), transforms.CenterCrop(crop)]
    )(image)
    ours = Preprocess(resize=resize, crop=crop, interpolation=mode, **GREY)(image)
    np.testing.assert_array_equal(ours, np.asarray(expected))


def test_cifar_preset_enlarges_every_pixel_seven_times():
    image = noise(32, 32)
    pixels = PRESETS["cifar10"](image)
    assert pixels.shape == (224, 224, 3)
    np.testing.assert_array_equal(pixels[::7, ::7], np.asarray(image))
    np.testing.assert_array_equal(pixels[6::7, 6::7], np.asarray(image))


def test_resize_none_takes_exact_sizes_pixel_for_pixel():
    exact = Preprocess(resize=None, crop=40, interpolation="bilinear", **GREY)
    image = noise(40, 40)
    np.testing.assert_array_equal(exact(image), np.asarray(image))
    with pytest.raises(WrongSizeError, match="41x40 px"):
        exact(noise(41, 40))


def test_a_square_has_one_name():
    fields = {"resize": None, "interpolation": "nearest", **GREY}
    assert Preprocess(crop=(32, 32), **fields) == Preprocess(crop=32, **fields)
    # As JSON gives it back.
    wide = Preprocess(crop=[32, 48], pixel_scale=2, **fields)
    assert (wide.crop, wide.crop_px, wide.model_px) == ((32, 48), (32, 48), (64, 96))
    assert wide(noise(48, 32)).shape == (64, 96, 3)
    with pytest.raises(WrongSizeError, match="32x48 px, the model takes 48x32"):
        wide(noise(32, 48))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize": 39, "crop": (32, 40)}, "smaller than crop"),
        ({"resize": 30}, "smaller than crop"),
        ({"crop": 0}, "at least 1"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be > 0"),
        ({"interpolation": "lanczos"}, "lanczos"),
    ],
)
def test_nonsense_is_refused(change, message):
    fields = {"resize": 40, "crop": 32, "interpolation": "nearest", **GREY}
    with pytest.raises(ValueError, match=message):
        Preprocess(**(fields | change))


def test_survives_json():
    for preset in PRESETS.values():
        assert Preprocess(**preset.to_dict()) == preset


def test_normalization_of_0_to_255_is_refused_with_what_it_is_in_0_to_1():
    look = PRESETS["imagenet"]
    check_unit_range(replace(look, mean=(0, 0, 0), std=(1, 1, 1)))
    for change in ({"mean": (123.675, 116.28, 103.53)}, {"std": (58.395, 57.12, 57.375)}):
        (name,) = change
        expected = " ".join(f"{value:g}" for value in getattr(look, name))
        with pytest.raises(ValueError, match=f"divided by 255: {name} {expected}$"):
            check_unit_range(replace(look, **change))
