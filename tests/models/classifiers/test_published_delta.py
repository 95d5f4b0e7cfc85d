"""The published number of touched ablations, against counting: where it is too small."""

from itertools import product

import pytest

from models.views.ablations import Ablation
from models.views.family import Patch


def published(size: int, patch: int, stride: int) -> int:
    """Delta along one axis as published: ceil((m + b - 1) / s)."""
    return -(-(patch + size - 1) // stride)


def worst_by_masks(size: int, patch: int, stride: int, length: int) -> int:
    """The most bands that a patch meets along one axis, by overlapping pixel sets."""
    bands = [{(x + i) % length for i in range(size)} for x in range(0, length, stride)]
    return max(
        sum(not band.isdisjoint(range(edge, edge + patch)) for band in bands)
        for edge in range(length - patch + 1)
    )


@pytest.mark.parametrize("size", [19, 37])
@pytest.mark.parametrize("stride", [1, 2, 4, 5, 7, 10, 14, 16, 28, 32])
def test_published_column_delta_is_too_small_exactly_where_listed(size, stride):
    """The cases of smoothed_vit.md, W = 224: true Delta by band, patch and stride."""
    too_small = {
        (19, 32, 10): 6,
        (19, 32, 5): 11,
        (19, 39, 10): 7,
        (37, 23, 10): 7,
        (37, 32, 10): 8,
        (37, 39, 10): 9,
        (37, 39, 5): 16,
    }
    ablation = Ablation(kind="column", size=size, stride=stride, height=224, width=224)
    for patch in (23, 32, 39):
        formula = published(size, patch, stride)
        true = worst_by_masks(size, patch, stride, 224)
        assert true == too_small.get((size, patch, stride), formula)
        assert ablation.max_touched(Patch.square(patch)) == true


@pytest.mark.parametrize(("patch", "formula", "true"), [(23, 10, 11), (32, 11, 12), (39, 12, 12)])
def test_published_block_delta_is_too_small_where_listed(patch, formula, true):
    ablation = Ablation(kind="block", size=75, stride=10, height=224, width=224)
    assert published(75, patch, 10) == formula
    assert worst_by_masks(75, patch, 10, 224) == true
    assert ablation.max_touched(Patch.square(patch)) == true**2


def test_published_delta_is_right_where_the_stride_divides_the_width():
    for length in range(1, 13):
        for size, patch, stride in product(range(1, length + 1), repeat=3):
            formula = min(published(size, patch, stride), -(-length // stride))
            true = worst_by_masks(size, patch, stride, length)
            assert true <= formula + 1
            if length % stride == 0 and patch + stride <= length + 1:
                assert true == formula
