"""Place patches at the rule's worst locations and at random ones, and choose their rivals.

Shapes: N images, V views, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.resampling import Interval
from models.views.family import BoolArray, IntArray, Patch
from pipeline.attack.canvas import Canvas, rectangle
from pipeline.attack.independent import shows_patch, strengths, votes_for
from pipeline.attack.selection import Selected
from pipeline.attack.target import Target
from pipeline.certificates.votes import VoteArray
from pipeline.runs.manifest import Manifest

# Every fourth location is drawn at random: the rule could be wrong about the worst ones.
_RANDOM_EVERY = 4


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One patch to make.

    Attributes:
        image: Number of the image among the selected ones.
        y: Upper edge, in pixels of the picture that it is pasted into.
        x: Left edge.
        patch: Height and width there.
        on_grid: Rows and columns of the grid that it can change.
        target: The answer to change.
        rival: The class to push views to.
        touched_v: Views that show a pixel that it can change; bool (V,).
        prediction: Answer without the patch, or ``ALERT``.
        votes: Votes of all views without the patch; (V,), or (V, T) with -1.
        kept_c: Votes for each class of the untouched views; -1 for classes that cannot be voted
            for; int (C,).
        seed: Decides the first pixels, and the views asked in a step.
    """

    image: int
    y: int
    x: int
    patch: Patch
    on_grid: tuple[Interval, Interval]
    target: Target
    rival: int
    touched_v: BoolArray
    prediction: int
    votes: VoteArray
    kept_c: IntArray
    seed: tuple[int, ...]


def place_attempts(
    selected: Selected,
    manifest: Manifest,
    canvases: Sequence[Canvas],
    *,
    locations: int,
    restarts: int,
    seed: int,
) -> list[list[Attempt]]:
    """Plan the attempts on each image, in the order to be made; one list an image.

    All locations come before the first restart. They are those of the smallest margin, in random
    order where they tie, and every fourth one is any location. A coordinate that the views cannot
    tell apart is random too: the pixels there differ.
    """
    attempts: list[list[Attempt]] = [[] for _ in canvases]
    for target, images in selected.asked:
        margins = target.margins_at(selected.votes[images], selected.plain_n[images])
        for number, margins_yx in zip(images.tolist(), margins, strict=True):
            rng = np.random.default_rng([seed, 1, number])
            places = _places(margins_yx, canvases[number], target.patch, locations, rng)
            attempts[number] = [
                _attempt(
                    selected,
                    manifest,
                    canvases[number],
                    target,
                    number,
                    yx=yx,
                    seed=(seed, 2, number, index, restart),
                )
                for restart in range(restarts)
                for index, yx in enumerate(places)
            ]
    return attempts


def _places(
    margins_yx: IntArray, canvas: Canvas, on_grid: Patch, count: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Draw upper left corners (y, x) in the picture, all different.

    Args:
        margins_yx: The margins of rectangles ``on_grid`` at every location of the grid.
        canvas: The picture.
        on_grid: Height and width of a rectangle that holds all that a patch can change.
        count: Number of corners.
        rng: Draws them.
    """
    edges = canvas.corners(on_grid)
    high, wide = map(len, edges)
    order = np.lexsort((rng.permutation(margins_yx.size), margins_yx.ravel()))
    worst = zip(*np.unravel_index(order, margins_yx.shape), strict=True)
    places: list[tuple[int, int]] = []
    while len(places) < min(count, high * wide):
        y, x = int(rng.integers(high)), int(rng.integers(wide))
        at = None if len(places) % _RANDOM_EVERY == _RANDOM_EVERY - 1 else next(worst, None)
        if at is not None:
            fitting = [
                # One row (column) of margins stands for all that the views cannot tell apart.
                np.flatnonzero(edge >= 0 if margins_yx.shape[axis] == 1 else edge == at[axis])
                for axis, edge in enumerate(edges)
            ]
            if not all(map(len, fitting)):
                continue
            y, x = (
                place if place in edge else int(rng.choice(edge))
                for place, edge in zip((y, x), fitting, strict=True)
            )
        if (y, x) not in places:
            places.append((y, x))
    return places


def _attempt(
    selected: Selected,
    manifest: Manifest,
    canvas: Canvas,
    target: Target,
    number: int,
    *,
    yx: tuple[int, int],
    seed: tuple[int, ...],
) -> Attempt:
    views = manifest.defense.views
    on_grid = canvas.reach.changed(*yx, canvas.patch)
    touched_v = np.zeros(len(views), bool)
    rows, columns = rectangle(*on_grid)
    changed = Patch(rows.stop - rows.start, columns.stop - columns.start)
    if min(changed) > 0:
        touched_v = shows_patch(views, changed, rows.start, columns.start)
    kept_c = votes_for(
        selected.votes[number][~touched_v],
        manifest.defense.network.classes,
        manifest.defense.network.num_classes,
    )
    prediction = int(selected.predictions_n[number])
    # The rival that needs fewest votes, and for every other restart the next one.
    strength_c = strengths(kept_c, prediction if prediction >= 0 else int(kept_c.argmax()))
    ranked = np.argsort(-strength_c, kind="stable")
    rivals = [int(rival) for rival in ranked[:2] if strength_c[rival] >= 0]
    return Attempt(
        image=number,
        y=yx[0],
        x=yx[1],
        patch=canvas.patch,
        on_grid=on_grid,
        target=target,
        rival=rivals[seed[-1] % len(rivals)],
        touched_v=touched_v,
        prediction=prediction,
        votes=selected.votes[number],
        kept_c=kept_c,
        seed=seed,
    )
