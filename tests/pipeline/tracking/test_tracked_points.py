"""Figures of a summary as metrics: which names, which steps, nothing lost and nothing invented."""

import copy
import re

import numpy as np
import pytest

from models.preprocess import PRESETS
from models.views.family import Patch
from models.views.masks import Masks, Placement
from pipeline.config import ClaimsConfig
from pipeline.runs.store import VotesStore
from pipeline.scoring.certify import certify_votes
from pipeline.sweep.table import summary_at
from pipeline.tracking import redact
from pipeline.tracking.description import description
from pipeline.tracking.points import certified_figures, points_of
from tests.pipeline.analysis.stored_runs import write_run


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> VotesStore:
    out = tmp_path_factory.mktemp("points")
    votes = np.random.default_rng(3).integers(0, 2, (9, 10))
    votes[:5] = 1
    return VotesStore(str(out), write_run(out, votes, [1] * 9))


def summary_of(store: VotesStore, *patch, stride=None, **more) -> dict:
    return certify_votes(store, ClaimsConfig(patch=patch, **more), stride=stride).summary


def by_name(summary) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for name, value, step in points_of(summary):
        assert step not in found.setdefault(name, {}), (name, step)
        found[name][step] = value
    return found


def test_the_curve_has_every_size_and_the_figures_what_was_asked(store):
    summary = summary_of(store, 2, "1x3")
    found = by_name(summary)
    for rule in ("exact", "uniform"):
        sides = summary["largest"]["patch_px"]
        hits = summary["largest"]["hits"][rule]
        curve = {side: count / 9 for side, count in zip(sides, hits, strict=True)}
        assert found[f"certified_accuracy/{rule}"] == {
            0: summary["smoothed_accuracy"]["value"],
            **curve,
        }
        assert found[f"certified_at/{rule}_2x2"] == {0: curve[2]}
        assert set(found[f"certified_at/{rule}_1x3"]) == {0}
    assert found["certified_accuracy/exact"][1] >= found["certified_accuracy/exact"][2] > 0


def test_other_strides_places_and_threats_are_told_apart(store):
    summary_of(store, 2, top_k=(1, 2), detect=True)
    summary = summary_of(store, "2of1", 1, stride=2)
    names = set(by_name(summary))
    assert {
        *("certified_at/exact_top2_2x2", "certified_at/exact_stride2_2_of_1x1"),
        *("certified_accuracy/exact_stride2", "smoothed_accuracy_stride2"),
        *("detection/2x2/clean", "detection/2x2/certified_detection"),
    } <= names
    legal = set("abcdefghijklmnopqrstuvwxyz0123456789_/:. -")
    assert all(set(name) <= legal for name in names), names


def test_names_are_those_that_mlflow_takes(tmp_path):
    look = PRESETS["imagenet"].to_dict() | {"resize": None, "crop": 10}
    run_id = write_run(
        tmp_path, np.ones((2, 10), int), [1, 1], sizes=[(10, 10)] * 2, preprocess=look
    )
    summary = summary_of(VotesStore(str(tmp_path), run_id), "source:2%", "source:1x3", "area:4")
    names = set(by_name(summary))
    assert {"certified_at/exact_source_2_percent", "certified_at/exact_source_1x3"} <= names
    assert all(re.fullmatch(r"[\w./ -]+", name) for name in names)


def test_what_a_coarser_stride_says_alone(store):
    summary = summary_of(store, 1, stride=5)
    manifest = store.manifest()
    alone = summary_at(summary, manifest, 5)
    assert alone["ablations"] == 2
    assert {entry["stride"] for entry in alone["certified_accuracy"]} == {5}
    (coarser,) = (entry for entry in summary["coarser"] if entry["stride"] == 5)
    found = by_name(alone)
    assert found["smoothed_accuracy"] == {0: coarser["smoothed_accuracy"]["value"]}
    assert set(found["certified_accuracy/exact"]) == {1}
    own = summary_at(summary, manifest, None)
    assert {entry["stride"] for entry in own["certified_accuracy"]} == {1}


def test_without_labels_there_is_no_accuracy(tmp_path):
    run_id = write_run(tmp_path, np.ones((4, 10), int), [None] * 4)
    summary = summary_of(VotesStore(str(tmp_path), run_id), 2, detect=True)
    assert set(by_name(summary)) == {"images", "images_with_error", "ablations"}
    assert certified_figures(summary) == []


def test_a_lost_figure_would_be_seen(store):
    """The comparison above is no tautology: another summary has other points."""
    summary = summary_of(store, 2)
    other = copy.deepcopy(summary)
    other["largest"]["hits"]["exact"][0] -= 1
    assert points_of(other) != points_of(summary)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://u:a/b@h/db", "postgresql://***@h/db"),
        ("postgresql://u:p@ss@h/db", "postgresql://***@h/db"),
        ("postgresql://h/db?user=u&password=x", "postgresql://h/db?***"),
        ("http://h:5000/a@b", "http://***@b"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("sqlite:////home/me@work/a:b@c.db", "sqlite:////home/me@work/a:b@c.db"),
        ("postgresql://u:p?ss@h/db", "postgresql://***@h/db"),
        ("postgresql://u:p#s?s@h/db?sslmode=x", "postgresql://***@h/db?***"),
        ("see http://u:p@h, then me@h", "see http://***@h, then me@h"),
    ],
)
def test_no_password_of_an_address_is_shown(uri, shown):
    """Rather too little of an address than a part of a password."""
    assert redact(uri) == shown


def test_rules_of_masks_have_their_own_clean_accuracy_and_alerts(tmp_path):
    masks = Masks.placed(
        height=10,
        width=10,
        placements=[(Placement.covering(10, 2, 2), Placement.covering(10, 2, 2))],
        pairs=True,
        covers=[Patch.square(2)],
    )
    votes = np.ones((4, len(masks)), int)
    votes[3, ::2] = 2
    store = VotesStore(str(tmp_path), write_run(tmp_path, votes, [1, 1, 0, 1], ablation=masks))
    summary = summary_of(store, 2)
    summary_of(store, 1, assume="2")
    found = by_name(summary_of(store, 2))
    for name, value in {
        "certified_at/two-location_2x2": 0.5,
        "clean_at/two-location_2x2": 0.75,
        "certified_at/two-location_assumes_2x2_1x1": 0.5,
        "clean_at/one-location_2x2": 0.5,
        "alerts_at/one-location_2x2": 1,
    }.items():
        assert found[name] == {0: value}, name
    assert not [name for name in found if "smoothed" in name or name.startswith("alerts_at/two")]
    said = description(summary, None)
    assert (
        "50.0 % at 2x2 px (two-location, assumes a patch of at most 2x2 px, clean 75.0 %)" in said
    )
    assert "(one-location, assumes a patch of at most 2x2 px, 1 alert, clean 50.0 %)" in said
    assert "smoothed" not in said
    assert "no labels" not in said
