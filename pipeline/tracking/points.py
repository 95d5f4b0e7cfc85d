"""The figures of a summary as MLflow's metrics: a name, a value and an integer step.

A curve has the patch's side in pixels as its step (an alert's, its threshold), so that MLflow draws
certified accuracy against patch size. MLflow shows a curve's last point in its tables, there the
least interesting; each claim is therefore there as a figure of its own too.
"""

from typing import NamedTuple, get_args

from pipeline.certificates.rules import rule_named
from pipeline.runs.schema import AlertName, ClaimEntry, Summary
from pipeline.scoring.words import other_size

_ALERTS: tuple[AlertName, ...] = get_args(AlertName)


class Point(NamedTuple):
    """One value of a metric."""

    name: str
    value: float
    step: int = 0


def points_of(summary: Summary) -> list[Point]:
    """Return every figure of a summary."""
    labelled = summary["images"] > summary["images_without_label"]
    points = [
        Point(name, float(summary[name])) for name in ("images", "images_with_error", "ablations")
    ]
    if "views_asked" in summary:
        points.append(Point("views_asked", summary["views_asked"]))
    if not labelled:
        return points
    figures = [
        ("plain_accuracy", summary["plain_accuracy"]["value"]),
        ("smoothed_accuracy", summary["smoothed_accuracy"]["value"]),
        ("mean_ablation_accuracy", summary["mean_ablation_accuracy"]),
        *(
            (f"smoothed_accuracy_stride{entry['stride']}", entry["smoothed_accuracy"]["value"])
            for entry in summary["coarser"]
        ),
    ]
    # Imported votes may come without plain predictions, and views that hide have none by vote.
    points += [Point(name, value) for name, value in figures if value is not None]
    return (
        points
        + certified_figures(summary)
        + _answers(summary)
        + _curves(summary)
        + _detected(summary)
    )


def certified_figures(summary: Summary) -> list[Point]:
    """Return certified accuracies, a figure a claim: ``certified_at/<rule>_<patch>``."""
    return [
        Point(f"certified_at/{_rule(entry, summary)}_{_plain(entry['threat'])}", entry["value"])
        for entry in summary["certified_accuracy"]
        if entry["value"] is not None
    ]


def _answers(summary: Summary) -> list[Point]:
    """Clean accuracy and alerts of rules that own their answer, named as what they certify."""
    points = []
    for entry in summary["certified_accuracy"]:
        name, clean = f"{_rule(entry, summary)}_{_plain(entry['threat'])}", entry["clean_accuracy"]
        if rule_named(entry["rule"]).owns_answer and clean["value"] is not None:
            points.append(Point(f"clean_at/{name}", clean["value"]))
        if entry["alerts"] is not None:
            points.append(Point(f"alerts_at/{name}", entry["alerts"]))
    return points


def _curves(summary: Summary) -> list[Point]:
    curves = {
        (_rule(entry, summary), entry["patch_px"]): entry["value"]
        for entry in summary["certified_accuracy"]
        if entry["patch_px"] is not None
    }
    largest = summary["largest"]
    for rule, hits in largest["hits"].items():
        # Without a patch, every right prediction stays.
        curves[rule, 0] = summary["smoothed_accuracy"]["value"]
        for side, count in zip(largest["patch_px"], hits, strict=True):
            curves[rule, side] = count / largest["of"]
    return [
        Point(f"certified_accuracy/{rule}", value, side)
        for (rule, side), value in sorted(curves.items())
        if value is not None
    ]


def _rule(entry: ClaimEntry, summary: Summary) -> str:
    """The rule of a claim, with what makes it another than the run's plain certificate."""
    name = str(entry["rule"])
    if entry["confidence"] is not None:
        name += f"_{entry['confidence']:g}"
    if entry["tau"] is not None:
        name += f"_tau{entry['tau']:g}"
    if other_size(entry):
        name += f"_assumes_{_plain(entry['assumes'] or '')}"
    if entry["top_k"] > 1:
        name += f"_top{entry['top_k']}"
    if entry["stride"] in {coarser["stride"] for coarser in summary["coarser"]}:
        name += f"_stride{entry['stride']}"
    return name


def _detected(summary: Summary) -> list[Point]:
    coarser = {entry["stride"] for entry in summary["coarser"]}
    points = []
    for curve in summary["detection"]:
        stride = f"_stride{curve['stride']}" if curve["stride"] in coarser else ""
        threat = _plain(curve["threat"])
        for name in _ALERTS:
            points += [
                Point(f"detection{stride}/{threat}/{name}", hits / curve["of"], tau)
                for tau, hits in zip(curve["tau"], curve[name], strict=True)
            ]
    return points


def _plain(threat: str) -> str:
    """A threat without what names of metrics may not have."""
    plain = threat.replace("<=", "_").replace(" ", "_")
    return plain.replace("%", "_percent").replace(":", "_")
