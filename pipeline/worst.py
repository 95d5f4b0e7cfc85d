"""Where a patch does the most harm to one image: the location behind a certificate's minimum."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.ablation import Ablation, IntArray, Patch


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


class _Touch:
    """How many of some chosen views a patch touches at every location."""

    def __init__(self, ablation: Ablation, patch: Patch) -> None:
        rows, columns = ablation.touched_grid(patch)
        # Floats are exact below 2^53 and have a fast matrix product, which integers lack.
        self.rows, self.columns = rows.astype(np.float64), columns.T.astype(np.float64)
        self.grid = ablation.grid

    def of(self, chosen_v: NDArray[np.bool_]) -> IntArray:
        """Chosen views touched; int (Ly, Lx)."""
        cells = np.zeros(self.grid.shape)
        cells.flat[self.grid.cells_v] = chosen_v
        counts: IntArray = (self.rows @ cells @ self.columns).astype(np.int64)
        return counts


def most_touched(ablation: Ablation, patch: Patch) -> WorstCase:
    """The first location at which the patch touches the most ablations.

    Raises:
        ValueError: The patch does not fit the image.
    """
    touched_yx = _Touch(ablation, patch).of(np.ones(len(ablation), dtype=bool))
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

    The same minimum as ``pipeline.certificates.exact``, which derives it, but for every location
    and with the rival that attains it.

    Args:
        votes_v: Class that each ablation voted for; int (V,).
        ablation: The views that voted.
        patch: Height and width of the patch.
        num_classes: Number of classes; those without a vote are rivals too.

    Raises:
        ValueError: The patch does not fit the image.
    """
    touch = _Touch(ablation, patch)
    counts = np.bincount(votes_v, minlength=num_classes)
    winner = int(counts.argmax())
    touched_yx = touch.of(np.ones(len(votes_v), dtype=bool))
    left_yx = counts[winner] - touch.of(votes_v == winner)
    # Of the classes without a vote the lowest is the strongest, since it wins ties.
    voteless = np.flatnonzero(counts == 0)[:1]
    rivals = [*np.flatnonzero(counts), *voteless]
    rivals.sort(key=lambda rival: (-counts[rival], rival))
    strongest_yx = np.full_like(touched_yx, -1)
    rival_yx = np.zeros_like(touched_yx)
    for rival in rivals:
        if rival == winner:
            continue
        if counts[rival] + 1 <= strongest_yx.min():
            break  # neither this one nor those after it can be the strongest anywhere
        strength_yx = counts[rival] - touch.of(votes_v == rival) + int(rival < winner)
        rival_yx[strength_yx > strongest_yx] = rival
        np.maximum(strongest_yx, strength_yx, out=strongest_yx)
    margin_yx = left_yx - strongest_yx - touched_yx
    row, column = np.unravel_index(margin_yx.argmin(), margin_yx.shape)
    rival = int(rival_yx[row, column])
    tie = int(rival < winner)
    return WorstCase(
        y=None if ablation.kind == "column" else int(row),
        x=None if ablation.kind == "row" else int(column),
        touched=int(touched_yx[row, column]),
        landscape_yx=margin_yx,
        margin=int(margin_yx[row, column]),
        prediction=winner,
        rival=rival,
        counts=(int(counts[winner]), int(counts[rival])),
        left=(int(left_yx[row, column]), int(strongest_yx[row, column]) - tie),
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
    verdict = "certified" if worst.margin >= 0 else "not certified"
    tie = ", which wins ties" if (worst.rival or 0) < (worst.prediction or 0) else ""
    colours = "Votes for the prediction are blue, for the rival pink."
    return (
        f"Prediction: {winner} ({worst.counts[0]} of {views} votes); closest rival: {rival} "
        f"({worst.counts[1]}). {hit}: at worst {worst.left[0]} votes against "
        f"{worst.left[1]} + {worst.touched}{tie}. Margin {worst.margin}: {verdict}. {colours}"
    )
