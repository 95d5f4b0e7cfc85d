"""The columns of everything written to Parquet, and the fields of the summary."""

from typing import Literal, NotRequired, TypedDict

import pyarrow as pa

VOTES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        # Null where the data has none.
        pa.field("label", pa.int32()),
        # The class that each ablation voted for, in the ablations' order.
        pa.field("votes", pa.list_(pa.uint16())),
        # Most votes first, lowest class first on ties.
        pa.field("counts", pa.list_(pa.struct([("class", pa.uint16()), ("votes", pa.uint32())]))),
        # Smoothed: most votes, lowest class on ties.
        pa.field("prediction", pa.int32()),
        # The same weights on the whole image.
        pa.field("plain_prediction", pa.int32()),
        # Null, or the reason for which the image has no votes.
        pa.field("error", pa.string()),
    ]
)
"""One row an image, whether it could be read or not; every run has these columns."""

_VIEWS = pa.field("views", pa.list_(pa.uint32()))
_VOTE_SETS = pa.field("vote_sets", pa.list_(pa.list_(pa.uint16())))
_GAPS = pa.field("gaps", pa.list_(pa.float16()))
_LABELS = pa.field("labels", pa.list_(pa.int32()))
SIZES = (pa.field("height", pa.int32()), pa.field("width", pa.int32()))
"""Of the decoded picture, before the resize, in pixels; null where it could not be used."""


def votes_schema(
    *,
    views: bool = False,
    vote_sets: bool = False,
    gaps: bool = False,
    labels: bool = False,
    sizes: bool = False,
) -> pa.Schema:
    """Columns of a run's votes: ``VOTES`` and those its settings add.

    Args:
        views: Add the number of the ablation behind each vote, where each image has its own.
        vote_sets: Add the classes that each ablation voted for, ascending; ``votes`` is null.
        gaps: Add the gap between the two largest logits of each ablation, rounded down.
        labels: Add every right class of an image, where there may be several; ``label`` is null.
        sizes: Add height and width of the decoded picture.
    """
    added = ((views, _VIEWS), (vote_sets, _VOTE_SETS), (gaps, _GAPS), (labels, _LABELS))
    of_run = [field for wanted, field in added if wanted]
    return pa.schema([*VOTES, *of_run, *(SIZES if sizes else ())])


CERTIFICATES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        # Of the rule, from the votes of ``stride``; null where it raises an alert instead.
        pa.field("prediction", pa.int32()),
        # Side of the patch where the threat is one square; else null.
        pa.field("patch_px", pa.int32()),
        # 32x32, 16x48, area<=1024, 2 of 32x32, in pixels; source:50 in those of the picture.
        pa.field("threat", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        # 1: the prediction stays; k: a right class stays among the k with most votes.
        pa.field("top_k", pa.int32(), nullable=False),
        # Of the ablations whose votes were counted; null for random positions.
        pa.field("stride", pa.int32()),
        # No such attacker can change it. For top_k 1 the prediction may be right or wrong.
        pa.field("certified", pa.bool_(), nullable=False),
        # Votes to spare; certified iff >= 0; null for images with an error, and above top_k 1 for
        # those without a label.
        pa.field("margin", pa.int32()),
        # Null for a proof; else the certificate is probabilistic, with this confidence an image.
        pa.field("confidence", pa.float64()),
        # The largest patch that the rule's decision assumes; null where it assumes none.
        pa.field("assumes", pa.string()),
        # Of a threat on the source picture: what it was certified as, the rectangle of the grid
        # that holds all it can change in a picture of this size; else null.
        pa.field("on_grid", pa.string()),
        # Gap of the two largest logits up to which a view has no say; null where every view has.
        pa.field("tau", pa.float64()),
    ]
)
"""One row an image and claim: threat, rule, top_k, stride, confidence."""

