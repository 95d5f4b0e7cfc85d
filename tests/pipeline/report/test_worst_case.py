"""The worst location against the certificate it explains, and by hand."""

import numpy as np
import pytest

from models.views.ablations import Ablation
from models.views.family import Patch
from models.views.masks import Masks, Placement
from models.views.threats import Threat
from pipeline.certificates.batch import VoteBatch
from pipeline.certificates.exact import exact_margins
from pipeline.certificates.rule import ALERT
from pipeline.certificates.rules import RULES
from pipeline.report.worst_case import (
    caption_of,
    caption_of_decision,
    decided_case,
    smallest_margin,
    worst_location,
)


def cases():
    rng = np.random.default_rng(0)
    for _ in range(120):
        kind = rng.choice(["column", "row", "block"])
        height, width = rng.integers(4, 10, 2)
        longest = int({"column": width, "row": height}.get(kind, min(height, width)))
        ablation = Ablation(
            kind=str(kind),
            size=int(rng.integers(1, longest + 1)),
            stride=int(rng.integers(1, min(3, longest) + 1)),
            height=int(height),
            width=int(width),
        )
        patch = Patch(int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1)))
        classes = int(rng.integers(2, 6))
        skew = rng.dirichlet(np.full(classes, 0.4))
        yield ablation, patch, classes, rng.choice(classes, size=len(ablation), p=skew)


def test_minimum_is_the_exact_margin_and_is_attained_where_it_says():
    for ablation, patch, classes, votes in cases():
        worst = smallest_margin(votes, ablation, patch, classes)
        assert worst.margin == exact_margins(votes[None], ablation, patch, classes)[0]
        assert worst.margin == worst.landscape_yx.min()
        counts = np.bincount(votes, minlength=classes)
        assert worst.prediction == counts.argmax()
        assert worst.counts == (counts[worst.prediction], counts[worst.rival])
        # The same location, counted view by view.
        corners = ablation.locations(patch).tolist()
        touched = ablation.touched(patch)[corners.index([worst.y or 0, worst.x or 0])]
        left = np.bincount(votes[~touched], minlength=classes)
        assert worst.touched == touched.sum()
        assert worst.left == (left[worst.prediction], left[worst.rival])
        tie = int(worst.rival < worst.prediction)
        assert worst.margin == worst.left[0] - worst.left[1] - worst.touched - tie


def test_most_touched_is_delta():
    for ablation, patch, _, _ in cases():
        worst = worst_location(ablation, patch)
        assert worst.touched == ablation.max_touched(patch)
        assert worst.landscape_yx.ravel().tolist() == ablation.touched(patch).sum(axis=1).tolist()


def test_blocks_at_stride_1_are_quick():
    ablation = Ablation(kind="block", size=75, stride=1, height=224, width=224)
    votes = np.random.default_rng(0).integers(0, 3, len(ablation))
    worst = smallest_margin(votes, ablation, Patch.square(32), 1000)
    assert worst.touched == 106**2


@pytest.mark.parametrize(
    ("lead", "verdict"),
    [
        (9, "at worst 6 - (1 + 3) - 1, since dog wins ties: 1 vote to spare, certified."),
        (6, "at worst 3 - (4 + 3) - 1, since dog wins ties: 5 votes short, uncertified."),
    ],
)
def test_caption(lead, verdict):
    ablation = Ablation(kind="column", size=2, stride=1, height=10, width=10)
    votes = np.array([1] * lead + [0] * (10 - lead))
    worst = smallest_margin(votes, ablation, Patch.square(2), 5)
    said = caption_of(Patch.square(2), worst, ["cat", "dog"], 10)
    assert verdict in said
    assert f"cat ({lead} of 10 votes)" in said
    assert "2x2 px at x = " in said


def test_caption_where_the_prediction_wins_ties():
    ablation = Ablation(kind="column", size=2, stride=1, height=10, width=10)
    worst = smallest_margin(np.array([0] * 9 + [1]), ablation, Patch.square(2), 5)
    said = caption_of(Patch.square(2), worst, ["cat", "dog"], 10)
    assert worst.margin == 2
    assert said.endswith("at worst 6 - (1 + 3): 2 votes to spare, certified.")


def masks(*, pairs: bool) -> Masks:
    third = Placement.covering(12, 3, 3)
    plain = {"height": 12, "width": 12, "placements": [(third, third)]}
    return Masks.placed(**plain, pairs=pairs, covers=(Patch.square(3),))


@pytest.mark.parametrize("pairs", [True, False])
def test_the_worst_case_of_a_decision_is_its_margin_and_fails_where_it_says(pairs):
    views, patch, rng = masks(pairs=pairs), Patch.square(3), np.random.default_rng(0)
    rule, seen = RULES["two-location" if pairs else "one-location"], set()
    for _ in range(150):
        votes = np.where(rng.random(len(views)) < rng.choice([0.0, 0.04, 0.4]), 2, 1)
        plain = int(rng.integers(1, 3))
        worst = decided_case(votes, plain, views, patch, 4)
        batch = VoteBatch(votes[None], views, 4, plain_n=np.array([plain]))
        answer = int(rule.predict(batch, Threat(patch))[0])
        assert worst.rule == rule.name
        assert worst.prediction == (None if answer == ALERT else answer)
        (margin,) = rule.margins(batch, Threat(patch))
        assert worst.margin == worst.landscape_yx.min()
        # The rule of an alert may look at the lead of another class: no class leads everywhere.
        assert worst.margin == margin if answer != ALERT else max(worst.margin, margin) < 0
        hides = [view for view in range(len(views)) if not shown(views, view, patch, worst)]
        assert worst.touched == len(views) - len(hides)
        if worst.failing:
            assert set(worst.failing) <= set(hides)
            assert np.bincount(votes[list(worst.failing)]).argmax() == worst.rival != answer
            assert (worst.other is not None) == pairs
        assert not (worst.failing and worst.margin >= 0)
        said = caption_of_decision(patch, worst, str, len(views))
        assert ("uncertified" in said) == (worst.margin < 0)
        assert ("alert," in said) == (not pairs and worst.margin >= 0)
        seen.add((worst.margin >= 0, bool(worst.failing)))
    assert {(True, False), (False, True)} <= seen


def shown(views, view, patch, worst):
    y, x = worst.y or 0, worst.x or 0
    return views.visible(view)[y : y + patch.height, x : x + patch.width].any()
