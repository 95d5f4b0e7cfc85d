"""Dropping hidden tokens equals masking them out of a dense forward, on every ablation."""

import dataclasses

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from models.classifiers.drop import TokenDropViT
from models.errors import UnsupportedModelError
from models.preprocess import PRESETS
from models.views.ablations import Ablation
from tests.conftest import (
    TINY_PREPROCESS,
    TINY_PX,
    random_images,
    tiny_ablation,
    tiny_model,
)
from tests.models.classifiers.dense_reference import dense_logits, visible_mask
from tests.models.classifiers.families import one_thread

KINDS = [
    ("column", 24, 16),
    ("column", 19, 10),  # a stride that does not divide the width
    ("row", 37, 25),
    ("block", 50, 48),
    ("column", 160, 160),  # nothing hidden
]


@pytest.fixture(autouse=True)
def _quick():
    with one_thread():
        yield


def all_logits(model: TokenDropViT, images: np.ndarray) -> torch.Tensor:
    """Logits of every ablation of every image; (B, V, C)."""
    rows = []
    with torch.inference_mode():
        tokens = model.tokens(torch.from_numpy(images))
        for image in range(len(images)):
            per_view = [
                model(tokens, torch.tensor([image]), torch.tensor([view]))[0]
                for view in range(len(model.views))
            ]
            rows.append(torch.stack(per_view))
    return torch.stack(rows)


def reference_logits(network, images, kind, size, stride, views, **mutation):
    fill = mutation.pop("fill", 0.0)
    shown_v = np.stack(
        [visible_mask(kind, size, stride, TINY_PX, view, **mutation) for view in range(views)]
    )
    mean, std = TINY_PREPROCESS.mean, TINY_PREPROCESS.std
    return torch.stack(
        [dense_logits(network, image, shown_v, mean, std, token=16, fill=fill) for image in images]
    )


@pytest.mark.parametrize(("kind", "size", "stride"), KINDS)
def test_dropping_equals_masked_attention(network, kind, size, stride):
    images = random_images(2)
    model = tiny_model(network, tiny_ablation(kind, size, stride))
    dropped = all_logits(model, images)
    dense = reference_logits(network, images, kind, size, stride, len(model.views))
    assert (dropped - dense).abs().max() < 1e-3
    assert torch.equal(dropped.argmax(-1), dense.argmax(-1))
    assert len(model.views) == 1 or len(dropped.argmax(-1).unique()) > 1  # votes are alive


def test_hidden_pixels_enter_no_arithmetic(network):
    """Not even times zero: NaN and infinity in every hidden pixel change no bit."""
    model = tiny_model(network, tiny_ablation("block", 50, 48))
    images = random_images(1)
    with torch.inference_mode():
        tokens = model.tokens(torch.from_numpy(images))
        for view in range(len(model.views)):
            shown = torch.from_numpy(model.views.visible(view))
            shown = shown.reshape(10, 16, 10, 16).permute(0, 2, 1, 3).reshape(1, 100, 1, 16, 16)
            clean = model(tokens, torch.tensor([0]), torch.tensor([view]))
            for poison in (float("nan"), float("inf"), -1e30):
                poisoned = torch.where(shown, tokens, torch.tensor(poison))
                assert torch.equal(clean, model(poisoned, torch.tensor([0]), torch.tensor([view])))


def test_sampled_tokens_are_a_view_s_own_and_each_as_likely(network):
    model = TokenDropViT(network, tiny_ablation("block", 40, 20), TINY_PREPROCESS)
    images = model.tokens(torch.zeros(1, 160, 160, 3, dtype=torch.uint8))
    rare, often = (int(f(model.token_counts)) for f in (np.argmin, np.argmax))
    view_s = torch.tensor([rare, often]).repeat(2000)
    places = []
    model._classify = lambda pixels, kept: places.append(kept) or pixels.flatten(1)[:, :1]
    count = int(model.token_counts.min())
    torch.manual_seed(0)
    model.sampled(images, torch.zeros_like(view_s), view_s, count - 1)
    for view, drawn in ((rare, places[0][::2]), (often, places[0][1::2])):
        assert all(len(set(row.tolist())) == count - 1 for row in drawn)
        kept = model.kept[view, : model.token_counts[view]]
        times = torch.bincount(drawn.flatten(), minlength=100)
        assert times.sum() == times[kept].sum()
        expected = 2000 * (count - 1) / len(kept)
        assert (times[kept] - expected).abs().max() < 5 * expected**0.5


