import json
import pickle
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.views.ablations import Ablation
from models.views.threats import Threat
from pipeline.analysis import open_run
from pipeline.analysis.classes import columns
from pipeline.analysis.comparison import compare
from pipeline.analysis.outcomes import PLAIN, outcomes_of
from pipeline.attack.config import AttackConfig, WitnessConfig
from pipeline.attack.rerun import load_rerun
from pipeline.attack.witness import replay_witnesses
from pipeline.certificates.rules import margins
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.interchange.config import ImportConfig
from pipeline.interchange.importing import import_votes
from pipeline.runs.manifest import AS_GIVEN
from pipeline.runs.store import VotesStore
from pipeline.scoring.certify import certify_votes
from pipeline.tracking.points import points_of
from tests.conftest import REPOSITORY
from tests.pipeline.interchange.votes_made_up import (
    CLASSES,
    COLUMNS,
    SIDE,
    VIEWS,
    wavering,
    write_npz,
    write_parquet,
)

sys.path.append(str(REPOSITORY / "tests/pipeline/questions"))
from tests.pipeline.analysis.stored_runs import write_run


def summary_of(out, run_id, **asked) -> dict:
    claims = ClaimsConfig(patch=(1, 2), **asked)
    return certify_votes(VotesStore(str(out), run_id), claims).summary


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    votes=hnp.arrays(
        st.sampled_from([np.uint8, np.int32, np.int64, np.uint64]),
        st.tuples(st.integers(1, 6), st.just(VIEWS)),
        elements=st.integers(0, CLASSES - 1),
    ),
    data=st.data(),
)
def test_votes_come_back_as_they_were_given(votes, data, tmp_path_factory):
    count = len(votes)
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
    ids = data.draw(st.lists(text, min_size=count, max_size=count, unique=True))
    classes = st.lists(st.integers(-1, CLASSES - 1), min_size=count, max_size=count)
    labels, plain = data.draw(classes), np.maximum(data.draw(classes), 0)
    folder = tmp_path_factory.mktemp("given")
    as_npz = write_npz(folder / "a.npz", votes=votes, labels=labels, image_ids=ids, plain=plain)
    as_parquet = write_parquet(
        folder / "b.parquet",
        image_id=ids,
        label=pa.array([None if label < 0 else label for label in labels], pa.int64()),
        votes=votes.tolist(),
        plain_prediction=plain,
    )
    done = import_votes([as_npz], COLUMNS, str(folder / "out"))
    assert done.computed
    assert (done.images, done.errors) == (count, 0)
    again = import_votes([as_parquet], COLUMNS, str(folder / "out"))
    assert (again.run_id, again.computed) == (done.run_id, False)
    stored = open_run(folder / "out").table("votes").to_pydict()
    assert stored["image_id"] == ids
    assert stored["votes"] == votes.tolist()
    assert stored["label"] == [None if label < 0 else label for label in labels]
    assert stored["plain_prediction"] == plain.tolist()
    assert stored["prediction"] == [
        int(np.bincount(row.astype(int), minlength=CLASSES).argmax()) for row in votes
    ]


