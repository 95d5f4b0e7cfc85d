"""How far a training is: a line every ten seconds, with rate and remaining time."""

import time

from pipeline.training.learner import Learner
from pipeline.training.reporting import Reporter

_SECONDS_BETWEEN_LINES = 10.0


class TrainingProgress:
    """Counts steps and says so.

    Args:
        learner: Whose meters are shown.
        reporter: Who is told.
    """

    def __init__(self, learner: Learner, reporter: Reporter) -> None:
        self.learner, self.reporter = learner, reporter
        self._resumed = learner.done
        self._start = self._last = time.monotonic()
        if learner.done:
            reporter.say(f"train: resumed after step {learner.done} of {learner.steps}")

    def step(self) -> None:
        """A step was done."""
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        learner = self.learner
        config, an_epoch = learner.recipe.config, learner.recipe.order.steps
        rate = (learner.done - self._resumed) / (now - self._start)
        left = (learner.steps - learner.done) / rate / 60
        epoch, step = divmod(learner.done - 1, an_epoch)
        loss, accuracy = learner.meters()
        self.reporter.say(
            f"train: epoch {epoch + 1} of {config.epochs}, step {step + 1} of {an_epoch}, "
            f"loss {loss:.3f}, ablation accuracy {100 * accuracy:.1f} %, "
            f"{rate * config.batch:.1f} images/s, {left:.0f} min left"
        )
