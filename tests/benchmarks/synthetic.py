"""Votes that look like a network's, for measuring what is computed from votes.

They are hard on purpose: many images are certified at the usual patch sizes and many nearly so,
each has many rivals, and neighbouring ablations agree, so that no early exit decides them.

Shape suffixes: N images, V ablations, C classes.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.views.family import ViewFamily
from pipeline.certificates.batch import smoothed_predictions
from pipeline.runs.manifest import Execution, Manifest
from pipeline.runs.schema import VOTES
from pipeline.runs.store import VotesStore

UNIT_IMAGES = 256
"""Images a file of votes, as in a large run."""

# Rivals that get a vote in any case, and those that may get more.
_RIVALS, _POOL = 20, 32
# A view votes as the one before it with this probability.
_AGREES = 0.5
# So many images have a clear favourite, with a share of the votes within these bounds.
_CLEAR, _CLEAR_SHARE, _OTHER_SHARE = 0.65, (0.75, 0.97), (0.15, 0.8)


def synthetic_votes(
    images: int, views: int, num_classes: int, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """Votes of N images, each for a favourite class and 20 or more rivals; uint16 (N, V).

    There must be 33 classes, and 40 views or more.
    """
    favourite_n1 = rng.integers(num_classes, size=(images, 1))
    first_n1 = rng.integers(num_classes - 1, size=(images, 1))
    offsets_nk = (first_n1 + np.arange(_POOL)) % (num_classes - 1)
    rivals_nk = (favourite_n1 + 1 + offsets_nk) % num_classes

    chance_nk = np.cumsum(rng.standard_gamma(0.5, (images, _POOL)), axis=1)
    chance_nk /= chance_nk[:, -1:] + 1e-9
    # Rows one after the other on one line, so that one search serves all.
    line = (chance_nk + np.arange(images)[:, None]).ravel()
    place_nv = np.searchsorted(line, _runs(images, views, rng) + np.arange(images)[:, None])
    rival_nv = rivals_nk.ravel()[np.minimum(place_nv, line.size - 1)]

    clear_n1 = rng.random((images, 1)) < _CLEAR
    shares = (rng.uniform(*bounds, (images, 1)) for bounds in (_CLEAR_SHARE, _OTHER_SHARE))
    votes_nv = np.where(
        _runs(images, views, rng) < np.where(clear_n1, *shares), favourite_n1, rival_nv
    )
    spots_nk = rng.integers(views, size=(images, 1)) + np.arange(_RIVALS) * views // _RIVALS
    np.put_along_axis(votes_nv, spots_nk % views, rivals_nk[:, :_RIVALS], axis=1)
    return votes_nv.astype(np.uint16)


def _runs(images: int, views: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Uniform numbers, each often that of the view before it; (N, V)."""
    begins_nv = rng.random((images, views)) >= _AGREES
    begins_nv[:, 0] = True
    from_nv = np.maximum.accumulate(np.where(begins_nv, np.arange(views), 0), axis=1)
    return np.take_along_axis(rng.random((images, views)), from_nv, axis=1)


def write_votes(out: str, views: ViewFamily, num_classes: int, images: int) -> VotesStore:
    """Write a run of synthetic votes, reproducibly; the prediction is the label.

    ``counts`` is null: what is measured does not read it.
    """
    manifest = _manifest(views, num_classes, images)
    store = VotesStore(out, manifest.run_id)

    def write(unit: int) -> None:
        rows = min(UNIT_IMAGES, images - unit * UNIT_IMAGES)
        rng = np.random.default_rng([unit, len(views)])
        votes_nv = synthetic_votes(rows, len(views), num_classes, rng)
        predictions = pa.array(smoothed_predictions(votes_nv, num_classes), pa.int32())
        columns = {
            "image_id": [f"{unit}/{row}" for row in range(rows)],
            "label": predictions,
            "votes": pa.FixedSizeListArray.from_arrays(votes_nv.ravel(), len(views)),
            "counts": [None] * rows,
            "prediction": predictions,
            "plain_prediction": predictions,
            "error": [None] * rows,
        }
        arrays = [pa.array(columns[f.name]).cast(f.type) for f in VOTES]
        path = _unit_path(store, unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(arrays, schema=VOTES), path, compression="zstd")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(manifest.execution.units)))
    store.write_manifest(manifest)
    return store


def first_images(store: VotesStore, out: str, images: int) -> VotesStore:
    """A run of the first images of another one, in whole units; its files are links to the other's.

    Raises:
        ValueError: The images are no whole number of units, nor all there are.
    """
    whole = store.manifest()
    if images % UNIT_IMAGES and images != whole.execution.images:
        raise ValueError(f"{images} images: choose a multiple of {UNIT_IMAGES}")
    manifest = _manifest(whole.defense.views, whole.defense.network.num_classes, images)
    part = VotesStore(out, manifest.run_id)
    Path(part.folder).mkdir(parents=True)
    for unit in range(manifest.execution.units):
        os.link(_unit_path(store, unit), _unit_path(part, unit))
    part.write_manifest(manifest)
    return part


def _manifest(views: ViewFamily, num_classes: int, images: int) -> Manifest:
    return Manifest(
        identity={
            "model": {"name": "synthetic", "num_classes": num_classes},
            **views.to_identity(),
            "data": {"images": images},
        },
        execution=Execution(
            units=-(-images // UNIT_IMAGES),
            images=images,
            unit_images=UNIT_IMAGES,
            data="synthetic",
        ),
    )


def _unit_path(store: VotesStore, unit: int) -> Path:
    return Path(store.folder, f"unit-{unit:05d}.parquet")
