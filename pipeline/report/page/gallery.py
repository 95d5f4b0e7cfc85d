"""A few images of a run with the place where a patch comes closest to changing them."""

import io
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from models.views.family import BoolArray, IntArray, Patch
from pipeline.analysis.outcomes import Measure, Outcomes
from pipeline.analysis.run import Run
from pipeline.certificates.rules import rule_of_locations
from pipeline.certificates.witness import touched_at, witnesses
from pipeline.config import ConfigError
from pipeline.runs.images import read_images
from pipeline.runs.reading import columns_of
from pipeline.runs.rows import votes_array
from pipeline.scoring.claims import Claim
from pipeline.sources.base import SourceError, SourceOptions
from pipeline.sources.listing_cache import cached_listing

_EACH = 6
# Pixels of CIFAR-10 and the like stay the pixels they are; photographs may lose a little.
_SMALL_PX = 64
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
        touched: Ablations that the patch touches there.
        y: Upper edge of the worst place in pixels; None where the ablations cannot tell.
        x: Left edge in the same way.
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
        ConfigError: The positions were drawn at random for each image, the claim's rule has no
            margins by location, or no image is known to be right.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    run, patch = outcomes.run, claim.threat.patch
    run.check_fixed()
    rule = rule_of_locations().name
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
    votes = _votes_of(outcomes, np.sort(chosen))[np.argsort(np.argsort(chosen))]
    found = witnesses(run.renumbered(votes), run.ablation, patch, run.num_classes)
    corners_n2 = np.stack([found.ys_n, found.xs_n], axis=1)
    touched_n = touched_at(run.ablation, patch, corners_n2).sum(axis=1)
    corners = [run.ablation.coordinates(int(y), int(x)) for y, x in corners_n2]
    classes = run.manifest.defense.network.voted_classes
    images = tuple(
        Shown(
            image_id=ids[place],
            certified=bool(certified_n[chosen[place]]),
            prediction=name_of(int(classes[found.predictions_n[place]])),
            rival=name_of(int(classes[found.rivals_n[place]])),
            margin=int(found.margins_n[place]),
            touched=int(touched_n[place]),
            y=corners[place][0],
            x=corners[place][1],
        )
        for place in range(len(ids))
    )
    return Gallery(claim, patch, int(kinds[0].sum()), int(kinds[1].sum()), images)


def _drawn(kind_n: BoolArray) -> IntArray:
    candidates = np.flatnonzero(kind_n)
    some = np.random.default_rng(0).permutation(candidates)[:_EACH]
    return np.sort(some)


def _votes_of(outcomes: Outcomes, places: IntArray) -> NDArray[np.int64]:
    """Read the votes of images by their places in the run's order, ascending."""
    manifest = outcomes.run.manifest
    parts = outcomes.tables(places, columns_of(manifest, "votes", "vote_sets"))
    return votes_array(pa.concat_tables(parts), manifest.defense)


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


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """An image (H, W, 3) as an address that holds it."""
    sink, small = io.BytesIO(), max(pixels.shape[:2]) <= _SMALL_PX
    kind = "png" if small else "webp"
    Image.fromarray(np.ascontiguousarray(pixels)).save(sink, kind, quality=80)
    return f"data:image/{kind};base64,{b64encode(sink.getvalue()).decode()}"
