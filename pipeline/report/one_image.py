"""Gather what ``patchcert show`` draws: pixels, views, votes, the worst patch."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import WrongSizeError
from models.networks.weights import WeightsCard, read_card
from models.preprocess import PRESETS, Preprocess
from models.views.ablations import Ablation
from models.views.family import IntArray, Patch, ViewFamily
from models.views.masks import Masks
from pipeline import storage
from pipeline.certificates.votes import renumbered
from pipeline.config import ConfigError, VotesConfig
from pipeline.report.worst_case import (
    WorstCase,
    caption_of,
    caption_of_decision,
    decided_case,
    smallest_margin,
    worst_location,
)
from pipeline.runs.defense import Defense
from pipeline.runs.resolve import (
    default_patches,
    model_preprocess,
    resolve_defense,
    resolve_views,
    with_options,
)
from pipeline.runs.weight_files import local_weights
from pipeline.sources.decode import UndecodableError, prepared

_TOKEN_PX = 16


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The contents of the picture.

    Attributes:
        pixels: The model's input, uint8 (model height, model width, 3).
        views: The views.
        patch: The attacker's patch.
        worst: Its worst location.
        token_px: Height and width of a token in model pixels; None for a network without.
        drops: True if hidden tokens are left out; False if they enter as black.
        votes_v: Class each view voted for, int (V,); None without weights.
        name_of: Class number to name.
        title: Above everything.
        caption: Below everything.
    """

    pixels: NDArray[np.uint8]
    views: ViewFamily
    patch: Patch
    worst: WorstCase
    token_px: tuple[int, int] | None
    drops: bool
    votes_v: IntArray | None
    name_of: Callable[[int], str]
    title: str
    caption: str


def make_scene(request: VotesConfig, patch_side: int | None) -> Scene:
    """Decode the image, vote on it where there are weights, and find the worst patch.

    Args:
        request: As for votes; its data is one image, its weights may be empty.
        patch_side: Side of the patch in pixels; None takes the middle one of the paper's.

    Raises:
        ConfigError: The image cannot be read, or a length does not fit it.
        WeightsError, UnknownModelError, UnsupportedModelError: As for votes.
    """
    defense = resolve_defense(request) if request.weights else None
    if defense is None and request.model is not None and request.tokens != "black":
        _check_droppable(request.model)
    preprocess = defense.model_input if defense else _preprocess(request)
    views = defense.views if defense else resolve_views(request, WeightsCard(), preprocess)
    patch = Patch.square(patch_side) if patch_side else _default_patch(views)
    try:
        views.check_patch(patch)
        pixels = _pixels(request.data, preprocess)
        name_of = _class_names(defense)
        votes_v = None
        if defense is None:
            worst = worst_location(views, patch)
        else:
            votes_v, plain = _votes(request, defense, pixels)
            worst = _worst(votes_v, plain, defense, patch)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error
    model = defense.network.name if defense else request.model
    return Scene(
        pixels=pixels,
        views=views,
        patch=patch,
        worst=worst,
        token_px=_token_px(model, preprocess),
        drops=(defense.tokens if defense else request.tokens) != "black",
        votes_v=votes_v,
        name_of=name_of,
        title=_title(views) + (f": {model}" if model else ""),
        caption=_caption(patch, worst, name_of, views),
    )


