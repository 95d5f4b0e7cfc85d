"""A function applied to many items by tasks of Ray."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import ray

from models.errors import StalledError
from pipeline.cluster.connect import ray_cluster
from pipeline.cluster.errors import in_words

# Reducing votes to certificates takes seconds a task.
_TASK_SECONDS = 1800.0

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def map_on_ray(
    address: str | None, task: Callable[[_In], _Out], items: Iterable[_In], *, verbose: bool
) -> Iterator[_Out]:
    """Apply a function to every item in tasks of one CPU each, and yield the results as they come.

    Plain tasks: a dataset's operator kept one of two CPUs idle half of the time.

    Raises:
        WorkersDiedError: Too many processes or nodes died.
        StalledError: No task came to an end for long.
        JobError: The function failed.
    """
    with ray_cluster(address, verbose=verbose), in_words():
        shared = ray.put(task)
        running: list[ray.ObjectRef[Any]] = [_apply.remote(shared, item) for item in items]
        try:
            while running:
                ended, running = ray.wait(running, timeout=_TASK_SECONDS)
                if not ended:
                    raise StalledError(
                        f"no task came to an end for {_TASK_SECONDS / 60:g} minutes: a worker "
                        "hangs, or the cluster has no room; run again to resume"
                    )
                yield from ray.get(ended)
        finally:
            # Of a job that fails, or is done with. A call that hangs sees no mere interrupt.
            for left in running:
                ray.cancel(left, force=True)


@ray.remote(num_cpus=1)
def _apply(task: Any, item: Any) -> Any:
    return task(item)
