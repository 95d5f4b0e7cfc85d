"""Certified accuracy, alerts and breaking places as pictures, and parts of these for the page."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from models.views.threats import Threat
from pipeline import storage
from pipeline.analysis.heatmap import (
    BreakingMap,
    breaking_maps,
    images_shown,
    picture_path,
    write_maps,
)
from pipeline.analysis.run import Run
from pipeline.certificates.rules import drawing_order, largest_rules, rule_named
from pipeline.report.style import (
    ALERTS,
    LINES,
    PERCENT,
    SERIES,
    UNATTACKED,
    integers,
    number_of,
    png,
)
from pipeline.runs.schema import AlertName, CertifiedEntry, DetectionCurve, Summary
from pipeline.scoring.intervals import Proportion
from pipeline.scoring.words import percent, series, threat
from pipeline.scoring.words import run as run_words

MARKERS = ("o", "s", "^", "D")
_INK = "#555555"
_PANEL_INCHES = 3.7
_LETTERS_AN_INCH = 11
# Longer labels have no room side by side.
_LONG_LABEL = 45

CURVES = drawing_order(largest_rules(randomized=False))
"""Rules of which the largest certified square of each image is known, the tightest first."""

Points = Sequence[tuple[int, Proportion]]
"""Sides of square patches in pixels, each with a share of the labelled images."""


def curve_of(summary: Summary, rule: str) -> list[tuple[int, Proportion]]:
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


def tightest_curve(summary: Summary) -> list[tuple[int, Proportion]]:
    """``curve_of`` the tightest rule that has one; empty where none has."""
    return next(filter(None, (curve_of(summary, rule) for rule in CURVES)), [])


def draw_curve(
    axes: Axes, curve: Points, number: int, label: str | None = None, *, width: float = 1.6
) -> None:
    """Draw shares with a band of their intervals, as the series of a number."""
    if not curve:
        return
    sides, shares = zip(*curve, strict=True)
    low, high = zip(*(share.interval() or (0.0, 1.0) for share in shares), strict=True)
    colour = SERIES[number % len(SERIES)]
    axes.fill_between(sides, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(
        sides,
        [share.value for share in shares],
        color=colour,
        linestyle=LINES[number % len(LINES)],
        linewidth=width,
        label=label,
        zorder=2 + 1 / (1 + number),
    )


def draw_rules(axes: Axes, summary: Summary, *, labelled: bool = False) -> None:
    """Draw certified accuracy against every square by each rule that has it."""
    for place, rule in enumerate(CURVES):
        # The rules often agree: the wider line lies below.
        width = 1.5 + 1.7 * place
        label = rule if labelled else None
        draw_curve(axes, curve_of(summary, rule), number_of(rule), label, width=width)


def points_of(entries: Iterable[CertifiedEntry]) -> list[tuple[int, Proportion]]:
    """Return the certified accuracies against squares of labelled images."""
    return [
        (entry["patch_px"], Proportion(entry["hits"], entry["of"]))
        for entry in entries
        if entry["patch_px"] is not None and entry["of"]
    ]


def looks(series_: Mapping[str, Sequence[CertifiedEntry]]) -> list[tuple[str, int]]:
    """The rule of each series, and how many of the same rule come before it."""
    rules = [entries[0]["rule"] for entries in series_.values()]
    return [(rule, rules[:place].count(rule)) for place, rule in enumerate(rules)]


def draw_points(axes: Axes, points: Points, **style: Any) -> None:
    """Draw shares one by one, with bars of their intervals."""
    sides, shares = zip(*points, strict=True)
    values = np.array([share.value for share in shares])
    bounds = np.array([share.interval() for share in shares]).T
    axes.errorbar(sides, values, yerr=np.abs(bounds - values), capsize=3, **style)


def draw_clean(axes: Axes, entries: Iterable[CertifiedEntry]) -> None:
    """Draw the clean accuracy of rules that own their answer, as dashes above the sizes."""
    owned = [
        (entry["patch_px"], entry["clean_accuracy"]["value"] or 0.0, number_of(entry["rule"]))
        for entry in entries
        if entry["patch_px"] is not None and entry["of"] and rule_named(entry["rule"]).owns_answer
    ]
    for place, (side, clean, number) in enumerate(owned):
        axes.plot(
            [side],
            [clean],
            marker="_",
            markersize=14,
            markeredgewidth=2,
            linestyle="none",
            color=SERIES[number % len(SERIES)],
            label=None if place else "dash: clean, by the same rule",
        )


def draw_unattacked(axes: Axes, summary: Summary, colour: str) -> None:
    """Draw the accuracies without a patch as horizontal lines."""
    shares = {"smoothed": summary["smoothed_accuracy"], "plain": summary["plain_accuracy"]}
    for name, line in UNATTACKED.items():
        value = shares[name]["value"]
        if value is not None:
            label = f"{name}, no patch"
            axes.axhline(value, color=colour, linestyle=line, linewidth=1, label=label)


def draw_alert(
    axes: Axes, curve: DetectionCurve, name: AlertName, colour: str, label: str | None = None
) -> None:
    """Draw the images that an alert below tau leaves right, recovers or detects."""
    shares = [hits / max(1, curve["of"]) for hits in curve[name]]
    axes.plot(curve["tau"], shares, linestyle=ALERTS[name], color=colour, label=label)


def draw_bands(
    axes: Axes, maps: Sequence[BreakingMap], labels: Sequence[str], paper: str = "white"
) -> None:
    """Draw a curve a patch over the one coordinate that matters; a dot marks the worst place."""
    for number, (found, label) in enumerate(zip(maps, labels, strict=True)):
        colour, line = SERIES[number % len(SERIES)], LINES[number % len(LINES)]
        share = found.share_yx.ravel()
        worst = int(share.argmax())
        axes.plot(share, color=colour, linestyle=line, drawstyle="steps-mid", label=label)
        axes.plot(worst, share[worst], "o", color=colour, markeredgecolor=paper)
    varies_y, _ = maps[0].run.views.varies
    edge = "upper" if varies_y else "left"
    axes.set(xlabel=f"{edge} edge of the patch (px)", ylabel="uncertified by this place")
    axes.set_ylim(0, None)
    axes.margins(x=0.01)
    integers(axes.xaxis)
    axes.yaxis.set_major_formatter(PERCENT)


def draw_map(
    axes: Axes,
    found: BreakingMap,
    maps: Sequence[BreakingMap],
    paper: str = "white",
    **style: Any,
) -> None:
    """Draw the map of one patch on the scale of all; a dot marks the worst place."""
    height, width = found.share_yx.shape
    axes.imshow(
        found.share_yx,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        cmap="cividis",
        vmin=min(float(one.share_yx.min()) for one in maps),
        vmax=max(float(one.share_yx.max()) for one in maps),
        **style,
    )
    y, x = found.worst
    axes.plot(x, y, "o", color=SERIES[1], markeredgecolor=paper, clip_on=False)


def draw_certified_accuracy(summary: Summary, title: str) -> bytes:
    """PNG: certified accuracy of every square with its 95 % interval, under the two accuracies.

    Where alerts were asked for, beside it what they detect of up to three patches. Threats that are
    no squares are in the summary alone.

    Args:
        summary: A run's summary.
        title: Above the axes.
    """
    panels = 2 if summary["detection"] else 1
    figure = Figure(figsize=(7 * panels, 5), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    figure.suptitle(_wrapped(title, figure))
    _draw_sizes(axes[0], summary)
    if summary["detection"]:
        _draw_detection(axes[1], summary)
    for one in axes:
        one.yaxis.set_major_formatter(PERCENT)
        integers(one.xaxis)
        one.set_xlim(0, None)
        one.set_ylim(0, 1)
        one.grid(alpha=0.3)
    return png(figure)


def _draw_sizes(axes: Axes, summary: Summary) -> None:
    """Certified accuracy against the side of the patch."""
    largest, labelled = summary["largest"], summary["images"] - summary["images_without_label"]
    draw_rules(axes, summary)
    coarser = {entry["stride"] for entry in summary["coarser"]}
    drawn: dict[str, list[CertifiedEntry]] = {}
    for entry in summary["certified_accuracy"]:
        if entry["patch_px"] is None or entry["value"] is None:
            continue
        words = series(entry, stride=entry["stride"] in coarser)
        drawn.setdefault(words, []).append(entry)
    for place, (words, (rule, more)) in enumerate(zip(drawn, looks(drawn), strict=True)):
        plain = "top" not in words and "stride" not in words
        number = number_of(rule)
        draw_points(
            axes,
            points_of(drawn[words]),
            color=SERIES[number % len(SERIES)] if plain else SERIES[3 + place % 3],
            marker=MARKERS[(number + more) % len(MARKERS)],
            zorder=4,
            # Where rules say the same, all of them are to be seen.
            markerfacecolor="none" if rule in CURVES[1:] else None,
            # The rules' own curves run through every size.
            linestyle="none" if plain and rule in largest["hits"] else LINES[number % len(LINES)],
            label=words,
        )
    draw_clean(axes, [entry for entries in drawn.values() for entry in entries])
    draw_unattacked(axes, summary, _INK)
    axes.set(
        xlabel="side of the square patch (pixels)",
        ylabel=f"accuracy ({labelled} images)",
    )
    if handles := axes.get_legend_handles_labels()[0]:
        _legend(axes, handles)


def _draw_detection(axes: Axes, summary: Summary) -> None:
    """Images that an alert below tau leaves right, recovers and detects, against tau."""
    curves = _shown(summary)
    coarser = {entry["stride"] for entry in summary["coarser"]}
    labels: tuple[tuple[AlertName, str], ...] = (
        ("clean", "right, no patch, no alert"),
        ("certified_detection", "certified detection"),
        ("certified_recovery", "certified recovery"),
    )
    handles = [
        Line2D([], [], color=_INK, linestyle=ALERTS[name], label=label) for name, label in labels
    ]
    for colour, curve in zip(SERIES, curves, strict=False):
        draw_alert(axes, curve, "certified_detection", colour)
        draw_alert(axes, curve, "certified_recovery", colour)
        patch = f"patch {threat(curve, stride=curve['stride'] in coarser)}"
        handles.append(Line2D([], [], color=colour, linewidth=4, label=patch))
    draw_alert(axes, curves[0], "clean", _INK)
    axes.set(xlabel="alert where the lead is below tau (votes)", ylabel="images")
    _legend(axes, handles)


def _shown(summary: Summary) -> list[DetectionCurve]:
    """Choose the curves of the run's own stride: smallest patch, middle one and largest."""
    coarser = {entry["stride"] for entry in summary["coarser"]}
    curves = summary["detection"]
    own = [curve for curve in curves if curve["stride"] not in coarser] or curves
    ordered = sorted(own, key=lambda curve: Threat.parse(curve["threat"]).order)
    return [ordered[place] for place in sorted({0, len(ordered) // 2, len(ordered) - 1})]


def _legend(axes: Axes, handles: list[Any]) -> None:
    long = max(len(str(handle.get_label())) for handle in handles) > _LONG_LABEL
    axes.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.13),
        ncols=1 if long else 2,
        fontsize="small",
    )


class Drawn(NamedTuple):
    """A run's heat map.

    Attributes:
        maps: The counts, a patch each.
        locations: Paths of the numbers, a file a patch.
        path: Path of the picture.
        picture: PNG.
    """

    maps: list[BreakingMap]
    locations: list[str]
    path: str
    picture: bytes


def draw_run(run: Run, threats: Iterable[Threat], *, named: bool = False) -> Drawn:
    """Count, draw, and write both.

    Args:
        run: The run.
        threats: One rectangle each, at least one.
        named: True if the picture's name names the patches: they were requested, and are not
            those of the run's certificates.

    Raises:
        ConfigError, ManifestError, StoreError: As ``breaking_maps``.
    """
    maps = breaking_maps(run, sorted(set(threats), key=lambda threat: threat.order))
    path = picture_path(run.store, maps if named else ())
    drawn = Drawn(maps, write_maps(maps), path, draw_maps(maps))
    storage.write_atomically(drawn.path, drawn.picture)
    return drawn


def draw_maps(maps: Sequence[BreakingMap]) -> bytes:
    """The picture as PNG.

    Args:
        maps: Of one run, a patch each, at least one.
    """
    figure = _blocks(maps) if all(maps[0].run.views.varies) else _bands(maps)
    figure.suptitle(_wrapped(_title(maps), figure), fontsize="medium")
    return png(figure)


def _wrapped(title: str, figure: Figure) -> str:
    """A title in lines that fit above a figure."""
    width = int(_LETTERS_AN_INCH * figure.get_size_inches()[0])
    return "\n".join(textwrap.fill(line, width) for line in title.splitlines())


def _title(maps: Sequence[BreakingMap]) -> str:
    return (
        f"Breaking places: {run_words(maps[0].run.manifest)}\n"
        f"share of {images_shown(maps)} that a patch"
        " at each place leaves uncertified (dot: the worst)"
    )


def _label(found: BreakingMap) -> str:
    anywhere = found.shown.anywhere / max(1, found.shown.images)
    return f"{found.label} (over all places: {percent(anywhere)})"


def _bands(maps: Sequence[BreakingMap]) -> Figure:
    """A curve a patch."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    draw_bands(axes, maps, [_label(found) for found in maps])
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return figure


def _blocks(maps: Sequence[BreakingMap]) -> Figure:
    """A map a patch, all on one scale."""
    columns = len(maps) if len(maps) < 4 else 2 if len(maps) == 4 else 3
    rows = -(-len(maps) // columns)
    size = (_PANEL_INCHES * columns + 1.2, (_PANEL_INCHES + 0.4) * rows + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, found in zip(panels, maps, strict=False):
        draw_map(axes, found, maps, interpolation="nearest")
        axes.set(xlabel="left edge of the patch (px)", ylabel="upper edge (px)")
        axes.set_title(textwrap.fill(_label(found), 36), fontsize="small")
        integers(axes.xaxis, axes.yaxis, bins=6)
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    bar = figure.colorbar(panels[0].images[0], ax=list(panels), shrink=0.8, pad=0.02)
    bar.set_label("uncertified by this place")
    bar.ax.yaxis.set_major_formatter(PERCENT)
    return figure
