"""The attack on a finished run: choose, make patches, vote again, judge, write."""

import hashlib
import io
import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.smoothing import SmoothedClassifier
from pipeline import storage
from pipeline.attack.campaign import Campaign, wage
from pipeline.attack.config import AttackConfig
from pipeline.attack.counterexamples import save_counterexamples
from pipeline.attack.reopened import Reopened, read_images, reopen
from pipeline.attack.replay import logit_digests, vote_again
from pipeline.attack.source import check_round_trip, on_the_grid, write_source
from pipeline.attack.summary import summarise
from pipeline.attack.verdict import Voted, judge_attacks
from pipeline.attack.victims import check_attackable, choose, patch_of, read_victims, take_census
from pipeline.ballots import votes_array
from pipeline.manifest import canonical
from pipeline.store import VotesStore
from pipeline.voting import build_classifier


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """What an attack wrote.

    Attributes:
        summary: As in the file.
        rows_path: One row an attack.
        summary_path: The summary.
        images_path: The attacked images.
        failures: What may not be, in words; empty while the certificates stand.
        counterexamples: Folders of the failures that were saved.
    """

    summary: dict[str, Any]
    rows_path: str
    summary_path: str
    images_path: str
    failures: list[str]
    counterexamples: list[str]


def attack_run(store: VotesStore, config: AttackConfig, *, verbose: bool = False) -> Attacked:
    """Attack images of a finished run, and judge what the patches changed.

    Nothing is taken from an earlier attack: a machine that computes other bits today is one of the
    things to be found.

    Raises:
        ConfigError, SourceError, WeightsError: The request does not fit the run.
        ManifestError, StoreError, JobError, RoundTripError: The votes could not be had.
    """
    start = time.monotonic()
    manifest = store.begun()
    check_attackable(manifest)
    patch = patch_of(config.patch, store, manifest)
    reopened = reopen(manifest, config)
    census = take_census(store, manifest, patch)
    victims = read_victims(store, manifest, census, choose(census, config.images, config.seed))
    images = read_images(manifest, config, reopened.voter.preprocess, victims.image_ids)
    smoothed = build_classifier(reopened.voter, reopened.numerics)
    campaign = wage(smoothed, manifest, victims, images, patch=patch, config=config)

    settings = {"patch_px": patch.width, **config.settings()}
    name = f"{patch.width}px-{hashlib.sha256(canonical(settings)).hexdigest()[:8]}"
    base = storage.join(store.out, "attack", f"run_id={store.run_id}", name)
    clean, attacked = _vote(campaign, smoothed, reopened, base, verbose=verbose)
    rows, failures = judge_attacks(campaign, clean, attacked)
    saved = save_counterexamples(
        storage.join(base, "counterexamples"), failures, campaign, clean, attacked
    )
    summary = {
        "run_id": store.run_id,
        **summarise(census, victims, patch, rows),
        "settings": settings,
        "failures": len(failures),
        "seconds": round(time.monotonic() - start, 1),
    }
    _write(f"{base}.parquet", rows)
    text = json.dumps(summary, indent=2, sort_keys=True) + "\n"
    storage.write_atomically(f"{base}.json", text.encode())
    return Attacked(
        summary=summary,
        rows_path=f"{base}.parquet",
        summary_path=f"{base}.json",
        images_path=_images_path(base),
        failures=[failure.text for failure in failures],
        counterexamples=saved,
    )


def _vote(
    campaign: Campaign,
    smoothed: SmoothedClassifier,
    reopened: Reopened,
    base: str,
    *,
    verbose: bool,
) -> tuple[Voted, Voted]:
    """Votes and logits of the unpatched images, and of the attacked ones."""
    path, count = _images_path(base), len(campaign.images)
    pixels = np.concatenate([campaign.images, campaign.patched])
    owners = [*range(count), *(attempt.image for attempt in campaign.attempts)]
    write_source(
        path,
        [campaign.victims.image_ids[image] for image in owners],
        [*[None] * count, *((attempt.y, attempt.x) for attempt in campaign.attempts)],
        pixels,
    )
    check_round_trip(path, on_the_grid(reopened.voter.preprocess), pixels)
    rows = vote_again(path, storage.join(base, "replay"), reopened, verbose=verbose)
    votes = votes_array(rows, reopened.voter)
    predictions = rows["prediction"].to_numpy().astype(np.int64)
    digests = logit_digests(smoothed, pixels)
    clean, attacked = (
        Voted(votes=votes[part], predictions_r=predictions[part], logits_rv=digests[part])
        for part in (slice(count), slice(count, None))
    )
    return clean, attacked


def _images_path(base: str) -> str:
    return storage.join(base, "attacked.parquet")


def _write(path: str, rows: pa.Table) -> None:
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd")
    storage.write_atomically(path, sink.getvalue())
