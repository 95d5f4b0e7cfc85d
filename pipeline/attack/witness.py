"""Replay witnesses on stored votes: rewritings that change every image without a certificate.

The exact rule is tight: for each image without a certificate there is one location whose views,
all voting for one rival, change the prediction. Here the stored votes are rewritten so and counted
by code that shares nothing with the rule (``independent``). This shows that each refused
certificate is refused for a reason and, at the same location, that each given one holds.

A decision over masks (two-location) is sufficient, not tight: its fallback may save an image that
it does not certify. So places that are no witness are tried, all touched views and the whole image
voting for one rival, until the answer changes; an image for which none is found is counted apart.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from models.views.family import BoolArray, IntArray, Patch
from pipeline import storage
from pipeline.attack.config import WitnessConfig
from pipeline.attack.independent import (
    ANY,
    changed_votes,
    largest_touched,
    rewritten,
    shows_patch,
    two_location_answers,
    votes_for,
)
from pipeline.attack.selection import check_attackable, threat_of
from pipeline.attack.target import Target
from pipeline.certificates.witness import witnesses
from pipeline.config import ConfigError
from pipeline.runs.manifest import Manifest
from pipeline.runs.reading import VoteRows, batches
from pipeline.runs.schema import WITNESSES
from pipeline.runs.store import VotesStore
from pipeline.storage.tables import parquet_writer

# Places and rivals that are tried on an image: the first ones nearly always do.
_MOST_PLACES, _MOST_RIVALS = 12, 2


@dataclass
class WitnessResult:
    """Counts and failures of a replay.

    Attributes:
        patch: The patch.
        images: Images with votes.
        rule: Name of the rule.
        certified: Those of them that the rule certifies.
        witnesses: Others, which have a witness.
        without: Others for which none was found; by the exact rule there are none.
        rows_path: File of the witnesses, one row each.
        failures: Witnesses that change nothing and certificates that fall, in words.
    """

    patch: Patch
    rule: str
    images: int = 0
    certified: int = 0
    witnesses: int = 0
    without: int = 0
    rows_path: str = ""
    failures: list[str] = field(default_factory=list)


def replay_witnesses(store: VotesStore, config: WitnessConfig) -> WitnessResult:
    """Find and replay the closest rewriting of every image of a run, and write the witnesses.

    Raises:
        ConfigError: The patch does not fit, the views were drawn for each image, or they only raise
            alerts.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    manifest = store.manifest()
    check_attackable(manifest)
    threat = threat_of(config.threat, store, manifest)
    (patch,) = threat.patches(manifest.defense.views)
    target = Target.of(manifest.defense, patch)
    if target.rule.alerts:
        raise ConfigError(
            f"run_id={manifest.run_id}: by {target.rule.name} an image without a certificate "
            "raises an alert before any attack, so there is nothing to witness; choose a run of "
            "--views mask-pair or of ablations"
        )
    result = WitnessResult(patch, target.rule.name)
    touched: dict[tuple[int, int], BoolArray] = {}
    sets = None if target.counts_votes else largest_touched(manifest.defense.views, patch)
    # A square is named as it was before there were other patches.
    name = f"{threat.side}px" if threat.side else str(threat)
    result.rows_path = storage.join(
        store.out, "witnesses", f"run_id={store.run_id}", f"{name}.parquet"
    )
    bond = store.proof(manifest).bond
    with parquet_writer(result.rows_path, WITNESSES.with_metadata(bond)) as writer:
        for batch in batches(store, manifest, "plain_prediction"):
            if not batch.voted.num_rows:
                continue
            writer.write_table(
                _replay(batch, manifest, result, touched)
                if sets is None
                else _replay_decision(batch, target, result, *sets)
            )
    return result


