"""One picture of one image: what the model sees, some ablations, their tokens, the worst patch."""

import re
import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from models.views.ablations import Ablation
from pipeline.report.one_image import Scene
from pipeline.report.style import SERIES, integers, png
from pipeline.scoring.words import location

_WINNER, _PATCH, _RIVAL, _OTHER = SERIES[0], SERIES[1], SERIES[3], "#666666"
_DROPPED = 0.88
_SHOWN_VIEWS = 5


def draw_scene(scene: Scene) -> bytes:
    """The picture as PNG."""
    return png(draw_figure(scene), dpi=120)


def draw_figure(scene: Scene) -> Figure:
    """Draw the picture."""
    figure = Figure(figsize=(14, 7), layout="constrained")
    # Room for the caption, which the layout would not make of itself.
    views = shown_views(scene.ablation)
    # No line ends inside a sum.
    whole = re.sub(r" ([-+]) ", "\N{NO-BREAK SPACE}\\1\N{NO-BREAK SPACE}", scene.caption)
    caption = textwrap.fill(" ".join([whole, *explained(scene, views)]), 165)
    lines = caption.count("\n") + 1
    below = 0.035 + 0.027 * lines
    figure.get_layout_engine().set(rect=(0, below, 1, 1 - below), w_pad=0.06, h_pad=0.08)  # type: ignore[union-attr,call-arg]
    figure.text(0.5, 0.018, caption, ha="center", va="bottom")
    figure.suptitle(scene.title, fontsize="x-large")
    grid = GridSpec(2, 2 + len(views), figure, width_ratios=[1, 0.02] + [1] * len(views))
    _draw_image(figure.add_subplot(grid[0, 0]), scene)
    _draw_landscape(figure.add_subplot(grid[1, 0]), scene)
    for place, view in enumerate(views):
        _draw_ablation(figure.add_subplot(grid[0, 2 + place]), scene, view)
        if scene.token_px is not None:
            _draw_tokens(figure.add_subplot(grid[1, 2 + place]), scene, view)
    return figure


def shown_views(ablation: Ablation) -> list[int]:
    """Views to draw: spread evenly, from the first to the last, which wraps around the edge."""
    spread = np.linspace(0, len(ablation) - 1, min(_SHOWN_VIEWS, len(ablation)))
    return [int(view) for view in spread.round()]


def explained(scene: Scene, views: list[int]) -> list[str]:
    """Explain the colours of these views in sentences, and no colours that they lack."""
    notes = []
    if scene.votes_v is not None:
        cast = {int(scene.votes_v[view]) for view in views}
        words = [
            text
            for star, text in (
                (scene.worst.prediction, "for the prediction are blue"),
                (scene.worst.rival, "for the rival pink"),
            )
            if star in cast
        ]
        others = cast - {scene.worst.prediction, scene.worst.rival}
        notes.append(f"Votes {', '.join([*words, *(['others grey'] if others else [])])}.")
    hidden = (_entering(scene, view) & ~_visible(scene, view) for view in views)
    if scene.drops and any(pixels.any() for pixels in hidden):
        notes.append("Black in a kept token: pixels that the ablation hides.")
    return notes


def _entering(scene: Scene, view: int) -> NDArray[np.bool_]:
    """Pixels of the tokens that enter; bool (model height, model width)."""
    if scene.token_px is None:
        return np.zeros(scene.pixels.shape[:2], bool)
    height, width = scene.token_px
    rows, columns = scene.pixels.shape[0] // height, scene.pixels.shape[1] // width
    enters = np.full(rows * columns, not scene.drops)
    enters[scene.ablation.kept_tokens(view, scene.token_px)] = True
    return enters.reshape(rows, columns).repeat(height, axis=0).repeat(width, axis=1)


def _visible(scene: Scene, view: int) -> NDArray[np.bool_]:
    scale = scene.ablation.pixel_scale
    return scene.ablation.visible(view).repeat(scale, axis=0).repeat(scale, axis=1)


