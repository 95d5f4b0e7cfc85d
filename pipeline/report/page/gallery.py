"""A few images of a run with the place where a patch comes closest to changing them."""

import io
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from models.errors import RequestError
from models.views.family import BoolArray, IntArray, Patch, TouchedSets, ViewFamily
from pipeline.analysis.outcomes import Measure, Outcomes
from pipeline.analysis.run import Run
from pipeline.certificates.batch import VoteBatch
from pipeline.certificates.largest_sets import largest_sets
from pipeline.certificates.rules import rule_named, rule_of_locations
from pipeline.certificates.two_location import closest_pair
from pipeline.certificates.witness import touched_at, witnesses
from pipeline.config import ConfigError
from pipeline.report.pixels import enlarged, kept, visible
from pipeline.runs.images import read_images
from pipeline.runs.manifest import Manifest
from pipeline.runs.reading import columns_of
from pipeline.runs.rows import votes_array
from pipeline.scoring.claims import Claim
from pipeline.sources.base import SourceError, SourceOptions
from pipeline.sources.listing_cache import cached_listing

_EACH = 6
# Pixels of CIFAR-10 and the like stay the pixels they are; photographs may lose a little.
_SMALL_PX = 64
# Of what a view hides so much is left that the image can be recognized.
_FAINT = 0.2
_REMEDY = "`patchcert report --data ...` says where the run's images lie now"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One image of the gallery.

    Attributes:
        image_id: The image.
        certified: True if no patch of this size changes its prediction, which is right.
        prediction: That of the claim's rule, in words.
        rival: The class that comes closest, in words.
        margin: Margin at the worst place.
        touched: Views that the patch touches there.
        y: Upper edge of the worst place in pixels; None where the views cannot tell.
        x: Left edge in the same way.
        second: Of a decision by two locations, the other one, in the same way.
        view: A view that hides both of them, and says so; None of views that show a part alone.
        tokens: Tokens kept by that view, and all there are; None where none is left out.
        source: The picture as an address that holds it; None where it could not be read.
    """

    image_id: str
    certified: bool
    prediction: str
    rival: str
    margin: int
    touched: int
    y: int | None
    x: int | None
    second: tuple[int | None, int | None] | None = None
    view: int | None = None
    tokens: tuple[int, int] | None = None
    source: str | None = None


@dataclass(frozen=True)
class Gallery:
    """Images drawn at random, with a fixed seed, of the correctly classified ones.

    Attributes:
        claim: The claim that they have, or have not.
        patch: Its patch.
        certified: Number of correctly classified images that have it.
        broken: Number of those that have not.
        images: The images drawn, certified ones first.
        pictureless: Reason for the lack of pictures; empty where there are some.
    """

    claim: Claim
    patch: Patch
    certified: int
    broken: int
    images: tuple[Shown, ...]
    pictureless: str = ""


def gallery_of(outcomes: Outcomes, claim: Claim, name_of: Callable[[int], str]) -> Gallery:
    """Draw images and find their worst places; without pictures.

    Raises:
        ConfigError: The positions were drawn at random for each image, the claim's rule does not
            tell places apart, or no image is known to be right.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    run, patch = outcomes.run, claim.threat.patch
    run.check_fixed()
    rule = rule_of_locations(run.views).name
    if rule_named(claim.rule).alerts:
        raise ConfigError(f"{claim.rule} is about an image as a whole, not about one place")
    if claim.rule != rule or patch is None:
        raise ConfigError(
            f"run {run.run_id} has no {rule} certificate against a square patch; "
            f"`patchcert certify --rule {rule}` computes one"
        )
    asked = Measure("certified", claim._replace(stride=None))
    right_n, certified_n = outcomes.unattacked[asked], outcomes.right[asked]
    kinds = certified_n, right_n & ~certified_n
    chosen = np.concatenate([_drawn(kind_n) for kind_n in kinds])
    if not len(chosen):
        raise ConfigError(f"run {run.run_id}: no image is known to be right")
    ids = [outcomes.ids[int(place)].as_py() for place in chosen]
    # The votes are read in the run's order.
    rows = _rows_of(outcomes, np.sort(chosen)).take(pa.array(np.argsort(np.argsort(chosen))))
    classes = run.manifest.defense.network.voted_classes
    answers = (_pairs if run.views.hides else _places)(run, claim, patch, rows)
    images = tuple(
        Shown(
            image_id=ids[place],
            certified=bool(certified_n[chosen[place]]),
            prediction=name_of(int(classes[answer])),
            rival=name_of(int(classes[rival])),
            **where,
        )
        for place, (answer, rival, where) in enumerate(answers)
    )
    return Gallery(claim, patch, int(kinds[0].sum()), int(kinds[1].sum()), images)