def _replay(
    batch: VoteRows,
    manifest: Manifest,
    result: WitnessResult,
    touched: dict[tuple[int, int], BoolArray],
) -> pa.Table:
    """Return rows of WITNESSES for a batch; counts and failures go into ``result``."""
    patch, ablation = result.patch, manifest.defense.ablation
    voted, votes = batch.voted, batch.votes
    classes = len(manifest.defense.network.voted_classes)
    found = witnesses(batch.renumbered, ablation, patch, classes)
    numbers = (
        np.arange(manifest.defense.network.num_classes)
        if manifest.defense.network.classes is None
        else manifest.defense.network.classes
    )
    rows: list[dict[str, Any]] = []
    described = zip(
        voted["image_id"].to_pylist(),
        voted["label"].to_pylist(),
        voted["prediction"].to_pylist(),
        votes,
        *(column.tolist() for column in (found.margins_n, found.rivals_n, found.ys_n, found.xs_n)),
        strict=True,
    )
    for image_id, label, prediction, before, margin, place, y, x in described:
        rival = int(numbers[place])
        if (y, x) not in touched:
            touched[y, x] = shows_patch(ablation, patch, y, x)
        after = rewritten(before, touched[y, x], rival)
        counts_c = votes_for(
            after, manifest.defense.network.classes, manifest.defense.network.num_classes
        )
        changed = int(counts_c.argmax()) != prediction
        result.images += 1
        result.certified += margin >= 0
        result.witnesses += margin < 0
        if changed == (margin >= 0):
            result.failures.append(_failure(image_id, patch, (y, x), rival, margin=margin))
        if margin < 0:
            seen_y, seen_x = ablation.coordinates(y, x)
            rows.append(
                {
                    "image_id": image_id,
                    "label": label,
                    "prediction": prediction,
                    "patch_px": patch.width,
                    "margin": margin,
                    "y": seen_y,
                    "x": seen_x,
                    "rival": rival,
                    "touched": int(touched[y, x].sum()),
                    "rewritten": int(changed_votes(before[None], after[None]).sum()),
                    "prediction_after": int(counts_c.argmax()),
                }
            )
    return pa.Table.from_pylist(rows, WITNESSES)


def _replay_decision(
    batch: VoteRows,
    target: Target,
    result: WitnessResult,
    touched_sv: BoolArray,
    corners_s2: IntArray,
) -> pa.Table:
    """Return rows of WITNESSES for a batch; counts and failures go into ``result``."""
    patch, votes, plain_n = result.patch, batch.votes, batch.plain_n
    rows: list[dict[str, Any]] = []
    described = zip(
        batch.voted["image_id"].to_pylist(),
        batch.voted["label"].to_pylist(),
        votes,
        plain_n.tolist(),
        target.answers(votes, plain_n, batch.predictions_n).tolist(),
        target.margins(votes, plain_n).tolist(),
        target.margins_of(votes, plain_n, touched_sv),
        strict=True,
    )
    for image_id, label, before, plain, answer, margin, margins_s in described:
        result.images += 1
        result.certified += margin >= 0
        if answer not in two_location_answers(before, touched_sv, plain):
            result.failures.append(f"image_id={image_id}: by definition {answer} is not its answer")
        changed = None
        for place in np.argsort(margins_s, kind="stable")[:_MOST_PLACES].tolist():
            for rival in _rivals(before[~touched_sv[place]], answer, target):
                after = rewritten(before, touched_sv[place], rival)
                found = two_location_answers(after, touched_sv, plain if plain < 0 else rival)
                if not found & {answer, ANY}:
                    changed = changed or (place, rival, after, found)
            if changed is not None:
                break
        if margin < 0:
            result.witnesses += changed is not None
            result.without += changed is None
        if changed is None:
            continue
        place, rival, after, found = changed
        y, x = corners_s2[place].tolist()
        if margin >= 0:
            result.failures.append(_failure(image_id, patch, (y, x), rival, margin=margin))
            continue
        seen_y, seen_x = target.defense.views.coordinates(y, x)
        rows.append(
            {
                "image_id": image_id,
                "label": label,
                "prediction": answer,
                "patch_px": patch.width,
                "margin": margin,
                "y": seen_y,
                "x": seen_x,
                "rival": rival,
                "touched": int(touched_sv[place].sum()),
                "rewritten": int(((before != after) & (before >= 0)).sum()),
                "prediction_after": rival if rival in found else min(found),
            }
        )
    return pa.Table.from_pylist(rows, WITNESSES)


def _rivals(labels: IntArray, answer: int, target: Target) -> list[int]:
    """The other classes with most of the untouched labels, the lowest ones on ties."""
    counts_c = np.bincount(labels[labels >= 0], minlength=target.defense.network.num_classes)
    ranked = sorted(target.defense.network.voted_classes.tolist(), key=lambda c: (-counts_c[c], c))
    return [rival for rival in ranked if rival != answer][:_MOST_RIVALS]


def _failure(image_id: str, patch: Patch, yx: tuple[int, int], rival: int, *, margin: int) -> str:
    """Describe a failure."""
    done = f"a patch of {patch} at y, x = {yx} whose ablations all vote for class {rival}"
    if margin >= 0:
        return f"image_id={image_id} is certified (margin {margin}), but {done} changes it"
    return f"image_id={image_id} is not certified (margin {margin}), yet {done} does not change it"
