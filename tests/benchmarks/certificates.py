"""Time of certifying stored votes, beside a plain loop over the same images; printed as JSON.

``make bench-certificates``. The votes are synthetic and lie in Parquet as a run's do. Certifying
them is the command's own code in a process of its own: reading, the exact and the uniform rule at
every patch size, writing; and two-location against one patch, of columns and of pairs of masks.
"""

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.views.ablations import Ablation
from models.views.family import Patch
from models.views.masks import Masks, Placement
from pipeline.bench.hardware import hardware, peak_memory_mib
from pipeline.certificates.batch import rank_votes
from pipeline.cluster.executor import Executor
from pipeline.config import ClaimsConfig
from pipeline.runs.rows import votes_array
from pipeline.runs.store import VotesStore
from tests.benchmarks.synthetic import first_images, write_votes

COLUMNS = Ablation(kind="column", size=19, stride=1, height=224, width=224)
BLOCKS = Ablation(kind="block", size=75, stride=16, height=224, width=224)
"""The paper's settings: 224 columns, and 14 x 14 blocks."""

_AXIS = Placement.covering(224, 32, 6)
PAIRS = Masks.placed(
    height=224, width=224, placements=[(_AXIS, _AXIS)], pairs=True, covers=[Patch.square(32)]
)
"""666 views, by 36 masks for patches up to 32 px."""

PATCHES = (23, 32, 39)
"""1, 2 and 3 % of the pixels."""

EXACT = ClaimsConfig(patch=PATCHES, rule=("exact",))
TWO = ClaimsConfig(patch=(32,), rule=("two-location",))
"""What is asked."""

