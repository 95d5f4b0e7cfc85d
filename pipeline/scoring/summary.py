"""Accuracies of a run: integers gathered over batches, divided once at the end.

Images with an error count as wrong in every accuracy; images without a label are left out of
every accuracy and counted apart.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from models.views.family import IntArray, Patch
from models.views.threats import Threat
from pipeline.certificates.detection import Leads
from pipeline.certificates.rules import rule_named
from pipeline.certificates.uniform import max_touched_views
from pipeline.runs.manifest import AS_GIVEN, Manifest
from pipeline.runs.schema import DetectionCurve, LargestEntry, SourceEntry, Summary
from pipeline.scoring.claims import Alert, Claim
from pipeline.scoring.intervals import Proportion

# Points of a detection curve in the summary; each is exact, and the dataset has them all.
_CURVE_POINTS = 200


def leads_by_tau(leads: Leads, votes: int) -> IntArray:
    """Images counted by what an alert below each tau >= 1 makes of them; int (3, votes + 2).

    A row counts the images by their lead, the next by the lead that they keep. The last one has at
    each tau how many begin to be detected there, less how many cease.

    Args:
        leads: Of N images.
        votes: Votes of an image, which no lead exceeds.
    """
    # Detected for attack_lead < tau <= lead.
    begins_n, ends_n = np.maximum(leads.attack_lead_n, 0) + 1, leads.lead_n + 1
    detected = begins_n < ends_n
    lead, kept, begins, ends = (
        np.bincount(values, minlength=votes + 2)
        for values in (
            leads.lead_n,
            np.maximum(leads.kept_lead_n, 0),
            begins_n[detected],
            ends_n[detected],
        )
    )
    return np.stack([lead, kept, begins - ends])


@dataclass
class Totals:
    """Counts over the images of a run; batches are added in any order.

    Attributes:
        images: Rows seen.
        errors: Rows with an error.
        unlabelled: Rows without a label.
        plain_right: Labelled images that the whole-image network classifies rightly.
        ablations_right: Votes for a right class, over labelled images.
        views_asked: Views that were asked, over images without an error.
        smoothed_right: Per stride, labelled images whose smoothed prediction is right.
        clean_right: Per claim, labelled images that its rule's answer classifies correctly.
        alerts: Per claim, images at which its rule raises an alert.
        certified_right: Per claim, labelled images that are right and certified.
        certified: Per claim, images certified, right or wrong, labelled or not.
        on_grid: Per threat on the source and rectangle of the grid, images with that rectangle.
        too_large: Per claim on the source, images for whose rectangle there is no decision.
        largest_right: Per rule, labelled images that are right by the largest side they are
            certified against; int (sides + 1,).
        leads_right: Per alert, labelled images that are right, as ``leads_by_tau``.
    """

    images: int = 0
    errors: int = 0
    unlabelled: int = 0
    plain_right: int = 0
    ablations_right: int = 0
    views_asked: int = 0
    smoothed_right: Counter[int | None] = field(default_factory=Counter)
    clean_right: Counter[Claim] = field(default_factory=Counter)
    alerts: Counter[Claim] = field(default_factory=Counter)
    certified_right: Counter[Claim] = field(default_factory=Counter)
    certified: Counter[Claim] = field(default_factory=Counter)
    on_grid: Counter[tuple[Threat, Patch]] = field(default_factory=Counter)
    too_large: Counter[Claim] = field(default_factory=Counter)
    largest_right: dict[str, IntArray] = field(default_factory=dict)
    leads_right: dict[Alert, IntArray] = field(default_factory=dict)

    def add(self, other: "Totals") -> None:
        """Add the counts of other images."""
        for name, others in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, int):
                setattr(self, name, mine + others)
                continue
            for key, count in others.items():
                mine[key] = mine.get(key, 0) + count

    def summary(self, manifest: Manifest) -> Summary:
        """The summary as plain JSON, its claims in order."""
        labelled = self.images - self.unlabelled
        ballots = labelled * manifest.defense.votes_per_image
        own = manifest.defense.own_stride
        strides = sorted(stride for stride in self.smoothed_right if stride not in (own, None))
        summary: Summary = {
            "run_id": manifest.run_id,
            "images": self.images,
            "images_with_error": self.errors,
            "images_without_label": self.unlabelled,
            "ablations": manifest.defense.votes_per_image,
            "hides": manifest.defense.views.hides,
            "plain_accuracy": (
                Proportion(self.plain_right, labelled) if manifest.plain_known else Proportion(0, 0)
            ).to_dict(),
            # The class with most votes is no answer of a decision over masks.
            "smoothed_accuracy": (
                Proportion(0, 0)
                if manifest.defense.views.hides
                else Proportion(self.smoothed_right[own], labelled)
            ).to_dict(),
            # A mean over images of a share of ablations: no binomial interval applies.
            "mean_ablation_accuracy": self.ablations_right / ballots if ballots else None,
            "certified_accuracy": [
                {
                    **claim.to_dict(),
                    "clean_accuracy": Proportion(self.clean_right[claim], labelled).to_dict(),
                    "max_touched": max(
                        (
                            max_touched_views(manifest.defense.views_at(claim.stride), threat)
                            for threat in self._on_grid(claim.threat)
                        ),
                        default=0,
                    ),
                    # Of a threat on the source, the largest of what it is on the grid.
                    "image_share": max(
                        (threat.pixels for threat in self._on_grid(claim.threat)), default=0
                    )
                    / _pixels(manifest),
                    "alerts": self.alerts[claim] if rule_named(claim.rule).alerts else None,
                    "images_certified": self.certified[claim],
                    **self._source_entry(claim),
                    **Proportion(self.certified_right[claim], labelled).to_dict(),
                }
                for claim in sorted(self.certified, key=lambda claim: claim.order)
            ],
            "largest": self._largest(labelled),
            "coarser": [
                {
                    "stride": stride,
                    "ablations": len(manifest.defense.views_at(stride)),
                    "smoothed_accuracy": Proportion(
                        self.smoothed_right[stride], labelled
                    ).to_dict(),
                }
                for stride in strides
            ],
            "detection": [
                _curve(alert, labelled, self.leads_right[alert])
                for alert in sorted(self.leads_right, key=lambda alert: alert.order)
            ],
        }
        if manifest.defense.voting.early_exit:
            # A mean over the views that were asked would be of the less sure ones.
            summary["mean_ablation_accuracy"] = None
            summary["views_asked"] = self.views_asked / max(self.images - self.errors, 1)
        if manifest.imported:
            summary["basis"] = AS_GIVEN
        return summary

    def _on_grid(self, threat: Threat) -> list[Threat]:
        """A threat on the grid: itself, or the rectangles of one on the source."""
        if not threat.source:
            return [threat]
        return [Threat(patch, count=threat.count) for of, patch in self.on_grid if of == threat]

    def _source_entry(self, claim: Claim) -> SourceEntry:
        """The keys of a claim's entry that others lack, where its threat is on the source."""
        if not claim.threat.source:
            return {}
        sizes = sorted((patch, n) for (of, patch), n in self.on_grid.items() if of == claim.threat)
        return {
            "on_grid": {str(Threat(patch)): images for patch, images in sizes},
            "images_too_large": self.too_large[claim],
        }

    def _largest(self, labelled: int) -> LargestEntry:
        """Certified and right against every side, up to the first that leaves no image."""
        hits = {rule: _at_least(counts_s) for rule, counts_s in sorted(self.largest_right.items())}
        longest = max((int(np.count_nonzero(hits_s)) for hits_s in hits.values()), default=0)
        sides = max((len(hits_s) for hits_s in hits.values()), default=1)
        shown = range(1, min(max(longest, 1) + 1, sides))
        return {
            "of": labelled,
            "patch_px": list(shown),
            "hits": {rule: [int(hits_s[side]) for side in shown] for rule, hits_s in hits.items()},
        }


def _pixels(manifest: Manifest) -> int:
    views = manifest.defense.views
    return views.height * views.width


def _at_least(counts: IntArray) -> IntArray:
    """Count those of at least each value from those of each value; along the last axis."""
    return np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]


def _curve(alert: Alert, labelled: int, leads: IntArray) -> DetectionCurve:
    """Count at each tau what an alert below it makes of the images."""
    hits = np.vstack([_at_least(leads[:2]), np.cumsum(leads[2])])
    last = int(np.flatnonzero(hits[0])[-1]) if hits[0].any() else 0
    every = np.arange(1, max(last, 1) + 1)
    tau = every[np.unique(np.linspace(0, len(every) - 1, _CURVE_POINTS).round().astype(int))]
    clean, recovered, detected = hits[:, tau].tolist()
    return {
        "threat": str(alert.threat),
        "stride": alert.stride,
        "of": labelled,
        "tau": tau.tolist(),
        "clean": clean,
        "certified_recovery": recovered,
        "certified_detection": detected,
    }
