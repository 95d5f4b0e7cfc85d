"""From a request to what ``patchcert show`` draws: pixels, ablations, votes, the worst patch."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.ablation import Ablation, IntArray, Patch
from models.preprocess import PRESETS, Preprocess, WrongSizeError
from models.weights import read_card
from pipeline import storage
from pipeline.certificates.votes import renumbered
from pipeline.config import ConfigError, VotesConfig
from pipeline.decode import UndecodableError, prepared
from pipeline.report.worst import WorstCase, caption_of, most_touched, smallest_margin
from pipeline.resolve import (
    Voter,
    default_patches,
    default_size,
    model_preprocess,
    resolve_voter,
    with_options,
)
from pipeline.weight_files import local_weights

_TOKEN_PX = 16


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is drawn.

    Attributes:
        pixels: The model's input, uint8 (model height, model width, 3).
        ablation: The views.
        patch: The attacker's patch.
        worst: Where it does the most harm.
        token_px: Height and width of a token in model pixels; None for a network without.
        drops: Whether hidden tokens are left out, or enter as black.
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
    voter = resolve_voter(request) if request.weights else None
    if voter is None and request.model is not None and request.tokens != "black":
        _check_droppable(request.model)
    preprocess = voter.preprocess if voter else _preprocess(request)
    ablation = voter.ablation if voter else _ablation(request, preprocess)
    paper = default_patches(ablation)
    patch = Patch.square(patch_side or paper[len(paper) // 2])
    try:
        ablation.check_patch(patch)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    pixels = _pixels(request.data, preprocess)
    name_of = _class_names(voter)
    votes_v = None
    names: list[str] = []
    if voter is None:
        worst = most_touched(ablation, patch)
    else:
        votes_v = _votes(request, voter, pixels)
        worst = _worst(votes_v, voter, patch)
        names = [name_of(star) for star in (worst.prediction, worst.rival) if star is not None]
    model = voter.model if voter else request.model
    return Scene(
        pixels=pixels,
        ablation=ablation,
        patch=patch,
        worst=worst,
        token_px=_token_px(model, preprocess),
        drops=(voter.tokens if voter else request.tokens) != "black",
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
    from models.droppable import droppable  # noqa: PLC0415
    from models.zoo import outline  # noqa: PLC0415

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
    size = request.size or default_size(preprocess)
    try:
        return Ablation(
            kind=request.ablation or "column",
            size=size,
            stride=request.stride or 1,
            random=request.random_positions,
            seed=request.seed,
            height=preprocess.crop_px[0],
            width=preprocess.crop_px[1],
            pixel_scale=preprocess.pixel_scale,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _pixels(image: str, preprocess: Preprocess) -> NDArray[np.uint8]:
    try:
        return prepared(storage.read_bytes(image), preprocess)
    except (UndecodableError, WrongSizeError) as error:
        raise ConfigError(f"--image {image}: {error}") from error
    except storage.failures() as error:
        raise ConfigError(f"--image {image}: cannot be read ({error})") from error


def _votes(request: VotesConfig, voter: Voter, pixels: NDArray[np.uint8]) -> IntArray:
    """The vote of every ablation of one image; int (V,)."""
    # torch: a picture of the geometry needs none.
    from pipeline.numerics import probe_machine, resolve_numerics  # noqa: PLC0415
    from pipeline.voting import build_classifier  # noqa: PLC0415

    numerics = resolve_numerics(request, probe_machine(request.device))
    votes_v: IntArray = build_classifier(voter, numerics)(pixels[None].copy()).votes_bv[0]
    return votes_v


def _worst(votes_v: IntArray, voter: Voter, patch: Patch) -> WorstCase:
    """The worst location among rivals that can be voted for, in the model's class numbers."""
    if voter.classes is None:
        return smallest_margin(votes_v, voter.ablation, patch, voter.num_classes)
    allowed = np.array(voter.classes)
    places_v = renumbered(votes_v, voter.classes)
    worst = smallest_margin(places_v, voter.ablation, patch, len(allowed))
    return dataclasses.replace(
        worst, prediction=int(allowed[worst.prediction]), rival=int(allowed[worst.rival])
    )


def _token_px(model: str | None, preprocess: Preprocess) -> tuple[int, int] | None:
    """Height and width of the model's tokens; without a model the usual ones."""
    if model is None:
        fits = all(length % _TOKEN_PX == 0 for length in preprocess.model_px)
        return (_TOKEN_PX, _TOKEN_PX) if fits else None
    from models.zoo import outline  # noqa: PLC0415

    size = getattr(getattr(outline(model), "patch_embed", None), "patch_size", None)
    return None if size is None else (int(size[0]), int(size[1]))


def _class_names(voter: Voter | None) -> Callable[[int], str]:
    """The weight file's own names, ImageNet's where there are 1000 classes, else numbers."""
    names: Sequence[str] = read_card(local_weights(voter.weights)).classes if voter else ()
    if voter and not names and voter.num_classes == 1000:
        from timm.data.imagenet_info import ImageNetInfo  # noqa: PLC0415

        info = ImageNetInfo("imagenet-1k")
        # The first of several synonyms says enough.
        names = [info.index_to_description(n).split(",")[0] for n in range(1000)]

    return lambda number: names[number] if number < len(names) else f"class {number}"
