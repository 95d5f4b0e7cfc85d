"""Patches on the source picture, from stored votes: each image by its own rectangle."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.preprocess import Preprocess
from models.resampling import SourceReach
from models.views.family import Patch
from models.views.masks import Masks, Placement
from models.views.threats import Threat
from pipeline.analysis import open_run
from pipeline.analysis.heatmap import breaking_maps, threats_to_draw
from pipeline.certificates.batch import VoteBatch
from pipeline.certificates.rule import ALERT
from pipeline.certificates.rules import RULES
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.interchange.config import ExportConfig
from pipeline.interchange.exporting import export_run
from pipeline.runs.store import StoreError, VotesStore
from pipeline.scoring import words
from pipeline.scoring.certify import certify_votes
from pipeline.scoring.source import notes
from tests.pipeline.analysis.stored_runs import COLUMNS, write_run

LOOK = Preprocess(
    resize=12, crop=10, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3
).to_dict()
SIZES = [(24, 24), (12, 12), (48, 30), (12, 40), (200, 130), (24, 24), (7, 9), (24, 24)]
ERROR = 7


def _votes(views):
    rng = np.random.default_rng(0)
    votes = rng.integers(0, 4, (len(SIZES), views))
    return np.where(rng.random(votes.shape) < 0.9, 1, votes)


def _run(tmp_path, votes, sizes=SIZES, look=LOOK, **more):
    sizes = sizes and [*sizes[:ERROR], (None, None)]
    run_id = write_run(
        tmp_path, votes, [1] * len(votes), errors=[ERROR], preprocess=look, sizes=sizes, **more
    )
    return VotesStore(str(tmp_path), run_id)


def _rows(certified):
    table = pq.read_table(certified.folders["certificates"])
    return {(row["rule"], row["image_id"]): row for row in table.to_pylist()}


def _rectangles(patch):
    look = Preprocess(**LOOK)
    return [SourceReach.of(look, *size).extent(patch) for size in SIZES[:ERROR]]


def test_each_image_is_certified_by_its_own_rectangle(tmp_path):
    votes = _votes(len(COLUMNS))
    store = _run(tmp_path, votes)
    certified = certify_votes(store, ClaimsConfig(patch=("source:4x3", "2")))
    table = pq.read_table(certified.folders["certificates"]).to_pylist()
    on_source = [row for row in table if row["threat"] == "source:4x3"]
    assert len(on_source) == 2 * len(SIZES)
    rectangles = _rectangles(Patch(4, 3))
    assert len(set(rectangles)) == 3
    for row in on_source:
        image = int(row["image_id"][-3:])
        assert row["patch_px"] is None
        if image == ERROR:
            assert row["margin"] is row["on_grid"] is None
            assert not row["certified"]
            continue
        batch, threat = VoteBatch(votes[[image]], COLUMNS, 4), Threat(rectangles[image])
        assert row["on_grid"] == str(threat)
        assert row["margin"] == RULES[row["rule"]].margins(batch, threat)[0]
        assert row["certified"] == (row["margin"] >= 0)
    assert {row["on_grid"] for row in table if row["threat"] == "2x2"} == {None}
    assert 0 < sum(row["certified"] for row in on_source if row["rule"] == "exact") < ERROR


def test_the_summary_counts_rectangles(tmp_path):
    store = _run(tmp_path, _votes(len(COLUMNS)))
    certified = certify_votes(store, ClaimsConfig(patch=("source:4x3",), rule=("exact",)))
    (entry,) = certified.summary["certified_accuracy"]
    assert (entry["threat"], entry["images_too_large"]) == ("source:4x3", 0)
    texts = [str(Threat(patch)) for patch in _rectangles(Patch(4, 3))]
    assert entry["on_grid"] == {text: texts.count(text) for text in texts}
    widest = max(patch.width for patch in _rectangles(Patch(4, 3)))
    assert entry["max_touched"] == COLUMNS.max_touched(Patch(1, widest))
    assert entry["of"] == len(SIZES)
    assert json.loads(Path(certified.summary_path).read_text()) == certified.summary
    # Asked again, it is there already; other questions keep it.
    again = certify_votes(store, ClaimsConfig(patch=("source:4x3",), rule=("exact",)))
    assert not again.computed
    more = certify_votes(store, ClaimsConfig(patch=("source:10%", 2), rule=("exact",)))
    kept = {entry["threat"]: entry for entry in more.summary["certified_accuracy"]}
    assert set(kept) == {"source:4x3", "source:10%", "2x2"}
    assert kept["source:4x3"] == entry
    rows = open_run(str(tmp_path)).table("certificates").to_pylist()
    assert {row["threat"] for row in rows} == set(kept)


def test_a_share_is_of_each_picture(tmp_path):
    store = _run(tmp_path, _votes(len(COLUMNS)))
    certified = certify_votes(store, ClaimsConfig(patch=("source:5%",), rule=("exact",)))
    look = Preprocess(**LOOK)
    for image, (height, width) in enumerate(SIZES[:ERROR]):
        side = int(np.ceil(np.sqrt(0.05 * height * width)))
        expected = SourceReach.of(look, height, width).extent(Patch.square(side))
        row = _rows(certified)["exact", f"shard-000/{image:03d}"]
        assert row["on_grid"] == str(Threat(expected))


def test_a_share_of_the_grid_is_a_square_of_it(tmp_path):
    store = _run(tmp_path, _votes(len(COLUMNS)))
    certified = certify_votes(store, ClaimsConfig(patch=("2%", 2), rule=("exact",)))
    (entry,) = certified.summary["certified_accuracy"]
    assert (entry["threat"], entry["patch_px"]) == ("2x2", 2)


MASKS = Masks.placed(
    height=10,
    width=10,
    placements=[(Placement.covering(10, 4, 2), Placement.covering(10, 4, 2))],
    pairs=True,
    covers=[Patch.square(4)],
)


def _one_class_but(views, odd):
    """Labels of which only one image's differ, in one view."""
    votes = np.ones((len(SIZES), views), np.int64)
    votes[odd, 0] = 2
    return votes


