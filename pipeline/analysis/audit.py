"""Hold the published certificate of stored votes against the exact rule."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from models.views.ablations import Ablation
from models.views.family import BoolArray, Patch
from pipeline.analysis.run import Run
from pipeline.certificates.batch import smoothed_predictions, vote_counts
from pipeline.certificates.exact import exact_margins
from pipeline.certificates.published import published_delta, published_margins
from pipeline.certificates.subsets import coarser
from pipeline.certificates.uniform import uniform_margins
from pipeline.certificates.votes import VoteArray
from pipeline.certificates.witness import rewrite, touched_at, witnesses
from pipeline.config import ConfigError

FLIPS = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("stride", pa.int32()),
        pa.field("patch_px", pa.int32()),
        # Where the patch lies, in pixels of the attacker's grid.
        pa.field("y", pa.int32()),
        pa.field("x", pa.int32()),
        # Numbers of the ablations, at this stride, whose votes become ``rival``.
        pa.field("touched", pa.list_(pa.int32())),
        pa.field("prediction", pa.int32()),
        pa.field("rival", pa.int32()),
        # Votes of prediction and rival, before and after.
        pa.field("votes_before", pa.list_(pa.int32(), 2)),
        pa.field("votes_after", pa.list_(pa.int32(), 2)),
    ]
)
"""One row a certificate of the published rule that a patch can break, with how it is broken."""


class AuditError(RuntimeError):
    """A reassignment that should flip a prediction does not: a rule here is wrong."""


class Audit(NamedTuple):
    """One stride and patch.

    Attributes:
        stride: Distance of neighbouring ablations in pixels.
        patch_px: Side of the square patch in pixels.
        divides: Whether the stride divides the image's length along each bounded axis.
        delta_published: Touched ablations by the published formula.
        delta: Touched ablations in truth.
        images: Images of the run, those with an error included.
        published: Right images that the published rule certifies.
        uniform: Right images that the uniform rule certifies.
        exact: Right images that the exact rule certifies.
        wrongly: Images, right or wrong, that the published rule certifies and a patch can flip.
        flips: How, one row each (``FLIPS``).
    """

    stride: int
    patch_px: int
    divides: bool
    delta_published: int
    delta: int
    images: int
    published: int
    uniform: int
    exact: int
    wrongly: int
    flips: pa.Table


def audits(run: Run, strides: Sequence[int], sides: Sequence[int]) -> Iterator[Audit]:
    """Hold the published rule against the sound ones, from stored votes alone.

    Args:
        run: A run of bands or blocks at a stride.
        strides: Strides in pixels, answered from the stored votes.
        sides: Sides of square patches in pixels.

    Raises:
        ConfigError: The votes are of random positions, or do not answer a stride or a patch.
        AuditError: A reassignment does not flip its image.
    """
    run.check_fixed()
    votes = run.renumbered(run.votes.votes)
    for stride in strides:
        try:
            of_stride, ablation = coarser(votes, run.ablation, stride)
            for side in sides:
                yield _audit(run, of_stride, ablation, Patch.square(side))
        except ValueError as error:
            raise ConfigError(str(error)) from error


def _audit(run: Run, votes: VoteArray, ablation: Ablation, patch: Patch) -> Audit:
    problem = (votes, ablation, patch, run.num_classes)
    published, exact = published_margins(*problem) >= 0, exact_margins(*problem) >= 0
    uniform = uniform_margins(*problem) >= 0
    predictions = smoothed_predictions(votes, run.num_classes)
    right = run.votes.labels.accept(_original(run, predictions))
    lengths = ablation.lengths
    return Audit(
        stride=ablation.stride,
        patch_px=patch.width,
        divides=all(length % ablation.stride == 0 for length in lengths),
        delta_published=published_delta(ablation, patch),
        delta=ablation.max_touched(patch),
        images=run.manifest.execution.images,
        published=int((published & right).sum()),
        uniform=int((uniform & right).sum()),
        exact=int((exact & right).sum()),
        wrongly=int((published & ~exact).sum()),
        flips=_flips(run, problem, published & ~exact),
    )


def _flips(
    run: Run, problem: tuple[VoteArray, Ablation, Patch, int], chosen_n: BoolArray
) -> pa.Table:
    """For each chosen image a place of the patch and votes there that change its prediction."""
    votes, ablation, patch, classes = problem[0][chosen_n], *problem[1:]
    found = witnesses(votes, ablation, patch, classes)
    corners = np.stack([found.ys_n, found.xs_n], axis=1)
    after = rewrite(votes, ablation, patch, found.rivals_n, corners)
    ids = run.votes.ids[chosen_n]
    flipped = smoothed_predictions(after, classes) != found.predictions_n
    if not flipped.all():
        raise AuditError(
            f"image {ids[~flipped][0]}, stride {ablation.stride}, patch {patch}: the exact rule "
            "refuses it, but its worst rewriting changes nothing; this is a fault of patchcert, "
            "please report it"
        )
    touched = touched_at(ablation, patch, corners)
    pair = np.stack([found.predictions_n, found.rivals_n], axis=1)

    def counts(cast: VoteArray) -> list[list[int]]:
        rows: list[list[int]] = np.take_along_axis(vote_counts(cast, classes), pair, 1).tolist()
        return rows

    columns: list[Any] = [
        ids.tolist(),
        [ablation.stride] * len(ids),
        [patch.width] * len(ids),
        found.ys_n,
        found.xs_n,
        [np.flatnonzero(row).tolist() for row in touched],
        _original(run, found.predictions_n),
        _original(run, found.rivals_n),
        counts(votes),
        counts(after),
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, FLIPS, strict=True)]
    return pa.table(arrays, schema=FLIPS)


def _original(run: Run, classes_n: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The model's own class numbers."""
    allowed = run.manifest.defense.network.classes
    return classes_n if allowed is None else np.array(allowed)[classes_n]
