"""Place patches at the rule's worst locations and at random ones, and choose their rivals.

Shapes: N images, V views, C classes.
"""

from dataclasses import dataclass

import numpy as np

from models.views.family import BoolArray, IntArray, Patch, ViewFamily
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
        y: Upper edge, in pixels of the attacker's grid.
        x: Left edge.
        rival: The class to push views to.
        touched_v: Views that show a pixel of the patch; bool (V,).
        prediction: Answer without the patch, or ``ALERT``.
        votes: Votes of all views without the patch; (V,), or (V, T) with -1.
        kept_c: Votes for each class of the untouched views; -1 for classes that cannot be voted
            for; int (C,).
        seed: Decides the first pixels, and the views asked in a step.
    """

    image: int
    y: int
    x: int
    rival: int
    touched_v: BoolArray
    prediction: int
    votes: VoteArray
    kept_c: IntArray
    seed: tuple[int, ...]

    def window(self, patch: Patch) -> tuple[slice, slice]:
        """Return the rows and columns of an image that the patch covers."""
        return slice(self.y, self.y + patch.height), slice(self.x, self.x + patch.width)


def place_attempts(
    selected: Selected,
    manifest: Manifest,
    patch: Patch,
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
    target = Target.of(manifest.defense, patch)
    attempts: list[list[Attempt]] = []
    for number, margins_yx in enumerate(target.margins_at(selected.votes, selected.plain_n)):
        rng = np.random.default_rng([seed, 1, number])
        places = _places(margins_yx, manifest.defense.views, patch, locations, rng)
        attempts.append(
            [
                _attempt(
                    selected,
                    manifest,
                    patch,
                    number,
                    yx=yx,
                    seed=(seed, 2, number, index, restart),
                )
                for restart in range(restarts)
                for index, yx in enumerate(places)
            ]
        )
    return attempts


def _places(
    margins_yx: IntArray, views: ViewFamily, patch: Patch, count: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Draw upper left corners (y, x), all different."""
    high, wide = views.height - patch.height + 1, views.width - patch.width + 1
    worst = iter(np.lexsort((rng.permutation(margins_yx.size), margins_yx.ravel())).tolist())
    places: list[tuple[int, int]] = []
    while len(places) < min(count, high * wide):
        y, x = int(rng.integers(high)), int(rng.integers(wide))
        at = None if len(places) % _RANDOM_EVERY == _RANDOM_EVERY - 1 else next(worst, None)
        if at is not None:
            row, column = divmod(at, margins_yx.shape[1])
            # One row (column) of margins stands for all that the views cannot tell apart.
            y = y if margins_yx.shape[0] == 1 else row
            x = x if margins_yx.shape[1] == 1 else column
        if (y, x) not in places:
            places.append((y, x))
    return places


def _attempt(
    selected: Selected,
    manifest: Manifest,
    patch: Patch,
    number: int,
    *,
    yx: tuple[int, int],
    seed: tuple[int, ...],
) -> Attempt:
    touched_v = shows_patch(manifest.defense.views, patch, *yx)
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
        rival=rivals[seed[-1] % len(rivals)],
        touched_v=touched_v,
        prediction=prediction,
        votes=selected.votes[number],
        kept_c=kept_c,
        seed=seed,
    )