def _decides(rule, patch, *, early):
    """Tell if there is a decision: after an early exit only for what the masks were cut for."""
    if early:
        return patch.height <= 4 and patch.width <= 4
    if rule == "one-location":
        return (~MASKS.one_mask_views.touched(patch)).any(axis=1).all()
    untouched_lv = ~MASKS.touched(patch)
    return (untouched_lv.astype(int) @ untouched_lv.T.astype(int)).all()


@pytest.mark.parametrize("early", [False, True])
def test_masks_certify_the_images_whose_rectangle_they_cover(tmp_path, early):
    votes = _one_class_but(len(MASKS), odd=4)
    voting = {"theta": None, "gaps": False} | ({"early_exit": True} if early else {})
    store = _run(tmp_path, votes, voting=voting, **MASKS.to_identity())
    asked = ClaimsConfig(patch=("source:6x5",), rule=("two-location", "one-location"))
    certified = certify_votes(store, asked)
    rectangles, rows = _rectangles(Patch(6, 5)), _rows(certified)
    entries = {entry["rule"]: entry for entry in certified.summary["certified_accuracy"]}
    for rule in asked.rule:
        covered = [_decides(rule, patch, early=early) for patch in rectangles]
        assert len(set(covered)) == 2
        hidden = {"4x4" if early else "source:6x5"}
        assert {row["assumes"] for row in rows.values()} == hidden
        for image, patch in enumerate(rectangles):
            row = rows[rule, f"shard-000/{image:03d}"]
            assert row["on_grid"] == str(Threat(patch))
            if not covered[image]:
                # Answered by the decision for what the masks cover, and never certified.
                assert not row["certified"]
                assert row["margin"] is None
                assert row["prediction"] == 1
            elif image != 4:
                assert row["certified"]
        assert entries[rule]["images_too_large"] == covered.count(False)
        assert entries[rule]["images_certified"] <= covered.count(True)


def test_an_alert_stays_one(tmp_path):
    """An image whose rectangle is too large is answered by the decision for the covered patch."""
    votes = np.random.default_rng(1).integers(0, 4, (len(SIZES), len(MASKS)))
    store = _run(tmp_path, votes, **MASKS.to_identity())
    certified = certify_votes(store, ClaimsConfig(patch=("source:90%",), rule=("one-location",)))
    batch = VoteBatch(votes[:ERROR], MASKS, 4, plain_n=np.ones(ERROR, np.int64))
    expected = RULES["one-location"].predict(batch, Threat(MASKS.covers[0]))
    rows = [row for row in _rows(certified).values() if row["on_grid"]]
    assert [row["prediction"] for row in rows] == [
        None if answer == ALERT else answer for answer in expected
    ]
    assert not any(row["certified"] for row in rows)


def test_an_assumed_patch_holds_for_every_image(tmp_path):
    votes = np.ones((len(SIZES), len(MASKS)), np.int64)
    store = _run(tmp_path, votes, **MASKS.to_identity())
    asked = ClaimsConfig(patch=("source:6x5",), rule=("two-location",), assume="3")
    certified = certify_votes(store, asked)
    for image, patch in enumerate(_rectangles(Patch(6, 5))):
        row = _rows(certified)["two-location", f"shard-000/{image:03d}"]
        assert row["assumes"] == "3x3"
        assert row["certified"] == (patch.height <= 3 and patch.width <= 3)


