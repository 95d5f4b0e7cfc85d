"""Pixels of a run's images, read again from its data."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.preprocess import Preprocess
from pipeline.config import ConfigError
from pipeline.runs.manifest import Manifest
from pipeline.sources.base import SourceOptions
from pipeline.sources.decode import prepared
from pipeline.sources.listing import list_images
from pipeline.sources.listing_cache import ListingCache
from pipeline.sources.reading import read_bytes_of


def read_images(
    manifest: Manifest,
    preprocess: Preprocess,
    image_ids: Sequence[str],
    *,
    data: str,
    options: SourceOptions,
    cache: ListingCache | None = None,
) -> NDArray[np.uint8]:
    """Read images as the model received them, on the attacker's grid; uint8 (N, H, W, 3).

    Args:
        manifest: Manifest of the run.
        preprocess: Preprocessing of the run.
        image_ids: The images, without an error, in any order.
        data: Present place of the run's images.
        options: Choices that the layout of the data leaves open.
        cache: Contents of files as earlier jobs found them.

    Raises:
        ConfigError: The data are not those of the run.
        SourceError: They cannot be read.
    """
    scale = preprocess.pixel_scale
    images = np.empty((len(image_ids), *preprocess.crop_px, 3), np.uint8)
    encoded = read_encoded(manifest, image_ids, data=data, options=options, cache=cache)
    for image, file in zip(images, encoded, strict=True):
        # An exact enlargement: any of its copies is the pixel.
        image[...] = prepared(file, preprocess)[::scale, ::scale]
    return images


def read_encoded(
    manifest: Manifest,
    image_ids: Sequence[str],
    *,
    data: str,
    options: SourceOptions,
    cache: ListingCache | None = None,
) -> list[bytes | None]:
    """Read the files of images as they were delivered; arguments and errors as ``read_images``."""
    listing = list_images(data, options, None, cache, labelled=False)
    if listing.fingerprint != manifest.data.fingerprint:
        raise ConfigError(
            f"--data {data}: these are not the files that the run voted on (their fingerprint "
            "differs); give the run's own data, unchanged and in the same kind of storage"
        )
    ids = listing.table["image_id"].combine_chunks()
    rows = listing.table.take(pc.index_in(pa.array(image_ids, pa.string()), ids))
    return read_bytes_of(rows, options)
