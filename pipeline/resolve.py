"""From what was asked to what will be run: every default filled in, every contradiction found.

Precedence: the flag, then the weight file's own card, then the preset, then the paper's setting.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from models.ablation import Ablation
from models.preprocess import PRESETS, Preprocess
from models.weights import WeightsCard, read_card, sha256_of
from pipeline.config import ConfigError, VotesConfig

# Salman et al. 2022: bands of 19 px at 224 px; 4 px on CIFAR-10's own 32-px grid.
_PAPER_SIZE, _PAPER_SIZE_CIFAR = 19, 4
# 1, 2 and 3 % of a 224 x 224 image; 2x2, 4x4 and 5x5 on CIFAR-10.
_PAPER_PATCHES, _PAPER_PATCHES_CIFAR = (23, 32, 39), (2, 4, 5)


@dataclass(frozen=True, kw_only=True)
class Voter:
    """A fully specified base classifier and its ablations: all an actor needs to vote.

    Attributes:
        model: timm name of the network.
        num_classes: Length of the logits.
        weights: Path of the weight file.
        weights_sha256: Digest of its bytes.
        preprocess: From the decoded image to the model's input.
        ablation: The views, on the attacker's grid.
        tokens: Token mode.
    """

    model: str
    num_classes: int
    weights: str
    weights_sha256: str
    preprocess: Preprocess
    ablation: Ablation
    tokens: str


def resolve_voter(config: VotesConfig) -> Voter:
    """Fill in what ``config`` leaves open.

    Raises:
        ConfigError: Something is neither given nor known, or does not fit the image.
        WeightsError: The weight file is missing or malformed.
        UnknownModelError: timm has no such model.
    """
    card = read_card(config.weights)
    model = config.model or card.model
    if model is None:
        raise ConfigError(
            f"weights {config.weights} do not say which network they belong to: give --model"
        )
    preprocess = _preprocess(config, card, model)
    size = config.size or _card_length(card, "size")
    if size is None:
        size = _PAPER_SIZE_CIFAR if preprocess == PRESETS["cifar10"] else _PAPER_SIZE
    try:
        ablation = Ablation(
            kind=config.ablation,
            size=size,
            stride=config.stride or _card_length(card, "stride") or 1,
            height=preprocess.crop,
            width=preprocess.crop,
            pixel_scale=preprocess.pixel_scale,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Voter(
        model=model,
        num_classes=_num_classes(config, card, model),
        weights=config.weights,
        weights_sha256=sha256_of(config.weights),
        preprocess=preprocess,
        ablation=ablation,
        tokens=config.tokens,
    )


def default_patches(ablation: Ablation) -> tuple[int, ...]:
    """The paper's patch sizes for this grid; those that fit."""
    paper = _PAPER_PATCHES_CIFAR if ablation.width <= 32 else _PAPER_PATCHES
    return tuple(side for side in paper if side <= min(ablation.height, ablation.width))


def _card_length(card: WeightsCard, name: str) -> int | None:
    value = card.ablation.get(name)
    return int(value) if value is not None else None


def _num_classes(config: VotesConfig, card: WeightsCard, model: str) -> int:
    known = config.num_classes or card.num_classes
    if known is not None:
        return known
    # timm is heavy, and not needed where the weight file speaks for itself.
    from models.zoo import default_num_classes  # noqa: PLC0415

    return default_num_classes(model)


def _preprocess(config: VotesConfig, card: WeightsCard, model: str) -> Preprocess:
    """The preset or the weights' own preprocessing, with single options replaced."""
    if config.preprocess in PRESETS:
        base = PRESETS[config.preprocess]
    elif config.preprocess is None and card.preprocess is not None:
        base = card.preprocess
    else:
        from models.zoo import default_preprocess  # noqa: PLC0415

        base = default_preprocess(model)
    changes: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("crop", "interpolation", "mean", "std")
        if getattr(config, name) is not None
    }
    if config.resize is not None:
        changes["resize"] = None if config.resize == "none" else int(config.resize)
    try:
        return dataclasses.replace(base, **changes)
    except ValueError as error:
        raise ConfigError(str(error)) from error
