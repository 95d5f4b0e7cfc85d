"""Optimizer and learning-rate schedule of a training."""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import timm.optim.muon
import torch
from timm.optim._param_groups import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from models.networks.zoo import parameters_of
from pipeline.training.config import Schedule, TrainConfig

_NEWTON_SCHULZ = timm.optim.muon.zeropower_via_newtonschulz
_BETAS = (0.9, 0.999)
# Learning rate of the parameters that Muon leaves to AdamW, as a share of Muon's own: matrices
# bear about twice as much. In short tries the loss of trained weights rose alike at Muon's 6e-4
# and at AdamW's 2.5e-4.
_REST = 0.5


def optimizer_of(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimizer: matrices decay and vectors do not; lower layers are slower if asked."""
    kept_out: set[str] = getattr(network, "no_weight_decay", set)()
    if config.layer_decay < 1:
        groups = param_groups_layer_decay(
            network, config.weight_decay, kept_out, layer_decay=config.layer_decay
        )
    else:
        groups = param_groups_weight_decay(network, config.weight_decay, True, kept_out)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    if config.optimizer == "muon":
        ends = (*parameters_of(network, "first_conv"), *parameters_of(network, "classifier"))
        return _muon(groups, {*kept_out, *ends}, network, config.lr)
    return torch.optim.AdamW(groups, lr=config.lr, betas=_BETAS, fused=True)


def _muon(
    groups: Iterable[dict[str, Any]], excluded: set[str], network: nn.Module, lr: float
) -> torch.optim.Optimizer:
    """Use timm's Muon for matrices between the first layer and the head, its AdamW for the rest."""
    # Muon orthogonalizes in bfloat16 and has no argument for it; a CPU without bfloat16 took 16
    # times as long as with float32.
    on_cpu = next(network.parameters()).device.type == "cpu"
    dtype = torch.float32 if on_cpu else torch.bfloat16
    timm.optim.muon.zeropower_via_newtonschulz = partial(_NEWTON_SCHULZ, dtype=dtype)
    rest = {id(one) for name, one in network.named_parameters() if name in excluded or one.ndim < 2}
    split = []
    for group in groups:
        scale = group.get("lr_scale", 1.0)
        by_muon = [one for one in group["params"] if id(one) not in rest]
        by_adam = [one for one in group["params"] if id(one) in rest]
        split += [
            {**group, "params": by_muon, "use_fallback": False},
            {**group, "params": by_adam, "use_fallback": True, "lr_scale": _REST * scale},
        ]
    return timm.optim.muon.Muon(split, lr=lr, nesterov=True, betas=_BETAS)


def share_of_peak(step: int, steps: int, warmup: int, schedule: Schedule) -> float:
    """Return the share of the peak learning rate at a step of ``steps``, counted from 0.

    Linear warm-up; then half a cosine to zero, or a tenth after each third (Salman et al. 2022
    divide by ten every 10 of 30 epochs), or all of it to the end.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return float(0.1 ** min(2, 3 * step // max(1, steps)))
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
