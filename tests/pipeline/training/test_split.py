import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.order import stratified_split


@given(
    labels=st.lists(st.integers(0, 4), min_size=20, max_size=200),
    share=st.floats(0, 0.4),
    seed=st.integers(0, 9),
)
def test_split_is_disjoint_complete_stratified_and_stable(labels, share, seed):
    labels = np.array(labels + [0, 1, 2, 3, 4] * 4)
    held_out = int(share * len(labels))
    train, held = stratified_split(labels, held_out, seed)
    assert len(held) == held_out
    assert sorted([*train, *held]) == list(range(len(labels)))
    for c in range(5):
        exact = np.sum(labels == c) * held_out / len(labels)
        assert abs(np.sum(labels[held] == c) - exact) < 1
    again = stratified_split(labels, held_out, seed)[1]
    np.testing.assert_array_equal(held, again)


def test_seeds_hold_out_different_images():
    labels = np.arange(300) % 3
    one, other = (set(stratified_split(labels, 30, seed)[1]) for seed in (0, 1))
    assert one != other


def test_a_class_is_not_wholly_held_out():
    with pytest.raises(ValueError, match="class 1 would keep none"):
        stratified_split(np.array([0] * 10 + [1]), 10, 0)
