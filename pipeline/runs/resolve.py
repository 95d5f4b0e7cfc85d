"""From what was asked to what will be run: every default filled in, every contradiction found.

Precedence: the flag, then the weight file's own card, then the preset, then the paper's setting.
"""

import dataclasses
from typing import Any

from models.networks.systems import TokenMode
from models.networks.weights import HUB, WeightsCard, is_hub_name, read_card, sha256_of
from models.preprocess import PRESETS, Preprocess, check_unit_range
from models.views.ablations import Ablation
from pipeline import storage
from pipeline.config import ConfigError, VotesConfig, crop_of
from pipeline.runs.defense import Defense, Network, Voting
from pipeline.runs.waiting import waiting
from pipeline.runs.weight_files import local_weights
from pipeline.sources.class_names import class_subset

# Salman et al. 2022: bands of 19 px at 224 px; 4 px on CIFAR-10's own 32-px grid.
_PAPER_SIZE, _PAPER_SIZE_CIFAR = 19, 4
_SMALL_GRID = 32  # pixels of CIFAR-10's side
_PAPER_THETA = 0.2  # Levine & Feizi 2020, on ImageNet
# 1, 2 and 3 % of a 224 x 224 image; 2x2, 4x4 and 5x5 on CIFAR-10.
_PAPER_PATCHES, _PAPER_PATCHES_CIFAR = (23, 32, 39), (2, 4, 5)


@waiting("reading the weights")
def resolve_defense(config: VotesConfig) -> Defense:
    """Fill in what ``config`` leaves open.

    Raises:
        ConfigError: Something is neither given nor known, or does not fit the image.
        WeightsError: The weight file is missing or malformed.
        UnknownModelError: timm has no such model.
    """
    weights = hub_or_path(config.weights)
    file = local_weights(weights)
    card = read_card(file)
    hub_name = config.weights.removeprefix(HUB) if is_hub_name(config.weights) else None
    model = config.model or card.model or hub_name
    if model is None:
        raise ConfigError(
            f"weights {config.weights} do not say which network they belong to: give --model"
        )
    preprocess = _preprocess(config, card, model)
    size = config.size or _card_length(card, "size")
    if size is None:
        size = default_size(preprocess)
    try:
        views = Ablation(
            kind=config.ablation or card.ablation.get("kind") or "column",
            size=size,
            stride=_stride(config, card),
            height=preprocess.crop_px[0],
            width=preprocess.crop_px[1],
            pixel_scale=preprocess.pixel_scale,
            random=config.random_positions,
            seed=config.seed if config.random_positions else 0,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    num_classes = _num_classes(config, card, model)
    return Defense(
        preprocess=preprocess,
        network=Network(
            name=model,
            num_classes=num_classes,
            weights_sha256=sha256_of(file),
            classes=class_subset(config.classes, num_classes) if config.classes else None,
            weights=weights,
        ),
        views=views,
        voting=Voting(
            theta=(config.theta or _PAPER_THETA) if config.voting == "threshold" else None,
            gaps=config.gaps,
            draws=config.randomized,
            draw_seed=config.seed if config.randomized else 0,
        ),
        tokens=config.tokens or _card_tokens(card),
    )


def hub_or_path(weights: str) -> str:
    """The local copy of ``timm:NAME``; any path in full: workers may run in another directory.

    Raises:
        UnknownModelError, WeightsError: It cannot be had from the hub.
    """
    if not is_hub_name(weights):
        return storage.full_path(weights)
    from models.networks.zoo import fetch_hub_weights  # noqa: PLC0415  (timm is heavy)

    return str(fetch_hub_weights(weights))


def default_size(preprocess: Preprocess) -> int:
    """The paper's band for this grid, in pixels."""
    return _PAPER_SIZE_CIFAR if max(preprocess.crop_px) <= _SMALL_GRID else _PAPER_SIZE


def default_patches(ablation: Ablation) -> tuple[int, ...]:
    """The paper's patch sizes for this grid; those that fit."""
    paper = (
        _PAPER_PATCHES_CIFAR
        if max(ablation.height, ablation.width) <= _SMALL_GRID
        else _PAPER_PATCHES
    )
    return tuple(side for side in paper if side <= min(ablation.height, ablation.width))


def _card_length(card: WeightsCard, name: str) -> int | None:
    value = card.ablation.get(name)
    return int(value) if value is not None else None


def _stride(config: VotesConfig, card: WeightsCard) -> int:
    if config.positions is not None or config.randomized is not None:
        return 1
    return config.stride or _card_length(card, "stride") or 1


def _card_tokens(card: WeightsCard) -> TokenMode:
    return "black" if card.tokens == "black" else "drop"


def _num_classes(config: VotesConfig, card: WeightsCard, model: str) -> int:
    known = config.num_classes or card.num_classes
    if known is not None:
        return known
    # timm is heavy, and not needed where the weight file speaks for itself.
    from models.networks.zoo import default_num_classes  # noqa: PLC0415

    known = default_num_classes(model)
    if known < 2:
        raise ConfigError(f"model {model}: it has no classifier of its own; give --num-classes")
    return known


def _preprocess(config: VotesConfig, card: WeightsCard, model: str) -> Preprocess:
    """The preset or the weights' own preprocessing, with single options replaced."""
    if config.preprocess in PRESETS:
        base = PRESETS[config.preprocess]
    elif config.preprocess is None and card.preprocess is not None:
        base = card.preprocess
    else:
        base = model_preprocess(model)
    return with_options(base, config)


def model_preprocess(model: str) -> Preprocess:
    """Timm's preprocessing of a model.

    Raises:
        ConfigError: It cannot be expressed.
        UnknownModelError: timm has no such model.
    """
    # timm is heavy, and not needed where a preset or the weights speak.
    from models.errors import UnknownModelError  # noqa: PLC0415
    from models.networks.zoo import default_preprocess  # noqa: PLC0415

    try:
        return default_preprocess(model)
    except UnknownModelError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def with_options(base: Preprocess, config: VotesConfig) -> Preprocess:
    """``base`` with the single options of ``config`` replaced.

    Raises:
        ConfigError: They contradict each other.
    """
    changes: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("interpolation", "mean", "std")
        if getattr(config, name) is not None
    }
    if config.crop is not None:
        changes["crop"] = crop_of(config.crop)
    if config.scaled_decode:
        changes["scaled_decode"] = True
    if config.resize is not None:
        changes["resize"] = None if config.resize == "none" else int(config.resize)
    try:
        preprocess = dataclasses.replace(base, **changes)
        check_unit_range(preprocess)
        return preprocess
    except ValueError as error:
        raise ConfigError(str(error)) from error
