"""Outputs of a training: a checkpoint to resume from, and the weights."""

import io
import json
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from models.networks.weights import WeightsCard
from pipeline import storage
from pipeline.config import ConfigError
from pipeline.runs.manifest import canonical, flatten
from pipeline.runs.resolve import card_of
from pipeline.runs.versions import git_revision, installed_version
from pipeline.training.recipe import Recipe

_NAME = "checkpoint.pt"
WEIGHTS = "weights.safetensors"


def write_checkpoint(out: str, recipe: Recipe, state: dict[str, Any]) -> None:
    """Replace the checkpoint in ``out``, atomically."""
    sink = io.BytesIO()
    torch.save({"identity": canonical(recipe.identity()).decode(), **state}, sink)
    storage.write_atomically(storage.join(out, _NAME), sink.getvalue())


def read_checkpoint(out: str, recipe: Recipe) -> dict[str, Any] | None:
    """Read the state of the checkpoint in ``out``; None where there is none.

    Raises:
        ConfigError: It is of another training; the message names the fields that differ.
    """
    path = storage.join(out, _NAME)
    if not storage.exists(path):
        return None
    state: dict[str, Any] = torch.load(
        io.BytesIO(storage.read_bytes(path)), map_location="cpu", weights_only=True
    )
    theirs = flatten(json.loads(state.pop("identity")))
    ours = flatten(json.loads(canonical(recipe.identity())))
    differing = sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )
    if differing:
        named = ", ".join(f"{n} ({theirs.get(n)}, now {ours.get(n)})" for n in differing)
        raise ConfigError(
            f"--out {out}: its checkpoint is of another training: {named}. Ask for the same to "
            "resume, choose another --out, or start again with --overwrite"
        )
    return state


def remove_checkpoint(out: str) -> None:
    """Remove the checkpoint in ``out``."""
    storage.remove(storage.join(out, _NAME))


def write_weights(
    out: str, recipe: Recipe, weights: dict[str, Tensor], history: list[dict[str, Any]]
) -> str:
    """Write weights that ``patchcert run --weights`` can use alone; return their path.

    Args:
        out: Folder to write to.
        recipe: The training.
        weights: Tensors of the network.
        history: Figures after each epoch, for the record.
    """
    defense = recipe.defense
    dtype = getattr(torch, recipe.config.save_as)
    card = WeightsCard(
        model=defense.network.name,
        num_classes=defense.network.num_classes,
        classes=recipe.classes,
        preprocess=defense.model_input,
        ablation=card_of(defense.views),
        tokens=defense.tokens,
        recipe=recipe.identity()
        | {"init": recipe.init, "made_by": provenance(), "history": history},
    )
    tensors = {key: _rounded(value.detach().cpu(), dtype) for key, value in weights.items()}
    contiguous = {key: value.contiguous().clone() for key, value in tensors.items()}
    path = storage.join(out, WEIGHTS)
    storage.write_atomically(path, save(contiguous, metadata=card.to_metadata()))
    return path


def _rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a type that holds it: no number becomes infinite, as one above 65504 would."""
    if not value.is_floating_point() or (value.abs() > torch.finfo(dtype).max).any():
        return value
    return value.to(dtype)


def provenance() -> dict[str, str]:
    """Return versions of the installed packages that train, and the git revision of a checkout."""
    names = ("patchcert", "torch", "timm", "torchvision")
    found = {name: installed_version(name) for name in names} | {"revision": git_revision()}
    return {name: version for name, version in found.items() if version is not None}
