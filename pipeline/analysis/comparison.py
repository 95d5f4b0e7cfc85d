"""Two runs over the same images, image by image.

Two classifiers on the same images: how they differ, and how sure that is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.views.family import BoolArray, IntArray
from models.views.threats import Threat
from pipeline.analysis.agreement import Agreement, agreement, comparable
from pipeline.analysis.outcomes import Measure, Outcomes, outcomes_of
from pipeline.analysis.run import Run
from pipeline.certificates.rules import drawing_order, rule_named
from pipeline.config import ConfigError
from pipeline.runs.manifest import AS_GIVEN
from pipeline.scoring.claims import Claim
from pipeline.scoring.intervals import Proportion


@dataclass(frozen=True)
class Paired:
    """Counts of the images that two classifiers, of the same images, classify correctly.

    Attributes:
        both: Images that both have right.
        only_first: Images that only the first one has right.
        only_second: Images that only the second one has right.
        neither: Images that neither has right.
    """

    both: int
    only_first: int
    only_second: int
    neither: int

    def __post_init__(self) -> None:
        if min(self.both, self.only_first, self.only_second, self.neither) < 0:
            raise ValueError(f"{self}: a number of images is never below 0")

    @property
    def of(self) -> int:
        """Images compared."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def first(self) -> Proportion:
        """Share that the first has right."""
        return Proportion(self.both + self.only_first, self.of)

    @property
    def second(self) -> Proportion:
        """Share that the second has right."""
        return Proportion(self.both + self.only_second, self.of)

    @property
    def difference(self) -> float | None:
        """Share of the second minus that of the first, in [-1, 1]; None where there is no image."""
        return (self.only_second - self.only_first) / self.of if self.of else None

    def p_value(self) -> float:
        """Exact McNemar test that neither is better; two-sided.

        If neither is, each image on which they differ is as likely to favour one as the other, so
        the smaller of the two numbers is binomial with share 1/2. The p-value is the probability
        of a split at least as uneven, which is 1 where they never differ.

        Source: McNemar, "Note on the sampling error of the difference between correlated
            proportions", Psychometrika 1947, with the binomial tail in place of its approximation.
        """
        differ = self.only_first + self.only_second
        # It takes 2 s to import, which no other question need wait for.
        from scipy.stats import binomtest  # noqa: PLC0415

        return float(binomtest(self.only_first, differ).pvalue) if differ else 1.0

    def interval(self, confidence: float = 0.95) -> tuple[float, float] | None:
        """Newcombe's score interval of ``difference``; None where there is no image.

        The two Wilson intervals, squared and added, with their correlation: method 10 of the paper.
        Unlike the normal approximation it never leaves [-1, 1], has a width where the two never
        differ, and keeps its coverage for few images. It is another approximation than the exact
        test, so at the edge one may see a difference where the other does not.

        Source: Newcombe, "Improved confidence intervals for the difference between binomial
            proportions based on paired data", Statistics in Medicine 1998, method 10; recommended
            by Fagerland, Lydersen & Laake, Statistics in Medicine 2014.
        """
        first, second = self.first.interval(confidence), self.second.interval(confidence)
        if first is None or second is None or self.difference is None:
            return None
        share_1, share_2 = self.first.hits / self.of, self.second.hits / self.of
        below = _added(second[0] - share_2, first[1] - share_1, self._correlation())
        above = _added(second[1] - share_2, first[0] - share_1, self._correlation())
        return max(-1.0, self.difference - below), min(1.0, self.difference + above)

    def _correlation(self) -> float:
        """Phi of the 2 x 2 table, moved towards 0 by half an image a pair where it is positive."""
        margins = (
            self.first.hits * (self.of - self.first.hits),
            self.second.hits * (self.of - self.second.hits),
        )
        if not all(margins):
            return 0.0
        cross = float(self.both * self.neither - self.only_first * self.only_second)
        if cross > 0:
            cross = max(0.0, cross - self.of / 2)
        return cross / (math.sqrt(margins[0]) * math.sqrt(margins[1]))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        low, high = self.interval() or (None, None)
        return {
            "of": self.of,
            "both": self.both,
            "only_first": self.only_first,
            "only_second": self.only_second,
            "neither": self.neither,
            "first": self.first.value,
            "second": self.second.value,
            "difference": self.difference,
            "low": low,
            "high": high,
            "p_value": self.p_value(),
        }


