"""Top-k and detection beyond what brute force can try: consistency, sets of votes, real sizes."""

from itertools import pairwise

import numpy as np
import pytest

from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.certificates import detection_leads, exact_margins, top_k_margins
from pipeline.certificates import votes as module
from tests.pipeline.certificates.cases import some_sets, some_votes

COLUMNS = Ablation(kind="column", size=5, stride=1, height=48, width=48)
BLOCKS = Ablation(kind="block", size=20, stride=7, height=60, width=44)


def by_definition(votes, touched, num_classes, c, k):
    """The top-k margin of one image, as the formula reads; T = 1."""
    worst = None
    for location in touched:
        r = np.bincount(votes[~location], minlength=num_classes)
        deficits = np.maximum(0, r[c] - r + (c < np.arange(num_classes)))
        margin = np.sort(np.delete(deficits, c))[:k].sum() - location.sum() - 1
        worst = margin if worst is None else min(worst, margin)
    return int(worst)


@pytest.mark.parametrize("ablation", [COLUMNS, BLOCKS], ids=["columns", "blocks"])
@pytest.mark.parametrize(("num_classes", "k"), [(4, 2), (1000, 5), (6, 5)])
def test_margins_are_the_formula(ablation, num_classes, k):
    votes = some_votes(len(ablation), num_classes, limit=5)
    votes[0] = num_classes - 1
    # A class with most votes, one with some, one perhaps without any.
    for number in (0, 1, 2):
        classes = np.array([np.unique(row)[number % len(np.unique(row))] for row in votes])
        classes[-1] = num_classes // 2
        found = top_k_margins(votes, ablation, Patch(4, 6), num_classes, k=k, classes_n=classes)
        touched = ablation.touched(Patch(4, 6))
        expected = [
            by_definition(row, touched, num_classes, c, k)
            for row, c in zip(votes, classes, strict=True)
        ]
        assert found.tolist() == expected


def test_top_1_of_the_prediction_is_the_exact_rule():
    votes = some_votes(48, 5, limit=300)
    exact = exact_margins(votes, COLUMNS, Patch(3, 3), 5)
    classes = np.array([np.bincount(row).argmax() for row in votes])
    first = top_k_margins(votes, COLUMNS, Patch(3, 3), 5, k=1, classes_n=classes)
    # Below 0 it stops at minus what the patch touches, less one.
    np.testing.assert_array_equal(np.maximum(exact, -8), np.maximum(first, -8))
    assert (exact >= 0).any()
    assert (exact < 0).any()


def test_more_places_never_certify_less():
    votes = some_votes(48, 8, limit=200)
    classes = votes[:, 0]
    held = [
        top_k_margins(votes, COLUMNS, Patch(3, 3), 8, k=k, classes_n=classes) >= 0
        for k in range(1, 8)
    ]
    for fewer, more in pairwise(held):
        assert (more >= fewer).all()
    assert held[-1].sum() > held[0].sum()


def test_a_view_that_may_feed_more_classes_is_worse_even_if_none_did():
    """Six views for 2, one each for 0 and 1; the patch holds two of them.

    One vote a view leaves 4 against deficits 4 - 1 + [2 < j] = 3 and 3, together more than two; two
    votes a view too; but a third class to feed at once needs room for as many.
    """
    ablation = Ablation(kind="column", size=1, stride=1, height=1, width=8)
    votes = np.array([[2, 2, 2, 2, 2, 0, 1, 2]])[..., None]
    classes = np.array([2])
    patch = Patch(1, 3)
    found = {
        slots: top_k_margins(votes, ablation, patch, 3, k=2, classes_n=classes, slots=slots)[0]
        for slots in (1, 2)
    }
    # r_2 = 3 of 6; deficits 3 - 1 + 0 = 2 each: 4 > 1 * 3, but 4 <= 2 * 3.
    assert found[1] == 2 + 2 - 3 - 1 == 0
    assert found[2] == max(4 - 2 * 3, 2 - 3) - 1 == -2


@pytest.mark.parametrize("ablation", [COLUMNS, BLOCKS], ids=["columns", "blocks"])
def test_leads_are_the_formula(ablation):
    votes = some_votes(len(ablation), 7, limit=6)
    touched = ablation.touched(Patch(4, 6))
    leads = detection_leads(votes, ablation, Patch(4, 6), 7)
    for image, row in enumerate(votes):
        n = np.bincount(row, minlength=7)
        c = n.argmax()
        attack, kept = [], []
        for location in touched:
            r = np.bincount(row[~location], minlength=7)
            for j in np.delete(np.arange(7), c):
                attack.append(r[j] + location.sum() - np.delete(r, j).max())
                kept.append(r[c] - r[j] - location.sum())
        assert leads.lead_n[image] == n[c] - np.delete(n, c).max()
        assert leads.attack_lead_n[image] == max(attack)
        assert leads.kept_lead_n[image] == min(kept)


def test_an_attack_without_alert_is_rarer_than_one():
    votes = some_votes(48, 5, limit=300)
    leads = detection_leads(votes, COLUMNS, Patch(3, 3), 5)
    certified = exact_margins(votes, COLUMNS, Patch(3, 3), 5) >= 0
    # Nobody gets ahead of a certified prediction, and one that is kept ahead is certified.
    assert (leads.attack_lead_n[certified] <= 0).all()
    assert certified[leads.kept_lead_n > 0].all()
    undetected = leads.attack_lead_n >= 6
    assert 0 < undetected.sum() < (~certified).sum()


def test_chunks_change_nothing(monkeypatch):
    votes = some_sets(len(BLOCKS), 5, 3, limit=25)
    classes = np.arange(25) % 5
    arguments = votes, BLOCKS, Patch(4, 6), 5

    def both():
        places = top_k_margins(*arguments, k=2, classes_n=classes)
        return [places.tolist(), *(lead_n.tolist() for lead_n in detection_leads(*arguments))]

    at_once = both()
    monkeypatch.setattr(module, "CHUNK_NUMBERS", 1)
    assert both() == at_once
