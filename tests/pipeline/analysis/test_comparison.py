"""Paired comparison and classes: by hand, against the summaries, and what is refused."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from models.views.ablations import Ablation
from models.views.family import Patch
from models.views.masks import Masks, Placement
from models.views.threats import Threat
from pipeline.analysis import open_run
from pipeline.analysis.classes import by_class, class_names, columns
from pipeline.analysis.comparison import Paired, compare
from pipeline.analysis.outcomes import PLAIN, SMOOTHED, outcomes_of
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.report.analysis_tables import print_comparison
from pipeline.runs.store import StoreError, VotesStore
from pipeline.scoring.certify import certify_votes
from tests.pipeline.analysis.stored_runs import write_run


def unanimous(classes: list[int]) -> np.ndarray:
    """Votes of images on which every ablation agrees; of -c, four of ten say 0 instead of c."""
    votes = np.repeat(np.abs(classes)[:, None], 10, axis=1)
    for image, label in enumerate(classes):
        if label < 0:
            votes[image, :4] = 0
    return votes


def run(out, classes: list[int], labels: list, model: str, **more):
    run_id = write_run(out, unanimous(classes), labels, model=model, **more)
    certify_votes(VotesStore(str(out), run_id), ClaimsConfig(patch=more.pop("patch", (1, 2))))
    return open_run(out, run_id)


LABELS = [1, 1, 2, 2, 3, 3, None, 1]
FIRST, SECOND = [1, 1, 2, -2, 1, 3, 2, 1], [1, -1, 2, 1, 3, 3, 1, 1]


@pytest.fixture
def pair(tmp_path):
    first = run(tmp_path, FIRST, LABELS, "one", errors=(7,))
    second = run(tmp_path, SECOND, LABELS, "two", errors=(), plain=[1, 1, 1, 1, 1, 1, 1, 1])
    return first, second


def test_by_hand(pair):
    found = compare(*pair)
    assert (found.images, found.unlabelled) == (7, 1)
    assert found.errors == (1, 0)
    assert found.only == (0, 0)
    tables = {str(q.claim.threat) if q.claim else q.what: t for q, t in found.tables.items()
              if q.claim is None or q.claim.rule == "exact"}  # fmt: skip
    # First: all but images 4 (wrong) and 7 (error). Second: all but image 3.
    assert tables["smoothed"] == Paired(both=4, only_first=1, only_second=2, neither=0)
    # The second says 1 of the whole images.
    assert tables["plain"] == Paired(both=2, only_first=3, only_second=1, neither=1)
    # Uncertified on top: image 3 of the first, image 1 of the second.
    assert tables["1x1"] == tables["2x2"] == Paired(3, 1, 2, 1)
    assert list(found.tables)[:2] == [PLAIN, SMOOTHED]
    assert found.notes == ()
    back = compare(*reversed(pair))
    assert back.tables[SMOOTHED] == Paired(4, 2, 1, 0)


def test_every_share_is_that_of_the_summaries(answered):
    runs = [open_run(answered.out, run_id) for run_id in answered[1:]]
    found = compare(*runs)
    assert found.errors == (1, 2)
    assert len(found.tables) == 2 + 2 * 3
    for side, one in zip(("first", "second"), runs, strict=True):
        entries = {(e["threat"], e["rule"]): e for e in one.summary["certified_accuracy"]}
        for question, table in found.tables.items():
            share, claim = getattr(table, side), question.claim
            entry = (
                one.summary[f"{question.what}_accuracy"]
                if claim is None
                else entries[str(claim.threat), claim.rule]
            )
            assert (share.hits, share.of) == (entry["hits"], entry["of"])
            assert share.interval() == (entry["low"], entry["high"])


def test_top_k_strides_and_several_labels_agree_with_the_summary(tmp_path):
    data = {"kind": "tar", "fingerprint": "f00d", "several_labels": True}
    labels = [[1], [1, 2], [3], [2], [], [3, 0], [1], [1]]
    ids = []
    for model, classes in (("one", FIRST), ("two", SECOND)):
        run_id = write_run(tmp_path, unanimous(classes), labels, model=model, data=data)
        store = VotesStore(str(tmp_path), run_id)
        certify_votes(store, ClaimsConfig(patch=(1, "1x3"), top_k=(1, 2)))
        certify_votes(store, ClaimsConfig(patch=(1,)), stride=5)
        ids.append(run_id)
    runs = [open_run(tmp_path, run_id) for run_id in ids]
    found = compare(*runs)
    claims = [question.claim for question in found.tables if question.claim]
    assert {claim.top_k for claim in claims} == {1, 2}
    assert {claim.stride for claim in claims} == {None, 5}
    for claim, table in ((q.claim, t) for q, t in found.tables.items() if q.claim):
        wanted = (str(claim.threat), claim.rule, claim.top_k, claim.stride or 1)
        for side, one in zip((table.first, table.second), runs, strict=True):
            (entry,) = (
                entry
                for entry in one.summary["certified_accuracy"]
                if (entry["threat"], entry["rule"], entry["top_k"], entry["stride"]) == wanted
            )
            assert (side.hits, side.of) == (entry["hits"], entry["of"])


def test_runs_of_other_strides_have_questions_in_common(tmp_path):
    first = run(tmp_path, FIRST, LABELS, "one")
    coarse = Ablation(kind="column", size=2, stride=2, height=10, width=10)
    run_id = write_run(tmp_path, unanimous(SECOND)[:, ::2], LABELS, ablation=coarse)
    certify_votes(VotesStore(str(tmp_path), run_id), ClaimsConfig(patch=(2,), rule=("exact",)))
    found = compare(first, open_run(tmp_path, run_id))
    assert [str(q.claim.threat) for q in found.tables if q.claim] == ["2x2"]


def test_other_images_are_refused_unless_intersected(tmp_path):
    ids = [f"x/{i}" for i in range(8)]
    first = run(tmp_path, FIRST, LABELS, "one", ids=ids)
    second = run(tmp_path, SECOND[2:], LABELS[2:], "two", ids=ids[2:])
    with pytest.raises(ConfigError, match=r"2 only in .*such as x/0.*the 6 that both have"):
        compare(first, second)
    found = compare(first, second, intersect=True)
    assert (found.images, found.only) == (5, (2, 0))
    assert found.tables[SMOOTHED] == Paired(3, 1, 1, 0)
    third = run(tmp_path, SECOND, LABELS, "three")
    for intersect in (False, True):
        with pytest.raises(ConfigError, match="they share none"):
            compare(first, third, intersect=intersect)


def test_shuffled_images_are_matched_by_their_ids(tmp_path):
    ids = [f"x/{i}" for i in range(8)]
    first = run(tmp_path, FIRST, LABELS, "one", ids=ids)
    order = [3, 1, 7, 0, 2, 6, 5, 4]
    shuffled = [[of[i] for i in order] for of in (SECOND, LABELS, ids)]
    second = run(tmp_path, shuffled[0], shuffled[1], "two", ids=shuffled[2])
    straight = run(tmp_path, SECOND, LABELS, "three", ids=ids)
    assert compare(first, second).tables == compare(first, straight).tables


def test_other_labels_are_refused(tmp_path):
    first = run(tmp_path, FIRST, LABELS, "one")
    second = run(tmp_path, SECOND, [0, None, *LABELS[2:]], "two")
    said = r"2 images have other labels .*shard-000/000 \(\[1\] in .* and \[0\] in"
    for intersect in (False, True):
        with pytest.raises(ConfigError, match=said):
            compare(first, second, intersect=intersect)
    with pytest.raises(ConfigError, match="two different runs"):
        compare(first, first)


def test_notes(tmp_path):
    first = run(tmp_path, FIRST, LABELS, "one")
    bare = open_run(tmp_path, write_run(tmp_path, unanimous(SECOND), LABELS, model="bare"))
    found = compare(first, bare)
    assert list(found.tables) == [PLAIN, SMOOTHED]
    assert "no certificate in common" in found.notes[0]
    large = Ablation(kind="column", size=4, stride=2, height=20, width=20)
    data = {"kind": "tar", "fingerprint": "cafe", "several_labels": False}
    other = run(tmp_path, SECOND, LABELS, "two", ablation=large, data=data)
    found = compare(first, other)
    assert list(found.tables) == [PLAIN, SMOOTHED]
    assert ["fingerprints differ" in note for note in found.notes] == [True, False]
    assert "10x10 px of 1x1 model px and 20x20 px" in found.notes[1]


def test_certificates_that_do_not_cover_the_votes_are_an_error(pair):
    first, second = pair
    (path,) = Path(first.out).glob(f"certificates/run_id={first.run_id}/*.parquet")
    pq.write_table(pq.read_table(path).slice(3), path)
    with pytest.raises(StoreError, match=r"5 certificates against \dx\d px for 8 images"):
        compare(first, second)


def test_classes_by_hand(pair):
    first, _ = pair
    outcomes = outcomes_of(first)
    rows = {row.label: row for row in by_class(outcomes)}
    questions = columns(outcomes, (Threat.square(2),))
    assert {label: (row.images, row.errors) for label, row in rows.items()} == {
        1: (3, 1), 2: (2, 0), 3: (2, 0)}  # fmt: skip
    hits = {label: [row.shares[q].hits for q in questions] for label, row in rows.items()}
    assert hits == {1: [2, 2, 2], 2: [2, 2, 1], 3: [1, 1, 1]}
    assert rows[1].to_dict()["questions"][0]["of"] == 3
    assert class_names(first.manifest) == ()


def test_classes_add_up_to_the_summary(answered):
    one = open_run(answered.out, answered.first)
    rows = by_class(outcomes_of(one))
    assert sum(row.images for row in rows) == one.summary["plain_accuracy"]["of"]
    for entry in one.summary["certified_accuracy"]:
        hits = sum(
            share.hits
            for row in rows
            for question, share in row.shares.items()
            if question.claim
            and (str(question.claim.threat), question.claim.rule)
            == (entry["threat"], entry["rule"])
        )
        assert hits == entry["hits"]


def test_an_image_of_several_classes_counts_in_each(tmp_path):
    data = {"kind": "tar", "fingerprint": "f00d", "several_labels": True}
    run_id = write_run(tmp_path, unanimous([1, 3]), [[1, 2], []], data=data)
    rows = by_class(outcomes_of(open_run(tmp_path, run_id)))
    assert [(row.label, row.images, row.shares[SMOOTHED].hits) for row in rows] == [
        (1, 1, 1),
        (2, 1, 1),
    ]


def test_columns_that_are_not_stored(pair):
    outcomes = outcomes_of(pair[0])
    assert len(columns(outcomes)) == 4
    assert {q.claim.rule for q in columns(outcomes, rule="uniform")[2:]} == {"uniform"}
    with pytest.raises(ConfigError, match="no exact certificate against 5x5 px"):
        columns(outcomes, (Threat.square(5),))
    with pytest.raises(ConfigError, match="no randomized certificate"):
        columns(outcomes, rule="randomized")


MASKS = Masks.placed(
    height=10,
    width=10,
    placements=[(Placement.covering(10, 2, 2), Placement.covering(10, 2, 2))],
    pairs=True,
    covers=[Patch.square(2)],
)


def pair_of(first: int, second: int) -> int:
    """Number of the view that hides two masks."""
    return int(np.flatnonzero((MASKS.first_v == first) & (MASKS.second_v == second))[0])


@pytest.fixture
def masked(tmp_path, pair):
    """Beside the bands: pairs of masks; one pair dissents on image 0, two of them on image 4."""
    votes = np.repeat([[1], [1], [2], [2], [3], [3], [1], [2]], len(MASKS), axis=1)
    votes[0, pair_of(0, 3)] = 2
    votes[4, [pair_of(0, 3), pair_of(1, 2)]] = 0
    run_id = write_run(tmp_path, votes, LABELS, ablation=MASKS, plain=[1, 1, 2, 2, 1, 3, 1, 2])
    certify_votes(VotesStore(str(tmp_path), run_id), ClaimsConfig())
    return open_run(tmp_path, run_id)


def test_bands_and_masks_are_compared_each_by_its_own_rule(pair, masked):
    found = compare(pair[0], masked)
    tables = {(q.what, q.claim and q.claim.rule, q.against and q.against.rule): t
              for q, t in found.tables.items()}  # fmt: skip
    both = "exact", "two-location"
    assert set(tables) == {("plain", None, None), ("clean", *both), ("certified", *both)}
    # Masks 1 and 2 are witnesses on image 0; on image 4 none is, and the plain prediction is wrong.
    assert tables["clean", *both] == Paired(both=5, only_first=0, only_second=0, neither=2)
    # Bands certify 0, 1, 2 and 5, masks 1, 2, 3 and 5.
    assert tables["certified", *both] == Paired(both=3, only_first=1, only_second=1, neither=2)
    (entry,) = [q.to_dict() for q in found.tables if q.what == "certified"]
    assert (entry["assumes"], entry["against"]["assumes"]) == (None, "2x2")
    console = Console(file=io.StringIO(), width=80)
    print_comparison(found, console)
    said = " ".join(console.file.getvalue().split())
    assert "two-location" in said
    assert "smoothed" not in said
    back = compare(masked, pair[0])
    assert list(back.tables.values())[-1] == Paired(both=3, only_first=1, only_second=1, neither=2)


def test_two_mask_runs_are_compared_by_the_same_rule(pair, masked, tmp_path):
    votes = np.repeat([[1], [1], [2], [2], [3], [3], [1], [1]], len(MASKS), axis=1)
    other = write_run(tmp_path, votes, LABELS, ablation=MASKS, model="other")
    certify_votes(VotesStore(str(tmp_path), other), ClaimsConfig())
    found = compare(masked, open_run(tmp_path, other))
    assert {q.claim.rule for q in found.tables if q.claim} == {"one-location", "two-location"}
    assert all(q.against is None for q in found.tables)
    # Three dissenters, and all views of the last image.
    assert found.votes.ablations - found.votes.equal == 3 + len(MASKS)
    assert found.votes.predictions_differ is None


def test_classes_of_masks_show_the_answer_of_the_rule(masked):
    outcomes = outcomes_of(masked)
    questions = columns(outcomes)
    assert [(q.what, q.claim and q.claim.rule) for q in questions] == [
        ("plain", None),
        ("clean", "two-location"),
        ("certified", "two-location"),
    ]
    hits = {row.label: [row.shares[q].hits for q in questions] for row in by_class(outcomes)}
    assert hits == {1: [2, 2, 1], 2: [2, 2, 2], 3: [1, 1, 1]}
    answers = columns(outcomes, rule="one-location")[1:]
    hits = {row.label: [row.shares[q].hits for q in answers] for row in by_class(outcomes)}
    # What is answered is certified.
    assert hits == {1: [2, 2], 2: [2, 2], 3: [2, 2]}
