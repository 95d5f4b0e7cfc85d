import numpy as np
import pytest

from pipeline.training import order
from pipeline.training.order import EpochOrder


def test_epochs_are_different_permutations_of_whole_batches():
    epochs = EpochOrder(images=103, batch=10, seed=1)
    first, second = epochs.of(0), epochs.of(1)
    assert len(first) == 100
    assert len(set(first)) == 100
    assert set(first) <= set(range(103))
    assert list(first) != list(second)
    np.testing.assert_array_equal(first, EpochOrder(images=103, batch=10, seed=1).of(0))
    assert list(first) != list(EpochOrder(images=103, batch=10, seed=2).of(0))


def test_pieces_are_the_epoch_in_whole_batches(monkeypatch):
    monkeypatch.setattr(order, "_PIECE_IMAGES", 35)
    epochs = EpochOrder(images=103, batch=10, seed=1)
    pieces = list(epochs.pieces_of(3))
    assert [len(piece) for piece in pieces] == [30, 30, 30, 10]
    assert len(pieces) == epochs.pieces
    np.testing.assert_array_equal(np.concatenate(pieces), epochs.of(3))


@pytest.mark.parametrize(("kind", "files"), [("webdataset", 1 / 8), ("parquet", 1 / 64)])
def test_many_images_are_read_in_runs(monkeypatch, kind, files):
    monkeypatch.setattr(order, "_SHUFFLED_WHOLLY", 1000)
    monkeypatch.setattr(order, "_PIECE_IMAGES", 512)
    epochs = EpochOrder(images=4000, batch=32, seed=0, kind=kind)
    whole = epochs.of(0)
    assert len(set(whole)) == epochs.steps * 32 == 4000
    run = round(1 / files)
    for piece in epochs.pieces_of(0):
        assert len(set(piece // run)) <= len(piece) * files + 2
        assert np.any(np.diff(piece) != 1)
