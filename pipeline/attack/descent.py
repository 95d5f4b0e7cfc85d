"""Find the pixels of adversarial patches: projected gradient descent on rounded grey levels.

Shapes: A attempts, h x w pixels of the patch, H x W of the grid.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.classifiers.determinism import reproducible_gradients
from models.classifiers.smoothed import SmoothedClassifier
from models.views.family import BoolArray, IntArray
from pipeline.attack.canvas import Canvas
from pipeline.attack.gradient import VoteGradient
from pipeline.attack.placements import Attempt
from pipeline.attack.target import Target

# Grey levels of a step, decreasing evenly: large at first, so that a pixel can cross its whole
# range, and small at the end.
_FIRST_STEP, _LAST_STEP = 48.0, 2.0
_MOMENTUM = 0.5


class PatchDescent:
    """Makes patches against one smoothed classifier.

    Steps have the sign of the gradient, with momentum (Madry et al. 2018; Dong et al. 2018), and
    end inside [0, 255]. The patch is rounded before it is measured, and pasted into a picture that
    is resized as in a run; the gradient there moves the exact pixels, so the patch that is kept can
    be written to a file.

    Args:
        smoothed: The classifier; gradients of its parameters are switched off.
        target: The answer to change.
        steps: Gradient steps of an attempt.
        views: Views asked in a step; where more show the patch, a new sample for each step.
    """

    def __init__(
        self, smoothed: SmoothedClassifier, target: Target, *, steps: int, views: int
    ) -> None:
        self.gradient = VoteGradient(smoothed, target)
        self.steps, self.views = steps, views

    def __call__(
        self, canvases: Sequence[Canvas], attempts: Sequence[Attempt]
    ) -> tuple[NDArray[np.uint8], BoolArray]:
        """Make the best patch of each attempt, uint8 (A, h, w, 3); True where it wins, bool (A,).

        The best patch leaves the prediction the smallest lead, and among equal ones the rival the
        smallest loss; an attempt ends once it wins. Where too many views show the patch to ask them
        all in a step, the last pixels are taken, and False is returned: their effect is unknown. A
        patch that no view shows keeps its first pixels.

        Args:
            canvases: The picture of each attempt.
            attempts: The patches to make, all of one size.
        """
        with reproducible_gradients():
            return self._descend(canvases, list(attempts))

    def _descend(
        self, canvases: Sequence[Canvas], attempts: list[Attempt]
    ) -> tuple[NDArray[np.uint8], BoolArray]:
        rngs = [np.random.default_rng(attempt.seed) for attempt in attempts]
        shape = (*attempts[0].patch, 3)
        pictures = [canvas.read() for canvas in canvases]
        pixels = np.stack([rng.integers(0, 256, shape) for rng in rngs]).astype(np.float32)
        momentum = np.zeros_like(pixels)
        best = pixels.astype(np.uint8)
        best_lead, best_loss = np.full((2, len(attempts)), np.inf)
        wins = np.zeros(len(attempts), dtype=bool)
        whole = np.array([attempt.touched_v.sum() <= self.views for attempt in attempts])
        active = np.flatnonzero([attempt.touched_v.any() for attempt in attempts])
        for step, size in enumerate(np.linspace(_FIRST_STEP, _LAST_STEP, self.steps + 1)):
            if not len(active):  # no view shows any of them
                break
            chosen = active.tolist()
            rounded = pixels[active].round().astype(np.uint8)
            corners = [(attempts[index].y, attempts[index].x) for index in chosen]
            grids = [
                canvases[index].grid(canvases[index].pasted(pictures[index], yx, content))
                for index, yx, content in zip(chosen, corners, rounded, strict=True)
            ]
            leads, losses, by_grid = self.gradient(
                np.stack(grids),
                [attempts[index] for index in chosen],
                [self._asked(attempts[index], rngs[index]) for index in chosen],
            )
            # Leads from different samples of views are not comparable.
            better = ~whole[active] | (leads < best_lead[active])
            better |= (leads == best_lead[active]) & (losses <= best_loss[active])
            best[active[better]] = rounded[better]
            best_lead[active[better]] = leads[better]
            best_loss[active[better]] = losses[better]
            wins[active] = whole[active] & (leads < 0)
            going = ~wins[active]
            active = active[going]
            if step == self.steps or not len(active):
                break
            # A logit that is not finite has no gradient.
            by_grid = np.nan_to_num(by_grid, nan=0.0, posinf=0.0, neginf=0.0)
            gradient = np.stack(
                [
                    canvases[chosen[place]].pulled_back(by_grid[place], corners[place])
                    for place in np.flatnonzero(going)
                ]
            )
            scale = np.abs(gradient).mean(axis=(1, 2, 3), keepdims=True)
            # A gradient of zeros stays zero.
            scale[scale == 0] = 1
            momentum[active] = _MOMENTUM * momentum[active] + gradient / scale
            moved = pixels[active] - np.float32(size) * np.sign(momentum[active])
            pixels[active] = moved.clip(0, 255)
        return best, wins

    def _asked(self, attempt: Attempt, rng: np.random.Generator) -> IntArray:
        """Choose the views to ask in a step."""
        touched = np.flatnonzero(attempt.touched_v)
        if len(touched) <= self.views:
            return touched
        return np.sort(rng.choice(touched, self.views, replace=False))
