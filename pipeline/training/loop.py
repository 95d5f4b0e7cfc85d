"""Training loop from the first step, or the checkpoint's, to the last, for every launcher."""

import time
from typing import Any

import torch
import torch.distributed as dist

from pipeline.training.checkpoint import read_checkpoint, write_checkpoint, write_weights
from pipeline.training.config import TrainingPlace
from pipeline.training.estimate import HeldOut, assumption, estimate
from pipeline.training.feed import Feed
from pipeline.training.learner import Learner
from pipeline.training.recipe import Recipe
from pipeline.training.reporting import Reporter, SilentReporter, TrainingProgress

Figures = dict[str, float]


class Training:
    """One worker's training.

    Args:
        recipe: The training.
        place: Place of its checkpoint and weights.
        device: Device of the network.
        reporter: Receiver of progress and figures; used by the first worker only.
        rank: Number of this worker.
        world: Workers that share each batch.

    Raises:
        ConfigError: The checkpoint is of another training.
        WeightsError, UnsupportedModelError: The network or its weights do not fit.
    """

    def __init__(
        self,
        recipe: Recipe,
        place: TrainingPlace,
        device: torch.device,
        reporter: Reporter,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.recipe, self.place, self.device = recipe, place, device
        self.reporter = SilentReporter() if rank else reporter
        self.first, self.world = rank == 0, world
        self.learner = Learner(recipe, device, rank, world)
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        state = read_checkpoint(place.out, recipe)
        if state is not None:
            self.learner.load_state_dict(state["learner"])
            self.history, self.best = state["history"], state["best"]
        self.held_out = HeldOut.of(recipe, rank, world)
        self._saved = time.monotonic()

    def run(self, feed: Feed) -> str | None:
        """Train to the end; return the path of the weights, on the first worker.

        Raises:
            SourceError: An image cannot be used.
        """
        steps = self.recipe.order.steps
        progress = TrainingProgress(self.learner, self.reporter)
        assumed = assumption(self.recipe.defense.views)
        if assumed is not None and self.held_out is not None:
            self.reporter.say(f"train: of the estimates, {assumed}")
        for epoch in range(self.learner.done // steps, self.recipe.config.epochs):
            first = self.learner.done - epoch * steps
            if first == 0:
                self.learner.reset_meters()
            for images, labels in feed.batches(epoch, first):
                self.learner.step(images, labels)
                progress.step()
                self._save_if_due()
            self._end(epoch + 1)
        return self._write()

    def _end(self, epoch: int) -> None:
        """Measure, select, save and report."""
        figures = self._measured()
        self.history.append({"epoch": epoch, **figures})
        if self.recipe.config.select == "best" and (
            self.best is None or _merit(figures) > _merit(self.best["figures"])
        ):
            state = self.learner.result.state_dict()
            weights = {key: value.detach().cpu().clone() for key, value in state.items()}
            self.best = {"figures": figures, "weights": weights}
        self._save()
        # An interrupted training, or one to be continued, then leaves weights to use.
        self._write()
        self.reporter.epoch(epoch, figures)

    def _write(self) -> str | None:
        """Write the weights selected so far; return their path, on the first worker."""
        if not self.first:
            return None
        weights = self.best["weights"] if self.best else self.learner.result.state_dict()
        return write_weights(self.place.out, self.recipe, weights, self.history)

    def _measured(self) -> Figures:
        """Measure the epoch: mean loss and accuracy in training, estimates on held-out images."""
        means = torch.tensor(self.learner.meters(), device=self.device, dtype=torch.float32)
        if self.world > 1:
            dist.all_reduce(means)
            means /= self.world
        loss, accuracy = means.tolist()
        figures = {"train/loss": loss, "train/ablation_accuracy": accuracy}
        if self.held_out is not None:
            found = estimate(self.learner.result, self.held_out, self.recipe.defense, self.device)
            figures |= {f"validation/{name}": value for name, value in found.items()}
        return figures

    def _save_if_due(self) -> None:
        due = self.place.checkpoint_minutes
        if due and time.monotonic() - self._saved >= 60 * due:
            self._save()

    def _save(self) -> None:
        self._saved = time.monotonic()
        if self.first:
            state = {
                "learner": self.learner.state_dict(),
                "history": self.history,
                "best": self.best,
            }
            write_checkpoint(self.place.out, self.recipe, state)


def _merit(figures: Figures) -> tuple[float, float]:
    """Rank weights by certified accuracy against the smallest patch, then by ablation accuracy."""
    certified = [v for k, v in figures.items() if k.startswith("validation/certified_accuracy/")]
    return certified[0] if certified else 0.0, figures["validation/ablation_accuracy"]
