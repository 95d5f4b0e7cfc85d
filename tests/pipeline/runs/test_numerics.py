"""Sequences a forward pass, where a run does not say how many."""

from dataclasses import replace

import pytest

from models.preprocess import PRESETS, Preprocess
from models.views.ablations import Ablation
from models.views.masks import Mask, Masks
from pipeline.config import VotesConfig
from pipeline.runs.defense import Defense, Network
from pipeline.runs.numerics import Machine, resolve_numerics

SIDES = {"height": 32, "width": 32}
MASKS = Masks(**SIDES, masks=(Mask(0, 0, 8, 8),), pairs=True, covers=())
BANDS = Ablation(**SIDES, kind="column", size=4, stride=1)


def microbatch(device: str, look: Preprocess, views=MASKS, given: int | None = None) -> int:
    defense = Defense(
        preprocess=look, network=Network(name="any", num_classes=2), views=views, tokens="black"
    )
    config = VotesConfig(data="-", weights="-", microbatch=given)
    return resolve_numerics(config, Machine(device, "", 2, {}), defense).microbatch


@pytest.mark.parametrize(
    ("scale", "expected"), [(1, 64), (3, 64), (4, 48), (5, 16), (7, 16), (12, 16)]
)
def test_masks_on_a_cpu_take_as_many_pixels_as_16_images_of_224(scale, expected):
    look = replace(PRESETS["cifar10"], pixel_scale=scale)
    assert microbatch("cpu", look) == expected
    assert microbatch("cpu", look, given=128) == 128
    assert microbatch("cuda", look) == 512
    assert microbatch("cpu", look, BANDS) == 64
