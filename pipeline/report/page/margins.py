"""How far a run's certificates are from failing: its margins, counted."""

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from models.ablation import IntArray
from pipeline.claims import Claim
from pipeline.config import ConfigError
from pipeline.questions.outcomes import SMOOTHED, Outcomes
from pipeline.questions.stored import dataset

GROUPS = ("rightly predicted", "wrongly predicted", "without a label")


@dataclass(frozen=True)
class MarginCounts:
    """The images of a run by their margin under one claim.

    Attributes:
        claim: What is certified iff the margin is >= 0.
        values: Margins that occur, ascending; int (M,).
        counts: Images with each of them by group, of ``GROUPS``; int (3, M).
        errors: Images with an error, which have no margin.
    """

    claim: Claim
    values: IntArray
    counts: IntArray
    errors: int


def margin_counts(outcomes: Outcomes, claim: Claim) -> MarginCounts:
    """Count the stored margins of a claim, a batch at a time.

    Raises:
        ConfigError: None is stored.
    """
    run, ids = outcomes.run, outcomes.ids.combine_chunks()
    group_n = np.where(outcomes.right[SMOOTHED], 0, np.where(outcomes.labels.known, 1, 2))
    fits = [
        pc.field(name).is_null() if value is None else pc.field(name) == value
        for name, value in claim._replace(threat=str(claim.threat))._asdict().items()  # type: ignore[arg-type]
    ]
    chosen = fits[0]
    for fit in fits[1:]:
        chosen &= fit
    seen: dict[tuple[int, int], int] = {}
    batches = dataset(run.out, "certificates", [run.run_id]).to_batches(
        columns=["image_id", "margin"], filter=chosen & pc.field("margin").is_valid()
    )
    for batch in batches:
        group_b = group_n[pc.index_in(batch["image_id"], ids).to_numpy()]
        pairs, counts = np.unique(
            np.stack([batch["margin"].to_numpy(), group_b]), axis=1, return_counts=True
        )
        for margin, group, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
            seen[margin, group] = seen.get((margin, group), 0) + count
    if not seen:
        raise ConfigError(
            f"run {run.run_id}: no margin of its certificates against {claim.threat} px is stored"
        )
    values = np.array(sorted({margin for margin, _ in seen}))
    table = np.array([[seen.get((int(v), g), 0) for v in values] for g in range(len(GROUPS))])
    return MarginCounts(claim, values, table, int(outcomes.errors.sum()))
