"""A file of votes as arrays, whatever its format.

Shape suffixes: N images of a file, V ablations, K labels of an image.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SPEC = "spec"
"""Array of an npz, and metadata key of a Parquet file, that holds ``Spec.to_json``."""

PICKLE = (
    "files of Python objects can run code and are not opened: let their owner turn them into an "
    "npz, as docs/interchange.md shows"
)


class Columns(NamedTuple):
    """What a file holds.

    Attributes:
        votes_nv: Class that each ablation voted for, -1 where an image has an error; integers
            (N, V).
        labels: Right class of each image, -1 where unknown, int64 (N,); or its right classes, -1
            in empty slots, int64 (N, K).
        ids: Image ids; None where the file has none.
        plain_n: Class that the network gives the whole image; int64 (N,), or None where the file
            has none.
        errors: Why an image has no votes, None where it has; None where the file has no such
            column.
        told: What the file says the votes are of; None where it does not.
    """

    votes_nv: NDArray[Any]
    labels: NDArray[np.int64]
    ids: list[str] | None
    plain_n: NDArray[np.int64] | None
    errors: list[str | None] | None
    told: str | None
