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
    """Sums that do not depend on which thread adds first, so that a seed says all."""
    before = torch.are_deterministic_algorithms_enabled()
    # Otherwise all new memory would be filled with NaN first, which costs a third of the time.
    memory: Any = deterministic  # its stubs lack the attribute
    filled = memory.fill_uninitialized_memory
    with warnings.catch_warnings():
        # What has no such kernel, on CUDA, is left as it is.
        warnings.filterwarnings("ignore", message=".*[Dd]eterministic.*")
        torch.use_deterministic_algorithms(True, warn_only=True)
        memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
            memory.fill_uninitialized_memory = filled
