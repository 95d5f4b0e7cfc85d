"""From what was asked to what will be run: every default filled in, every contradiction found.

Precedence: the flag, then the weight file's own card, then the preset, then the paper's setting.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from models.networks.systems import TokenMode
from models.networks.weights import HUB, WeightsCard, is_hub_name, read_card, sha256_of
from models.preprocess import PRESETS, Preprocess, check_unit_range
from models.views.ablations import Ablation
from models.views.family import ViewFamily, ViewsKind
from models.views.masks import Mask, Masks, Placement, bounding_shapes
from models.views.threats import Threat
from pipeline import storage
from pipeline.config import ConfigError, VotesConfig, lengths_of
from pipeline.runs.defense import Defense, Network, Voting
from pipeline.runs.waiting import waiting
from pipeline.runs.weight_files import check_rebuildable, local_weights
from pipeline.sources.class_names import class_subset

# Salman et al. 2022: bands of 19 px at 224 px; 4 px on CIFAR-10's own 32-px grid.
_PAPER_SIZE, _PAPER_SIZE_CIFAR = 19, 4
_SMALL_GRID = 32  # pixels of CIFAR-10's side
_PAPER_THETA = 0.2  # Levine & Feizi 2020, on ImageNet
# PatchCleanser's default: 36 masks.
DEFAULT_MASKS = 6
# An area budget is covered by the masks of so many rectangles.
MOST_SHAPES = 6
# 1, 2 and 3 % of a 224 x 224 image; 2x2, 4x4 and 5x5 on CIFAR-10.
_PAPER_PATCHES, _PAPER_PATCHES_CIFAR = (23, 32, 39), (2, 4, 5)


@waiting("reading the weights")
def resolve_defense(config: VotesConfig, preprocess: Preprocess | None = None) -> Defense:
    """Fill in what ``config`` leaves open.

    Args:
        config: The request.
        preprocess: The preprocessing, whatever the request, the weights and the model say of it.

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
    preprocess = preprocess or _preprocess(config, card, model)
    num_classes = _num_classes(config, card, model)
    network = Network(
        name=model,
        num_classes=num_classes,
        weights_sha256=sha256_of(file),
        classes=class_subset(config.classes, num_classes) if config.classes else None,
        weights=weights,
    )
    return defense_of(config, card, preprocess, network)


def defense_of(
    config: VotesConfig, card: WeightsCard, preprocess: Preprocess, network: Network
) -> Defense:
    """Fill in the views, the votes and the token mode of a network that is known.

    Raises:
        ConfigError: An option is missing, or does not fit the image or the others.
    """
    views = resolve_views(config, card, preprocess)
    return Defense(
        preprocess=preprocess,
        network=network,
        views=views,
        voting=Voting(
            theta=(config.theta or _PAPER_THETA) if config.voting == "threshold" else None,
            gaps=config.gaps,
            early_exit=_exits_early(config, views),
            draws=config.randomized,
            draw_seed=config.seed if config.randomized else 0,
        ),
        tokens=config.tokens or _card_tokens(card),
    )


def resolve_views(config: VotesConfig, card: WeightsCard, preprocess: Preprocess) -> ViewFamily:
    """The family of views: as asked, else as the weights' card says, else the paper's.

    Raises:
        ConfigError: An option is missing, or does not fit the image or the others.
    """
    try:
        return _views(config, card, preprocess)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _views(config: VotesConfig, card: WeightsCard, preprocess: Preprocess) -> ViewFamily:
    kind: ViewsKind = config.views or card.ablation.get("kind") or "column"
    # What the card says of other views than those asked for means nothing.
    of_card = card.ablation if kind == card.ablation.get("kind") else {}
    if kind == "mask" or kind == "mask-pair":  # noqa: PLR1714  (mypy narrows by these alone)
        return _masks(kind, config, of_card, preprocess)
    config.check_ablation(kind)
    chosen = config.positions is not None or config.randomized is not None
    return Ablation(
        kind=kind,
        size=int(config.size or of_card.get("size") or default_size(preprocess)),
        stride=1 if chosen else int(config.stride or of_card.get("stride") or 1),
        height=preprocess.crop_px[0],
        width=preprocess.crop_px[1],
        pixel_scale=preprocess.pixel_scale,
        random=config.random_positions,
        seed=config.seed if config.random_positions else 0,
    )


