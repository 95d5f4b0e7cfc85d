"""Attacked images as data like any other: encoded without loss, listed and decoded as a run's are.

They lie on the attacker's grid, so the preprocessing that makes model input of them is the run's
own without its resize and crop (``--resize none``): a certificate is about patches on that grid,
not about patches pasted before a resize.
"""

import dataclasses
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from models.errors import JobError
from models.preprocess import Preprocess
from pipeline import storage
from pipeline.decoding import DecodeUnit
from pipeline.sources.listing import SourceOptions, list_images

ATTACKED = pa.schema(
    [
        # PNG, on the attacker's grid.
        pa.field("image", pa.binary(), nullable=False),
        pa.field("image_id", pa.string(), nullable=False),
        # Upper left corner of the patch; null for the unpatched copy of the image.
        pa.field("y", pa.int32()),
        pa.field("x", pa.int32()),
    ]
)
"""What is voted on: every attacked image, its copy without a patch first."""

# Rows decoded at a time by the check, to bound memory.
_ROWS = 64


class RoundTripError(JobError):
    """Written images do not come back as the pixels that were meant."""


def on_the_grid(preprocess: Preprocess) -> Preprocess:
    """The same preprocessing for images that are on the attacker's grid already."""
    return dataclasses.replace(preprocess, resize=None, scaled_decode=False)


def write_source(
    path: str,
    image_ids: list[str],
    corners: list[tuple[int, int] | None],
    pixels: NDArray[np.uint8],
) -> None:
    """Write images as Parquet of PNGs.

    Args:
        path: Where (.parquet).
        image_ids: The run's image behind each; R of them.
        corners: Upper left corner (y, x) of each patch; None where there is none.
        pixels: uint8 (R, H, W, 3).
    """
    table = pa.table(
        [
            pa.array([encode(image) for image in pixels], pa.binary()),
            pa.array(image_ids, pa.string()),
            pa.array([None if corner is None else corner[0] for corner in corners], pa.int32()),
            pa.array([None if corner is None else corner[1] for corner in corners], pa.int32()),
        ],
        schema=ATTACKED,
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="none")
    storage.write_atomically(path, sink.getvalue())


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG of pixels (H, W, 3)."""
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def check_round_trip(path: str, preprocess: Preprocess, pixels: NDArray[np.uint8]) -> None:
    """Read a source as a run does, and compare the model input with the pixels that were meant.

    Args:
        path: Of ``write_source``.
        preprocess: Of ``on_the_grid``.
        pixels: uint8 (R, H, W, 3).

    Raises:
        RoundTripError: A pixel differs, or an image cannot be decoded.
    """
    options = SourceOptions(image_column="image")
    rows = list_images(path, options, None).table
    decode = DecodeUnit(options, preprocess)
    rows = rows.append_column("unit", pa.nulls(rows.num_rows, pa.int64()))
    for start in range(0, rows.num_rows, _ROWS):
        meant = pixels[start : start + _ROWS]
        enlarged = model_input(meant, preprocess.pixel_scale)
        decoded = decode(rows.slice(start, _ROWS))
        for index, cell in enumerate(decoded["pixels"].to_pylist()):
            if cell != enlarged[index].tobytes():
                raise RoundTripError(
                    f"{path}: row {start + index} is decoded to other pixels than were written "
                    f"({decoded['error'][index]}); please report it with this file"
                )


def model_input(pixels: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """Images (R, H, W, 3) as the model takes them, each pixel ``scale`` x ``scale``."""
    return np.ascontiguousarray(pixels.repeat(scale, axis=1).repeat(scale, axis=2))
