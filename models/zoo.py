"""Networks by name with weights from a local file: the only code that asks timm for models."""

import difflib
from collections.abc import Iterable

import timm
import torch
from safetensors.torch import load_file
from timm.data.config import resolve_model_data_config
from torch import nn

from models.preprocess import Preprocess
from models.weights import WeightsError, check_weights_path


class UnknownModelError(ValueError):
    """timm has no model of that name."""


def check_model_name(name: str) -> None:
    """Raise UnknownModelError, naming the nearest models, unless timm knows ``name``."""
    if timm.is_model(name):
        return
    stem = name.split(".", maxsplit=1)[0]
    near = difflib.get_close_matches(stem, timm.list_models(), n=3, cutoff=0.5)
    hint = f"; did you mean {', '.join(near)}?" if near else "; see timm.list_models()"
    raise UnknownModelError(f"model {name!r}: timm has no model of that name{hint}")


def default_num_classes(name: str) -> int:
    """Length of the logits that the model's published weights have."""
    check_model_name(name)
    config = timm.get_pretrained_cfg(name)
    return int(config.num_classes) if config is not None else 1000


def default_preprocess(name: str) -> Preprocess:
    """The evaluation preprocessing of timm's data config for ``name``.

    Raises:
        ValueError: The config cannot be expressed (a non-square input, another crop mode).
    """
    check_model_name(name)
    with torch.device("meta"):
        network = timm.create_model(name, pretrained=False)
    config = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    _, height, width = config["input_size"]
    if height != width or config["crop_mode"] != "center":
        raise ValueError(
            f"model {name!r}: its timm preprocessing ({height}x{width} px, "
            f"{config['crop_mode']} crop) is not a centre crop of a square; give --preprocess"
        )
    return Preprocess(
        resize=int(height / config["crop_pct"]),
        crop=height,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
    )


def load_network(name: str, num_classes: int, weights: str) -> nn.Module:
    """Build ``name`` and load every one of its weights, in float32, evaluation mode.

    Raises:
        UnknownModelError: timm has no such model.
        WeightsError: The file is missing or its keys or shapes are not exactly the network's.
    """
    check_model_name(name)
    state = load_file(check_weights_path(weights))
    network = timm.create_model(name, pretrained=False, num_classes=num_classes)
    expected = network.state_dict()
    missing = sorted(set(expected) - set(state))
    unexpected = sorted(set(state) - set(expected))
    misshapen = [
        f"{key} is {tuple(state[key].shape)}, the network's is {tuple(expected[key].shape)}"
        for key in sorted(set(state) & set(expected))
        if state[key].shape != expected[key].shape
    ]
    if missing or unexpected or misshapen:
        parts = [
            f"{len(keys)} {what}: {_at_most_ten(keys)}"
            for what, keys in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of another shape", misshapen),
            )
            if keys
        ]
        raise WeightsError(
            f"weights {weights} do not fit {name} with {num_classes} classes: {'; '.join(parts)}. "
            "Give the --model and --num-classes these weights were trained with"
        )
    network.load_state_dict(state)
    return network.eval()


def _at_most_ten(items: Iterable[str]) -> str:
    listed = list(items)
    return ", ".join(listed[:10]) + (", ..." if len(listed) > 10 else "")
