"""Time of each stage of voting on some images, from their bytes to their row of votes.

Stages that run on the device are timed inside one votes pass, waiting for it at every border;
decoding and writing, which the job does beside it, by themselves.
"""

import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from models.classifiers.drop import TokenDropViT
from models.classifiers.smoothed import BatchVotes, SmoothedClassifier
from models.preprocess import PRESETS
from pipeline.bench.end_to_end import PHOTO, photo
from pipeline.runs.rows import votes_table
from pipeline.runs.schema import votes_schema
from pipeline.runs.store import VotesStore
from pipeline.sources.decode import prepared

Clock = Callable[[], float]
Seconds = defaultdict[str, float]


def stage_seconds(
    smoothed: SmoothedClassifier, pixels: NDArray[np.uint8], device: torch.device
) -> dict[str, float]:
    """Seconds that some images take, by stage.

    The waiting costs time of its own, so the sum is a little more than an undisturbed pass.

    Args:
        smoothed: Votes by dropping tokens.
        pixels: The images; uint8 (B, model height, model width, 3).
        device: Where it runs.
    """
    assert isinstance(smoothed.classifier, TokenDropViT), "stages are those of dropping tokens"
    seconds: Seconds = defaultdict(float)
    clock = _clock(device)
    with _watched(smoothed, smoothed.classifier, seconds, clock):
        start = clock()
        ballot = smoothed(pixels)
        total = clock() - start
    # An encoder and a head lie inside the pass from tokens to logits; what is left is embedding.
    embed = seconds["tokens"] + seconds["logits"] - seconds["encoder"] - seconds["head"]
    inside = {
        "embed": embed,
        **{name: seconds[name] for name in ("attention", "MLP", "head", "vote")},
    }
    return {
        "decode, one core": _decode_seconds(len(pixels)),
        **inside,
        "other (norms, residuals, padding)": total - sum(inside.values()),
        "write": _write_seconds(ballot),
    }


class _Watched:
    """A callable whose calls are timed."""

    def __init__(self, inner: Any, name: str, seconds: Seconds, clock: Clock) -> None:
        self.inner, self.name, self.seconds, self.clock = inner, name, seconds, clock

    def __call__(self, *given: Any, **named: Any) -> Any:
        start = self.clock()
        found = self.inner(*given, **named)
        self.seconds[self.name] += self.clock() - start
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@contextmanager
def _watched(
    smoothed: SmoothedClassifier, classifier: TokenDropViT, seconds: Seconds, clock: Clock
) -> Iterator[None]:
    """Time the parts of a votes pass; some lie inside others."""
    network: Any = classifier.network
    parts: list[tuple[object, str, str]] = [
        (classifier, "tokens", "tokens"),
        (classifier, "forward", "logits"),
        (classifier, "whole", "logits"),
        (classifier, "encoder", "encoder"),
        (network, "forward_head", "head"),
        (smoothed, "_count", "vote"),
    ]
    packed = getattr(classifier.encoder, "packed", None)
    modules = {network, *(packed.blocks if packed else ())}
    parts += [(part, "forward", "attention") for part in _named(modules, "attn")]
    parts += [(part, "forward", "MLP") for part in _named(modules, "mlp")]
    last = getattr(classifier.encoder, "last", None)
    if last is not None:  # it uses the block's weights without calling the block
        parts.append((last, "_attend", "attention"))
    with ExitStack() as stack:
        for owner, attribute, name in parts:
            inner = getattr(owner, attribute)
            stack.enter_context(_set(owner, attribute, _Watched(inner, name, seconds, clock)))
        yield


@contextmanager
def _set(owner: object, attribute: str, value: object) -> Iterator[None]:
    """Put a value in front of an attribute, on the instance, and take it away again."""
    missing = object()
    before = vars(owner).get(attribute, missing)
    vars(owner)[attribute] = value
    try:
        yield
    finally:
        if before is missing:
            del vars(owner)[attribute]
        else:
            vars(owner)[attribute] = before


def _named(modules: Iterable[nn.Module], name: str) -> set[nn.Module]:
    """The parts of modules that have a name."""
    parts = itertools.chain.from_iterable(module.named_modules() for module in modules)
    return {part for path, part in parts if path.split(".")[-1] == name}


def _decode_seconds(images: int) -> float:
    encoded = [photo(*PHOTO, seed) for seed in range(min(images, 4))]
    start = time.perf_counter()
    for number in range(images):
        prepared(encoded[number % len(encoded)], PRESETS["imagenet"])
    return time.perf_counter() - start


def _write_seconds(ballot: BatchVotes) -> float:
    """Seconds to make rows of a ballot and to write them, durably."""
    images, views = ballot.votes_bv.shape
    rows = pa.table(
        {
            "image_id": [f"shard/{number}" for number in range(images)],
            "label": pa.array([0] * images, pa.int32()),
            "error": pa.nulls(images, pa.string()),
        }
    )
    schema = votes_schema()
    with tempfile.TemporaryDirectory(prefix="patchcert-bench-") as folder:
        start = time.perf_counter()
        table = votes_table(rows, np.arange(images), ballot, schema)
        VotesStore(folder, "r0").commit(0, table, schema, views)
        return time.perf_counter() - start


def _clock(device: torch.device) -> Clock:
    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now
