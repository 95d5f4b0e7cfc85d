"""Accuracies of a run: integers gathered over batches, divided once at the end.

Images with an error count as wrong in every accuracy; images without a label are left out of
every accuracy and counted apart.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.ablation import Ablation, Patch
from pipeline.intervals import Proportion
from pipeline.labels import Labels


class Claim(NamedTuple):
    """What is certified: a rule against square patches.

    Attributes:
        rule: Name of the rule.
        patch_px: Side of the patch, in pixels.
        confidence: Of a probabilistic rule, for each image; None for a proof.
    """

    rule: str
    patch_px: int
    confidence: float | None = None


@dataclass
class Tally:
    """Counts over the images of a run; batches are added in any order.

    Attributes:
        images: Rows seen.
        errors: Rows with an error.
        unlabelled: Rows without a label.
        plain_right: Labelled images that the whole-image network classifies rightly.
        smoothed_right: Labelled images whose smoothed prediction is right.
        ablations_right: Votes for a right class, over labelled images.
        certified_right: Per claim, labelled images that are right and certified.
        certified: Per claim, images certified, right or wrong, labelled or not.
    """

    images: int = 0
    errors: int = 0
    unlabelled: int = 0
    plain_right: int = 0
    smoothed_right: int = 0
    ablations_right: int = 0
    certified_right: Counter[Claim] = field(default_factory=Counter)
    certified: Counter[Claim] = field(default_factory=Counter)

    def add(
        self, table: pa.Table, votes: NDArray[np.int64], certified: dict[Claim, NDArray[np.bool_]]
    ) -> None:
        """Count a batch.

        Args:
            table: Rows of the votes dataset, R of them.
            votes: Votes of the N rows without an error, in order; int (N, V) or sets (N, V, T).
            certified: Per claim, whether each of those rows is certified; bool (N,).
        """
        voted = table.filter(table["error"].is_null())
        labels = Labels.of(voted)
        right = labels.accept(voted["prediction"].to_numpy())
        self.images += table.num_rows
        self.errors += table.num_rows - voted.num_rows
        self.unlabelled += table.num_rows - int(Labels.of(table).known.sum())
        self.plain_right += int(labels.accept(voted["plain_prediction"].to_numpy()).sum())
        self.smoothed_right += int(right.sum())
        if len(votes):
            accepted = labels.accept(votes)
            # Of a set of votes one right class is enough, and counts once.
            self.ablations_right += int((accepted if votes.ndim == 2 else accepted.any(-1)).sum())
        for claim, holds in certified.items():
            self.certified[claim] += int(holds.sum())
            self.certified_right[claim] += int((holds & right).sum())

    def summary(self, run_id: str, ablation: Ablation, votes_per_image: int) -> dict[str, Any]:
        """The summary as plain JSON, its claims ordered by rule and patch."""
        labelled = self.images - self.unlabelled
        ballots = labelled * votes_per_image
        return {
            "run_id": run_id,
            "images": self.images,
            "images_with_error": self.errors,
            "images_without_label": self.unlabelled,
            "ablations": votes_per_image,
            "plain_accuracy": Proportion(self.plain_right, labelled).to_dict(),
            "smoothed_accuracy": Proportion(self.smoothed_right, labelled).to_dict(),
            # A mean over images of a share of ablations: no binomial interval applies.
            "mean_ablation_accuracy": self.ablations_right / ballots if ballots else None,
            "certified_accuracy": [
                {
                    **claim._asdict(),
                    "max_touched": ablation.max_touched(Patch.square(claim.patch_px)),
                    "images_certified": self.certified[claim],
                    **Proportion(self.certified_right[claim], labelled).to_dict(),
                }
                for claim in sorted(self.certified, key=_order)
            ],
        }


def _order(claim: Claim) -> tuple[str, int, float]:
    return claim.rule, claim.patch_px, claim.confidence or 0.0
