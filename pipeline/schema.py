"""The columns of everything written to Parquet: declared once, plain Arrow types only."""

import pyarrow as pa

VOTES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        # Null where the data does not know.
        pa.field("label", pa.int32()),
        # The class that each ablation voted for, in the ablations' order.
        pa.field("votes", pa.list_(pa.uint16())),
        # Most votes first, lowest class first on ties.
        pa.field("counts", pa.list_(pa.struct([("class", pa.uint16()), ("votes", pa.uint32())]))),
        # Smoothed: most votes, lowest class on ties.
        pa.field("prediction", pa.int32()),
        # The same weights on the whole image.
        pa.field("plain_prediction", pa.int32()),
        # Null where all is well; else why the image could not be voted on.
        pa.field("error", pa.string()),
    ]
)
"""One row an image, whether it could be read or not."""

CERTIFICATES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("prediction", pa.int32()),
        pa.field("patch_px", pa.int32(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        # No patch of this size can change the prediction, right or wrong.
        pa.field("certified", pa.bool_(), nullable=False),
        # Votes to spare; certified iff >= 0; null for images with an error.
        pa.field("margin", pa.int32()),
    ]
)
"""One row an image, patch size and rule."""

MAX_CLASSES = 2**16
"""Classes that a vote, a uint16, can name."""
