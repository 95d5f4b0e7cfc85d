"""Everything that the page says of one run, as plain values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from pipeline.claims import Questions, own_stride
from pipeline.config import ConfigError
from pipeline.intervals import Proportion
from pipeline.manifest import Manifest, flatten
from pipeline.questions.classes import ClassRow, by_class, class_names, columns
from pipeline.questions.heatmap import BreakingMap, breaking_maps
from pipeline.questions.outcomes import Outcomes, Question, outcomes_of
from pipeline.questions.run import Run
from pipeline.report.page.certified import CertifiedTable, certified_table
from pipeline.report.page.cost import Cost, cost_of
from pipeline.report.page.focus import Focus, focus_of
from pipeline.report.page.gallery import Gallery, gallery_of
from pipeline.report.page.margins import MarginCounts, margin_counts
from pipeline.report.page.missing import Missing, unless_refused
from pipeline.report.page.pixels import data_uri, pixels_of
from pipeline.report.page.trade_off import detection_curve


@dataclass(frozen=True)
class ClassTable:
    """Accuracies of each class.

    Attributes:
        questions: The columns.
        rows: A class each, with its name.
        named: Whether the names are more than numbers.
    """

    questions: Sequence[Question]
    rows: Sequence[tuple[str, ClassRow]]
    named: bool


class CurveTable(NamedTuple):
    """Certified accuracy by patch size, in numbers.

    Attributes:
        rules: The columns.
        rows: Sides in pixels with a share a rule, as plain JSON.
    """

    rules: Sequence[str]
    rows: Sequence[tuple[int, Sequence[Mapping[str, Any]]]]


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """One run.

    Attributes:
        letter: How the page calls it beside others.
        run: The run.
        summary: Its summary.
        focus: The certificates of which there are details.
        margins: How far they are from failing.
        detection: What an alert makes of attacks.
        classes: Every class.
        places: Where a patch breaks most images, a map a patch.
        gallery: Some images.
        cost: Of the voting.
        settings: The manifest's identity, with dotted names.
        records: What else it records.
    """

    letter: str
    run: Run
    summary: Mapping[str, Any]
    focus: Focus | Missing
    margins: MarginCounts | Missing
    detection: Mapping[str, Any] | Missing
    classes: ClassTable | Missing
    places: Sequence[BreakingMap] | Missing
    gallery: Gallery | Missing
    cost: Cost | Missing
    settings: Mapping[str, Any]
    records: Mapping[str, Any]

    @property
    def manifest(self) -> Manifest:
        """What determined the votes."""
        return self.run.manifest

    @property
    def labelled(self) -> int:
        """Images that every accuracy is a share of."""
        return int(self.summary["images"] - self.summary["images_without_label"])

    @property
    def probabilistic(self) -> bool:
        """Whether its certificates are about the ideal classifier, with a confidence."""
        return self.manifest.draws is not None

    @property
    def own_stride(self) -> int | None:
        """The stride of its own ablations; None for random positions."""
        return own_stride(self.manifest)

    @property
    def certified(self) -> CertifiedTable:
        """Every certified accuracy."""
        return certified_table(self.summary)

    @property
    def curve_table(self) -> CurveTable | None:
        """The numbers of its curves; None where there are none."""
        curves = {rule: curve_of(self.summary, rule) for rule in ("exact", "uniform")}
        drawn = {rule: curve for rule, curve in curves.items() if curve}
        rows = [
            (points[0][0], [share.to_dict() for _, share in points])
            for points in zip(*drawn.values(), strict=True)
        ]
        return CurveTable(list(drawn), rows) if rows else None

    @property
    def squares(self) -> tuple[Mapping[str, Any], ...]:
        """Entries of the summary for squares under the rule in focus, by size."""
        if isinstance(self.focus, Missing):
            return ()
        wanted = self.focus.claim.to_dict()
        same = ("rule", "top_k", "stride", "confidence")
        return tuple(
            entry
            for entry in self.summary["certified_accuracy"]
            if entry["patch_px"] is not None and all(entry[k] == wanted[k] for k in same)
        )

    @property
    def central(self) -> Mapping[str, Any] | None:
        """The one of them of which there are details."""
        if isinstance(self.focus, Missing):
            return None
        threat = str(self.focus.claim.threat)
        return next(entry for entry in self.squares if entry["threat"] == threat)


def chapter_of(run: Run, letter: str, *, images: bool = True, data: str | None = None) -> Chapter:
    """Gather what is known of a run.

    Args:
        run: The run, certified.
        letter: How to call it.
        images: Whether to look for the pictures.
        data: Where they lie now; None for where they lay.

    Raises:
        ConfigError: It has not been certified.
        ManifestError, StoreError: Votes or certificates are absent, incomplete or contradictory.
    """
    summary = _summary_of(run)
    names = class_names(run.manifest)

    def name_of(label: int) -> str:
        return names[label] if label < len(names) else f"class {label}"

    cast = summary.get("decide", {}).get("votes_cast")
    outcomes = outcomes_of(run)
    focus = unless_refused(lambda: focus_of(run.manifest, summary))

    def of_focus(answer: Callable[[Focus], Any]) -> Any:
        return focus if isinstance(focus, Missing) else unless_refused(lambda: answer(focus))

    gallery = of_focus(lambda given: gallery_of(outcomes, given.claim, name_of))
    if isinstance(gallery, Gallery):
        gallery = _with_pictures(run, gallery, data, wanted=images)
    return Chapter(
        letter=letter,
        run=run,
        summary=summary,
        focus=focus,
        margins=of_focus(lambda given: margin_counts(outcomes, given.claim)),
        detection=of_focus(lambda given: detection_curve(run, summary, given.claim)),
        classes=of_focus(lambda given: _class_table(outcomes, given, name_of, named=bool(names))),
        places=of_focus(lambda given: breaking_maps(run, given.threats)),
        gallery=gallery,
        cost=unless_refused(lambda: cost_of(run.manifest, cast)),
        settings=flatten(run.manifest.identity),
        records=flatten(run.manifest.execution),
    )


def _summary_of(run: Run) -> dict[str, Any]:
    try:
        summary = run.summary
        Questions.from_summary(summary or {})
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"run {run.run_id} has no certificates yet; `patchcert certify --run-id {run.run_id}` "
            "computes them"
        ) from error
    assert summary is not None, "an empty one answers nothing"
    return summary


def _class_table(
    outcomes: Outcomes, focus: Focus, name_of: Callable[[int], str], *, named: bool
) -> ClassTable:
    questions = columns(outcomes, focus.threats, focus.claim.rule)
    rows = by_class(outcomes)
    if not rows:
        raise ConfigError(f"run {outcomes.run.run_id}: no image has a label")
    return ClassTable(questions, [(name_of(row.label), row) for row in rows], named)


def _with_pictures(run: Run, gallery: Gallery, data: str | None, *, wanted: bool) -> Gallery:
    """The gallery with its pictures, or with why there are none."""
    if not wanted:
        return replace(gallery, pictureless="no pictures were asked for")
    ids = [shown.image_id for shown in gallery.images]
    pixels = unless_refused(lambda: pixels_of(run, ids, data))
    if isinstance(pixels, Missing):
        return replace(gallery, pictureless=pixels.reason)
    pictures = zip(gallery.images, pixels, strict=True)
    return replace(
        gallery, images=tuple(replace(shown, source=data_uri(one)) for shown, one in pictures)
    )


def curve_of(summary: Mapping[str, Any], rule: str) -> list[tuple[int, Proportion]]:
    """Certified accuracy against every square up to the first that leaves nothing.

    Empty where the largest certified squares were not asked for, or nothing has a label.
    """
    largest = summary.get("largest") or {}
    if not largest.get("of"):
        return []
    hits = largest["hits"].get(rule, [])
    sides = largest["patch_px"][: len(hits)]
    return [
        (side, Proportion(count, largest["of"])) for side, count in zip(sides, hits, strict=True)
    ]
