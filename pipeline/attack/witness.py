"""Replay witnesses on stored votes: rewritings that change every image without a certificate.

The exact rule is tight: for each image without a certificate there is one location whose views,
all voting for one rival, change the prediction. Here the stored votes are rewritten so and counted
by code that shares nothing with the rule (``independent``). This shows that each refused
certificate is refused for a reason and, at the same location, that each given one holds.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from models.views.family import BoolArray, Patch
from pipeline import storage
from pipeline.attack.config import WitnessConfig
from pipeline.attack.independent import changed_votes, rewritten, shows_patch, votes_for
from pipeline.attack.selection import check_attackable, patch_of
from pipeline.certificates.witness import witnesses
from pipeline.runs.manifest import Manifest
from pipeline.runs.reading import VoteRows, batches
from pipeline.runs.schema import WITNESSES
from pipeline.runs.store import VotesStore
from pipeline.storage.tables import parquet_writer


@dataclass
class WitnessResult:
    """Counts and failures of a replay.

    Attributes:
        patch: The patch.
        images: Images with votes.
        certified: Those of them that the exact rule certifies.
        witnesses: The others; each has a witness.
        rows_path: File of the witnesses, one row each.
        failures: Witnesses that change nothing and certificates that fall, in words.
    """

    patch: Patch
    images: int = 0
    certified: int = 0
    witnesses: int = 0
    rows_path: str = ""
    failures: list[str] = field(default_factory=list)


def replay_witnesses(store: VotesStore, config: WitnessConfig) -> WitnessResult:
    """Find and replay the closest rewriting of every image of a run, and write the witnesses.

    Raises:
        ConfigError: The patch does not fit, or the views were drawn for each image.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    manifest = store.manifest()
    check_attackable(manifest)
    patch = patch_of(config.patch, store, manifest)
    result = WitnessResult(patch)
    touched: dict[tuple[int, int], BoolArray] = {}
    result.rows_path = storage.join(
        store.out, "witnesses", f"run_id={store.run_id}", f"{patch.width}px.parquet"
    )
    bond = store.proof(manifest).bond
    with parquet_writer(result.rows_path, WITNESSES.with_metadata(bond)) as writer:
        for batch in batches(store, manifest):
            if batch.voted.num_rows:
                writer.write_table(_replay(batch, manifest, result, touched))
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


def _failure(image_id: str, patch: Patch, yx: tuple[int, int], rival: int, *, margin: int) -> str:
    """Describe a failure."""
    done = f"a patch of {patch} at y, x = {yx} whose ablations all vote for class {rival}"
    if margin >= 0:
        return f"image_id={image_id} is certified (margin {margin}), but {done} changes it"
    return f"image_id={image_id} is not certified (margin {margin}), yet {done} does not change it"
