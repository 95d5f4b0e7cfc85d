"""Contents of the page about one run, as plain values."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from models.views.threats import Threat
from pipeline.analysis.classes import ClassRow, by_class, class_names, columns
from pipeline.analysis.heatmap import BreakingMap, breaking_maps
from pipeline.analysis.outcomes import Measure, Outcomes, outcomes_of
from pipeline.analysis.run import Run
from pipeline.certificates.rules import drawing_order
from pipeline.config import ConfigError
from pipeline.report.page.gallery import Gallery, gallery_of, pictured, pixels_of
from pipeline.report.page.margins import MarginCounts, detection_curve, margin_counts
from pipeline.report.plots import CURVES, curve_of
from pipeline.runs.manifest import Manifest, flatten
from pipeline.runs.schema import CertifiedEntry, DetectionCurve, Summary
from pipeline.scoring.claims import Claim, Claims
from pipeline.scoring.source import notes
from pipeline.scoring.words import other_size
from pipeline.sources.base import SourceError

T = TypeVar("T")


@dataclass(frozen=True)
class Missing:
    """Reason for the lack of a part.

    Attributes:
        reason: In words, with the remedy, as the command of the same question would say it.
    """

    reason: str


def unless_refused(answer: Callable[[], T]) -> T | Missing:
    """Return the answer, or the words in which it was refused.

    Damaged or incomplete results (StoreError, ManifestError) are no refusals: they end the job.
    """
    try:
        return answer()
    except (ConfigError, SourceError) as error:
        return Missing(str(error))


@dataclass(frozen=True)
class Focus:
    """The certificates of one rule against squares.

    Attributes:
        claims: Up to three, by size: the smallest, the middle and the largest that was asked for.
        claim: The middle one, of which details are shown.
    """

    claims: tuple[Claim, ...]
    claim: Claim

    @property
    def threats(self) -> tuple[Threat, ...]:
        """The squares."""
        return tuple(claim.threat for claim in self.claims)


class CertifiedRow(NamedTuple):
    """The answers of all rules to one question.

    Attributes:
        question: A claim; its rule aside, all entries have it.
        entries: Of the summary, by rule; a rule may not have been asked.
    """

    question: CertifiedEntry
    entries: Mapping[str, CertifiedEntry]


class CertifiedTable(NamedTuple):
    """Every certified accuracy of a summary.

    Attributes:
        rules: The columns.
        rows: A question each, in the summary's order.
    """

    rules: Sequence[str]
    rows: Sequence[CertifiedRow]


@dataclass(frozen=True)
class Cost:
    """Cost of the voting alone: certificates need no network.

    Attributes:
        images: Images of the run.
        votes: Forward passes of ablations.
        seconds: Wall-clock time of voting, reading and decoding included, summed over resumes.
        device: Device that computed.
        cpu_hours: Hours of all CPUs of the machine that started the job, busy or not.
        gpu_hours: Hours of all actors' GPUs; None without GPUs or where their number is not known.
    """

    images: int
    votes: int
    seconds: float
    device: str
    cpu_hours: float | None
    gpu_hours: float | None

    @property
    def images_per_second(self) -> float:
        """Images voted on in a second."""
        return self.images / self.seconds

    @property
    def votes_per_second(self) -> float:
        """Votes cast in a second."""
        return self.votes / self.seconds


@dataclass(frozen=True)
class ClassTable:
    """Accuracies of each class.

    Attributes:
        questions: The columns.
        rows: A class each, with its name.
        named: True if the names are more than numbers.
    """

    questions: Sequence[Measure]
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
        letter: Its name on the page beside other runs.
        run: The run.
        summary: Its summary.
        focus: The certificates of which there are details.
        margins: Their distance from failing.
        detection: Attacks that an alert detects.
        classes: Every class.
        places: Locations at which a patch breaks most images, a map a patch.
        gallery: Some images.
        cost: Of the voting.
        settings: The manifest's identity, with dotted names.
        records: The rest of the manifest.
    """

    letter: str
    run: Run
    summary: Summary
    focus: Focus | Missing
    margins: MarginCounts | Missing
    detection: DetectionCurve | Missing
    classes: ClassTable | Missing
    places: Sequence[BreakingMap] | Missing
    gallery: Gallery | Missing
    cost: Cost | Missing
    settings: Mapping[str, Any]
    records: Mapping[str, Any]

    @property
    def manifest(self) -> Manifest:
        """The record of all that determined the votes."""
        return self.run.manifest

    @property
    def labelled(self) -> int:
        """Images that every accuracy is a share of."""
        return int(self.summary["images"] - self.summary["images_without_label"])

    @property
    def probabilistic(self) -> bool:
        """True if its certificates are about the ideal classifier, with a confidence."""
        return self.manifest.defense.voting.draws is not None

    @property
    def own_stride(self) -> int | None:
        """The stride of its own ablations; None for random positions."""
        return self.manifest.defense.own_stride

    @property
    def certified(self) -> CertifiedTable:
        """Every certified accuracy."""
        return certified_table(self.summary)

    @property
    def on_grid(self) -> list[str]:
        """What patches on the source picture come to on the grid, in sentences."""
        views = self.run.views
        return notes(self.summary["certified_accuracy"], (), (views.height, views.width))

    @property
    def early_exit(self) -> bool:
        """True where only some views were asked of some images."""
        return self.manifest.defense.voting.early_exit

    @property
    def curve_table(self) -> CurveTable | None:
        """The numbers of its curves; None where there are none."""
        curves = {rule: curve_of(self.summary, rule) for rule in CURVES}
        drawn = {rule: curve for rule, curve in curves.items() if curve}
        rows = [
            (points[0][0], [share.to_dict() for _, share in points])
            for points in zip(*drawn.values(), strict=True)
        ]
        return CurveTable(list(drawn), rows) if rows else None

    @property
    def squares(self) -> tuple[CertifiedEntry, ...]:
        """Entries of the summary for squares under the rule in focus, by size."""
        if isinstance(self.focus, Missing):
            return ()
        wanted = self.focus.claim
        return tuple(
            entry
            for entry in self.summary["certified_accuracy"]
            if entry["patch_px"] is not None and _kind(Claim.from_dict(entry)) == _kind(wanted)
        )

    @property
    def central(self) -> CertifiedEntry | None:
        """The one of them of which there are details."""
        if isinstance(self.focus, Missing):
            return None
        threat = str(self.focus.claim.threat)
        return next(entry for entry in self.squares if entry["threat"] == threat)