def _added(one: float, other: float, correlation: float) -> float:
    """Half-width of a difference from the half-widths of its terms, whatever their signs."""
    one, other = abs(one), abs(other)
    squared = one * one - 2 * correlation * one * other + other * other
    return math.sqrt(max(0.0, squared))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Differences of two runs.

    Attributes:
        first: One run.
        second: The other.
        images: Labelled images that both have: the base of every figure.
        unlabelled: Images that both have and that have no label; they are left out.
        errors: Of ``images``, those with an error in the first and in the second run: wrong there.
        only: Images that only the first and that only the second run has.
        tables: By question, what either got right.
        votes: How far they cast the same votes; None where they vote on other ablations, or not for
            one class each.
        notes: What a reader must know beside the figures.
    """

    first: Run
    second: Run
    images: int
    unlabelled: int
    errors: tuple[int, int]
    only: tuple[int, int]
    tables: Mapping[Measure, Paired]
    votes: Agreement | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "first": self.first.run_id,
            "second": self.second.run_id,
            "images": self.images,
            "images_without_label": self.unlabelled,
            "images_with_error": list(self.errors),
            "images_only_in": list(self.only),
            "questions": [
                question.to_dict() | table.to_dict() for question, table in self.tables.items()
            ],
            "votes": self.votes and self.votes.to_dict(),
            "notes": list(self.notes),
        }


def compare(first: Run, second: Run, *, intersect: bool = False) -> Comparison:
    """Compare two runs on the images that both have, and vote by vote where they can be.

    Args:
        first: One run.
        second: The other; differences are the second minus the first.
        intersect: Leave out images that only one of them has, instead of refusing.

    Raises:
        ConfigError: It is one run, their images differ, or an image has two labels.
        ManifestError, StoreError: Votes or certificates are absent, incomplete or contradictory.
    """
    if first.run_id == second.run_id:
        raise ConfigError(f"run {first.run_id}: give two different runs to compare")
    one, other = outcomes_of(first), outcomes_of(second)
    places = pc.index_in(one.ids, other.ids.combine_chunks()).combine_chunks()
    shared = places.is_valid().to_numpy(zero_copy_only=False)
    in_other = places.drop_null().to_numpy().astype(np.int64)
    only = len(shared) - len(in_other), len(other.ids) - len(in_other)
    if not len(in_other) or (any(only) and not intersect):
        raise ConfigError(_different(one, other, shared, only))
    in_one = np.flatnonzero(shared)
    _check_labels(one, other, in_one, in_other)
    votes = agreement(one, other, in_one, in_other) if comparable(first, second) else None
    known = one.labels.known[in_one]
    in_one, in_other = in_one[known], in_other[known]
    return Comparison(
        first=first,
        second=second,
        images=len(in_one),
        unlabelled=int((~known).sum()),
        errors=(int(one.errors[in_one].sum()), int(other.errors[in_other].sum())),
        only=only,
        tables={
            question: _paired(first_n[in_one], second_n[in_other])
            for question, (first_n, second_n) in _common(one, other).items()
        },
        votes=votes,
        notes=tuple(_notes(one, other)),
    )


def _paired(first: BoolArray, second: BoolArray) -> Paired:
    counts = np.bincount(2 * ~first + ~second, minlength=4)
    return Paired(*map(int, counts))


def _different(one: Outcomes, other: Outcomes, shared: BoolArray, only: tuple[int, int]) -> str:
    """Describe runs over different images."""
    here = one.ids.filter(pa.array(~shared))
    there = other.ids.filter(pc.invert(pc.is_in(other.ids, one.ids.combine_chunks())))
    parts = [
        f"{count} only in {outcomes.run.run_id} (such as {ids[0]})"
        for count, ids, outcomes in ((only[0], here, one), (only[1], there, other))
        if count
    ]
    both = int(shared.sum())
    remedy = f"--intersect compares the {both} that both have" if both else "they share none"
    return f"the runs are over different images: {', '.join(parts)}; {remedy}"


def _check_labels(one: Outcomes, other: Outcomes, in_one: IntArray, in_other: IntArray) -> None:
    """Refuse images that have another label in the other run.

    Raises:
        ConfigError: Naming the first of them.
    """
    mine, theirs = one.labels.classes[in_one], other.labels.classes[in_other]
    width = max(mine.shape[1], theirs.shape[1])
    mine, theirs = (
        np.sort(np.pad(given, ((0, 0), (0, width - given.shape[1])), constant_values=-1), axis=1)
        for given in (mine, theirs)
    )
    differs = (mine != theirs).any(axis=1)
    if differs.any():
        image = int(differs.argmax())
        classes = [
            f"{[int(label) for label in labels[image] if label >= 0] or 'none'} in {run.run_id}"
            for labels, run in ((mine, one.run), (theirs, other.run))
        ]
        raise ConfigError(
            f"{int(differs.sum())} images have other labels in the two runs, the first being "
            f"{one.ids[int(in_one[image])]} ({' and '.join(classes)}): they are not the same task"
        )


def _common(one: Outcomes, other: Outcomes) -> dict[Measure, tuple[BoolArray, BoolArray]]:
    """The images that either run has right, by question that both answer, in order.

    Where they certify the same threat, and by no rule in common, each by its own.
    """
    found = {
        question: (one.right[question], other.right[question])
        for question in one.right.keys() & other.right.keys()
    }
    if _grid(one.run) != _grid(other.run):
        found = {question: both for question, both in found.items() if question.claim is None}
    elif one.run.views.hides or other.run.views.hides:
        shared = {
            (question.claim.threat, _kind(question.claim)) for question in found if question.claim
        }
        first, second = _own(one), _own(other)
        for key in (first.keys() & second.keys()) - shared:
            mine, theirs = first[key], second[key]
            certified = [
                outcomes.right[Measure("certified", claim)]
                for outcomes, claim in ((one, mine), (other, theirs))
            ]
            clean = one.answer(mine), other.answer(theirs)
            found[Measure("clean", mine, theirs)] = clean
            found[Measure("certified", mine, theirs)] = certified[0], certified[1]
    return dict(sorted(found.items(), key=lambda item: item[0].order))


def _own(outcomes: Outcomes) -> dict[tuple[Threat, str], Claim]:
    """The claim of a run's tightest rule, by threat and kind of rule."""
    order = drawing_order()
    claims = [
        question.claim
        for question in outcomes.unattacked
        if question.claim and question.claim.stride is None
    ]
    # The tightest rule last, and of it the decision for the threat itself and of all views.
    claims.sort(
        key=lambda claim: (
            -order.index(claim.rule),
            claim.assumes == claim.threat,
            claim.tau is None,
        )
    )
    return {(claim.threat, _kind(claim)): claim for claim in claims}


