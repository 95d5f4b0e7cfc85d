"""Attacks on runs whose views hide masks: the answer of the decision, and what refutes it."""

import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from models.views.family import Patch
from models.views.masks import Masks, Placement
from models.views.threats import Threat
from pipeline.attack.config import AttackConfig, WitnessConfig
from pipeline.attack.flow import attack_run
from pipeline.attack.independent import (
    ANY,
    largest_touched,
    shows_patch,
    two_location_answers,
)
from pipeline.attack.selection import threat_of
from pipeline.attack.target import Target
from pipeline.attack.witness import replay_witnesses
from pipeline.certificates.batch import VoteBatch
from pipeline.certificates.largest_sets import largest_sets
from pipeline.certificates.two_location import TwoLocation
from pipeline.config import ConfigError
from pipeline.runs.schema import ATTACKS, WITNESSES
from pipeline.runs.store import VotesStore
from tests.conftest import random_images
from tests.pipeline.attack.conftest import quick
from tests.pipeline.attack.small_runs import finished_run, write_half_sure

IMAGES, PX = 8, 32
PAIRS = {"views": "mask-pair", "covers": str(PX), "masks": "2", "size": None, "stride": None}
FAMILIES = {
    "early exit": PAIRS,
    "all views": PAIRS | {"all_views": True},
    "one mask": PAIRS | {"views": "mask"},
    "black": PAIRS | {"tokens": "black"},
    "full height": PAIRS | {"masks": "1x4"},
    "classes": PAIRS | {"classes": "1,2,3,5"},
}

pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture(scope="session")
def half_sure(tmp_path_factory) -> tuple[str, Path]:
    """Images all of one class, and a network that agrees about some of them under all masks."""
    return write_half_sure(tmp_path_factory.mktemp("masks"), random_images(IMAGES, seed=3), 5.0)


@pytest.fixture(scope="session")
def runs(half_sure, tmp_path_factory) -> dict[str, VotesStore]:
    shard, weights = half_sure
    return {
        name: finished_run(tmp_path_factory.mktemp("run"), shard, weights, **changes)
        for name, changes in FAMILIES.items()
    }


def attack(store: VotesStore, **changes):
    given = {"patch": None, "images": IMAGES, "steps": 4, "locations": 2, "restarts": 1}
    return attack_run(store, AttackConfig(**given | changes))


@pytest.mark.parametrize("family", FAMILIES)
def test_certified_answers_stand_and_others_fall(runs, family):
    store = runs[family]
    attacked = attack(store)
    assert not attacked.failures
    rows = pq.read_table(attacked.rows_path)
    assert rows.schema.equals(ATTACKS)
    assert set(rows["patch_px"].to_pylist()) == {PX}
    assert sum(rows["flipped"].to_pylist()) > 0
    assert set(rows["untouched_changed"].to_pylist()) == {0}
    assert set(rows["untouched_logits_changed"].to_pylist()) == {0}
    certified, others = (rows.filter(pc.field("certified") == flag) for flag in (True, False))
    assert certified.num_rows
    assert others.num_rows or family not in ("early exit", "all views")
    assert not any(certified["success"].to_pylist())
    one = family == "one mask"
    assert attacked.summary["rule"] == ("one-location" if one else "two-location")
    if others.num_rows:  # one mask that alerts already has no answer to change
        assert any(others["success"].to_pylist()) != one
    for row in rows.to_pylist():
        assert row["certified"] == (row["margin"] >= 0)
        changed = row["prediction_before"] != row["prediction_after"]
        assert row["success"] == (changed and row["prediction_after"] is not None)
        assert one or None not in (row["prediction_before"], row["prediction_after"])


def test_alerts_are_no_wrong_answers(runs):
    rows = pq.read_table(attack(runs["one mask"], steps=8).rows_path).to_pylist()
    alerted = [row for row in rows if row["prediction_after"] is None]
    assert alerted
    assert all(row["right_after"] and not row["success"] for row in alerted)


def test_early_exit_changes_no_verdict(runs):
    """The same images, places and patches; only votes that were not asked are not compared."""
    names = ["image_id", "certified", "y", "x", "rival", "success", "prediction_after"]
    early, every = (
        pq.read_table(attack(runs[name]).rows_path).to_pylist()
        for name in ("early exit", "all views")
    )
    assert [[row[name] for name in names] for row in early] == [
        [row[name] for name in names] for row in every
    ]


