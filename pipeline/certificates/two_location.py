"""The two-location decision: an answer that an attack at one location cannot change.

Shape suffixes: N images, V views, S largest sets of touched views, K ranks of classes.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from models.views.family import BoolArray, IntArray, ViewFamily
from models.views.masks import Masks
from models.views.threats import Threat
from pipeline.certificates.batch import VoteBatch
from pipeline.certificates.largest_sets import check_assumed, check_sets, largest_sets, within
from pipeline.certificates.leads import least_leads, least_outside_two, plurality_outside
from pipeline.certificates.rule import Rule, Terms
from pipeline.certificates.touched import CountArray, Locations


class Decision(NamedTuple):
    """Answers of the two-location decision, and what each location would leave of them.

    Attributes:
        answers_n: The class that is answered; int64 (N,).
        witness_margins_sn: w(s) of that class, or of the class with most labels where there is no
            witness at all; int32 (S, N).
    """

    answers_n: IntArray
    witness_margins_sn: NDArray[np.int32]


def two_location(batch: VoteBatch, assumed: Threat) -> Decision:
    """Answer each image by the two-location decision for a largest patch.

    A patch of the assumed size P touches a set of views wherever it lies. Let T_1 .. T_S be the
    largest of these sets and U_s the views outside T_s. phi of some views is the class with the
    most of their labels, the lowest one on ties: class 0 where they have none.

        Decision: answer y iff there is an s such that phi(U_s and U_t) = y for every t. Such an s
        is a witness. Where there is none, answer by the fallback: the plain prediction, or the
        class with most labels where no plain prediction is known.

    Two witnesses r and s never disagree, since both name phi(U_r and U_s). So there is one answer.

    Guarantee for P: if every s is a witness for y on the labels of the clean image, the answer is
    y, and remains y whatever is written into one patch of at most P, anywhere.

    Proof: the patch touches views of some T_s only. The labels of U_s stay, so
    phi(U_s and U_t) = y for every t as before: s is a witness for y in the attacked image.

    Guarantee for a smaller patch p under the same decision: if every set that p touches lies within
    some T_s that is a witness for y, the answer remains y. Proof: the same, with that s. (The sets
    of p do not take the place of T_1 .. T_S: the decision never looks at them.)

    Witness margin: w(s) = min over t and j != y of  r_y - r_j - [j < y], r counting the labels of
    U_s and U_t; s is a witness for y iff w(s) >= 0.

    On ablations the decision certifies all that ``exact`` does. Proof: write d(I) for the votes of
    y in I less those of j. Exact says n_y - n_j - [j < y] >= |T| + d(T) for every touched T. Half
    of the sum of this for T_s and T_t is at least d(T_s or T_t), because
    |T_s| + |T_t| >= d(T_s) + d(T_t) - 2 d(T_s and T_t): the right side is d of the views in just
    one of both sets, each of which counts at most 1. So r_y - r_j >= [j < y] outside both.

    Labels that were not asked (-1) count for no class, and a set s with one of them outside it is
    no witness: see ``early_exit`` for why this changes no answer.

    Args:
        batch: The labels.
        assumed: P: one rectangle, or any rectangle of an area.

    Raises:
        ValueError: The threat does not fit the image.

    Source: this project; we know of no earlier statement.
    """
    untouched_sv = ~largest_sets(batch.views, assumed)
    ranked, count = batch.ranked, len(batch)
    answers_n = batch.fallback_n.copy()
    margins_sn = np.full((len(untouched_sv), count), -1, np.int32)
    open_n = np.ones(count, bool)
    # A witness s for y has y = phi(U_s and U_s): few classes are that anywhere.
    winners_sn = plurality_outside(batch, untouched_sv)
    for rank in range(batch.ranks):
        classes_n = ranked.classes_nk[:, rank]
        wins_n = (winners_sn == classes_n).any(axis=0) & (rank <= batch.rivals_n)
        images = np.flatnonzero(open_n & (wins_n | (rank == 0)))
        if not len(images):
            continue
        classes_n = classes_n[images]
        found_sn = least_leads(batch, untouched_sv, classes_n, images, least_outside_two)
        if rank == 0:
            margins_sn = found_sn
        found_n = (found_sn >= 0).any(axis=0)
        answers_n[images[found_n]] = classes_n[found_n]
        margins_sn[:, images[found_n]] = found_sn[:, found_n]
        open_n[images[found_n]] = False
    return Decision(answers_n, margins_sn)


class Pair(NamedTuple):
    """Two sets of touched views outside which a class is closest to losing, on one image.

    Attributes:
        sets: Their numbers.
        rival: The class that comes closest there.
        margin: r_y - r_j - [j < y]; negative: that class is another one's, and no certificate.
        view: A view outside both; one that says the rival where there is one.
    """

    sets: tuple[int, int]
    rival: int
    margin: int
    view: int


def closest_pair(untouched_sv: BoolArray, labels_v: IntArray, answer: int) -> Pair:
    """Find the first two sets outside which an answer has the least lead.

    Args:
        untouched_sv: The views outside each largest set.
        labels_v: The labels of one image, -1 where a view was not asked: pairs with such a view
            outside them are left aside, as long as there are others.
        answer: The class y.
    """
    weights_sv = untouched_sv.astype(np.float32)

    def counts(chosen_v: BoolArray) -> NDArray[np.float32]:
        found: NDArray[np.float32] = (weights_sv * chosen_v) @ weights_sv.T
        return found

    rivals = sorted({*labels_v[labels_v >= 0].tolist(), int(answer == 0)} - {answer})
    ours_ss = counts(labels_v == answer)
    leads = np.stack([ours_ss - counts(labels_v == j) - (j < answer) for j in rivals])
    least_ss = leads.min(axis=0)
    open_ss = counts(labels_v < 0) > 0
    if not open_ss.all():
        least_ss = np.where(open_ss, np.inf, least_ss)
    one, other = np.unravel_index(least_ss.argmin(), least_ss.shape)
    views = np.flatnonzero(untouched_sv[one] & untouched_sv[other])
    # Of equally close rivals the one with most labels there.
    rival = min(
        zip(leads[:, one, other], rivals, strict=True),
        key=lambda near: (near[0], -np.count_nonzero(labels_v[views] == near[1])),
    )[1]
    first = int((labels_v[views] == rival).argmax())
    return Pair((int(one), int(other)), rival, int(leads[:, one, other].min()), int(views[first]))


def decision_of(batch: VoteBatch, assumed: Threat) -> Decision:
    """``two_location``, computed once for all questions about a batch."""
    return batch.once(("two-location", assumed), lambda: two_location(batch, assumed))


def margins_of_sets(batch: VoteBatch, assumed: Threat, touched_pv: BoolArray) -> IntArray:
    """Witness margins of touched sets; int64 (P, N).

    Each is the largest w(s) of the sets s of the decision that hold it: negative iff none of these
    is a witness, so that a patch that touches the set leaves the image uncertified.

    Args:
        batch: The labels.
        assumed: The threat for which the decision is built.
        touched_pv: Views that some location touches; bool (P, V).
    """
    margins_sn = decision_of(batch, assumed).witness_margins_sn
    holds_ps = within(touched_pv, largest_sets(batch.views, assumed))
    margins = [margins_sn[holds_s].max(axis=0) for holds_s in holds_ps]
    return np.stack(margins).astype(np.int64)


@dataclass(frozen=True)
class TwoLocation(Rule):
    """``two_location`` as a rule: recovery, for any family of views.

    Attributes:
        assumed: The largest patch, for which the decision is built; None takes that of each claim.
    """

    name = "two-location"
    guarantee = (
        "No rewriting of the labels that one patch touches changes the answer of the decision "
        "that is built for the assumed patch."
    )
    monotone = False
    about_masks = True
    knows_patch = True

    assumed: Threat | None = None

    def at(self, terms: Terms) -> Self:
        """Return the rule for an assumed patch."""
        return replace(self, assumed=terms.assumed)

    def check(self, views: ViewFamily, threat: Threat, num_classes: int, top_k: int = 1) -> None:
        """Raise ValueError unless the decision can be built, and holds the threat."""
        super().check(views, threat, num_classes, top_k)
        assumed = self.assumed or threat
        for one in (threat, assumed):
            if one.count > 1:
                raise ValueError(
                    f"patch {one}: recovery by two locations is about one patch; ask for one, or "
                    "for detection of two with --rule one-location"
                )
        check_assumed(views, threat, assumed)
        check_sets(views, assumed, pairs=True)

    def check_early(self, views: ViewFamily, threat: Threat) -> None:
        """Raise ValueError for another patch than the one that the masks cover."""
        assert isinstance(views, Masks), "only masks are asked with early exit"
        for one in (threat, self.assumed or threat):
            if one.patches(views) != views.covers:
                raise ValueError(
                    f"patch {one}: these votes were cast only as far as the decision "
                    f"{views.describe().places} needs them; ask about that patch, or vote with "
                    "--all-views"
                )

    def default_for(self, views: ViewFamily) -> bool:
        """Return True for views that hide any two locations together."""
        return isinstance(views, Masks) and (views.pairs or views.hides_two)

    def predict(self, batch: VoteBatch, threat: Threat) -> IntArray:
        """Answer each image; int64 (N,)."""
        return decision_of(batch, self.assumed or threat).answers_n

    def margins(self, batch: VoteBatch, threat: Threat) -> IntArray:
        """Compute the least w(s) that an attack may leave; int64 (N,), certified iff >= 0."""
        touched_pv = largest_sets(batch.views, threat)
        left_pn = margins_of_sets(batch, self.assumed or threat, touched_pv)
        margins_n: IntArray = left_pn.min(axis=0)
        return margins_n

    def margins_at(self, batch: VoteBatch, where: Locations) -> tuple[CountArray, None]:
        """Compute the largest w(s) of the sets s that hold what a location touches; (S, N).

        Negative iff none of these is a witness, so that the location leaves the image uncertified.
        """
        assumed = self.assumed or Threat(where.patch)
        return margins_of_sets(batch, assumed, where.touched_sv), None
