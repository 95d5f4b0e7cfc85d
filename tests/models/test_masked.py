"""Black-masked images: exact against pixels blackened by hand, bit-identical at every slot."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from families import MASKED, ablation_of, all_logits, lively, one_thread, preprocess_of
from test_families import assert_alike, dense
from torch import nn

from models.classifier import base_classifier
from models.masked import BlackMasked
from models.pixels import UnsupportedModelError
from models.vit import TokenDropViT
from tests.conftest import random_images

KINDS = [("column", 0.3, 10), ("row", 0.55, 25), ("block", 0.4, 21)]


@pytest.fixture(autouse=True)
def threads():
    with one_thread():
        yield


def model_of(family: str, kind: str = "column", share: float = 0.3, stride: int = 10):
    name, arguments, side = MASKED[family]
    ablation = ablation_of(kind, round(side * share), stride, side)
    return BlackMasked(lively(name, arguments), ablation, preprocess_of(side)).eval()


@pytest.mark.parametrize("family", MASKED)
def test_masking_equals_blackened_pixels(family):
    near_ties = 0
    for kind, share, stride in KINDS:
        model = model_of(family, kind, share, stride)
        images = random_images(2, model.model_px[0])
        masked = all_logits(model, torch.from_numpy(images))
        reference = dense(model.network, images, model.ablation, token=None)
        near_ties += assert_alike(masked, reference)
        assert (masked.amax(1) - masked.amin(1)).max() > 0.05  # votes are alive
    assert near_ties <= 1


@pytest.mark.parametrize(
    "mutation", [{"offset": 1}, {"offset": -1}, {"wrap": False}, {"fill": 0.5}], ids=str
)
def test_mutants_fail(mutation):
    for family in ("ResNet", "ViT black"):
        model = model_of(family)
        images = random_images(1, model.model_px[0])
        masked = all_logits(model, torch.from_numpy(images))
        wrong = dense(model.network, images, model.ablation, token=None, **mutation)
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
        model = BlackMasked(network, ablation, preprocess_of(48)).eval()
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
    assert np.flatnonzero(model.visible_columns[1]).tolist() == list(range(7, 35))


def test_hidden_pixels_enter_no_arithmetic():
    model = model_of("ResNet", "block", 0.4, 21)
    with torch.inference_mode():
        tokens = model.tokens(torch.from_numpy(random_images(1, 64)))
        for view in range(len(model.ablation)):
            shown, place = torch.from_numpy(model.ablation.visible(view)), torch.tensor([view])
            clean = model(tokens, torch.tensor([0]), place)
            for poison in (float("nan"), float("inf"), -1e30):
                poisoned = torch.where(shown, tokens, torch.tensor(poison))
                assert torch.equal(clean, model(poisoned, torch.tensor([0]), place))


SLOTS = [
    ("ResNet", torch.float32, 16),
    ("ResNet", torch.float32, 7),
    ("EfficientNet", torch.float32, 16),
    ("ConvNeXt", torch.float32, 7),
    ("Swin", torch.float32, 7),
    ("ViT black", torch.float32, 16),
    ("ViT black", torch.bfloat16, 4),
    ("ResNet", torch.bfloat16, 4),
]


@pytest.mark.parametrize(("family", "dtype", "microbatch"), SLOTS, ids=str)
def test_neighbours_cannot_leak_at_any_slot(family, dtype, microbatch):
    """Bit-identical logits beside NaN, infinity, noise, permuted pixels and padding."""
    model = model_of(family).to(dtype)
    side, zeros = model.model_px[0], torch.zeros(microbatch, dtype=torch.int64)
    with torch.inference_mode():
        tokens = model.tokens(torch.from_numpy(random_images(2, side)))
        quiet = model(tokens, zeros, zeros + 2)[0]  # padding: copies of itself
        permuted = tokens[1].flatten()[torch.randperm(tokens[1].numel())].reshape(tokens[1].shape)
        noise = torch.randn(tokens[1].shape) * 1e3
        neighbours = [torch.full_like(noise, value) for value in (float("nan"), float("inf"))]
        hostile = [tokens[0], *(n.to(dtype) for n in (*neighbours, noise, permuted, tokens[1]))]
        batch = torch.stack(hostile)
        for slot in range(microbatch):
            # Neighbours of every sort at once, another sort beside each slot.
            which = 1 + (torch.arange(microbatch) + slot) % (len(hostile) - 1)
            view_s = torch.arange(microbatch) % len(model.ablation)
            which[slot], view_s[slot] = 0, 2
            assert torch.equal(model(batch, which, view_s)[slot], quiet)


_DIGEST = """
import sys; sys.path[:0] = [{repository!r}, {folder!r}]
import test_masked, torch
torch.set_num_threads(1)
print(test_masked.digest(neighbours=1))
"""


def digest(neighbours: int) -> str:
    """sha256 of the logits of the first image's ablations, as seen among ``neighbours``."""
    sha = hashlib.sha256()
    for dtype in (torch.float32, torch.bfloat16):
        for model in (model_of("ResNet"), model_of("ViT black"), _dropping()):
            model.to(dtype)
            side = model.model_px[0]
            images = torch.from_numpy(random_images(1 + neighbours, side))
            with torch.inference_mode():
                tokens = model.tokens(images)
                for view in model.groups().__next__()[1]:
                    image_s = torch.arange(4) % (1 + neighbours)
                    logits = model(tokens, image_s, torch.full((4,), int(view)))
                    sha.update(logits[0].float().numpy().tobytes())
    return sha.hexdigest()


def _dropping():
    look = preprocess_of(64)
    network = lively("test_vit", {"img_size": 64})
    return TokenDropViT(network, ablation_of("column", 19, 10, 64), look).eval()


def test_logits_are_the_same_in_another_process():
    here = Path(__file__).parent
    script = _DIGEST.format(repository=str(here.parents[1]), folder=str(here))
    other = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert other.stdout.split() == [digest(neighbours=0)] == [digest(neighbours=3)]


def test_order_in_memory_changes_no_bit():
    """Tensors of equal values but other strides must not choose other kernels."""
    for model in (model_of("ResNet"), model_of("Swin"), _dropping()):
        image_s, view_s = torch.arange(4) % 2, torch.full((4,), 2)
        with torch.inference_mode():
            tokens = model.tokens(torch.from_numpy(random_images(2, model.model_px[0])))
            one = model(tokens, image_s, view_s)
            last = tokens.movedim(2, -1).contiguous().movedim(-1, 2)
            assert last.stride() != tokens.stride()
            assert torch.equal(one, model(last, image_s, view_s))


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
