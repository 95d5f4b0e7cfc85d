"""Agreement of two runs, vote by vote, and the gaps of logits where they differ.

Shapes: N images, V votes an image.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.views.family import IntArray
from pipeline.analysis.outcomes import Outcomes, by_unit
from pipeline.analysis.run import Run
from pipeline.runs.rows import votes_array
from pipeline.storage.tables import plain

# Votes of the first run held at once; of the second, those of one unit are.
_BLOCK_VOTES = 1 << 24
# Every float16; gaps are never negative, so they have the order of their bits.
_FLOATS = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


class Place(NamedTuple):
    """One ablation of one image.

    Attributes:
        image_id: The image.
        ablation: Number of the ablation.
        y: Upper edge of what it shows, in pixels of the attacker's grid; 0 for columns, None for a
            view that hides.
        x: Left edge; 0 for rows.
        first: Class that the first run votes for there.
        second: Class that the second run votes for.
    """

    image_id: str
    ablation: int
    y: int | None
    x: int | None
    first: int
    second: int


@dataclass(frozen=True, kw_only=True)
class DisputedGaps:
    """Gaps of one run at the ablations where the other votes for another class.

    A gap is the largest logit less the second largest. Stored as float16 and rounded towards zero,
    it is at most the true one, which in turn is less than the next float16.

    Attributes:
        run: The run whose gaps these are.
        median: Of its stored gaps at the ablations where the votes differ.
        largest: The largest of them.
        below: Each of its true gaps there is less than this.
        where: Where the largest is; of several one.
        as_near: Compared ablations whose stored gap is at most ``largest``, differing or not: how
            much the bound leaves open.
    """

    run: Run
    median: float
    largest: float
    below: float
    where: Place
    as_near: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        numbers = {name: getattr(self, name) for name in ("median", "largest", "below", "as_near")}
        return {
            "run_id": self.run.run_id,
            "dtype": self.run.dtype,
            **plain(numbers),
            "where": self.where._asdict(),
        }


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of two runs on the images that both voted on, labelled or not.

    Attributes:
        images: Those images.
        ablations: Votes that both runs cast on them.
        equal: Those of them that are for the same class in both.
        images_differ: Images with a vote that differs.
        predictions_differ: Images whose smoothed prediction differs; None of views that hide, where
            the class with most votes answers nothing.
        gaps: Where votes differ; None where none does, or neither run stored gaps.
    """

    images: int = 0
    ablations: int = 0
    equal: int = 0
    images_differ: int = 0
    predictions_differ: int | None = 0
    gaps: DisputedGaps | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        counts = {name: value for name, value in vars(self).items() if name != "gaps"}
        return {
            **counts,
            "share_equal": self.equal / self.ablations if self.ablations else None,
            "gaps_where_they_differ": self.gaps and self.gaps.to_dict(),
        }


def comparable(first: Run, second: Run) -> bool:
    """Check that two runs vote on the same ablations, for one class each."""
    one, other = first.manifest.defense, second.manifest.defense
    single = not (one.voting.vote_sets or other.voting.vote_sets)
    # Positions drawn for an image follow from its id, their number and a seed.
    drawn = [(voting.draws, voting.draw_seed) for voting in (one.voting, other.voting)]
    return single and one.views == other.views and drawn[0] == drawn[1]


def agreement(one: Outcomes, other: Outcomes, in_one: IntArray, in_other: IntArray) -> Agreement:
    """Compare two runs vote by vote, in memory that does not grow with the images.

    Args:
        one: Of one run.
        other: Of the other; the two are ``comparable``.
        in_one: Images of the first that both have, ascending; int (N,).
        in_other: The same images of the second; int (N,).

    Raises:
        StoreError: Votes are absent or incomplete.
    """
    voted = ~one.errors[in_one] & ~other.errors[in_other]
    in_one, in_other = in_one[voted], in_other[voted]
    stored = [outcomes for outcomes in (one, other) if outcomes.run.manifest.defense.voting.gaps]
    # Of float32 if there is one: the others approximate it.
    of_gaps = min(stored, key=lambda outcomes: outcomes.run.dtype != "float32", default=None)
    count = _Count()
    for images, first, second in _pairs(one, other, in_one, in_other, of_gaps):
        count.add(images, first, second)
    return count.agreement(one, None if of_gaps is None else of_gaps.run)


class _Ballots(NamedTuple):
    """Votes (N, V), smoothed predictions (N,), and gaps (N, V) where they are wanted.

    A vote of -1 was not cast.
    """

    votes: NDArray[np.int32]
    predictions: IntArray
    gaps: NDArray[np.float16] | None

    def take(self, rows: IntArray) -> "_Ballots":
        gaps = None if self.gaps is None else self.gaps[rows]
        return _Ballots(self.votes[rows], self.predictions[rows], gaps)


