"""Fewer ablations from the votes of more: which views, which votes, which certificates."""

import numpy as np
import pytest

from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.certificates import coarser, margins, subset
from tests.pipeline.certificates.agreement import check
from tests.pipeline.certificates.bruteforce import Geometry, view_masks
from tests.pipeline.certificates.cases import some_sets, some_votes

FINE = {"kind": "column", "size": 3, "stride": 1, "height": 12, "width": 14}


@pytest.mark.parametrize("kind", ["column", "row", "block"])
@pytest.mark.parametrize(("fine", "coarse"), [(1, 2), (1, 5), (2, 4), (2, 6), (3, 9), (5, 5)])
def test_views_of_the_coarser_stride_show_what_its_votes_saw(kind, fine, coarse):
    g = Geometry(kind, 3, fine, 13, 15, 2, 2)
    masks = view_masks(g)
    votes = np.arange(len(masks))[None].repeat(2, axis=0)
    found, ablation = coarser(votes, Ablation(**g.ablation), coarse)
    assert ablation == Ablation(**{**g.ablation, "stride": coarse})
    assert found.shape == (2, len(ablation))
    for place, view in enumerate(found[0]):
        np.testing.assert_array_equal(ablation.visible(place), masks[view])


def test_certificates_of_a_coarser_stride_hold_for_its_own_votes():
    fine = some_votes(8, 3, limit=120)
    found, _ = coarser(fine, Ablation(**{**FINE, "width": 8}), 2)
    assert check(Geometry("column", 3, 2, 12, 8, 1, 1), found, 3)["exact"] > 0


def test_sets_are_kept_whole():
    sets = some_sets(14, 4, 2, limit=5)
    found, ablation = coarser(sets, Ablation(**FINE), 4)
    assert ablation.positions[:, 1].tolist() == [0, 4, 8, 12]
    np.testing.assert_array_equal(found, sets[:, [0, 4, 8, 12]])


@pytest.mark.parametrize(("own", "wanted"), [(2, 3), (2, 1), (4, 6), (3, 5)])
def test_a_stride_with_other_offsets_is_refused(own, wanted):
    ablation = Ablation(**{**FINE, "stride": own})
    with pytest.raises(ValueError, match=f"stride={wanted}: .*choose a multiple of {own}"):
        coarser(np.zeros((1, len(ablation)), int), ablation, wanted)


def test_one_offset_alone_is_in_every_stride():
    """Stride 13 of 13 px has the offset 0 only, which votes whatever the stride."""
    ablation = Ablation(**{**FINE, "stride": 3, "width": 13})
    found, one = coarser(np.arange(5)[None], ablation, 13)
    assert found.tolist() == [[0]]
    assert len(one) == 1


def test_random_positions_answer_for_the_strides_they_hold():
    every = Ablation(**FINE, random=14, seed=3)
    found, ablation = coarser(np.arange(14)[None], every, 7)
    assert found.tolist() == [[0, 7]]
    assert ablation.random is None
    some = Ablation(**FINE, random=5, seed=3)
    with pytest.raises(ValueError, match="random positions answer for no stride"):
        coarser(np.zeros((1, 5), int), some, 2)


def test_a_subset_is_a_family_of_its_own():
    """A random family is a subset of stride 1, so both must say the same."""
    shape = {**FINE, "kind": "block"}
    family = Ablation(**shape, random=40, seed=9)
    every = Ablation(**shape)
    numbers = family.positions @ [14, 1]
    votes = some_votes(len(every), 4, limit=30)
    found, views = subset(votes, every, numbers)
    np.testing.assert_array_equal(found, votes[:, numbers])
    np.testing.assert_array_equal(views.positions, family.positions)
    assert len(views) == 40
    for rule in ("uniform", "exact"):
        expected = margins(rule, found, family, Patch(2, 3), 4)
        assert margins(rule, found, views, Patch(2, 3), 4).tolist() == expected.tolist()


def test_the_first_of_a_seed_are_a_subset_of_more():
    more, fewer = (Ablation(**FINE, random=count, seed=5) for count in (9, 4))
    numbers = np.flatnonzero((more.positions[:, None] == fewer.positions).all(axis=2).any(axis=1))
    _, views = subset(np.zeros((1, 9), int), more, numbers)
    np.testing.assert_array_equal(views.positions, fewer.positions)


@pytest.mark.parametrize("chosen", [[], [0, 0], [-1], [14]])
def test_subsets_that_are_none(chosen):
    with pytest.raises(ValueError, match="distinct numbers from 0 to 13"):
        subset(np.zeros((1, 14), int), Ablation(**FINE), np.array(chosen, int))
