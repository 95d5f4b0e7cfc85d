"""Detection: the largest lead of a wrong class under attack, where near ties raise an alert.

Shape suffixes: N images, L sets of touched views, K ranks of classes. Arrays of a batch have the
images last.
"""

from typing import NamedTuple

import numpy as np

from models.views.ablations import Ablation
from models.views.family import IntArray, Patch
from models.views.threats import Threat
from pipeline.certificates.attack_sets import AttackSets, attack_sets
from pipeline.certificates.batch import VoteBatch, vote_batches
from pipeline.certificates.touched import CountArray
from pipeline.certificates.votes import VoteArray


class Leads(NamedTuple):
    """Attacks that an alert below a lead of tau detects, for every tau at once.

    Attributes:
        lead_n: Votes of the prediction less those of the runner-up, unattacked; int64 (N,).
        attack_lead_n: The largest lead that the attacker can give another class; int64 (N,).
        kept_lead_n: The smallest lead that they can leave the prediction, below 0 if it loses;
            int64 (N,).
    """

    lead_n: IntArray
    attack_lead_n: IntArray
    kept_lead_n: IntArray


def detection(batch: VoteBatch, threat: Threat) -> Leads:
    """The leads before and after the worst attacks.

    The classifier answers the class with the most votes if it leads the runner-up by at least
    tau >= 1, and else raises an alert. With c the smoothed prediction, I the set of views that the
    attacker touches in one of the ways open to them, and r_j the votes for j outside I:

        attack_lead = max over I and j != c of  r_j + |I| - max over k != j of r_k
        kept_lead = min over I and j != c of  r_c - r_j - |I|

    Guarantee, for every tau >= 1: if tau > attack_lead, then whatever the attacker writes,
    anywhere, the answer is c or there is an alert; if moreover lead >= tau, the image is answered
    unattacked (and if c is right: certified detection). If kept_lead >= tau, then whatever they
    write, c is answered and there is no alert (if c is right: certified recovery). Tight: for
    1 <= tau <= attack_lead some location and some rewriting of the votes it touches has another
    class answered, and for tau > kept_lead some has c not answered.

    Proof: outside I votes stay. Another class j ends with n'_j <= r_j + |I| and every k with
    n'_k >= r_k, so the lead of j is at most r_j + |I| - max over k != j of r_k, and is that if
    all of I votes for j. The lead of c is at least r_c - r_j - |I| for the j that comes next, and
    is at most that for any j if all of I votes for it. A lead of at least tau >= 1 is strict: the
    order of the classes, which decides ties, plays no part.

    Vote sets: the same, as a view adds at most one vote to each class. A view that feeds several
    classes at once helps in neither attack: the wrong class is to lead them all, and to overtake c
    or come near it one class is enough.

    Of nested I only the largest matter: one more view can leave its vote as it is, so attack_lead
    never falls with I, and kept_lead never rises. At each I only the two rivals with the largest r,
    u >= v, matter: the best j is the one with u, since any other has r_j <= v and must also pass u;
    attack_lead = |I| + u - max(r_c, v).

    Args:
        batch: The votes.
        threat: What the attacker may do: one rectangle, or any rectangle of an area.

    Raises:
        ValueError: The threat is none of these, or does not fit the image.

    Source: this project.
    """
    check_detection(batch.ablation, threat)
    counts_nk = batch.ranked.counts_nk
    views = len(batch.ablation)
    leads = Leads(counts_nk[:, 0] - counts_nk[:, 1], *np.tile([[-views], [views]], len(batch)))
    for reach in attack_sets(batch.ablation, threat):
        kept_ln = counts_nk[:, 0].astype(batch.dtype) - reach.counts(batch.prefix(0))
        first_ln, second_ln = _two_strongest(batch, reach)
        sizes_l1 = reach.sizes_l[:, None].astype(batch.dtype)
        attack_ln = sizes_l1 + first_ln - np.maximum(kept_ln, second_ln)
        np.maximum(leads.attack_lead_n, attack_ln.max(axis=0), out=leads.attack_lead_n)
        kept_ln = kept_ln - first_ln - sizes_l1
        np.minimum(leads.kept_lead_n, kept_ln.min(axis=0), out=leads.kept_lead_n)
    return leads


def check_detection(views: Ablation, threat: Threat) -> None:
    """Raise ValueError unless ``detection`` knows such threats."""
    if threat.count > 1:
        raise ValueError(f"patch {threat}: detection is computed for one patch; ask for one")
    threat.patches(views)


def detection_leads(
    votes: VoteArray, ablation: Ablation, threat: Threat | Patch, num_classes: int
) -> Leads:
    """``detection`` of an array of votes, in bounded memory; arguments as ``vote_batches``."""
    leads_3n = np.empty((3, len(votes)), np.int64)
    for images, batch in vote_batches(votes, ablation, num_classes):
        leads_3n[:, images] = detection(batch, Threat.of(threat))
    return Leads(*leads_3n)


def _two_strongest(batch: VoteBatch, reach: AttackSets) -> tuple[CountArray, CountArray]:
    """The two largest r_j of all rivals; (L, N) each. A missing second one counts as 0 <= r_c."""
    first_ln, second_ln = np.zeros((2, len(reach.sizes_l), len(batch)), batch.dtype)
    for rank in range(1, batch.ranks):
        counts_n = batch.ranked.counts_nk[:, rank]
        # Outside I a class has no more votes than in all.
        images = np.flatnonzero(counts_n > second_ln.min(axis=0))
        if not len(images):
            break
        strength_ln = counts_n[images].astype(batch.dtype) - reach.counts(
            batch.prefix(rank, images)
        )
        first, second = first_ln[:, images], second_ln[:, images]
        second_ln[:, images] = np.maximum(second, np.minimum(first, strength_ln))
        first_ln[:, images] = np.maximum(first, strength_ln)
    return first_ln, second_ln
