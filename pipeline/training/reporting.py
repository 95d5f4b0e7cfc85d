"""Reports of a training: progress and figures on the terminal and in MLflow, and a forecast."""

import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol

from pipeline.config import EstimateConfig
from pipeline.training.curves import Curves
from pipeline.training.estimate import assumption
from pipeline.training.learner import Learner
from pipeline.training.recipe import Recipe

_SECONDS_BETWEEN_LINES = 10.0


class Reporter(Protocol):
    """Receiver of what the first worker reports while it trains."""

    def say(self, line: str) -> None:
        """Report one line of progress."""

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        """Report what was measured after an epoch, counted from 1."""


class SilentReporter:
    """Reporter of the workers other than the first: it does nothing."""

    def say(self, line: str) -> None:
        """Do nothing."""

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        """Do nothing."""


class TerminalReporter:
    """Prints lines on standard error, and figures there and in MLflow."""

    def __init__(self, curves: Curves) -> None:
        self.curves = curves

    def say(self, line: str) -> None:
        """Print a line."""
        print(line, file=sys.stderr, flush=True)

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        """Log the figures and print them, shares in percent."""
        self.curves.epoch(epoch, figures)
        shown = [
            f"{name} {value:.4f}" if name.endswith("loss") else f"{name} {100 * value:.1f} %"
            for name, value in figures.items()
            if "/uniform/" not in name
        ]
        self.say(f"train: epoch {epoch} done: {', '.join(shown)}")


class TrainingProgress:
    """Reports rate and remaining time, one line every ten seconds.

    Args:
        learner: Learner whose steps are counted.
        reporter: Receiver of the lines.
    """

    def __init__(self, learner: Learner, reporter: Reporter) -> None:
        self.learner, self.reporter = learner, reporter
        self._resumed = learner.done
        self._start = self._last = time.monotonic()
        if learner.done:
            reporter.say(f"train: resumed after step {learner.done} of {learner.steps}")

    def step(self) -> None:
        """Count a step that was done."""
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        learner = self.learner
        config, epoch_steps = learner.recipe.config, learner.recipe.order.steps
        rate = (learner.done - self._resumed) / (now - self._start)
        left = (learner.steps - learner.done) / rate / 60
        epoch, step = divmod(learner.done - 1, epoch_steps)
        loss, accuracy = learner.meters()
        self.reporter.say(
            f"train: epoch {epoch + 1} of {config.epochs}, step {step + 1} of {epoch_steps}, "
            f"loss {loss:.3f}, ablation accuracy {100 * accuracy:.1f} %, "
            f"{rate * config.batch:.1f} images/s, {left:.0f} min left"
        )


def forecast(
    recipe: Recipe, state: dict[str, Any] | None, estimate: EstimateConfig
) -> Iterator[str]:
    """Yield lines on the size and price of a training; nothing is computed.

    Args:
        recipe: The training.
        state: Checkpoint to resume from; None for a new training.
        estimate: Speed of all workers together, and price of an hour of them.
    """
    config, views = recipe.config, recipe.defense.views
    steps = config.epochs * recipe.order.steps
    done = 0 if state is None else int(state["learner"]["done"])
    network = recipe.defense.network
    high, wide = recipe.defense.model_input.model_px
    yield f"images:        {len(recipe.train):,} to learn from, {len(recipe.held_out):,} held out"
    yield (
        f"network:       {network.name}, {network.num_classes} classes, "
        f"tokens {recipe.defense.tokens}, input {high}x{wide} px"
    )
    drawn = config.views_per_image
    yield f"views:         {views}: {len(views)} of an image, {drawn} of them a step"
    if (assumed := assumption(views)) is not None:
        yield f"estimates:     {assumed}"
    yield (
        f"steps:         {config.epochs} epochs x {recipe.order.steps:,} steps of "
        f"{config.batch:,} images = {steps:,}"
    )
    yield f"there already: {done:,} (a resume skips them)"
    if estimate.images_per_second is None:
        yield "hours, cost:   give --images-per-second (of all workers) and --price-per-hour"
        return
    hours = (steps - done) * config.batch / estimate.images_per_second / 3600
    yield f"hours:         {hours:,.2f}"
    if estimate.price_per_hour is not None:
        yield f"cost:          {hours * estimate.price_per_hour:,.2f}"
