"""Check the effect of every patch against the certificates, and save what contradicts them.

Four things can never happen while the certificates are sound: the unpatched copy of an image votes
otherwise than before; a pixel of the grid changes outside the rectangle that the patch is said to
reach, or that rectangle is larger than the certified one; a view that shows no pixel of it votes
otherwise or has other logits; the prediction of a certified image changes, or is lost to an error.

Shapes: N images, P patches, R images voted on, V views.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.views.family import BoolArray, IntArray
from models.views.threats import Threat
from pipeline import storage
from pipeline.attack import MEANING
from pipeline.attack.canvas import rectangle
from pipeline.attack.independent import changed_votes
from pipeline.attack.patches import Patches
from pipeline.attack.placements import Attempt
from pipeline.attack.rerun import encode
from pipeline.attack.selection import Selected
from pipeline.attack.target import ERROR, UNDECIDED, Target
from pipeline.certificates.rule import ALERT
from pipeline.certificates.votes import VoteArray
from pipeline.runs.labels import Labels
from pipeline.runs.schema import ATTACKS

# One is enough to refute a certificate; on a broken machine every image would be one.
_MOST_SAVED = 20


@dataclass(frozen=True, kw_only=True)
class AttackVotes:
    """Votes and logits of some images.

    Attributes:
        votes: Votes (R, V), -1 where a view was not asked, or sets (R, V, T).
        predictions_r: Answers, ``ALERT`` for an alert, ``ERROR`` for an error; int (R,).
        logits_rv: Digests of logits; uint64 (R, V).
        errors: R reasons why an image has no votes; None where it has them.
    """

    votes: VoteArray
    predictions_r: IntArray
    logits_rv: NDArray[np.uint64]
    errors: Sequence[str | None]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Something that cannot happen while the certificates are sound.

    Attributes:
        kind: ``unpatched``, ``basis``, ``untouched`` or ``certified``.
        image: Number of the selected image.
        attempt: Number of the patch; None where no patch was needed.
        views: Views that changed though they may not; int (K,).
        text: Description for the user.
    """

    kind: str
    image: int
    attempt: int | None
    views: IntArray
    text: str


