"""Gather what ``patchcert show`` draws: pixels, ablations, votes, the worst patch."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import WrongSizeError
from models.networks.weights import WeightsCard, read_card
from models.preprocess import PRESETS, Preprocess
from models.views.ablations import Ablation
from models.views.family import BoolArray, IntArray, Patch
from pipeline import storage
from pipeline.certificates.locations import location_margins, touched_counts
from pipeline.certificates.votes import renumbered
from pipeline.certificates.witness import touched_at
from pipeline.config import ConfigError, VotesConfig
from pipeline.runs.defense import Defense
from pipeline.runs.resolve import (
    default_patches,
    model_preprocess,
    resolve_defense,
    resolve_views,
    with_options,
)
from pipeline.runs.weight_files import local_weights
from pipeline.scoring.words import location
from pipeline.sources.decode import UndecodableError, prepared

_TOKEN_PX = 16


@dataclass(frozen=True, kw_only=True)
class WorstCase:
    """The worst location of a patch, of all those where it can lie.

    Attributes:
        y: Upper edge in pixels of the attacker's grid; None where the ablations cannot tell.
        x: Left edge in the same way.
        touched: Ablations that the patch touches there.
        landscape_yx: The minimised or maximised quantity at every location; int (Ly, Lx).
        margin: Exact margin; None where no votes were given. Certified iff >= 0.
        prediction: Smoothed prediction; None without votes.
        rival: The class that comes closest there; None without votes.
        counts: Votes of prediction and rival before the attack.
        left: Those outside the touched ablations.
    """

    y: int | None
    x: int | None
    touched: int
    landscape_yx: IntArray
    margin: int | None = None
    prediction: int | None = None
    rival: int | None = None
    counts: tuple[int, int] = (0, 0)
    left: tuple[int, int] = (0, 0)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The contents of the picture.

    Attributes:
        pixels: The model's input, uint8 (model height, model width, 3).
        ablation: The views.
        patch: The attacker's patch.
        worst: Its worst location.
        token_px: Height and width of a token in model pixels; None for a network without.
        drops: True if hidden tokens are left out; False if they enter as black.
        votes_v: Class each ablation voted for, int (V,); None without weights.
        name_of: Class number to name.
        title: Above everything.
        caption: Below everything.
    """

    pixels: NDArray[np.uint8]
    ablation: Ablation
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
    ablation = defense.ablation if defense else _ablation(request, preprocess)
    paper = default_patches(ablation)
    patch = Patch.square(patch_side or paper[len(paper) // 2])
    try:
        ablation.check_patch(patch)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    pixels = _pixels(request.data, preprocess)
    name_of = _class_names(defense)
    votes_v = None
    names: list[str] = []
    if defense is None:
        worst = worst_location(ablation, patch)
    else:
        votes_v = _votes(request, defense, pixels)
        worst = _worst(votes_v, defense, patch)
        names = [name_of(star) for star in (worst.prediction, worst.rival) if star is not None]
    model = defense.network.name if defense else request.model
    return Scene(
        pixels=pixels,
        ablation=ablation,
        patch=patch,
        worst=worst,
        token_px=_token_px(model, preprocess),
        drops=(defense.tokens if defense else request.tokens) != "black",
        votes_v=votes_v,
        name_of=name_of,
        title=f"{len(ablation)} {ablation.kind} ablations of {ablation.size} px"
        + (f", stride {ablation.stride}" if ablation.random is None else ", random")
        + (f": {model}" if model else ""),
        caption=caption_of(patch, worst, names, len(ablation)),
    )


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


def _ablation(request: VotesConfig, preprocess: Preprocess) -> Ablation:
    views = resolve_views(request, WeightsCard(), preprocess)
    assert isinstance(views, Ablation), "show asks for no masks"
    return views


def _pixels(image: str, preprocess: Preprocess) -> NDArray[np.uint8]:
    try:
        return prepared(storage.read_bytes(image), preprocess)
    except (UndecodableError, WrongSizeError) as error:
        raise ConfigError(f"--image {image}: {error}") from error
    except storage.failures() as error:
        raise ConfigError(f"--image {image}: cannot be read ({error})") from error


def _votes(request: VotesConfig, defense: Defense, pixels: NDArray[np.uint8]) -> IntArray:
    """The vote of every ablation of one image; int (V,)."""
    # torch: a picture of the geometry needs none.
    from pipeline.runs.numerics import probe_machine, resolve_numerics  # noqa: PLC0415
    from pipeline.voting.vote import build_classifier  # noqa: PLC0415

    numerics = resolve_numerics(request, probe_machine(request.device))
    votes_v: IntArray = build_classifier(defense, numerics)(pixels[None].copy()).votes_bv[0]
    return votes_v


def _worst(votes_v: IntArray, defense: Defense, patch: Patch) -> WorstCase:
    """The worst location among rivals that can be voted for, in the model's class numbers."""
    if defense.network.classes is None:
        return smallest_margin(votes_v, defense.ablation, patch, defense.network.num_classes)
    allowed = np.array(defense.network.classes)
    places_v = renumbered(votes_v, defense.network.classes)
    worst = smallest_margin(places_v, defense.ablation, patch, len(allowed))
    return dataclasses.replace(
        worst, prediction=int(allowed[worst.prediction]), rival=int(allowed[worst.rival])
    )


def _token_px(model: str | None, preprocess: Preprocess) -> tuple[int, int] | None:
    """Height and width of the model's tokens; without a model the usual ones."""
    if model is None:
        fits = all(length % _TOKEN_PX == 0 for length in preprocess.model_px)
        return (_TOKEN_PX, _TOKEN_PX) if fits else None
    from models.networks.zoo import outline  # noqa: PLC0415

    size = getattr(getattr(outline(model), "patch_embed", None), "patch_size", None)
    return None if size is None else (int(size[0]), int(size[1]))


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


def worst_location(ablation: Ablation, patch: Patch) -> WorstCase:
    """The first location at which the patch touches the most ablations.

    Raises:
        ValueError: The patch does not fit the image.
    """
    touched_yx = touched_counts(ablation, patch)
    row, column = np.unravel_index(touched_yx.argmax(), touched_yx.shape)
    y, x = ablation.coordinates(int(row), int(column))
    return WorstCase(
        y=y,
        x=x,
        touched=int(touched_yx[row, column]),
        landscape_yx=touched_yx,
    )


def smallest_margin(
    votes_v: IntArray, ablation: Ablation, patch: Patch, num_classes: int
) -> WorstCase:
    """The first location at which the exact margin of one image's votes is smallest.

    Args:
        votes_v: Class that each ablation voted for; int (V,).
        ablation: The views that voted.
        patch: Height and width of the patch.
        num_classes: Number of classes; those without a vote are rivals too.

    Raises:
        ValueError: The patch does not fit the image.
    """
    ((_, found),) = location_margins(votes_v[None], ablation, patch, num_classes)
    winner, margin_yx = int(found.predictions_n[0]), found.margins_nyx[0]
    row, column = np.unravel_index(margin_yx.argmin(), margin_yx.shape)
    rival = int(found.rivals_nyx[0, row, column])
    touched_v = touched_at(ablation, patch, np.array([[row, column]]))[0]

    def votes_of(chosen_v: BoolArray) -> tuple[int, int]:
        counts = np.bincount(votes_v[chosen_v], minlength=num_classes)
        return int(counts[winner]), int(counts[rival])

    y, x = ablation.coordinates(int(row), int(column))
    return WorstCase(
        y=y,
        x=x,
        touched=int(touched_v.sum()),
        landscape_yx=margin_yx.astype(np.int64),
        margin=int(margin_yx[row, column]),
        prediction=winner,
        rival=rival,
        counts=votes_of(np.ones_like(touched_v)),
        left=votes_of(~touched_v),
    )


def caption_of(patch: Patch, worst: WorstCase, names: Sequence[str], views: int) -> str:
    """Describe the worst case in words.

    Args:
        patch: The patch.
        worst: Its worst location.
        names: Names of the prediction and the rival; empty without votes.
        views: Number of ablations.
    """
    band = worst.x is None or worst.y is None
    at = location(worst.y, worst.x) + (" (wherever along the bands)" if band else "")
    hit = f"The patch of {patch} at {at} touches {worst.touched} of {views} ablations"
    if worst.margin is None:
        return f"{hit}, the most of all its locations."
    winner, rival = names
    tie = f" - 1, since {rival} wins ties" if (worst.rival or 0) < (worst.prediction or 0) else ""
    votes = f"{abs(worst.margin)} vote{'' if abs(worst.margin) == 1 else 's'}"
    verdict = f"{votes} to spare, certified" if worst.margin >= 0 else f"{votes} short, uncertified"
    return (
        f"Prediction: {winner} ({worst.counts[0]} of {views} votes); closest rival: {rival} "
        f"({worst.counts[1]}). {hit}: at worst {worst.left[0]} - "
        f"({worst.left[1]} + {worst.touched}){tie}: {verdict}."
    )