def _pairs(
    one: Outcomes, other: Outcomes, in_one: IntArray, in_other: IntArray, of_gaps: Outcomes | None
) -> Iterator[tuple[IntArray, _Ballots, _Ballots]]:
    """Images of the first run with their ballots in both, a unit of the second at a time."""
    step = max(1, _BLOCK_VOTES // one.run.manifest.defense.votes_per_image)
    for start in range(0, len(in_one), step):
        mine, theirs = in_one[start : start + step], in_other[start : start + step]
        block = _read(one, mine, gaps=of_gaps is one)
        for _, places in by_unit(other.units[theirs]):
            second = _read(other, theirs[places], gaps=of_gaps is other)
            yield mine[places], block.take(places), second


def _read(outcomes: Outcomes, images: IntArray, *, gaps: bool) -> _Ballots:
    """The ballots of images that could be voted on, in order; of several units, ascending."""
    manifest, names = outcomes.run.manifest, ["votes", "prediction", *(["gaps"] if gaps else [])]
    parts = list(outcomes.tables(images, names))
    return _Ballots(
        np.concatenate([votes_array(part, manifest.defense).astype(np.int32) for part in parts]),
        np.concatenate([part["prediction"].to_numpy().astype(np.int64) for part in parts]),
        np.concatenate([_gaps(part) for part in parts]) if gaps else None,
    )


def _gaps(rows: pa.Table) -> NDArray[np.float16]:
    cells = rows["gaps"].combine_chunks().flatten()
    flat: NDArray[np.float16] = cells.to_numpy(zero_copy_only=False).astype(np.float16)
    return flat.reshape(rows.num_rows, -1)


class _Count:
    """Sums over pairs of ballots; gaps as the numbers of each float16, so that none is kept."""

    def __init__(self) -> None:
        self.found = Agreement()
        self.all, self.disputed = (np.zeros(len(_FLOATS), np.int64) for _ in range(2))
        # Bits of the largest gap where votes differ, image of the first run, number of the vote,
        # and the two votes.
        self.largest = (-1, 0, 0, 0, 0)

    def add(self, images: IntArray, first: _Ballots, second: _Ballots) -> None:
        """Count some images of the first run, and their ballots in both."""
        cast = (first.votes >= 0) & (second.votes >= 0)
        differ = cast & (first.votes != second.votes)
        self.found = Agreement(
            images=self.found.images + len(images),
            ablations=self.found.ablations + int(cast.sum()),
            equal=self.found.equal + int((cast & ~differ).sum()),
            images_differ=self.found.images_differ + int(differ.any(axis=1).sum()),
            predictions_differ=(self.found.predictions_differ or 0)
            + int((first.predictions != second.predictions).sum()),
        )
        gaps = second.gaps if first.gaps is None else first.gaps
        if gaps is None:
            return
        bits = gaps.view(np.uint16)
        self.all += np.bincount(bits[cast], minlength=len(_FLOATS))
        self.disputed += np.bincount(bits[differ], minlength=len(_FLOATS))
        row, slot = np.unravel_index(np.where(differ, bits.astype(int), -1).argmax(), bits.shape)
        if differ[row, slot] and bits[row, slot] > self.largest[0]:
            votes = int(first.votes[row, slot]), int(second.votes[row, slot])
            self.largest = int(bits[row, slot]), int(images[row]), int(slot), *votes

    def agreement(self, one: Outcomes, of_gaps: Run | None) -> Agreement:
        """Return the counts.

        Args:
            one: Of the first run.
            of_gaps: The run whose gaps were counted, if any.
        """
        if one.run.views.hides:
            self.found = replace(self.found, predictions_differ=None)
        disputed = int(self.disputed.sum())
        if of_gaps is None or not disputed:
            return self.found
        bits, image, slot, first, second = self.largest
        below = np.cumsum(self.disputed)
        middle = [_FLOATS[np.searchsorted(below, rank + 1)] for rank in _middle(disputed)]
        gaps = DisputedGaps(
            run=of_gaps,
            median=float(np.mean(middle, dtype=np.float64)),
            largest=float(_FLOATS[bits]),
            below=float(np.nextafter(_FLOATS[bits], np.float16(np.inf))),
            where=_place(one, image, slot, first, second),
            as_near=int(self.all[: bits + 1].sum()),
        )
        return replace(self.found, gaps=gaps)


def _middle(count: int) -> tuple[int, int]:
    """Ranks of the one or two values in the middle."""
    return (count - 1) // 2, count // 2


def _place(one: Outcomes, image: int, slot: int, first: int, second: int) -> Place:
    ablation = slot
    if one.run.manifest.defense.voting.draws is not None:
        (row,) = one.tables(np.array([image]), ["views"])
        ablation = row["views"][0].as_py()[slot]
    corner: tuple[int | None, int | None] = (None, None)
    if not one.run.views.hides:
        y, x = one.run.ablation.positions[ablation].tolist()
        corner = y, x
    return Place(one.ids[image].as_py(), ablation, *corner, first, second)
