import numpy as np
import pytest
import torch
from PIL import Image

from models.errors import WrongSizeError
from models.preprocess import PRESETS
from pipeline.training.images import Augment
from tests.conftest import random_images
from tests.pipeline.training.toy import PREPROCESS, colours

IMAGE = Image.fromarray(colours(1)[0])


@pytest.mark.parametrize("kind", ["none", "crop", "rand", "trivial"])
def test_changes_follow_from_seed_epoch_and_row_alone(kind):
    augment = Augment(kind, PREPROCESS, seed=5)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = augment(IMAGE, (2, 7))
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    np.testing.assert_array_equal(first, augment(IMAGE, (2, 7)))
    assert first.shape == (20, 20, 3)
    others = [Augment(kind, PREPROCESS, seed=6)(IMAGE, (2, 7))]
    others += [augment(IMAGE, (epoch, row)) for epoch in (0, 1, 2) for row in (7, 8, 9)]
    distinct = {other.tobytes() for other in others}
    assert len(distinct) == 1 if kind == "none" else len(distinct) > 4


def test_none_is_the_evaluation_before_it_is_enlarged():
    pixels = Augment("none", PREPROCESS, seed=0)(IMAGE, (0, 0))
    np.testing.assert_array_equal(pixels.repeat(8, axis=0).repeat(8, axis=1), PREPROCESS(IMAGE))


def test_crop_shifts_over_black_and_flips():
    augment = Augment("crop", PREPROCESS, seed=0)
    padded = np.pad(np.asarray(IMAGE), ((2, 2), (2, 2), (0, 0)))
    windows = [padded[y : y + 20, x : x + 20] for y in range(5) for x in range(5)]
    possible = {w.tobytes() for w in windows} | {w[:, ::-1].tobytes() for w in windows}
    assert {augment(IMAGE, (0, row)).tobytes() for row in range(50)} <= possible


def test_images_that_are_resized_get_a_random_crop():
    image = Image.fromarray(random_images(1, 300)[0])
    augment = Augment("crop", PRESETS["imagenet"], seed=0)
    assert augment(image, (0, 0)).shape == (224, 224, 3)


def test_another_size_is_refused():
    with pytest.raises(WrongSizeError, match="21x20"):
        Augment("crop", PREPROCESS, seed=0)(IMAGE.resize((21, 20)), (0, 0))
