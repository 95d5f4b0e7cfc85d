"""Certified accuracy against patch size, drawn: of one run by rule, or of several runs."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.intervals import Proportion
from pipeline.report.page.chapter import Chapter, curve_of
from pipeline.report.page.svg import INK, drawing, inline_svg
from pipeline.report.style import LINES, PERCENT, RULES, SERIES, UNATTACKED

_CURVES = ("exact", "uniform")


def accuracy_chart(chapter: Chapter) -> Markup | None:
    """Certified accuracy against patch size, by rule; None where there is nothing to draw."""
    points = _points(chapter)
    curves = {rule: curve_of(chapter.summary, rule) for rule in _CURVES}
    if not points and not any(curves.values()):
        return None
    with drawing(3.3) as figure:
        axes = figure.subplots()
        for rule, curve in curves.items():
            # The rules often agree: the wider line lies below.
            width = 3.2 if rule == "uniform" else 1.5
            _draw_curve(axes, curve, RULES[rule], rule, width=width)
        _draw_points(axes, points)
        for name, line in UNATTACKED.items():
            value = chapter.summary[f"{name}_accuracy"]["value"]
            if value is not None:
                axes.axhline(
                    value,
                    color=INK,
                    linestyle=line,
                    linewidth=1,
                    label=f"{name}, no patch",
                )
        _finish_accuracy(axes, figure)
        sides = [side for curve in curves.values() for side, _ in curve]
        says = "Certified accuracy against the side of the patch. " + "; ".join(
            f"{entry['threat']} px: {100 * entry['value']:.1f} %"
            for entry in chapter.squares
            if entry["value"] is not None
        )
        if sides:
            says += f". The curves run from 1 to {max(sides)} px and fall throughout"
        return inline_svg(figure, f"accuracy-{chapter.run.run_id}", says + ".")


def overlaid_chart(chapters: Sequence[Chapter]) -> Markup | None:
    """Certified accuracy of several runs against patch size, by the tightest rule of each."""
    drawn = []
    with drawing(3.3) as figure:
        axes = figure.subplots()
        for number, chapter in enumerate(chapters):
            label = f"{chapter.letter}: {chapter.run.run_id}"
            curve, points = curve_of(chapter.summary, "exact"), _points(chapter)
            if not curve and not points:
                continue
            drawn.append(label)
            if curve:
                _draw_curve(axes, curve, number, label)
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
        says = "Certified accuracy against the side of the patch, a curve a run: "
        return inline_svg(figure, "overlaid", says + ", ".join(drawn) + ".")


def _points(chapter: Chapter) -> list[tuple[int, Proportion]]:
    """Certificates asked for one by one: of squares, where no curve runs through every size."""
    if curve_of(chapter.summary, "exact"):
        return []
    return [
        (entry["patch_px"], Proportion(entry["hits"], entry["of"]))
        for entry in chapter.squares
        if entry["value"] is not None
    ]


def _draw_curve(
    axes: Axes,
    curve: Sequence[tuple[int, Proportion]],
    number: int,
    label: str,
    *,
    width: float = 1.6,
) -> None:
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


def _draw_points(
    axes: Axes, points: Sequence[tuple[int, Proportion]], number: int = 2, label: str = "certified"
) -> None:
    if not points:
        return
    sides, shares = zip(*points, strict=True)
    values = np.array([share.value for share in shares])
    bounds = np.array([share.interval() for share in shares]).T
    axes.errorbar(
        sides,
        values,
        yerr=np.abs(bounds - values),
        marker="o",
        capsize=3,
        color=SERIES[number % len(SERIES)],
        linestyle=LINES[number % len(LINES)],
        label=label,
    )


def _finish_accuracy(axes: Axes, figure: Figure) -> None:
    axes.set(xlabel="side of the square patch (px)", ylabel="of the labelled images")
    axes.set_ylim(0, 1)
    axes.set_xlim(0, None)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PERCENT)
    figure.legend(loc="outside lower center", ncols=2)
