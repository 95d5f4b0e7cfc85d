"""Margins, alerts and breaking places, drawn, each with a sentence that says what it shows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.questions.heatmap import BreakingMap
from pipeline.report.page.margins import GROUPS, MarginCounts
from pipeline.report.page.svg import FAINT, INK, PAPER, drawing, inline_svg
from pipeline.report.style import ALERTS, LINES, PERCENT, SERIES

_MOST_BARS = 48
_NOT_CERTIFIED = "← not certified", "right", -0.6


def margin_chart(counts: MarginCounts, name: str) -> Markup:
    """How many images have each margin, rightly and wrongly predicted ones apart."""
    low, high = int(counts.values[0]), int(counts.values[-1])
    # Bars that begin at 0, so that none holds certified and other images.
    width = -(-(high - low + 1) // _MOST_BARS)
    first = low // width
    bars_n = counts.values // width - first
    lefts = (np.arange(bars_n[-1] + 1) + first) * width
    with drawing(2.9) as figure:
        axes = figure.subplots()
        below = np.zeros(len(lefts))
        for number, group in enumerate(GROUPS):
            heights = np.bincount(bars_n, counts.counts[number], len(lefts))
            if not heights.any():
                continue
            axes.bar(
                lefts,
                heights,
                width * 0.88,
                below,
                align="edge",
                color=SERIES[number],
                hatch=("", "////", "....")[number],
                edgecolor=PAPER,
                linewidth=0.4,
                label=group,
            )
            below += heights
        axes.axvline(-0.06 * width, color=INK, linewidth=1)
        top = 1.03 * below.max()
        # Where there is more room.
        more_held = int(lefts[-1]) > -int(lefts[0])
        text, side, place = ("certified →", "left", 0.5) if more_held else _NOT_CERTIFIED
        axes.text(place * width, top, text, ha=side, va="bottom")
        axes.set(
            xlabel="margin: votes to spare at the worst place", ylabel="images", ylim=(0, 1.1 * top)
        )
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="x")
        figure.legend(loc="outside lower center", ncols=3)
        held = int(counts.counts[:, counts.values >= 0].sum())
        says = (
            f"Margins against {counts.claim.threat} px run from {low} to {high}; "
            f"{held} of {int(counts.counts.sum())} images have one of at least 0."
        )
        return inline_svg(figure, name, says)


def detection_chart(curve: Mapping[str, Any], name: str) -> Markup:
    """What an alert below each threshold leaves right, recovers and detects."""
    of = max(1, curve["of"])
    with drawing(3.2) as figure:
        axes = figure.subplots()
        series = (
            ("clean", "right, no alert, no patch", INK),
            ("certified_detection", "certified detection", SERIES[0]),
            ("certified_recovery", "certified recovery", SERIES[1]),
        )
        for key, label, colour in series:
            shares = [hits / of for hits in curve[key]]
            axes.plot(curve["tau"], shares, color=colour, linestyle=ALERTS[key], label=label)
        axes.set(xlabel="alert where the lead is below (votes)", ylabel="of the labelled images")
        axes.set_ylim(0, 1)
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(PERCENT)
        figure.legend(loc="outside lower center", ncols=2)
        best = int(np.argmax(curve["certified_detection"]))
        says = (
            f"With a threshold of 1 vote {100 * curve['certified_recovery'][0] / of:.1f} % are "
            f"certified to be recovered; at {curve['tau'][best]} votes most are certified to be "
            f"detected, {100 * curve['certified_detection'][best] / of:.1f} %, while "
            f"{100 * curve['clean'][best] / of:.1f} % are answered rightly without a patch."
        )
        return inline_svg(figure, name, says)


def places_chart(maps: Sequence[BreakingMap], name: str) -> Markup:
    """Where a patch leaves most images uncertified: curves for bands, maps for blocks."""
    kind = maps[0].run.ablation.kind
    with drawing(3.1 if kind != "block" else 2.6) as figure:
        if kind == "block":
            _draw_maps(figure, maps)
        else:
            _draw_bands(figure, maps)
        says = "Share of images uncertified because of each place. " + " ".join(
            f"{found.patch}: at worst {100 * found.share_yx.max():.1f} %, at best "
            f"{100 * found.share_yx.min():.1f} %."
            for found in maps
        )
        return inline_svg(figure, name, says)


def _draw_bands(figure: Figure, maps: Sequence[BreakingMap]) -> None:
    axes = figure.subplots()
    for number, found in enumerate(maps):
        share = found.share_yx.ravel()
        worst = int(share.argmax())
        axes.plot(
            share,
            color=SERIES[number],
            linestyle=LINES[number],
            drawstyle="steps-mid",
            label=str(found.patch),
        )
        axes.plot(worst, share[worst], "o", color=SERIES[number], markeredgecolor=PAPER)
    edge = "left" if maps[0].run.ablation.kind == "column" else "upper"
    axes.set(xlabel=f"{edge} edge of the patch (px)", ylabel="uncertified by this place")
    axes.set_ylim(0, None)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PERCENT)
    figure.legend(loc="outside lower center", ncols=3)


def _draw_maps(figure: Figure, maps: Sequence[BreakingMap]) -> None:
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    low = min(float(found.share_yx.min()) for found in maps)
    high = max(float(found.share_yx.max()) for found in maps)
    for axes, found in zip(panels, maps, strict=True):
        height, width = found.share_yx.shape
        axes.imshow(
            found.share_yx,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            cmap="cividis",
            vmin=low,
            vmax=high,
            interpolation="none",
        )
        y, x = found.worst
        axes.plot(x, y, "o", color=SERIES[1], markeredgecolor=PAPER, clip_on=False)
        axes.set_title(str(found.patch))
        axes.set(xlabel="left edge (px)", ylabel="upper edge (px)" if axes is panels[0] else "")
        axes.grid(visible=False)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    bar = figure.colorbar(
        panels[0].images[0], ax=list(panels), location="bottom", aspect=35, shrink=0.8
    )
    bar.ax.xaxis.set_major_formatter(PERCENT)
    bar.set_label("uncertified by this place")
    bar.outline.set_edgecolor(FAINT)