IMAGES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("prediction", pa.int32()),
        pa.field("plain_prediction", pa.int32()),
        pa.field("error", pa.string()),
        # Votes of the prediction less those of the runner-up; null for images with an error.
        pa.field("lead", pa.int32()),
        # Side of the largest square patch that cannot change the prediction, whatever its place;
        # no smaller one can either. 0 where even one pixel can; null for images with an error, and
        # for votes that the rule is not about.
        pa.field("largest_exact_px", pa.int32()),
        pa.field("largest_uniform_px", pa.int32()),
    ]
)
"""One row an image, of the run's own ablations."""

DETECTION = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("prediction", pa.int32()),
        pa.field("threat", pa.string(), nullable=False),
        pa.field("stride", pa.int32()),
        # As in IMAGES, from the votes of ``stride``: below tau there is an alert and no answer.
        pa.field("lead", pa.int32()),
        # The largest lead that the attacker can give another class. A tau above it detects every
        # attack that would change the answer.
        pa.field("attack_lead", pa.int32()),
        # The smallest lead that the attacker can leave the prediction, negative where it loses. Up
        # to this tau the answer stays, and without an alert.
        pa.field("kept_lead", pa.int32()),
    ]
)
"""One row an image and threat, where detection was asked for; null for images with an error."""

ATTACKS = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        # By the exact rule, or the decision over masks, and this patch, with its margin; that is
        # null where the rule has no decision for a patch so large on the grid.
        pa.field("certified", pa.bool_(), nullable=False),
        pa.field("margin", pa.int32()),
        # As in CERTIFICATES.
        pa.field("threat", pa.string(), nullable=False),
        pa.field("patch_px", pa.int32()),
        # The patch, in pixels of what it was pasted into: the grid, or the source picture.
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("y", pa.int32(), nullable=False),
        pa.field("x", pa.int32(), nullable=False),
        # The rectangle of the grid that it can change; height or width 0 where it changes nothing.
        pa.field("grid_y", pa.int32(), nullable=False),
        pa.field("grid_x", pa.int32(), nullable=False),
        pa.field("grid_height", pa.int32(), nullable=False),
        pa.field("grid_width", pa.int32(), nullable=False),
        # Pixels of the grid that changed outside of it: always 0.
        pa.field("outside_changed", pa.int32(), nullable=False),
        # The class that ablations were pushed to.
        pa.field("rival", pa.int32(), nullable=False),
        # Another class was answered, without an alert.
        pa.field("success", pa.bool_(), nullable=False),
        # The answers; null for an alert, which masks of one location can raise, or an error.
        pa.field("prediction_before", pa.int32()),
        pa.field("prediction_after", pa.int32()),
        # Null where no label is known.
        pa.field("right_after", pa.bool_()),
        # Ablations that show the patch, and those of them whose vote changed.
        pa.field("touched", pa.int32(), nullable=False),
        pa.field("flipped", pa.int32(), nullable=False),
        # Of the others those whose vote, or the bits of whose logits, changed: always 0.
        pa.field("untouched_changed", pa.int32(), nullable=False),
        pa.field("untouched_logits_changed", pa.int32(), nullable=False),
    ]
)
"""One row an attack: a patch that was made, pasted and voted on."""

WITNESSES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("prediction", pa.int32(), nullable=False),
        pa.field("patch_px", pa.int32(), nullable=False),
        # Negative: exact, or of the two-location decision over masks.
        pa.field("margin", pa.int32(), nullable=False),
        # Upper left corner of the patch; null where the ablations cannot tell.
        pa.field("y", pa.int32()),
        pa.field("x", pa.int32()),
        pa.field("rival", pa.int32(), nullable=False),
        # Views that show the patch, and those of them whose vote was rewritten to the rival.
        pa.field("touched", pa.int32(), nullable=False),
        pa.field("rewritten", pa.int32(), nullable=False),
        pa.field("prediction_after", pa.int32(), nullable=False),
    ]
)
"""One row an image without a certificate: a rewriting of its votes that changes its prediction.

Over masks the whole image is rewritten to the rival as well, and an image for which no rewriting
was found has no row.
"""

