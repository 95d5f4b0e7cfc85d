"""Votes to certificates and summary, against figures worked out by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pytest import approx, fixture, raises

from pipeline.ballots import ranked_counts, votes_table
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.manifest import Manifest, ManifestError
from pipeline.reduction import certify_votes
from pipeline.schema import CERTIFICATES, VOTES
from pipeline.store import StoreError, VotesStore, check_rows

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
        identity=IDENTITY, execution={"units": 2, "images": 6, "data": "x", "unit_images": 4}
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
    table = pq.read_table(done.certificates_path)
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
        "rule": "exact",
        "certified": False,
        "margin": None,
        "confidence": None,
    }


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
    with open(first.certificates_path, "rb") as stream:
        rows_of_first = stream.read()
    certify_votes(store, ClaimsConfig(patch=(2,)))
    with open(first.certificates_path, "wb") as stream:
        stream.write(rows_of_first)  # as if the slower of two calls had written last
    again = certify_votes(store, ClaimsConfig(patch=(2,)))
    assert again.computed
    assert set(pq.read_table(again.certificates_path)["patch_px"].to_pylist()) == {1, 2}


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