def check_attacks(
    patches: Patches, threat: Threat, clean: AttackVotes, attacked: AttackVotes
) -> tuple[pa.Table, list[Failure]]:
    """Return the rows of ATTACKS, and every failure.

    Args:
        patches: The patches and their images.
        threat: What the attacker may do.
        clean: Votes on the unpatched copies, N of them.
        attacked: Votes on the patched images, P of them.
    """
    selected, attempts = patches.selected, patches.attempts
    image_p = np.array([attempt.image for attempt in attempts], dtype=np.int64)
    touched_pv: BoolArray = np.stack([attempt.touched_v for attempt in attempts])
    stored = selected.votes[image_p]
    changed_pv = changed_votes(stored, attacked.votes)
    changed_pv[attacked.predictions_r == ERROR] = False  # no votes to compare; its logits are
    if stored.ndim == 2:  # what was not asked once cannot be compared either
        changed_pv &= (stored >= 0) & (attacked.votes >= 0)
    logits_pv = clean.logits_rv[image_p] != attacked.logits_rv
    before_p, after_p = selected.predictions_n[image_p], attacked.predictions_r
    certified_p, success_p = selected.certified_n[image_p], Target.changed(before_p, after_p)
    right_p = Labels(selected.labels.classes[image_p]).accept(after_p)
    margin_p, outside_p = selected.margins_n[image_p], _outside(patches)
    on_grid_p = [rectangle(*attempt.on_grid) for attempt in attempts]
    columns: dict[str, Any] = {
        "image_id": [selected.image_ids[image] for image in image_p],
        "certified": certified_p,
        "margin": pa.array(margin_p, mask=margin_p == UNDECIDED),
        "threat": pa.repeat(str(threat), len(image_p)),
        "patch_px": pa.repeat(pa.scalar(threat.side, pa.int32()), len(image_p)),
        "height": [attempt.patch.height for attempt in attempts],
        "width": [attempt.patch.width for attempt in attempts],
        "y": [attempt.y for attempt in attempts],
        "x": [attempt.x for attempt in attempts],
        "grid_y": [rows.start for rows, _ in on_grid_p],
        "grid_x": [columns.start for _, columns in on_grid_p],
        "grid_height": [rows.stop - rows.start for rows, _ in on_grid_p],
        "grid_width": [columns.stop - columns.start for _, columns in on_grid_p],
        "outside_changed": outside_p,
        "rival": [attempt.rival for attempt in attempts],
        "success": success_p,
        "prediction_before": pa.array(before_p, mask=before_p == ALERT),
        "prediction_after": pa.array(after_p, mask=after_p < 0),
        # An alert is no wrong answer; an error is one.
        "right_after": pa.array(right_p | (after_p == ALERT), mask=~selected.labels.known[image_p]),
        "touched": touched_pv.sum(axis=1),
        "flipped": (changed_pv & touched_pv).sum(axis=1),
        "untouched_changed": (changed_pv & ~touched_pv).sum(axis=1),
        "untouched_logits_changed": (logits_pv & ~touched_pv).sum(axis=1),
    }
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in ATTACKS]
    table = pa.table(arrays, schema=ATTACKS)
    failures = _unpatched(selected, clean)
    for number, attempt in enumerate(attempts):
        wrong_v = (changed_pv[number] | logits_pv[number]) & ~touched_pv[number]
        refuted = certified_p[number] and success_p[number]
        who = f"image_id={selected.image_ids[attempt.image]}"
        of_picture = " of the picture" if threat.source else ""
        what = f"a patch of {attempt.patch}{of_picture} at y = {attempt.y}, x = {attempt.x}"
        if (spread := _spread(attempt, int(outside_p[number]))) is not None:
            failures.append(
                Failure(
                    kind="basis",
                    image=attempt.image,
                    attempt=number,
                    views=np.empty(0, np.int64),
                    text=f"{who}: {what} {spread}",
                )
            )
        if not (wrong_v.any() or refuted):
            continue
        if refuted:
            error = attacked.errors[number]
            text = (
                f"{who} is certified (margin {selected.margins_n[attempt.image]}), but {what} "
                f"changed its prediction from {before_p[number]} to "
                f"{after_p[number] if error is None else f'an error: {error}'}"
            )
        else:
            text = (
                f"{who}: {what} changed {int(wrong_v.sum())} ablations that show no pixel of it: "
                f"the votes of {int((changed_pv[number] & wrong_v).sum())}, "
                f"the logits of {int((logits_pv[number] & wrong_v).sum())}"
            )
        failures.append(
            Failure(
                kind="certified" if refuted else "untouched",
                image=attempt.image,
                attempt=number,
                views=np.flatnonzero(wrong_v),
                text=text,
            )
        )
    return table, failures


def _outside(patches: Patches) -> IntArray:
    """Count the pixels of the grid that change outside the rectangle that a patch can reach; (P,).

    Each patch counts with the pixels that it has, all black and all white: what spreads farthest.
    """
    counts = []
    for number, attempt in enumerate(patches.attempts):
        canvas, before = patches.canvases[attempt.image], patches.images[attempt.image]
        picture, corner = canvas.read(), (attempt.y, attempt.x)
        extremes = (canvas.grid(canvas.pasted(picture, corner, level)) for level in (0, 255))
        changed = (patches.patched[number] != before).any(axis=2)
        for after in extremes:
            changed |= (after != before).any(axis=2)
        changed[rectangle(*attempt.on_grid)] = False
        counts.append(int(changed.sum()))
    return np.array(counts, np.int64)


