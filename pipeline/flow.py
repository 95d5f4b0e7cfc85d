"""The story: images to votes, votes to certificates, certificates to a summary and a tracked run."""

import hashlib
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from pipeline.committing import CommitUnit
from pipeline.config import ConfigError, OutputConfig, VotesConfig
from pipeline.decoding import DecodeUnit
from pipeline.manifest import Manifest, ManifestError
from pipeline.numerics import Numerics, device_model, resolve_numerics
from pipeline.progress import VotesProgress
from pipeline.resolve import Voter
from pipeline.schema import MAX_CLASSES
from pipeline.sources.listing import Listing, SourceOptions, list_images
from pipeline.store import StoreError, VotesStore

_VERSIONED = ("patchcert", "numpy", "pillow", "timm", "torch")


@dataclass(frozen=True, kw_only=True)
class VotesOutcome:
    """What a votes job did.

    Attributes:
        run_id: The run.
        images: Images of the run.
        voted: Images this call computed votes for; 0 if all was there already.
        seconds: Time of this call's voting.
    """

    run_id: str
    images: int
    voted: int
    seconds: float


def count_votes(config: VotesConfig, voter: Voter, output: OutputConfig) -> VotesOutcome:
    """Vote on every image of the source that has no votes yet, and store the votes.

    Raises:
        ConfigError, SourceError, WeightsError, UnknownModelError: The request is wrong.
        ManifestError, StoreError, JobError: The job failed.
    """
    if voter.num_classes > MAX_CLASSES:
        raise ConfigError(f"--num-classes {voter.num_classes}: votes name at most {MAX_CLASSES}")
    options = SourceOptions(
        image_column=config.image_column,
        label_column=config.label_column,
        label_map=config.label_map,
    )
    listing = list_images(config.data, options, voter.num_classes).head(config.limit)
    numerics = resolve_numerics(config, *device_model(config.device))
    store, manifest = open_run(config, output, voter, numerics, listing)
    unit_images = int(manifest.execution["unit_images"])
    units = plan_units(listing.table, unit_images)
    committed = store.committed()
    pending = [unit for number, unit in enumerate(units) if number not in committed]
    images = len(listing)
    if not pending:
        return VotesOutcome(run_id=store.run_id, images=images, voted=0, seconds=0.0)
    seconds = _vote_on(pending, units, voter, numerics, options, store, config, output)
    voted = sum(unit.num_rows for unit in pending)
    missing = set(range(len(units))) - store.committed()
    if missing:
        raise StoreError(
            f"run_id={store.run_id}: {len(missing)} of {len(units)} units were not committed; "
            "run again to resume"
        )
    return VotesOutcome(run_id=store.run_id, images=images, voted=voted, seconds=seconds)


def _vote_on(
    pending: list[pa.Table],
    units: list[pa.Table],
    voter: Voter,
    numerics: Numerics,
    options: SourceOptions,
    store: VotesStore,
    config: VotesConfig,
    output: OutputConfig,
) -> float:
    """Send pending units through the cluster; the seconds it took."""
    # Ray and torch are not needed to say that a run is finished.
    from pipeline.cluster import plan_share, ray_cluster, run_units  # noqa: PLC0415
    from pipeline.voting import build_classifier  # noqa: PLC0415

    # Weights that do not load should fail here, in words, rather than on a worker.
    build_classifier(voter, numerics)
    total = sum(unit.num_rows for unit in units)
    done = total - sum(unit.num_rows for unit in pending)
    commit = CommitUnit(store, [unit.num_rows for unit in units], len(voter.ablation))
    with ray_cluster(verbose=output.verbose) as available:
        share = plan_share(available, numerics, config.actors, len(pending))
        start = time.monotonic()
        with VotesProgress(total, done) as progress:
            for receipts in run_units(
                pending,
                DecodeUnit(options, voter.preprocess),
                {"voter": voter, "numerics": numerics},
                commit,
                share,
                verbose=output.verbose,
            ):
                for receipt in receipts.to_pylist():
                    progress.add(receipt["images"], receipt["errors"])
        return time.monotonic() - start


def plan_units(table: pa.Table, unit_images: int) -> list[pa.Table]:
    """Cut a listing into units of ``unit_images`` rows, each with its number in ``unit``."""
    starts = range(0, table.num_rows, unit_images)
    units = []
    for number, start in enumerate(starts):
        rows = table.slice(start, unit_images)
        units.append(rows.append_column("unit", pa.array([number] * rows.num_rows, pa.int64())))
    return units


def open_run(
    config: VotesConfig,
    output: OutputConfig,
    voter: Voter,
    numerics: Numerics,
    listing: Listing,
) -> tuple[VotesStore, Manifest]:
    """Find or begin the run that these settings identify.

    Raises:
        ManifestError: The manifest on disk contradicts its id or the listing.
    """
    wanted = Manifest(
        identity=identity(config, voter, numerics, listing),
        execution=_execution(config, listing),
    )
    store = VotesStore(output.out, wanted.run_id)
    if config.overwrite:
        store.delete()
    found = store.read_manifest()
    if found is None:
        store.write_manifest(wanted)
        return store, wanted
    if found.execution.get("images") != len(listing):
        raise ManifestError(
            f"{store.manifest_path}: execution.images says {found.execution.get('images')}, the "
            f"source lists {len(listing)}; run again with --overwrite"
        )
    return store, found


def identity(
    config: VotesConfig, voter: Voter, numerics: Numerics, listing: Listing
) -> dict[str, Any]:
    """Everything that determines the votes, as plain JSON."""
    return {
        "data": {
            "kind": listing.kind,
            "fingerprint": listing.fingerprint,
            "limit": config.limit,
            "image_column": config.image_column,
            "rows_sha256": rows_digest(listing.table),
        },
        "model": {
            "name": voter.model,
            "num_classes": voter.num_classes,
            "weights_sha256": voter.weights_sha256,
        },
        "ablation": asdict(voter.ablation),
        "tokens": voter.tokens,
        "preprocess": voter.preprocess.to_dict(),
        "numerics": numerics.to_dict(),
        "versions": {name: version(name) for name in _VERSIONED},
    }


def rows_digest(table: pa.Table) -> str:
    """Digest of the listed ids and labels: what options such as a label map decide."""
    digest = hashlib.sha256()
    columns = (table["image_id"].to_pylist(), table["label"].to_pylist())
    for image_id, label in zip(*columns, strict=True):
        digest.update(f"{image_id}\0{label}\n".encode())
    return digest.hexdigest()


def _execution(config: VotesConfig, listing: Listing) -> Mapping[str, Any]:
    """What is worth knowing about a run but does not change its votes."""
    images = len(listing)
    # Small enough to show progress and lose little, large enough to keep an actor busy.
    unit_images = config.unit_images or min(256, max(16, -(-images // 16)))
    return {
        "data": config.data,
        "weights": config.weights,
        "images": images,
        "unit_images": unit_images,
        "units": -(-images // unit_images),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
