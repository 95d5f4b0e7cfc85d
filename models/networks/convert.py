"""Released smoothed-vit checkpoints to networks of timm.

They are AttackerModels of the ``robustness`` library inside a DataParallel: the network under
``module.model.`` (ViTs one wrapper deeper), the same tensors again under ``module.attacker.``,
and the normalization as buffers of ``module.normalizer``.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.errors import WeightsError
from models.networks.checkpoint import read_checkpoint, state_key, state_of
from models.networks.systems import TokenMode
from models.networks.weights import WeightsCard
from models.networks.zoo import built, check_fit, default_num_classes, default_preprocess, outline
from models.preprocess import PRESETS, Preprocess, check_unit_range
from models.views.ablations import Ablation

_NORMALIZER = re.compile(r"normalizer\.(?:(?:normalizer|1)\.)?new_(mean|std)")


@dataclass(frozen=True, kw_only=True)
class Released:
    """The network in a checkpoint.

    Attributes:
        state: The network's tensors under the network's own names, and any others in the file.
        normalizer: ``mean`` and ``std``; empty where the checkpoint has none.
        tokens: Token mode of the released networks, where the layout is theirs.
    """

    state: dict[str, Tensor]
    normalizer: dict[str, tuple[float, ...]] = field(default_factory=dict)
    tokens: TokenMode | None = None


def unwrap(state: Mapping[str, Tensor], path: str) -> Released:
    """Undo the wrappers around a network; tensors of no known place stay, to be reported.

    Raises:
        WeightsError: The attacker's copy of the network is another network.
    """
    network = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    if not network:
        return Released(state=dict(state))
    copies = {k: v for k, v in state.items() if k.startswith("attacker.")}
    for key, value in network.items():
        copy = copies.get(f"attacker.model.{key}", value)
        if copy.shape != value.shape or not torch.equal(copy, value):
            raise WeightsError(
                f"weights {path}: attacker.model.{key} differs from model.{key}, of which it must "
                "be a copy: the file holds two networks; save the one that is meant"
            )
    if all(key.startswith("model.") for key in network):
        network = {key.removeprefix("model."): value for key, value in network.items()}
    normalizer: dict[str, tuple[float, ...]] = {}
    for key, value in state.items():
        if match := _NORMALIZER.fullmatch(key):
            normalizer[match[1]] = _channels(value)
        elif not key.startswith(("model.", "attacker.")):
            network[key] = value
    # What the authors released was trained, and is evaluated, on black pixels.
    return Released(
        state=network, normalizer=normalizer, tokens="black" if normalizer or copies else None
    )


def convert_checkpoint(
    path: str,
    model: str,
    *,
    num_classes: int | None = None,
    preset: str | None = None,
    ablation: Mapping[str, Any] | None = None,
    tokens: TokenMode | None = None,
    trust_pickle: bool = False,
) -> tuple[dict[str, Tensor], WeightsCard]:
    """Read a checkpoint, check it against ``model``, and describe it in a card.

    Args:
        path: File of ``torch.save``, or safetensors; it is only read.
        model: timm name of the network.
        num_classes: Length of the logits; None takes the head's.
        preset: ``imagenet``, ``cifar10`` or ``model``, for resize and crop; None finds it by
            the normalizer.
        ablation: ``kind``, ``size`` and ``stride`` the network was trained for.
        tokens: Token mode it was trained in; None takes that of the released networks where the
            layout is theirs.
        trust_pickle: Unpickle the file, which runs any code it holds.

    Raises:
        UnknownModelError: timm has no such model.
        WeightsError: The file cannot be read, or is not exactly this network, or the settings
            contradict it.
    """
    network = outline(model)
    checkpoint = read_checkpoint(path, trust_pickle=trust_pickle)
    released = unwrap(state_of(checkpoint, path), path)
    classes = num_classes or _head_length(network, released.state) or default_num_classes(model)
    with torch.device("meta"):
        expected = built(model, classes, released.state)
    check_fit(
        expected,
        released.state,
        f"weights {path} are not a {model} with {classes} classes",
        "Give the --model (and --num-classes) they were trained with",
    )
    preprocess = _preprocess(released, path, model, preset)
    _check_input(network, preprocess, model)
    card = WeightsCard(
        model=model,
        num_classes=classes,
        preprocess=preprocess,
        ablation=_checked(ablation or {}, preprocess),
        tokens=tokens or released.tokens,
        recipe={"converted_from": _provenance(checkpoint, Path(path))},
    )
    # Cloned: views into one storage, as old checkpoints have, cannot be written.
    return {key: value.clone().contiguous() for key, value in released.state.items()}, card


def _channels(value: Tensor) -> tuple[float, ...]:
    """The three numbers of a (3, 1, 1) buffer, as their shortest decimals.

    The float32 nearest to 0.485 is a longer number as a float64; its shortest decimal is 0.485,
    which the same float32 arithmetic reads back to the last bit.
    """
    return tuple(float(str(number)) for number in value.float().flatten().numpy())


def _head_length(network: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Rows of the classifier in the checkpoint; None where it cannot be found."""
    head = network.pretrained_cfg.get("classifier")  # type: ignore[operator, union-attr]
    name = f"{head[0] if isinstance(head, tuple | list) else head}.weight"
    return len(state[name]) if name in state and state[name].ndim else None