def _spread(attempt: Attempt, outside: int) -> str | None:
    """Say how a patch leaves the rectangle it may change; None where it does not."""
    rows, columns = rectangle(*attempt.on_grid)
    high, wide = rows.stop - rows.start, columns.stop - columns.start
    where = f"{high}x{wide} px at y = {rows.start}, x = {columns.start} of the grid"
    certified = attempt.target.patch
    if outside:
        return f"changes {outside} pixels of the grid outside {where}, all that it is said to reach"
    if high > certified.height or wide > certified.width:
        return f"reaches {where}, and was certified as no more than {certified}"
    return None


def _unpatched(selected: Selected, clean: AttackVotes) -> list[Failure]:
    """Find the images whose unpatched copy does not vote as stored."""
    changed_nv = changed_votes(selected.votes, clean.votes)
    changed_n = changed_nv.any(axis=1) | (selected.predictions_n != clean.predictions_r)
    return [
        Failure(
            kind="unpatched",
            image=image,
            attempt=None,
            views=np.flatnonzero(changed_nv[image]),
            text=(
                f"image_id={selected.image_ids[image]}: without any patch, "
                f"{int(changed_nv[image].sum())} ablations vote otherwise than the stored ones"
                f"{'' if clean.errors[image] is None else f', none at all: {clean.errors[image]}'}"
            ),
        )
        for image in np.flatnonzero(changed_n).tolist()
    ]


def save_counterexamples(
    folder: str,
    failures: Sequence[Failure],
    patches: Patches,
    clean: AttackVotes,
    attacked: AttackVotes,
) -> list[str]:
    """Write the first failures, a folder each, and return their paths.

    Each holds ``image.png`` and, where there was a patch, ``attacked.png``, both of what it was
    pasted into, and ``counterexample.json``: the patch's location, votes before and after, the
    numbers of the views that may not have changed, and the run's identity.
    """
    _clear(folder)
    selected = patches.selected
    paths = []
    for number, failure in enumerate(failures[:_MOST_SAVED]):
        path = storage.join(folder, f"{number:02d}-{failure.kind}")
        margin = int(selected.margins_n[failure.image])
        facts = {
            "kind": failure.kind,
            "what": failure.text,
            "meaning": MEANING,
            "run_id": patches.manifest.run_id,
            "image_id": selected.image_ids[failure.image],
            "margin": None if margin == UNDECIDED else margin,
            "prediction_before": int(selected.predictions_n[failure.image]),
            "votes_stored": selected.votes[failure.image].tolist(),
            "votes_unpatched": clean.votes[failure.image].tolist(),
            "ablations_that_may_not_change": failure.views.tolist(),
            "identity": dict(patches.manifest.identity),
        }
        images = {"image.png": patches.canvases[failure.image].read()}
        if failure.attempt is not None:
            attempt = patches.attempts[failure.attempt]
            facts |= {
                "patch": list(attempt.patch),
                "on_grid": [list(interval) for interval in attempt.on_grid],
                "y": attempt.y,
                "x": attempt.x,
                "ablations_that_see_the_patch": np.flatnonzero(attempt.touched_v).tolist(),
                "prediction_after": int(attacked.predictions_r[failure.attempt]),
                "error_after": attacked.errors[failure.attempt],
                "votes_after": attacked.votes[failure.attempt].tolist(),
            }
            images["attacked.png"] = patches.attacked(failure.attempt)
        for name, pixels in images.items():
            storage.write_atomically(storage.join(path, name), encode(pixels))
        text = json.dumps(facts, indent=2, sort_keys=True) + "\n"
        storage.write_atomically(storage.join(path, "counterexample.json"), text.encode())
        paths.append(path)
    return paths


def _clear(folder: str) -> None:
    """Remove the files of an earlier attack: its failures may be mended since."""
    for name in storage.list_folders(folder):
        for path in storage.list_files(storage.join(folder, name)):
            storage.remove(path)
