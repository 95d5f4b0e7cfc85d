"""A function applied to many items by tasks of Ray."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import ray
from ray import cloudpickle

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
        running: list[ray.ObjectRef[bytes]] = []
        try:
            shared = ray.put(task)
            running.extend(_apply.remote(shared, item) for item in items)
            while running:
                ended, running = ray.wait(running, timeout=_TASK_SECONDS)
                if not ended:
                    raise StalledError(
                        f"no task came to an end for {_TASK_SECONDS / 60:g} minutes: a worker "
                        "hangs, or the cluster has no room; run again to resume"
                    )
                yield from map(cloudpickle.loads, ray.get(ended))
        finally:
            # Of a job that fails, or is done with. A call that hangs sees no mere interrupt.
            for left in running if ray.is_initialized() else ():
                ray.cancel(left, force=True)


# Nodes may go, but an item that ends its process shall not do so for ever. The result is bytes,
# which the driver copies: tables would lie in a store that it may leave before it uses them.
@ray.remote(num_cpus=1, max_retries=10)
def _apply(task: Any, item: Any) -> bytes:
    packed: bytes = cloudpickle.dumps(task(item))  # type: ignore[no-untyped-call]
    return packed
