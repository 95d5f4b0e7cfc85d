"""Black-masked images: exact against pixels blackened by hand, for every kind of network."""

import numpy as np
import pytest
import torch
from torch import nn

from models.classifiers.black import BlackMasked
from models.classifiers.build import base_classifier
from models.errors import UnsupportedModelError
from tests.conftest import random_images
from tests.models.classifiers.families import (
    MASKED,
    ablation_of,
    all_logits,
    lively,
    masked_model,
    one_thread,
    preprocess_of,
)
from tests.models.classifiers.test_families import assert_alike, dense

KINDS = [("column", 0.3, 10), ("row", 0.55, 25), ("block", 0.4, 21)]


@pytest.fixture(autouse=True)
def _quick():
    with one_thread():
        yield


@pytest.mark.parametrize("family", MASKED)
def test_masking_equals_blackened_pixels(family):
    near_ties = 0
    for kind, share, stride in KINDS:
        model = masked_model(family, kind, share, stride)
        images = random_images(2, model.model_px[0])
        masked = all_logits(model, torch.from_numpy(images))
        reference = dense(model.network, images, model.views, token=None)
        near_ties += assert_alike(masked, reference)
        assert (masked.amax(1) - masked.amin(1)).max() > 0.05  # votes are alive
    assert near_ties <= 1


@pytest.mark.parametrize(
    "mutation", [{"offset": 1}, {"offset": -1}, {"wrap": False}, {"fill": 0.5}], ids=str
)
def test_mutants_fail(mutation):
    for family in ("ResNet", "ViT black"):
        model = masked_model(family)
        images = random_images(1, model.model_px[0])
        masked = all_logits(model, torch.from_numpy(images))
        wrong = dense(model.network, images, model.views, token=None, **mutation)
        assert (masked - wrong).abs().max() > 1e-2


def test_black_is_not_drop():
    """The two token modes are different classifiers, and agree where nothing is hidden."""
    network, look = lively("test_vit", {"img_size": 64}), preprocess_of(64)
    images = torch.from_numpy(random_images(2, 64))

    def both(ablation):
        return [
            all_logits(base_classifier(network, ablation, look, tokens).eval(), images)
            for tokens in ("drop", "black")
        ]

    drop, black = both(ablation_of("column", 10, 10, 64))
    assert (drop - black).abs().max() > 0.1
    drop, black = both(ablation_of("column", 64, 64, 64))
    assert (drop - black).abs().max() < 1e-3


def test_images_that_are_not_square():
    network, images = lively("test_resnet"), random_images(2, 80)[:, :48]
    for kind in ("column", "row", "block"):
        ablation = ablation_of(kind, 19, 10, (48, 80))
        model = BlackMasked(network, ablation, preprocess_of((48, 80))).eval()
        masked = all_logits(model, torch.from_numpy(images))
        assert_alike(masked, dense(network, images, ablation, token=None))


def test_pixel_scale_widens_the_bands():
    model = BlackMasked(
        lively("test_resnet"),
        type(ablation_of("column", 4, 1, 8))(
            kind="column", size=4, stride=1, height=8, width=8, pixel_scale=7
        ),
        preprocess_of(56),
    )
    assert np.flatnonzero(model.columns[1, 0]).tolist() == list(range(7, 35))


def test_hidden_pixels_enter_no_arithmetic():
    model = masked_model("ResNet", "block", 0.4, 21)
    with torch.inference_mode():
        tokens = model.tokens(torch.from_numpy(random_images(1, 64)))
        for view in range(len(model.views)):
            shown, place = torch.from_numpy(model.views.visible(view)), torch.tensor([view])
            clean = model(tokens, torch.tensor([0]), place)
            for poison in (float("nan"), float("inf"), -1e30):
                poisoned = torch.where(shown, tokens, torch.tensor(poison))
                assert torch.equal(clean, model(poisoned, torch.tensor([0]), place))


def test_networks_that_mix_a_batch_are_refused():
    network = lively("test_resnet")
    network.bn1 = nn.BatchNorm2d(network.bn1.num_features, track_running_stats=False)
    with pytest.raises(UnsupportedModelError, match=r"ResNet\.bn1 normalizes by the statistics"):
        BlackMasked(network, ablation_of("column", 10, 10, 64), preprocess_of(64))


def test_bad_input():
    ablation, look = ablation_of("column", 10, 10, 64), preprocess_of(64)
    with pytest.raises(ValueError, match="must agree"):
        BlackMasked(lively("vit_tiny_patch16_224", {"depth": 1}), ablation, look)
    with pytest.raises(ValueError, match="must agree"):
        BlackMasked(lively("test_resnet"), ablation, preprocess_of(48))
    with pytest.raises(ValueError, match="choose drop or black"):
        base_classifier(lively("test_resnet"), ablation, look, "grey")
    network = lively("test_resnet")
    network.reset_classifier(0, "")
    headless = BlackMasked(network, ablation, look).eval()
    zeros = torch.zeros(1, dtype=torch.int64)
    with torch.inference_mode(), pytest.raises(UnsupportedModelError, match="choose a classifier"):
        headless(headless.tokens(torch.from_numpy(random_images(1, 64))), zeros, zeros)