def _default_patch(views: ViewFamily) -> Patch:
    if isinstance(views, Masks):
        return views.covers[0]
    paper = default_patches(views)
    return Patch.square(paper[len(paper) // 2])


def _title(views: ViewFamily) -> str:
    if isinstance(views, Ablation):
        places = f"stride {views.stride}" if views.random is None else "random"
        return f"{len(views)} {views.kind} ablations of {views.size} px, {places}"
    described = views.describe()
    return f"{len(views)} views that hide {described.views}, {described.places}"


def _caption(
    patch: Patch, worst: WorstCase, name_of: Callable[[int], str], views: ViewFamily
) -> str:
    if worst.rule is not None:
        return caption_of_decision(patch, worst, name_of, len(views))
    names = [name_of(star) for star in (worst.prediction, worst.rival) if star is not None]
    what = "views" if views.hides else "ablations"
    return caption_of(patch, worst, names, len(views), what)


def _check_droppable(model: str) -> None:
    """Raise UnsupportedModelError where hidden tokens cannot be left out, as a run would."""
    # torch and timm: a picture of the geometry alone needs neither.
    from models.networks.droppable import droppable  # noqa: PLC0415
    from models.networks.zoo import outline  # noqa: PLC0415

    droppable(outline(model))


def _preprocess(request: VotesConfig) -> Preprocess:
    """Without weights: the preset, else the model's own preprocessing, else ImageNet's."""
    if request.preprocess in PRESETS:
        base = PRESETS[request.preprocess]
    elif request.model is not None:
        base = model_preprocess(request.model)
    elif request.preprocess is None:
        base = PRESETS["imagenet"]
    else:
        raise ConfigError("--preprocess model: which model? give --model or --weights")
    return with_options(base, request)


def _pixels(image: str, preprocess: Preprocess) -> NDArray[np.uint8]:
    try:
        return prepared(storage.read_bytes(image), preprocess)
    except (UndecodableError, WrongSizeError) as error:
        raise ConfigError(f"--image {image}: {error}") from error
    except storage.failures() as error:
        raise ConfigError(f"--image {image}: cannot be read ({error})") from error


def _votes(
    request: VotesConfig, defense: Defense, pixels: NDArray[np.uint8]
) -> tuple[IntArray, int]:
    """The vote of every view of one image, int (V,), and the class of the whole image."""
    # torch: a picture of the geometry needs none.
    from pipeline.runs.numerics import probe_machine, resolve_numerics  # noqa: PLC0415
    from pipeline.voting.vote import build_classifier  # noqa: PLC0415

    numerics = resolve_numerics(request, probe_machine(request.device), defense)
    ballot = build_classifier(defense, numerics)(pixels[None].copy())
    return ballot.votes_bv[0], int(ballot.plain_b[0])


def _worst(votes_v: IntArray, plain: int, defense: Defense, patch: Patch) -> WorstCase:
    """The worst location among rivals that can be voted for, in the model's class numbers."""
    allowed = defense.network.voted_classes
    places_v = renumbered(votes_v, defense.network.classes)
    if isinstance(defense.views, Ablation):
        worst = smallest_margin(places_v, defense.views, patch, len(allowed))
    else:
        (place,) = renumbered(np.array([plain]), defense.network.classes).tolist()
        worst = decided_case(places_v, place, defense.views, patch, len(allowed))
    return dataclasses.replace(
        worst,
        prediction=None if worst.prediction is None else int(allowed[worst.prediction]),
        rival=None if worst.rival is None else int(allowed[worst.rival]),
    )


def _token_px(model: str | None, preprocess: Preprocess) -> tuple[int, int] | None:
    """Height and width of the model's tokens; without a model the usual ones."""
    if model is None:
        fits = all(length % _TOKEN_PX == 0 for length in preprocess.model_px)
        return (_TOKEN_PX, _TOKEN_PX) if fits else None
    from models.networks.zoo import token_px  # noqa: PLC0415

    return token_px(model)


def _class_names(defense: Defense | None) -> Callable[[int], str]:
    """The weight file's own names, ImageNet's where there are 1000 classes, else numbers."""
    names: Sequence[str] = (
        read_card(local_weights(defense.network.weights)).classes if defense else ()
    )
    if defense and not names and defense.network.num_classes == 1000:
        from timm.data.imagenet_info import ImageNetInfo  # noqa: PLC0415

        info = ImageNetInfo("imagenet-1k")
        # The first of several synonyms says enough.
        names = [info.index_to_description(n).split(",")[0] for n in range(1000)]

    return lambda number: names[number] if number < len(names) else f"class {number}"
