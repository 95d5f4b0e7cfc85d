"""Both rules against brute force: every location, every reassignment, from pixel masks."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.certificates import exact_margins, margins, uniform_margins
from pipeline.certificates import votes as module
from tests.pipeline.certificates.agreement import check
from tests.pipeline.certificates.bruteforce import (
    Geometry,
    ballots,
    outcomes,
    patch_masks,
    view_masks,
)
from tests.pipeline.certificates.cases import block_geometries, line_geometries, some_votes


@pytest.mark.parametrize(
    ("geometries", "num_classes", "limit"),
    [
        (line_geometries(range(1, 7)), 2, 64),
        (line_geometries(range(1, 6)), 3, 243),
        (line_geometries(range(1, 6), kind="row"), 3, 50),
        (line_geometries(range(1, 5)), 5, 625),
        (block_geometries(3), 2, 40),
        (block_geometries(3), 3, 12),
    ],
    ids=["columns-2", "columns-3", "rows-3", "columns-5", "blocks-2", "blocks-3"],
)
def test_rules_agree_with_brute_force_on_all_small_cases(geometries, num_classes, limit):
    certified = 0
    for g in geometries:
        votes = some_votes(len(view_masks(g)), num_classes, limit)
        certified += check(g, votes, num_classes)["exact"]
    assert certified


@pytest.mark.parametrize("kind", ["column", "row"])
@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_rules_agree_with_brute_force_on_thin_bands(kind, num_classes):
    """Enough views that the place of a vote matters, so that the rules part."""
    exact = uniform = 0
    for g in line_geometries(range(7, 12), kind, thickest=2):
        votes = some_votes(len(view_masks(g)), num_classes, limit=40)
        certified = check(g, votes, num_classes)
        exact, uniform = exact + certified["exact"], uniform + certified["uniform"]
    assert exact > uniform > 0


@st.composite
def attacked_votes(draw, kind):
    longest = 5 if kind == "block" else 14
    height, width = (draw(st.integers(1, longest)) for _ in "hw")
    limit = {"column": width, "row": height, "block": min(height, width)}[kind]
    size = draw(st.integers(1, max(1, limit // 2)))
    stride = draw(st.integers(1, limit))
    patch = draw(st.integers(1, min(height, 3))), draw(st.integers(1, min(width, 3)))
    g = Geometry(kind, size, stride, height, width, *patch)
    num_classes = draw(st.integers(2, 4))
    seed = draw(st.integers(0, 2**32 - 1))
    return g, some_votes(len(view_masks(g)), num_classes, 20, seed), num_classes


@pytest.mark.parametrize("kind", ["column", "row", "block"])
def test_rules_agree_with_brute_force_on_random_cases(kind):
    @settings(max_examples=60, deadline=None, database=None)
    @given(case=attacked_votes(kind))
    def agree(case):
        check(*case)

    agree()


def test_outcomes_cover_every_reassignment():
    for set_size, num_classes, most in product(range(4), (2, 3, 4), (None, 1, 2, 3)):
        sets = product(ballots(num_classes, most), repeat=set_size)
        every = {tuple(sum(views, ()).count(c) for c in range(num_classes)) for views in sets}
        found = outcomes(set_size, num_classes, most).tolist()
        assert set(map(tuple, found)) == every, (set_size, num_classes, most)
    assert ballots(3, None) == [(0,), (1,), (2,)]
    assert ballots(3, 2) == [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]


def test_stride_10_counterexample():
    """W = 224, b = 19, s = 10, m = 32: the published bound certifies what one patch breaks."""
    g = Geometry("column", size=19, stride=10, height=1, width=224, patch_height=1, patch_width=32)
    at_column_0 = set(np.flatnonzero((view_masks(g) & next(patch_masks(g))).any(axis=(1, 2))))
    assert at_column_0 == {0, 1, 2, 3, 21, 22}

    votes = np.ones(23, int)  # 6 votes for class 1 ...
    for view in [*at_column_0, *range(4, 15)]:  # ... against 17 for class 0
        votes[view] = 0
    assert np.bincount(votes).tolist() == [17, 6]

    published_delta = -(-(32 + 19 - 1) // 10)
    assert 2 * published_delta < 17 - 6, "the published rule certifies it"

    flipped = votes.copy()
    flipped[list(at_column_0)] = 1
    assert np.bincount(flipped).tolist() == [11, 12], "yet this patch changes the prediction"

    for rule in ("uniform", "exact"):
        margin = margins(rule, votes[None], Ablation(**g.ablation), Patch(1, 32), 2)
        assert margin.tolist() == [11 - 12]


def by_definition(votes: np.ndarray, touched: np.ndarray, num_classes: int) -> int:
    """The exact margin of one image, as the formula reads."""
    n = np.bincount(votes, minlength=num_classes)
    c = n.argmax()
    best = None
    for location in touched:
        r = np.bincount(votes[~location], minlength=num_classes)
        values = r[c] - r - location.sum() - (np.arange(num_classes) < c)
        lowest = np.delete(values, c).min()
        best = lowest if best is None else min(best, lowest)
    return int(best)


@pytest.mark.parametrize("num_classes", [4, 1000])
@pytest.mark.parametrize(
    "ablation",
    [
        Ablation(kind="column", size=19, stride=10, height=224, width=224),
        Ablation(kind="row", size=5, stride=1, height=64, width=48),
        Ablation(kind="block", size=20, stride=7, height=60, width=44),
        Ablation(kind="block", size=20, stride=1, height=60, width=44, random=90, seed=1),
    ],
    ids=lambda ablation: f"{ablation.kind}-{ablation.random}",
)
def test_margins_are_the_formula_at_real_sizes(ablation, num_classes, monkeypatch):
    patch = Patch(9, 13)
    votes = some_votes(len(ablation), num_classes, limit=12).astype(np.uint16)
    votes[0] = num_classes - 1  # unanimous: every rival is without a vote
    expected = [by_definition(row, ablation.touched(patch), num_classes) for row in votes]
    for chunk_numbers in (1, 5000, module.CHUNK_NUMBERS):  # an image a time, a few, all
        monkeypatch.setattr(module, "CHUNK_NUMBERS", chunk_numbers)
        assert exact_margins(votes, ablation, patch, num_classes).tolist() == expected


def test_margins_do_not_overflow_with_many_views():
    ablation = Ablation(kind="block", size=2, stride=1, height=130, width=130)
    votes = np.zeros((1, len(ablation)), np.uint16)
    touched = (2 + 1) ** 2
    # 16,900 unanimous votes: more than two bytes hold once views wrap.
    assert len(ablation) == 130**2
    for rule in (exact_margins, uniform_margins):
        assert rule(votes, ablation, Patch.square(2), 2).tolist() == [130**2 - 2 * touched]


def test_a_voteless_class_is_a_rival():
    """Of 3 unanimous votes one is rewritten: 2 against 1, and a lower class would win a tie."""
    ablation = Ablation(kind="column", size=1, stride=1, height=1, width=3)
    for rule in ("uniform", "exact"):
        margin = margins(rule, np.array([[0] * 3, [1] * 3, [2] * 3]), ablation, Patch(1, 1), 3)
        assert margin.tolist() == [3 - 2, 3 - 2 - 1, 3 - 2 - 1]


@pytest.mark.parametrize("rule", ["uniform", "exact"])
def test_a_patch_over_everything_is_never_certified(rule):
    ablation = Ablation(kind="column", size=4, stride=1, height=32, width=32)
    margin = margins(rule, np.zeros((2, 32), np.int64), ablation, Patch.square(32), 10)
    assert (margin < 0).all()
