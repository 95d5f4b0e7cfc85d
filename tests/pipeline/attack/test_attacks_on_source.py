"""Attacks on the source picture, through the resize: what stands, and what must be caught."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.cli import main
from models.resampling import AxisReach, Interval, SourceReach
from models.views.family import Patch
from models.views.threats import Threat
from pipeline.attack.canvas import Canvas, rectangle
from pipeline.attack.flow import attack_run
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.runs.schema import ATTACKS
from pipeline.runs.store import VotesStore
from pipeline.scoring.certify import certify_votes
from tests.conftest import (
    TINY_PREPROCESS,
    random_images,
)
from tests.pipeline.attack.conftest import quick
from tests.pipeline.attack.small_runs import finished_run, write_half_sure

SIZES = [(300, 400), (161, 197), (90, 130), (240, 300)]
IMAGES, SIDE = 8, 12
LOOKS = {
    "columns": {"interpolation": "bicubic"},
    "masks": {"views": "mask-pair", "covers": "40", "masks": "2", "size": None, "stride": None},
}

pytestmark = pytest.mark.usefixtures("here")


def _pictures() -> list[np.ndarray]:
    return [
        np.asarray(Image.fromarray(pixels).resize(SIZES[number % len(SIZES)][::-1], Image.BICUBIC))
        for number, pixels in enumerate(random_images(IMAGES, seed=3))
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[str, Path]:
    """A shard of pictures of several sizes, all of one class, and a network half sure of it."""
    return write_half_sure(tmp_path_factory.mktemp("pictures"), _pictures(), 3.0)


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory) -> dict[str, VotesStore]:
    shard, weights = data
    return {
        name: finished_run(tmp_path_factory.mktemp("run"), shard, weights, resize="170", **look)
        for name, look in LOOKS.items()
    }


def attack(store: VotesStore, **changes):
    given = {"patch": f"source:{SIDE}", "images": IMAGES, "steps": 4, "locations": 2}
    return attack_run(store, quick(**given | changes))


def written(path: str) -> Iterator[tuple[dict, np.ndarray]]:
    for row in pq.read_table(path).to_pylist():
        yield row, np.asarray(Image.open(io.BytesIO(row["image"])))


@pytest.mark.parametrize("name", LOOKS)
def test_certified_answers_stand_and_others_fall(runs, name):
    store = runs[name]
    certify_votes(store, ClaimsConfig(patch=(f"source:{SIDE}",)))
    attacked = attack(store)
    assert not attacked.failures
    assert attacked.summary["threat"] == f"source:{SIDE}"
    assert attacked.summary["attacked"]["certified"]["images_changed"] == 0
    rows = pq.read_table(attacked.rows_path)
    assert rows.schema.equals(ATTACKS)
    assert set(rows["patch_px"].to_pylist()) == {None}
    for never in ("outside_changed", "untouched_changed", "untouched_logits_changed"):
        assert set(rows[never].to_pylist()) == {0}
    certified, others = (rows.filter(pc.field("certified") == flag) for flag in (True, False))
    assert certified.num_rows
    assert not any(certified["success"].to_pylist())
    assert any(others["success"].to_pylist())
    # By the same account as the certificates, image by image.
    table = pq.read_table(f"{store.out}/certificates/run_id={store.run_id}")
    rule = attacked.summary["rule"]
    stored = {r["image_id"]: r for r in table.to_pylist() if r["rule"] == rule}
    for row in rows.to_pylist():
        assert row["certified"] == stored[row["image_id"]]["certified"]
        assert row["margin"] == stored[row["image_id"]]["margin"]
        patch = Threat.parse(stored[row["image_id"]]["on_grid"]).patch
        assert patch is not None
        assert row["grid_height"] <= patch.height
        assert row["grid_width"] <= patch.width


def test_pictures_are_written_whole_and_differ_in_the_patch_alone(runs):
    pictures, attacked = _pictures(), attack(runs["columns"], steps=1)
    rows = iter(pq.read_table(attacked.rows_path).to_pylist())
    for row, pixels in written(attacked.images_path):
        original = pictures[int(row["image_id"].split("/")[1])].copy()
        if row["y"] is not None:
            told = next(rows)
            assert (told["height"], told["width"]) == (SIDE, SIDE)
            window = np.s_[told["y"] : told["y"] + SIDE, told["x"] : told["x"] + SIDE]
            assert (told["y"], told["x"]) == (row["y"], row["x"])
            assert (pixels[window] != original[window]).any()
            original[window] = pixels[window]
        np.testing.assert_array_equal(pixels, original)
    assert next(rows, None) is None


def test_a_share_is_of_each_picture(runs):
    attacked = attack(runs["masks"], patch="source:1%", images=4, steps=1, locations=1)
    assert not attacked.failures
    pictures = _pictures()
    for row in pq.read_table(attacked.rows_path).to_pylist():
        height, width = pictures[int(row["image_id"].split("/")[1])].shape[:2]
        side = int(np.ceil(np.sqrt(0.01 * height * width)))
        assert (row["height"], row["width"]) == (side, side)


def test_a_patch_too_large_for_the_decision_has_no_margin(runs):
    attacked = attack(runs["masks"], patch="source:150x20", images=4, steps=1, locations=1)
    assert not attacked.failures
    rows = pq.read_table(attacked.rows_path).to_pylist()
    # Of 90 x 130 px the whole height.
    assert {row["height"] for row in rows} <= {90, 150}
    assert all(row["margin"] is None and not row["certified"] for row in rows)


def _narrow(monkeypatch):
    """The proof believes in windows that are a pixel too narrow."""
    honest = AxisReach.changed

    def narrow(self, start, extent):
        first, stop = honest(self, start, extent)
        return Interval(first + 1, stop)

    monkeypatch.setattr(AxisReach, "changed", narrow)


def _too_far(monkeypatch):
    """The attack reaches what the certificate does not hold."""
    monkeypatch.setattr(SourceReach, "extent", lambda *_: Patch(4, 4))


@pytest.mark.parametrize(
    ("mutate", "said"),
    [
        (_narrow, "pixels of the grid outside"),
        (_too_far, "and was certified as no more than 4x4 px"),
    ],
)
def test_a_rectangle_that_is_too_small_is_caught(runs, monkeypatch, mutate, said, capsys):
    mutate(monkeypatch)
    store = runs["columns"]
    flags = ["--images", "4", "--steps", "1", "--locations", "1", "--restarts", "1"]
    assert main(["attack", "--out", store.out, "--patch", f"source:{SIDE}", *flags]) == 1
    told = capsys.readouterr()
    assert f"images, patch source:{SIDE} px" in told.out
    assert "FALSIFIED" in told.err
    assert "of the picture at y = " in told.err
    assert said in " ".join(told.err.split())
    saved = sorted(Path(told.err.strip().splitlines()[-1].rsplit(": ", 1)[1]).iterdir())
    facts = [json.loads((folder / "counterexample.json").read_text()) for folder in saved]
    assert any(fact["kind"] == "basis" for fact in facts)
    before, after = (np.asarray(Image.open(saved[0] / f"{n}.png")) for n in ("image", "attacked"))
    assert before.shape == after.shape in [(*size, 3) for size in SIZES]
    (y, x), (high, wide) = (facts[0]["y"], facts[0]["x"]), facts[0]["patch"]
    changed = (before != after).any(axis=2)
    changed[y : y + high, x : x + wide] = False
    assert not changed.any()


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(300, 400), (90, 130), (176, 176)])
def test_gradients_reach_the_picture_as_changes_reach_the_grid(interpolation, size):
    """The pull back is the transpose of what pasting does, up to rounding and clipping."""
    preprocess = replace(TINY_PREPROCESS, resize=176, interpolation=interpolation)
    rng = np.random.default_rng(0)
    grey = np.full((*size, 3), 128, np.uint8)
    canvas = Canvas.of(lambda: grey, Threat.parse("source:30x20"), preprocess)
    yx = (size[0] // 2 - 10, size[1] // 2 - 10)
    content = rng.integers(64, 192, (*canvas.patch, 3)).astype(np.uint8)
    change = canvas.grid(canvas.pasted(grey, yx, content)).astype(np.float64) - 128
    gradient = (np.sign(change) + rng.normal(size=change.shape)).astype(np.float32)
    pulled = canvas.pulled_back(gradient, yx)
    assert pulled.shape == content.shape
    expected = (pulled * (content.astype(np.float64) - 128)).sum()
    rounding = np.sqrt((gradient**2)[rectangle(*canvas.reach.changed(*yx, canvas.patch))].sum())
    assert (gradient * change).sum() == pytest.approx(expected, abs=float(3 * rounding))
    assert expected > 10 * rounding


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ("source:area:9", "rectangles of any shape are about the grid"),
        ("2of9", "one rectangle of a given shape"),
        ("area:9", "one rectangle of a given shape"),
        ("source:0", "every number must be at least 1"),
        ("sauce:50", "write 32"),
        ("9x999", "choose a smaller --patch"),
    ],
)
def test_what_no_attack_can_write_is_refused(runs, patch, message, capsys):
    assert main(["attack", "--out", runs["columns"].out, "--patch", patch]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_votes_of_a_decoder_that_shrinks_are_refused(data, tmp_path):
    shard, weights = data
    store = finished_run(tmp_path, shard, weights, resize="170", scaled_decode=True)
    with pytest.raises(ConfigError, match="--scaled-decode"):
        attack(store)


def test_other_rectangles_of_the_grid(runs):
    attacked = attack(runs["columns"], patch="9x5", steps=1, locations=1)
    assert not attacked.failures
    assert attacked.summary["threat"] == "9x5"
    for row in pq.read_table(attacked.rows_path).to_pylist():
        assert (row["y"], row["x"]) == (row["grid_y"], row["grid_x"])
        assert (row["grid_height"], row["grid_width"]) == (9, 5) == (row["height"], row["width"])