@pytest.mark.parametrize(
    ("ablation", "flags"),
    [
        (
            Ablation(kind="column", size=3, stride=5, height=8, width=16, pixel_scale=7),
            {
                "views": "column",
                "size": 3,
                "stride": 5,
                "image_size": "8x16",
                "model_size": "56x112",
            },
        ),
        (
            Ablation(kind="row", size=2, stride=1, height=6, width=9),
            {"views": "row", "size": 2, "image_size": "6x9"},
        ),
        (
            Ablation(kind="block", size=3, stride=2, height=8, width=8),
            {"views": "block", "size": 3, "stride": 2, "image_size": "8"},
        ),
        (
            Ablation(kind="column", size=3, stride=1, height=20, width=20, random=9, seed=4),
            {
                "views": "column",
                "size": 3,
                "positions": "random:9",
                "seed": 4,
                "image_size": "20",
            },
        ),
    ],
    ids=["column", "row", "block", "random"],
)
@pytest.mark.parametrize("restricted", [None, (1, 3, 4)], ids=["all", "some"])
def test_certificates_are_those_of_the_run_that_voted(ablation, flags, restricted, tmp_path):
    votes, labels = wavering(40, len(ablation), 3 if restricted else CLASSES)
    if restricted:
        votes, labels = np.array(restricted)[votes], np.array(restricted)[labels]
    ids = [f"image-{number}" for number in range(40)]
    plain = np.roll(labels, 1)
    out = tmp_path / "out"
    original = write_run(
        out,
        votes,
        labels.tolist(),
        ids=ids,
        ablation=ablation,
        classes=CLASSES,
        restricted=restricted,
        plain=plain.tolist(),
    )
    file = write_npz(tmp_path / "v.npz", votes=votes, labels=labels, image_ids=ids, plain=plain)
    config = ImportConfig(
        num_classes=CLASSES, classes=restricted and ",".join(map(str, restricted)), **flags
    )
    imported = import_votes([file], config, str(out)).run_id
    assert open_run(out, imported).ablation == ablation
    of_both = []
    for run_id in (original, imported):
        summary = summary_of(out, run_id, top_k=(1, 2), rule=("exact",), detect=True)
        summary = summary_of(out, run_id)
        own = ("run_id", "basis", "votes_sha256", "sha256")
        facts = {name: value for name, value in summary.items() if name not in own}
        tables = [
            open_run(out, run_id).table(name).drop_columns("run_id")
            for name in ("certificates", "images", "detection")
        ]
        of_both.append((facts, tables))
    assert of_both[0] == of_both[1]
    assert {c["rule"] for c in of_both[0][0]["certified_accuracy"]} == {"exact", "uniform"}
    found = compare(open_run(out, original), open_run(out, imported))
    assert all(paired.only_first == paired.only_second == 0 for paired in found.tables.values())
    assert any(AS_GIVEN in note for note in found.notes)
    for rule in ("exact", "uniform"):
        numbered = np.searchsorted(restricted, votes) if restricted else votes
        count = len(restricted) if restricted else CLASSES
        expected = margins(rule, numbered, ablation, Threat.square(2), count)
        assert open_run(out, imported).margins(rule, 2).tolist() == expected.tolist()


def test_a_manifest_says_where_votes_are_from_and_what_nobody_vouches_for(tmp_path):
    votes, labels = wavering(600)
    files = [
        write_npz(tmp_path / f"part-{n}.npz", votes=votes[part], labels=labels[part])
        for n, part in ((2, slice(0, 300)), (10, slice(300, 600)))
    ]
    out = tmp_path / "out"
    # Files of a pattern are taken in natural order, and units cut across them.
    done = import_votes([str(tmp_path / "part-*.npz")], COLUMNS, str(out))
    manifest = open_run(out).manifest
    assert manifest.imported
    assert not manifest.plain_known
    assert manifest.run_id == done.run_id
    assert [file["path"] for file in manifest.execution.files] == files
    assert all(len(file["sha256"]) == 64 for file in manifest.execution.files)
    assert manifest.execution.imported_by.startswith("patchcert ")
    assert manifest.defense.network.weights_sha256 == "unknown"
    assert manifest.execution.units == 3
    run = open_run(out)
    assert run.votes.ids.tolist() == [
        *(f"part-2/{row}" for row in range(300)),
        *(f"part-10/{row}" for row in range(300)),
    ]
    assert (run.votes.votes == votes).all()
    # Another meaning of the same votes is another run, and so is another name.
    for other in (replace(COLUMNS, size=3), replace(COLUMNS, model="theirs")):
        assert import_votes(files, other, str(out)).run_id != done.run_id


