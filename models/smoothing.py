"""Votes of a base classifier on every ablation of a batch of images.

The certificate assumes that an ablation votes the same whatever happens to the pixels it does
not show, although it shares its batch with ablations that do show them. Every forward pass
therefore has one fixed shape: the same number of sequences, padded where there are fewer, all of
one token count. Shapes: B images, V ablations, S sequences of a microbatch, C classes.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.ablation import Ablation


class BaseClassifier(Protocol):
    """What smoothing needs of a network (``models.vit.TokenDropViT`` is one)."""

    ablation: Ablation

    def groups(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Ablations of equal shape: (token count, view numbers)."""

    def tokens(self, images_bhwc: Tensor) -> Tensor:
        """What the sequences gather from, computed once an image."""

    def __call__(self, tokens_bn: Tensor, image_s: Tensor, view_s: Tensor) -> Tensor:
        """Logits (S, C) of ablation ``view_s`` of image ``image_s``."""

    def whole(self, tokens_bn: Tensor, image_s: Tensor) -> Tensor:
        """Logits (S, C) of the whole images ``image_s``."""


class Ballot(NamedTuple):
    """Votes of a batch.

    Attributes:
        votes_bv: The class each ablation voted for, in the ablations' order; int (B, V).
        plain_b: The class of the whole image by the same weights; int (B,).
    """

    votes_bv: NDArray[np.int64]
    plain_b: NDArray[np.int64]


# A whole image has about six times the tokens of a band: fewer sequences keep memory alike.
_WHOLE_SHARE = 4


class SmoothedClassifier:
    """Counts argmax votes (lowest class on ties) in microbatches of one fixed shape.

    Args:
        classifier: The base classifier, already on ``device`` in its arithmetic's type.
        device: Where the images are sent.
        microbatch: Sequences a forward pass; part of a run's identity, for the last bits of
            logits depend on it.
    """

    def __init__(self, classifier: BaseClassifier, device: torch.device, microbatch: int) -> None:
        if microbatch < 1:
            raise ValueError(f"microbatch={microbatch}: it must be at least 1 sequence")
        self.classifier, self.device, self.microbatch = classifier, device, microbatch
        self._groups = [views for _, views in classifier.groups()]

    @torch.inference_mode()
    def __call__(self, images_bhwc: NDArray[np.uint8]) -> Ballot:
        """Vote on preprocessed images, uint8 (B, model height, model width, 3)."""
        count = len(images_bhwc)
        views = len(self.classifier.ablation)
        if not count:
            return Ballot(np.empty((0, views), np.int64), np.empty(0, np.int64))
        tokens = self.classifier.tokens(torch.from_numpy(images_bhwc).to(self.device))
        votes = np.empty((count, views), dtype=np.int64)
        for group in self._groups:
            # View-major: neighbours in a microbatch read different images of the same band.
            image_s = np.tile(np.arange(count), len(group))
            view_s = np.repeat(group, count)
            votes[image_s, view_s] = np.concatenate(
                [
                    self._argmax(self.classifier(tokens, *padded))[:valid]
                    for valid, padded in self._microbatches(self.microbatch, image_s, view_s)
                ]
            )
        plain = [
            self._argmax(self.classifier.whole(tokens, *padded))[:valid]
            for valid, padded in self._microbatches(
                max(1, self.microbatch // _WHOLE_SHARE), np.arange(count)
            )
        ]
        return Ballot(votes, np.concatenate(plain))

    def _microbatches(
        self, size: int, *columns: NDArray[np.int64]
    ) -> Iterator[tuple[int, list[Tensor]]]:
        """Slices of equal length: (valid sequences, columns padded with their first entry)."""
        for start in range(0, len(columns[0]), size):
            valid = min(size, len(columns[0]) - start)
            padded = []
            for column in columns:
                part = np.full(size, column[start], dtype=np.int64)
                part[:valid] = column[start : start + valid]
                padded.append(torch.from_numpy(part).to(self.device))
            yield valid, padded

    @staticmethod
    def _argmax(logits_sc: Tensor) -> NDArray[np.int64]:
        """Winning class per sequence; the lowest where logits tie, as ``numpy.argmax``.

        torch leaves the winner of a tie open, and bfloat16 logits tie often.
        """
        winners: NDArray[np.int64] = logits_sc.float().cpu().numpy().argmax(axis=1)
        return winners.astype(np.int64)
