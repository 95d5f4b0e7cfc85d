"""One batch judged: several right classes, restricted classes, sets of votes, only errors."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
from pytest import mark, raises

from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.certificates import Threat, VoteBatch, smoothed_predictions, top_k_margins
from pipeline.certificates.one_location import one_location
from pipeline.certificates.rule import ALERT
from pipeline.runs.manifest import Manifest
from pipeline.runs.rows import votes_table
from pipeline.runs.store import StoreError
from pipeline.scoring.claims import Claim, Claims
from pipeline.scoring.score import score_votes

SHAPE = {"kind": "column", "size": 1, "stride": 1, "height": 8, "width": 8}
TOP_2 = Claim("exact", Threat.square(1), 2, 1)


def manifest_of(num_classes=4, classes=None, theta=None, labels=False, gaps=False):
    identity = {
        "model": {"name": "vit", "num_classes": num_classes},
        "ablation": SHAPE,
        "data": {"several_labels": labels},
    }
    if classes is not None:
        identity["model"]["classes"] = classes
    if theta is not None:
        identity["voting"] = {"theta": theta}
    if gaps:
        identity["voting"] = {"theta": None, "gaps": True}
    return Manifest(identity=identity)


def rows_of(manifest, votes, labels, errors=0, gaps=None):
    """Rows of the votes dataset; the last ``errors`` of them could not be read."""
    count = len(votes) + errors
    several = manifest.data.several_labels
    rows = pa.table(
        {
            "image_id": [f"{i}" for i in range(count)],
            "label": pa.array([None] * count if several else labels, pa.int32()),
            "labels": pa.array(labels if several else [None] * count, pa.list_(pa.int32())),
            "error": [None] * len(votes) + ["torn"] * errors,
        }
    )
    sets = manifest.defense.voting.theta is not None
    ballot = SimpleNamespace(
        votes_bv=None if sets else votes,
        vote_sets=votes if sets else None,
        plain_b=np.zeros(len(votes), int),
        gaps_bv=gaps,
    )
    lowest = (manifest.defense.network.classes or (0,))[0]
    readable = np.arange(len(votes))
    return votes_table(rows, readable, ballot, manifest.schema, lowest_class=lowest)


def judged(manifest, votes, labels, *claims, errors=0, gaps=None):
    table = rows_of(manifest, votes, labels, errors, gaps)
    return score_votes(table, manifest, Claims(frozenset(claims)))


def expected_places(votes, num_classes, classes, slots=None):
    return top_k_margins(
        votes, Ablation(**SHAPE), Patch(1, 1), num_classes, k=2, classes_n=classes, slots=slots
    ).tolist()


def test_of_several_right_classes_one_must_stay():
    votes = np.array([[1, 1, 1, 1, 1, 2, 2, 0], [3, 3, 3, 3, 2, 2, 1, 1]])
    found = judged(manifest_of(labels=True), votes, [[0, 1], [1, 2]], TOP_2)
    first, second = (expected_places(votes, 4, np.array(right)) for right in ([0, 1], [1, 2]))
    margins = found.certificates["margin"].to_pylist()
    assert margins == np.maximum(first, second).tolist()
    assert found.totals.certified_right[TOP_2] == sum(margin >= 0 for margin in margins)


def test_classes_that_cannot_be_voted_for_are_no_rivals():
    """Of 1000 classes three vote: places and predictions are counted among these."""
    classes = [7, 40, 900]
    votes = np.array([[7, 7, 7, 7, 7, 40, 40, 40], [900] * 8, [40] * 8])
    manifest = manifest_of(1000, classes)
    single = Claim("exact", Threat.square(1), 1, 1)
    coarse = Claim("exact", Threat.square(1), 1, 4)
    found = judged(manifest, votes, [40, 900, 7], TOP_2, single, coarse)
    small = np.searchsorted(classes, votes)
    rows = {(r["top_k"], r["stride"], r["image_id"]): r for r in found.certificates.to_pylist()}
    places = [rows[2, 1, f"{i}"]["margin"] for i in range(3)]
    assert places == expected_places(small, 3, np.array([1, 2, 0]))
    assert [rows[1, 1, f"{i}"]["margin"] for i in range(3)] == [5 - 3 - 1 - 1, 8 - 2 - 1, 8 - 2 - 1]
    assert [rows[1, 4, f"{i}"]["prediction"] for i in range(3)] == [7, 900, 40]
    assert found.images["prediction"].to_pylist() == [7, 900, 40]


def test_a_label_that_cannot_be_voted_for_stays_nowhere():
    found = judged(manifest_of(1000, [7, 40, 900]), np.array([[7] * 8]), [8], TOP_2)
    assert found.certificates["margin"].to_pylist() == [None]
    assert found.certificates["certified"].to_pylist() == [False]


@mark.parametrize(("theta", "slots"), [(0.4, 2), (0.3, 3), (0.5, 2), (0.2, 5)])
def test_the_attacker_may_vote_for_as_many_classes_as_theta_allows(theta, slots):
    """However few any stored set has."""
    sets = np.full((1, 8, 1), 2)
    sets[0, :3, 0] = [0, 1, 3]
    found = judged(manifest_of(theta=theta), sets, [2], TOP_2)
    one = expected_places(sets, 4, np.array([2]))
    assert found.certificates["margin"].to_pylist() == expected_places(
        sets, 4, np.array([2]), slots=slots
    )
    assert found.certificates["margin"].to_pylist() != one


def test_views_of_a_coarser_stride_speak_by_their_own_gaps():
    rng = np.random.default_rng(0)
    votes = np.where(rng.random((40, 8)) < 0.8, 2, rng.integers(0, 4, (40, 8)))
    gaps = rng.integers(1, 4, (40, 8)).astype(np.float16)
    threat = Threat.square(1)
    claims = {
        stride: Claim("one-location", threat, 1, stride, assumes=threat, tau=1.0)
        for stride in (1, 2)
    }
    manifest = manifest_of(gaps=True)
    rows = judged(manifest, votes, [2] * 40, *claims.values(), gaps=gaps).certificates.to_pylist()
    for stride in claims:
        part, views = np.s_[:, ::stride], Ablation(**SHAPE | {"stride": stride})
        batch = VoteBatch(votes[part], views, 4, gaps_nv=gaps[part])
        expected = one_location(batch, threat, 1.0)
        found = [row for row in rows if row["stride"] == stride]
        assert [row["margin"] for row in found] == expected.margins_n.tolist()
        answers = [ALERT if row["prediction"] is None else row["prediction"] for row in found]
        assert answers == expected.answers_n.tolist()
        assert len({*answers}) > 1


def test_a_batch_of_nothing_but_errors():
    votes = np.zeros((0, 8), int)
    found = judged(manifest_of(), votes, [1, 2], TOP_2, TOP_2._replace(stride=4), errors=2)
    assert found.certificates["certified"].to_pylist() == [False] * 4
    assert found.images["largest_exact_px"].to_pylist() == [None, None]
    assert (found.totals.images, found.totals.errors, found.totals.unlabelled) == (2, 2, 0)
    assert found.detection.num_rows == 0


def test_a_missing_vote_is_an_error():
    manifest = manifest_of()
    table = rows_of(manifest, np.zeros((2, 8), int), [0, 0])
    holes = pa.array([[0] * 8, [0] * 7 + [None]], table["votes"].type)
    table = table.set_column(table.schema.get_field_index("votes"), "votes", holes)
    with raises(StoreError, match="votes of some views are missing"):
        score_votes(table, manifest, Claims())


def test_rows_are_spread_over_errors():
    votes = np.random.default_rng(0).integers(0, 4, (5, 8))
    found = judged(manifest_of(), votes, [0] * 7, TOP_2._replace(top_k=1), errors=2)
    assert found.images["prediction"].to_pylist() == [
        *smoothed_predictions(votes, 4).tolist(),
        None,
        None,
    ]
    assert found.images["error"].to_pylist() == [None] * 5 + ["torn"] * 2
    assert found.certificates["margin"].null_count == 2
