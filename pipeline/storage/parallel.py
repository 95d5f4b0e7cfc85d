"""Reads and requests in parallel threads, or in tasks of a cluster."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

# Waiting on disks and servers, not on cores: more threads than cores are right.
_THREADS = 16
# When the speed of this process's threads is known; and what they must have left for tasks to be
# worth it, since a local Ray takes some 15 seconds to start, to import and to end.
_TRIAL_SECONDS, _LEFT_SECONDS = 5.0, 30.0
# Tasks are many, so that no worker waits for another's last one; what each reads is bounded.
_TASKS, _TASK_BYTES = 256, 2**30

_In = TypeVar("_In")
_Out = TypeVar("_Out")

Spread = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""The built-in ``map``, or one that computes elsewhere and yields in any order."""


def in_threads(
    function: Callable[[_In], _Out],
    items: Sequence[_In],
    enough: Callable[[int], bool] = lambda begun: False,
) -> list[_Out]:
    """``[function(item) for item in items]``, in threads; the first item's error is raised.

    Args:
        function: Applied to every item.
        items: The items.
        enough: Asked as results come in, with the number of items begun; once it is true no more
            are begun, and the results are those of the first items.
    """
    if len(items) < 2:
        return [function(item) for item in items]
    begun: list[None] = []  # its appends are atomic

    def counted(item: _In) -> _Out:
        begun.append(None)
        return function(item)

    pool = ThreadPoolExecutor(min(_THREADS, len(items)))
    try:
        futures = [pool.submit(counted, item) for item in items]
        for future in futures:
            future.result()
            if enough(len(begun)):
                break
    finally:
        pool.shutdown(cancel_futures=True)
    # A thread may take an item while those before it are cancelled: only what precedes the first
    # cancelled one is without a gap.
    finished = itertools.takewhile(lambda future: not future.cancelled(), futures)
    return [future.result() for future in finished]


def in_threads_or_tasks(
    function: Callable[[_In], _Out],
    attempt: Callable[[_In], _Out | None],
    items: Sequence[_In],
    sizes: Sequence[int],
    spread: Spread | None,
) -> list[_Out]:
    """``in_threads(function, items)``; what is left after seconds, if it is much, in tasks.

    Args:
        function: Applied to every item.
        attempt: The same for tasks, picklable; None for what this process shall do itself.
        items: The items.
        sizes: Bytes that each reads, by which tasks are cut.
        spread: Maps in tasks; None leaves all to the threads.
    """
    start = time.monotonic()

    def is_much_left(begun: int) -> bool:
        took = time.monotonic() - start
        left = took * (len(items) - begun) / begun
        return spread is not None and took >= _TRIAL_SECONDS and left >= _LEFT_SECONDS

    results = in_threads(function, items, is_much_left)
    if spread is None or len(results) == len(items):
        return results
    first = len(results)
    batches = dict(enumerate(_batches(items[first:], sizes[first:])))
    arrived: dict[int, list[_Out | None]] = {}
    done = 0
    for number, outcomes in spread(partial(_attempt_all, attempt), batches.items()):
        arrived[number] = outcomes
        # In order, so that of several errors the same one is raised, wherever items are done.
        while done in arrived:
            pairs = zip(batches[done], arrived.pop(done), strict=True)
            results += [function(item) if outcome is None else outcome for item, outcome in pairs]
            done += 1
    return results


def _attempt_all(
    attempt: Callable[[_In], _Out | None], numbered: tuple[int, list[_In]]
) -> tuple[int, list[_Out | None]]:
    number, items = numbered
    return number, in_threads(attempt, items)


def _batches(items: Sequence[_In], sizes: Sequence[int]) -> Iterator[list[_In]]:
    """Cut items into the batches of tasks."""
    most = min(_TASK_BYTES, sum(sizes) / _TASKS)
    batch: list[_In] = []
    read = 0
    for item, size in zip(items, sizes, strict=True):
        batch.append(item)
        read += size
        if read >= most:
            yield batch
            batch, read = [], 0
    if batch:
        yield batch
