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
from pipeline.certificates.rule import ALERT, Rule, Terms
from pipeline.certificates.votes import EMPTY


class Detected(NamedTuple):
    """Answers with alerts.

    Attributes:
        answers_n: The class that is answered, or ``ALERT``; int64 (N,).
        margins_n: The least lead of the class that would be answered; int64 (N,), >= 0 iff it is.
    """

    answers_n: IntArray
    margins_n: IntArray


def one_location(batch: VoteBatch, threat: Threat, tau: float | None = None) -> Detected:
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

    With tau, a view speaks only if the gap of its two largest logits is above tau, and phi counts
    the labels of views that speak. Answer y iff some phi(U_s) has a label to count, and all that
    have one are y; else raise an alert. More images are answered, and not all of them are
    certified: iff phi(U_s) = y for every s. Proof: the views of U_s keep labels and gaps, so at the
    s that is attacked phi(U_s) = y still has a label, and no other class can be answered. The same
    comparison, gap > tau, serves the alert and the certificate. The margin is then 0 or -1.

    Args:
        batch: The labels, with tau also the gaps.
        threat: One or two rectangles, or any rectangle of an area.
        tau: Gap up to which a view has no say; None lets every view speak.

    Raises:
        ValueError: The threat does not fit the image.

    Source: McCoyd et al., "Minority Reports Defense", 2020, for masks whose views must agree; this
        project for other families and for counts of labels.
    """
    views = batch.views
    least = sums_outside if threat.count == 1 else least_outside_two
    if threat.count == 1 and isinstance(views, Masks) and views.pairs:
        batch = batch.of_views(views.one_mask_views, views.alone)
    if tau is not None:
        return _speaking(batch, threat, tau)
    untouched_sv = ~largest_sets(batch.views, replace(threat, count=1))
    classes_n = plurality_outside(batch, untouched_sv[:1])[0]
    everyone = np.arange(len(batch))
    margins_n = least_leads(batch, untouched_sv, classes_n, everyone, least).min(axis=0)
    return Detected(np.where(margins_n >= 0, classes_n, ALERT), margins_n.astype(np.int64))


def _speaking(batch: VoteBatch, threat: Threat, tau: float) -> Detected:
    """``one_location`` with tau, for one rectangle."""
    assert batch.gaps_nv is not None, "claims with tau are refused where no gaps are stored"
    labels_nv = np.where(batch.gaps_nv > tau, batch.labels_nv, EMPTY)
    untouched_sv = ~largest_sets(batch.views, threat)
    spoken_sn = sums_outside(untouched_sv, (labels_nv != EMPTY).T.astype(np.float32)) > 0
    winners_sn = plurality_outside(
        VoteBatch(labels_nv, batch.views, batch.num_classes), untouched_sv
    )
    first_n = spoken_sn.argmax(axis=0)
    classes_n = winners_sn[first_n, np.arange(len(batch))]
    agree_n = ((winners_sn == classes_n) | ~spoken_sn).all(axis=0) & spoken_sn.any(axis=0)
    margins_n = np.where(agree_n & spoken_sn.all(axis=0), 0, -1)
    return Detected(np.where(agree_n, classes_n, ALERT), margins_n.astype(np.int64))


@dataclass(frozen=True)
class OneLocation(Rule):
    """``one_location`` as a rule: detection, for any family of views.

    Attributes:
        assumed: The threat for which the decision is built; None takes that of each claim.
        tau: Gap up to which a view has no say; None lets every view speak.
    """

    name = "one-location"
    guarantee = (
        "No rewriting of the labels that the threat touches gives another answer without an alert."
    )
    monotone = False
    about_masks = True
    knows_patch = True
    takes_tau = True
    alerts = True

    assumed: Threat | None = None
    tau: float | None = None

    def at(self, terms: Terms) -> Self:
        """Return the rule for an assumed threat, and views that speak above a gap."""
        return replace(self, assumed=terms.assumed, tau=terms.tau)

    def check(self, views: ViewFamily, threat: Threat, num_classes: int, top_k: int = 1) -> None:
        """Raise ValueError unless the decision can be built, and holds the threat."""
        super().check(views, threat, num_classes, top_k)
        assumed = self.assumed or threat
        for one in (threat, assumed):
            if one.count > 2:
                raise ValueError(f"patch {one}: detection is about one patch or two; ask for these")
        check_assumed(views, threat, assumed)
        if self.tau is not None and assumed.count > 1:
            raise ValueError(f"patch {assumed}: with tau, detection is about one patch")
        if assumed.count == 1 and isinstance(views, Masks):
            views = views.one_mask_views
        check_sets(views, replace(assumed, count=1), pairs=assumed.count > 1)

    def check_early(self, views: ViewFamily, threat: Threat) -> None:
        """Raise ValueError for two patches; one needs only the views that are always asked."""
        if (self.assumed or threat).count > 1:
            super().check_early(views, threat)

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
        return batch.once(
            (self.name, assumed, self.tau), lambda: one_location(batch, assumed, self.tau)
        )
