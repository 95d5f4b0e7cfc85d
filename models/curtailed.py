"""Votes cast one after the other, until those of an image suffice.

Shapes: B images, V ablations in the order of the family, P of them in the order of voting (P = V),
S sequences of a microbatch.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from models.order import looks, spread
from models.smoothing import Ballot, SmoothedClassifier
from models.voting import winners

Suffices = Callable[[NDArray[np.int64]], NDArray[np.bool_]]


class CurtailedClassifier:
    """Casts votes in one order, and ends an image's vote when it is decided.

    Which votes an image has depends on the image alone: where microbatches are filled up with
    ablations that come later in an image's order, and it needs them not, their votes are dropped.

    Args:
        smoothed: What votes; argmax, without gaps.
        suffices: Votes (N, V), -1 where not cast, to whether they suffice; bool (N,).
    """

    def __init__(self, smoothed: SmoothedClassifier, suffices: Suffices) -> None:
        self.smoothed, self.suffices = smoothed, suffices
        ablation = smoothed.classifier.ablation
        self.order_p = spread(ablation)
        self.looks = looks(len(ablation))

    @torch.inference_mode()
    def __call__(self, images_bhwc: NDArray[np.uint8]) -> Ballot:
        """Vote on preprocessed images, uint8 (B, model height, model width, 3)."""
        count, views = len(images_bhwc), len(self.order_p)
        votes_bp = np.full((count, views), -1, np.int64)
        if not count:
            return Ballot(votes_bp, np.empty(0, np.int64))
        tokens = self.smoothed.tokens(images_bhwc)
        group_p = self.smoothed.group_v[self.order_p]
        ends_b, look_b = np.zeros(count, np.int64), np.zeros(count, np.int64)
        while (open_b := ends_b == 0).any():
            missing_bp = (votes_bp < 0) & open_b[:, None]
            first = int(missing_bp.any(axis=0).argmax())
            # A microbatch is of one shape: whoever is open and next in the order.
            place_s, image_s = np.nonzero((missing_bp & (group_p == group_p[first])).T)
            place_s, image_s = (of_s[: self.smoothed.microbatch] for of_s in (place_s, image_s))
            logits = self.smoothed.logits(tokens, image_s, self.order_p[place_s])
            votes_bp[image_s, place_s] = winners(logits)
            self._look(votes_bp, ends_b, look_b)
        votes_bv = np.empty_like(votes_bp)
        votes_bv[:, self.order_p] = self._first(votes_bp, ends_b)
        return Ballot(votes_bv, self.smoothed.plain(tokens, count))

    def _look(
        self, votes_bp: NDArray[np.int64], ends_b: NDArray[np.int64], look_b: NDArray[np.int64]
    ) -> None:
        """Look at images that have come so far, once at each number of votes; end the decided."""
        missing_bp = votes_bp < 0
        reached_b = np.where(missing_bp.any(axis=1), missing_bp.argmax(axis=1), votes_bp.shape[1])
        while True:
            due = np.flatnonzero((ends_b == 0) & (reached_b >= self.looks[look_b]))
            if not len(due):
                return
            ends_n = self.looks[look_b[due]]
            shown_np = self._first(votes_bp[due], ends_n)
            shown_nv = np.empty_like(shown_np)
            shown_nv[:, self.order_p] = shown_np
            ended_n = (ends_n == votes_bp.shape[1]) | self.suffices(shown_nv)
            ends_b[due[ended_n]] = ends_n[ended_n]
            look_b[due[~ended_n]] += 1

    @staticmethod
    def _first(votes_np: NDArray[np.int64], ends_n: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first so many votes of each image, -1 behind them."""
        return np.where(np.arange(votes_np.shape[1]) < ends_n[:, None], votes_np, -1)