def _place(axes: Axes, scene: Scene, pixels: NDArray[Any]) -> None:
    """An image on axes that count the attacker's pixels."""
    ablation = scene.ablation
    axes.imshow(pixels, extent=(0, ablation.width, ablation.height, 0), interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def _outline(axes: Axes, scene: Scene) -> None:
    """The patch at its worst location; in the middle where the ablations cannot tell."""
    ablation, patch, worst = scene.ablation, scene.patch, scene.worst
    x = (ablation.width - patch.width) / 2 if worst.x is None else worst.x
    y = (ablation.height - patch.height) / 2 if worst.y is None else worst.y
    place = Rectangle((x, y), patch.width, patch.height, fill=False, edgecolor=_PATCH, linewidth=2)
    axes.add_patch(place)


def _draw_image(axes: Axes, scene: Scene) -> None:
    _place(axes, scene, scene.pixels)
    _outline(axes, scene)
    height, width = scene.pixels.shape[:2]
    axes.set_title(
        f"what the model sees, {height}x{width} px\nand the patch at its worst", fontsize=10
    )


def _draw_landscape(axes: Axes, scene: Scene) -> None:
    """Draw the effect of the patch at each location: a line for bands, a map for blocks."""
    ablation, worst = scene.ablation, scene.worst
    values = worst.landscape_yx
    what = "ablations touched" if worst.margin is None else "margin"
    if all(ablation.varies):
        axes.imshow(
            values,
            extent=(0, values.shape[1], values.shape[0], 0),
            cmap="cividis" if worst.margin is None else "cividis_r",
            interpolation="nearest",
        )
        assert worst.x is not None
        assert worst.y is not None
        axes.plot(
            worst.x + 0.5, worst.y + 0.5, "o", color=_PATCH, markeredgecolor="white", clip_on=False
        )
        axes.set(xlabel="left edge of the patch (px)", ylabel="upper edge (px)")
        axes.set_title(f"{what}\nby patch location", fontsize=10)
        axes.figure.colorbar(axes.images[0], ax=axes, shrink=0.7, pad=0.03)
        return
    edge = (worst.y if worst.x is None else worst.x) or 0
    axes.plot(values.ravel(), color=_WINNER, drawstyle="steps-mid")
    axes.plot(edge, values.ravel()[edge], "o", color=_PATCH, markeredgecolor="white", clip_on=False)
    if worst.margin is not None:
        axes.axhline(0, color=_OTHER, linewidth=1, linestyle="--")
    else:
        axes.set_ylim(0, values.max() * 1.1)
    side = "upper" if worst.x is None else "left"
    axes.set(xlabel=f"{side} edge of the patch (px)")
    integers(axes.yaxis)
    axes.set_title(f"{what}\nby patch location", fontsize=10)
    axes.set_box_aspect(1)
    axes.grid(alpha=0.3)


def _touches(scene: Scene, view: int) -> bool:
    rows, columns = scene.ablation.touched_axes(scene.patch)
    # Along an axis that the ablations cannot tell apart there is one location for all.
    return bool(rows[scene.worst.y or 0, view] and columns[scene.worst.x or 0, view])


def _draw_ablation(axes: Axes, scene: Scene, view: int) -> None:
    visible = _visible(scene, view)
    _place(axes, scene, np.where(visible[:, :, None], scene.pixels, 0))
    y, x = scene.ablation.positions[view]
    if _touches(scene, view):
        _outline(axes, scene)
        axes.set_xlabel("touched by the patch", color=_PATCH)
        for spine in axes.spines.values():
            spine.set(edgecolor=_PATCH, linewidth=2)
    else:
        axes.set_xlabel("not touched", color=_OTHER)
    # Narrow, so that titles of neighbours do not meet.
    where = location(*scene.ablation.coordinates(y, x)).replace(" = ", "=")
    title = f"ablation {view}: {where}"
    colour = "black"
    if scene.votes_v is not None:
        vote = int(scene.votes_v[view])
        known = {scene.worst.rival: _RIVAL, scene.worst.prediction: _WINNER}
        colour = known.get(vote, _OTHER)
        title += f"\n{textwrap.shorten(scene.name_of(vote), 26, placeholder='...')}"
    axes.set_title(title, fontsize=10, color=colour)


def _draw_tokens(axes: Axes, scene: Scene, view: int) -> None:
    """The tokens that enter, with their black pixels; those left out are pale."""
    assert scene.token_px is not None
    height, width = scene.pixels.shape[:2]
    rows, columns = height // scene.token_px[0], width // scene.token_px[1]
    shown = np.where(_visible(scene, view)[:, :, None], scene.pixels / 255.0, 0.0)
    _place(axes, scene, np.where(_entering(scene, view)[:, :, None], shown, _DROPPED))
    step_y, step_x = scene.ablation.height / rows, scene.ablation.width / columns
    axes.hlines(np.arange(rows + 1) * step_y, 0, scene.ablation.width, "#999999", linewidth=0.4)
    axes.vlines(np.arange(columns + 1) * step_x, 0, scene.ablation.height, "#999999", linewidth=0.4)
    of, kept = rows * columns, len(scene.ablation.kept_tokens(view, scene.token_px))
    title = (
        f"keeps {kept} of {of} tokens"
        if scene.drops
        else f"all {of} tokens enter,\n{of - kept} of them black"
    )
    axes.set_title(title, fontsize=10)
