"""Attack a finished run: select images, make patches, vote again, check, write."""

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.classifiers.smoothed import SmoothedClassifier
from pipeline import storage
from pipeline.attack.check import AttackVotes, check_attacks, save_counterexamples
from pipeline.attack.config import AttackConfig
from pipeline.attack.patches import Patches, make_patches
from pipeline.attack.rerun import (
    Rerun,
    check_round_trip,
    load_rerun,
    logit_digests,
    on_the_grid,
    vote_again,
    write_source,
)
from pipeline.attack.selection import (
    check_attackable,
    choose,
    patch_of,
    read_margins,
    read_selected,
)
from pipeline.attack.summary import summarise
from pipeline.attack.target import Target
from pipeline.cluster.executor import LOCAL, Executor
from pipeline.runs.images import read_images
from pipeline.runs.manifest import canonical
from pipeline.runs.rows import votes_array
from pipeline.runs.store import VotesStore
from pipeline.sources.base import SourceOptions
from pipeline.storage.tables import write_parquet
from pipeline.voting.vote import build_classifier


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """The result of an attack, and its files.

    Attributes:
        summary: The content of the summary file.
        rows_path: One row a patch.
        summary_path: The summary.
        images_path: The attacked images.
        failures: Contradictions of certificates, in words; empty while the certificates stand.
        counterexamples: Folders of the failures that were saved.
    """

    summary: dict[str, Any]
    rows_path: str
    summary_path: str
    images_path: str
    failures: list[str]
    counterexamples: list[str]


def attack_run(store: VotesStore, config: AttackConfig, executor: Executor = LOCAL) -> AttackResult:
    """Attack images of a finished run, and check the changes that the patches made.

    Nothing is taken from an earlier attack: the attack must also find a machine that computes
    other bits today.

    Raises:
        ConfigError, SourceError, WeightsError: The request does not fit the run.
        ManifestError, StoreError, JobError, RoundTripError: Stored or new votes are missing.
    """
    start = time.monotonic()
    manifest = store.manifest()
    check_attackable(manifest)
    patch = patch_of(config.patch, store, manifest)
    target = Target.of(manifest.defense, patch)
    rerun = load_rerun(manifest, config)
    margins = read_margins(store, manifest, patch)
    chosen = choose(margins, config.images, config.seed)
    selected = read_selected(store, manifest, margins, chosen, patch)
    options = SourceOptions(
        image_column=manifest.data.image_column,
        label_column=config.label_column,
        label_map=config.label_map,
    )
    data = config.data or str(manifest.execution.data)
    # The stored labels are used, not those of the listing.
    images = read_images(
        manifest, rerun.defense.model_input, selected.image_ids, data=data, options=options
    )
    smoothed = build_classifier(rerun.defense, rerun.numerics)
    patches = make_patches(smoothed, manifest, selected, images, patch=patch, config=config)

    settings = {"patch_px": patch.width, **config.settings()}
    name = f"{patch.width}px-{hashlib.sha256(canonical(settings)).hexdigest()[:8]}"
    base = storage.join(store.out, "attack", f"run_id={store.run_id}", name)
    images_path = storage.join(base, "attacked.parquet")
    replay_out = storage.join(base, "replay")
    clean, attacked = _vote(patches, smoothed, rerun, images_path, replay_out, executor=executor)
    rows, failures = check_attacks(patches, clean, attacked)
    saved = save_counterexamples(
        storage.join(base, "counterexamples"), failures, patches, clean, attacked
    )
    summary = {
        "run_id": store.run_id,
        **summarise(margins, selected, target, rows),
        "settings": settings,
        "failures": len(failures),
        "seconds": round(time.monotonic() - start, 1),
    }
    bond = store.proof(manifest).bond
    write_parquet(f"{base}.parquet", rows.replace_schema_metadata(bond))
    text = json.dumps(summary, indent=2, sort_keys=True) + "\n"
    storage.write_atomically(f"{base}.json", text.encode())
    return AttackResult(
        summary=summary,
        rows_path=f"{base}.parquet",
        summary_path=f"{base}.json",
        images_path=images_path,
        failures=[failure.text for failure in failures],
        counterexamples=saved,
    )


def _vote(
    patches: Patches,
    smoothed: SmoothedClassifier,
    rerun: Rerun,
    path: str,
    out: str,
    *,
    executor: Executor,
) -> tuple[AttackVotes, AttackVotes]:
    """Write the images at ``path``; return votes and logits of the unpatched and the patched."""
    count = len(patches.images)
    pixels = np.concatenate([patches.images, patches.patched])
    owners = [*range(count), *(attempt.image for attempt in patches.attempts)]
    write_source(
        path,
        [patches.selected.image_ids[image] for image in owners],
        [*[None] * count, *((attempt.y, attempt.x) for attempt in patches.attempts)],
        pixels,
    )
    check_round_trip(path, on_the_grid(rerun.defense.model_input), pixels)
    rows = vote_again(path, out, rerun, executor)
    votes = votes_array(rows, rerun.defense)
    predictions = Target.of(rerun.defense, patches.patch).answers(
        votes,
        rows["plain_prediction"].to_numpy().astype(np.int64),
        rows["prediction"].to_numpy().astype(np.int64),
    )
    digests = logit_digests(smoothed, pixels)
    clean, attacked = (
        AttackVotes(votes=votes[part], predictions_r=predictions[part], logits_rv=digests[part])
        for part in (slice(count), slice(count, None))
    )
    return clean, attacked
