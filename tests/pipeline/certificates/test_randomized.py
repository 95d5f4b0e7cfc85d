"""Randomized smoothing: exact coverage, simulated draws, the ideal classifier, refusals."""

import numpy as np
import pytest

from models.views.ablations import Ablation
from models.views.family import Patch
from models.views.sampling import draw_positions
from pipeline.certificates import margins, randomized, randomized_certificates, rule_for
from pipeline.certificates.batch import margins_of
from pipeline.certificates.rule import RULES
from tests.pipeline.certificates.randomized_judge import JUDGEMENTS

COLUMNS = Ablation(kind="column", size=1, stride=1, height=1, width=24)


@pytest.mark.parametrize("judgement", JUDGEMENTS)
def test_the_judges_find_nothing(judgement):
    assert JUDGEMENTS[judgement](randomized) == 0


@pytest.mark.parametrize("shares", [(8, 8, 8), (13, 11, 0), (12, 10, 2)])
def test_false_certificates_are_rarer_than_alpha(shares):
    """True shares are known and no image is certifiable: p_c - p_j <= 2 / 24. Drawn by SHA-256."""
    images, draws, alpha = 1500, 60, 0.25
    votes_of_positions = np.repeat(np.arange(3), shares)
    drawn = [draw_positions(f"{shares}/{i}", 0, draws, 24) for i in range(images)]
    found = randomized_certificates(
        votes_of_positions[np.array(drawn)], COLUMNS, Patch(1, 1), 3, 1 - alpha
    )
    wrong = int(found.certified.sum())
    assert wrong <= images * alpha + 3 * np.sqrt(images * alpha * (1 - alpha))


def test_what_can_be_certified_is():
    votes_of_positions = np.array([1] * 20 + [0] * 4)
    drawn = np.array([draw_positions(f"{i}", 0, 400, 24) for i in range(50)])
    found = randomized_certificates(votes_of_positions[drawn], COLUMNS, Patch(1, 2), 10)
    assert found.certified.all()
    assert found.threshold == 2 * 2 / 24
    assert (found.lower_n < 20 / 24).all()
    assert (found.rival_upper_n > 4 / 24).all()


def test_the_threshold_of_the_paper():
    """Blocks of 75 px, a patch of 32 px: 2 (32 + 75 - 1)^2 / 224^2; columns: 2 (m + b - 1) / W."""
    votes = np.zeros((1, 5), int)
    for kind, size, expected in (
        ("block", 75, 2 * (32 + 75 - 1) ** 2 / 224**2),
        ("column", 19, 2 * (32 + 19 - 1) / 224),
    ):
        family = Ablation(kind=kind, size=size, stride=1, height=224, width=224)
        found = randomized_certificates(votes, family, Patch.square(32), 1000)
        assert found.threshold == pytest.approx(expected)


def test_unanimous_votes_are_not_enough_if_few():
    """The rivals without a vote have upper bounds too: 1 - tail^(1/n)."""
    tail = 0.001 / 6
    for draws in (20, 200, 2000):
        found = randomized_certificates(np.ones((1, draws), int), COLUMNS, Patch(1, 1), 3, 0.999)
        assert found.rival_upper_n[0] == pytest.approx(1 - tail ** (1 / draws), abs=1e-9)
        assert found.lower_n[0] == pytest.approx(tail ** (1 / draws), abs=1e-9)
        expected = 2 * tail ** (1 / draws) - 1
        assert found.certified[0] == (expected > 2 / 24)
        assert found.margins_n[0] == np.ceil(24 * expected) - 3


def test_sets_of_votes_and_silence():
    sets = np.full((3, 500, 2), -1)
    sets[1, :, 1] = 2
    sets[2] = [0, 1]
    found = randomized_certificates(sets, COLUMNS, Patch(1, 1), 3)
    assert found.certified.tolist() == [False, True, False]
    assert found.lower_n[0] == 0
    assert found.rival_upper_n[2] == 1


@pytest.mark.parametrize("confidence", [0, 1, -0.5, 99.9, float("nan")])
def test_impossible_confidences_are_refused(confidence):
    with pytest.raises(ValueError, match=r"confidence=.*inside \(0, 1\)"):
        randomized_certificates(np.zeros((1, 5), int), COLUMNS, Patch(1, 1), 3, confidence)


def test_no_images_no_certificates():
    found = randomized_certificates(np.zeros((0, 5), int), COLUMNS, Patch(1, 1), 3)
    assert [len(found.certified), len(found.margins_n), len(found.lower_n)] == [0, 0, 0]


@pytest.mark.parametrize("rule", ["uniform", "exact"])
def test_deterministic_rules_refuse_drawn_votes_even_as_many_as_views(rule):
    votes = np.zeros((1, 24), int)
    with pytest.raises(ValueError, match=f"rule='{rule}'.*random positions; choose randomized"):
        margins(rule, votes, COLUMNS, Patch(1, 1), 3, randomized=True)
    assert margins(rule, votes, COLUMNS, Patch(1, 1), 3).tolist() == [24 - 2]


def test_the_randomized_rule_refuses_a_fixed_family():
    with pytest.raises(ValueError, match=r"rule='randomized'.*fixed family; choose uniform, exact"):
        margins("randomized", np.zeros((1, 24), int), COLUMNS, Patch(1, 1), 3)
    with pytest.raises(ValueError, match=r"rule='best'.*no such rule"):
        rule_for("best", randomized=True)


def test_the_rule_states_and_uses_its_confidence():
    votes = np.array([[0] * 50 + [1] * 14])
    for confidence in (0.5, 0.999):
        rule = rule_for("randomized", randomized=True, confidence=confidence)
        assert f"confidence {confidence} for each image" in rule.guarantee
        expected = randomized_certificates(votes, COLUMNS, Patch(1, 1), 3, confidence).margins_n
        found = margins_of(rule.margins, votes, COLUMNS, Patch(1, 1), 3, drawn=True)
        assert found.tolist() == expected.tolist()
    assert "confidence 0.999 for each image" in RULES["randomized"].guarantee
    assert rule_for("exact", randomized=False) is RULES["exact"]