def test_as_many_sampled_tokens_as_a_view_has_are_the_view(network):
    model = TokenDropViT(network, tiny_ablation("column", 19, 7), TINY_PREPROCESS)
    images = model.tokens(torch.from_numpy(random_images(2)))
    count, views = next(model.groups())
    view_s = torch.from_numpy(views[:2])
    image_s = torch.arange(2)
    with torch.no_grad():
        found = model.sampled(images, image_s, view_s, count)
        torch.testing.assert_close(found, model(images, image_s, view_s), atol=1e-5, rtol=1e-5)


def test_pixel_scale_widens_the_bands():
    """32 bands of 4 px on the 32-px grid are bands of 28 model pixels every 7."""
    ablation = Ablation(kind="column", size=4, stride=1, height=32, width=32, pixel_scale=7)
    model = TokenDropViT(timm.create_model("deit_tiny_patch16_224"), ablation, PRESETS["cifar10"])
    assert len(ablation) == 32
    assert sorted(set(model.token_counts.tolist())) == [28, 42]
    # Band 1 shows model columns 7 to 34: token columns 0, 1 and 2.
    assert set((model.kept[1, : model.token_counts[1]] % 14).tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("swin_tiny_patch4_window7_224", "attends within windows"),
        ("resnet18", "has convolutions"),
        ("vit_tiny_r_s16_p8_224", "share pixels"),
        ("eva02_tiny_patch14_224", "rotary"),
        ("test_mambaout", "none of the transformers"),
    ],
)
def test_models_whose_tokens_cannot_be_dropped_are_refused(name, reason):
    with torch.device("meta"):
        network = timm.create_model(name)
    ablation = Ablation(kind="column", size=19, stride=16, height=224, width=224)
    with pytest.raises(UnsupportedModelError, match=reason):
        TokenDropViT(network, ablation, PRESETS["imagenet"])


def test_unknown_parts_are_refused():
    """A plain class made of parts that mix tokens, or of a subclass, is not trusted."""

    class Subclass(VisionTransformer):
        pass

    class Surprise(nn.Module):
        pass

    small = {"img_size": 160, "embed_dim": 16, "depth": 1, "num_heads": 1}
    strange = VisionTransformer(**small)
    strange.blocks[0].mlp = nn.Sequential(nn.Conv1d(16, 16, 1))
    private = VisionTransformer(**small)
    private.blocks[0].ls1 = Surprise()
    overlapping = VisionTransformer(**small)
    overlapping.patch_embed.proj = nn.Conv2d(3, 16, 16, stride=8)
    for network, reason in [
        (Subclass(**small), "Subclass is not a plain"),
        (strange, "blocks.0.mlp.0 is a Conv1d"),
        (private, "blocks.0.ls1 is a Surprise"),
        (overlapping, "share pixels"),
        (VisionTransformer(**small, pos_embed="none"), "no absolute position"),
        (VisionTransformer(**small, global_pool="", class_token=False), "does not pool"),
    ]:
        with pytest.raises(UnsupportedModelError, match=reason):
            TokenDropViT(network, tiny_ablation(), TINY_PREPROCESS)


def test_disagreeing_sizes_are_refused(network):
    ablation = Ablation(kind="column", size=19, stride=1, height=224, width=224)
    fixed = timm.create_model("deit_tiny_patch16_224", img_size=160, depth=1)
    with pytest.raises(ValueError, match="must agree"):
        TokenDropViT(fixed, ablation, PRESETS["imagenet"])
    with pytest.raises(ValueError, match="must agree"):
        TokenDropViT(network, tiny_ablation(), PRESETS["imagenet"])
    with pytest.raises(ValueError, match="must agree"):  # 152 px are not whole tokens of 16
        TokenDropViT(
            network,
            Ablation(kind="column", size=19, stride=1, height=152, width=152),
            dataclasses.replace(TINY_PREPROCESS, crop=152),
        )
