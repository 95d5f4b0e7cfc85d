"""The one-location decision: an answer, or an alert where some location could have changed it.

Shape suffixes: N images, V views, S largest sets of touched views.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np

from models.views.family import IntArray, ViewFamily
from models.views.masks import Masks
from models.views.threats import Threat
from pipeline.certificates.batch import VoteBatch
from pipeline.certificates.largest_sets import check_assumed, check_sets, largest_sets
from pipeline.certificates.leads import (
    least_leads,
    least_outside_two,
    plurality_outside,
    sums_outside,
)
from pipeline.certificates.rule import ALERT, Rule


class Detected(NamedTuple):
    """Answers with alerts.

    Attributes:
        answers_n: The class that is answered, or ``ALERT``; int64 (N,).
        margins_n: The least lead of the class that would be answered; int64 (N,), >= 0 iff it is.
    """

    answers_n: IntArray
    margins_n: IntArray


def one_location(batch: VoteBatch, threat: Threat) -> Detected:
    """Answer each image, or raise an alert.

    A patch of the threat touches a set of views wherever it lies. Let T_1 .. T_S be the largest of
    these sets, of two patches the unions of two of them, and U_s the views outside T_s. phi of some
    views is the class with the most of their labels, the lowest one on ties.

        Decision: answer y iff phi(U_s) = y for every s; else raise an alert.

    Guarantee: where the clean image is answered by y, the attacked one is answered by y or raises
    an alert, whatever is written into the patches, wherever they lie.

    Proof: the patches touch views of some T_s only. The labels of U_s stay, and with them
    phi(U_s) = y, so no other class is phi of every set.

    So an image is certified iff it is answered. The decision holds against every smaller patch too,
    whose sets lie within those of the threat. Of views that hide two masks, those that hide one
    suffice for one patch, and only they are looked at; two patches need the pairs.

    Margin: min over s and j != y of  r_y - r_j - [j < y], r counting the labels of U_s.

    Args:
        batch: The labels.
        threat: One or two rectangles, or any rectangle of an area.

    Raises:
        ValueError: The threat does not fit the image.

    Source: McCoyd et al., "Minority Reports Defense", 2020, for masks whose views must agree; this
        project for other families and for counts of labels.
    """
    views = batch.views
    least = sums_outside if threat.count == 1 else least_outside_two
    if threat.count == 1 and isinstance(views, Masks) and views.pairs:
        alone, votes = views.one_mask_views, batch.votes[:, views.alone]
        batch = batch.once("alone", lambda: VoteBatch(votes, alone, batch.num_classes))
    untouched_sv = ~largest_sets(batch.views, replace(threat, count=1))
    classes_n = plurality_outside(batch, untouched_sv[:1])[0]
    everyone = np.arange(len(batch))
    margins_n = least_leads(batch, untouched_sv, classes_n, everyone, least).min(axis=0)
    return Detected(np.where(margins_n >= 0, classes_n, ALERT), margins_n.astype(np.int64))


@dataclass(frozen=True)
class OneLocation(Rule):
    """``one_location`` as a rule: detection, for any family of views.

    Attributes:
        assumed: The threat for which the decision is built; None takes that of each claim.
    """

    name = "one-location"
    guarantee = (
        "No rewriting of the labels that the threat touches gives another answer without an alert."
    )
    monotone = False
    about_masks = True
    knows_patch = True
    alerts = True

    assumed: Threat | None = None

    def at(self, confidence: float | None = None, assumed: Threat | None = None) -> Self:
        """Return the rule for an assumed threat."""
        return replace(self, assumed=assumed)

    def check(self, views: ViewFamily, threat: Threat, num_classes: int, top_k: int = 1) -> None:
        """Raise ValueError unless the decision can be built, and holds the threat."""
        super().check(views, threat, num_classes, top_k)
        assumed = self.assumed or threat
        for one in (threat, assumed):
            if one.count > 2:
                raise ValueError(f"patch {one}: detection is about one patch or two; ask for these")
        check_assumed(views, threat, assumed)
        if assumed.count == 1 and isinstance(views, Masks):
            views = views.one_mask_views
        check_sets(views, replace(assumed, count=1), pairs=assumed.count > 1)

    def default_for(self, views: ViewFamily) -> bool:
        """Return True for views that hide."""
        return views.hides

    def predict(self, batch: VoteBatch, threat: Threat) -> IntArray:
        """Answer each image, ``ALERT`` for an alert; int64 (N,)."""
        return self._detected(batch, threat).answers_n

    def margins(self, batch: VoteBatch, threat: Threat) -> IntArray:
        """Compute the least lead outside what the threat touches; int64 (N,)."""
        return self._detected(batch, threat).margins_n

    def _detected(self, batch: VoteBatch, threat: Threat) -> Detected:
        assumed = self.assumed or threat
        return batch.once((self.name, assumed), lambda: one_location(batch, assumed))
