"""The rules on positions that are no grid: fixed random families, against brute force."""

import numpy as np
import pytest

from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.certificates import exact_margins, margins
from tests.pipeline.certificates.agreement import check
from tests.pipeline.certificates.bruteforce import touched_sets, view_masks
from tests.pipeline.certificates.cases import random_families, some_sets, some_votes


@pytest.mark.parametrize(
    ("kinds", "longest", "num_classes", "limit"),
    [(("column", "row"), 5, 3, 60), (("block",), 3, 2, 30), (("block",), 4, 3, 8)],
    ids=["lines", "blocks-2", "blocks-3"],
)
def test_rules_agree_with_brute_force(kinds, longest, num_classes, limit):
    certified = 0
    for g in random_families(longest, kinds):
        # Beyond this, brute force over 3 classes takes minutes.
        if max(map(len, touched_sets(g))) <= 9:
            votes = some_votes(len(view_masks(g)), num_classes, limit)
            certified += check(g, votes, num_classes)["exact"]
    assert certified


def test_rules_agree_with_brute_force_on_vote_sets():
    certified = 0
    for g in random_families(4):
        if max(map(len, touched_sets(g))) <= 5:
            certified += check(g, some_sets(len(view_masks(g)), 3, 2, limit=8), 3)["exact"]
    assert certified


@pytest.mark.parametrize("rule", ["uniform", "exact"])
def test_all_positions_are_the_grid(rule):
    shape = {"kind": "block", "size": 2, "stride": 1, "height": 5, "width": 7}
    votes = some_votes(35, 4, limit=50)
    expected = margins(rule, votes, Ablation(**shape), Patch(2, 1), 4)
    family = Ablation(**shape, random=35, seed=3)
    assert margins(rule, votes, family, Patch(2, 1), 4).tolist() == expected.tolist()


def test_at_the_size_of_the_paper():
    """500 of 50,176 blocks: unanimous, so the margin is V - 2 Delta, and Delta is near its mean."""
    family = Ablation(kind="block", size=75, stride=1, height=224, width=224, random=500)
    delta = family.max_touched(Patch.square(32))
    mean = 500 * (32 + 75 - 1) ** 2 / 224**2
    assert mean < delta < 1.4 * mean
    votes = np.zeros((2, 500), np.uint16)
    assert exact_margins(votes, family, Patch.square(32), 1000).tolist() == [500 - 2 * delta] * 2
