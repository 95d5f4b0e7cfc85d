"""Settings and seeds of torch that decide the bits of logits and gradients.

Of gradients: many sequences share a position or a pixel, and torch lets threads add to its
gradient as they come.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import deterministic

_BACKENDS: Any = torch.backends  # its stubs lack these attributes
_PRODUCTS = (
    _BACKENDS.cuda.matmul,
    _BACKENDS.cudnn.conv,
    _BACKENDS.mkldnn.matmul,
    _BACKENDS.mkldnn.conv,
)


def seed_draws(seed: int, device: torch.device) -> None:
    """Seed what torch draws on the CPU and on ``device``.

    Not by ``torch.manual_seed``, which without a GPU keeps a stack trace of every call for CUDA.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


def exact_products() -> None:
    """Let products of float32 be float32: a program's setting may allow TF32 or bfloat16."""
    for products in _PRODUCTS:
        products.fp32_precision = "ieee"


@contextmanager
def kept_settings() -> Iterator[None]:
    """Compute votes whatever the program has set of torch, and give it its settings back."""
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    precisions = [products.fp32_precision for products in _PRODUCTS]
    try:
        with (
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
            torch.device("cpu"),
        ):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = benchmark
        for products, precision in zip(_PRODUCTS, precisions, strict=True):
            products.fp32_precision = precision


@contextmanager
def reproducible_gradients() -> Iterator[None]:
    """Fix the order of sums over threads in the block, so that a seed decides every bit."""
    before = torch.are_deterministic_algorithms_enabled()
    # Otherwise all new memory would be filled with NaN first, which costs a third of the time.
    memory: Any = deterministic  # its stubs lack the attribute
    filled = memory.fill_uninitialized_memory
    with warnings.catch_warnings():
        # Operations without such a kernel, on CUDA, stay as they are.
        warnings.filterwarnings("ignore", message=".*[Dd]eterministic.*")
        torch.use_deterministic_algorithms(True, warn_only=True)
        memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
            memory.fill_uninitialized_memory = filled
