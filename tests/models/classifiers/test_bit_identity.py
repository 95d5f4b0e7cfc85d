"""Logits of an ablation are the same bits at every slot, beside any neighbour, in any process."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.classifiers.base import AblatedPixels
from models.classifiers.bits import find_leak
from models.classifiers.drop import TokenDropViT
from models.classifiers.smoothed import SmoothedClassifier
from tests.conftest import random_images
from tests.models.classifiers.families import (
    DROPPABLE,
    ablation_of,
    lively,
    masked_model,
    one_thread,
    preprocess_of,
)


@pytest.fixture(autouse=True)
def _quick():
    with one_thread():
        yield


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
    model = masked_model(family).to(dtype)
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
            view_s = torch.arange(microbatch) % len(model.views)
            which[slot], view_s[slot] = 0, 2
            assert torch.equal(model(batch, which, view_s)[slot], quiet)


_SCRIPT = """
import sys; sys.path[:0] = [{repository!r}, {folder!r}]
import json, test_bit_identity, torch
torch.set_num_threads(1)
print(json.dumps(test_bit_identity.{call}))
"""


def in_another_process(call: str) -> subprocess.Popen[str]:
    """A fresh process that calls a function of this module, with reproducible MKL."""
    here = Path(__file__).parent
    script = _SCRIPT.format(repository=str(here.parents[2]), folder=str(here), call=call)
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"MKL_CBWR": "AUTO"},
    )


def first_process() -> dict:
    # Two threads are slow on networks this small: one family of every path.
    return {
        "one thread": leaking_families(1, list(DROPPABLE)),
        # Dear on networks this small, so only the family that did leak between two threads.
        "two threads": leaking_families(2, ["SigLIP"]),
        "digest": digest(neighbours=0),
    }


def second_process() -> dict:
    return {"digest": digest(neighbours=3)}


@pytest.fixture(scope="module")
def answers() -> list[dict]:
    """Of both processes, run at once: importing torch takes most of their time."""
    running = [in_another_process("first_process()"), in_another_process("second_process()")]
    return [json.loads(process.communicate()[0]) for process in running]


def leaking_families(threads: int, families: list[str]) -> list[str]:
    """Families with a slot or a neighbour that changes the logits of an ablation."""
    torch.set_num_threads(threads)
    leaking = [family for family in families if leaks(dropping(family))]
    torch.set_num_threads(1)
    return leaking


def dropping(family: str) -> TokenDropViT:
    """A member of ``DROPPABLE`` on bands."""
    name, arguments, side, _ = DROPPABLE[family]
    ablation = ablation_of("column", round(side * 0.3), 10, side)
    return TokenDropViT(lively(name, arguments), ablation, preprocess_of(side)).eval()


def leaks(
    model: AblatedPixels,
    microbatch: int = 16,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> bool:
    """Tell whether any slot, or a neighbour of any sort, changes a bit of a view's logits."""
    smoothed = SmoothedClassifier(model.to(device, dtype).pack(), torch.device(device), microbatch)
    return find_leak(smoothed, thorough=True) is not None


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", DROPPABLE)
def test_no_family_leaks_on_a_gpu(family, dtype):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device is here")
    assert not leaks(dropping(family), microbatch=512, device="cuda", dtype=dtype)


@pytest.mark.parametrize("threads", ["one thread", "two threads"])
def test_no_family_leaks_when_tokens_are_dropped(answers, threads):
    """Attention with a gathered bias, pooling, both heads: every path, every slot.

    Without MKL_CBWR differential attention differs between even and odd slots, and attention
    pooling between two threads; with it no family does.
    """
    assert answers[0][threads] == []


def digest(neighbours: int) -> str:
    """sha256 of the logits of the first image's ablations, as seen among ``neighbours``."""
    sha = hashlib.sha256()
    for dtype in (torch.float32, torch.bfloat16):
        for model in (masked_model("ResNet"), masked_model("ViT black"), _dropping()):
            model.to(dtype).pack()
            side = model.model_px[0]
            images = torch.from_numpy(random_images(1 + neighbours, side))
            with torch.inference_mode():
                tokens = model.tokens(images)
                for view in next(iter(model.groups()))[1]:
                    image_s = torch.arange(4) % (1 + neighbours)
                    logits = model(tokens, image_s, torch.full((4,), int(view)))
                    sha.update(logits[0].float().numpy().tobytes())
    return sha.hexdigest()


def _dropping():
    look = preprocess_of(64)
    network = lively("test_vit", {"img_size": 64})
    return TokenDropViT(network, ablation_of("column", 19, 10, 64), look).eval()


def test_logits_are_the_same_in_another_process(answers):
    """Alone in one, among others in the other."""
    assert answers[0]["digest"] == answers[1]["digest"]


def test_order_in_memory_changes_no_bit():
    """Tensors of equal values but other strides must not choose other kernels."""
    for model in (masked_model("ResNet"), masked_model("Swin"), _dropping()):
        image_s, view_s = torch.arange(4) % 2, torch.full((4,), 2)
        with torch.inference_mode():
            tokens = model.tokens(torch.from_numpy(random_images(2, model.model_px[0])))
            one = model(tokens, image_s, view_s)
            last = tokens.movedim(2, -1).contiguous().movedim(-1, 2)
            assert last.stride() != tokens.stride()
            assert torch.equal(one, model(last, image_s, view_s))