# Images whose voted classes are counted.
_SAMPLE = 4096
# What numpy's builds read their number of threads from.
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def main(
    *,
    images: int = 50_000,
    num_classes: int = 1000,
    loop: int = 20,
    rounds: int = 3,
    scale: Annotated[tuple[int, ...], cyclopts.Parameter(consume_multiple=True)] = (),
) -> None:
    """Certify columns, blocks and pairs of masks, and columns of several numbers in tasks of Ray.

    Args:
        images: Images of each family; with ``scale`` a multiple of 256.
        num_classes: Classes that are voted for, 33 at least.
        loop: Images a CPU that the plain loop certifies; its time is scaled up to all.
        rounds: Number of times that each is timed; the least counts.
        scale: Multiples of ``images`` to certify in tasks of Ray as well, such as 1 4 16.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), images, num_classes, loop, rounds, scale)
    print(json.dumps({**found, "hardware": hardware()}, indent=2))


def measure(
    folder: Path, images: int, num_classes: int, loop: int, rounds: int, scale: Sequence[int]
) -> dict[str, Any]:
    """Measure as ``main`` says; votes and results go to ``folder``, 1.2 kB an image."""
    largest = images * max(scale, default=1)
    store = write_votes(str(folder / "columns"), COLUMNS, num_classes, largest)
    families = {"columns": first_images(store, str(folder / "part"), images)}
    families["blocks"] = write_votes(str(folder / "blocks"), BLOCKS, num_classes, images)
    result: dict[str, Any] = {
        name: _family(of, loop, rounds, every_size=name == "columns")
        for name, of in families.items()
    }
    families["mask_pairs"] = write_votes(str(folder / "pairs"), PAIRS, num_classes, images)
    result["two_location"] = {
        name: dict(zip(("seconds", "peak_memory_mib"), _certified(of, rounds, TWO), strict=True))
        for name, of in families.items()
        if name != "blocks"
    }
    result["scale"] = []
    for multiple in scale:
        part = first_images(store, str(folder / f"x{multiple}"), multiple * images)
        seconds, memory = _certified(part, 1, ray=True)
        result["scale"].append(
            {
                "images": multiple * images,
                "seconds": seconds,
                "seconds_per_million": 1e6 * seconds / (multiple * images),
                "driver_memory_mib": memory,
            }
        )
    return result


def _family(
    store: VotesStore, loop_images: int, rounds: int, *, every_size: bool
) -> dict[str, Any]:
    """One family of ablations: time, memory, what the loop takes, and how hard the votes are."""
    manifest = store.manifest()
    images, num_classes = manifest.execution.images, manifest.defense.network.num_classes
    seconds, memory = _certified(store, rounds)
    votes = _first_votes(store, _SAMPLE)
    voted = (rank_votes(votes, num_classes).counts_nk > 0).sum(axis=1)
    rows = pq.read_table(Path(store.out, "images", f"run_id={store.run_id}")).to_pydict()
    exact = np.array(rows["largest_exact_px"])
    sides = range(1, 113) if every_size else PATCHES
    by_loop, loop_seconds = _looped(
        votes, _Loop(manifest.defense.views, sides, num_classes, rounds), loop_images
    )
    # What the loop finds among its sides, the engine must have found among all.
    expected = [max((s for s in sides if s <= side), default=0) for side in exact[: len(by_loop)]]
    if by_loop.tolist() != expected:
        raise RuntimeError(f"the plain loop certifies {by_loop.tolist()}, the rules {expected}")
    return {
        "images": images,
        "ablations": len(manifest.defense.views),
        "classes": num_classes,
        "sides": "every side" if every_size else list(PATCHES),
        "seconds": seconds,
        "peak_memory_mib": memory,
        "loop_images": len(by_loop),
        "loop_seconds": loop_seconds * images / len(by_loop),
        "ratio": loop_seconds * images / len(by_loop) / seconds,
        "certified_32px": float((exact >= 32).mean()),
        "beyond_uniform": float((exact > np.array(rows["largest_uniform_px"])).mean()),
        "voted_classes": {"least": int(voted.min()), "mean": float(voted.mean())},
    }


def _looped(
    votes: NDArray[np.int64], loop: "_Loop", images: int
) -> tuple[NDArray[np.int64], float]:
    """What the plain loop finds for the first images, and the seconds it takes on every CPU.

    A process a CPU, each with as many images and one thread: products this small do not gain from
    more, and lose where threads wait for each other.
    """
    cpus = os.cpu_count() or 1
    shares = [votes[cpu * images : (cpu + 1) * images] for cpu in range(cpus)]
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        with ProcessPoolExecutor(cpus, mp_context=get_context("spawn")) as pool:
            found = list(pool.map(loop, [share for share in shares if len(share)]))
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return np.concatenate([largest for largest, _ in found]), max(seconds for _, seconds in found)


@dataclass(frozen=True)
class _Loop:
    """The plain loop over images, timed."""

    ablation: Ablation
    sides: Sequence[int]
    num_classes: int
    rounds: int

    def __call__(self, votes: NDArray[np.int64]) -> tuple[NDArray[np.int64], float]:
        touched = {side: distinct_touched(self.ablation, side) for side in self.sides}
        seconds = []
        for _ in range(self.rounds):
            start = time.perf_counter()
            largest = largest_by_loop(votes, touched, self.num_classes)
            seconds.append(time.perf_counter() - start)
        return largest, min(seconds)


def distinct_touched(ablation: Ablation, side: int) -> NDArray[np.float32]:
    """Every set of views that a square patch touches somewhere, as 0 and 1; (L, V)."""
    rows, columns = (np.unique(axis, axis=0) for axis in ablation.touched_axes(Patch.square(side)))
    both = rows[:, None, :] & columns[None, :, :]
    return both.reshape(-1, len(ablation)).astype(np.float32)


def largest_by_loop(
    votes_nv: NDArray[np.integer[Any]],
    touched: Mapping[int, NDArray[np.float32]],
    num_classes: int,
) -> NDArray[np.int64]:
    """The exact rule as one would write it down: image by image, side by side; int (N,).

    The largest of the sides up to which each image is certified, 0 for none. Locations and voted
    classes are one matrix product, and an image is left at the first side that it fails.

    Args:
        votes_nv: Class that each view voted for.
        touched: Ascending sides with their ``distinct_touched``.
        num_classes: Number of classes.
    """
    largest = np.zeros(len(votes_nv), np.int64)
    for image, votes_v in enumerate(votes_nv):
        classes = np.unique(votes_v)
        # The lowest class without a vote is a rival as well.
        classes = np.union1d(classes, np.setdiff1d(np.arange(num_classes), classes)[:1])
        ballots_vk = (votes_v[:, None] == classes).astype(np.float32)
        n_k = ballots_vk.sum(axis=0)
        c = int(n_k.argmax())
        for side, touched_lv in touched.items():
            left_lk = n_k - touched_lv @ ballots_vk
            size_l1 = touched_lv.sum(axis=1)[:, None]
            margin_lk = left_lk[:, [c]] - left_lk - size_l1 - (classes < classes[c])
            if np.delete(margin_lk, c, axis=1).min() < 0:
                break
            largest[image] = side
    return largest


def _first_votes(store: VotesStore, images: int) -> NDArray[np.int64]:
    tables, manifest = [], store.manifest()
    for unit in store.units(manifest):
        tables.append(votes_array(store.read_unit(unit, ["votes"]), manifest.defense))
        if sum(map(len, tables)) >= images:
            break
    return np.concatenate(tables)[:images]


def _certified(
    store: VotesStore, rounds: int, asked: ClaimsConfig = EXACT, *, ray: bool = False
) -> tuple[float, float]:
    """Seconds and peak memory in MiB of certifying a run: the least of several fresh processes."""
    context = get_context("spawn")
    seconds, memory = [], []
    for _ in range(rounds):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            taken, peak = pool.submit(_certify, store, asked, ray=ray).result()
        seconds.append(taken)
        memory.append(peak)
    return min(seconds), max(memory)


def _certify(store: VotesStore, asked: ClaimsConfig, *, ray: bool) -> tuple[float, float]:
    from pipeline.scoring.certify import certify_votes  # not part of the time

    how = {}
    with ExitStack() as stack:
        if ray:
            executor = Executor()
            stack.enter_context(executor.join())
            how = {"spread": executor.map, "threads": 1}
        start = time.perf_counter()
        certify_votes(store, asked, overwrite=True, **how)
        return time.perf_counter() - start, peak_memory_mib()


if __name__ == "__main__":
    cyclopts.run(main)
