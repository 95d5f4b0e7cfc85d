"""Attack a finished run: select images, make patches, vote again, check, write."""

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from models.classifiers.smoothed import SmoothedClassifier
from pipeline import storage
from pipeline.attack.canvas import Canvas, Pixels
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
    read_margins,
    read_selected,
    threat_of,
)
from pipeline.attack.summary import summarise
from pipeline.attack.target import ERROR
from pipeline.certificates.votes import EMPTY
from pipeline.cluster.executor import LOCAL, Executor
from pipeline.runs.images import read_encoded, read_images
from pipeline.runs.manifest import Manifest, canonical
from pipeline.runs.rows import votes_array
from pipeline.runs.store import StoreError, VotesStore
from pipeline.scoring.source import check_source
from pipeline.sources.base import SourceOptions
from pipeline.sources.decode import decode
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
    threat = threat_of(config.threat, store, manifest)
    rerun = load_rerun(manifest, config)
    if threat.source:
        check_source(manifest.defense, threat)
    margins = read_margins(store, manifest, threat)
    chosen = choose(margins, config.images, config.seed)
    selected = read_selected(store, manifest, margins, chosen, threat)
    reads = _pictures(manifest, rerun, selected.image_ids, config, source=threat.source)
    if not threat.source:
        on_grid = on_the_grid(rerun.defense.model_input)
        rerun = replace(rerun, defense=replace(rerun.defense, preprocess=on_grid))
    canvases = [Canvas.of(read, threat, rerun.defense.model_input) for read in reads]
    smoothed = build_classifier(rerun.defense, rerun.numerics)
    patches = make_patches(smoothed, manifest, selected, canvases, config=config)

    # A square on the grid is named as it was before there were other threats.
    asked = {"threat": str(threat)} if threat.side is None else {"patch_px": threat.side}
    settings = {**asked, **config.settings()}
    digest = hashlib.sha256(canonical(settings)).hexdigest()[:8]
    name = f"{threat.side}px" if threat.side else re.sub(r"\W+", "-", str(threat)).strip("-")
    name = f"{name}-{digest}"
    base = storage.join(store.out, "attack", f"run_id={store.run_id}", name)
    images_path = storage.join(base, "attacked.parquet")
    replay_out = storage.join(base, "replay")
    clean, attacked = _vote(patches, smoothed, rerun, images_path, replay_out, executor=executor)
    rows, failures = check_attacks(patches, threat, clean, attacked)
    saved = save_counterexamples(
        storage.join(base, "counterexamples"), failures, patches, clean, attacked
    )
    summary = {
        "run_id": store.run_id,
        **summarise(margins, selected, threat, rows),
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


def _pictures(
    manifest: Manifest,
    rerun: Rerun,
    image_ids: list[str],
    config: AttackConfig,
    *,
    source: bool,
) -> list[Callable[[], Pixels]]:
    """Return what reads the picture of each image, or its grid."""
    options = SourceOptions(
        image_column=manifest.data.image_column,
        label_column=config.label_column,
        label_map=config.label_map,
    )
    data = config.data or str(manifest.execution.data)
    # The stored labels are used, not those of the listing.
    if source:
        # Kept as they were delivered: decoded, photographs would fill the memory.
        files = read_encoded(manifest, image_ids, data=data, options=options)
        return [partial(_decoded, file) for file in files]
    preprocess = rerun.defense.model_input
    images = read_images(manifest, preprocess, image_ids, data=data, options=options)
    return [partial(images.__getitem__, number) for number in range(len(images))]


def _decoded(file: bytes | None) -> Pixels:
    return np.asarray(decode(file))


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
    grids = np.concatenate([patches.images, patches.patched])
    written = chain(
        (canvas.read() for canvas in patches.canvases),
        map(patches.attacked, range(len(patches.attempts))),
    )
    owners = [*range(count), *(attempt.image for attempt in patches.attempts)]
    write_source(
        path,
        [patches.selected.image_ids[image] for image in owners],
        [*[None] * count, *((attempt.y, attempt.x) for attempt in patches.attempts)],
        written,
    )
    check_round_trip(path, rerun.defense.model_input, grids)
    rows = vote_again(path, out, rerun, executor)
    voted = rows["error"].is_null().to_numpy()
    cast = votes_array(rows, rerun.defense)
    if not len(cast):
        raise StoreError(f"{path}: none of its images could be voted on: {rows['error'][0]}")
    votes = np.full((len(voted), *cast.shape[1:]), EMPTY, np.int64)
    votes[voted] = cast
    plain, counted = (
        rows[name].fill_null(ERROR).to_numpy().astype(np.int64)
        for name in ("plain_prediction", "prediction")
    )
    predictions = np.full(len(votes), ERROR, np.int64)
    for target, images in patches.selected.asked:
        own = np.flatnonzero(np.isin(owners, images) & voted)
        predictions[own] = target.answers(votes[own], plain[own], counted[own])
    digests, errors = logit_digests(smoothed, grids), rows["error"].to_pylist()
    clean, attacked = (
        AttackVotes(
            votes=votes[part],
            predictions_r=predictions[part],
            logits_rv=digests[part],
            errors=errors[part],
        )
        for part in (slice(count), slice(count, None))
    )
    return clean, attacked
