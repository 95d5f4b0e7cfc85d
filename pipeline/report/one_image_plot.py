"""One picture of one image: what the model sees, some views, their tokens, the worst patch."""

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
from models.views.masks import Masks
from pipeline.report.one_image import Scene
from pipeline.report.pixels import kept, visible
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
    views = shown_views(scene)
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


def shown_views(scene: Scene) -> list[int]:
    """Views to draw: spread evenly, from the first to the last, which wraps around the edge.

    Of masks first those that fail, and one that hides the worst patch alone.
    """
    count = len(scene.views)
    spread = np.linspace(0, count - 1, min(_SHOWN_VIEWS, count)).round().astype(int).tolist()
    chosen: list[int] = []
    if isinstance(scene.views, Masks):
        hiding = [view for view in scene.views.alone.tolist() if not _touches(scene, view)]
        chosen = [*scene.worst.failing[:2], *hiding[:1]]
    chosen = list(dict.fromkeys([*chosen, *spread]))
    return sorted(chosen[: len(spread)])


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
    hidden = (_entering(scene, view) & ~visible(scene.views, view) for view in views)
    if scene.drops and any(pixels.any() for pixels in hidden):
        which = "view" if scene.views.hides else "ablation"
        notes.append(f"Black in a kept token: pixels that the {which} hides.")
    return notes


def _entering(scene: Scene, view: int) -> NDArray[np.bool_]:
    """Pixels of the tokens that enter; bool (model height, model width)."""
    if scene.token_px is None or not scene.drops:
        return np.full(scene.pixels.shape[:2], scene.token_px is not None)
    return kept(scene.views, view, scene.token_px)


def _place(axes: Axes, scene: Scene, pixels: NDArray[Any]) -> None:
    """An image on axes that count the attacker's pixels."""
    extent = (0, scene.views.width, scene.views.height, 0)
    axes.imshow(pixels, extent=extent, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def _outline(axes: Axes, scene: Scene) -> None:
    """The patch at its worst location; in the middle where the views cannot tell."""
    views, patch, worst = scene.views, scene.patch, scene.worst
    x = (views.width - patch.width) / 2 if worst.x is None else worst.x
    y = (views.height - patch.height) / 2 if worst.y is None else worst.y
    look: dict[str, Any] = {"fill": False, "edgecolor": _PATCH, "linewidth": 2}
    axes.add_patch(Rectangle((x, y), patch.width, patch.height, **look))
    if worst.other is not None:
        seen = views.coordinates(*worst.other)
        corner = (x if seen[1] is None else seen[1], y if seen[0] is None else seen[0])
        axes.add_patch(Rectangle(corner, patch.width, patch.height, linestyle="--", **look))


def _draw_image(axes: Axes, scene: Scene) -> None:
    _place(axes, scene, scene.pixels)
    _outline(axes, scene)
    height, width = scene.pixels.shape[:2]
    axes.set_title(
        f"what the model sees, {height}x{width} px\nand the patch at its worst", fontsize=10
    )


def _draw_landscape(axes: Axes, scene: Scene) -> None:
    """Draw the effect of the patch at each location: a line for bands, a map for blocks."""
    worst = scene.worst
    values = worst.landscape_yx
    masks = isinstance(scene.views, Masks)
    what = f"{'views' if masks else 'ablations'} touched" if worst.margin is None else "margin"
    if all(scene.views.varies):
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
    # Along an axis that the views cannot tell apart there is one location for all.
    y, x = scene.worst.y or 0, scene.worst.x or 0
    window = np.s_[y : y + scene.patch.height, x : x + scene.patch.width]
    return bool(scene.views.visible(view)[window].any())


def _named(scene: Scene, view: int) -> str:
    """A view by its number and place."""
    views = scene.views
    if isinstance(views, Masks):
        first, second = int(views.first_v[view]), int(views.second_v[view])
        return f"view {view}: " + (
            f"mask {first}" if first == second else f"masks {first}, {second}"
        )
    assert isinstance(views, Ablation)
    # Narrow, so that titles of neighbours do not meet.
    where = location(*views.coordinates(*views.positions[view])).replace(" = ", "=")
    return f"ablation {view}: {where}"


def _draw_ablation(axes: Axes, scene: Scene, view: int) -> None:
    shown = visible(scene.views, view)
    _place(axes, scene, np.where(shown[:, :, None], scene.pixels, 0))
    touched = _touches(scene, view)
    if touched or scene.views.hides:
        _outline(axes, scene)
    if touched:
        axes.set_xlabel("touched by the patch", color=_PATCH)
        for spine in axes.spines.values():
            spine.set(edgecolor=_PATCH, linewidth=2)
    else:
        axes.set_xlabel("not touched", color=_OTHER)
    title = _named(scene, view)
    if view in scene.worst.failing:
        title += " (fails)"
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
    shown = np.where(visible(scene.views, view)[:, :, None], scene.pixels / 255.0, 0.0)
    _place(axes, scene, np.where(_entering(scene, view)[:, :, None], shown, _DROPPED))
    step_y, step_x = scene.views.height / rows, scene.views.width / columns
    axes.hlines(np.arange(rows + 1) * step_y, 0, scene.views.width, "#999999", linewidth=0.4)
    axes.vlines(np.arange(columns + 1) * step_x, 0, scene.views.height, "#999999", linewidth=0.4)
    of, kept = rows * columns, len(scene.views.kept_tokens(view, scene.token_px))
    title = (
        f"keeps {kept} of {of} tokens"
        if scene.drops
        else f"all {of} tokens enter,\n{of - kept} of them black"
    )
    axes.set_title(title, fontsize=10)
