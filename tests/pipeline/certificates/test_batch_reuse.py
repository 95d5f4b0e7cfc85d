"""One batch is asked many questions: no answer may depend on those before it."""

import itertools

import numpy as np
import pytest

from models.views.ablations import Ablation
from pipeline.certificates import RULES, Threat, VoteBatch
from tests.pipeline.certificates.cases import some_votes

# A family of a single ablation is the case in which a count is a prefix sum itself.
FAMILIES = [
    Ablation(kind="column", size=3, stride=8, height=4, width=8),
    Ablation(kind="column", size=3, stride=1, height=4, width=8),
    Ablation(kind="row", size=2, stride=3, height=7, width=4),
    Ablation(kind="block", size=2, stride=2, height=4, width=6),
    Ablation(kind="block", size=3, stride=8, height=8, width=8),
    Ablation(kind="block", size=2, stride=1, height=5, width=5, random=1, seed=3),
    Ablation(kind="column", size=2, stride=1, height=4, width=9, random=4, seed=3),
]
THREATS = [Threat.square(1), Threat.square(2), Threat.square(3), Threat.parse("1x4")]


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("rule", ["exact", "uniform"])
def test_every_order_of_questions_gives_the_answers_of_a_fresh_poll(family, rule):
    votes, ask = some_votes(len(family), 3, 60), RULES[rule].margins
    alone = {threat: ask(VoteBatch(votes, family, 3), threat) for threat in THREATS}
    for order in itertools.permutations(THREATS):
        batch = VoteBatch(votes, family, 3)
        for threat in (*order, *order):
            assert np.array_equal(ask(batch, threat), alone[threat]), (threat, order)


def test_what_questions_share_cannot_be_written_into():
    batch = VoteBatch(some_votes(8, 3, 20), FAMILIES[1], 3)
    with pytest.raises(ValueError, match="read-only"):
        batch.prefix(0)[...] = 0