def _kind(claim: Claim) -> str:
    """The promise of a rule of this kind: an answer that stays, or an alert, and how surely."""
    if claim.confidence is not None:
        return f"confidence {claim.confidence}"
    return "alert" if rule_named(claim.rule).alerts else "answer"


def _grid(run: Run) -> tuple[int, int, int]:
    return run.views.height, run.views.width, run.views.pixel_scale


def _notes(one: Outcomes, other: Outcomes) -> list[str]:
    notes = []
    data = [outcomes.run.manifest.data.fingerprint for outcomes in (one, other)]
    if data[0] != data[1]:
        notes.append(
            "the files of the two runs are not the same (their fingerprints differ); image ids and "
            "labels are"
        )
    notes += [
        f"run {outcomes.run.run_id}: {AS_GIVEN}"
        for outcomes in (one, other)
        if outcomes.run.manifest.imported
    ]
    grids = _grid(one.run), _grid(other.run)
    if grids[0] != grids[1]:
        sizes = " and ".join(f"{h}x{w} px of {scale}x{scale} model px" for h, w, scale in grids)
        notes.append(f"certificates are not compared: patches are measured on grids of {sizes}")
    elif not any(question.claim for question in _common(one, other)):
        notes.append(
            "they have no certificate in common: run `patchcert certify` on both with equal --patch"
        )
    return notes
