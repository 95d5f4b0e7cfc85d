"""Where a patch does the most harm to one image: the location behind a certificate's minimum."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.ablation import Ablation, BoolArray, IntArray, Patch
from pipeline.certificates.landscape import landscapes, touched_counts
from pipeline.certificates.witness import touched_at


@dataclass(frozen=True, kw_only=True)
class WorstCase:
    """The worst location of a patch, of all those where it can lie.

    Attributes:
        y: Upper edge in pixels of the attacker's grid; None where the ablations cannot tell.
        x: Left edge, likewise.
        touched: Ablations that the patch touches there.
        landscape_yx: What was minimised or maximised, at every location; int (Ly, Lx).
        margin: Exact margin; None where no votes were given. Certified iff >= 0.
        prediction: Smoothed prediction; None likewise.
        rival: The class that comes closest there; None likewise.
        counts: Votes of prediction and rival before the attack.
        left: Those outside the touched ablations.
    """

    y: int | None
    x: int | None
    touched: int
    landscape_yx: IntArray
    margin: int | None = None
    prediction: int | None = None
    rival: int | None = None
    counts: tuple[int, int] = (0, 0)
    left: tuple[int, int] = (0, 0)


def most_touched(ablation: Ablation, patch: Patch) -> WorstCase:
    """The first location at which the patch touches the most ablations.

    Raises:
        ValueError: The patch does not fit the image.
    """
    touched_yx = touched_counts(ablation, patch)
    row, column = np.unravel_index(touched_yx.argmax(), touched_yx.shape)
    return WorstCase(
        y=None if ablation.kind == "column" else int(row),
        x=None if ablation.kind == "row" else int(column),
        touched=int(touched_yx[row, column]),
        landscape_yx=touched_yx,
    )


def smallest_margin(
    votes_v: IntArray, ablation: Ablation, patch: Patch, num_classes: int
) -> WorstCase:
    """The first location at which the exact margin of one image's votes is smallest.

    Args:
        votes_v: Class that each ablation voted for; int (V,).
        ablation: The views that voted.
        patch: Height and width of the patch.
        num_classes: Number of classes; those without a vote are rivals too.

    Raises:
        ValueError: The patch does not fit the image.
    """
    ((_, found),) = landscapes(votes_v[None], ablation, patch, num_classes)
    winner, margin_yx = int(found.predictions_n[0]), found.margins_nyx[0]
    row, column = np.unravel_index(margin_yx.argmin(), margin_yx.shape)
    rival = int(found.rivals_nyx[0, row, column])
    touched_v = touched_at(ablation, patch, np.array([[row, column]]))[0]

    def votes_of(chosen_v: BoolArray) -> tuple[int, int]:
        counts = np.bincount(votes_v[chosen_v], minlength=num_classes)
        return int(counts[winner]), int(counts[rival])

    return WorstCase(
        y=None if ablation.kind == "column" else int(row),
        x=None if ablation.kind == "row" else int(column),
        touched=int(touched_v.sum()),
        landscape_yx=margin_yx.astype(np.int64),
        margin=int(margin_yx[row, column]),
        prediction=winner,
        rival=rival,
        counts=votes_of(np.ones_like(touched_v)),
        left=votes_of(~touched_v),
    )


def caption_of(patch: Patch, worst: WorstCase, names: Sequence[str], views: int) -> str:
    """What the picture says, in words.

    Args:
        patch: The patch.
        worst: Its worst location.
        names: Names of the prediction and the rival; empty without votes.
        views: Number of ablations.
    """
    edges = (("x", worst.x), ("y", worst.y))
    known = [f"{axis} = {value}" for axis, value in edges if value is not None]
    at = ", ".join(known) + (" (wherever along the bands)" if len(known) == 1 else "")
    hit = f"The patch of {patch} at {at} touches {worst.touched} of {views} ablations"
    if worst.margin is None:
        return f"{hit}, the most of all its locations."
    winner, rival = names
    tie = f" - 1, since {rival} wins ties" if (worst.rival or 0) < (worst.prediction or 0) else ""
    votes = f"{abs(worst.margin)} vote{'' if abs(worst.margin) == 1 else 's'}"
    verdict = f"{votes} to spare, certified" if worst.margin >= 0 else f"{votes} short, uncertified"
    return (
        f"Prediction: {winner} ({worst.counts[0]} of {views} votes); closest rival: {rival} "
        f"({worst.counts[1]}). {hit}: at worst {worst.left[0]} - "
        f"({worst.left[1]} + {worst.touched}){tie}: {verdict}."
    )
