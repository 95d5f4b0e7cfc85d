"""Reads and requests in parallel threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

# Waiting on disks and servers, not on cores: more threads than cores are right.
_THREADS = 16

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def in_threads(function: Callable[[_In], _Out], items: Sequence[_In]) -> list[_Out]:
    """``[function(item) for item in items]``, in threads; the first item's error is raised."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(_THREADS, len(items))) as pool:
        return list(pool.map(function, items))
