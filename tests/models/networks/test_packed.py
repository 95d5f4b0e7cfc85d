"""Packed blocks compute what timm's compute, but for the order of sums, and only for votes."""

import copy

import pytest
import timm
import torch
from timm.models.vision_transformer import Block, ResPostBlock
from torch import nn

from models.classifiers.bits import find_leak
from models.classifiers.drop import TokenDropViT
from models.classifiers.smoothed import SmoothedClassifier
from models.networks import packed
from models.networks.packed import PackedBlocks, PackedLinear, can_pack
from pipeline.bench.operations import operations_an_image
from tests.conftest import random_images
from tests.models.classifiers.families import ablation_of, lively, one_thread, preprocess_of

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}

pytestmark = pytest.mark.skipif(
    not can_pack(CPU, torch.float32), reason="this torch is without oneDNN"
)


@pytest.fixture(autouse=True)
def _quick():
    with one_thread():
        yield


def blocks_of(**settings) -> nn.Sequential:
    torch.manual_seed(1)
    made = nn.Sequential(*(Block(32, 4, **settings) for _ in range(3)))
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.3)
    return made.eval()


SETTINGS = {
    "plain": {"qkv_bias": True},
    "no bias": {"qkv_bias": False, "proj_bias": False},
    "layer scale": {"init_values": 0.5},
    "normed": {"qk_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True},
    "tanh": {"act_layer": lambda: nn.GELU("tanh")},
    "another activation": {"act_layer": nn.SiLU},
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("tokens", [5, 300])  # by plain products, and by the fused kernel
@pytest.mark.parametrize("settings", SETTINGS)
def test_they_compute_what_the_blocks_compute(settings, tokens, dtype):
    if not can_pack(CPU, dtype):
        pytest.skip("this processor does not multiply bfloat16")
    blocks = blocks_of(**SETTINGS[settings]).to(dtype)
    x = torch.randn(2, tokens, 32, dtype=dtype)
    with torch.inference_mode():
        expected, found = blocks(x).float(), PackedBlocks(blocks)(x).float()
    assert found.dtype is expected.dtype
    assert (found - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()


def test_every_product_of_a_known_block_is_packed_and_no_weight_is_copied_twice():
    many, few = PackedBlocks(blocks_of()).many, PackedBlocks(blocks_of()).few
    for block in (*many, *few):
        kinds = [type(part) for part in block.modules()]
        assert kinds.count(PackedLinear) == 4
        assert nn.Linear not in kinds
        assert nn.GELU not in kinds
    both = PackedBlocks(blocks_of())
    for one, other in zip(both.many, both.few, strict=True):
        assert one.attn.qkv is other.attn.qkv
        assert one.norm1.weight is other.norm1.weight
        assert one.attn.fused_attn
        assert not other.attn.fused_attn


def test_a_block_or_part_that_is_not_known_is_called_as_it_is():
    post = ResPostBlock(32, 4).eval()
    assert PackedBlocks([post]).blocks == [post, post]
    (hooked,) = blocks_of()[:1]
    hooked.mlp.fc1.register_forward_hook(lambda module, given, found: found * 2)
    hooked.attn.proj.register_forward_pre_hook(lambda module, given: (given[0] * 3,))
    own = hooked.attn.qkv.forward
    hooked.attn.qkv.forward = lambda x: own(x) * 0.5
    (block,) = PackedBlocks([hooked]).many
    kinds = [type(part) for part in (block.mlp.fc1, block.attn.proj, block.attn.qkv)]
    assert kinds == [nn.Linear] * 3
    assert type(block.mlp.act) is nn.GELU
    x = torch.randn(2, 5, 32)
    with torch.inference_mode():
        assert torch.allclose(PackedBlocks([hooked])(x), hooked(x), atol=1e-3, rtol=1e-3)


def test_nothing_is_packed_where_it_cannot_be(monkeypatch):
    assert not can_pack(torch.device("cuda"), torch.float32)
    assert not can_pack(CPU, torch.float64)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not can_pack(CPU, torch.float32)
    model = model_of(64).pack()
    assert model.encoder.packed is None
    monkeypatch.undo()
    assert model.pack().encoder.packed is not None
    assert model.double().pack().encoder.packed is None


def model_of(side: int, band: int = 19) -> TokenDropViT:
    network = lively("test_vit", {"img_size": side})
    return TokenDropViT(network, ablation_of("column", band, 30, side), preprocess_of(side)).eval()


def test_votes_are_packed_and_gradients_are_not(monkeypatch):
    model = model_of(64).pack()
    calls, right = [], model.encoder.packed
    monkeypatch.setattr(model.encoder, "packed", lambda x: calls.append(x) or right(x))
    images = torch.from_numpy(random_images(2, 64))
    number = torch.zeros(2, dtype=torch.int64)
    tokens = model.tokens(images).requires_grad_()
    logits = model(tokens, number, number)
    logits.sum().backward()
    assert tokens.grad.abs().sum() > 0
    assert not calls
    with torch.inference_mode():
        voted = model(model.tokens(images), number, number)
    assert len(calls) == 1
    assert torch.allclose(voted, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_long_sequences_do_not_leak(dtype):
    """Of more tokens than plain products attend to in float32, at every slot."""
    model = model_of(160, band=128).to(dtype).pack()
    assert model.token_counts.min() > packed._FEW_TOKENS[torch.float32]
    assert find_leak(SmoothedClassifier(model, CPU, 16), thorough=True) is None


def test_operations_are_those_of_the_network_packed_or_not():
    model = model_of(64)
    expected = operations_an_image(model)
    assert operations_an_image(model.pack()) == expected
    assert model.encoder.packed is not None


def test_a_leak_of_packed_blocks_is_found():
    model = model_of(64).pack()
    right = model.encoder.packed

    class Mixing:
        def __call__(self, x):
            return right(x) + x.mean(dim=0) * 1e-3

    model.encoder.packed = Mixing()
    assert find_leak(SmoothedClassifier(model, CPU, 16), thorough=False)


def test_a_real_network_keeps_its_votes():
    torch.manual_seed(0)
    network = timm.create_model("deit_tiny_patch16_224").eval()
    look, ablation = preprocess_of(224), ablation_of("column", 19, 40, 224)
    plain = TokenDropViT(network, ablation, look).eval()
    images = random_images(2, 224)
    expected = SmoothedClassifier(copy.copy(plain), CPU, 16, gaps=True)(images)
    found = SmoothedClassifier(plain.pack(), CPU, 16, gaps=True)(images)
    # Near ties may turn; nothing else may.
    clear = expected.gaps_bv > 1e-3
    assert (found.votes_bv == expected.votes_bv)[clear].all()
    assert clear.mean() > 0.5