def test_places_are_no_witnesses(runs):
    """Of an image that may fall, all but the random ones."""
    store = runs["all views"]
    rows = pq.read_table(attack(store, locations=3).rows_path).to_pylist()
    manifest = store.manifest()
    votes = {r["image_id"]: r for table in store.read() for r in table.to_pylist()}
    target = Target.of(manifest.defense, threat_of(None, store, manifest).patch)
    for row in rows:
        stored = votes[row["image_id"]]
        labels, plain = np.array([stored["votes"]]), np.array([stored["plain_prediction"]])
        (margins_yx,) = target.margins_at(labels, plain)
        assert margins_yx.min() == row["margin"]
        at = margins_yx[min(row["y"], len(margins_yx) - 1), min(row["x"], margins_yx.shape[1] - 1)]
        assert (at < 0) == (row["margin"] < 0)


def test_a_rule_that_certifies_too_much_is_caught(runs, monkeypatch):
    honest = TwoLocation.margins
    monkeypatch.setattr(TwoLocation, "margins", lambda *given: honest(*given) + 100)
    attacked = attack(runs["early exit"])
    assert attacked.failures
    assert "is certified (margin" in attacked.failures[0]
    facts = json.loads((Path(attacked.counterexamples[0]) / "counterexample.json").read_text())
    assert facts["kind"] == "certified"
    assert facts["prediction_after"] != facts["prediction_before"]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "one mask"])
def test_witnesses_change_the_answer_by_every_account(runs, family):
    store = runs[family]
    replayed = replay_witnesses(store, WitnessConfig())
    assert not replayed.failures
    assert replayed.rule == "two-location"
    assert replayed.images == IMAGES == replayed.certified + replayed.witnesses + replayed.without
    assert replayed.without == 0
    assert replayed.witnesses or family not in ("early exit", "all views")
    table = pq.read_table(replayed.rows_path)
    assert table.schema.equals(WITNESSES)
    manifest = store.manifest()
    views = manifest.defense.views
    votes = {r["image_id"]: r for table in store.read() for r in table.to_pylist()}
    target = Target.of(manifest.defense, threat_of(None, store, manifest).patch)
    for row in table.to_pylist():
        stored = votes[row["image_id"]]["votes"]
        before = np.array([-1 if vote is None else vote for vote in stored])
        seen_v = shows_patch(views, target.patch, row["y"] or 0, row["x"] or 0)
        after, plain = np.where(seen_v, row["rival"], before)[None], np.array([row["rival"]])
        assert row["touched"] == seen_v.sum()
        assert row["rewritten"] == ((before != after[0]) & (before >= 0)).sum()
        answers = target.answers(after, plain, plain)
        assert answers.tolist() == [row["prediction_after"]] != [row["prediction"]]


def test_a_generous_rule_is_caught_by_witnesses(runs, monkeypatch):
    honest = TwoLocation.margins
    monkeypatch.setattr(TwoLocation, "margins", lambda *given: honest(*given) + 100)
    failures = replay_witnesses(runs["early exit"], WitnessConfig()).failures
    assert any("is certified (margin" in failure for failure in failures)


def test_an_answer_that_the_definition_does_not_give_is_caught(runs, monkeypatch):
    monkeypatch.setattr(TwoLocation, "predict", lambda _, batch, *__: np.zeros(len(batch), int))
    failures = replay_witnesses(runs["all views"], WitnessConfig()).failures
    assert any("by definition 0 is not its answer" in failure for failure in failures)


def test_alerts_need_no_witness(runs):
    with pytest.raises(ConfigError, match="raises an alert before any attack"):
        replay_witnesses(runs["one mask"], WitnessConfig())


def small_masks() -> list[Masks]:
    third, half = Placement.covering(9, 2, 3), Placement.covering(9, 2, 2)
    wide, patch = Placement.at_stride(9, 5, 2), Patch.square(2)
    given = {"height": 9, "width": 9, "pairs": True, "covers": (patch,)}
    return [
        Masks.placed(**given, placements=[(third, half)]),
        Masks.placed(**given, placements=[(half, half)]),
        Masks.placed(**given, placements=[(wide, Placement(9, (0,)))]),
    ]