def test_what_the_network_says_of_the_whole_image_may_be_unknown(tmp_path):
    votes, labels = wavering(20)
    out = tmp_path / "out"
    file = write_npz(tmp_path / "v.npz", votes=votes, labels=labels)
    run_id = import_votes([file], COLUMNS, str(out)).run_id
    summary = summary_of(out, run_id)
    assert summary["plain_accuracy"]["value"] is None
    assert summary["smoothed_accuracy"]["of"] == 20
    assert summary["basis"] == AS_GIVEN
    logged = {point.name: point.value for point in points_of(summary)}
    assert "plain_accuracy" not in logged
    assert None not in logged.values()
    outcomes = outcomes_of(open_run(out))
    assert PLAIN not in outcomes.right
    assert PLAIN not in columns(outcomes)


def test_errors_unknown_labels_and_several_labels(tmp_path):
    votes, _ = wavering(4)
    votes = np.where([[True], [False], [True], [True]], votes, -1)
    errors = ["", "not a picture", "", ""]
    several = [[1, -1], [2, 3], [-1, -1], [4, 0]]
    lists = [[1], [2, 3], [], [4, 0]]
    ids = list("abcd")
    plain = [0, -1, 2, 3]
    given = {"votes": votes, "image_ids": ids, "errors": errors, "plain": plain}
    as_npz = write_npz(tmp_path / "v.npz", labels=several, **given)
    as_parquet = write_parquet(
        tmp_path / "v.parquet",
        image_id=ids,
        label=pa.nulls(4, pa.int32()),
        labels=lists,
        votes=[None if error else row.tolist() for row, error in zip(votes, errors, strict=True)],
        error=[error or None for error in errors],
        plain_prediction=[0, None, 2, 3],
    )
    done = import_votes([as_npz], COLUMNS, str(tmp_path / "out"))
    assert import_votes([as_parquet], COLUMNS, str(tmp_path / "out")).run_id == done.run_id
    assert (done.images, done.errors) == (4, 1)
    rows = open_run(tmp_path / "out").table("votes").to_pylist()
    assert [row["labels"] for row in rows] == lists
    assert [row["error"] for row in rows] == [error or None for error in errors]
    assert rows[1]["votes"] is rows[1]["plain_prediction"] is rows[1]["prediction"] is None
    summary = summary_of(tmp_path / "out", done.run_id)
    assert (summary["images_with_error"], summary["images_without_label"]) == (1, 1)
    assert summary["plain_accuracy"]["of"] == 3


def test_an_import_that_was_cut_is_finished_by_the_next(tmp_path):
    votes, labels = wavering(600)
    file = write_npz(tmp_path / "v.npz", votes=votes, labels=labels)
    store = VotesStore(
        str(tmp_path / "out"), import_votes([file], COLUMNS, str(tmp_path / "out")).run_id
    )
    whole = open_run(tmp_path / "out").table("votes")
    manifest = store.manifest()
    facts = replace(manifest.execution, error_images=None)
    store.write_manifest(replace(manifest, execution=facts))
    Path(store.folder, "unit-00001.parquet").unlink()
    assert import_votes([file], COLUMNS, str(tmp_path / "out")).computed
    assert open_run(tmp_path / "out").table("votes").equals(whole)
    assert not import_votes([file], COLUMNS, str(tmp_path / "out")).computed


def test_what_needs_weights_refuses_and_what_needs_votes_does_not(tmp_path):
    votes, labels = wavering(30)
    file = write_npz(tmp_path / "v.npz", votes=votes, labels=labels)
    run_id = import_votes([file], COLUMNS, str(tmp_path)).run_id
    with pytest.raises(ConfigError, match=r"was imported.*without the weights.*patchcert witness"):
        load_rerun(open_run(tmp_path).manifest, AttackConfig(patch=2))
    replayed = replay_witnesses(VotesStore(str(tmp_path), run_id), WitnessConfig(patch=2))
    assert replayed.images == 30
    assert not replayed.failures


VOTES, LABELS = wavering(3)


