"""The facts of a run: those that determine its votes, and those worth recording beside them."""

import hashlib
import os
import platform
import time
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa

from models.networks.weights import is_hub_name
from pipeline import storage
from pipeline.config import VotesConfig
from pipeline.runs.manifest import Manifest
from pipeline.runs.numerics import Numerics
from pipeline.runs.resolve import Voter
from pipeline.sources.listing import Listing
from pipeline.storage.patterns import expand_braces

_DIGEST_ROWS = 1 << 16


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
            "several_labels": has_several_labels(listing.table),
        },
        "model": {
            "name": voter.model,
            "num_classes": voter.num_classes,
            "weights_sha256": voter.weights_sha256,
            "classes": None if voter.classes is None else list(voter.classes),
        },
        "ablation": asdict(voter.ablation),
        "tokens": voter.tokens,
        "voting": {"theta": voter.theta, "gaps": voter.gaps},
        "randomized": {"draws": voter.draws, "seed": voter.draw_seed},
        "preprocess": voter.preprocess.to_dict(),
        "numerics": numerics.to_dict(),
    }


def rows_digest(table: pa.Table) -> str:
    """Digest of the listed ids and labels: what options such as a label map decide."""
    digest = hashlib.sha256()
    # A batch at a time: as Python objects, a million rows take several times their table's memory.
    for batch in table.select(["image_id", "label", "labels"]).to_batches(_DIGEST_ROWS):
        for image_id, label, labels in zip(*batch.to_pydict().values(), strict=True):
            digest.update(f"{image_id}\0{label}\0{labels}\n".encode())
    return digest.hexdigest()


def has_several_labels(table: pa.Table) -> bool:
    """Whether the ground truth of a listing gives sets of labels."""
    return bool(table["labels"].null_count < table.num_rows)


def execution(config: VotesConfig, numerics: Numerics, images: int) -> dict[str, Any]:
    """What is worth knowing about a run but does not change its votes."""
    # Small enough to show progress and lose little, large enough to keep an actor busy.
    unit_images = config.unit_images or min(256, max(16, -(-images // 16)))
    return {
        "data": _lasting(config.data),
        "weights": config.weights if is_hub_name(config.weights) else _lasting(config.weights),
        "images": images,
        "unit_images": unit_images,
        "units": -(-images // unit_images),
        "actors": config.actors,
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _lasting(place: str) -> str:
    """``place`` so that it means the same from every working folder; ``s3://`` as it is."""
    full = storage.full_path(place)
    # Alternatives that are absolute or on S3 themselves bear no folder before them.
    meant = [storage.full_path(one) for one in expand_braces(place)]
    return full if expand_braces(full) == meant else place


def finished(manifest: Manifest, seconds: float) -> Manifest:
    """The manifest with this call's times added; its identity, and so its id, stays."""
    facts = {
        **manifest.execution,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "voting_seconds": round(manifest.execution.get("voting_seconds", 0.0) + seconds, 1),
    }
    return replace(manifest, execution=facts)
