"""Every patch size at once, against the rule asked size by size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.certificates import RULES, largest_certified, margins
from pipeline.certificates import votes as module
from pipeline.certificates.batch import vote_batches
from pipeline.certificates.largest import largest
from tests.pipeline.certificates.agreement import MONOTONE
from tests.pipeline.certificates.cases import clustered_votes, some_sets, some_votes

SHAPES = [
    {"kind": "column", "size": 4, "stride": 1, "height": 32, "width": 32},
    {"kind": "column", "size": 3, "stride": 5, "height": 40, "width": 32},
    {"kind": "row", "size": 2, "stride": 3, "height": 47, "width": 50},
    {"kind": "block", "size": 6, "stride": 3, "height": 21, "width": 26},
    {"kind": "block", "size": 5, "stride": 1, "height": 20, "width": 20, "random": 60, "seed": 3},
]


def side_by_side(rule, votes, ablation, num_classes):
    """Margins of every side that fits; int (sides, N)."""
    sides = range(1, min(ablation.height, ablation.width) + 1)
    return np.array([margins(rule, votes, ablation, Patch.square(s), num_classes) for s in sides])


@pytest.mark.parametrize("rule", MONOTONE)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s['kind']}-{s['stride']}")
def test_the_largest_side_is_that_of_the_rule_asked_size_by_size(rule, shape):
    ablation = Ablation(**shape)
    views = len(ablation)
    votes = np.concatenate([some_votes(views, 5, limit=60), clustered_votes(views, 5, 60)])
    votes[0] = 4  # unanimous: certified at half of the views
    every = side_by_side(rule, votes, ablation, 5)
    assert (np.diff(every, axis=0) <= 0).all(), "a larger patch may do more"
    found = largest_certified(votes, ablation, 5, rule)
    np.testing.assert_array_equal(found, (every >= 0).sum(axis=0))
    assert len(set(found.tolist())) >= 3


@settings(max_examples=60, deadline=None, database=None)
@given(st.data())
def test_margins_never_rise_with_the_patch(data):
    kind = data.draw(st.sampled_from(["column", "row", "block"]))
    height, width = data.draw(st.integers(2, 12)), data.draw(st.integers(2, 12))
    longest = {"column": width, "row": height, "block": min(height, width)}[kind]
    size, stride = data.draw(st.integers(1, longest)), data.draw(st.integers(1, longest))
    ablation = Ablation(kind=kind, size=size, stride=stride, height=height, width=width)
    large = Patch(data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
    small = Patch(data.draw(st.integers(1, large.height)), data.draw(st.integers(1, large.width)))
    votes = clustered_votes(len(ablation), 4, 20, seed=data.draw(st.integers(0, 99)))
    for rule in MONOTONE:
        margin = margins(rule, votes, ablation, small, 4)
        assert (margin >= margins(rule, votes, ablation, large, 4)).all()


def test_what_is_known_is_not_asked_again():
    ablation = Ablation(**SHAPES[0])
    votes = clustered_votes(32, 5, 200)
    ((_, batch),) = vote_batches(votes, ablation, 5)
    uniform = largest(batch, RULES["uniform"])
    exact = largest(batch, RULES["exact"])
    assert (exact >= uniform).all()
    assert (exact > uniform).any()
    np.testing.assert_array_equal(largest(batch, RULES["exact"], uniform), exact)


def test_chunks_and_sets_change_nothing(monkeypatch):
    ablation = Ablation(**SHAPES[3])
    votes = some_sets(len(ablation), 5, 2, limit=40)
    at_once = largest_certified(votes, ablation, 5)
    assert len(set(at_once.tolist())) > 2
    monkeypatch.setattr(module, "CHUNK_NUMBERS", 1)
    assert largest_certified(votes, ablation, 5).tolist() == at_once.tolist()


def test_nothing_is_certified_where_one_pixel_is_too_much():
    ablation = Ablation(kind="column", size=8, stride=1, height=8, width=8)
    assert largest_certified(np.zeros((3, 8), int), ablation, 3).tolist() == [0] * 3
    assert largest_certified(np.zeros((0, 8), int), ablation, 3).shape == (0,)


def test_votes_at_drawn_positions_have_no_largest():
    ablation = Ablation(**SHAPES[0])
    with pytest.raises(ValueError, match="randomized"):
        largest_certified(np.zeros((3, 32), int), ablation, 3, "randomized")
