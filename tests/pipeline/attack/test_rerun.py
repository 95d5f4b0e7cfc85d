"""Attacked images come back as the pixels that were meant, through the code of every run."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from models.preprocess import PRESETS
from pipeline.attack.rerun import (
    RoundTripError,
    check_round_trip,
    model_input,
    on_the_grid,
    write_source,
)


def written(path, preset):
    """Three images of noise, and the preprocessing of their run."""
    preprocess = on_the_grid(PRESETS[preset])
    side = preprocess.crop
    pixels = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    write_source(str(path), ["a", "b", "b"], [None, None, (2, 3)], pixels)
    return preprocess, pixels


@pytest.mark.parametrize("preset", ["imagenet", "cifar10"])
def test_every_pixel_comes_back(preset, tmp_path):
    path = tmp_path / "attacked.parquet"
    preprocess, pixels = written(path, preset)
    check_round_trip(str(path), preprocess, pixels)
    rows = pq.read_table(path).to_pylist()
    assert [row["image_id"] for row in rows] == ["a", "b", "b"]
    assert [(row["y"], row["x"]) for row in rows] == [(None, None), (None, None), (2, 3)]
    for row, image in zip(rows, pixels, strict=True):
        again = preprocess(Image.open(io.BytesIO(row["image"])))
        np.testing.assert_array_equal(again, model_input(image[None], preprocess.pixel_scale)[0])


@pytest.mark.parametrize("preset", ["imagenet", "cifar10"])
def test_one_grey_level_is_noticed(preset, tmp_path):
    path = tmp_path / "attacked.parquet"
    preprocess, pixels = written(path, preset)
    pixels[2, 7, 9, 1] ^= 1
    with pytest.raises(RoundTripError, match="row 2"):
        check_round_trip(str(path), preprocess, pixels)


def test_a_resize_would_be_noticed(tmp_path):
    path = tmp_path / "attacked.parquet"
    _, pixels = written(path, "imagenet")
    with pytest.raises(RoundTripError, match="row 0"):
        check_round_trip(str(path), PRESETS["imagenet"], pixels)