LOCATIONS = pa.schema(
    [
        # Height x width of the patch in pixels, as in the certificates.
        pa.field("threat", pa.string(), nullable=False),
        # Upper edge; null where the ablations cannot tell rows apart.
        pa.field("y", pa.int32()),
        # Left edge; null where they cannot tell columns apart.
        pa.field("x", pa.int32()),
        # Images that could be voted on, and those of them that are predicted rightly.
        pa.field("images", pa.int64(), nullable=False),
        pa.field("images_right", pa.int64(), nullable=False),
        # Those without a certificate against a patch at this location, by the exact rule; of masks
        # by two-location.
        pa.field("uncertified", pa.int64(), nullable=False),
        pa.field("uncertified_right", pa.int64(), nullable=False),
    ]
)
"""One row a patch and location, written by ``patchcert heatmap``."""

MAX_CLASSES = 2**16
"""Classes that a vote, a uint16, can name."""


class Share(TypedDict):
    """A proportion of images with its 95 % interval; null where no image was counted."""

    hits: int
    of: int
    value: float | None
    low: float | None
    high: float | None


class ClaimEntry(TypedDict):
    """A claim, as in CERTIFICATES."""

    rule: str
    threat: str
    patch_px: int | None
    top_k: int
    stride: int | None
    confidence: float | None
    assumes: str | None
    tau: float | None


class SourceEntry(TypedDict, total=False):
    """The keys of a certified accuracy whose threat is on the source picture."""

    # Images by the rectangle that the threat is on the grid.
    on_grid: dict[str, int]
    # Images that are not certified because the rule has no decision for their rectangle.
    images_too_large: int


class CertifiedEntry(ClaimEntry, Share, SourceEntry):
    """Certified accuracy of a claim: labelled images that are right and certified."""

    # Labelled images that the rule's own answer classifies correctly, without an attack.
    clean_accuracy: Share
    # Views that the attacker can touch at most.
    max_touched: int
    # Share of the image's pixels that the attacker may rewrite.
    image_share: float
    # Images, labelled or not, at which the rule raises an alert; null where it never does.
    alerts: int | None
    # Images certified, right or wrong, labelled or not.
    images_certified: int


class CoarserEntry(TypedDict):
    """Accuracy of the ablations of a stride coarser than the run's own."""

    stride: int
    ablations: int
    smoothed_accuracy: Share


class LargestEntry(TypedDict):
    """Labelled images that are right and certified, by rule, against each side of a square."""

    of: int
    patch_px: list[int]
    hits: dict[str, list[int]]


AlertName = Literal["clean", "certified_recovery", "certified_detection"]
"""Counts of a detection curve."""


class DetectionCurve(TypedDict):
    """Labelled images by what an alert below each ``tau`` makes of them."""

    threat: str
    stride: int | None
    of: int
    tau: list[int]
    clean: list[int]
    certified_recovery: list[int]
    certified_detection: list[int]


class Summary(TypedDict):
    """Accuracies of a run: ``<out>/summary/run_id=<id>.json``."""

    run_id: str
    images: int
    images_with_error: int
    images_without_label: int
    ablations: int
    # True where the views hide: then no class of most votes answers, but each rule for itself.
    hides: bool
    # Mean over the images, where early exit asks fewer of some.
    views_asked: NotRequired[float]
    plain_accuracy: Share
    smoothed_accuracy: Share
    # Null where no image is labelled.
    mean_ablation_accuracy: float | None
    # The origin of imported votes.
    basis: NotRequired[str]
    # Digests of the votes it is of, and of all other fields; earlier versions wrote none.
    votes_sha256: NotRequired[str]
    sha256: NotRequired[str]
    certified_accuracy: list[CertifiedEntry]
    largest: LargestEntry
    coarser: list[CoarserEntry]
    detection: list[DetectionCurve]
