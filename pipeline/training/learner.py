"""The network in training: its steps, and the state that a resume needs."""

import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.classifiers.determinism import reproducible_gradients, seed_draws
from models.errors import JobError
from pipeline.config import ConfigError
from pipeline.training.forward import AblationLogits
from pipeline.training.networks import (
    prefer_plain_attention,
    starting_network,
    teacher_of,
)
from pipeline.training.objective import followed, loss_of, losses_of, mixed, shortfall_of, target_of
from pipeline.training.optimizer import optimizer_of, share_of_peak
from pipeline.training.recipe import Recipe

_VIEWS = 3  # stream of random numbers; ``order`` and ``images`` have the others
# The average's decay grows as 1 - step^-0.75, as timm advises for short trainings.
_AVERAGE_POWER = 0.75
# Share of the steps, the last, that see all tokens, as the votes will.
_WHOLE = 0.25


class DivergedError(JobError):
    """The loss of a step, or its gradient, is not finite."""


class Learner:
    """Network, optimizer and average of one training.

    Args:
        recipe: The training.
        device: Device of the network.
        rank: Number of this worker.
        world: Workers that share each batch.

    Raises:
        WeightsError: The weights to start from are not this network's.
        UnsupportedModelError: The network cannot be evaluated soundly in the token mode.
    """

    def __init__(self, recipe: Recipe, device: torch.device, rank: int = 0, world: int = 1) -> None:
        self.recipe, self.device, self.rank, self.world = recipe, device, rank, world
        config, defense = recipe.config, recipe.defense
        self.network = starting_network(recipe)
        if self.half and device.type == "cpu":
            prefer_plain_attention(self.network)
        self.forward = AblationLogits(
            self.network, defense.views, defense.model_input, defense.tokens
        ).to(device)
        self.steps = recipe.order.steps * config.epochs
        self.done = 0
        self.optimizer = optimizer_of(self.network, recipe.config)
        self.average: ModelEmaV3 | None = None
        if config.average:
            self.average = ModelEmaV3(
                self.network, decay=config.average, use_warmup=True, warmup_power=_AVERAGE_POWER
            )
        self.teacher = teacher_of(recipe, self.average, device)
        self.reset_meters()
        self._parallel: nn.Module = self.forward
        if world > 1:
            # It concerns the class token, whose stride of length 1 may be any number.
            warnings.filterwarnings("ignore", message="Grad strides do not match")
            places = [device] if device.type == "cuda" else None
            self._parallel = DistributedDataParallel(self.forward, device_ids=places)

    def reset_meters(self) -> None:
        """Set the sums of an epoch to zero."""
        self.loss_sum = torch.zeros((), device=self.device)
        self.right_sum = torch.zeros((), device=self.device, dtype=torch.int64)
        self.metered = 0

    def step(self, images_bhwc: Tensor, labels_b: Tensor) -> None:
        """Learn from this worker's share of a batch.

        Args:
            images_bhwc: Pixels of the attacker's grid; uint8.
            labels_b: Classes; int64.

        Raises:
            DivergedError: The loss or its gradient is not finite; the weights are as before.
        """
        # On CUDA gradients are not promised to be reproducible, and some kernels would be slower.
        with reproducible_gradients() if self.device.type == "cpu" else nullcontext():
            self._step(images_bhwc, labels_b)

    def _step(self, images_bhwc: Tensor, labels_b: Tensor) -> None:
        config = self.recipe.config
        self.forward.train()
        if config.token_dropout:
            early = self.done < (1 - _WHOLE) * self.steps
            self.forward.drop_tokens(config.token_dropout if early else 0.0)
        # All random numbers of a step follow from its number, so that a resumed step is the same.
        views_bn = self._views(len(images_bhwc))
        seed = int(_rng(config.seed, self.done, 1 + self.rank).integers(2**63))
        seed_draws(seed, self.device)
        classes = self.recipe.defense.network.num_classes
        images, labels = mixed(config.mix, config.mix_alpha, images_bhwc, labels_b, classes)
        images, labels = images.to(self.device), labels.to(self.device)
        target_bc = target_of(labels, classes, config.label_smoothing)
        truth_b = target_bc.argmax(-1)
        if config.hardest_of is not None:
            views_bn = self._hardest(images, views_bn, target_bc)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            if self.teacher is not None:
                with torch.no_grad():
                    advice_bc = self.teacher.whole(images)
                target_bc = followed(target_bc, advice_bc, config.teacher_weight)
            logits_bnc = self._parallel(images, views_bn)
        loss = loss_of(logits_bnc, target_bc)
        if config.margin:
            loss = loss + config.margin_weight * shortfall_of(logits_bnc, truth_b, config.margin)
        share = share_of_peak(self.done, self.steps, config.warmup, config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * share * group.get("lr_scale", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        # Workers share their gradients, so that all of them stop at the same step.
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        loss = loss.detach()
        if not bool((loss + norm).isfinite()):
            raise self._diverged(config.lr * share, float(loss), float(norm))
        self.optimizer.step()
        self.done += 1
        if self.average is not None:
            self.average.update(self.network, step=self.done)
        self.loss_sum += loss
        self.right_sum += (logits_bnc.detach().argmax(-1) == truth_b[:, None]).sum()
        self.metered += 1

    def _diverged(self, rate: float, loss: float, norm: float) -> DivergedError:
        """Name the step that must not be taken: after it the weights compute nothing."""
        config = self.recipe.config
        epoch, step = divmod(self.done, self.recipe.order.steps)
        return DivergedError(
            f"training diverged at epoch {epoch + 1}, step {step + 1} of "
            f"{self.recipe.order.steps}, learning rate {rate:.3g}: loss {loss:g}, norm of its "
            f"gradient {norm:g}. What earlier epochs wrote is kept; train again below --lr "
            f"{config.lr:g} or with more --warmup, in another --out or with --overwrite"
        )

    @property
    def half(self) -> bool:
        """True if products are computed in bfloat16."""
        dtype = self.recipe.config.dtype
        return dtype == "bfloat16" or (dtype is None and self.device.type == "cuda")

    @property
    def result(self) -> nn.Module:
        """The resulting network: the average, where there is one."""
        return self.network if self.average is None else self.average.module

    def meters(self) -> tuple[float, float]:
        """Return mean loss and ablation accuracy of this worker since the epoch began."""
        config = self.recipe.config
        share = config.batch // self.world * config.views_per_image
        steps = max(1, self.metered)
        return float(self.loss_sum) / steps, float(self.right_sum) / (steps * share)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that ``load_state_dict`` continues from."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "done": self.done,
            "meters": [self.loss_sum.cpu(), self.right_sum.cpu(), self.metered],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of ``state_dict``."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.done = state["done"]
        loss, right, self.metered = state["meters"]
        self.loss_sum, self.right_sum = loss.to(self.device), right.to(self.device)

    def _hardest(self, images: Tensor, views_bn: Tensor, target_bc: Tensor) -> Tensor:
        """Keep the views of the largest loss, as many of each image as a step learns from.

        In an autocast of its own: weights that it casts without gradients would serve the step too.
        """
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            losses_bn = losses_of(self.forward(images, views_bn), target_bc)
        kept_bn = losses_bn.topk(self.recipe.config.views_per_image).indices
        return views_bn.gather(1, kept_bn)

    def _views(self, count: int) -> Tensor:
        """Draw ablations of this worker's images, evenly spread over the family; int64 (count, n).

        Drawn for the whole batch, so that they do not depend on how it is shared out. It is a
        systematic sample of the family sorted by token count: every view is as likely as any, and
        each count has as many sequences a step, but for one. oneDNN compiles every new shape of a
        bfloat16 product, which otherwise took half of a step.
        """
        config, family = self.recipe.config, len(self.recipe.defense.views)
        per_image = config.hardest_of or config.views_per_image
        spread_n = np.arange(per_image) * family // per_image
        views_vn = (np.arange(family)[:, None] + spread_n) % family
        sorted_v = np.lexsort(self.forward.group_v.cpu().numpy()[views_vn].T)
        rng = _rng(config.seed, self.done, 0)
        sample_b = ((np.arange(config.batch) + rng.random()) * family / config.batch).astype(int)
        mine = rng.permutation(sorted_v[sample_b])[self.rank * count : (self.rank + 1) * count]
        return torch.from_numpy(views_vn[mine]).to(self.device)


def check_network(recipe: Recipe) -> None:
    """Build the network and its teacher once, so that errors are found before the start.

    Raises:
        WeightsError: Weights do not fit.
        UnsupportedModelError: The network cannot be evaluated soundly in the token mode.
        ConfigError: The ablation, the preprocessing and the network disagree on the input size.
    """
    try:
        Learner(recipe, torch.device("cpu"))
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise ConfigError(f"{error}; check --model, --preprocess and --pixel-scale") from error


def _rng(seed: int, step: int, stream: int) -> np.random.Generator:
    return np.random.default_rng([seed, _VIEWS, step, stream])
