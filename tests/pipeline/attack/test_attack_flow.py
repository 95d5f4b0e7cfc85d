"""The whole attack on finished runs: what it finds, what it must catch, what it refuses."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from models.preprocess import Preprocess
from models.views.family import Patch
from pipeline.analysis.sql import Answer, connect
from pipeline.attack import placements, rerun
from pipeline.attack.flow import attack_run
from pipeline.certificates import rules
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.runs.schema import ATTACKS
from pipeline.runs.unit_files import unit_bytes
from pipeline.scoring.certify import certify_votes
from pipeline.sources.base import SourceError
from pipeline.voting import vote as voting
from tests.conftest import REPOSITORY, TINY_PREPROCESS, png, random_images, write_shard
from tests.pipeline.attack.conftest import IMAGES, quick
from tests.pipeline.attack.small_runs import finished_run, weights_with

pytestmark = pytest.mark.usefixtures("here")


def test_a_weak_model_falls_where_it_may_and_stands_where_it_must(copied):
    attacked = attack_run(copied, quick(images=24))
    rows = pq.read_table(attacked.rows_path)
    assert rows.schema.equals(ATTACKS)
    assert not attacked.failures
    certified, others = (rows.filter(pc.field("certified") == flag) for flag in (True, False))
    assert certified.num_rows
    assert not any(certified["success"].to_pylist())
    assert any(others["success"].to_pylist())
    assert sum(rows["flipped"].to_pylist()) > 0
    assert set(rows["touched"].to_pylist()) <= {1, 2}
    assert set(rows["untouched_changed"].to_pylist()) == {0}
    assert set(rows["untouched_logits_changed"].to_pylist()) == {0}
    for row in rows.to_pylist():
        assert row["certified"] == (row["margin"] >= 0)
        assert row["success"] == (row["prediction_before"] != row["prediction_after"])
        assert row["flipped"] <= row["touched"]


def test_the_summary_is_a_count_of_the_rows(copied):
    attacked = attack_run(copied, quick())
    rows = pq.read_table(attacked.rows_path).to_pylist()
    summary = attacked.summary
    assert json.loads(Path(attacked.summary_path).read_text()) == summary
    votes = [row for table in copied.read() for row in table.to_pylist()]
    right = [row for row in votes if row["label"] == row["prediction"]]
    assert summary["images"] == 24
    assert summary["images_labelled"] == 23
    assert summary["smoothed_accuracy"]["hits"] == len(right) == 20
    stored = np.array([row["votes"] for row in votes])
    manifest = copied.manifest()
    margins = rules.margins("exact", stored, manifest.defense.views, Patch.square(8), 7)
    is_right = np.array([row["label"] == row["prediction"] for row in votes])
    certified, opened = (
        int((is_right & (margins >= 0)).sum()),
        int((is_right & (margins < 0)).sum()),
    )
    assert summary["certified_accuracy"]["hits"] == certified
    wrong = {
        row["image_id"] for row in rows if not row["certified"] and row["right_after"] is False
    }
    tried = {row["image_id"] for row in rows if not row["certified"]}
    kept = 1 - len(wrong) / len(tried)
    empirical = summary["empirical_accuracy"]
    assert empirical["value"] == pytest.approx((certified + opened * kept) / 23)
    assert certified / 23 <= empirical["low"] <= empirical["value"] <= empirical["high"]
    assert empirical["high"] <= summary["smoothed_accuracy"]["value"]
    assert summary["attacked"]["uncertified"]["images"] == len(tried)
    assert summary["attacked"]["uncertified"]["images_wrong"] == len(wrong)
    assert summary["attacked"]["certified"]["untouched_votes"] == sum(
        10 - row["touched"] for row in rows if row["certified"]
    )


def test_attacked_images_differ_from_the_originals_in_the_patch_alone(copied):
    attacked = attack_run(copied, quick())
    for row in pq.read_table(attacked.images_path).to_pylist():
        original = IMAGES[int(row["image_id"].split("/")[1])].copy()
        pixels = np.asarray(Image.open(io.BytesIO(row["image"])))
        if row["y"] is not None:
            window = slice(row["y"], row["y"] + 8), slice(row["x"], row["x"] + 8)
            assert (pixels[window] != original[window]).any()
            original[window] = pixels[window]
        np.testing.assert_array_equal(pixels, original)


def test_a_seed_says_all(copied):
    given = {"images": 4, "steps": 3}
    first = attack_run(copied, quick(seed=4, **given))
    images, rows = (Path(p).read_bytes() for p in (first.images_path, first.rows_path))
    again = attack_run(copied, quick(seed=4, **given))
    assert Path(again.images_path).read_bytes() == images
    assert Path(again.rows_path).read_bytes() == rows
    other = attack_run(copied, quick(seed=5, **given))
    assert other.images_path != again.images_path
    assert Path(other.images_path).read_bytes() != images


class Leaky:
    """A classifier that reads the corner of the image in every ablation, shown or not."""

    def __init__(self, classifier, strength):
        self.classifier, self.strength = classifier, strength
        self.views, self.groups = classifier.views, classifier.groups

    def tokens(self, images):
        return self.classifier.tokens(images), images[:, 0, 0].float().mean(-1)

    def whole(self, tokens, image_s):
        return self.classifier.whole(tokens[0], image_s)

    def __call__(self, tokens, image_s, view_s):
        logits = self.classifier(tokens[0], image_s, view_s).clone()
        logits[:, 0] += self.strength * tokens[1][image_s]
        return logits


def leak(monkeypatch, module, name, strength, faulty=Leaky):
    """Whatever ``module.name`` makes of a classifier, it makes of a leaky one."""
    honest = getattr(module, name)

    def leaking(classifier, *given, **options):
        return honest(faulty(classifier, strength), *given, **options)

    monkeypatch.setattr(module, name, leaking)


def white_patches(monkeypatch):
    """All patches are white, whatever the gradient."""
    monkeypatch.setattr(
        "pipeline.attack.patches.PatchDescent",
        lambda *_, **__: (
            lambda canvases, attempts: (
                np.full((len(attempts), 8, 8, 3), 255, np.uint8),
                np.zeros(len(attempts), bool),
            )
        ),
    )


def corner(monkeypatch):
    """Patches lie in the corner of the image."""
    monkeypatch.setattr(placements, "_places", lambda *_: [(0, 0)])


def test_logits_that_read_a_hidden_pixel_are_caught(copied, monkeypatch):
    corner(monkeypatch)
    leak(monkeypatch, rerun, "_Digesting", 1e-3)
    attacked = attack_run(copied, quick())
    rows = pq.read_table(attacked.rows_path)
    assert len(attacked.failures) == rows.num_rows
    assert "ablations that show no pixel of it" in attacked.failures[0]
    assert set(rows["untouched_changed"].to_pylist()) == {0}
    # Ablations at 0 and at 144, which wraps, show the corner; the other eight do not.
    assert set(rows["untouched_logits_changed"].to_pylist()) == {8}
    saved = Path(attacked.counterexamples[0])
    facts = json.loads((saved / "counterexample.json").read_text())
    assert facts["kind"] == "untouched"
    assert facts["ablations_that_see_the_patch"] == [0, 9]
    assert facts["ablations_that_may_not_change"] == list(range(1, 9))
    assert facts["identity"] == dict(copied.manifest().identity)
    pixels = [np.asarray(Image.open(saved / name)) for name in ("image.png", "attacked.png")]
    changed = (pixels[0] != pixels[1]).any(axis=2)
    assert changed.any()
    assert not changed[8:].any()
    assert not changed[:, 8:].any()


def test_votes_that_read_a_hidden_pixel_are_caught(labelled, tiny_weights, tmp_path, monkeypatch):
    """The leak is there from the first vote on: only the patch brings it to light."""
    leak(monkeypatch, voting, "SmoothedClassifier", 0.3)
    # An actor's own look is at slots and neighbours, and this leak is within an image.
    monkeypatch.setattr(voting, "check_bits", lambda _: None)
    store = finished_run(tmp_path, labelled, tiny_weights)
    white_patches(monkeypatch)  # the gradient does not know of the leak
    corner(monkeypatch)
    attacked = attack_run(store, quick())
    assert attacked.failures
    assert max(pq.read_table(attacked.rows_path)["untouched_changed"].to_pylist()) > 0


class Divides(Leaky):
    """A classifier whose logits are not finite where a view shows a white corner."""

    def __call__(self, tokens, image_s, view_s):
        logits = self.classifier(tokens[0], image_s, view_s).clone()
        shows = torch.tensor([self.views.visible(view)[0, 0].item() for view in view_s.tolist()])
        logits[shows & (tokens[1][image_s] == 255)] = torch.nan
        return logits


@pytest.mark.parametrize("changes", [{}, {"voting": "threshold", "theta": 0.3}], ids=str)
def test_an_error_in_place_of_an_answer_is_a_failure(
    changes, labelled, tiny_weights, tmp_path, monkeypatch
):
    """A certificate promises an answer; an image without one may lose it."""
    leak(monkeypatch, voting, "SmoothedClassifier", 0, Divides)
    monkeypatch.setattr(voting, "check_bits", lambda _: None)  # it is within an image
    store = finished_run(tmp_path, labelled, tiny_weights, **changes)
    white_patches(monkeypatch)
    corner(monkeypatch)
    attacked = attack_run(store, quick())
    rows = pq.read_table(attacked.rows_path).to_pylist()
    assert all(row["success"] and row["prediction_after"] is None for row in rows)
    assert not any(row["right_after"] for row in rows)
    assert {row["flipped"] + row["untouched_changed"] for row in rows} == {0}
    certified = [row["image_id"] for row in rows if row["certified"]]
    assert 0 < len(certified) < len(rows)
    assert len(attacked.failures) == len(certified)
    for failure, image_id in zip(attacked.failures, certified, strict=True):
        assert f"image_id={image_id} is certified" in failure
        assert "to an error: the network's logits are not finite" in failure
    facts = json.loads((Path(attacked.counterexamples[0]) / "counterexample.json").read_text())
    assert facts["kind"] == "certified"
    assert "not finite" in facts["error_after"]
    assert attacked.summary["attacked"]["uncertified"]["images_wrong"] == len(rows) - len(certified)


def test_a_rule_that_certifies_too_much_is_caught(copied, monkeypatch):
    honest = rules.margins
    monkeypatch.setattr(rules, "margins", lambda *given: honest(*given) + 100)
    attacked = attack_run(copied, quick(images=16))
    assert attacked.failures
    assert "is certified (margin" in attacked.failures[0]
    saved = Path(attacked.counterexamples[0])
    facts = json.loads((saved / "counterexample.json").read_text())
    assert facts["kind"] == "certified"
    assert facts["prediction_after"] != facts["prediction_before"]
    assert np.bincount(facts["votes_after"]).argmax() == facts["prediction_after"]
    assert np.bincount(facts["votes_stored"]).argmax() == facts["prediction_before"]
    assert (saved / "attacked.png").exists()


def test_votes_that_do_not_come_back_are_caught(copied):
    """A stored vote that this machine does not repeat: no patch was needed."""
    path = sorted(Path(copied.folder).glob("*.parquet"))[0]
    table = pq.read_table(path)
    votes = table["votes"].to_pylist()
    votes[2][3] = (votes[2][3] + 1) % 7
    column = table.schema.get_field_index("votes")
    field = table.schema.field(column)
    changed = table.set_column(column, field, pa.array(votes, field.type))
    path.write_bytes(unit_bytes(changed, copied.run_id, 0))  # as if they had been voted so
    attacked = attack_run(copied, quick(images=24, steps=1, locations=1))
    assert "without any patch, 1 ablations vote otherwise" in attacked.failures[0]
    saved = Path(attacked.counterexamples[0])
    assert saved.name == "00-unpatched"
    assert not (saved / "attacked.png").exists()
    facts = json.loads((saved / "counterexample.json").read_text())
    assert facts["ablations_that_may_not_change"] == [3]


@pytest.mark.parametrize(
    "changes",
    [
        {"voting": "threshold", "theta": 0.3},
        {"classes": "1,2,3,4,5,6"},
        {"tokens": "black"},
        {"views": "row"},
        {"views": "block", "size": 64, "stride": 40},
        {"positions": "random:9", "stride": None},
        {"gaps": True},
    ],
    ids=str,
)
def test_every_kind_of_votes(changes, tiny_weights, tmp_path):
    """Unlabelled images: no accuracy, but the same checks."""
    shard = write_shard(
        tmp_path / "s.tar", {f"{i}.png": png(image) for i, image in enumerate(IMAGES[:10])}
    )
    store = finished_run(tmp_path / "out", str(shard), tiny_weights, **changes)
    attacked = attack_run(store, quick(images=4, steps=2, views=3))
    assert not attacked.failures
    rows = pq.read_table(attacked.rows_path)
    assert rows.num_rows >= 4
    assert sum(rows["flipped"].to_pylist()) > 0
    assert rows["right_after"].null_count == rows.num_rows
    assert attacked.summary["empirical_accuracy"] is None
    assert attacked.summary["smoothed_accuracy"]["value"] is None


@pytest.mark.parametrize(
    ("preprocess", "side"),
    [
        (dataclasses.replace(TINY_PREPROCESS, resize=176), 200),
        (dataclasses.replace(TINY_PREPROCESS, crop=32, pixel_scale=5), 32),
    ],
    ids=["resized", "enlarged"],
)
def test_patches_lie_on_the_attackers_grid(preprocess: Preprocess, side, tiny_weights, tmp_path):
    images = random_images(6, side)
    shard = write_shard(
        tmp_path / "s.tar", {f"{i}.png": png(image) for i, image in enumerate(images)}
    )
    weights = weights_with(tmp_path / "w.safetensors", tiny_weights, preprocess)
    store = finished_run(
        tmp_path / "out",
        str(shard),
        weights,
        size=preprocess.crop // 8,
        stride=preprocess.crop // 8,
    )
    attacked = attack_run(store, quick(patch=2, images=6, steps=2))
    assert not attacked.failures
    grid = dataclasses.replace(preprocess, pixel_scale=1)
    for row in pq.read_table(attacked.images_path).to_pylist():
        pixels = np.asarray(Image.open(io.BytesIO(row["image"])))
        clean = grid(Image.fromarray(images[int(row["image_id"].split("/")[1])]))
        changed = (pixels != clean).any(axis=2)
        assert changed.any() == (row["y"] is not None)
        if changed.any():
            changed[row["y"] : row["y"] + 2, row["x"] : row["x"] + 2] = False
        assert not changed.any()


def test_what_does_not_fit_the_run_is_refused(copied, labelled, tiny_weights, tmp_path):
    other = write_shard(tmp_path / "s.tar", {"000.png": png(IMAGES[0])})
    weights = weights_with(tmp_path / "w.safetensors", tiny_weights, TINY_PREPROCESS)
    for changes, error, message in [
        ({"data": str(other)}, ConfigError, "not the files that the run voted on"),
        ({"data": str(tmp_path / "absent")}, SourceError, "absent"),
        ({"weights": str(weights)}, ConfigError, "give the run's own file"),
        ({"patch": 161}, ConfigError, "choose a smaller --patch"),
    ]:
        with pytest.raises(error, match=message):
            attack_run(copied, quick(**changes))
    assert not (Path(copied.out) / "attack").exists()
    moved = tmp_path / "moved"
    moved.mkdir()
    for file, name in ((labelled, "s.tar"), (str(tiny_weights), "t.safetensors")):
        (moved / name).write_bytes(Path(file).read_bytes())
    given = {"data": str(moved / "s.tar"), "weights": str(moved / "t.safetensors")}
    assert not attack_run(copied, quick(**given, images=2, steps=1, locations=1)).failures


def test_another_machine_is_refused(copied, monkeypatch):
    honest = rerun.probe_machine
    monkeypatch.setattr(
        rerun, "probe_machine", lambda device: honest(device)._replace(device_model="Cray-1")
    )
    with pytest.raises(ConfigError, match="device_model is Cray-1 here"):
        attack_run(copied, quick())


def test_randomized_runs_are_refused(labelled, tiny_weights, tmp_path):
    store = finished_run(tmp_path, labelled, tiny_weights, randomized=12, stride=None)
    with pytest.raises(ConfigError, match="randomized: its certificate is about the ideal"):
        attack_run(store, quick())


def test_the_recipe_in_sql_is_the_summary(copied):
    """docs/cookbook.md: certified <= true <= empirical, from rows alone."""
    attacked = attack_run(copied, quick())
    certify_votes(copied, ClaimsConfig(patch=(8,)))
    section = (REPOSITORY / "docs/cookbook.md").read_text().split("## Certified, true and")[1]
    query = section.split("```sql\n")[1].split("```")[0]
    with connect(copied.out) as connection:
        (row,) = Answer(connection, query).table().to_pylist()
    assert row["attacked"] == attacked.summary["attacked"]["uncertified"]["images"] > 0
    for name in ("smoothed", "certified", "empirical"):
        expected = attacked.summary[f"{name}_accuracy"]["value"]
        assert row[name] == pytest.approx(expected)
