"""Who is told how a training goes: the terminal, and MLflow."""

import sys
from typing import Protocol

from pipeline.training.curves import Curves


class Reporter(Protocol):
    """What the first worker says while it trains."""

    def say(self, line: str) -> None:
        """One line of progress."""

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        """What was measured after an epoch, counted from 1."""


class Silent:
    """Workers other than the first."""

    def say(self, line: str) -> None:
        """Nothing."""

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        """Nothing."""


class Logged:
    """Lines on standard error, figures there and in MLflow."""

    def __init__(self, curves: Curves) -> None:
        self.curves = curves

    def say(self, line: str) -> None:
        """Print it."""
        print(line, file=sys.stderr, flush=True)

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        """Log the figures, and print them; percent where they are shares."""
        self.curves.epoch(epoch, figures)
        shown = [
            f"{name} {value:.4f}" if name.endswith("loss") else f"{name} {100 * value:.1f} %"
            for name, value in figures.items()
            if "/uniform/" not in name
        ]
        self.say(f"train: epoch {epoch} done: {', '.join(shown)}")
