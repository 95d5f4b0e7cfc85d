import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.views.ablations import Ablation
from pipeline.analysis import open_run
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.interchange import exporting
from pipeline.interchange.config import ExportConfig, ImportConfig
from pipeline.interchange.exporting import export_run, threat_slug
from pipeline.interchange.importing import import_votes
from pipeline.runs.store import VotesStore
from pipeline.scoring.certify import certify_votes
from pipeline.scoring.claims import Claim
from tests.conftest import REPOSITORY
from tests.pipeline.interchange.votes_made_up import wavering

sys.path.append(str(REPOSITORY / "tests/pipeline/questions"))
from tests.pipeline.analysis.stored_runs import write_run

COARSE = Ablation(kind="column", size=4, stride=3, height=16, width=16, pixel_scale=7)
ERRORS = (3, 17)


@pytest.fixture(scope="module")
def voted(tmp_path_factory):
    """(out, run_id) of a run of 50 images, two of them unreadable and one without a label."""
    out = tmp_path_factory.mktemp("voted") / "out"
    votes, truth = wavering(50, len(COARSE))
    votes[7] = truth[7]  # nobody votes otherwise
    labels = [None if image == 5 else int(label) for image, label in enumerate(truth)]
    plain = np.roll(truth, 1).tolist()
    run_id = write_run(
        out, votes, labels, ablation=COARSE, classes=5, plain=plain, errors=ERRORS, unit_images=20
    )
    return out, run_id


def exported(voted, to: Path, **asked) -> dict[str, str]:
    return export_run(open_run(*voted), ExportConfig(to=str(to), out=str(voted[0]), **asked))


def test_rows_are_the_certificates_and_the_votes(voted, tmp_path):
    patches = (2, "3x5", "area:6", "2of2")
    asked = {"patch": patches, "rule": ("exact", "uniform")}
    before = sorted(voted[0].rglob("*"))
    exported(voted, tmp_path / "to", **asked)
    assert sorted(voted[0].rglob("*")) == before
    certified = certify_votes(VotesStore(str(voted[0]), voted[1]), ClaimsConfig(**asked))
    rows = pq.read_table(tmp_path / "to/images.parquet").to_pylist()
    votes = open_run(*voted).table("votes").to_pylist()
    images = {row["image_id"]: row for row in open_run(*voted).table("images").to_pylist()}
    assert [row["image_id"] for row in rows] == [row["image_id"] for row in votes]
    for row, of in zip(rows, votes, strict=True):
        for name in ("label", "prediction", "plain_prediction", "error"):
            assert row[name] == of[name]
        for name in ("lead", "largest_exact_px", "largest_uniform_px"):
            assert row[name] == images[row["image_id"]][name]
        ranked = [*((c["class"], c["votes"]) for c in of["counts"] or ()), (None, 0)]
        if of["error"]:
            assert row["votes_first"] is row["votes_second"] is row["second"] is None
        else:
            assert (row["prediction"], row["votes_first"]) == ranked[0]
            assert (row["second"], row["votes_second"]) == ranked[1]
            assert row["lead"] == row["votes_first"] - row["votes_second"]
    assert rows[7]["second"] is None
    by_id = {row["image_id"]: row for row in rows}
    certificates = open_run(*voted).table("certificates").to_pylist()
    assert len(certificates) == 50 * 8
    for certificate in certificates:
        row = by_id[certificate["image_id"]]
        name = f"{certificate['rule']}_{threat_slug(Claim.from_dict(certificate))}"
        assert row[f"certified_{name}"] == certificate["certified"]
        assert row[f"margin_{name}"] == certificate["margin"]
    with open(tmp_path / "to/images.csv", newline="") as stream:
        texts = list(csv.DictReader(stream))
    expected = [
        {
            name: ""
            if value is None
            else str(value).lower()
            if isinstance(value, bool)
            else str(value)
            for name, value in row.items()
        }
        for row in rows
    ]
    assert texts == expected
    summary = json.loads((tmp_path / "to/summary.json").read_text())
    claims = [figure for figure in summary["figures"] if figure["figure"] == "certified_accuracy"]
    entries = [{k: v for k, v in of.items() if k not in ("figure", "claim")} for of in claims]
    assert entries == certified.summary["certified_accuracy"]
    plain, smoothed, mean = summary["figures"][:3]
    for figure in (plain, smoothed):
        facts = certified.summary[figure["figure"]]
        assert {name: figure[name] for name in facts} == facts
    assert mean["value"] == certified.summary["mean_ablation_accuracy"]
    assert summary["patches"] == ["2x2", "3x5", "area<=6", "2 of 2x2"]
    assert set(summary["rules"]) == {"exact", "uniform"}
    said = {figure["threat"]: figure["claim"] for figure in claims}
    assert "any one square of 2x2 px of the 16x16 px image" in said["2x2"]
    assert "any one rectangle of 3x5 px" in said["3x5"]
    assert "any one rectangle of at most 6 px" in said["area<=6"]
    assert "any 2 squares of 2x2 px" in said["2 of 2x2"]
    assert (summary["images"], summary["images_with_error"]) == (50, 2)


