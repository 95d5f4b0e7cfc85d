"""One picture of a run: certified accuracy against patch size."""

import io
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

# Okabe and Ito's palette: told apart by colour-blind readers; markers serve print.
_STYLE = {
    "exact": ("#0072B2", "o", "-"),
    "uniform": ("#D55E00", "s", "--"),
    "randomized": ("#009E73", "^", "-."),
}


def draw_certified_accuracy(summary: dict[str, Any], title: str) -> bytes:
    """PNG: each rule's certified accuracy with its 95 % interval, under the two accuracies.

    Args:
        summary: A run's summary.
        title: Above the axes.
    """
    # Never a window: jobs have no display.
    mpl.use("agg")
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    labelled = [entry for entry in summary["certified_accuracy"] if entry["value"] is not None]
    # A hair of sideways shift keeps two rules with equal values both visible.
    sides = sorted({entry["patch_px"] for entry in labelled})
    shift = 0.006 * (max(sides) - min(sides) or max(sides)) if sides else 0.0
    claims = sorted({(entry["rule"], entry["confidence"] or 0.0) for entry in labelled})
    for number, (rule, confidence) in enumerate(claims):
        colour, marker, line = _STYLE[rule]
        points = [
            entry
            for entry in labelled
            if (entry["rule"], entry["confidence"] or 0.0) == (rule, confidence)
        ]
        label = f"certified, {rule} rule"
        if confidence:
            label = f"certified with {100 * confidence:g} % confidence an image, {rule}"
        xs = [entry["patch_px"] + (number - 0.5) * 2 * shift for entry in points]
        values = [entry["value"] for entry in points]
        below = [entry["value"] - entry["low"] for entry in points]
        above = [entry["high"] - entry["value"] for entry in points]
        axes.errorbar(
            xs,
            values,
            yerr=[below, above],
            color=colour,
            marker=marker,
            linestyle=line,
            capsize=3,
            label=label,
        )
    for name, style in (("smoothed", ":"), ("plain", "-.")):
        value = summary[f"{name}_accuracy"]["value"]
        if value is not None:
            label = f"{name} accuracy, no patch"
            axes.axhline(value, color="#555555", linestyle=style, linewidth=1, label=label)
    axes.set(
        title=title,
        xlabel="side of the square patch (pixels)",
        ylabel=f"accuracy ({summary['images'] - summary['images_without_label']} images)",
        ylim=(0, 1),
        xticks=sides,
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=150)
    return sink.getvalue()
