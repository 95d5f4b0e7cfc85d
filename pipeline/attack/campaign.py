"""An attack on several images: the patches that are tried, and the images that they make.

Shapes: N images, P attacks, H x W pixels of the attacker's grid.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.ablation import Patch
from models.smoothing import SmoothedClassifier
from pipeline.attack.attempt import Attempt
from pipeline.attack.config import AttackConfig
from pipeline.attack.descent import PatchDescent
from pipeline.attack.placements import place_attempts
from pipeline.attack.victims import Victims
from pipeline.manifest import Manifest

# Sequences of one step: enough to keep a processor busy, few enough to stop soon after a success.
_BATCH_SEQUENCES = 256
_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """What is attacked, and with what.

    Attributes:
        manifest: The run.
        patch: Height and width.
        victims: The images with their stored votes; N of them.
        images: Their pixels; uint8 (N, H, W, 3).
        attempts: The attacks, in the order of the images; P of them.
        patched: The attacked images; uint8 (P, H, W, 3).
    """

    manifest: Manifest
    patch: Patch
    victims: Victims
    images: NDArray[np.uint8]
    attempts: list[Attempt]
    patched: NDArray[np.uint8]


def wage(
    smoothed: SmoothedClassifier,
    manifest: Manifest,
    victims: Victims,
    images: NDArray[np.uint8],
    *,
    patch: Patch,
    config: AttackConfig,
) -> Campaign:
    """Make the patches: in rounds, one attempt an image each, on the images that still stand."""
    descent = PatchDescent(smoothed, patch, steps=config.steps, views=config.views)
    planned = place_attempts(
        victims,
        manifest,
        patch,
        locations=config.locations,
        restarts=config.restarts,
        seed=config.seed,
    )
    made: list[tuple[Attempt, NDArray[np.uint8]]] = []
    fallen: set[int] = set()
    last_line = time.monotonic()
    rounds = max(len(attempts) for attempts in planned)
    for number in range(rounds):
        standing = [
            attempts[number]
            for image, attempts in enumerate(planned)
            if image not in fallen and number < len(attempts)
        ]
        for batch in _batches(standing, config.views):
            pixels, fell = descent(images[[attempt.image for attempt in batch]], batch)
            made += zip(batch, pixels, strict=True)
            fallen |= {attempt.image for attempt, down in zip(batch, fell, strict=True) if down}
            if time.monotonic() - last_line >= _SECONDS_BETWEEN_LINES:
                last_line = time.monotonic()
                print(
                    f"attack: {len(made)} patches, round {number + 1} of at most {rounds}, "
                    f"{len(fallen)} of {len(images)} images fallen",
                    file=sys.stderr,
                    flush=True,
                )
    made.sort(key=lambda pair: pair[0].seed)
    return Campaign(
        manifest=manifest,
        patch=patch,
        victims=victims,
        images=images,
        attempts=[attempt for attempt, _ in made],
        patched=np.stack([paste(images[a.image], a.y, a.x, pixels) for a, pixels in made]),
    )


def paste(image: NDArray[np.uint8], y: int, x: int, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy of an image (H, W, 3) with a patch (h, w, 3) on it."""
    patched = image.copy()
    patched[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
    return patched


def _batches(attempts: Sequence[Attempt], views: int) -> list[list[Attempt]]:
    """Attempts whose ablations fill a batch, at least one each."""
    batches: list[list[Attempt]] = []
    room = 0
    for attempt in attempts:
        cost = min(views, int(attempt.seen_v.sum()))
        if not batches or cost > room:
            batches.append([])
            room = _BATCH_SEQUENCES
        batches[-1].append(attempt)
        room -= cost
    return batches
