"""Accuracies of a run: integers gathered over batches, divided once at the end.

Images with an error count as wrong in every accuracy; images without a label are left out of
every accuracy and counted apart.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.ablation import Ablation, Patch
from pipeline.intervals import Proportion

Claim = tuple[str, int]
"""A rule and the side of a square patch, in pixels."""


@dataclass
class Tally:
    """Counts over the images of a run; batches are added in any order.

    Attributes:
        images: Rows seen.
        errors: Rows with an error.
        unlabelled: Rows without a label.
        plain_right: Labelled images that the whole-image network classifies rightly.
        smoothed_right: Labelled images whose smoothed prediction is right.
        ablations_right: Votes for the label, over labelled images.
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
        self,
        table: pa.Table,
        votes_nv: NDArray[np.int64],
        certified: dict[Claim, NDArray[np.bool_]],
    ) -> None:
        """Count a batch.

        Args:
            table: Rows of the votes dataset, R of them.
            votes_nv: Votes of the rows without an error, in order; int (N, V).
            certified: Per claim, whether each of those rows is certified; bool (N,).
        """
        voted = table.filter(table["error"].is_null())
        # -1 is no class: an unknown label is never right.
        labels = voted["label"].fill_null(-1).to_numpy()
        known = labels >= 0
        right = (voted["prediction"].to_numpy() == labels) & known
        self.images += table.num_rows
        self.errors += table.num_rows - voted.num_rows
        self.unlabelled += table["label"].null_count
        self.plain_right += int(((voted["plain_prediction"].to_numpy() == labels) & known).sum())
        self.smoothed_right += int(right.sum())
        self.ablations_right += int(((votes_nv == labels[:, None]) & known[:, None]).sum())
        for claim, holds in certified.items():
            self.certified[claim] += int(holds.sum())
            self.certified_right[claim] += int((holds & right).sum())

    def summary(self, run_id: str, ablation: Ablation) -> dict[str, Any]:
        """The summary as plain JSON, its claims ordered by rule and patch."""
        labelled = self.images - self.unlabelled
        ballots = labelled * len(ablation)
        return {
            "run_id": run_id,
            "images": self.images,
            "images_with_error": self.errors,
            "images_without_label": self.unlabelled,
            "ablations": len(ablation),
            "plain_accuracy": Proportion(self.plain_right, labelled).to_dict(),
            "smoothed_accuracy": Proportion(self.smoothed_right, labelled).to_dict(),
            # A mean over images of a share of ablations: no binomial interval applies.
            "mean_ablation_accuracy": self.ablations_right / ballots if ballots else None,
            "certified_accuracy": [
                {
                    "rule": rule,
                    "patch_px": side,
                    "max_touched": ablation.max_touched(Patch.square(side)),
                    "images_certified": self.certified[rule, side],
                    **Proportion(self.certified_right[rule, side], labelled).to_dict(),
                }
                for rule, side in sorted(self.certified)
            ],
        }
