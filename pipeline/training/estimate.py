"""Estimate accuracies on held-out images, certified ones by the project's own certificates."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from models.classifiers.build import base_classifier
from models.classifiers.smoothed import SmoothedClassifier
from models.errors import WrongSizeError
from models.preprocess import Preprocess
from models.views.family import ViewFamily
from pipeline.certificates import Rule
from pipeline.certificates.batch import vote_batches
from pipeline.certificates.rules import default_rules, drawing_order, rule_named
from pipeline.runs.defense import Defense
from pipeline.runs.numerics import MICROBATCH
from pipeline.runs.resolve import default_threats
from pipeline.sources.base import SourceError
from pipeline.sources.decode import UndecodableError, prepared
from pipeline.sources.reading import read_bytes_of
from pipeline.training.recipe import Recipe

# Images voted on at once; bounds the memory of their tokens.
_CHUNK = 32


@dataclass(frozen=True)
class HeldOut:
    """Held-out images of this worker, and the labels of all.

    Attributes:
        images: uint8 (n, model height, model width, 3).
        labels: Of the images of every worker, in the order of their shares; int64.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, recipe: Recipe, rank: int, world: int) -> "HeldOut | None":
        """Read the images to estimate on; None if there are none.

        Raises:
            SourceError: One of them cannot be decoded, or has the wrong size.
        """
        count = min(recipe.config.estimate, len(recipe.held_out))
        if not count:
            return None
        # Held-out rows are sorted, by class perhaps: take them evenly.
        chosen = recipe.held_out[np.arange(count) * len(recipe.held_out) // count]
        preprocess: Preprocess = recipe.defense.model_input
        rows = recipe.rows(chosen[rank::world])
        encoded = read_bytes_of(rows, recipe.options)
        images = []
        for name, data in zip(rows["image_id"].to_pylist(), encoded, strict=True):
            try:
                images.append(prepared(data, preprocess))
            except (UndecodableError, WrongSizeError) as error:
                raise SourceError(
                    f"held-out image {name}: {error}; repair it or leave it out of --data"
                ) from error
        order = np.concatenate([chosen[other::world] for other in range(world)])
        shape = (-1, *preprocess.model_px, 3)
        return cls(np.array(images, np.uint8).reshape(shape), recipe.labels[order])


def estimate(
    network: nn.Module, held_out: HeldOut, defense: Defense, device: torch.device
) -> dict[str, float]:
    """Measure plain, ablation, smoothed and certified accuracy on held-out images, 0 to 1.

    Of views that hide there is no smoothed accuracy: each rule has an answer, and a clean accuracy,
    of its own.

    Every worker calls it with its share of the images and gets the figures of all.
    """
    classifier = base_classifier(network, defense.views, defense.model_input, defense.tokens)
    smoothed = SmoothedClassifier(
        classifier.to(device).eval().pack(), device, MICROBATCH[device.type]
    )
    parts = [
        smoothed(held_out.images[start : start + _CHUNK])
        for start in range(0, len(held_out.images), _CHUNK)
    ]
    mine = (
        np.concatenate([part.votes_bv for part in parts]),
        np.concatenate([part.plain_b for part in parts]),
    )
    shares: list[Any] = [mine]
    if dist.is_initialized():
        shares = [None] * dist.get_world_size()
        dist.all_gather_object(shares, mine)
    votes = np.concatenate([share[0] for share in shares])
    plain = np.concatenate([share[1] for share in shares])
    labels, views = held_out.labels, defense.views
    figures = {
        "plain_accuracy": float((plain == labels).mean()),
        "ablation_accuracy": float((votes == labels[:, None]).mean()),
    }
    hits: Counter[str] = Counter()
    for images, batch in vote_batches(votes, views, defense.network.num_classes, plain_n=plain):
        truth = labels[images]
        if not views.hides:  # the vote of most masks is the answer of no defense
            hits["smoothed_accuracy"] += int((batch.ranked.predictions == truth).sum())
        for threat in default_threats(views):
            patch = f"{threat.side or threat}px".replace("<=", "_")
            for rule in _rules(views):
                right = rule.predict(batch, threat) == truth
                if rule.knows_patch:
                    hits[f"clean_accuracy/{rule.name}/{patch}"] += int(right.sum())
                held = right & (rule.margins(batch, threat) >= 0)
                hits[f"certified_accuracy/{rule.name}/{patch}"] += int(held.sum())
    return figures | {name: count / len(labels) for name, count in hits.items()}


def assumption(views: ViewFamily) -> str | None:
    """Say which patch the certified estimates assume; None where they assume none."""
    rules = [rule.name for rule in _rules(views) if rule.knows_patch]
    if not rules:
        return None
    largest = ", ".join(f"{threat} px" for threat in default_threats(views))
    verb = "assume" if len(rules) > 1 else "assumes"
    return f"{' and '.join(rules)}: {verb} a patch of at most {largest}"


def _rules(views: ViewFamily) -> list[Rule]:
    """The rules that are asked about some views, in the order of figures."""
    names = drawing_order(default_rules(views, randomized=False))
    return [rule_named(name) for name in names]
