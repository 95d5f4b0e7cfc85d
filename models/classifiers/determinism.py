"""Gradients whose last bits do not depend on threads.

Many sequences share a position or a pixel, and torch lets threads add to its gradient as they come.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import deterministic


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
