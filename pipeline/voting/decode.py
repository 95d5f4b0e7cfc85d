"""Stage 1, CPU tasks: rows of the listing to model input pixels.

Imports neither torch nor timm, so that decoding workers stay light.
"""

import pyarrow as pa

from models.errors import WrongSizeError
from models.preprocess import Preprocess
from pipeline.sources.base import SourceOptions
from pipeline.sources.decode import UndecodableError, prepared
from pipeline.sources.reading import read_bytes_of

DECODED = pa.schema(
    [
        pa.field("unit", pa.int64()),
        pa.field("image_id", pa.string()),
        pa.field("label", pa.int32()),
        pa.field("labels", pa.list_(pa.int32())),
        # Model input, uint8 (*model_px, 3); null where the image has an error.
        pa.field("pixels", pa.binary()),
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
        pixels: list[bytes | None] = []
        errors: list[str | None] = []
        for data in read_bytes_of(rows.drop_columns(["unit"]), self.options):
            try:
                pixels.append(prepared(data, self.preprocess).tobytes())
                errors.append(None)
            except (UndecodableError, WrongSizeError) as error:
                pixels.append(None)
                errors.append(str(error))
        return _decoded(rows, pixels, errors)

    def failed(self, rows: pa.Table, reason: str) -> pa.Table:
        """Decoded rows of images that cannot be handled, for one reason."""
        return _decoded(rows, [None] * rows.num_rows, [reason] * rows.num_rows)


def _decoded(rows: pa.Table, pixels: list[bytes | None], errors: list[str | None]) -> pa.Table:
    return pa.table(
        {
            "unit": rows["unit"],
            "image_id": rows["image_id"],
            "label": rows["label"],
            "labels": rows["labels"],
            "pixels": pa.array(pixels, pa.binary()),
            "error": pa.array(errors, pa.string()),
        },
        schema=DECODED,
    )
