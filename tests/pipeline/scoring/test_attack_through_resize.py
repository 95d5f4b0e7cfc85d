"""Real patches on pictures before their resize, through the whole pipeline."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from models.resampling import SourceReach
from models.views.family import Patch
from pipeline.config import ClaimsConfig
from pipeline.scoring.certify import certify_votes
from tests.conftest import png, random_images, write_shard
from tests.pipeline.attack.small_runs import finished_run

SIZES = [(300, 400), (161, 197), (420, 260), (176, 176), (90, 130), (240, 700)]
IMAGES, SIDE = 18, 8


def _pictures():
    resized = []
    for number, pixels in enumerate(random_images(IMAGES)):
        height, width = SIZES[number % len(SIZES)]
        resized.append(np.asarray(Image.fromarray(pixels).resize((width, height), Image.BICUBIC)))
    return resized


def _vote(folder, pictures, weights, **look):
    folder.mkdir()
    samples = {}
    for number, pixels in enumerate(pictures):
        samples |= {f"{number:04d}.png": png(pixels), f"{number:04d}.cls": b"1"}
    write_shard(folder / "shard-000.tar", samples)
    store = finished_run(folder / "out", str(folder), weights, **look)
    table = store.read_units(range(store.manifest().execution.units))
    return store, table.sort_by("image_id").to_pylist()


def _attacks(picture, rng):
    """Places, the corners among them, with extremes and pieces of another picture."""
    high, wide = picture.shape[0] - SIDE, picture.shape[1] - SIDE
    places = [(0, 0), (high, wide)]
    places += [(int(rng.integers(high + 1)), int(rng.integers(wide + 1))) for _ in range(3)]
    for y, x in places:
        extremes = np.where(rng.random((SIDE, SIDE, 3)) < 0.5, 0, 255).astype(np.uint8)
        for content in (extremes, random_images(1, SIDE, seed=int(rng.integers(1000)))[0]):
            attacked = picture.copy()
            attacked[y : y + SIDE, x : x + SIDE] = content
            yield y, x, attacked


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_no_certificate_falls(tmp_path, tiny_weights, interpolation):
    look = {"resize": "170", "interpolation": interpolation}
    pictures, rng = _pictures(), np.random.default_rng(0)
    store, before = _vote(tmp_path / "clean", pictures, tiny_weights, **look)
    assert [(row["height"], row["width"]) for row in before] == [p.shape[:2] for p in pictures]
    claims = ClaimsConfig(patch=(f"source:{SIDE}",), rule=("exact",))
    certify_votes(store, claims)
    certified = {
        row["image_id"]: row["certified"] for row in _certificates(store) if row["rule"] == "exact"
    }
    attacks = [
        (number, *attack)
        for number, picture in enumerate(pictures)
        for attack in _attacks(picture, rng)
    ]
    _, after = _vote(tmp_path / "attacked", [attack[3] for attack in attacks], tiny_weights, **look)
    defense = store.manifest().defense
    fallen, unseen, changed = 0, 0, 0
    for (number, y, x, _), row in zip(attacks, after, strict=True):
        clean = before[number]
        reach = SourceReach.of(defense.model_input, clean["height"], clean["width"])
        (top, bottom), (left, right) = reach.changed(y, x, Patch.square(SIDE))
        changes = np.zeros((defense.views.height, defense.views.width), bool)
        changes[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
        unseen += not changes.any()
        for view, (was, now) in enumerate(zip(clean["votes"], row["votes"], strict=True)):
            if not (defense.views.visible(view) & changes).any():
                assert was == now
            changed += was != now
        fell = row["prediction"] != clean["prediction"]
        fallen += fell
        assert not (fell and certified[clean["image_id"]])
    # What was tried could have shown something.
    assert changed > 20
    assert unseen > 2
    assert fallen > 0
    assert 0 < sum(certified.values()) < IMAGES


def _certificates(store):
    return pq.read_table(f"{store.out}/certificates/run_id={store.run_id}").to_pylist()


def test_the_picture_is_what_the_decoder_returns(tmp_path, tiny_weights):
    """An orientation in the file turns neither what is voted on nor what the sizes say."""
    sink, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_pictures()[0]).save(sink, "JPEG", exif=exif)
    folder = tmp_path / "turned"
    folder.mkdir()
    write_shard(folder / "shard-000.tar", {"0.jpg": sink.getvalue(), "0.cls": b"1"})
    store = finished_run(folder / "out", str(folder), tiny_weights, resize="170")
    (row,) = store.read_unit(0).to_pylist()
    assert (row["height"], row["width"]) == (300, 400)
