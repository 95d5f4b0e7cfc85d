"""The trade-off of an alert at near ties, for a run that may not have been asked for it."""

from typing import Any

import numpy as np

from pipeline.certificates.detection import detection_leads
from pipeline.claims import Alert, Claim, questions_of
from pipeline.config import ClaimsConfig
from pipeline.labels import Labels
from pipeline.questions.run import Run
from pipeline.summary import Tally, leads_by_tau

# Votes held at a time.
_VOTES = 1 << 20


def detection_curve(run: Run, summary: dict[str, Any], claim: Claim) -> dict[str, Any]:
    """What alerts detect of attacks by a square, as in a summary.

    Taken from the summary where ``patchcert certify --detect`` was asked; else from the votes, some
    at a time, without storing anything.

    Raises:
        ConfigError: Detection knows no such votes, or there is no labelled image.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    for curve in summary["detection"]:
        if (curve["threat"], curve["stride"]) == (str(claim.threat), claim.stride):
            return dict(curve)
    questions_of(run.manifest, ClaimsConfig(patch=(str(claim.threat),), detect=True))
    sums = np.zeros((3, run.manifest.votes_per_image + 2), np.int64)
    for table, votes in run.batches(_VOTES):
        right = Labels.of(table).accept(table["prediction"].to_numpy().astype(np.int64))
        leads = detection_leads(
            run.renumbered(votes[right]), run.ablation, claim.threat, run.num_classes
        )
        sums += leads_by_tau(leads, run.manifest.votes_per_image)
    tally = Tally(
        images=summary["images"],
        unlabelled=summary["images_without_label"],
        leads_right={Alert(claim.threat, claim.stride): sums},
    )
    (curve,) = tally.summary(run.manifest)["detection"]
    return dict(curve)