def _changed(array, at, value):
    changed = array.copy()
    changed[at] = value
    return changed


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"votes": VOTES}, "it has no array 'labels'"),
        (
            {"votes": VOTES[:, :4], "labels": LABELS},
            r"4 votes an image.*are 8; 4 would be --stride 2$",
        ),
        ({"votes": VOTES[:, :1], "labels": LABELS}, r"--stride 8"),
        ({"votes": VOTES, "labels": LABELS[:2]}, r"2 labels for votes of 3 images"),
        (
            {"votes": _changed(VOTES, (1, 2), CLASSES), "labels": LABELS},
            r"image v/1, ablation 2: vote 5: classes run from 0 to 4.*--num-classes",
        ),
        (
            {"votes": _changed(VOTES, (2, 7), -1), "labels": LABELS},
            r"image v/2, ablation 7: vote -1",
        ),
        (
            {"votes": VOTES, "labels": _changed(LABELS, 1, CLASSES)},
            r"image v/1: label 5.*-1 is unknown",
        ),
        ({"votes": VOTES, "labels": _changed(LABELS, 1, -2)}, r"image v/1: label -2"),
        ({"votes": VOTES, "labels": np.full(3, 2**64 - 1, np.uint64)}, "this is no class"),
        ({"votes": VOTES, "labels": LABELS, "plain": [0, 1, 9]}, r"image v/2: plain prediction 9"),
        (
            {"votes": VOTES, "labels": LABELS, "plain": [0, 1, -1]},
            r"image v/2: plain prediction -1",
        ),
        (
            {"votes": VOTES, "labels": LABELS, "image_ids": list("aba")},
            r"image a: its id occurs twice",
        ),
        ({"votes": VOTES, "labels": LABELS, "image_ids": ["a", "", "b"]}, r"an image id is empty"),
        (
            {"votes": VOTES, "labels": LABELS, "image_ids": ["a", "b\ud800", "c"]},
            r"image 1: its image id 'b\\ud800' cannot be written as UTF-8",
        ),
        (
            {"votes": [[-1] * 8] * 3, "labels": LABELS, "errors": ["x", "\udfff", "y"]},
            r"image 1: its error '\\udfff' cannot be written",
        ),
        (
            {"votes": VOTES, "labels": LABELS, "image_ids": [1, 2, 3]},
            r"image_ids of shape \(3,\).*text",
        ),
        (
            {"votes": VOTES, "labels": LABELS, "errors": ["", "bad", ""]},
            r"image v/1: it has an error and votes",
        ),
        (
            {"votes": VOTES.astype(float), "labels": LABELS},
            r"votes of shape \(3, 8\) and type float64.*argmax",
        ),
        ({"votes": VOTES > 1, "labels": LABELS}, r"type bool: they must be integers"),
        ({"votes": VOTES[0], "labels": LABELS}, r"shape \(8,\).*2 dimensions"),
        (
            {"votes": VOTES.astype(object), "labels": LABELS},
            r"array 'votes' cannot be read \(Python objects\)",
        ),
        ({"votes": VOTES, "labels": LABELS, "gaps": VOTES}, r"array 'gaps' means nothing here"),
        ({"votes": VOTES[:0], "labels": LABELS[:0]}, r"there is no image to import"),
        ({"votes": VOTES, "labels": LABELS, "spec": "{"}, r"its spec cannot be read"),
        ({"votes": VOTES, "labels": LABELS, "spec": 3}, r"its spec is no text"),
    ],
)
def test_a_mistake_in_an_npz_is_named_and_nothing_is_written(arrays, message, tmp_path):
    file = write_npz(tmp_path / "v.npz", **arrays)
    with pytest.raises(ConfigError, match=message) as raised:
        import_votes([file], COLUMNS, str(tmp_path / "out"))
    assert "v.npz" in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"votes": VOTES.tolist()}, r"it has the columns votes; votes .* and label"),
        (
            {"votes": [[0] * 8, [0] * 8, [0] * 7], "label": LABELS},
            r"row 2: 7 votes where others have 8",
        ),
        ({"votes": [[0] * 8, None, [0] * 8], "label": LABELS}, r"image v/1, ablation 0: vote -1"),
        (
            {"votes": [[0] * 7 + [None]] * 3, "label": LABELS},
            r"column votes has a null inside a list",
        ),
        ({"votes": [["a"] * 8] * 3, "label": LABELS}, r"column votes is list<.*lists of integers"),
        ({"votes": [1, 2, 3], "label": LABELS}, r"column votes is int64"),
        ({"votes": VOTES.tolist(), "label": list("abc")}, r"column label is string"),
        (
            {"votes": VOTES.tolist(), "label": LABELS, "image_id": ["a", None, "b"]},
            r"image_id has a null",
        ),
        (
            {"votes": VOTES.tolist(), "label": LABELS, "error": [None, "x", None]},
            r"image v/1: it has an error and votes",
        ),
        (
            {"votes": VOTES.tolist(), "label": pa.array([1, 2, 2**64 - 1], pa.uint64())},
            r"holds no classes",
        ),
        (
            {"votes": VOTES.tolist(), "label": LABELS, "plain_prediction": [1, None, 2]},
            r"image v/1: plain prediction -1",
        ),
    ],
)
def test_a_mistake_in_parquet_is_named_and_nothing_is_written(columns, message, tmp_path):
    file = write_parquet(tmp_path / "v.parquet", **columns)
    with pytest.raises(ConfigError, match=message) as raised:
        import_votes([file], COLUMNS, str(tmp_path / "out"))
    assert "v.parquet" in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_plain_prediction_is_one_of_the_classes_that_could_be_voted_for(tmp_path):
    """A label need not be: the picture may show something else."""
    asked = replace(COLUMNS, classes="0,2,3")
    both = {"votes": [[0] * 8, [2] * 8], "labels": [1, 4]}
    good = write_npz(tmp_path / "good.npz", plain=[3, 2], **both)
    assert import_votes([good], asked, str(tmp_path / "out")).images == 2
    bad = write_npz(tmp_path / "bad.npz", plain=[3, 1], **both)
    with pytest.raises(
        ConfigError, match=r"bad/1: plain prediction 1: it is none of the 3 classes"
    ):
        import_votes([bad], asked, str(tmp_path / "out"))


