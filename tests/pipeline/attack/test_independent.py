"""Views that show a patch, pixel by pixel, and votes that are counted without the rules."""

import numpy as np
import pytest

from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.attack.independent import changed_votes, rewritten, shows_patch, votes_for


def families():
    for kind, size, stride in (("column", 4, 3), ("row", 2, 1), ("block", 5, 4)):
        yield Ablation(kind=kind, size=size, stride=stride, height=11, width=13)
    yield Ablation(kind="block", size=3, stride=1, height=9, width=8, random=12, seed=2)
    yield Ablation(kind="column", size=3, stride=1, height=8, width=9, random=4, seed=1)


@pytest.mark.parametrize("ablation", list(families()), ids=str)
@pytest.mark.parametrize("patch", [Patch(1, 1), Patch(3, 3), Patch(2, 7)], ids=str)
def test_an_ablation_sees_a_patch_iff_one_pixel_is_in_both(ablation, patch):
    touched = iter(ablation.touched(patch))
    for y in range(ablation.height - patch.height + 1):
        for x in range(ablation.width - patch.width + 1):
            mask = np.zeros((ablation.height, ablation.width), dtype=bool)
            mask[y : y + patch.height, x : x + patch.width] = True
            pixels = [bool((ablation.visible(v) & mask).any()) for v in range(len(ablation))]
            assert shows_patch(ablation, patch, y, x).tolist() == pixels
            # The rules' arithmetic on arcs agrees where it tells locations apart.
            if (ablation.kind != "column" or y == 0) and (ablation.kind != "row" or x == 0):
                assert next(touched).tolist() == pixels
    assert next(touched, None) is None


@pytest.mark.parametrize("yx", [(-1, 0), (0, -1), (9, 0), (0, 11)])
def test_a_patch_outside_the_image_is_refused(yx):
    ablation = next(families())
    with pytest.raises(ValueError, match="leaves the 11x13 px image"):
        shows_patch(ablation, Patch(3, 3), *yx)


def test_counting_by_hand():
    assert votes_for(np.array([2, 0, 2, 3]), None, 5).tolist() == [1, 0, 2, 1, 0]
    assert votes_for(np.array([2, 0, 2, 3]), (0, 2, 3), 5).tolist() == [1, -1, 2, 1, -1]
    sets = np.array([[0, 2], [-1, -1], [2, -1]])
    assert votes_for(sets, None, 3).tolist() == [1, 0, 2]
    # Without any vote the lowest class that can be voted for is predicted.
    assert votes_for(sets[1:2], (1, 2), 3).argmax() == 1


def test_changes_by_hand():
    before = np.array([[0, 1, 2]])
    assert changed_votes(before, np.array([[0, 2, 2]])).tolist() == [[False, True, False]]
    sets = np.array([[[0, 2, -1], [1, -1, -1], [-1, -1, -1]]])
    # The same sets in another order and with fewer slots.
    assert not changed_votes(sets, np.array([[[2, 0], [-1, 1], [-1, -1]]])).any()
    other = np.array([[[2, 1], [1, -1], [0, -1]]])
    assert changed_votes(sets, other).tolist() == [[True, False, True]]


def test_rewriting_by_hand():
    seen = np.array([True, False, True])
    votes = np.array([0, 1, 2])
    assert rewritten(votes, seen, 3).tolist() == [3, 1, 3]
    sets = np.array([[0, 2], [1, 2], [-1, -1]])
    assert rewritten(sets, seen, 3).tolist() == [[3, -1], [1, 2], [3, -1]]
    assert votes.tolist() == [0, 1, 2]
