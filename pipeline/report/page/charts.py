"""The figures of the page, each with a sentence that says what it shows."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from models.views.family import BoolArray, ViewFamily
from pipeline.analysis.heatmap import BreakingMap
from pipeline.report.page.chapter import Chapter
from pipeline.report.page.margins import GROUPS, MarginCounts
from pipeline.report.page.svg import FAINT, INK, PAPER, drawing, inline_svg
from pipeline.report.plots import (
    CURVES,
    MARKERS,
    Points,
    curve_of,
    draw_alert,
    draw_bands,
    draw_clean,
    draw_curve,
    draw_map,
    draw_points,
    draw_rules,
    draw_unattacked,
    looks,
    points_of,
    tightest_curve,
)
from pipeline.report.style import LINES, PERCENT, SERIES, integers, number_of
from pipeline.runs.schema import AlertName, CertifiedEntry, DetectionCurve
from pipeline.scoring.words import claim, other_size, percent, threat

_MOST_BARS = 48
_SHOWN_VIEWS = 6
# Letters that fit side by side in a legend, and above all maps together.
_LONG_LABEL, _TITLE = 30, 48
_NOT_CERTIFIED = "← not certified", "right", -0.6


class Box(NamedTuple):
    """A rectangle of hidden pixels."""

    y: int
    x: int
    height: int
    width: int


def some_views(views: ViewFamily) -> Sequence[Sequence[Box]]:
    """The hidden parts of some views, from the first to the last; none of ablations."""
    if not views.hides:
        return ()
    numbers = np.unique(np.linspace(0, len(views) - 1, _SHOWN_VIEWS).astype(int))
    rows_vkh, columns_vkw, _ = views.rectangles
    return [
        [
            Box(y, x, high, wide)
            for rows_h, columns_w in zip(rows_vkh[view], columns_vkw[view], strict=True)
            for y, high in _runs(rows_h)
            for x, wide in _runs(columns_w)
        ]
        for view in numbers
    ]


def _runs(taken: BoolArray) -> list[tuple[int, int]]:
    """Begin and length of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], taken, [False]]).astype(int)))
    return [(int(begin), int(end - begin)) for begin, end in edges.reshape(-1, 2)]


def series_of(chapter: Chapter) -> Mapping[str, Sequence[CertifiedEntry]]:
    """Entries of labelled images for squares, of the run's own views, by all but the patch.

    A decision that assumes no other patch than that of its claim is named without it.
    """
    found: dict[str, list[CertifiedEntry]] = {}
    for entry in chapter.summary["certified_accuracy"]:
        own = entry["top_k"] == 1 and entry["stride"] == chapter.own_stride
        if own and entry["patch_px"] is not None and entry["of"]:
            words = claim({**entry, "assumes": other_size(entry)})
            found.setdefault(words.removeprefix("certified, "), []).append(entry)
    return found


def accuracy_chart(chapter: Chapter) -> Markup | None:
    """Certified accuracy against patch size, by rule; None where there is nothing to draw."""
    sides = [side for rule in CURVES for side, _ in curve_of(chapter.summary, rule)]
    asked = {
        name: entries
        for name, entries in series_of(chapter).items()
        if not curve_of(chapter.summary, entries[0]["rule"])
    }
    if not asked and not sides:
        return None
    # Several series of a rule have long names, each in a line of its own.
    with drawing(3.3 + 0.2 * max(0, len(asked) - 2)) as figure:
        axes = figure.subplots()
        draw_rules(axes, chapter.summary, labelled=True)
        for (rule, more), (name, entries) in zip(looks(asked), asked.items(), strict=True):
            _draw_points(axes, points_of(entries), number_of(rule), name, more)
        draw_clean(axes, [entry for entries in asked.values() for entry in entries])
        draw_unattacked(axes, chapter.summary, INK)
        _finish_accuracy(axes, figure)
        alt = "Certified accuracy against the side of the patch. " + "; ".join(
            f"{threat(entry, share=False)}: {percent(entry['value'])}"
            for entry in chapter.squares
            if entry["value"] is not None
        )
        if sides:
            alt += f". The curves run from 1 to {max(sides)} px and fall throughout"
        return inline_svg(figure, f"accuracy-{chapter.run.run_id}", alt + ".")


def overlaid_chart(chapters: Sequence[Chapter]) -> Markup | None:
    """Certified accuracy of several runs against patch size, by the tightest rule of each."""
    drawn = []
    with drawing(3.3) as figure:
        axes = figure.subplots()
        for number, chapter in enumerate(chapters):
            label = f"{chapter.letter}: {chapter.run.run_id}"
            curve, points = tightest_curve(chapter.summary), _points(chapter)
            if not curve and not points:
                continue
            drawn.append(label)
            if curve:
                draw_curve(axes, curve, number, label)
            else:
                _draw_points(axes, points, number, label)
            plain = chapter.summary["plain_accuracy"]["value"]
            if plain is not None:
                # A tick at the edge: what the undefended network gets without any patch.
                axes.plot(
                    [0], [plain], marker=">", color=SERIES[number % 6], clip_on=False, linestyle=""
                )
        if not drawn:
            return None
        _finish_accuracy(axes, figure)
        alt = "Certified accuracy against the side of the patch, a curve a run: "
        return inline_svg(figure, "overlaid", alt + ", ".join(drawn) + ".")


