"""One picture of a run: certified accuracy against patch size, and what alerts detect."""

import io
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pipeline.certificates.threats import Threat
from pipeline.intervals import Proportion
from pipeline.report.style import ALERTS, LINES, PERCENT, RULES, SERIES, UNATTACKED
from pipeline.report.tables import claim_in_words

_MARKERS = ("o", "s", "^", "D")
_INK = "#555555"


def draw_certified_accuracy(summary: dict[str, Any], title: str) -> bytes:
    """PNG: certified accuracy of every square with its 95 % interval, under the two accuracies.

    Where alerts were asked for, beside it what they detect of up to three patches. Threats that are
    no squares are in the summary alone.

    Args:
        summary: A run's summary.
        title: Above the axes.
    """
    # Never a window: jobs have no display.
    mpl.use("agg")
    panels = 2 if summary["detection"] else 1
    figure = Figure(figsize=(7 * panels, 5), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    figure.suptitle(title)
    _draw_sizes(axes[0], summary)
    if summary["detection"]:
        _draw_detection(axes[1], summary)
    for one in axes:
        one.yaxis.set_major_formatter(PERCENT)
        one.xaxis.set_major_locator(MaxNLocator(integer=True))
        one.set_ylim(0, 1)
        one.grid(alpha=0.3)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=150)
    return sink.getvalue()


def _draw_sizes(axes: Axes, summary: dict[str, Any]) -> None:
    """Certified accuracy against the side of the patch."""
    largest, labelled = summary["largest"], summary["images"] - summary["images_without_label"]
    for rule, hits in largest["hits"].items() if labelled else ():
        number = RULES.get(rule, len(RULES))
        colour, line = SERIES[number], LINES[number]
        bands = [Proportion(count, labelled).interval() or (0.0, 0.0) for count in hits]
        low, high = zip(*bands, strict=True)
        shares = [count / labelled for count in hits]
        axes.plot(largest["patch_px"], shares, linestyle=line, color=colour)
        axes.fill_between(largest["patch_px"], low, high, color=colour, alpha=0.15)
    squares = [
        entry
        for entry in summary["certified_accuracy"]
        if entry["patch_px"] is not None and entry["value"] is not None
    ]
    coarser = {entry["stride"] for entry in summary["coarser"]}
    series: dict[str, list[dict[str, Any]]] = {}
    for entry in squares:
        stride = f", stride {entry['stride']}" if entry["stride"] in coarser else ""
        series.setdefault(claim_in_words(entry) + stride, []).append(entry)
    for place, (words, entries) in enumerate(series.items()):
        rule, plain = entries[0]["rule"], "top" not in words and "stride" not in words
        number = RULES.get(rule, len(RULES))
        points = [
            (e["patch_px"], e["value"], e["value"] - e["low"], e["high"] - e["value"])
            for e in entries
        ]
        sides, values, below, above = map(list, zip(*points, strict=True))
        axes.errorbar(
            sides,
            values,
            yerr=[below, above],
            color=SERIES[number] if plain else SERIES[3 + place % 3],
            marker=_MARKERS[number],
            # Where the two rules say the same, both are to be seen.
            markerfacecolor="none" if rule == "uniform" else None,
            # The rules' own curves run through every size.
            linestyle="none" if plain and rule in largest["hits"] else LINES[number],
            capsize=3,
            label=words,
        )
    for name, line in UNATTACKED.items():
        value = summary[f"{name}_accuracy"]["value"]
        if value is not None:
            label = f"{name} accuracy, no patch"
            axes.axhline(value, color=_INK, linestyle=line, linewidth=1, label=label)
    axes.set(
        xlabel="side of the square patch (pixels)",
        ylabel=f"accuracy ({labelled} images)",
    )
    if handles := axes.get_legend_handles_labels()[0]:
        _legend(axes, handles)


def _draw_detection(axes: Axes, summary: dict[str, Any]) -> None:
    """What an alert below tau leaves right, recovers and detects, against tau."""
    curves = _shown(summary)
    coarser = {entry["stride"] for entry in summary["coarser"]}
    handles = [
        Line2D([], [], color=_INK, linestyle=ALERTS[name], label=label)
        for name, label in (
            ("clean", "right, no patch, no alert"),
            ("certified_detection", "certified detection"),
            ("certified_recovery", "certified recovery"),
        )
    ]
    for colour, curve in zip(SERIES, curves, strict=False):
        of = max(1, curve["of"])
        for name in ("certified_detection", "certified_recovery"):
            shares = [hits / of for hits in curve[name]]
            axes.plot(curve["tau"], shares, linestyle=ALERTS[name], color=colour)
        stride = f", stride {curve['stride']}" if curve["stride"] in coarser else ""
        patch = f"patch {curve['threat']} px{stride}"
        handles.append(Line2D([], [], color=colour, linewidth=4, label=patch))
    first = curves[0]
    shares = [hits / max(1, first["of"]) for hits in first["clean"]]
    axes.plot(first["tau"], shares, linestyle=ALERTS["clean"], color=_INK)
    axes.set(xlabel="alert where the lead is below tau (votes)", ylabel="images")
    _legend(axes, handles)


def _shown(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the curves of the run's own stride the smallest patch, the middle and the largest."""
    coarser = {entry["stride"] for entry in summary["coarser"]}
    curves = summary["detection"]
    own = [curve for curve in curves if curve["stride"] not in coarser] or curves
    ordered = sorted(own, key=lambda curve: Threat.parse(curve["threat"]).order)
    return [ordered[place] for place in sorted({0, len(ordered) // 2, len(ordered) - 1})]


def _legend(axes: Axes, handles: list[Any]) -> None:
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.13),
        ncols=2,
        fontsize="small",
    )
