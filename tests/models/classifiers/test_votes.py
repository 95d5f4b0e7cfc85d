"""From logits to votes: ties, thresholds, gaps."""

import numpy as np
import pytest
import torch

from models.classifiers.votes import ThresholdVoting, top_gaps, winners


def test_lowest_class_wins_tied_logits():
    logits = torch.zeros((2, 5), dtype=torch.bfloat16)
    logits[1, 3] = logits[1, 2] = 1
    np.testing.assert_array_equal(winners(logits), [0, 2])


@pytest.mark.parametrize("theta", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_theta_outside_its_range_is_named(theta):
    with pytest.raises(ValueError, match=f"theta={theta}"):
        ThresholdVoting(theta)


def test_every_class_that_reaches_theta_gets_a_vote():
    logits = torch.tensor([[5.0, 5.0, 0.0, 0.0], [0.0, 9.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    sets = ThresholdVoting(0.4)(logits)
    np.testing.assert_array_equal(sets, [[0, 1], [1, -1], [-1, -1]])


def test_theta_itself_counts():
    """Five classes at exactly a fifth, and at the float32 nearest to it."""
    sets = ThresholdVoting(0.2)(torch.zeros((1, 5)))
    assert sets.tolist() == [[0, 1, 2, 3, 4]]
    assert ThresholdVoting(0.5)(torch.zeros((1, 2))).tolist() == [[0, 1]]


def test_no_more_classes_vote_than_slots():
    """Just above a quarter: four classes at a quarter reach it at most by rounding."""
    voting = ThresholdVoting(0.25 * (1 + 1e-9))
    assert voting.slots == 3
    assert voting(torch.zeros((1, 4))).tolist() == [[-1, -1, -1]]
    many = ThresholdVoting(0.01)(torch.zeros((2, 3)))
    assert many.shape == (2, 100)
    assert many[0, :4].tolist() == [0, 1, 2, -1]


def test_low_precision_logits_are_compared_in_float32():
    logits = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.bfloat16)
    exact = torch.softmax(logits.float(), 1)[0]
    theta = float(exact[1])
    assert ThresholdVoting(theta)(logits)[0, :2].tolist() == [0, 1]
    assert ThresholdVoting(theta * (1 + 1e-7))(logits)[0, :2].tolist() == [0, -1]


def test_gaps_never_exceed_the_true_ones():
    logits = torch.randn((500, 9), generator=torch.Generator().manual_seed(0)) * 100
    top = logits.topk(2, dim=1).values
    true = (top[:, 0] - top[:, 1]).numpy()
    gaps = top_gaps(logits)
    assert gaps.dtype == np.float16
    assert (gaps.astype(np.float32) <= true).all()
    np.testing.assert_allclose(gaps, true, rtol=2e-3)
    assert top_gaps(torch.tensor([[1.0, 1.0, 0.0], [1e6, 0.0, 0.0]])).tolist() == [0.0, 65504.0]