def _masks(
    kind: str, config: VotesConfig, of_card: Mapping[str, Any], preprocess: Preprocess
) -> Masks:
    """Masks of a given size and stride, or those that cover a patch with so many an axis."""
    config.check_masks(kind)
    height, width = preprocess.crop_px
    asked = (config.covers, config.masks, config.size)
    if "family" in of_card and asked == (None, None, None):
        family = Masks.from_identity(of_card["family"])
        if (family.height, family.width) != (height, width):
            raise ConfigError(
                f"--views {kind}: the weights are for masks of a {family.height}x{family.width} px "
                f"image, not {height}x{width}; say for which patch to cut others, with --covers"
            )
        return family
    covers = config.covers or of_card.get("covers")
    threat = None if covers is None else Threat.parse(covers)
    if threat is not None and threat.count > 1:
        raise ConfigError(f"--covers {covers}: masks are cut for one patch, such as 32 or 16x48")
    grid = {"height": height, "width": width, "pixel_scale": preprocess.pixel_scale}
    whole = Masks(**grid, masks=(Mask(0, 0, height, width),), pairs=False, covers=())
    patches = () if threat is None else threat.patches(whole)
    if config.size is not None:
        stride = config.stride or config.size
        placements = [
            tuple(
                Placement.at_stride(length, min(config.size, length), stride, wraps=config.wrap)
                for length in (height, width)
            )
        ]
    elif not patches:
        raise ConfigError(
            f"--views {kind}: say for which patch the masks are cut, such as --covers 32, or give "
            "their --size and --stride"
        )
    else:
        most = lengths_of(config.masks or str(DEFAULT_MASKS))
        placements = [
            tuple(
                Placement.covering(length, extent, count)
                for length, extent, count in zip((height, width), shape, most, strict=True)
            )
            for shape in bounding_shapes(patches, MOST_SHAPES)
        ]
    return Masks.placed(
        placements=[(rows, columns) for rows, columns in placements],
        pairs=kind == "mask-pair",
        covers=patches,
        **grid,
    )


def card_of(views: ViewFamily) -> dict[str, Any]:
    """The card of weights about the views they are for, as ``resolve_views`` reads it."""
    shape, size, stride, *_ = views.describe()
    if not isinstance(views, Masks):
        return {"kind": shape, "size": size, "stride": stride}
    return {
        "kind": shape,
        "covers": str(default_threats(views)[0]),
        "family": views.to_identity()["masks"],
    }


def _exits_early(config: VotesConfig, views: ViewFamily) -> bool:
    """Return True where an image's views are asked only as far as the decision needs them."""
    return isinstance(views, Masks) and views.pairs and not config.all_views


def hub_or_path(weights: str) -> str:
    """The local copy of ``timm:NAME``; any path in full: workers may run in another directory.

    Raises:
        UnknownModelError, WeightsError: It cannot be had from the hub, or is no file's.
    """
    check_rebuildable(weights)
    if not is_hub_name(weights):
        return storage.full_path(weights)
    from models.networks.zoo import fetch_hub_weights  # noqa: PLC0415  (timm is heavy)

    return str(fetch_hub_weights(weights))


def default_size(preprocess: Preprocess) -> int:
    """The paper's band for this grid, in pixels."""
    return _PAPER_SIZE_CIFAR if max(preprocess.crop_px) <= _SMALL_GRID else _PAPER_SIZE


def default_threats(views: ViewFamily) -> list[Threat]:
    """The patches to certify against where none is named: those that masks cover, or the paper's.

    Args:
        views: The views that vote.
    """
    if isinstance(views, Masks):
        # Of several rectangles the threat is their area, which is that of the largest one.
        areas = [patch.height * patch.width for patch in views.covers]
        return [Threat(views.covers[0]) if len(areas) == 1 else Threat(area=max(areas))]
    return [Threat.square(side) for side in default_patches(views)]


def default_patches(views: ViewFamily) -> tuple[int, ...]:
    """The paper's patch sizes for this grid; those that fit."""
    small = max(views.height, views.width) <= _SMALL_GRID
    paper = _PAPER_PATCHES_CIFAR if small else _PAPER_PATCHES
    return tuple(side for side in paper if side <= min(views.height, views.width))


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
        for name in ("interpolation", "mean", "std", "pixel_scale")
        if getattr(config, name) is not None
    }
    if config.crop is not None:
        changes["crop"] = lengths_of(config.crop)
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
