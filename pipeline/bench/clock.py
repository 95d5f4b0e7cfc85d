"""Timing things side by side on a machine that does other things too."""

import time
from collections.abc import Callable, Mapping

import torch


def side_by_side(
    tasks: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, float]:
    """Seconds of each task, the least of several rounds.

    The tasks take turns, so that a slow minute of the machine meets all of them, and the least is
    taken, since whatever else runs can only add to it. Each runs once before it counts.

    Args:
        tasks: What to time, by name.
        rounds: How often each is timed.
        device: What to wait for before a clock is read.
    """
    for task in tasks.values():
        task()
    best = dict.fromkeys(tasks, float("inf"))
    for _ in range(rounds):
        for name, task in tasks.items():
            best[name] = min(best[name], seconds_of(task, device))
    return best


def seconds_of(task: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one call, the device's work included."""
    _wait(device)
    start = time.perf_counter()
    task()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
