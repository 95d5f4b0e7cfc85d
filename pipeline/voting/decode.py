"""Stage 1, CPU tasks: rows of the listing to model input pixels.

Imports neither torch nor timm, so that decoding workers stay light.
"""

from typing import NamedTuple

import pyarrow as pa

from models.errors import WrongSizeError
from models.preprocess import Preprocess
from pipeline.sources.base import SourceOptions
from pipeline.sources.decode import UndecodableError, decode_for
from pipeline.sources.reading import read_bytes_of

DECODED = pa.schema(
    [
        pa.field("unit", pa.int64()),
        pa.field("image_id", pa.string()),
        pa.field("label", pa.int32()),
        pa.field("labels", pa.list_(pa.int32())),
        # Model input, uint8 (*model_px, 3); null where the image has an error.
        pa.field("pixels", pa.binary()),
        # Of the decoded picture; null where the image has an error.
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("error", pa.string()),
    ]
)
"""Columns that the network stage receives, one block a unit."""


class DecodeUnit:
    """Rows of the listing to decoded rows, one block a unit.

    An image that cannot be read becomes a row with its ``error``; nothing is dropped.
    """

    def __init__(self, options: SourceOptions, preprocess: Preprocess) -> None:
        self.options, self.preprocess = options, preprocess

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Listing rows with their ``unit`` to decoded rows, in order."""
        pictures: list[_Picture] = []
        errors: list[str | None] = []
        for data in read_bytes_of(rows.drop_columns(["unit"]), self.options):
            try:
                image = decode_for(data, self.preprocess)
                pixels = self.preprocess(image).tobytes()
                pictures.append(_Picture(pixels, image.height, image.width))
                errors.append(None)
            except (UndecodableError, WrongSizeError) as error:
                pictures.append(_Picture())
                errors.append(str(error))
        return _decoded(rows, pictures, errors)

    def failed(self, rows: pa.Table, reason: str) -> pa.Table:
        """Decoded rows of images that cannot be handled, for one reason."""
        return _decoded(rows, [_Picture()] * rows.num_rows, [reason] * rows.num_rows)


class _Picture(NamedTuple):
    """A decoded picture as the model's input, and its size before; nothing of one with an error."""

    pixels: bytes | None = None
    height: int | None = None
    width: int | None = None


def _decoded(rows: pa.Table, pictures: list[_Picture], errors: list[str | None]) -> pa.Table:
    return pa.table(
        {
            "unit": rows["unit"],
            "image_id": rows["image_id"],
            "label": rows["label"],
            "labels": rows["labels"],
            "pixels": pa.array([picture.pixels for picture in pictures], pa.binary()),
            "height": pa.array([picture.height for picture in pictures], pa.int32()),
            "width": pa.array([picture.width for picture in pictures], pa.int32()),
            "error": pa.array(errors, pa.string()),
        },
        schema=DECODED,
    )
