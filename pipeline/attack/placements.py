"""Where patches are tried, and for which rival: the exact rule's worst locations, and random ones.

Shapes: N images, V ablations, C classes.
"""

import numpy as np

from models.ablation import Ablation, IntArray, Patch
from pipeline.attack.attempt import Attempt
from pipeline.attack.counting import votes_for
from pipeline.attack.sight import sees_patch
from pipeline.attack.victims import Victims, rule_votes
from pipeline.certificates.landscape import landscapes
from pipeline.manifest import Manifest

# Every so many-th place is drawn at random: the rule could be wrong about which ones are worst.
_RANDOM_EVERY = 4


def place_attempts(
    victims: Victims, manifest: Manifest, patch: Patch, *, locations: int, restarts: int, seed: int
) -> list[list[Attempt]]:
    """The attempts on each image, in the order to be made; one list an image.

    All places come before the first restart. Places are the locations of the smallest exact
    margin, in random order where they tie, and every fourth one any location. A coordinate that
    the ablations cannot tell apart is random too: to the pixels it is not the same.
    """
    ablation = manifest.ablation
    votes, classes = rule_votes(victims.votes, manifest)
    attempts: list[list[Attempt]] = []
    for images, found in landscapes(votes, ablation, patch, classes):
        for number, margins_yx in zip(range(len(votes))[images], found.margins_nyx, strict=True):
            rng = np.random.default_rng([seed, 1, number])
            places = _places(margins_yx, ablation, patch, locations, rng)
            attempts.append(
                [
                    _attempt(
                        victims,
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
    margins_yx: IntArray, ablation: Ablation, patch: Patch, count: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Upper left corners (y, x), all different."""
    high, wide = ablation.height - patch.height + 1, ablation.width - patch.width + 1
    worst = iter(np.lexsort((rng.permutation(margins_yx.size), margins_yx.ravel())).tolist())
    places: list[tuple[int, int]] = []
    while len(places) < min(count, high * wide):
        y, x = int(rng.integers(high)), int(rng.integers(wide))
        at = None if len(places) % _RANDOM_EVERY == _RANDOM_EVERY - 1 else next(worst, None)
        if at is not None:
            row, column = divmod(at, margins_yx.shape[1])
            # One row (column) of margins stands for all that the ablations cannot tell apart.
            y = y if margins_yx.shape[0] == 1 else row
            x = x if margins_yx.shape[1] == 1 else column
        if (y, x) not in places:
            places.append((y, x))
    return places


def _attempt(
    victims: Victims,
    manifest: Manifest,
    patch: Patch,
    number: int,
    *,
    yx: tuple[int, int],
    seed: tuple[int, ...],
) -> Attempt:
    seen_v = sees_patch(manifest.ablation, patch, *yx)
    kept_c = votes_for(victims.votes[number][~seen_v], manifest.classes, manifest.num_classes)
    prediction = int(victims.predictions_n[number])
    # The rival that needs fewest votes, and for every other restart the next one.
    strength_c = kept_c + (np.arange(len(kept_c)) < prediction)
    strength_c[kept_c < 0] = strength_c[prediction] = -1
    ranked = np.argsort(-strength_c, kind="stable")
    rivals = [int(rival) for rival in ranked[:2] if strength_c[rival] >= 0]
    return Attempt(
        image=number,
        y=yx[0],
        x=yx[1],
        rival=rivals[seed[-1] % len(rivals)],
        seen_v=seen_v,
        prediction=prediction,
        kept_c=kept_c,
        seed=seed,
    )
