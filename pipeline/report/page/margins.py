"""A run's margins, counted, and the trade-off of an alert at near ties."""

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from models.views.family import IntArray
from pipeline.analysis.outcomes import Outcomes
from pipeline.analysis.run import Run
from pipeline.analysis.stored import dataset
from pipeline.certificates.detection import detection_leads
from pipeline.certificates.rule import ALERT
from pipeline.certificates.rules import rule_named
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.runs.labels import Labels
from pipeline.runs.schema import DetectionCurve, Summary
from pipeline.scoring.claims import Alert, Claim, resolve_claims
from pipeline.scoring.summary import Totals, leads_by_tau

# Votes held at a time.
_VOTES = 1 << 20
GROUPS = ("classified correctly", "classified wrongly", "without a label", "alert, no answer")


@dataclass(frozen=True)
class MarginCounts:
    """The images of a run by their margin under one claim.

    Attributes:
        claim: The claim, certified iff the margin is >= 0.
        values: Margins that occur, ascending; int (M,).
        counts: Images with each of them by group, of ``GROUPS``; int (G, M), the last group there
            only where the rule raises alerts.
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
    fits = [
        pc.field(name).is_null() if value is None else pc.field(name) == value
        for name, value in claim.to_dict().items()
    ]
    chosen = fits[0]
    for fit in fits[1:]:
        chosen &= fit
    seen: dict[tuple[int, int], int] = {}
    batches = dataset(run.out, "certificates", [run.run_id]).to_batches(
        columns=["image_id", "prediction", "margin"], filter=chosen & pc.field("margin").is_valid()
    )
    for batch in batches:
        labels = Labels(outcomes.labels.classes[pc.index_in(batch["image_id"], ids).to_numpy()])
        answers_b = batch["prediction"].fill_null(ALERT).to_numpy().astype(np.int64)
        group_b = np.where(labels.accept(answers_b), 0, np.where(labels.known, 1, 2))
        group_b[answers_b == ALERT] = 3
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
    groups = len(GROUPS) if rule_named(claim.rule).alerts else len(GROUPS) - 1
    table = np.array([[seen.get((int(v), g), 0) for v in values] for g in range(groups)])
    return MarginCounts(claim, values, table, int(outcomes.errors.sum()))


def detection_curve(run: Run, summary: Summary, claim: Claim) -> DetectionCurve:
    """Count the attacks by a square that alerts detect, as in a summary.

    Taken from the summary where ``patchcert certify --detect`` was asked; else from the votes, some
    at a time, without storing anything.

    Raises:
        ConfigError: Detection knows no such votes, or there is no labelled image.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    for curve in summary["detection"]:
        if (curve["threat"], curve["stride"]) == (str(claim.threat), claim.stride):
            return curve
    resolve_claims(run.manifest.defense, ClaimsConfig(patch=(str(claim.threat),), detect=True))
    sums = np.zeros((3, run.manifest.defense.votes_per_image + 2), np.int64)
    for table, votes in run.batches(_VOTES):
        right = Labels.of(table).accept(table["prediction"].to_numpy().astype(np.int64))
        leads = detection_leads(
            run.renumbered(votes[right]), run.ablation, claim.threat, run.num_classes
        )
        sums += leads_by_tau(leads, run.manifest.defense.votes_per_image)
    totals = Totals(
        images=summary["images"],
        unlabelled=summary["images_without_label"],
        leads_right={Alert(claim.threat, claim.stride): sums},
    )
    (curve,) = totals.summary(run.manifest)["detection"]
    return curve
