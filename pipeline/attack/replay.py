"""Votes and logits of attacked images, by the code and the arithmetic of the run.

Votes go the whole way of a run: listed, decoded, voted on by Ray actors, committed, read. Logits,
which a run does not keep, are computed here by the same classifier at the same microbatch.

Shapes: R images, V ablations, S sequences, C classes.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from models.smoothing import BaseClassifier, SmoothedClassifier
from pipeline.attack.reopened import Reopened
from pipeline.attack.source import model_input, on_the_grid
from pipeline.config import OutputConfig
from pipeline.flow import count_votes
from pipeline.store import StoreError, VotesStore

# Images whose logits are computed at once.
_IMAGES = 32


def vote_again(data: str, out: str, reopened: Reopened, *, verbose: bool) -> pa.Table:
    """A run over attacked images under ``out``: its rows, in the order of ``data``.

    Raises:
        ConfigError, SourceError: The images cannot be listed.
        JobError, StoreError: The run failed, or an image could not be voted on.
    """
    voter = replace(reopened.voter, preprocess=on_the_grid(reopened.voter.preprocess))
    outcome = count_votes(reopened.request(data), voter, OutputConfig(out=out, verbose=verbose))
    rows = pa.concat_tables(VotesStore(out, outcome.run_id).read())
    failed = rows.filter(rows["error"].is_valid())
    if failed.num_rows:
        raise StoreError(f"{data}, image {failed['image_id'][0]}: {failed['error'][0]}")
    return rows


class _Digesting:
    """A base classifier that keeps a digest of the logits of each image and ablation."""

    def __init__(self, classifier: BaseClassifier, digests_rv: NDArray[np.uint64]) -> None:
        self.classifier, self.ablation = classifier, classifier.ablation
        self.digests_rv = digests_rv

    def groups(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        return self.classifier.groups()

    def tokens(self, images_bhwc: Tensor) -> Tensor:
        return self.classifier.tokens(images_bhwc)

    def whole(self, tokens_bn: Tensor, image_s: Tensor) -> Tensor:
        return self.classifier.whole(tokens_bn, image_s)

    def __call__(self, tokens_bn: Tensor, image_s: Tensor, view_s: Tensor) -> Tensor:
        logits = self.classifier(tokens_bn, image_s, view_s)
        # bfloat16, which numpy lacks, is part of float32 without loss.
        rows = logits.float().cpu().numpy()
        for image, view, row in zip(image_s.tolist(), view_s.tolist(), rows, strict=True):
            digest = hashlib.blake2b(row.tobytes(), digest_size=8).digest()
            self.digests_rv[image, view] = int.from_bytes(digest, "little")
        return logits


def logit_digests(smoothed: SmoothedClassifier, pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """A digest of every logit's bits, for each image and ablation; (R, V).

    Args:
        smoothed: The classifier, in the run's arithmetic.
        pixels: On the attacker's grid; uint8 (R, H, W, 3).
    """
    ablation = smoothed.classifier.ablation
    digests = np.empty((len(pixels), len(ablation)), np.uint64)
    for start in range(0, len(pixels), _IMAGES):
        part = slice(start, start + _IMAGES)
        digesting = _Digesting(smoothed.classifier, digests[part])
        again = SmoothedClassifier(digesting, smoothed.device, smoothed.microbatch)
        again(model_input(pixels[part], ablation.pixel_scale))
    return digests
