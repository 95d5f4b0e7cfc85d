"""Measure the distance of patches from success, and its gradient by the pixels of the grid.

Gradients run through the views that show a patch and through no other, without hidden tokens, so a
step costs as much as these views: 5 of 32 bands for 2 px on CIFAR-10.

Shapes: A attempts, H x W pixels of the grid, C classes, S sequences of a pass.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.classifiers.build import ClassSubset
from models.classifiers.smoothed import SmoothedClassifier
from models.classifiers.votes import winners
from models.views.family import IntArray
from pipeline.attack.independent import strengths
from pipeline.attack.placements import Attempt
from pipeline.attack.target import Target
from pipeline.certificates.votes import VoteArray

# The lead in logits at which a view counts as won; a larger lead would gain nothing.
_WON = 0.5
# Sequences whose activations are kept at once for the way back.
_SEQUENCES = 64


class Look(NamedTuple):
    """Measurements of patches with their present pixels.

    Attributes:
        leads_a: Votes by which each image's prediction still leads, [j < c] counted as in the
            rules; negative where another class wins. Of a decision, 0 and -1. int (A,).
        losses_a: Logits that the rivals lack, summed over the views asked; float (A,).
        gradient_ahwc: Gradient of the losses by the grid's pixels; float32 (A, H, W, 3).
    """

    leads_a: IntArray
    losses_a: NDArray[np.float64]
    gradient_ahwc: NDArray[np.float32]


class VoteGradient:
    """Measures patches against one smoothed classifier.

    Args:
        smoothed: The classifier; gradients of its parameters are switched off.
        target: The answer to change.
    """

    def __init__(self, smoothed: SmoothedClassifier, target: Target) -> None:
        self.classifier, self.voting = smoothed.classifier, smoothed.voting
        self.device, self.target = smoothed.device, target
        inner = self.classifier
        if isinstance(inner, ClassSubset):
            inner = inner.classifier
        if isinstance(inner, nn.Module):
            inner.requires_grad_(False)
        self.group_v = np.empty(len(self.classifier.views), dtype=np.int64)
        for group, (_, numbers) in enumerate(self.classifier.groups()):
            self.group_v[numbers] = group
        self.won = _WON
        if self.voting is not None:
            # Beyond this lead the former winner's softmax is below theta as well.
            self.won += max(0.0, float(np.log(1 / self.voting.theta - 1)))

    def __call__(
        self,
        images_ahwc: NDArray[np.uint8] | NDArray[np.float32],
        attempts: Sequence[Attempt],
        views: Sequence[IntArray],
    ) -> Look:
        """Measure patches.

        Args:
            images_ahwc: The grid of each attempt, with its patch; (A, H, W, 3).
            attempts: Their locations and rivals.
            views: The views to ask, of those that show each patch.
        """
        canvas = torch.from_numpy(images_ahwc.astype(np.float32))
        canvas = canvas.to(self.device).requires_grad_()
        scale = self.classifier.views.pixel_scale
        tokens = self.classifier.tokens(
            canvas.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        )
        # A leaf in between, so that the graph of each pass is freed before the next.
        leaf = tokens.detach().requires_grad_()
        counts_ac = np.stack([attempt.kept_c for attempt in attempts])
        labels_av = [attempt.votes.copy() for attempt in attempts]
        losses_a = np.zeros(len(attempts))
        rivals_a = torch.tensor([attempt.rival for attempt in attempts], device=self.device)
        for image_s, view_s in self._passes(views):
            image, view = (torch.from_numpy(part).to(self.device) for part in (image_s, view_s))
            logits = self.classifier(leaf, image, view).float()
            self._push(logits, rivals_a[image], losses_a, image_s)
            if self.target.counts_votes:
                self._count(counts_ac, image_s, logits.detach())
            else:
                for number, seen, vote in zip(
                    image_s, view_s, winners(logits.detach()), strict=True
                ):
                    labels_av[number][seen] = vote
        plain_a = np.full(len(attempts), -1)
        if not self.target.counts_votes:  # the fallback of a decision sees the whole image
            everyone = np.arange(len(attempts))
            logits = self.classifier.whole(leaf, torch.from_numpy(everyone).to(self.device)).float()
            self._push(logits, rivals_a, losses_a, everyone)
            plain_a = winners(logits.detach())
        torch.autograd.backward(tokens, leaf.grad)
        assert canvas.grad is not None, "tokens do not depend on the pixels"
        leads_a = self._leads(attempts, counts_ac, np.stack(labels_av), plain_a)
        return Look(leads_a, losses_a, canvas.grad.cpu().numpy())

    def _push(
        self, logits: Tensor, rivals_s: Tensor, losses_a: NDArray[np.float64], image_s: IntArray
    ) -> None:
        """Add what the rivals lack, and its gradient."""
        missing = (_lead_over(logits, rivals_s) + self.won).clamp(min=0)
        torch.autograd.backward(missing.sum())
        np.add.at(losses_a, image_s, missing.detach().cpu().numpy())

    def _leads(
        self,
        attempts: Sequence[Attempt],
        counts_ac: IntArray,
        votes: VoteArray,
        plain_a: IntArray,
    ) -> IntArray:
        before_a = np.array([attempt.prediction for attempt in attempts])
        if not self.target.counts_votes:
            answers_a = self.target.answers(votes, plain_a, plain_a)
            return -self.target.changed(before_a, answers_a).astype(np.int64)
        return np.array(
            [
                counts_c[own] - strengths(counts_c, own).max()
                for counts_c, own in zip(counts_ac, before_a, strict=True)
            ]
        )

    def _passes(self, views: Sequence[IntArray]) -> Iterator[tuple[IntArray, IntArray]]:
        """Yield (attempt, view) pairs of equal token count, as many as fit a pass."""
        image_f = np.repeat(np.arange(len(views)), [len(numbers) for numbers in views])
        view_f = np.concatenate(views)
        group_f = self.group_v[view_f]
        for group in np.unique(group_f):
            places = np.flatnonzero(group_f == group)
            for start in range(0, len(places), _SEQUENCES):
                part = places[start : start + _SEQUENCES]
                yield image_f[part], view_f[part]

    def _count(self, counts_ac: IntArray, image_s: IntArray, logits: Tensor) -> None:
        """Add the votes of sequences to their attempts' counts."""
        if self.voting is None:
            np.add.at(counts_ac, (image_s, winners(logits)), 1)
            return
        for image, votes in zip(image_s, self.voting(logits), strict=True):
            counts_ac[image, votes[votes >= 0]] += 1


def _lead_over(logits: Tensor, rivals_s: Tensor) -> Tensor:
    """Return the largest other logit less the rival's; (S,)."""
    others = logits.scatter(1, rivals_s[:, None], -torch.inf)
    return others.amax(dim=1) - logits.gather(1, rivals_s[:, None])[:, 0]