@pytest.mark.parametrize("views", small_masks(), ids=str)
def test_the_definition_and_the_rule_agree(views):
    """Two accounts of one decision, and of the sets it looks at; unknown labels leave room."""
    patch, rng = views.covers[0], np.random.default_rng(0)
    touched_sv, corners = largest_touched(views, patch)
    expected = {row.tobytes() for row in largest_sets(views, Threat(patch))}
    assert {row.tobytes() for row in np.ascontiguousarray(touched_sv)} == expected
    for touched_v, (y, x) in zip(touched_sv, corners.tolist(), strict=True):
        np.testing.assert_array_equal(touched_v, shows_patch(views, patch, y, x))
    names = set()
    for _ in range(200):
        labels_v = np.where(rng.random(len(views)) < rng.choice([0.5, 0.9]), 1, rng.integers(0, 3))
        labels_v[touched_sv[rng.integers(len(touched_sv))]] = rng.integers(0, 3)
        plain = int(rng.integers(-1, 3))
        batch = VoteBatch(labels_v[None], views, 3, plain_n=np.array([plain]))
        (answer,) = TwoLocation().predict(batch, Threat(patch)).tolist()
        assert two_location_answers(labels_v, touched_sv, plain) == {answer}
        names.add((answer, plain))
        hidden_v = rng.random(len(views)) < 0.3
        possible = two_location_answers(np.where(hidden_v, -1, labels_v), touched_sv, max(plain, 0))
        assert plain < 0 or possible & {answer, ANY}
    assert len(names) > 6


def test_another_patch_needs_every_vote(runs):
    with pytest.raises(ConfigError, match="--all-views"):
        attack(runs["early exit"], patch=20)
    attacked = attack(runs["all views"], patch=20, images=4, steps=1, locations=1)
    assert not attacked.failures
    with pytest.raises(ConfigError, match="smaller --patch, or masks"):
        attack(runs["all views"], patch=100)


def test_the_patch_is_the_one_that_the_masks_cover(runs):
    manifest = runs["early exit"].manifest()
    assert threat_of(None, runs["early exit"], manifest) == Threat.square(PX)
    assert threat_of(Threat.square(8), runs["early exit"], manifest) == Threat.square(8)
    assert quick(patch=None).patch is None


def test_a_covered_patch_need_be_no_square(half_sure, tmp_path):
    shard, weights = half_sure
    store = finished_run(tmp_path, shard, weights, **PAIRS | {"covers": "16x48"})
    attacked = attack(store, images=4, steps=1, locations=1)
    assert not attacked.failures
    rows = pq.read_table(attacked.rows_path).to_pylist()
    assert {(row["threat"], row["height"], row["width"]) for row in rows} == {("16x48", 16, 48)}
    for config in (WitnessConfig(), WitnessConfig(patch="16x48")):
        replayed = replay_witnesses(store, config)
        assert not replayed.failures
        assert replayed.patch == Patch(16, 48)
        assert replayed.rows_path.endswith("/16x48.parquet")
    with pytest.raises(ConfigError, match="--all-views"):
        replay_witnesses(store, WitnessConfig(patch=16))


@pytest.mark.parametrize("early", [True, False], ids=["early exit", "all views"])
def test_of_several_covered_patches_one_must_be_named(early, half_sure, tmp_path):
    shard, weights = half_sure
    several = PAIRS | {"covers": "area:4", "masks": "1x2", "all_views": not early}
    store = finished_run(tmp_path, shard, weights, **several)
    remedy = "early exit answer for none alone: vote with --all-views" if early else "--patch 2x2"
    for ask in (attack, lambda store: replay_witnesses(store, WitnessConfig())):
        with pytest.raises(ConfigError, match=rf"its masks cover area<=4, .*{remedy}"):
            ask(store)
    if not early:
        assert not replay_witnesses(store, WitnessConfig(patch="2x2")).failures


def test_a_witness_is_one_rectangle_of_the_grid():
    for patch, said in (
        ("source:8", "give a patch on the grid"),
        ("2of8", "one rectangle of a given shape"),
        ("area:8", "one rectangle of a given shape"),
        ("8y8", "write 32"),
        (0, "--patch 0"),
    ):
        with pytest.raises(ConfigError, match=said):
            WitnessConfig(patch=patch)