def test_a_column_twice_and_text_that_is_none_are_named(tmp_path):
    label = pa.array(LABELS)
    twice = pa.table([pa.array(VOTES.tolist()), label, label], names=["votes", "label", "label"])
    text = pa.Array.from_buffers(pa.string(), 3, pa.array([b"\xff", b"b", b"c"]).buffers())
    broken = pa.table({"votes": VOTES.tolist(), "label": LABELS, "image_id": text})
    for table, message in ((twice, r"2 columns label; keep one"), (broken, r"image_id is not UTF")):
        pq.write_table(table, tmp_path / "v.parquet")
        with pytest.raises(ConfigError, match=rf"v.parquet: .*{message}"):
            import_votes([str(tmp_path / "v.parquet")], COLUMNS, str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()


class Rude:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickles_and_broken_files_are_not_opened(tmp_path):
    rude = pickle.dumps(Rude(tmp_path / "tricked"))
    for name, data in (
        ("v.pth", rude),
        ("v.npz", rude),
        ("w.npz", b"PK\x03\x04 and no more"),
        ("v.parquet", b"PAR1 and no more"),
        ("empty.npz", b""),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ConfigError, match=name):
            import_votes([str(tmp_path / name)], COLUMNS, str(tmp_path / "out"))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("votes.npy", rude)
        archive.writestr("labels.npy", b"")
    with pytest.raises(ConfigError, match=r"x.npz: votes of shape"):
        import_votes([str(tmp_path / "x.npz")], COLUMNS, str(tmp_path / "out"))
    # A bare array is a file that numpy reads, and no npz.
    np.save(tmp_path / "bare.npy", VOTES)
    (tmp_path / "bare.npy").rename(tmp_path / "bare.npz")
    with pytest.raises(ConfigError, match="not an npz"):
        import_votes([str(tmp_path / "bare.npz")], COLUMNS, str(tmp_path / "out"))
    # What would have been tricked is tricked by pickle itself.
    assert not (tmp_path / "tricked").exists()
    pickle.loads(rude).close()
    assert (tmp_path / "tricked").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, r"does not say what voted: give --views, --size, --image-size, --num-classes"),
        ({"stride": 20}, r"needs a stride from 1 to 8 px"),
        ({"model_size": "20"}, r"--model-size 20: it is no exact enlargement"),
        ({"model_size": "16x24"}, r"no exact enlargement"),
        ({"model_size": "4"}, r"no exact enlargement"),
        ({"positions": "0,3,5"}, r"--positions 0,3,5: write random:N"),
        ({"seed": 3}, r"only random positions have a seed"),
        ({"classes": "1,9"}, r"9 is none of the model's classes"),
        ({"classes": "0,1"}, r"none of the 2 classes that could be voted for"),
        ({"num_classes": 2**16 + 1}, r"--num-classes 65537"),
    ],
)
def test_flags_that_cannot_be_are_refused(flags, message, tmp_path):
    votes, labels = wavering(20)
    file = write_npz(tmp_path / "v.npz", votes=votes, labels=labels)
    config = replace(COLUMNS, **flags) if flags else ImportConfig()
    with pytest.raises(ValueError, match=message):
        import_votes([file], config, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"size": 0}, r"--size 0"),
        ({"image_size": "8x8x8"}, r"--image-size 8x8x8: give a side"),
        ({"image_size": "0"}, r"--image-size 0"),
        ({"model_size": "16"}, r"give both"),
        ({"num_classes": 1}, r"needs a rival"),
        ({"model": ""}, r"--model is empty"),
    ],
)
def test_flags_that_mean_nothing_are_refused_at_once(flags, message):
    with pytest.raises(ConfigError, match=message):
        ImportConfig(**flags)


