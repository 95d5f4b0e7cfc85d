"""The breaking places of a run as one picture: curves for bands, maps for blocks."""

import io
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline import storage
from pipeline.certificates.threats import Threat
from pipeline.questions.heatmap import BreakingMap, breaking_maps, picture_path, write_maps
from pipeline.questions.run import Run
from pipeline.report.style import LINES, PERCENT, SERIES

_PANEL_INCHES = 3.7


class Drawn(NamedTuple):
    """A run's heat map.

    Attributes:
        maps: What was counted, a patch each.
        locations: Paths of the numbers, a file a patch.
        path: Where the picture lies.
        picture: PNG.
    """

    maps: list[BreakingMap]
    locations: list[str]
    path: str
    picture: bytes


def draw_run(run: Run, threats: Iterable[Threat], *, asked: bool = False) -> Drawn:
    """Count, draw, and write both.

    Args:
        run: The run.
        threats: One rectangle each, at least one.
        asked: Whether these were asked for, rather than being those of the run's certificates: the
            picture's name then says which they are.

    Raises:
        ConfigError, ManifestError, StoreError: As ``breaking_maps``.
    """
    maps = breaking_maps(run, sorted(set(threats), key=lambda threat: threat.order))
    path = picture_path(run.store, maps if asked else ())
    drawn = Drawn(maps, write_maps(maps), path, draw_maps(maps))
    storage.write_atomically(drawn.path, drawn.picture)
    return drawn


def draw_maps(maps: Sequence[BreakingMap]) -> bytes:
    """The picture as PNG.

    Args:
        maps: Of one run, a patch each, at least one.
    """
    # Never a window: jobs have no display.
    mpl.use("agg")
    block = maps[0].run.ablation.kind == "block"
    figure = _blocks(maps) if block else _bands(maps)
    figure.suptitle(_title(maps[0]), fontsize="medium")
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=150)
    return sink.getvalue()


def _title(found: BreakingMap) -> str:
    run, ablation = found.run, found.run.ablation
    positions = f"{len(ablation)} random positions"
    if ablation.random is None:
        positions = f"stride {ablation.stride}"
    which = "rightly predicted images" if found.right.images else "images (no labels)"
    return (
        f"Breaking places: {run.manifest.identity['model']['name']}, {ablation.kind} "
        f"b={ablation.size} px, {positions}\nshare of {found.shown.images:,} {which} that a patch "
        "at each place leaves uncertified (dot: the worst)"
    )


def _label(found: BreakingMap) -> str:
    anywhere = found.shown.anywhere / max(1, found.shown.images)
    return f"{found.patch} (over all places: {100 * anywhere:.1f} %)"


def _bands(maps: Sequence[BreakingMap]) -> Figure:
    """A curve a patch over the one coordinate that matters."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, found in enumerate(maps):
        colour, line = SERIES[number % len(SERIES)], LINES[number % len(LINES)]
        share = found.share_yx.ravel()
        axes.plot(share, color=colour, linestyle=line, drawstyle="steps-mid", label=_label(found))
        worst = int(share.argmax())
        axes.plot(worst, share[worst], "o", color=colour, markeredgecolor="white")
    column = maps[0].run.ablation.kind == "column"
    axes.set(
        xlabel=f"{'left' if column else 'upper'} edge of the patch (px)",
        ylabel="uncertified because of this place",
        ylim=(0, None),
    )
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PERCENT)
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
    low = min(float(found.share_yx.min()) for found in maps)
    high = max(float(found.share_yx.max()) for found in maps)
    for axes, found in zip(panels, maps, strict=False):
        _block(axes, found, low, high)
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    bar = figure.colorbar(panels[0].images[0], ax=list(panels), shrink=0.8, pad=0.02)
    bar.set_label("uncertified because of this place")
    bar.ax.yaxis.set_major_formatter(PERCENT)
    return figure


def _block(axes: Axes, found: BreakingMap, low: float, high: float) -> None:
    height, width = found.share_yx.shape
    axes.imshow(
        found.share_yx,
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        cmap="cividis",
        vmin=low,
        vmax=high,
        interpolation="nearest",
    )
    y, x = found.worst
    axes.plot(x, y, "o", color=SERIES[1], markeredgecolor="white", clip_on=False)
    axes.set(xlabel="left edge of the patch (px)", ylabel="upper edge (px)")
    axes.set_title(textwrap.fill(_label(found), 36), fontsize="small")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, nbins=6))
