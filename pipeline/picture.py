"""One picture of a run: certified accuracy against patch size, and what alerts detect."""

import io
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pipeline.intervals import Proportion
from pipeline.report import claim_in_words

# Okabe and Ito's palette: told apart by colour-blind readers; markers serve print.
_STYLE = {
    "exact": ("#0072B2", "o", "-"),
    "uniform": ("#D55E00", "s", "--"),
    "randomized": ("#009E73", "^", "-."),
}
_OTHER = ("#CC79A7", "D", ":")
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def draw_certified_accuracy(summary: dict[str, Any], title: str) -> bytes:
    """PNG: certified accuracy of every square with its 95 % interval, under the two accuracies.

    Where alerts were asked for, beside it what they detect. Threats that are no squares are in the
    summary alone.

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
        one.yaxis.set_major_formatter(PercentFormatter(1.0))
        one.xaxis.set_major_locator(MaxNLocator(integer=True))
        one.set_ylim(0, 1)
        one.grid(alpha=0.3)
        if one.get_legend_handles_labels()[0]:
            one.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize="small")
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=150)
    return sink.getvalue()


def _draw_sizes(axes: Axes, summary: dict[str, Any]) -> None:
    """Certified accuracy against the side of the patch."""
    largest, labelled = summary["largest"], summary["images"] - summary["images_without_label"]
    for rule, hits in largest["hits"].items() if labelled else ():
        colour, _, line = _STYLE.get(rule, _OTHER)
        bands = [Proportion(count, labelled).interval() or (0.0, 0.0) for count in hits]
        low, high = zip(*bands, strict=True)
        axes.plot(largest["patch_px"], [count / labelled for count in hits], line, color=colour)
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
    for number, (words, entries) in enumerate(series.items()):
        rule, plain = entries[0]["rule"], "top" not in words and "stride" not in words
        colour, marker, line = _STYLE.get(rule, _OTHER)
        points = [
            (e["patch_px"], e["value"], e["value"] - e["low"], e["high"] - e["value"])
            for e in entries
        ]
        sides, values, below, above = map(list, zip(*points, strict=True))
        axes.errorbar(
            sides,
            values,
            yerr=[below, above],
            color=colour if plain else _COLOURS[3 + number % 3],
            marker=marker,
            # Where the two rules say the same, both are to be seen.
            markerfacecolor="none" if rule == "uniform" else None,
            # The rules' own curves run through every size.
            linestyle="none" if plain and rule in largest["hits"] else line,
            capsize=3,
            label=words,
        )
    for name, style in (("smoothed", ":"), ("plain", "-.")):
        value = summary[f"{name}_accuracy"]["value"]
        if value is not None:
            label = f"{name} accuracy, no patch"
            axes.axhline(value, color="#555555", linestyle=style, linewidth=1, label=label)
    axes.set(
        xlabel="side of the square patch (pixels)",
        ylabel=f"accuracy ({labelled} images)",
    )


def _draw_detection(axes: Axes, summary: dict[str, Any]) -> None:
    """What an alert below tau leaves right, recovers and detects, against tau."""
    curves, coarser = summary["detection"], {entry["stride"] for entry in summary["coarser"]}
    for number, curve in enumerate(curves):
        colour, of = _COLOURS[number % len(_COLOURS)], max(1, curve["of"])
        stride = f", stride {curve['stride']}" if curve["stride"] in coarser else ""
        patch = f"{curve['threat']} px{stride}"
        for name, line in (("certified_detection", "-"), ("certified_recovery", "--")):
            shares = [hits / of for hits in curve[name]]
            label = f"{name.replace('_', ' ')}, {patch}"
            axes.plot(curve["tau"], shares, line, color=colour, label=label)
    first = curves[0]
    shares = [hits / max(1, first["of"]) for hits in first["clean"]]
    axes.plot(first["tau"], shares, ":", color="#555555", label="right, no patch, no alert")
    axes.set(xlabel="alert where the lead is below tau (votes)", ylabel="images")