def test_files_of_different_runs_are_not_mixed(tmp_path):
    votes, labels = wavering(4)
    one = write_npz(tmp_path / "one.npz", votes=votes, labels=labels)
    two = write_npz(tmp_path / "two.npz", votes=votes, labels=labels, plain=labels)
    with pytest.raises(ConfigError, match=r"two.npz: plain predictions: True, in .*one.npz: False"):
        import_votes([one, two], COLUMNS, str(tmp_path / "out"))
    spec = {
        "kind": "column",
        "size": 2,
        "stride": 1,
        "height": SIDE,
        "width": SIDE,
        "pixel_scale": 1,
        "random": None,
        "seed": 0,
        "num_classes": CLASSES,
        "classes": None,
        "model": "theirs",
    }
    told = write_npz(tmp_path / "told.npz", votes=votes, labels=labels, spec=json.dumps(spec))
    with pytest.raises(ConfigError, match=r"votes of: "):
        import_votes([told, one], COLUMNS, str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"--size: .*told.npz says of itself that size is 2.* 3"):
        import_votes([told], ImportConfig(size=3), str(tmp_path / "out"))
    for wrong in (
        {"size": 2.0},
        {"classes": [3, 1]},
        {"classes": [1, 9]},
        {"model": None},
        {"model": "\ud800"},
    ):
        bad = write_npz(
            tmp_path / "b.npz", votes=votes, labels=labels, spec=json.dumps(spec | wrong)
        )
        with pytest.raises(ConfigError, match=r"its spec cannot be read"):
            import_votes([bad], ImportConfig(), str(tmp_path / "out"))
    assert import_votes([told], ImportConfig(), str(tmp_path / "out")).images == 4
