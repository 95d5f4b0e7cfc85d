"""Which images are held out of training."""

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

_SPLIT = 1  # stream of random numbers; ``order``, ``learner`` and ``augment`` have the others


def stratified_split(
    labels: NDArray[np.integer], held_out: int, seed: int
) -> tuple[IntArray, IntArray]:
    """Training and held-out rows, ascending; int64 (N - held_out,) and (held_out,).

    Every class gives the same share, rounded so that the total is ``held_out``. Which rows of a
    class are held out depends on the seed, on how many, and on where the class lies alone.

    Raises:
        ValueError: Some class would keep no image to train on.
    """
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * (held_out / max(1, len(labels)))
    quota = np.floor(exact).astype(np.int64)
    # Largest remainders first; of equal ones the lower class.
    for place in np.argsort(quota - exact, kind="stable")[: max(0, held_out - int(quota.sum()))]:
        quota[place] += 1
    if np.any(quota >= counts):
        raise ValueError(f"class {classes[quota >= counts][0]} would keep none to train on")
    chosen = [
        np.random.default_rng([seed, _SPLIT, int(c)]).permutation(np.flatnonzero(labels == c))[:q]
        for c, q in zip(classes, quota, strict=True)
    ]
    held = np.sort(np.concatenate([np.empty(0, np.int64), *chosen])).astype(np.int64)
    return np.setdiff1d(np.arange(len(labels)), held), held