def _preprocess(released: Released, path: str, model: str, preset: str | None) -> Preprocess:
    """The preset's resize and crop with the checkpoint's own normalization."""
    found = released.normalizer
    if found and any(len(found.get(name, ())) != 3 for name in ("mean", "std")):
        raise WeightsError(f"weights {path}: its normalizer needs a mean and a std of 3 channels")
    if preset is None:
        matching = (
            name
            for name, known in PRESETS.items()
            if found and np.allclose([*found["mean"], *found["std"]], [*known.mean, *known.std])
        )
        preset = next(matching, None)
    if preset is None:
        says = f"the normalizer {found} of no known preset" if found else "no normalizer"
        raise WeightsError(
            f"weights {path}: has {says}, so how images were resized is unknown; give --preprocess "
            f"{', '.join(PRESETS)} or model"
        )
    base = PRESETS[preset] if preset in PRESETS else default_preprocess(model)
    try:
        preprocess = replace(base, **found)  # type: ignore[arg-type]
        check_unit_range(preprocess)
        return preprocess
    except ValueError as error:
        raise WeightsError(f"weights {path}: its normalizer is unusable: {error}") from error


def _check_input(network: nn.Module, preprocess: Preprocess, model: str) -> None:
    config: Mapping[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    height, width = config["input_size"][1:]
    given = preprocess.model_px
    if config.get("fixed_input_size") and (height, width) != given:
        raise WeightsError(
            f"{model} takes {height}x{width} px, the preprocessing gives {given[0]}x{given[1]} px; "
            "give the --preprocess or the --model that fits"
        )


def _checked(ablation: Mapping[str, Any], preprocess: Preprocess) -> Mapping[str, Any]:
    """The ablation as it was given, known to be possible on these images."""
    try:
        if "size" in ablation:
            height, width = preprocess.crop_px
            Ablation(**{"kind": "column", "stride": 1, **ablation}, height=height, width=width)
    except ValueError as error:
        raise WeightsError(f"the ablation these weights were trained for: {error}") from error
    return ablation


def _provenance(checkpoint: Any, file: Path) -> dict[str, Any]:
    """The file, and the facts of its training that it holds, as plain JSON."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    facts: dict[str, Any] = {"file": file.name, "sha256": digest}
    key = state_key(checkpoint)
    if key is not None and "ema" in key:
        facts["weights"] = key
    if isinstance(checkpoint, Mapping):
        for name, kind in (("epoch", int), ("nat_prec1", float)):
            value = checkpoint.get(name)
            if isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1):
                facts[name] = kind(value)
    return facts
