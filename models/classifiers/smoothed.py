"""Votes of a base classifier on ablations of a batch of images.

The certificate assumes that the vote of an ablation does not depend on the pixels that it does
not show, although it shares its batch with ablations that do show them. Every forward pass
therefore has one fixed shape: the same number of sequences, padded where there are fewer, all of
one token count. Shapes: B images, V ablations, n votes an image (V unless ``views_bv`` says
otherwise), S sequences of a microbatch, T slots of a vote set, C classes.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.classifiers.base import BaseClassifier
from models.classifiers.votes import ThresholdVoting, top_gaps, winners


class Asking(Protocol):
    """An order in which the views of an image are asked, and the moment to stop."""

    def next(
        self, labels_v: NDArray[np.int64], gaps_v: NDArray[np.floating], plain: int
    ) -> NDArray[np.int64] | None:
        """The views of an image to ask now, from the labels so far (-1 is none); None to stop."""


class BatchVotes(NamedTuple):
    """Votes of a batch.

    Attributes:
        votes_bv: The class with the largest logit in each ablation, in the order of the
            ablations or of ``views_bv``, -1 where a view was not asked; int (B, n).
        plain_b: The class of the whole image by the same weights; int (B,).
        vote_sets: Under threshold voting, the classes that each ablation votes for, ascending,
            then -1; int32 (B, n, T). Else None.
        gaps_bv: The top-two logit gap, if requested; float16 (B, n). Else None.
        finite_b: False where a logit of an image was NaN or infinite, so that its row is no vote;
            bool (B,). None where all are finite.
    """

    votes_bv: NDArray[np.int64]
    plain_b: NDArray[np.int64]
    vote_sets: NDArray[np.int32] | None = None
    gaps_bv: NDArray[np.float16] | None = None
    finite_b: NDArray[np.bool_] | None = None

    def of_finite(self) -> "BatchVotes":
        """The rows that are votes."""
        kept = slice(None) if self.finite_b is None else self.finite_b
        return BatchVotes(
            self.votes_bv[kept],
            self.plain_b[kept],
            None if self.vote_sets is None else self.vote_sets[kept],
            None if self.gaps_bv is None else self.gaps_bv[kept],
        )


# A whole image has about six times the tokens of a band: fewer sequences keep memory alike.
_WHOLE_SHARE = 4
# Row counts that threads share out evenly: others are not known to treat every slot alike.
_STEP = 16


class SmoothedClassifier:
    """Casts votes in microbatches of one fixed shape.

    Args:
        classifier: The base classifier, already on ``device`` in its arithmetic's type.
        device: Where the images are sent.
        microbatch: Sequences a forward pass; part of a run's identity, for the last bits of
            logits depend on it.
        voting: Threshold voting, beside the one vote for the largest logit; None for that alone.
        gaps: Report top-two logit gaps.

    Raises:
        ValueError: The microbatch is empty, or the classifier is in training mode, in which an
            ablation's logits depend on its neighbours and on chance.
    """

    def __init__(
        self,
        classifier: BaseClassifier,
        device: torch.device,
        microbatch: int,
        *,
        voting: ThresholdVoting | None = None,
        gaps: bool = False,
    ) -> None:
        if microbatch < 1:
            raise ValueError(f"microbatch={microbatch}: it must be at least 1 sequence")
        if isinstance(classifier, nn.Module) and any(
            part.training for part in classifier.modules()
        ):
            raise ValueError("the classifier is in training mode; call its eval() before voting")
        self.classifier, self.device, self.microbatch = classifier, device, microbatch
        self.voting, self.gaps = voting, gaps
        self.group_v = np.empty(len(classifier.views), dtype=np.int32)
        for group, (_, views) in enumerate(classifier.groups()):
            self.group_v[views] = group

    @torch.inference_mode()
    def __call__(
        self, images_bhwc: NDArray[np.uint8], views_bv: NDArray[np.integer] | None = None
    ) -> BatchVotes:
        """Vote on preprocessed images.

        Args:
            images_bhwc: uint8 (B, model height, model width, 3).
            views_bv: Numbers of the ablations to vote on, per image, repetitions allowed;
                int (B, n). None for every ablation of every image.

        Raises:
            ValueError: ``views_bv`` has another number of images, or names no ablation.
        """
        count = len(images_bhwc)
        views_bv = self._checked_views(count, views_bv)
        batch = self._empty_votes(views_bv.shape)
        if not count:
            return batch
        tokens = self.classifier.tokens(torch.from_numpy(images_bhwc).to(self.device))
        # View-major: neighbours in a microbatch read different images of the same band.
        view_f = np.ascontiguousarray(views_bv.T).reshape(-1)
        for group in range(self.group_v.max() + 1):
            of_group = np.flatnonzero(self.group_v[view_f] == group)
            for places in self._slices(self.microbatch, of_group):
                logits = self._logits(tokens, places % count, view_f[places])
                self._count(batch, logits, places % count, places // count)
        self._count_plain(batch, tokens)
        return self._without_finite(batch)

    @torch.inference_mode()
    def ask(self, images_bhwc: NDArray[np.uint8], asking: Asking) -> BatchVotes:
        """Vote on preprocessed images, each only as far as it is asked.

        The questions of all images share microbatches, so that these stay full although every
        image stops by itself. The views that an image is asked depend on its own labels alone.

        Args:
            images_bhwc: uint8 (B, model height, model width, 3).
            asking: The views to ask next.
        """
        count, views = len(images_bhwc), len(self.classifier.views)
        gaps_bv = np.zeros((count, views), np.float16)
        batch = self._empty_votes((count, views))._replace(gaps_bv=gaps_bv)
        if not count:
            return batch
        batch.votes_bv[:] = -1
        tokens = self.classifier.tokens(torch.from_numpy(images_bhwc).to(self.device))
        self._count_plain(batch, tokens)
        queues: list[list[tuple[int, int]]] = [[] for _ in range(self.group_v.max() + 1)]
        waiting, idle = np.zeros(count, np.int64), list(range(count))
        while True:
            for image in idle:
                views_n = asking.next(
                    batch.votes_bv[image], gaps_bv[image], int(batch.plain_b[image])
                )
                for view in () if views_n is None else views_n.tolist():
                    queues[self.group_v[view]].append((image, view))
                    waiting[image] += 1
            longest = max(queues, key=len)
            if not longest:
                break
            asked, longest[: self.microbatch] = longest[: self.microbatch], []
            image_s, view_s = np.array(asked).T
            self._count(batch, self._logits(tokens, image_s, view_s), image_s, view_s)
            np.subtract.at(waiting, image_s, 1)
            idle = [image for image in dict.fromkeys(image_s.tolist()) if not waiting[image]]
        if not self.gaps:
            batch = batch._replace(gaps_bv=None)
        return self._without_finite(batch)

    @staticmethod
    def _without_finite(batch: BatchVotes) -> BatchVotes:
        """The batch without ``finite_b`` where every logit is finite."""
        finite_b = batch.finite_b
        return batch if finite_b is None or not finite_b.all() else batch._replace(finite_b=None)

    def _logits(
        self, tokens: Tensor, image_s: NDArray[np.int64], view_s: NDArray[np.int64]
    ) -> Tensor:
        """Logits of at most a microbatch of ablations, all of one group (``group_v``); (S, C)."""
        padded = self._padded(self.microbatch, np.arange(len(view_s)))
        images, views = self._sent(image_s[padded]), self._sent(view_s[padded])
        return self.classifier(tokens, images, views)[: len(view_s)]

    def _count_plain(self, batch: BatchVotes, tokens: Tensor) -> None:
        """Enter the class of each whole image."""
        size = max(_STEP, self.microbatch // _WHOLE_SHARE // _STEP * _STEP)
        for places in self._slices(size, np.arange(len(batch.plain_b))):
            whole = self.classifier.whole(tokens, self._sent(self._padded(size, places)))
            batch.plain_b[places] = winners(whole)[: len(places)]
            self._note_finite(batch, whole[: len(places)], places)

    def _checked_views(self, count: int, views_bv: NDArray[np.integer] | None) -> NDArray[np.int64]:
        views = len(self.classifier.views)
        if views_bv is None:
            return np.broadcast_to(np.arange(views), (count, views))
        views_bv = np.asarray(views_bv)
        if views_bv.ndim != 2 or len(views_bv) != count:
            raise ValueError(
                f"views_bv of shape {views_bv.shape}: give one row for each of {count}"
            )
        if views_bv.size and not 0 <= views_bv.min() <= views_bv.max() < views:
            raise ValueError(f"views_bv: ablations are numbered 0 to {views - 1}")
        return views_bv.astype(np.int64)

    def _empty_votes(self, shape: tuple[int, ...]) -> BatchVotes:
        return BatchVotes(
            np.empty(shape, np.int64),
            np.empty(shape[0], np.int64),
            None if self.voting is None else np.empty((*shape, self.voting.slots), np.int32),
            np.empty(shape, np.float16) if self.gaps else None,
            np.ones(shape[0], np.bool_),
        )

    def _count(
        self,
        batch: BatchVotes,
        logits: Tensor,
        image_s: NDArray[np.int64],
        slot_s: NDArray[np.int64],
    ) -> None:
        """Enter the votes of sequences into their images' rows of ``batch``."""
        batch.votes_bv[image_s, slot_s] = winners(logits)
        if self.voting is not None and batch.vote_sets is not None:
            batch.vote_sets[image_s, slot_s] = self.voting(logits)
        if batch.gaps_bv is not None:
            batch.gaps_bv[image_s, slot_s] = top_gaps(logits)
        self._note_finite(batch, logits, image_s)

    @staticmethod
    def _note_finite(batch: BatchVotes, logits: Tensor, image_s: NDArray[np.int64]) -> None:
        """Note the images of logits that are not all finite: their largest is no vote."""
        if batch.finite_b is not None:
            batch.finite_b[image_s[~logits.isfinite().all(dim=1).cpu().numpy()]] = False

    @staticmethod
    def _slices(size: int, places: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Consecutive parts of at most ``size``."""
        for start in range(0, len(places), size):
            yield places[start : start + size]

    @staticmethod
    def _padded(size: int, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """``size`` places: the given ones, then the first of them again."""
        return np.concatenate([places, np.full(size - len(places), places[0])])

    def _sent(self, indices: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(indices)).to(self.device)
