"""Every family that may drop tokens does so exactly: against a dense forward with a mask."""

import numpy as np
import pytest
import torch

from models.classifiers.drop import TokenDropViT
from tests.conftest import random_images
from tests.models.classifiers.dense_reference import dense_logits, visible_mask
from tests.models.classifiers.families import (
    DROPPABLE,
    ablation_of,
    all_logits,
    lively,
    one_thread,
    preprocess_of,
)

KINDS = [("column", 0.3, 10), ("row", 0.55, 25), ("block", 0.4, 21)]
_NETWORKS: dict[str, torch.nn.Module] = {}


@pytest.fixture(autouse=True)
def _quick():
    with one_thread():
        yield


def network_of(family: str) -> torch.nn.Module:
    name, arguments, *_ = DROPPABLE[family]
    if family not in _NETWORKS:
        _NETWORKS[family] = lively(name, arguments)
    return _NETWORKS[family]


def dense(network, images, ablation, token, *, fill=0.0, pool_hidden=False, **mutation):
    side = (ablation.height, ablation.width)
    shown_v = np.stack(
        [
            visible_mask(ablation.kind, ablation.size, ablation.stride, side, view, **mutation)
            for view in range(len(ablation))
        ]
    )
    look = preprocess_of(side[0])
    return torch.stack(
        [
            dense_logits(
                network,
                image,
                shown_v,
                look.mean,
                look.std,
                token=token,
                fill=fill,
                pool_hidden=pool_hidden,
            )
            for image in images
        ]
    )


def assert_alike(logits, reference) -> int:
    """Labels equal save at near-ties, whose number is returned."""
    assert (logits - reference).abs().max() < 1e-3
    top = reference.topk(2, dim=-1).values
    clear = top[..., 0] - top[..., 1] >= 1e-4
    assert torch.equal(logits.argmax(-1)[clear], reference.argmax(-1)[clear])
    return int((~clear).sum())


@pytest.mark.parametrize("family", DROPPABLE)
def test_dropping_equals_masked_attention(family):
    _, _, side, token = DROPPABLE[family]
    network, images, near_ties = network_of(family), random_images(2, side), 0
    for kind, share, stride in KINDS:
        ablation = ablation_of(kind, round(side * share), stride, side)
        dropped = all_logits(
            TokenDropViT(network, ablation, preprocess_of(side)).eval(), torch.from_numpy(images)
        )
        near_ties += assert_alike(dropped, dense(network, images, ablation, token))
        assert (dropped.amax(1) - dropped.amin(1)).max() > 0.1  # votes are alive
    assert near_ties <= 1


@pytest.mark.parametrize("family", DROPPABLE)
def test_mutants_fail(family):
    """Were the family's code wrong in one of these ways, the test above would see it."""
    _, _, side, token = DROPPABLE[family]
    network, images = network_of(family), random_images(1, side)
    ablation = ablation_of("column", round(side * 0.3), 10, side)
    dropped = all_logits(
        TokenDropViT(network, ablation, preprocess_of(side)).eval(), torch.from_numpy(images)
    )
    mutations = [{"offset": 1}, {"offset": -1}, {"wrap": False}, {"fill": 0.5}]
    if network.global_pool == "avg":
        mutations.append({"pool_hidden": True})
    for mutation in mutations:
        wrong = dense(network, images, ablation, token, **mutation)
        assert (dropped - wrong).abs().max() > 1e-2, mutation


@pytest.mark.parametrize("family", ["ViT", "distilled", "registers", "BEiT", "relative"])
def test_misplaced_tokens_fail(family, monkeypatch):
    """Positions shifted by a token, prefix tokens dropped: seen in every way to place tokens."""
    _, _, side, token = DROPPABLE[family]
    network, images = network_of(family), random_images(1, side)
    ablation = ablation_of("column", round(side * 0.3), 10, side)
    model = TokenDropViT(network, ablation, preprocess_of(side)).eval()
    reference = dense(network, images, ablation, token)
    right_positions, right_encoder = TokenDropViT._positions, type(model.encoder).__call__

    def shifted(self):
        positions, prefix = right_positions(self)
        return positions.roll(1, dims=0), prefix

    def misplaced(self, x, kept):
        return right_encoder(self, x, (kept + torch.arange(kept.shape[-1])) % (side // token) ** 2)

    def bare(self):
        positions, prefix = right_positions(self)
        return positions, torch.zeros_like(prefix) + 1

    relative = family in ("BEiT", "relative")
    wrongs = [(type(model.encoder), "__call__", misplaced)] if relative else []
    wrongs += [] if relative else [(TokenDropViT, "_positions", shifted)]
    wrongs += [(TokenDropViT, "_positions", bare)] if network.num_prefix_tokens else []
    for owner, attribute, wrong in wrongs:
        with monkeypatch.context() as patched:
            patched.setattr(owner, attribute, wrong)
            mutant = all_logits(model, torch.from_numpy(images))
        assert (mutant - reference).abs().max() > 1e-2, wrong.__name__
    assert_alike(all_logits(model, torch.from_numpy(images)), reference)


@pytest.mark.parametrize("family", ["ViT patch 8", "distilled", "BEiT", "relative class token"])
def test_whole_image_is_timms_own_forward(family):
    _, _, side, _ = DROPPABLE[family]
    network, images = network_of(family), random_images(2, side)
    ablation = ablation_of("column", 10, 10, side)
    model = TokenDropViT(network, ablation, preprocess_of(side)).eval()
    with torch.inference_mode():
        whole = model.whole(model.tokens(torch.from_numpy(images)), torch.arange(2))
        assert_alike(whole, network(model.normalize(torch.from_numpy(images))))


@pytest.mark.parametrize("kind", ["column", "row", "block"])
def test_grids_that_are_not_square(kind):
    network = lively("test_vit", {"img_size": (48, 80)})
    images = random_images(2, 80)[:, :48]
    ablation = ablation_of(kind, 19, 10, (48, 80))
    model = TokenDropViT(network, ablation, preprocess_of((48, 80))).eval()
    assert model.grid == (3, 5)
    assert_alike(
        all_logits(model, torch.from_numpy(images)), dense(network, images, ablation, token=16)
    )


def test_dropping_leaves_the_network_as_it_was():
    network = lively("beit_base_patch16_224", DROPPABLE["BEiT"][1])
    keys = set(network.state_dict())
    model = TokenDropViT(network, ablation_of("column", 10, 10, 64), preprocess_of(64))
    assert set(network.state_dict()) == keys
    assert network.blocks[0].attn.relative_position_bias_table is not None
    # The copies of blocks own no weights.
    assert {id(p) for p in model.parameters()} == {id(p) for p in network.parameters()}
