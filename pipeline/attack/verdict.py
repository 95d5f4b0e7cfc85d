"""What a patch changed, and whether it may: one row an attack, and every failure.

Three things can never happen while the certificates are sound: an image's unpatched copy votes
otherwise than before, an ablation that shows no pixel of the patch votes otherwise or has other
logits, the prediction of a certified image changes.

Shapes: P attacks, V ablations.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.ablation import BoolArray, IntArray
from pipeline.attack.campaign import Campaign
from pipeline.attack.counting import changed_votes
from pipeline.attack.victims import Victims
from pipeline.certificates.votes import VoteArray
from pipeline.labels import Labels
from pipeline.schema import ATTACKS


@dataclass(frozen=True, kw_only=True)
class Voted:
    """Votes and logits of some images.

    Attributes:
        votes: Votes (R, V) or sets (R, V, T).
        predictions_r: Smoothed predictions; int (R,).
        logits_rv: Digests of logits; uint64 (R, V).
    """

    votes: VoteArray
    predictions_r: IntArray
    logits_rv: NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Something that cannot happen while the certificates are sound.

    Attributes:
        kind: ``unpatched``, ``untouched`` or ``certified``.
        image: Number of the victim.
        attack: Number of the attack; None where no patch was needed.
        views: Ablations that changed though they may not; int (K,).
        text: What happened, in words.
    """

    kind: str
    image: int
    attack: int | None
    views: IntArray
    text: str


def judge_attacks(
    campaign: Campaign, clean: Voted, attacked: Voted
) -> tuple[pa.Table, list[Failure]]:
    """Rows of ATTACKS, and everything that may not be.

    Args:
        campaign: The attacks.
        clean: Of the unpatched copies, N of them.
        attacked: Of the attacks, P of them.
    """
    victims, patch, attempts = campaign.victims, campaign.patch, campaign.attempts
    image_p = np.array([attempt.image for attempt in attempts], dtype=np.int64)
    seen_pv: BoolArray = np.stack([attempt.seen_v for attempt in attempts])
    changed_pv = changed_votes(victims.votes[image_p], attacked.votes)
    logits_pv = clean.logits_rv[image_p] != attacked.logits_rv
    before_p, after_p = victims.predictions_n[image_p], attacked.predictions_r
    certified_p = victims.certified_n[image_p]
    known_p = victims.labels.known[image_p]
    right_p = Labels(victims.labels.classes[image_p]).accept(after_p)
    columns: dict[str, Any] = {
        "image_id": [victims.image_ids[image] for image in image_p],
        "certified": certified_p,
        "margin": victims.margins_n[image_p],
        "patch_px": np.full(len(image_p), patch.width),
        "y": [attempt.y for attempt in attempts],
        "x": [attempt.x for attempt in attempts],
        "rival": [attempt.rival for attempt in attempts],
        "success": before_p != after_p,
        "prediction_before": before_p,
        "prediction_after": after_p,
        "right_after": pa.array(right_p, mask=~known_p),
        "touched": seen_pv.sum(axis=1),
        "flipped": (changed_pv & seen_pv).sum(axis=1),
        "untouched_changed": (changed_pv & ~seen_pv).sum(axis=1),
        "untouched_logits_changed": (logits_pv & ~seen_pv).sum(axis=1),
    }
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in ATTACKS]
    table = pa.table(arrays, schema=ATTACKS)
    failures = _unpatched(victims, clean)
    for number, attempt in enumerate(attempts):
        wrong_v = (changed_pv[number] | logits_pv[number]) & ~seen_pv[number]
        refuted = certified_p[number] and before_p[number] != after_p[number]
        if not (wrong_v.any() or refuted):
            continue
        who = f"image_id={victims.image_ids[attempt.image]}"
        what = f"a patch of {patch} at y = {attempt.y}, x = {attempt.x}"
        if refuted:
            text = (
                f"{who} is certified (margin {victims.margins_n[attempt.image]}), but {what} "
                f"changed its prediction from {before_p[number]} to {after_p[number]}"
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
                attack=number,
                views=np.flatnonzero(wrong_v),
                text=text,
            )
        )
    return table, failures


def _unpatched(victims: Victims, clean: Voted) -> list[Failure]:
    """Images whose unpatched copy does not vote as stored."""
    changed_nv = changed_votes(victims.votes, clean.votes)
    changed_n = changed_nv.any(axis=1) | (victims.predictions_n != clean.predictions_r)
    return [
        Failure(
            kind="unpatched",
            image=int(image),
            attack=None,
            views=np.flatnonzero(changed_nv[image]),
            text=(
                f"image_id={victims.image_ids[image]}: without any patch, "
                f"{int(changed_nv[image].sum())} ablations vote otherwise than the stored ones"
            ),
        )
        for image in np.flatnonzero(changed_n)
    ]
