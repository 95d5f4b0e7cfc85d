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
from models.views.family import BoolArray, IntArray, Patch, ViewFamily
from models.views.masks import Masks
from models.views.threats import Threat
from pipeline import storage
from pipeline.certificates.batch import VoteBatch
from pipeline.certificates.leads import least_leads, sums_outside
from pipeline.certificates.locations import location_margins, touched_counts
from pipeline.certificates.rule import ALERT
from pipeline.certificates.rules import default_rules
from pipeline.certificates.votes import renumbered
from pipeline.certificates.witness import margins_of_sets, touched_at
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
        y: Upper edge in pixels of the attacker's grid; None where the views cannot tell.
        x: Left edge in the same way.
        touched: Views that the patch touches there.
        landscape_yx: The minimised or maximised quantity at every location; int (Ly, Lx).
        margin: Margin of the rule; None where no votes were given. Certified iff >= 0.
        prediction: The answer; None without votes, and for an alert.
        rival: The class that comes closest there; None without votes, and where none does.
        counts: Votes of prediction and rival before the attack.
        left: Those outside the touched views.
        rule: Name of the decision over masks; None of ablations.
        failing: Views that this location and the other one leave, which name the rival.
        other: Upper left corner (y, x) of that other location.
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
    rule: str | None = None
    failing: tuple[int, ...] = ()
    other: tuple[int, int] | None = None


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
        caption=_caption(patch, worst, name_of, len(views)),
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


def _caption(patch: Patch, worst: WorstCase, name_of: Callable[[int], str], views: int) -> str:
    if worst.rule is not None:
        return caption_of_decision(patch, worst, name_of, views)
    names = [name_of(star) for star in (worst.prediction, worst.rival) if star is not None]
    return caption_of(patch, worst, names, views)


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

    numerics = resolve_numerics(request, probe_machine(request.device))
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


def worst_location(views: ViewFamily, patch: Patch) -> WorstCase:
    """The first location at which the patch touches the most views.

    Raises:
        ValueError: The patch does not fit the image.
    """
    if isinstance(views, Ablation):
        touched_yx = touched_counts(views, patch)
    else:
        sets = views.touched_sets(patch)
        touched_yx = sets.touched_sv.sum(axis=1)[sets.sets_yx]
    row, column = np.unravel_index(touched_yx.argmax(), touched_yx.shape)
    y, x = views.coordinates(int(row), int(column))
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


def decided_case(
    votes_v: IntArray, plain: int, views: ViewFamily, patch: Patch, num_classes: int
) -> WorstCase:
    """The worst location of one image under the decision that its masks have by default.

    Of several worst ones it is one that touches the most views: what it touches lies in no set that
    the decision looks at but itself.

    Args:
        votes_v: Class that each view voted for; int (V,).
        plain: Class of the whole image.
        views: The views that voted, which hide.
        patch: Height and width of the patch.
        num_classes: Number of classes.

    Raises:
        ValueError: The decision cannot be built for the patch.
    """
    rule, threat = default_rules(views, randomized=False)[0], Threat(patch)
    rule.check(views, threat, num_classes)
    batch = VoteBatch(votes_v[None], views, num_classes, plain_n=np.array([plain]))
    sets = views.touched_sets(patch)
    answer = int(rule.predict(batch, threat)[0])
    favourite = batch.ranked.predictions if answer == ALERT else np.array([answer])
    if rule.alerts:
        some = np.array([0])
        found_sn = least_leads(batch, ~sets.touched_sv, favourite, some, sums_outside)
        margins_s = found_sn[:, 0].astype(np.int64)
    else:
        margins_s = margins_of_sets(batch, threat, sets.touched_sv)[:, 0]
    sizes_s = sets.touched_sv.sum(axis=1)
    landscape_yx = margins_s[sets.sets_yx]
    # Margins first, then more views before fewer.
    order_yx = landscape_yx * (len(views) + 1) - sizes_s[sets.sets_yx]
    row, column = np.unravel_index(order_yx.argmin(), order_yx.shape)
    y, x = views.coordinates(int(row), int(column))
    place = sets.sets_yx[row, column]
    untouched_v, failing, rival, other = ~sets.touched_sv[place], np.array([], int), None, None
    # One location speaks by what each leaves alone, two by what each pair does.
    partners = [place] if rule.alerts else range(len(sets.touched_sv))
    for partner in partners:
        shared = np.flatnonzero(untouched_v & ~sets.touched_sv[partner])
        named = int(np.bincount(votes_v[shared], minlength=num_classes).argmax())
        if named != favourite[0] and margins_s[place] < 0:
            failing, rival = shared, named
            if not rule.alerts:
                at = np.argwhere(sets.sets_yx == partner)[0]
                other = int(at[0]), int(at[1])
            break
    return WorstCase(
        y=y,
        x=x,
        touched=int(sizes_s[place]),
        landscape_yx=landscape_yx,
        margin=int(rule.margins(batch, threat)[0]),
        prediction=None if answer == ALERT else answer,
        rival=rival,
        rule=rule.name,
        failing=tuple(failing.tolist()),
        other=other,
    )


def caption_of_decision(
    patch: Patch, worst: WorstCase, name_of: Callable[[int], str], views: int
) -> str:
    """Describe the worst case of a decision over masks in words.

    Args:
        patch: The patch, which the decision assumes.
        worst: Its worst location.
        name_of: Class number to name.
        views: Number of views.
    """
    answer = "alert" if worst.prediction is None else name_of(worst.prediction)
    assumed = f"Answer: {answer} ({worst.rule}, assumes a patch of at most {patch})."
    hit = f"The patch at {location(worst.y, worst.x)} touches {worst.touched} of {views} views"
    if worst.margin is not None and worst.margin >= 0:
        return (
            f"{assumed} {hit}; whatever these say, the answer stays, there and anywhere: certified."
        )
    if worst.rival is None:
        return f"{assumed} {hit}, and what it leaves is no witness for the answer: uncertified."
    left = "view" if len(worst.failing) == 1 else "views"
    numbers = ", ".join(map(str, worst.failing[:3])) + (", ..." if len(worst.failing) > 3 else "")
    beside = ""
    if worst.other is not None:
        beside = f" Hidden together with the patch at {location(*worst.other)} (dashed),"
    return (
        f"{assumed} {hit}.{beside or ' It leaves'} {left} {numbers} "
        f"{'says' if left == 'view' else 'say'} {name_of(worst.rival)}: uncertified."
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
