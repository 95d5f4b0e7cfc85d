"""Make all patches of an attack, and the grids that show them.

Shapes: N images, P patches, H x W pixels of the grid, h x w of a patch.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.classifiers.smoothed import SmoothedClassifier
from pipeline.attack.canvas import Canvas, Pixels
from pipeline.attack.config import AttackConfig
from pipeline.attack.descent import PatchDescent
from pipeline.attack.placements import Attempt, place_attempts
from pipeline.attack.rerun import model_input
from pipeline.attack.selection import Selected
from pipeline.runs.manifest import Manifest

# Sequences of one step: enough to keep a processor busy, few enough to stop soon after a success.
_BATCH_SEQUENCES = 256
_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True, kw_only=True)
class Patches:
    """The patches of an attack, and the images before and after.

    Attributes:
        manifest: The run.
        selected: The images with their stored votes; N of them.
        canvases: Their pictures; N of them.
        images: Their grids; uint8 (N, H, W, 3).
        attempts: The patches, in the order of the images; P of them.
        contents: Their pixels; uint8 (h, w, 3) each.
        patched: The grids of the attacked pictures; uint8 (P, H, W, 3).
    """

    manifest: Manifest
    selected: Selected
    canvases: Sequence[Canvas]
    images: Pixels
    attempts: list[Attempt]
    contents: list[Pixels]
    patched: Pixels

    def attacked(self, number: int) -> Pixels:
        """Return the picture with a patch; uint8 (I, J, 3)."""
        attempt = self.attempts[number]
        canvas = self.canvases[attempt.image]
        return canvas.pasted(canvas.read(), (attempt.y, attempt.x), self.contents[number])


def make_patches(
    smoothed: SmoothedClassifier,
    manifest: Manifest,
    selected: Selected,
    canvases: Sequence[Canvas],
    *,
    config: AttackConfig,
) -> Patches:
    """Make the patches in rounds: one attempt an image, on the images not yet changed."""
    images = np.stack([canvas.grid(canvas.read()) for canvas in canvases])
    descents = {
        id(target): PatchDescent(smoothed, target, steps=config.steps, views=config.views)
        for target, _ in selected.asked
    }
    known = selected
    if manifest.defense.views.hides:  # of early exit some votes are not stored
        votes = smoothed(model_input(images, manifest.defense.views.pixel_scale)).votes_bv
        known = replace(selected, votes=votes)
    planned = place_attempts(
        known,
        manifest,
        canvases,
        locations=config.locations,
        restarts=config.restarts,
        seed=config.seed,
    )
    made: list[tuple[Attempt, Pixels]] = []
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
            descent = descents[id(batch[0].target)]
            pixels, wins = descent([canvases[attempt.image] for attempt in batch], batch)
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
    patches = Patches(
        manifest=manifest,
        selected=selected,
        canvases=canvases,
        images=images,
        attempts=[attempt for attempt, _ in made],
        contents=[pixels for _, pixels in made],
        patched=images[[attempt.image for attempt, _ in made]],
    )
    for number, (attempt, _) in enumerate(made):
        patches.patched[number] = canvases[attempt.image].grid(patches.attacked(number))
    return patches


def _batches(attempts: Sequence[Attempt], views: int) -> list[list[Attempt]]:
    """Group attempts of one target and size so that their views fill a batch, at least one each."""

    def kind(attempt: Attempt) -> tuple[int, ...]:
        return id(attempt.target), *attempt.patch

    batches: list[list[Attempt]] = []
    room = 0
    for attempt in sorted(attempts, key=kind):
        cost = min(views, int(attempt.touched_v.sum()))
        if not batches or cost > room or kind(attempt) != kind(batches[-1][0]):
            batches.append([])
            room = _BATCH_SEQUENCES
        batches[-1].append(attempt)
        room -= cost
    return batches
