"""Functions as tasks of a Ray Data job, and the settings that every such job needs.

Settings that have no stable name in Ray's interface are kept here.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import ray
from ray import cloudpickle
from ray.data import DataContext

from pipeline.cluster.connect import ray_cluster
from pipeline.cluster.errors import in_words
from pipeline.cluster.resources import BLOCK_BYTES

# Reducing votes to certificates takes seconds a task.
_TASK_SECONDS = 1800.0

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@contextmanager
def data_context(stall_seconds: float, *, verbose: bool) -> Iterator[None]:
    """Set Ray Data up for a job of this program, and put the settings back afterwards."""
    context = DataContext.get_current()
    settings = {
        "target_max_block_size": BLOCK_BYTES,
        "enable_progress_bars": verbose,
        "execution_no_progress_timeout_s": stall_seconds,
        "print_on_execution_start": verbose,
    }
    # Names differ between Ray releases; setting one that does not exist would be silent.
    known = {name: getattr(context, name) for name in settings if hasattr(context, name)}
    logger = logging.getLogger("ray.data")
    level = logger.level
    try:
        for name in known:
            setattr(context, name, settings[name])
        if not verbose:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        logger.setLevel(level)
        for name, value in known.items():
            setattr(context, name, value)


def map_on_ray(
    address: str | None, task: Callable[[_In], _Out], items: Iterable[_In], *, verbose: bool
) -> Iterator[_Out]:
    """Apply a function to every item as a Ray Data job, one CPU an item, and yield the results.

    Raises:
        WorkersDiedError: Too many processes or nodes died.
        JobError: The function failed.
    """
    with ray_cluster(address, verbose=verbose), data_context(_TASK_SECONDS, verbose=verbose):
        # As bytes, which Ray does not take for columns; and beside the function, which it copies
        # to every worker.
        rows = [{"item": _packed(item)} for item in items]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            lambda row: {"result": _packed(task(cloudpickle.loads(row["item"])))}, num_cpus=1
        )
        stalled = (
            f"no task came to an end for {_TASK_SECONDS / 60:g} minutes: a worker hangs, or the "
            "cluster has no room; run again to resume"
        )
        with in_words(stalled):
            for row in dataset.iter_rows():
                yield cloudpickle.loads(row["result"])


def _packed(value: object) -> bytes:
    packed: bytes = cloudpickle.dumps(value)  # type: ignore[no-untyped-call]
    return packed
