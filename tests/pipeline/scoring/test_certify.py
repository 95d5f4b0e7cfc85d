"""Votes to certificates and summary, against figures worked out by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pytest import approx, fixture, raises

from models.errors import JobError
from pipeline.cluster.executor import Executor
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.runs.manifest import Execution, Manifest, ManifestError
from pipeline.runs.rows import ranked_counts, votes_table
from pipeline.runs.schema import CERTIFICATES, DETECTION, IMAGES, VOTES
from pipeline.runs.store import StoreError, VotesStore, check_rows
from pipeline.scoring import datasets as module
from pipeline.scoring.certify import certify_votes

# Eight columns one pixel wide: a 1 px patch touches one vote of eight.
IDENTITY = {
    "model": {"name": "vit", "num_classes": 3},
    "ablation": {
        "kind": "column",
        "size": 1,
        "stride": 1,
        "height": 8,
        "width": 8,
        "pixel_scale": 1,
    },
}
VOTES_NV = np.array(
    [
        [1] * 8,  # right, certified at 1, 2 and 3 px
        [0, 0, 0, 0, 0, 2, 2, 2],  # right; lead 2: certified at 1 px only
        [2, 2, 2, 2, 0, 0, 0, 0],  # a tie goes to class 0, the label; certified at none
        [1] * 8,  # certified, but wrong
        [2] * 8,  # certified, label unknown
    ]
)
LABELS = [1, 0, 0, 2, None, 1]  # the last is the image with an error
ERRORS = [None] * 5 + ["truncated"]


@fixture
def store(tmp_path):
    manifest = Manifest(
        identity=IDENTITY, execution=Execution(units=2, images=6, data="x", unit_images=4)
    )
    store = VotesStore(str(tmp_path), manifest.run_id)
    store.write_manifest(manifest)
    rows = pa.table(
        {
            "image_id": pa.array([f"s/{i}" for i in range(6)]),
            "label": pa.array(LABELS, pa.int32()),
            "error": pa.array(ERRORS, pa.string()),
        }
    )
    ballot = SimpleNamespace(
        votes_bv=VOTES_NV, plain_b=np.array([1, 0, 1, 2, 2]), vote_sets=None, gaps_bv=None
    )
    table = votes_table(rows, np.arange(5), ballot, VOTES)
    store.commit(0, table.slice(0, 4), VOTES, 8)
    store.commit(1, table.slice(4), VOTES, 8)
    return store


def test_summary_counts(store):
    summary = certify_votes(store, ClaimsConfig(patch=(1, 2, 3))).summary
    assert summary["images"] == 6
    assert summary["images_with_error"] == 1
    assert summary["images_without_label"] == 1
    assert summary["plain_accuracy"]["hits"] == 3
    # The error counts as wrong, the image without a label not at all.
    assert summary["smoothed_accuracy"]["hits"] == 3
    assert summary["smoothed_accuracy"]["of"] == 5
    assert summary["mean_ablation_accuracy"] == approx((8 + 5 + 4 + 0 + 0) / (5 * 8))
    right = {(e["rule"], e["patch_px"]): e["hits"] for e in summary["certified_accuracy"]}
    certified = {
        (e["rule"], e["patch_px"]): e["images_certified"] for e in summary["certified_accuracy"]
    }
    assert right == {
        ("exact", 1): 2,
        ("exact", 2): 1,
        ("exact", 3): 1,
        ("uniform", 1): 2,
        ("uniform", 2): 1,
        ("uniform", 3): 1,
    }
    assert certified["exact", 1] == 4


def test_certificates_dataset(store):
    done = certify_votes(store, ClaimsConfig(patch=(1, 2)))
    table = pq.read_table(done.folders["certificates"])
    assert table.schema.equals(CERTIFICATES)
    assert table.num_rows == 6 * 2 * 2
    rows = {(r["image_id"], r["rule"], r["patch_px"]): r for r in table.to_pylist()}
    assert rows["s/3", "exact", 1]["certified"]  # wrong predictions can be certified too
    assert rows["s/0", "uniform", 2]["margin"] == 8 - 2 * 2 - 1  # class 0 would win a tie
    assert rows["s/5", "exact", 1] == {
        "image_id": "s/5",
        "label": 1,
        "prediction": None,
        "patch_px": 1,
        "threat": "1x1",
        "rule": "exact",
        "top_k": 1,
        "stride": 1,
        "certified": False,
        "margin": None,
        "confidence": None,
        "assumes": None,
        "on_grid": None,
        "tau": None,
    }


def read(done, name):
    return pq.read_table(done.folders[name]).to_pylist()


def test_images_dataset(store):
    """One pixel more touches one vote more: unanimous votes bear 8 - 2 s >= 0, less a tie."""
    done = certify_votes(store, ClaimsConfig(patch=(1,), rule=("exact",)))
    assert pq.read_table(done.folders["images"]).schema.equals(IMAGES)
    rows = {row["image_id"]: row for row in read(done, "images")}
    assert len(rows) == 6
    columns = ("lead", "largest_exact_px", "largest_uniform_px")
    found = {name: tuple(rows[name][column] for column in columns) for name in rows}
    assert found == {
        "s/0": (8, 3, 3),
        "s/1": (2, 1, 1),
        "s/2": (0, 0, 0),
        "s/3": (8, 3, 3),
        "s/4": (8, 3, 3),
        "s/5": (None, None, None),
    }
    assert rows["s/5"]["error"] == "truncated"
    assert rows["s/1"]["plain_prediction"] == 0
    # Of the five labelled images two are right and certified at 1 px, one up to 3 px.
    assert done.summary["largest"] == {
        "of": 5,
        "patch_px": [1, 2, 3, 4],
        "hits": {"exact": [2, 1, 1, 0], "uniform": [2, 1, 1, 0]},
    }


def test_places(store):
    """Of 3 classes the right one is among two unless both others pass it."""
    done = certify_votes(store, ClaimsConfig(patch=(1, 3), top_k=(2,)))
    (one, three) = done.summary["certified_accuracy"]
    assert (one["rule"], one["top_k"], one["patch_px"]) == ("exact", 2, 1)
    rows = {row["image_id"]: row for row in read(done, "certificates") if row["patch_px"] == 1}
    # 8 votes for 1: one lost leaves deficits 7 and 8.
    assert rows["s/0"]["margin"] == 7 + 8 - 1 - 1
    # Five for 0, three for 2, none for 1: 4 - 3 + 1 and 4 - 0 + 1, where one is lost to the patch.
    assert rows["s/1"]["margin"] == 2 + 5 - 1 - 1
    # All for 1 but the label is 2: not even second, as 0 without a vote wins ties.
    assert (rows["s/3"]["margin"], rows["s/3"]["certified"]) == (-2, False)
    assert (rows["s/4"]["margin"], rows["s/4"]["certified"]) == (None, False)  # no label
    assert (one["hits"], one["of"], one["images_certified"]) == (3, 5, 3)
    # Three lost of the second leave 2 against 3 (no deficit), and 2 - 0 + 1 for class 1: evicted.
    assert three["hits"] == 1


def test_detection(store):
    done = certify_votes(store, ClaimsConfig(patch=(1,), rule=("exact",), detect=True))
    assert pq.read_table(done.folders["detection"]).schema.equals(DETECTION)
    rows = {row["image_id"]: row for row in read(done, "detection")}
    columns = ("threat", "stride", "lead", "attack_lead", "kept_lead")
    assert [rows["s/0"][column] for column in columns] == ["1x1", 1, 8, 1 - 7, 7 - 1]
    # 5 for 0 and 3 for 2: 2 comes to 4 against 4; 0 keeps 4 against 4.
    assert [rows["s/1"][column] for column in columns] == ["1x1", 1, 2, 0, 0]
    # 4 for each: 2 comes to 5 against 3.
    assert [rows["s/2"][column] for column in columns] == ["1x1", 1, 0, 2, -2]
    assert [rows["s/5"][column] for column in columns] == ["1x1", 1, None, None, None]
    (curve,) = done.summary["detection"]
    assert curve == {
        "threat": "1x1",
        "stride": 1,
        "of": 5,
        "tau": [1, 2, 3, 4, 5, 6, 7, 8],
        "clean": [2, 2, 1, 1, 1, 1, 1, 1],
        "certified_recovery": [1, 1, 1, 1, 1, 1, 0, 0],
        "certified_detection": [2, 2, 1, 1, 1, 1, 1, 1],
    }
    # What was detected is asked again with every later question.
    more = certify_votes(store, ClaimsConfig(patch=(2,), rule=("exact",)))
    assert more.summary["detection"] == [curve]


def test_a_coarser_stride_is_a_claim_of_its_own(store):
    certify_votes(store, ClaimsConfig(patch=(1,), rule=("exact",)))
    done = certify_votes(store, ClaimsConfig(patch=(1,), rule=("exact",), detect=True), stride=4)
    rows = {(row["image_id"], row["stride"]): row for row in read(done, "certificates")}
    assert len(rows) == 12
    # Of the third image the offsets 0 and 4 vote 2 and 0: a tie, which 0 wins.
    assert (rows["s/2", 4]["prediction"], rows["s/2", 4]["margin"]) == (0, 0 - 0 - 1 - 1)
    # Of the second both vote 0, and one is left against the one rewritten.
    assert (rows["s/1", 4]["margin"], rows["s/1", 1]["margin"]) == (1 - 0 - 1, 4 - 3 - 1)
    assert rows["s/0", 4]["margin"] == 1 - 0 - 1 - 1
    strides = [entry["stride"] for entry in done.summary["certified_accuracy"]]
    assert strides == [1, 4]
    assert done.summary["coarser"] == [
        {
            "stride": 4,
            "ablations": 2,
            "smoothed_accuracy": done.summary["smoothed_accuracy"],
        }
    ]
    assert {row["stride"] for row in read(done, "detection")} == {4}
    # The images are those of the run's own ablations, whatever else was asked.
    assert [row["largest_exact_px"] for row in read(done, "images")] == [3, 1, 0, 3, 3, None]


def test_parts_and_batches_change_nothing(store, monkeypatch):
    claims = ClaimsConfig(patch=(1, "area:2", "2of1"), detect=False)
    whole = certify_votes(store, claims)
    expected = read(whole, "certificates"), read(whole, "images")
    monkeypatch.setattr(module, "_PART_IMAGES", 1)
    monkeypatch.setattr(module, "_BATCH_IMAGES", 1)
    parts = certify_votes(store, claims)
    assert parts.computed  # the second part was not there
    names = sorted(path.name for path in Path(parts.folders["certificates"]).iterdir())
    assert names == ["part-00000.parquet", "part-00001.parquet"]
    assert parts.summary == whole.summary
    found = read(parts, "certificates"), read(parts, "images")
    by_row = [sorted(rows, key=str) for rows in found]
    assert by_row == [sorted(rows, key=str) for rows in expected]
    monkeypatch.setattr(module, "_PART_IMAGES", 99)
    again = certify_votes(store, ClaimsConfig(patch=(2,)))
    names = [path.name for path in Path(again.folders["certificates"]).iterdir()]
    assert names == ["part-00000.parquet"]


def test_results_beside_votes_at_a_relative_path(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    near = VotesStore(tmp_path.name, store.run_id)
    done = certify_votes(near, ClaimsConfig(patch=(1,)))
    assert len(read(done, "images")) == 6
    assert not certify_votes(near, ClaimsConfig(patch=(1,))).computed


def test_ray_tasks_say_what_threads_say(store, monkeypatch, ray_session):
    claims = ClaimsConfig(patch=(1,), detect=True)
    alone = certify_votes(store, claims)
    expected = [sorted(read(alone, name), key=str) for name in alone.folders]
    monkeypatch.setattr(module, "_PART_IMAGES", 1)
    spread = certify_votes(store, claims, spread=Executor().map, threads=1)
    assert spread.summary == alone.summary
    found = [sorted(read(spread, name), key=str) for name in spread.folders]
    assert found == expected
    assert len(list(Path(spread.folders["certificates"]).iterdir())) == 2


def test_what_a_ray_task_raised_is_said_not_what_ray_says_of_it(ray_session):
    def broken(unit: int) -> None:
        raise StoreError(f"unit {unit}: 8 processes died\nover it; run again to resume")

    with raises(JobError) as caught:
        list(Executor().map(broken, [7]))
    assert str(caught.value) == "StoreError: unit 7: 8 processes died over it; run again to resume"


def test_a_question_withdrawn_leaves_no_rows(store):
    done = certify_votes(store, ClaimsConfig(patch=(1,), rule=("exact",), detect=True))
    certify_votes(store, ClaimsConfig(patch=(1,), rule=("exact",)), overwrite=True)
    assert not list(Path(done.folders["detection"]).glob("*.parquet"))


def test_a_stored_prediction_must_be_that_of_its_votes(store, tmp_path):
    file = tmp_path / "votes" / f"run_id={store.run_id}" / "unit-00000.parquet"
    table = pq.read_table(file)
    place = table.schema.get_field_index("prediction")
    wrong = pa.array([1, 2, 0, 1], pa.int32())
    pq.write_table(table.set_column(place, "prediction", wrong), file)
    with raises(StoreError, match="image_id=s/1: the stored prediction is not that of the votes"):
        certify_votes(store, ClaimsConfig(patch=(1,)))


def test_claims_add_up_over_calls(store):
    first = certify_votes(store, ClaimsConfig(patch=(1,)))
    again = certify_votes(store, ClaimsConfig(patch=(1,)))
    assert first.computed
    assert not again.computed
    assert again.summary == first.summary
    more = certify_votes(store, ClaimsConfig(patch=(2,), rule=("exact",)))
    claims = {(e["rule"], e["patch_px"]) for e in more.summary["certified_accuracy"]}
    assert claims == {("exact", 1), ("uniform", 1), ("exact", 2)}
    fewer = certify_votes(store, ClaimsConfig(patch=(2,), rule=("exact",)), overwrite=True)
    assert len(fewer.summary["certified_accuracy"]) == 1


def test_a_torn_summary_is_computed_again(store):
    first = certify_votes(store, ClaimsConfig(patch=(1,)))
    with open(first.summary_path, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(first.summary)[:50])
    again = certify_votes(store, ClaimsConfig(patch=(1,)))
    assert again.computed
    assert again.summary == first.summary


def test_patch_larger_than_the_image(store):
    with raises(ConfigError, match="smaller --patch"):
        certify_votes(store, ClaimsConfig(patch=(9,)))


def test_unfinished_votes_are_refused(store, tmp_path):
    (tmp_path / "votes" / f"run_id={store.run_id}" / "unit-00001.parquet").unlink()
    with raises(StoreError, match="1 of 2 units"):
        certify_votes(store, ClaimsConfig(patch=(1,)))


def test_old_results_are_not_believed_without_votes(store, tmp_path):
    """Certificates of votes that are gone would be nobody's."""
    certify_votes(store, ClaimsConfig(patch=(1,)))
    (tmp_path / "votes" / f"run_id={store.run_id}" / "unit-00001.parquet").unlink()
    with raises(StoreError, match="1 of 2 units"):
        certify_votes(store, ClaimsConfig(patch=(1,)))


