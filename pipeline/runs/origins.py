"""The treatment of a run's images, and the request, file or default that decided each part."""

import sys
from collections.abc import Iterator

from models.networks.weights import WeightsCard, read_card
from models.preprocess import PRESETS
from pipeline.config import VotesConfig
from pipeline.runs.defense import Defense
from pipeline.runs.weight_files import local_weights, weights_key

_CARD = "the weights"


def say_defense(config: VotesConfig, defense: Defense) -> None:
    """Print the choices that decide a result, each with its origin, on standard error.

    Raises:
        WeightsError: The weight file is missing or malformed.
    """
    print(*_lines(config, defense), sep="\n", file=sys.stderr)


def _lines(config: VotesConfig, defense: Defense) -> Iterator[str]:
    file = local_weights(defense.network.weights)
    card, network, views = read_card(file), defense.network, defense.views
    model = _origin(config, card, "model", "the name of the weights")
    classes = _origin(config, card, "num_classes", f"timm's {network.name}")
    tokens = _origin(config, card, "tokens", "default")
    kept = {"drop": "dropped", "black": "black"}.get(defense.tokens, defense.tokens)
    yield f"network:    {network.name} ({model}), {network.num_classes} classes ({classes})"
    if (key := weights_key(file)) is not None:
        yield f"weights:    {key} of {file}"
    yield f"input:      {', '.join(_input(config, defense, card))}"
    described = views.describe()
    shape = _origin(config, card, "views", "default")
    yield (
        f"views:      {len(views)}: {described.shape} ({shape}), {described.views}, "
        f"{described.places}, hidden tokens {kept} ({tokens})"
    )


def _input(config: VotesConfig, defense: Defense, card: WeightsCard) -> Iterator[str]:
    """The parts of the preprocessing; the origin of those that no flag gives comes last."""
    look = defense.model_input
    if config.preprocess in PRESETS:
        origin = f"--preprocess {config.preprocess}"
    elif config.preprocess is None and card.preprocess is not None:
        origin = _CARD
    else:
        origin = f"timm's {defense.network.name}"
    height, width = look.crop_px
    enlarged = f" enlarged {look.pixel_scale} times" if look.pixel_scale > 1 else ""
    shrunk = " after libjpeg's (--scaled-decode)" if look.scaled_decode else ""
    parts = {
        "resize": f"resize {look.resize}{shrunk}" if look.resize else "no resize",
        "interpolation": look.interpolation,
        "crop": f"crop {height}x{width}{enlarged}",
        "mean": f"mean {' '.join(f'{value:g}' for value in look.mean)}",
        "std": f"std {' '.join(f'{value:g}' for value in look.std)}",
    }
    for name, text in parts.items():
        yield text if getattr(config, name) is None else f"{text} (--{name})"
    yield f"as {origin} {'say' if origin == _CARD else 'says'}"


def _origin(config: VotesConfig, card: WeightsCard, name: str, default: str) -> str:
    if getattr(config, name) is not None:
        return "--" + name.replace("_", "-")
    held = card.ablation.get("kind") if name == "views" else getattr(card, name)
    return default if held is None else _CARD
