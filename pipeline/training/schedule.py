"""The learning rate of a step, as a share of its peak."""

import math

from pipeline.training.config import Schedule


def share_of_peak(step: int, steps: int, warmup: int, schedule: Schedule) -> float:
    """Share of the peak learning rate at a step of ``steps``, counted from 0.

    Linear warm-up; then half a cosine to zero, or a tenth after each third (Salman et al. 2022
    divide by ten every 10 of 30 epochs), or all of it to the end.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return float(0.1 ** min(2, 3 * step // max(1, steps)))
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