def test_deleting_a_run_deletes_what_is_derived_from_it(store, tmp_path):
    certify_votes(store, ClaimsConfig(patch=(1,)))
    store.delete()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_summary_and_certificates_of_different_calls_are_told_apart(store):
    first = certify_votes(store, ClaimsConfig(patch=(1,)))
    file = Path(first.folders["certificates"]) / "part-00000.parquet"
    rows_of_first = file.read_bytes()
    certify_votes(store, ClaimsConfig(patch=(2,)))
    file.write_bytes(rows_of_first)  # as if the slower of two calls had written last
    again = certify_votes(store, ClaimsConfig(patch=(2,)))
    assert again.computed
    assert set(pq.read_table(again.folders["certificates"])["patch_px"].to_pylist()) == {1, 2}


def test_unknown_run(tmp_path):
    with raises(ManifestError, match="no votes"):
        certify_votes(VotesStore(str(tmp_path), "r" + "0" * 16), ClaimsConfig(patch=(1,)))


def test_rows_are_checked_before_they_are_written(store):
    good = next(iter(store.read()))
    with raises(StoreError, match=r"image_id=s/0: breaks the rule: votes of each of 9"):
        check_rows(good, VOTES, 9)
    doubled = pa.concat_tables([good, good])
    with raises(StoreError, match="twice"):
        check_rows(doubled, VOTES, 8)
    torn = good.set_column(
        VOTES.get_field_index("prediction"),
        VOTES.field("prediction"),
        pa.nulls(good.num_rows, pa.int32()),
    )
    with raises(StoreError, match="prediction or error, never both"):
        check_rows(torn, VOTES, 8)


def test_counts_are_ranked_lowest_class_first_on_ties():
    assert ranked_counts(np.array([5, 2, 2, 5, 9])) == [
        {"class": 2, "votes": 2},
        {"class": 5, "votes": 2},
        {"class": 9, "votes": 1},
    ]
