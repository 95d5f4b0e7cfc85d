"""Checkpoints with the key layout of the released smoothed-vit models, made from timm networks."""

import collections
from pathlib import Path

import timm
import torch

from models.preprocess import PRESETS


def network_state(model: str, num_classes: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors in the network's shapes; its own initialization takes seconds."""
    with torch.device("meta"):
        shapes = timm.create_model(model, num_classes=num_classes).state_dict()
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(value.shape, generator=generator).to(value.dtype)
        for key, value in shapes.items()
    }


def released_state(
    network: dict[str, torch.Tensor],
    *,
    vit: bool = True,
    older: bool = False,
    preset: str = "imagenet",
    prefix: str = "module.",
) -> dict[str, torch.Tensor]:
    """An AttackerModel's state dict inside a DataParallel."""
    deeper = "model." if vit else ""
    buffers = "normalizer.1." if older else "normalizer.normalizer."
    known = PRESETS[preset]
    state = collections.OrderedDict()
    for name, values in (("new_mean", known.mean), ("new_std", known.std)):
        state[f"{prefix}{buffers}{name}"] = torch.tensor(values).view(3, 1, 1)
    for key, value in network.items():
        state[f"{prefix}model.{deeper}{key}"] = value
        state[f"{prefix}attacker.model.{deeper}{key}"] = value
    for name, values in (("new_mean", known.mean), ("new_std", known.std)):
        state[f"{prefix}attacker.normalize.{name}"] = torch.tensor(values).view(3, 1, 1)
    return state


def save_released(path: Path, state: dict, schedule: object = None) -> Path:
    """A whole checkpoint; a ``schedule`` that is no plain value makes it need unpickling."""
    checkpoint = {
        "model": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.01, "params": [0]}]},
        "schedule": schedule,
        "epoch": 29,
        "amp": None,
        "nat_prec1": torch.tensor(52.25),
    }
    torch.save(checkpoint, path)
    return path
