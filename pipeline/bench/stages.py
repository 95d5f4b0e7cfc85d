"""Where the time of a votes pass goes: embedding, attention, MLPs, head, and the rest."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from models.vit import TokenDropViT


def stage_seconds(
    classifier: TokenDropViT, task: Callable[[], object], device: torch.device
) -> dict[str, float]:
    """Seconds of one call by stage, waiting for the device at every border.

    The waiting costs time of its own, so the sum is a little more than an undisturbed call.

    Args:
        classifier: What the call runs.
        task: The call.
        device: Where it runs.
    """
    network: Any = classifier.network
    stages: dict[str, float] = {}
    parts = [(module, "attention") for module in _named(network, ".attn")]
    parts += [(module, "MLP") for module in _named(network, ".mlp")]
    parts += [(network.head, "head")]
    with _timed(parts, stages, device), _timed_tokens(classifier, stages, device):
        start = _now(device)
        task()
        total = _now(device) - start
    stages["other (gathers, embedding, norms, residuals, votes)"] = total - sum(stages.values())
    return stages


def _named(network: nn.Module, ending: str) -> list[nn.Module]:
    return [module for name, module in network.named_modules() if name.endswith(ending)]


@contextmanager
def _timed(
    parts: list[tuple[nn.Module, str]], stages: dict[str, float], device: torch.device
) -> Iterator[None]:
    """Add the time that modules take to their stages."""
    started: dict[int, float] = {}

    def before(module: nn.Module, _: Any) -> None:
        started[id(module)] = _now(device)

    def after(name: str) -> Callable[..., None]:
        def add(module: nn.Module, _: Any, __: Any) -> None:
            stages[name] = stages.get(name, 0.0) + _now(device) - started[id(module)]

        return add

    handles = []
    for module, name in parts:
        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _timed_tokens(
    classifier: TokenDropViT, stages: dict[str, float], device: torch.device
) -> Iterator[None]:
    """Add the time of normalizing and cutting images into tokens."""
    tokens = classifier.tokens

    def timed(images: torch.Tensor) -> torch.Tensor:
        start = _now(device)
        cut = tokens(images)
        stages["normalize and cut"] = _now(device) - start
        return cut

    # Set on the instance, in front of the class's own.
    vars(classifier)["tokens"] = timed
    try:
        yield
    finally:
        del vars(classifier)["tokens"]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
