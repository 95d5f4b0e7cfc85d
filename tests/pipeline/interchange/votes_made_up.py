"""Votes as another program might hand them over."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.interchange.config import ImportConfig

VIEWS, CLASSES, SIDE = 8, 5, 8
COLUMNS = ImportConfig(views="column", size=2, image_size=str(SIDE), num_classes=CLASSES)


def wavering(images: int, views: int = VIEWS, classes: int = CLASSES, seed: int = 0):
    """Votes (N, V) with a favourite in each image, and labels (N,); int64."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    noise = rng.random((images, views)) < 0.9 * rng.random((images, 1))
    return np.where(noise, rng.integers(0, classes, noise.shape), labels[:, None]), labels


def write_npz(path: Path, **arrays) -> str:
    np.savez(path, **{name: np.asarray(array) for name, array in arrays.items()})
    return str(path)


def write_parquet(path: Path, **columns) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def npz_bytes(**arrays) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, **arrays)
    return sink.getvalue()
