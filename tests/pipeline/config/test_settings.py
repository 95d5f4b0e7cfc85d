"""Every setting that changes votes, through all stages to the certificates.

The stages are called one after the other in this process, as Ray would call them;
``test_flow.py`` runs them on Ray itself.
"""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from pytest import fixture, raises

from models.views.family import Patch
from pipeline.certificates.exact import exact_margins
from pipeline.config import ClaimsConfig, ConfigError, OutputConfig, VotesConfig
from pipeline.runs.resolve import resolve_defense
from pipeline.runs.store import VotesStore
from pipeline.scoring.certify import certify_votes
from pipeline.voting.plan import count_votes
from tests.conftest import TINY_CLASSES, png, random_images
from tests.in_process import stages_here


@fixture(autouse=True)
def stages_in_this_process(monkeypatch):
    stages_here(monkeypatch)


def vote(shards, weights, out, **changes):
    """Run with changed settings: (store, table sorted by image)."""
    fixed = {"microbatch": 16, "threads": 1, "limit": 6}
    config = VotesConfig(data=str(shards), weights=str(weights), **(fixed | changes))
    outcome = count_votes(config, resolve_defense(config), OutputConfig(out=str(out)))
    store = VotesStore(str(out), outcome.run_id)
    files = sorted((out / "votes" / f"run_id={outcome.run_id}").glob("*.parquet"))
    return store, pq.read_table(files)


def test_each_setting_is_another_run(shards, tiny_weights, tmp_path):
    settings = [
        {},
        {"tokens": "black"},
        {"views": "row"},
        {"views": "block", "size": 60, "stride": 80},
        {"positions": "random:5", "views": "block", "size": 60},
        {"positions": "random:5", "views": "block", "size": 60, "seed": 1},
        {"randomized": 5, "views": "block", "size": 60},
        {"voting": "threshold"},
        {"voting": "threshold", "theta": 0.4},
        {"gaps": True},
    ]
    runs = set()
    for changes in settings:
        store, table = vote(shards, tiny_weights, tmp_path / "out", **changes)
        runs.add(store.run_id)
        assert table.num_rows == 6
    assert len(runs) == len(settings)


def test_black_and_drop_are_different_classifiers(shards, tiny_weights, tmp_path):
    _, drop = vote(shards, tiny_weights, tmp_path / "out")
    _, black = vote(shards, tiny_weights, tmp_path / "out", tokens="black")
    assert drop["votes"].to_pylist() != black["votes"].to_pylist()
    assert drop["plain_prediction"].to_pylist() == black["plain_prediction"].to_pylist()


@pytest.mark.parametrize(
    ("changes", "views"),
    [
        ({"views": "row", "stride": 40}, 4),
        ({"views": "block", "size": 60, "stride": 80}, 4),
        ({"views": "block", "size": 60, "positions": "random:9"}, 9),
    ],
)
def test_other_ablations_vote_and_certify(shards, tiny_weights, tmp_path, changes, views):
    store, table = vote(shards, tiny_weights, tmp_path, **changes)
    votes = np.array(table["votes"].to_pylist())
    assert votes.shape == (6, views)
    done = certify_votes(store, ClaimsConfig(patch=(1, 8), rule=("exact",)))
    ablation = store.read_manifest().defense.views
    rows = pq.read_table(done.folders["certificates"]).to_pylist()
    for side in (1, 8):
        expected = exact_margins(votes, ablation, Patch.square(side), TINY_CLASSES)
        assert [row["margin"] for row in rows if row["patch_px"] == side] == expected.tolist()


def test_threshold_votes_are_sets(shards, tiny_weights, tmp_path):
    store, table = vote(shards, tiny_weights, tmp_path, voting="threshold", theta=0.3)
    sets = table["vote_sets"].to_pylist()
    assert table["votes"].null_count == 6
    assert {len(votes) for image in sets for votes in image} > {1}
    assert all(votes == sorted(set(votes)) and len(votes) <= 3 for image in sets for votes in image)
    for image, counts, prediction in zip(
        sets, table["counts"].to_pylist(), table["prediction"].to_pylist(), strict=True
    ):
        tally = np.bincount([c for votes in image for c in votes], minlength=TINY_CLASSES)
        assert counts[0] == {"class": tally.argmax(), "votes": tally.max()}
        assert prediction == tally.argmax()
    padded = np.full((6, 10, 3), -1)
    for i, image in enumerate(sets):
        for v, votes in enumerate(image):
            padded[i, v, : len(votes)] = votes
    done = certify_votes(store, ClaimsConfig(patch=(4,), rule=("exact",)))
    expected = exact_margins(padded, store.read_manifest().defense.views, Patch(4, 4), TINY_CLASSES)
    assert pq.read_table(done.folders["certificates"])["margin"].to_pylist() == expected.tolist()


