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
"""One row an image, whether it could be read or not; every run has these columns."""

_VIEWS = pa.field("views", pa.list_(pa.uint32()))
_VOTE_SETS = pa.field("vote_sets", pa.list_(pa.list_(pa.uint16())))
_GAPS = pa.field("gaps", pa.list_(pa.float16()))
_LABELS = pa.field("labels", pa.list_(pa.int32()))


def votes_schema(
    *, views: bool = False, vote_sets: bool = False, gaps: bool = False, labels: bool = False
) -> pa.Schema:
    """Columns of a run's votes: ``VOTES`` and those its settings add.

    Args:
        views: Add the number of the ablation behind each vote, where each image has its own.
        vote_sets: Add the classes that each ablation voted for, ascending; ``votes`` is null.
        gaps: Add the gap between the two largest logits of each ablation, rounded down.
        labels: Add every right class of an image, where there may be several; ``label`` is null.
    """
    added = ((views, _VIEWS), (vote_sets, _VOTE_SETS), (gaps, _GAPS), (labels, _LABELS))
    return pa.schema([*VOTES, *(field for wanted, field in added if wanted)])


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
        # Null for a proof; else the certificate is probabilistic, with this confidence an image.
        pa.field("confidence", pa.float64()),
    ]
)
"""One row an image and claim: patch size, rule, confidence."""

MAX_CLASSES = 2**16
"""Classes that a vote, a uint16, can name."""
