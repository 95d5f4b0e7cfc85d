"""Runs as the votes job stores them, from votes made up here: no network, no Ray."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.views.ablations import Ablation
from models.views.family import ViewFamily
from pipeline.runs.manifest import Execution, Manifest
from pipeline.runs.rows import ranked_counts
from pipeline.runs.schema import ATTACKS
from pipeline.runs.store import VotesStore

COLUMNS = Ablation(kind="column", size=2, stride=1, height=10, width=10)


def identity(
    views: ViewFamily, classes: int, model: str, restricted: Sequence[int] | None, **more
) -> dict:
    """Everything that a manifest's identity must have; ``more`` replaces or adds entries."""
    return {
        "data": {"kind": "tar", "fingerprint": "f00d", "several_labels": False},
        "model": {
            "name": model,
            "num_classes": classes,
            "weights_sha256": "ab" * 32,
            "classes": restricted,
        },
        **views.to_identity(),
        "tokens": "drop",
        "voting": {"theta": None, "gaps": False},
        "randomized": {"draws": None, "seed": 0},
        "numerics": {"device": "cpu", "dtype": "float32"},
    } | more


def write_run(
    out: Path,
    votes: np.ndarray,
    labels: Sequence,
    *,
    ids: Sequence[str] | None = None,
    ablation: ViewFamily = COLUMNS,
    classes: int = 4,
    model: str = "tiny",
    restricted: Sequence[int] | None = None,
    plain: Sequence[int] | None = None,
    errors: Sequence[int] = (),
    gaps: np.ndarray | None = None,
    unit_images: int = 4,
    sizes: Sequence[tuple[int, int]] | None = None,
    **more,
) -> str:
    """Write a complete run; its id.

    Args:
        out: Folder of all results.
        votes: Votes, (N, V), or sets of them, (N, V, T) with -1 in empty slots.
        labels: Right class of each image, None where unknown, or lists of them.
        ids: Image ids.
        ablation: What voted.
        classes: Length of the logits.
        model: Its name.
        restricted: The only classes that can be voted for; None for all.
        plain: Plain predictions; the smoothed ones where left out.
        errors: Images that could not be voted on.
        gaps: Top-two gaps, (N, V), stored if the identity says so; by default a half each.
        unit_images: Rows of a file.
        sizes: Height and width of each decoded picture; null where left out, as of old runs.
        more: Entries of the identity.
    """
    manifest = Manifest(
        identity=identity(ablation, classes, model, restricted, **more),
        execution=Execution(
            data="images/*.tar",
            weights="absent.safetensors",
            images=len(votes),
            unit_images=unit_images,
            units=-(-len(votes) // unit_images),
            started="2026-11-22T17:35:55Z",
        ),
    )
    rows = [
        _row(image, votes[image], labels[image], ids, plain, errors)
        | ({} if sizes is None else dict(zip(("height", "width"), sizes[image], strict=True)))
        | ({} if gaps is None or image in errors else {"gaps": gaps[image].astype(np.float16)})
        for image in range(len(votes))
    ]
    store = VotesStore(str(out), manifest.run_id)
    store.write_manifest(manifest)
    for unit, start in enumerate(range(0, len(rows), unit_images)):
        table = pa.Table.from_pylist(rows[start : start + unit_images], manifest.schema)
        store.commit(unit, table, manifest.schema, manifest.defense.votes_per_image)
    return manifest.run_id


def write_attacks(out: Path, run_id: str, attacks: Sequence[tuple[str, bool, bool]]) -> None:
    """Rows as ``patchcert attack`` leaves them beside its images, for a patch of 32 px.

    Args:
        out: Folder of all results.
        run_id: The run.
        attacks: Image, whether it is certified, and whether it is right after; one a patch.
    """
    folder = out / "attack" / f"run_id={run_id}"
    (folder / "32px-0").mkdir(parents=True)
    rows = [
        dict.fromkeys(ATTACKS.names, 0)
        | {"image_id": image_id, "certified": certified, "threat": "32x32", "patch_px": 32}
        | {"right_after": right, "success": not right}
        for image_id, certified, right in attacks
    ]
    pq.write_table(pa.Table.from_pylist(rows, ATTACKS), folder / "32px-0.parquet")
    images = pa.table({"image_id": ["of another kind"]})
    pq.write_table(images, folder / "32px-0" / "attacked.parquet")


def _row(image, cast, label, ids, plain, errors) -> dict:
    several = isinstance(label, list)
    row = {
        "image_id": ids[image] if ids else f"shard-000/{image:03d}",
        "label": None if several else label,
        "labels": label if several else None,
    }
    if image in errors:
        return row | {"error": "not a picture"}
    ranked = ranked_counts(cast)
    sets = cast.ndim == 2
    prediction = ranked[0]["class"] if ranked else 0
    return row | {
        "votes": None if sets else cast.tolist(),
        "vote_sets": [[v for v in one.tolist() if v >= 0] for one in cast] if sets else None,
        "views": list(range(len(cast))),
        "gaps": np.full(len(cast), 0.5, np.float16),
        "counts": ranked,
        "prediction": prediction,
        "plain_prediction": prediction if plain is None else plain[image],
    }
