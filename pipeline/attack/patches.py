"""Make all patches of an attack, and the images that carry them.

Shapes: N images, P patches, H x W pixels of the attacker's grid.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.classifiers.smoothed import SmoothedClassifier
from models.views.family import Patch
from pipeline.attack.config import AttackConfig
from pipeline.attack.descent import PatchDescent
from pipeline.attack.placements import Attempt, place_attempts
from pipeline.attack.rerun import model_input
from pipeline.attack.selection import Selected
from pipeline.attack.target import Target
from pipeline.runs.manifest import Manifest

# Sequences of one step: enough to keep a processor busy, few enough to stop soon after a success.
_BATCH_SEQUENCES = 256
_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, kw_only=True)
class Patches:
    """The patches of an attack, and the images before and after.

    Attributes:
        manifest: The run.
        patch: Height and width of each patch.
        selected: The images with their stored votes; N of them.
        images: Their pixels; uint8 (N, H, W, 3).
        attempts: The patches, in the order of the images; P of them.
        patched: The attacked images; uint8 (P, H, W, 3).
    """

    manifest: Manifest
    patch: Patch
    selected: Selected
    images: NDArray[np.uint8]
    attempts: list[Attempt]
    patched: NDArray[np.uint8]


def make_patches(
    smoothed: SmoothedClassifier,
    manifest: Manifest,
    selected: Selected,
    images: NDArray[np.uint8],
    *,
    patch: Patch,
    config: AttackConfig,
) -> Patches:
    """Make the patches in rounds: one attempt an image, on the images not yet changed."""
    target = Target.of(manifest.defense, patch)
    descent = PatchDescent(smoothed, target, steps=config.steps, views=config.views)
    known = selected
    if not target.counts_votes:  # of early exit some votes are not stored
        votes = smoothed(model_input(images, manifest.defense.views.pixel_scale)).votes_bv
        known = replace(selected, votes=votes)
    planned = place_attempts(
        known,
        manifest,
        patch,
        locations=config.locations,
        restarts=config.restarts,
        seed=config.seed,
    )
    made: list[tuple[Attempt, NDArray[np.uint8]]] = []
    changed: set[int] = set()
    last_line = time.monotonic()
    rounds = max(len(attempts) for attempts in planned)
    for number in range(rounds):
        left = [
            attempts[number]
            for image, attempts in enumerate(planned)
            if image not in changed and number < len(attempts)
        ]
        for batch in _batches(left, config.views):
            pixels, wins = descent(images[[attempt.image for attempt in batch]], batch)
            made += zip(batch, pixels, strict=True)
            changed |= {attempt.image for attempt, won in zip(batch, wins, strict=True) if won}
            if time.monotonic() - last_line >= _SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                print(
                    f"attack: {len(made)} patches, round {number + 1} of at most {rounds}, "
                    f"{len(changed)} of {len(images)} images changed",
                    file=sys.stderr,
                    flush=True,
                )
    made.sort(key=lambda pair: pair[0].seed)
    patched = images[[attempt.image for attempt, _ in made]]
    for image, (attempt, pixels) in zip(patched, made, strict=True):
        image[attempt.window(patch)] = pixels
    return Patches(
        manifest=manifest,
        patch=patch,
        selected=selected,
        images=images,
        attempts=[attempt for attempt, _ in made],
        patched=patched,
    )


def _batches(attempts: Sequence[Attempt], views: int) -> list[list[Attempt]]:
    """Group attempts so that their views fill a batch, at least one attempt each."""
    batches: list[list[Attempt]] = []
    room = 0
    for attempt in attempts:
        cost = min(views, int(attempt.touched_v.sum()))
        if not batches or cost > room:
            batches.append([])
            room = _BATCH_SEQUENCES
        batches[-1].append(attempt)
        room -= cost
    return batches
