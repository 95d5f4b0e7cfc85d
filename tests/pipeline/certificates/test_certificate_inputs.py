"""Counting, the registry, refused inputs, and what the package may import."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

import pipeline.certificates
from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.certificates import RULES, margins, smoothed_predictions, vote_counts
from pipeline.certificates.batch import rank_votes
from tests.pipeline.certificates.agreement import DETERMINISTIC

COLUMNS = Ablation(kind="column", size=4, stride=8, height=32, width=32)
VOTES = np.zeros((2, 4), np.int64)


@settings(max_examples=80, deadline=None, database=None)
@given(st.data(), st.integers(2, 6))
def test_counts_predictions_and_tally(data, num_classes):
    shape = data.draw(st.tuples(st.integers(0, 4), st.integers(1, 7)))
    elements = st.integers(0, num_classes - 1)
    votes = data.draw(nps.arrays(np.uint16, shape, elements=elements))
    expected = np.array([[row.count(c) for c in range(num_classes)] for row in votes.tolist()])
    expected = expected.reshape(-1, num_classes)
    found = vote_counts(votes, num_classes)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)
    predictions = smoothed_predictions(votes, num_classes)
    assert predictions.dtype == np.int64
    np.testing.assert_array_equal(predictions, expected.argmax(axis=1))

    ranked = rank_votes(votes, num_classes)
    for n, classes, ranked_counts in zip(expected, *ranked, strict=True):
        voted = sorted(np.flatnonzero(n), key=lambda c, n=n: (-n[c], c))
        voteless = np.flatnonzero(n == 0)[:1].tolist()
        assert classes[: len(voted)].tolist() == voted
        assert set(classes[len(voted) :].tolist()) <= set(voteless)
        assert (len(classes) > len(voted)) == bool(voteless)
        np.testing.assert_array_equal(ranked_counts, np.where(n[classes] > 0, n[classes], 0))


@pytest.mark.parametrize("rule", DETERMINISTIC)
def test_no_images_no_margins(rule):
    assert margins(rule, VOTES[:0], COLUMNS, Patch.square(2), 10).shape == (0,)


@pytest.mark.parametrize("rule", DETERMINISTIC)
def test_inputs_are_left_alone(rule):
    votes = np.array([[3, 1, 3, 2], [0, 0, 1, 0]], np.uint16)
    before = votes.copy()
    votes.flags.writeable = False
    first = margins(rule, votes, COLUMNS, Patch.square(2), 10)
    assert first.dtype == np.int64
    assert first.shape == (2,)
    np.testing.assert_array_equal(votes, before)


def test_rules_are_registered_under_their_names():
    assert {"uniform", "exact", "randomized"} <= set(RULES)
    for name, rule in RULES.items():
        assert rule.name == name
        assert rule.guarantee.endswith(".")
        assert "\n" not in rule.guarantee


def test_an_unknown_rule_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"rule='best'.*choose uniform, exact, randomized, two-location"
    ):
        margins("best", VOTES, COLUMNS, Patch.square(2), 10)


@pytest.mark.parametrize("rule", DETERMINISTIC)
@pytest.mark.parametrize(
    ("votes", "patch", "num_classes", "message"),
    [
        (VOTES[0], Patch(2, 2), 10, r"shape \(4,\).*2-D.*stack"),
        (VOTES.astype(float), Patch(2, 2), 10, "float64.*integers"),
        (VOTES.astype(bool), Patch(2, 2), 10, "bool.*integers"),
        (VOTES[:, :3], Patch(2, 2), 10, "3 columns.*each of the 4 ablations; use the ablation"),
        (VOTES + 10, Patch(2, 2), 10, "vote 10 of image 0, ablation 0.*0 to 9; pass"),
        (VOTES - [[0] * 4, [0, 0, 1, 0]], Patch(2, 2), 10, "vote -1 of image 1, ablation 2"),
        (VOTES, Patch(2, 2), 1, "num_classes=1.*at least 2 classes.*; pass"),
        (VOTES, Patch(33, 2), 10, "patch 33x2 px.*32x32 px image"),
        (VOTES, Patch(0, 2), 10, "patch 0x2.*at least 1"),
    ],
)
def test_bad_input_is_refused(rule, votes, patch, num_classes, message):
    with pytest.raises(ValueError, match=message):
        margins(rule, votes, COLUMNS, patch, num_classes)


@pytest.mark.parametrize("function", [vote_counts, smoothed_predictions])
def test_counting_refuses_bad_votes(function):
    with pytest.raises(ValueError, match=r"vote 7 of image 0, ablation 1.*0 to 6"):
        function(np.array([[0, 7]]), 7)
    with pytest.raises(ValueError, match="votes with 0 columns"):
        function(np.zeros((3, 0), int), 7)


def test_certificates_import_no_framework():
    """Votes are certified where no model, cluster or table library is installed."""
    forbidden = ["ray", "torch", "mlflow", "pandas", "pyarrow", "timm", "PIL", "matplotlib"]
    code = f"import pipeline.certificates, sys; print([m for m in {forbidden} if m in sys.modules])"
    root = Path(pipeline.certificates.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