def test_the_folder_is_whole_and_says_so(voted, tmp_path):
    written = exported(voted, tmp_path / "to", patch=(2,), votes="parquet")
    names = {"images.parquet", "images.csv", "manifest.json", "votes.parquet", "summary.json"}
    assert set(os.listdir(tmp_path / "to")) == set(written) == names
    assert os.listdir(tmp_path) == ["to"]
    files = json.loads((tmp_path / "to/summary.json").read_text())["files"]
    assert set(files) == names - {"summary.json"}
    for name, facts in files.items():
        data = (tmp_path / "to" / name).read_bytes()
        assert facts == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    stored = Path(VotesStore(str(voted[0]), voted[1]).manifest_path).read_bytes()
    assert (tmp_path / "to/manifest.json").read_bytes() == stored
    # The same again is the same bytes.
    exported(voted, tmp_path / "again", patch=(2,), votes="parquet")
    for name in names:
        assert (tmp_path / "to" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_what_is_there_is_not_lost(voted, tmp_path, monkeypatch):
    to = tmp_path / "to"
    to.mkdir()  # nothing is in it
    exported(voted, to, patch=(2,), votes="parquet")
    with pytest.raises(ConfigError, match=r"it is there already.*--overwrite"):
        exported(voted, to, patch=(3,))

    def fail(*_args):
        raise OSError("disk full")

    before = {path.name: path.read_bytes() for path in to.iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(exporting, "headline", fail)
        with pytest.raises(OSError, match="disk full"):
            exported(voted, to, patch=(3,), overwrite=True)
        with pytest.raises(OSError, match="disk full"):
            exported(voted, tmp_path / "other", patch=(3,))
    assert {path.name: path.read_bytes() for path in to.iterdir()} == before
    assert os.listdir(tmp_path) == ["to"]
    exported(voted, to, patch=(3,), overwrite=True)
    assert sorted(os.listdir(to)) == [
        "images.csv",
        "images.parquet",
        "manifest.json",
        "summary.json",
    ]
    assert os.listdir(tmp_path) == ["to"]
    (to / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"holds thesis.tex, which no export wrote"):
        exported(voted, to, overwrite=True)
    with pytest.raises(ConfigError, match=r"there is a file of this name"):
        exported(voted, to / "thesis.tex", overwrite=True)
    with pytest.raises(ConfigError, match=r"--to is empty"):
        exported(voted, "")


def test_it_answers_what_was_certified_unless_told(tmp_path):
    votes, truth = wavering(20, len(COARSE))
    run_id = write_run(tmp_path / "out", votes, truth.tolist(), ablation=COARSE, classes=5)
    run = tmp_path / "out", run_id

    def patches(name: str, **asked) -> list[str]:
        exported(run, tmp_path / name, **asked)
        return json.loads((tmp_path / name / "summary.json").read_text())["patches"]

    assert patches("a") == ["2x2", "4x4", "5x5"]
    store = VotesStore(str(run[0]), run_id)
    certify_votes(store, ClaimsConfig(patch=(3, 1)))
    certify_votes(store, ClaimsConfig(patch=(2,), top_k=(2,)))
    certify_votes(store, ClaimsConfig(patch=(6,)), stride=6)
    assert patches("b") == ["1x1", "3x3"]
    assert patches("c", patch=(7,)) == ["7x7"]
    with pytest.raises(ConfigError, match="it must be at least 1x1 and fit the 16x16 px image"):
        patches("d", patch=(17,))
    with pytest.raises(ConfigError, match="there is no such rule"):
        patches("d", rule=("best",))
    assert not (tmp_path / "d").exists()


def certified(
    run: tuple[Path, str], to: Path
) -> dict[tuple[str, str, str | None, float | None], int]:
    """The counts of certified images that an export of a run states, by claim."""
    exported(run, to)
    figures = json.loads((to / "summary.json").read_text())["figures"]
    return {
        (one["rule"], one["threat"], one["assumes"], one["tau"]): one["images_certified"]
        for one in figures
        if one["figure"] == "certified_accuracy"
    }


def certified_columns(to: Path) -> set[str]:
    """Columns of an export that say whether an image is certified."""
    names = pq.read_schema(to / "images.parquet").names
    return {name for name in names if name.startswith("certified_")}


def test_it_answers_by_the_rules_that_certified_and_as_they_assume(tmp_path):
    votes, truth = wavering(40, len(COARSE))
    out, gaps = tmp_path / "out", np.random.default_rng(0).random((40, len(COARSE)))
    of = {"voting": {"theta": None, "gaps": True}, "gaps": gaps}
    run = out, write_run(out, votes, truth.tolist(), ablation=COARSE, classes=5, **of)
    store = VotesStore(str(out), run[1])
    certify_votes(store, ClaimsConfig(patch=(1, 2), rule=("two-location",), assume="2"))
    certify_votes(store, ClaimsConfig(patch=(1,), rule=("two-location",)))
    certify_votes(store, ClaimsConfig(patch=(1,), rule=("one-location",), tau=(0.25,)))
    stated = store.read_summary()["certified_accuracy"]
    names = ("rule", "threat", "assumes", "tau")
    expected = {tuple(e[name] for name in names): e["images_certified"] for e in stated}
    assert len(expected) == 5
    assert certified(run, tmp_path / "all") == expected
    assert {
        "certified_two-location_1x1_assumes_2x2",
        "certified_two-location_1x1",
        "certified_two-location_2x2",
        "certified_one-location_1x1",
        "certified_one-location_1x1_tau_0.25",
    } == certified_columns(tmp_path / "all")
    claims = [
        f["claim"] for f in json.loads((tmp_path / "all/summary.json").read_text())["figures"]
    ]
    assert sum("two largest logits are more than 0.25 apart" in claim for claim in claims) == 2
    exported(run, tmp_path / "some", rule=("exact", "one-location"))
    assert {
        "certified_exact_1x1",
        "certified_exact_2x2",
        "certified_one-location_1x1",
        "certified_one-location_1x1_tau_0.25",
    } == certified_columns(tmp_path / "some")


def test_a_run_that_one_rule_alone_can_answer_for(tmp_path):
    """Of blocks the exact rule knows no two patches."""
    blocks = Ablation(kind="block", size=4, stride=4, height=16, width=16)
    votes, truth = wavering(20, len(blocks))
    run = tmp_path, write_run(tmp_path, votes, truth.tolist(), ablation=blocks, classes=5)
    asked = ClaimsConfig(patch=("2of2",), rule=("uniform",))
    certify_votes(VotesStore(str(tmp_path), run[1]), asked)
    assert list(certified(run, tmp_path / "to")) == [("uniform", "2 of 2x2", None, None)]


@pytest.mark.parametrize("several", [False, True], ids=["one-label", "several-labels"])
@pytest.mark.parametrize("restricted", [None, (0, 2, 3)], ids=["all", "some"])
def test_a_round_trip_is_exact(several, restricted, tmp_path, monkeypatch):
    votes, truth = wavering(30, len(COARSE), 3 if restricted else 5)
    if restricted:
        votes, truth = np.array(restricted)[votes], np.array(restricted)[truth]
    labels = truth.tolist()
    more = {}
    if several:
        labels = [[label, (label + 1) % 5] if label else [] for label in labels]
        more["data"] = {"kind": "tar", "fingerprint": "f00d", "several_labels": True}
    out = tmp_path / "out"
    run_id = write_run(
        out, votes, labels, ablation=COARSE, classes=5, restricted=restricted, errors=ERRORS,
        plain=np.roll(truth, 1).tolist(), **more,
    )  # fmt: skip
    # Two units to a file, so that there are several.
    monkeypatch.setattr(exporting, "_FILE_VOTES", 2 * 4 * len(COARSE))
    exported((out, run_id), tmp_path / "one", patch=(2,), votes="parquet")
    files = sorted(map(str, (tmp_path / "one").glob("votes-*")))
    assert len(files) == 4
    done = import_votes([str(tmp_path / "one/votes-*")], ImportConfig(), str(out))
    tables = [
        open_run(out, run).table("votes").drop_columns("run_id") for run in (run_id, done.run_id)
    ]
    assert tables[0].equals(tables[1])
    manifest = open_run(out, done.run_id).manifest
    original = open_run(out, run_id).manifest
    for name in ("views", "votes_per_image"):
        assert getattr(manifest.defense, name) == getattr(original.defense, name)
    for name in ("num_classes", "classes"):
        assert getattr(manifest.defense.network, name) == getattr(original.defense.network, name)
    assert manifest.data.several_labels == original.data.several_labels
    # What is exported of the import is what was exported, and imports to itself.
    exported((out, done.run_id), tmp_path / "two", patch=(2,), votes="parquet")
    for name in ("images.parquet", "images.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    again = import_votes([str(tmp_path / "two/votes*")], ImportConfig(), str(out))
    assert (again.run_id, again.computed) == (done.run_id, False)
    headline = json.loads((tmp_path / "two/summary.json").read_text())
    assert headline["votes"].startswith("imported votes: certificates hold of the votes as given")


def test_votes_that_no_file_can_hold_are_refused_and_their_certificates_are_not(tmp_path):
    votes, truth = wavering(20, len(COARSE))
    for name, asked, reason in (
        ("sets", {"voting": {"theta": 0.4, "gaps": False}}, "one vote an ablation"),
        ("drawn", {"randomized": {"draws": len(COARSE), "seed": 0}}, "drawn at random"),
    ):
        given = votes[..., None] if name == "sets" else votes
        out = tmp_path / name
        run = out, write_run(out, given, truth.tolist(), ablation=COARSE, classes=5, **asked)
        with pytest.raises(ConfigError, match=rf"{reason}.*export it without --votes"):
            exported(run, tmp_path / "refused", votes="parquet")
        assert not (tmp_path / "refused").exists()
        exported(run, tmp_path / f"{name}-to", patch=(2,))
        columns = pq.read_schema(tmp_path / f"{name}-to/images.parquet").names
        rule = "exact" if name == "sets" else "randomized"
        assert f"certified_{rule}_2x2" in columns
    headline = json.loads((tmp_path / "drawn-to/summary.json").read_text())
    assert "with confidence 0.999 an image, of the ideal" in headline["figures"][-1]["claim"]


def test_neither_needs_torch_nor_ray(voted, tmp_path):
    code = (
        "import sys\n"
        "for name in ('torch', 'ray', 'mlflow', 'timm', 'duckdb', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "from jobs.cli import main\n"
        f"out = ['--out', {str(voted[0])!r}]\n"
        f"assert main(['export', {voted[1]!r}, '--to', 'to', '--votes', 'parquet', *out]) == 0\n"
        "assert main(['import', 'to/votes.parquet', '--out', 'imported']) == 0\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert open_run(tmp_path / "imported").manifest.imported


def test_the_votes_say_what_they_are(tmp_path):
    votes, truth = wavering(20, len(COARSE))
    run_id = write_run(tmp_path / "out", votes, truth.tolist(), ablation=COARSE, classes=5)
    exported((tmp_path / "out", run_id), tmp_path / "to", patch=(2,), votes="parquet")
    table = pq.read_table(tmp_path / "to/votes.parquet")
    assert table["image_id"].to_pylist()[:2] == ["shard-000/000", "shard-000/001"]
    assert json.loads(table.schema.metadata[b"spec"])["stride"] == 3
    assert table.schema.field("votes").type.value_type == pa.uint16()
