"""Vote sets (threshold voting): every assignment of sets to the touched views, and refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.certificates import margins, pad_sets, smoothed_predictions, vote_counts
from pipeline.certificates import votes as module
from pipeline.certificates.batch import rank_votes
from tests.pipeline.certificates.agreement import check
from tests.pipeline.certificates.bruteforce import Geometry, view_masks
from tests.pipeline.certificates.cases import block_geometries, line_geometries, some_sets

COLUMNS = Ablation(kind="column", size=1, stride=1, height=1, width=3)


@pytest.mark.parametrize(
    ("geometries", "num_classes", "most", "limit"),
    [
        (line_geometries(range(1, 5)), 2, 1, 81),
        (line_geometries(range(1, 5)), 2, 2, 256),
        (line_geometries(range(1, 4)), 3, 2, 343),
        (line_geometries(range(5, 8), "row", thickest=2), 3, 2, 40),
        (line_geometries(range(5, 7), thickest=1), 4, 3, 40),
        (block_geometries(3), 3, 2, 10),
    ],
    ids=["columns-2-1", "columns-2-2", "columns-3-2", "rows-3-2", "columns-4-3", "blocks-3-2"],
)
def test_rules_agree_with_brute_force(geometries, num_classes, most, limit):
    certified = 0
    for g in geometries:
        votes = some_sets(len(view_masks(g)), num_classes, most, limit)
        certified += check(g, votes, num_classes)["exact"]
    assert certified


def test_the_rules_part_on_vote_sets():
    exact = uniform = 0
    for g in line_geometries(range(9, 11), thickest=2):
        certified = check(g, some_sets(len(view_masks(g)), 2, 2, limit=40), 2)
        exact, uniform = exact + certified["exact"], uniform + certified["uniform"]
    assert exact > uniform > 0


@settings(max_examples=60, deadline=None, database=None)
@given(st.data(), st.integers(2, 5))
def test_counts_predictions_and_tally(data, num_classes):
    most = data.draw(st.integers(1, num_classes))
    views, images = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    slots = st.lists(st.integers(-1, num_classes - 1), min_size=most, max_size=most).filter(
        lambda row: len({c for c in row if c >= 0}) == sum(c >= 0 for c in row)
    )
    rows = st.lists(slots, min_size=views, max_size=views)
    votes = np.array(data.draw(st.lists(rows, min_size=images, max_size=images)), np.int16)
    expected = np.array([[(row == c).sum() for c in range(num_classes)] for row in votes])
    np.testing.assert_array_equal(vote_counts(votes, num_classes), expected)
    predictions = smoothed_predictions(votes, num_classes)
    np.testing.assert_array_equal(predictions, expected.argmax(axis=1))

    for n, classes, counts in zip(expected, *rank_votes(votes, num_classes), strict=True):
        order = sorted(range(num_classes), key=lambda c, n=n: (-n[c], c))
        voted = max(1, np.count_nonzero(n))
        assert classes[:voted].tolist() == order[:voted]
        assert set(classes[voted:].tolist()) <= set(order[voted : voted + 1])
        assert (len(classes) > voted) or voted == num_classes
        np.testing.assert_array_equal(counts, n[classes])


@pytest.mark.parametrize("rule", ["uniform", "exact"])
@pytest.mark.parametrize("dtype", [np.int16, np.int64])
def test_one_vote_a_set_is_a_vote(rule, dtype):
    votes = np.random.default_rng(0).integers(0, 4, (30, 16))
    ablation = Ablation(kind="block", size=2, stride=2, height=8, width=8)
    plain = margins(rule, votes, ablation, Patch(1, 2), 4)
    sets = np.stack([np.full_like(votes, -1), votes, np.full_like(votes, -1)], axis=2)
    for same in (votes[..., None], sets):
        found = margins(rule, same.astype(dtype), ablation, Patch(1, 2), 4)
        np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize(("rule", "margin"), [("uniform", -2), ("exact", -1)])
def test_no_votes_at_all_predict_class_0_which_one_vote_changes(rule, margin):
    silent = np.full((2, 3, 2), -1)
    silent[1] = [[1, -1]] * 3  # unanimous, beside the silent one
    assert smoothed_predictions(silent, 4).tolist() == [0, 1]
    assert margins(rule, silent, COLUMNS, Patch(1, 1), 4).tolist() == [margin, 3 - 2 - 1]
    assert smoothed_predictions(silent[:1], 4).tolist() == [0]
    assert margins(rule, silent[:1], COLUMNS, Patch(1, 1), 4).tolist() == [margin]


@pytest.mark.parametrize("rule", ["uniform", "exact"])
def test_a_chunk_an_image_changes_nothing(rule, monkeypatch):
    g = Geometry("block", 2, 1, 4, 5, 1, 2)
    votes = some_sets(20, 4, 3, limit=30)
    at_once = margins(rule, votes, Ablation(**g.ablation), Patch(1, 2), 4)
    monkeypatch.setattr(module, "CHUNK_NUMBERS", 1)
    assert margins(rule, votes, Ablation(**g.ablation), Patch(1, 2), 4).tolist() == at_once.tolist()


@pytest.mark.parametrize("rule", ["uniform", "exact"])
@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([[[0, 1], [2, 2], [1, -1]]], "image 0, ablation 1: class 2 is there twice; give each"),
        ([[[0, 1]] * 3, [[0, 1], [2, 1], [1, 7]]], "vote 7 of image 1, ablation 2.*0 to 6"),
        ([[[0, 1], [-2, 1], [1, 1]]], "vote -2 of image 0, ablation 1.*0 to 6"),
        ([[[0, 1]] * 2], "votes with 2 columns.*each of the 3 ablations"),
        ([[[], [], []]], "0 slots a set: pad"),
    ],
)
def test_bad_sets_are_refused(rule, sets, message):
    with pytest.raises(ValueError, match=message):
        margins(rule, np.array(sets, np.int64), COLUMNS, Patch(1, 1), 7)


def test_sets_are_padded():
    sizes = np.array([[2, 0, 1], [0, 0, 3]])
    padded = pad_sets(np.array([5, 4, 3, 2, 1, 0], np.uint16), sizes)
    assert padded.dtype == np.int32
    empty = [-1, -1, -1]
    assert padded.tolist() == [[[5, 4, -1], empty, [3, -1, -1]], [empty, empty, [2, 1, 0]]]
    assert pad_sets(np.array([], int), np.zeros((2, 3), int)).tolist() == [[[-1]] * 3] * 2
    assert pad_sets(np.array([], int), np.zeros((0, 3), int)).shape == (0, 3, 1)
    with pytest.raises(ValueError, match="5 votes for sets of 6 votes in all"):
        pad_sets(np.arange(5), sizes)