def _places(
    run: Run, claim: Claim, patch: Patch, rows: pa.Table
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Answer, rival and worst place of each image, by the exact rule."""
    votes = run.renumbered(votes_array(rows, run.manifest.defense))
    found = witnesses(votes, run.ablation, patch, run.num_classes)
    corners_n2 = np.stack([found.ys_n, found.xs_n], axis=1)
    touched_n = touched_at(run.ablation, patch, corners_n2).sum(axis=1)
    for image, (y, x) in enumerate(corners_n2.tolist()):
        corner = run.ablation.coordinates(y, x)
        where = {"y": corner[0], "x": corner[1], "touched": int(touched_n[image])}
        margin = {"margin": int(found.margins_n[image])}
        yield int(found.predictions_n[image]), int(found.rivals_n[image]), where | margin


def _pairs(
    run: Run, claim: Claim, patch: Patch, rows: pa.Table
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Answer, rival and worst two places of each image, by the two-location decision."""
    views, token_px = run.views, token_px_of(run.manifest)
    votes = run.renumbered(votes_array(rows, run.manifest.defense))
    plain_n = run.renumbered(rows["plain_prediction"].fill_null(-1).to_numpy().astype(np.int64))
    batch = VoteBatch(np.asarray(votes), views, run.num_classes, plain_n=plain_n.astype(np.int64))
    answers_n = rule_named(claim.rule).at(claim.terms).predict(batch, claim.threat)
    threat = claim.assumes or claim.threat
    untouched_sv, where = ~largest_sets(views, threat), views.touched_sets(threat.patch or patch)
    for labels_v, answer in zip(batch.labels_nv, answers_n.tolist(), strict=True):
        pair = closest_pair(untouched_sv, labels_v, answer)
        first, second = (_corner(views, where, ~untouched_sv[number]) for number in pair.sets)
        yield (
            answer,
            pair.rival,
            {
                "margin": pair.margin,
                "touched": int((~untouched_sv[pair.sets[0]]).sum()),
                "y": first[0],
                "x": first[1],
                "second": second,
                "view": pair.view,
                "tokens": _tokens(views, pair.view, token_px),
            },
        )


def _tokens(
    views: ViewFamily, view: int, token_px: tuple[int, int] | None
) -> tuple[int, int] | None:
    """Tokens that a view keeps, and all there are."""
    if token_px is None:
        return None
    pixels = views.height * views.width * views.pixel_scale**2
    return len(views.kept_tokens(view, token_px)), pixels // (token_px[0] * token_px[1])


def _corner(
    views: ViewFamily, where: TouchedSets, touched_v: BoolArray
) -> tuple[int | None, int | None]:
    """A location in the midst of those that touch a set of views."""
    number = (where.touched_sv == touched_v).all(axis=1)
    found = np.argwhere(number[where.sets_yx])
    y, x = found[np.abs(found - found.mean(axis=0)).sum(axis=1).argmin()].tolist()
    return views.coordinates(y, x)


def token_px_of(manifest: Manifest) -> tuple[int, int] | None:
    """Height and width of the tokens that a run leaves out; None where that is not known."""
    defense = manifest.defense
    if defense.tokens != "drop":
        return None
    try:
        # torch and timm: the page of a run without tokens needs neither.
        from models.networks.zoo import token_px  # noqa: PLC0415

        return token_px(defense.network.name)
    except (ImportError, RequestError):
        return None


def pictured(run: Run, gallery: Gallery, pixels: NDArray[np.uint8]) -> Gallery:
    """The gallery with its pictures: of views that hide, with what is hidden.

    Args:
        run: The run.
        gallery: Without pictures.
        pixels: Its images; uint8 (N, H, W, 3).
    """
    token_px = token_px_of(run.manifest) if run.views.hides else None
    scale = run.views.pixel_scale if run.views.hides else 1
    return replace(
        gallery,
        images=tuple(
            replace(shown, source=data_uri(hidden(run.views, shown.view, one, token_px), scale))
            for shown, one in zip(gallery.images, pixels, strict=True)
        ),
    )


def hidden(
    views: ViewFamily,
    view: int | None,
    image: NDArray[np.uint8],
    token_px: tuple[int, int] | None,
) -> NDArray[np.uint8]:
    """An image (H, W, 3), in model pixels: black where a view hides it, pale where tokens go."""
    if view is None:
        return image
    # A token need not be a whole number of the attacker's pixels.
    image = enlarged(image, (views.pixel_scale, views.pixel_scale))
    faint = image * _FAINT
    seen = np.where(visible(views, view)[..., None], image, faint)
    if token_px is not None:
        kept_yx = kept(views, view, token_px)
        seen = np.where(kept_yx[..., None], seen, 255 * (1 - _FAINT) + faint)
    pale: NDArray[np.uint8] = seen.astype(np.uint8)
    return pale


def _drawn(kind_n: BoolArray) -> IntArray:
    candidates = np.flatnonzero(kind_n)
    some = np.random.default_rng(0).permutation(candidates)[:_EACH]
    return np.sort(some)


def _rows_of(outcomes: Outcomes, places: IntArray) -> pa.Table:
    """Read the votes of images by their places in the run's order, ascending."""
    names = columns_of(outcomes.run.manifest, "votes", "vote_sets", "plain_prediction")
    return pa.concat_tables(outcomes.tables(places, names))


def pixels_of(run: Run, image_ids: Sequence[str], data: str | None) -> NDArray[np.uint8]:
    """The images as the model received them, on the attacker's grid; uint8 (N, H, W, 3).

    Files that are as they were when the run listed them are not read through again.

    Args:
        run: The run.
        image_ids: Images without an error.
        data: Present place of the images; None for the recorded one.

    Raises:
        ConfigError: The place of the images is not known, or they are not there, are others or
            cannot be read.
    """
    manifest = run.manifest
    place, preprocess = data or manifest.execution.data, manifest.defense.preprocess
    if not place or preprocess is None or not manifest.data.fingerprint:
        raise ConfigError(f"the run does not say where its images are; {_REMEDY}")
    options = SourceOptions(
        image_column=manifest.data.image_column, classes=manifest.defense.network.classes
    )
    try:
        with cached_listing(run.out, place, options) as cache:
            return read_images(
                manifest, preprocess, image_ids, data=place, options=options, cache=cache
            )
    except (ConfigError, SourceError) as error:
        raise ConfigError(f"{error}; {_REMEDY}") from error


def data_uri(pixels: NDArray[np.uint8], scale: int = 1) -> str:
    """An image (H, W, 3), enlarged by a scale, as an address that holds it."""
    sink, small = io.BytesIO(), max(pixels.shape[:2]) <= _SMALL_PX * scale
    kind = "png" if small else "webp"
    Image.fromarray(np.ascontiguousarray(pixels)).save(sink, kind, quality=80)
    return f"data:image/{kind};base64,{b64encode(sink.getvalue()).decode()}"