def _kind(claim: Claim) -> tuple[Any, ...]:
    """A claim but for its threat, and for a decision that assumes that very threat."""
    assumes = "itself" if claim.assumes == claim.threat else claim.assumes
    return claim.rule, claim.top_k, claim.stride, claim.confidence, claim.tau, assumes


def chapter_of(run: Run, letter: str, *, images: bool = True, data: str | None = None) -> Chapter:
    """Gather what is known of a run.

    Args:
        run: The run, certified.
        letter: Its name on the page.
        images: Look for the pictures.
        data: Present place of the images; None for the recorded one.

    Raises:
        ConfigError: It has not been certified.
        ManifestError, StoreError: Votes or certificates are absent, incomplete or contradictory.
    """
    summary = _summary_of(run)
    names = class_names(run.manifest)

    def name_of(label: int) -> str:
        return names[label] if label < len(names) else f"class {label}"

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
        cost=unless_refused(lambda: cost_of(run.manifest, _votes_cast(summary))),
        settings=flatten(run.manifest.identity),
        records=flatten(run.manifest.execution.to_dict()),
    )


def _votes_cast(summary: Summary) -> int | None:
    """Votes of a run that did not ask all views; None of one that did."""
    asked = summary.get("views_asked")
    if asked is None:
        return None
    return round(asked * (summary["images"] - summary["images_with_error"]))


def _summary_of(run: Run) -> Summary:
    try:
        summary = run.summary
        Claims.from_summary(summary or {})
        missing = Summary.__required_keys__ - (summary or {}).keys()
        if missing:  # an older program wrote it
            raise KeyError(*missing)
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
    return pictured(run, gallery, pixels)


def focus_of(manifest: Manifest, summary: Summary) -> Focus:
    """The certificates to look at, of the run's own ablations.

    Raises:
        ConfigError: The run has none against a square.
    """
    claims = [Claim.from_dict(entry) for entry in summary["certified_accuracy"]]
    squares = [
        claim
        for claim in claims
        if claim.threat.side is not None
        and claim.top_k == 1
        and claim.stride == manifest.defense.own_stride
    ]
    certified_by = {claim.rule for claim in squares}
    rule = next((rule for rule in drawing_order() if rule in certified_by), None)
    if rule is None:
        raise ConfigError(
            f"run {manifest.run_id} has no certificate against a square patch; "
            "`patchcert certify --patch ...` computes one"
        )
    # A later claim of the same square, at another confidence, says it again.
    asked = [claim for claim in squares if claim.rule == rule]
    # The decision in which every view has a say, where it was asked.
    kind = _kind(max(reversed(asked), key=lambda claim: claim.tau is None))
    of_rule = {claim.threat: claim for claim in asked if _kind(claim) == kind}
    ordered = [of_rule[threat] for threat in sorted(of_rule, key=lambda threat: threat.order)]
    middle = len(ordered) // 2
    shown = sorted({0, middle, len(ordered) - 1})
    return Focus(tuple(ordered[place] for place in shown), ordered[middle])


def certified_table(summary: Summary) -> CertifiedTable:
    """The certified accuracies of a summary."""
    rows: dict[tuple[Any, ...], dict[str, CertifiedEntry]] = {}
    for entry in summary["certified_accuracy"]:
        key = (
            *(entry[name] for name in ("threat", "top_k", "stride", "confidence", "tau")),
            other_size(entry),
        )
        rows.setdefault(key, {})[entry["rule"]] = entry
    rules = dict.fromkeys(entry["rule"] for entry in summary["certified_accuracy"])
    return CertifiedTable(
        list(rules), [CertifiedRow(next(iter(of.values())), of) for of in rows.values()]
    )


def cost_of(manifest: Manifest, votes_cast: int | None = None) -> Cost:
    """The cost that a manifest records.

    Args:
        manifest: Of the run.
        votes_cast: Number of votes, if not every ablation of every image voted.

    Raises:
        ConfigError: It records no time.
    """
    facts, numerics = manifest.execution, manifest.numerics
    seconds, images = facts.voting_seconds, facts.images
    if not seconds or not images:
        raise ConfigError(f"run {manifest.run_id} recorded no time of voting")
    cpus, actors, on_gpu = facts.cpus, facts.actors, numerics.device.startswith("cuda")
    return Cost(
        images=images,
        votes=votes_cast or images * manifest.defense.votes_per_image,
        seconds=seconds,
        device=f"{numerics.device_model or numerics.device}, {numerics.dtype}",
        cpu_hours=cpus * seconds / 3600 if cpus and not on_gpu else None,
        gpu_hours=actors * seconds / 3600 if actors and on_gpu else None,
    )