def test_gaps_are_stored_beside_equal_votes(shards, tiny_weights, tmp_path):
    _, plain = vote(shards, tiny_weights, tmp_path)
    _, gaps = vote(shards, tiny_weights, tmp_path, gaps=True)
    assert gaps["votes"].to_pylist() == plain["votes"].to_pylist()
    values = np.array(gaps["gaps"].to_pylist(), dtype=float)
    assert values.shape == (6, 10)
    assert (values >= 0).all()
    assert values.max() > 0


def test_randomized_votes_are_drawn_recorded_and_certified_as_probable(
    shards, tiny_weights, tmp_path
):
    settings = {"randomized": 12, "size": 24}
    store, table = vote(shards, tiny_weights, tmp_path, **settings)
    views = np.array(table["views"].to_pylist())
    assert views.shape == (6, 12)
    assert len({tuple(row) for row in views}) == 6  # each image draws its own
    # The same positions vote as they do in a run over every position.
    _, every = vote(shards, tiny_weights, tmp_path, size=24, stride=1)
    votes = np.take_along_axis(np.array(every["votes"].to_pylist()), views, axis=1)
    np.testing.assert_array_equal(np.array(table["votes"].to_pylist()), votes)
    with raises(ConfigError, match="randomized"):
        certify_votes(store, ClaimsConfig(patch=(4,), rule=("exact",)))
    done = certify_votes(store, ClaimsConfig(patch=(4,), confidence=0.99))
    (entry,) = done.summary["certified_accuracy"]
    assert (entry["rule"], entry["confidence"]) == ("randomized", 0.99)
    assert done.summary["ablations"] == 12
    assert set(pq.read_table(done.folders["certificates"])["confidence"].to_pylist()) == {0.99}


def test_restricted_logits_vote_for_allowed_classes_only(tiny_weights, tmp_path):
    truth = tmp_path / "labels.json"
    truth.write_text(json.dumps([[2], [4], [1, 2], [], [4], [2, 4]]))
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(random_images(6), start=1):
        (folder / f"ILSVRC2012_val_{number:08d}.png").write_bytes(png(image))
    store, table = vote(
        folder, tiny_weights, tmp_path / "out", classes="1,2,4", ground_truth=str(truth)
    )
    votes = np.array(table["votes"].to_pylist())
    assert set(np.unique(votes)) <= {1, 2, 4}
    assert len(np.unique(votes)) > 1
    assert table["labels"].to_pylist()[2] == [1, 2]
    done = certify_votes(store, ClaimsConfig(patch=(4,), rule=("exact",)))
    # Rivals are the three classes; renumbered they keep their order.
    compact = np.searchsorted([1, 2, 4], votes)
    expected = exact_margins(compact, store.read_manifest().defense.views, Patch(4, 4), 3)
    assert pq.read_table(done.folders["certificates"])["margin"].to_pylist() == expected.tolist()
    assert done.summary["images_without_label"] == 1
    right = [
        prediction in labels
        for prediction, labels in zip(
            table["prediction"].to_pylist(), table["labels"].to_pylist(), strict=True
        )
    ]
    assert done.summary["smoothed_accuracy"]["hits"] == sum(right)
    assert done.summary["smoothed_accuracy"]["of"] == 5


def test_inputs_need_not_be_square(shards, tiny_weights, tmp_path):
    store, table = vote(shards, tiny_weights, tmp_path, resize="160", crop="80x160", stride=10)
    manifest = store.manifest()
    assert (manifest.defense.views.height, manifest.defense.views.width) == (80, 160)
    assert table["error"].null_count == table.num_rows
    assert all(len(votes) == 16 for votes in table["votes"].to_pylist())
    store, table = vote(
        shards, tiny_weights, tmp_path, resize="160", crop="80x160", stride=10, views="row"
    )
    assert all(len(votes) == 8 for votes in table["votes"].to_pylist())
    with raises(ConfigError, match="patch 81x81"):
        certify_votes(store, ClaimsConfig(patch=(81,)))


def test_a_run_of_errors_alone_is_counted_not_a_crash(shards, tiny_weights, tmp_path):
    """80 px is a size that the network takes and no image has."""
    store, table = vote(shards, tiny_weights, tmp_path, crop="80")
    assert table["error"].null_count == 0
    for theta in (None, 0.3):
        voting = {} if theta is None else {"voting": "threshold", "theta": theta}
        store, table = vote(shards, tiny_weights, tmp_path, crop="80", **voting)
        summary = certify_votes(store, ClaimsConfig(patch=(4,))).summary
        assert summary["images_with_error"] == summary["images"] == 6
        assert summary["smoothed_accuracy"]["hits"] == 0
        assert summary["smoothed_accuracy"]["of"] == 5  # one has no label
        assert all(entry["images_certified"] == 0 for entry in summary["certified_accuracy"])