def test_votes_without_sizes_are_refused_with_a_remedy(tmp_path):
    store = _run(tmp_path, _votes(len(COLUMNS)), sizes=None)
    with pytest.raises(StoreError, match=r"source:4: .*earlier version.*--overwrite.*--patch 32"):
        certify_votes(store, ClaimsConfig(patch=("source:4",)))
    # As an earlier version wrote them: without the columns.
    for path in tmp_path.glob("votes/*/unit-*.parquet"):
        table = pq.read_table(path)
        assert table.column_names[-2:] == ["height", "width"]
        without = store.read_unit(int(path.stem[-5:]), ["image_id"])
        assert without.column_names == ["image_id"]
        path.write_bytes(_without_sizes(path))
    assert store.read_unit(0, ["image_id", "width"])["width"].null_count == 4
    with pytest.raises(StoreError, match="earlier version"):
        certify_votes(store, ClaimsConfig(patch=("source:4",)))
    assert certify_votes(store, ClaimsConfig(patch=(2,))).computed


def _without_sizes(path):
    table = pq.read_table(path).drop_columns(["height", "width"])
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(None), sink)
    return sink.getvalue()


def test_pictures_that_nobody_can_follow_are_refused(tmp_path):
    votes = _votes(len(COLUMNS))
    shrunk = _run(tmp_path / "a", votes, look=LOOK | {"scaled_decode": True})
    with pytest.raises(ConfigError, match=r"source:4: .*--scaled-decode.*vote without it"):
        certify_votes(shrunk, ClaimsConfig(patch=("source:4",)))
    imported = _run(tmp_path / "b", votes, look=None)
    with pytest.raises(ConfigError, match=r"source:4: .*imported.*--patch 32"):
        certify_votes(imported, ClaimsConfig(patch=("source:4",)))
    with pytest.raises(ConfigError, match="size of each picture"):
        certify_votes(_run(tmp_path / "c", votes), ClaimsConfig(patch=("source:4",), detect=True))


def test_the_notes_say_what_is_asked_and_what_would_help():
    entry = {
        "threat": "source:50",
        "rule": "two-location",
        "on_grid": {"30x45": 2, "40x32": 3},
        "images_too_large": 4,
    }
    share = Threat.parse("2%")
    said = notes([entry, entry | {"images_too_large": 0}, {"threat": "32x32"}], [share], (224, 224))
    assert said[0] == "2% of the 224x224 px grid: 32x32 px"
    assert "source:50, of the picture before its resize: by the picture's size at most" in said[1]
    assert "40x32 to 30x45 px of the 224x224 px grid" in said[1]
    assert "two-location: 4 of 5 images are not certified" in said[2]
    assert "(--covers 40x45)" in said[2]
    assert len(said) == 3


def test_questions_about_the_grid_refuse_a_patch_on_the_source(tmp_path):
    store = _run(tmp_path, _votes(len(COLUMNS)))
    run = open_run(store.out)
    threat = Threat.parse("source:4")
    for refused in (
        lambda: run.margins("exact", threat),
        lambda: breaking_maps(run, [threat]),
        lambda: certify_votes(
            store, ClaimsConfig(patch=(3,), rule=("two-location",), assume="source:4")
        ),
    ):
        with pytest.raises(ValueError, match=r"size of each picture.*, such as 32"):
            refused()
    certify_votes(store, ClaimsConfig(patch=("source:4", 2)))
    with pytest.raises(ConfigError, match=r"pictures' sizes.*such as 32"):
        export_run(run, ExportConfig(to=str(tmp_path / "a"), patch=("source:4",)))
    # What was certified on the source is left out where nothing is named, and is not drawn.
    export_run(run, ExportConfig(to=str(tmp_path / "b")))
    assert "source" not in (tmp_path / "b/images.csv").read_text()
    assert threats_to_draw(run.manifest, store.read_summary()) == [Threat.square(2)]


@pytest.mark.parametrize(
    ("threat", "said"),
    [
        ("32x32", "32x32 px"),
        ("area<=64", "area<=64 px"),
        ("source:50", "source:50 px"),
        ("source:2%", "source:2%"),
    ],
)
def test_a_share_of_the_picture_is_said_without_pixels(threat, said):
    assert words.assumption({"assumes": threat}) == f"assumes a patch of at most {said}"
    assert words.threat({"threat": threat}) == said
