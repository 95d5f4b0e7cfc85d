"""The pixels of adversarial patches: projected gradient descent towards rounded grey levels.

Shapes: A attempts, h x w pixels of the patch, H x W of the attacker's grid.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.ablation import BoolArray, IntArray, Patch
from models.smoothing import SmoothedClassifier
from pipeline.attack.attempt import Attempt
from pipeline.attack.gradient import VoteGradient
from pipeline.gradients import reproducible_gradients

# Grey levels of a step, falling evenly: far at first, so that a pixel can cross from one end of
# its range to the other, and fine at last.
_FIRST_STEP, _LAST_STEP = 48.0, 2.0
_MOMENTUM = 0.5


class PatchDescent:
    """Makes patches against one smoothed classifier.

    Steps have the sign of the gradient, with momentum (Madry et al. 2018; Dong et al. 2018), and
    end inside [0, 255]. What is looked at is always rounded, and its gradient moves the pixels
    behind it, so the patch that is kept is one that can be written to a file.

    Args:
        smoothed: The classifier; its parameters stop asking for gradients.
        patch: Height and width, in pixels of the attacker's grid.
        steps: Gradient steps an attempt.
        views: Ablations asked in a step; where more see the patch, so many of them, drawn anew.
    """

    def __init__(
        self, smoothed: SmoothedClassifier, patch: Patch, *, steps: int, views: int
    ) -> None:
        self.gradient = VoteGradient(smoothed, patch)
        self.patch, self.steps, self.views = patch, steps, views

    def __call__(
        self, images_ahwc: NDArray[np.uint8], attempts: Sequence[Attempt]
    ) -> tuple[NDArray[np.uint8], BoolArray]:
        """The best patch of each attempt, uint8 (A, h, w, 3), and whether it wins, bool (A,).

        Best leaves the prediction the smallest lead, and of those the rival the least to catch up;
        an attempt ends once it wins. Where too many ablations see the patch to ask them all in a
        step, the last pixels are taken, and whether they win is left open: False.

        Args:
            images_ahwc: The image of each attempt; uint8 (A, H, W, 3).
            attempts: What to make.
        """
        with reproducible_gradients():
            return self._descend(images_ahwc, list(attempts))

    def _descend(
        self, images_ahwc: NDArray[np.uint8], attempts: list[Attempt]
    ) -> tuple[NDArray[np.uint8], BoolArray]:
        rngs = [np.random.default_rng(attempt.seed) for attempt in attempts]
        shape = (self.patch.height, self.patch.width, 3)
        pixels = np.stack([rng.integers(0, 256, shape) for rng in rngs]).astype(np.float32)
        momentum = np.zeros_like(pixels)
        best = pixels.astype(np.uint8)
        best_lead, best_loss = np.full((2, len(attempts)), np.inf)
        wins = np.zeros(len(attempts), dtype=bool)
        whole = np.array([attempt.seen_v.sum() <= self.views for attempt in attempts])
        active = np.arange(len(attempts))
        for step, size in enumerate(np.linspace(_FIRST_STEP, _LAST_STEP, self.steps + 1)):
            chosen = active.tolist()
            rounded = pixels[active].round()
            leads, losses, gradient = self.gradient(
                images_ahwc[active],
                rounded,
                [attempts[index] for index in chosen],
                [self._asked(attempts[index], rngs[index]) for index in chosen],
            )
            # Leads by some of the ablations are not comparable between steps.
            better = ~whole[active] | (leads < best_lead[active])
            better |= (leads == best_lead[active]) & (losses <= best_loss[active])
            best[active[better]] = rounded[better].astype(np.uint8)
            best_lead[active[better]] = leads[better]
            best_loss[active[better]] = losses[better]
            wins[active] = whole[active] & (leads < 0)
            going = ~wins[active]
            active, gradient = active[going], gradient[going]
            if step == self.steps or not len(active):
                break
            scale = np.abs(gradient).mean(axis=(1, 2, 3), keepdims=True)
            # A gradient of nothing but zeros stays one.
            scale[scale == 0] = 1
            momentum[active] = _MOMENTUM * momentum[active] + gradient / scale
            moved = pixels[active] - np.float32(size) * np.sign(momentum[active])
            pixels[active] = moved.clip(0, 255)
        return best, wins

    def _asked(self, attempt: Attempt, rng: np.random.Generator) -> IntArray:
        """Ablations to ask in a step."""
        seen = np.flatnonzero(attempt.seen_v)
        if len(seen) <= self.views:
            return seen
        return np.sort(rng.choice(seen, self.views, replace=False))