def _points(chapter: Chapter) -> Points:
    """Certificates asked for one by one: of squares, where no curve runs through every size."""
    if tightest_curve(chapter.summary):
        return []
    return points_of(chapter.squares)


def _draw_points(axes: Axes, points: Points, number: int, label: str, more: int = 0) -> None:
    """Draw shares one by one; ``more``: series of the same rule that are drawn already."""
    if points:
        colour, line = SERIES[number % len(SERIES)], LINES[(number + more) % len(LINES)]
        marker = MARKERS[more % len(MARKERS)]
        draw_points(axes, points, marker=marker, color=colour, linestyle=line, label=label)


def _finish_accuracy(axes: Axes, figure: Figure) -> None:
    axes.set(xlabel="side of the square patch (px)", ylabel="of the labelled images")
    axes.set_ylim(0, 1)
    axes.set_xlim(0, None)
    integers(axes.xaxis)
    axes.yaxis.set_major_formatter(PERCENT)
    _legend(figure, 2)


def _legend(figure: Figure, columns: int) -> None:
    """Draw a legend below; one column where labels are long."""
    labels = [str(text) for axes in figure.axes for text in axes.get_legend_handles_labels()[1]]
    long = max(map(len, labels), default=0) > _LONG_LABEL
    size = "small" if long else None
    figure.legend(loc="outside lower center", ncols=1 if long else columns, fontsize=size)


def margin_chart(counts: MarginCounts, name: str) -> Markup:
    """Draw the number of images by margin, correctly and wrongly classified ones apart."""
    low, high = int(counts.values[0]), int(counts.values[-1])
    # Bars that begin at 0, so that none holds certified and other images.
    width = -(-(high - low + 1) // _MOST_BARS)
    first = low // width
    bars_n = counts.values // width - first
    lefts = (np.arange(bars_n[-1] + 1) + first) * width
    with drawing(2.9) as figure:
        axes = figure.subplots()
        below = np.zeros(len(lefts))
        for number, group in enumerate(GROUPS[: len(counts.counts)]):
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
                hatch=("", "////", "....", "xxxx")[number],
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
        integers(axes.xaxis)
        axes.grid(visible=False, axis="x")
        figure.legend(loc="outside lower center", ncols=3)
        held = int(counts.counts[:, counts.values >= 0].sum())
        alt = (
            f"Margins against {counts.claim.threat} px run from {low} to {high}; "
            f"{held} of {int(counts.counts.sum())} images have one of at least 0."
        )
        return inline_svg(figure, name, alt)


def detection_chart(curve: DetectionCurve, name: str) -> Markup:
    """Draw the images that an alert leaves right, recovers and detects, by threshold."""
    of = max(1, curve["of"])
    with drawing(3.2) as figure:
        axes = figure.subplots()
        series: tuple[tuple[AlertName, str, str], ...] = (
            ("clean", "right, no alert, no patch", INK),
            ("certified_detection", "certified detection", SERIES[0]),
            ("certified_recovery", "certified recovery", SERIES[1]),
        )
        for key, label, colour in series:
            draw_alert(axes, curve, key, colour, label)
        axes.set(xlabel="alert where the lead is below (votes)", ylabel="of the labelled images")
        axes.set_ylim(0, 1)
        axes.margins(x=0.01)
        integers(axes.xaxis)
        axes.yaxis.set_major_formatter(PERCENT)
        figure.legend(loc="outside lower center", ncols=2)
        best = int(np.argmax(curve["certified_detection"]))
        alt = (
            f"With a threshold of 1 vote {percent(curve['certified_recovery'][0] / of)} are "
            f"certified to be recovered; at {curve['tau'][best]} votes most are certified to be "
            f"detected, {percent(curve['certified_detection'][best] / of)}, while "
            f"{percent(curve['clean'][best] / of)} are classified correctly, without a "
            "patch or an alert."
        )
        return inline_svg(figure, name, alt)


def places_chart(maps: Sequence[BreakingMap], name: str) -> Markup:
    """Draw the images uncertified at each location: curves for bands, maps for blocks."""
    plane = all(maps[0].run.views.varies)
    with drawing(2.6 if plane else 3.1) as figure:
        if plane:
            _draw_maps(figure, maps)
        else:
            draw_bands(figure.subplots(), maps, [found.label for found in maps], PAPER)
            _legend(figure, 3)
        alt = "Share of images uncertified because of each place. " + " ".join(
            f"{found.label}: at worst {percent(float(found.share_yx.max()))}, at best "
            f"{percent(float(found.share_yx.min()))}."
            for found in maps
        )
        return inline_svg(figure, name, alt)


def _draw_maps(figure: Figure, maps: Sequence[BreakingMap]) -> None:
    panels = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, found in zip(panels, maps, strict=True):
        draw_map(axes, found, maps, PAPER, interpolation="none")
        axes.set_title(textwrap.fill(found.label, _TITLE // len(maps)))
        axes.set(xlabel="left edge (px)", ylabel="upper edge (px)" if axes is panels[0] else "")
        axes.grid(visible=False)
        integers(axes.xaxis, axes.yaxis, bins=3)
    bar = figure.colorbar(
        panels[0].images[0], ax=list(panels), location="bottom", aspect=35, shrink=0.8
    )
    bar.ax.xaxis.set_major_formatter(PERCENT)
    bar.set_label("uncertified by this place")
    bar.outline.set_edgecolor(FAINT)
