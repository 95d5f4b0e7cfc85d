"""Pixels of a few of a run's images, where the data are still what was voted on."""

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.preprocess import Preprocess
from pipeline.config import ConfigError
from pipeline.decoding import pixels_of_rows
from pipeline.questions.run import Run
from pipeline.sources.base import SourceError, SourceOptions
from pipeline.sources.listing import list_images
from pipeline.sources.memory import remembered_listing

# Pixels of CIFAR-10 and the like stay the pixels they are; photographs may lose a little.
_SMALL_PX = 64
_REMEDY = "`patchcert report --data ...` says where the run's images lie now"


def pixels_of(run: Run, image_ids: Sequence[str], data: str | None) -> NDArray[np.uint8]:
    """The images as the model received them, on the attacker's grid; uint8 (N, H, W, 3).

    Files that are as they were when the run listed them are not read through again.

    Args:
        run: The run.
        image_ids: Images without an error.
        data: Where they lie now; None for where they lay.

    Raises:
        ConfigError: The run does not say where its images are, they are not there, or are others.
        SourceError: They cannot be read.
    """
    identity: Mapping[str, Any] = run.manifest.identity
    place = data or run.manifest.execution.get("data")
    if place is None or "preprocess" not in identity or "fingerprint" not in identity["data"]:
        raise ConfigError(f"the run does not say where its images are; {_REMEDY}")
    options = SourceOptions(
        image_column=identity["data"].get("image_column"), classes=run.manifest.classes
    )
    with remembered_listing(run.out, place, options) as memory:
        try:
            listing = list_images(place, options, run.manifest.num_classes, memory)
        except SourceError as error:
            raise ConfigError(f"{error}; {_REMEDY}") from error
    if listing.fingerprint != identity["data"]["fingerprint"]:
        raise ConfigError(f"the files at {place} are not those that the run voted on; {_REMEDY}")
    return pixels_of_rows(listing.table, image_ids, options, Preprocess(**identity["preprocess"]))


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """An image (H, W, 3) as an address that holds it."""
    sink, small = io.BytesIO(), max(pixels.shape[:2]) <= _SMALL_PX
    kind = "png" if small else "webp"
    Image.fromarray(np.ascontiguousarray(pixels)).save(sink, kind, quality=80)
    return f"data:image/{kind};base64,{b64encode(sink.getvalue()).decode()}"
