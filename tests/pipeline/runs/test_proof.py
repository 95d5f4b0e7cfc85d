"""Votes that are not the run's own are refused wherever a question is answered, and mended."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline.runs.proof as proof_module
from jobs.cli import main
from pipeline.analysis import open_run
from pipeline.analysis.sql import Answer, connect
from pipeline.config import ClaimsConfig
from pipeline.interchange.config import ExportConfig, ImportConfig
from pipeline.interchange.exporting import export_run
from pipeline.interchange.importing import import_votes
from pipeline.runs.proof import Proof
from pipeline.runs.store import StoreError, VotesStore
from pipeline.runs.unit_files import unit_bytes
from pipeline.scoring.certify import certify_votes
from tests.conftest import png, random_images, write_shard
from tests.in_process import stages_here

ONE = ClaimsConfig(patch=(16,), rule=("exact",))
IMAGES, UNIT = 24, 4


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_weights):
    """A run of the whole pipeline, certified and asked everything: of 24 images in six units."""
    folder = tmp_path_factory.mktemp("proof")
    samples = {}
    for number, image in enumerate(random_images(IMAGES)):
        samples[f"{number:03d}.png"] = png(image) if number != 9 else b"no picture"
        samples[f"{number:03d}.cls"] = str(number % 7).encode()
    write_shard(folder / "images.tar", samples)
    with pytest.MonkeyPatch.context() as patch:
        stages_here(patch)
        vote(folder, tiny_weights)
    return folder


def vote(folder: Path, weights: Path, *more: str) -> str:
    """Vote on what is missing, and certify; the run's id."""
    flags = ["--data", str(folder / "images.tar"), "--weights", str(weights), "--patch", "16"]
    flags += ["--unit-images", str(UNIT), "--mlflow", "none", "--out", str(folder / "out")]
    assert main(["run", *flags, "--max-error-rate", "0.5", *more]) == 0
    return open_run(folder / "out").run_id


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "made")
    return open_run(tmp_path / "made" / "out")


def unit_path(run, unit: int) -> Path:
    return Path(run.store.folder, f"unit-{unit:05d}.parquet")


def rewrite(path: Path, **columns) -> None:
    """Replace columns as a script with pyarrow would; the digest is lost."""
    table = pq.read_table(path)
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(name)
        table = table.set_column(place, field, pa.array(values, field.type))
    pq.write_table(table, path)


def earlier_version(run) -> None:
    """Take from a run all that earlier versions did not write."""
    for unit in range(run.manifest.execution.units):
        rewrite(unit_path(run, unit))
    change_execution(run, digests=None)


def change_execution(run, **facts) -> None:
    path = Path(run.store.manifest_path)
    manifest = json.loads(path.read_text())
    manifest["execution"].update(facts)
    path.write_text(json.dumps(manifest))


def doubled(run):
    shutil.copyfile(unit_path(run, 2), unit_path(run, 3))


def of_predictions(run):
    rewrite(unit_path(run, 1), label=pq.read_table(unit_path(run, 1))["prediction"].to_pylist())


def no_class(run):
    rewrite(unit_path(run, 1), label=[77] * UNIT)


def error_beside_votes(run):
    rewrite(unit_path(run, 1), error=["truncated", None, None, None])


def other_votes(run):
    """Consistent in themselves, so that no rule is broken."""
    votes = [[3] * run.manifest.defense.votes_per_image] * UNIT
    rewrite(unit_path(run, 1), votes=votes, prediction=[3] * UNIT)


def fewer(run):
    change_execution(run, images=UNIT, units=1)


def fewer_files(run):
    fewer(run)
    for unit in range(1, IMAGES // UNIT):
        unit_path(run, unit).unlink()


def cut(run):
    unit_path(run, 1).write_bytes(unit_path(run, 1).read_bytes()[:-100])


def of_another_run(run):
    table = pq.read_table(unit_path(run, 1))
    unit_path(run, 1).write_bytes(unit_bytes(table, "r" + "0" * 16, 1))


def bit_flipped(run):
    data = bytearray(unit_path(run, 1).read_bytes())
    place = data.find(b"003")  # within an id
    data[100 if place < 0 else place] ^= 1
    unit_path(run, 1).write_bytes(data)


DAMAGE = {
    doubled: "it holds unit 2 of",
    of_predictions: "no digest of its rows",
    no_class: "no digest of its rows",
    error_beside_votes: "no digest of its rows",
    other_votes: "no digest of its rows",
    fewer: "and this is none of them",
    fewer_files: "execution.images or units in its manifest was changed",
    cut: "it is damaged",
    of_another_run: f"it holds unit 1 of run_id=r{'0' * 16}",
}


def ask_sql(run):
    with connect(run.out) as connection:
        return Answer(connection, "FROM votes").table()


QUESTIONS = {
    "certify": lambda run: certify_votes(run.store, ONE),
    "export": lambda run: export_run(run, ExportConfig(out=run.out, to=f"{run.out}/../sent")),
    "sql": ask_sql,
    "votes": lambda run: run.votes,
    "table": lambda run: run.table("certificates"),
    "summary": lambda run: run.store.read_summary(),
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_rows_that_are_not_the_runs_are_refused_everywhere(damage, run, capsys):
    damage(run)
    for question in QUESTIONS.values():
        with pytest.raises(StoreError, match=DAMAGE[damage]):
            question(run)
    assert main(["verify", "--out", run.out]) == 1
    assert DAMAGE[damage] in capsys.readouterr().out


def test_any_changed_byte_of_the_rows_is_seen(run):
    bit_flipped(run)
    with pytest.raises(StoreError, match=r"not those that were committed|damaged"):
        certify_votes(run.store, ONE)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (doubled, "execution.images or units in its manifest was changed, or a file"),
        (of_predictions, "or a file of votes replaced"),
        (no_class, "a label from 0 to 6"),
        (error_beside_votes, "votes or error, never both"),
        (fewer, "and this is none of them"),
        (fewer_files, "or a file of votes replaced"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_runs_of_earlier_versions_are_held_against_what_they_say(damage, told, run):
    earlier_version(run)
    certify_votes(run.store, ONE)
    damage(run)
    for question in ("certify", "export", "sql"):
        with pytest.raises(StoreError, match=told):
            QUESTIONS[question](run)


def test_without_a_digest_of_the_listing_doubled_ids_are_found(run):
    earlier_version(run)
    path = Path(run.store.manifest_path)
    manifest = json.loads(path.read_text())
    del manifest["identity"]["data"]["rows_sha256"]
    nameless = proof_module.Manifest(
        identity=manifest["identity"], execution=run.manifest.execution
    )
    store = VotesStore(run.out, nameless.run_id)
    shutil.copytree(run.store.folder, store.folder)
    store.write_manifest(nameless)
    change_execution(open_run(run.out, store.run_id), digests=None)
    assert not store.proof(store.manifest()).listed
    doubled(open_run(run.out, store.run_id))
    with pytest.raises(StoreError, match="4 ids occur twice"):
        certify_votes(store, ONE)


def test_runs_of_earlier_versions_are_answered_and_unverified(run, capsys):
    earlier_version(run)
    proof = run.store.proof(run.store.manifest())
    assert (proof.committed, proof.listed) == (0, True)
    shutil.rmtree(Path(run.out, "locations"))
    assert certify_votes(run.store, ONE).computed
    assert main(["verify", "--out", run.out]) == 0
    assert "warn  votes: 6 units" in (said := capsys.readouterr().out)
    assert "unverified: of 6 no digest was kept at commit" in said


def test_the_remedy_of_a_changed_unit_works(run, tiny_weights, monkeypatch, capsys):
    stages_here(monkeypatch)
    before = run.store.read_summary()
    doubled(run)
    folder = Path(run.out).parent
    with pytest.raises(StoreError, match=f"delete {unit_path(run, 3)} and run again"):
        certify_votes(run.store, ONE)
    unit_path(run, 3).unlink()
    vote(folder, tiny_weights)
    assert run.store.read_summary() == before
    assert main(["verify", "--out", run.out]) == 0


def test_a_unit_voted_on_again_gives_new_figures(run, tiny_weights, monkeypatch, capsys):
    """An image that could not be read then, and can now."""
    stages_here(monkeypatch)
    folder, before = Path(run.out).parent, run.store.read_summary()
    assert before["images_with_error"] == 1
    assert main(["heatmap", "--patch", "24", "--out", run.out]) == 0
    assert main(["witness", "--patch", "16", "--out", run.out]) == 0
    # What the machine did to the image once, it does no more: only the row of the image changes.
    table = pq.read_table(unit_path(run, 2))
    good = {name: table[name].to_pylist() for name in table.schema.names}
    good["error"][1] = None
    for name in ("votes", "counts", "prediction", "plain_prediction"):
        good[name][1] = good[name][0]
    run.store.commit(2, pa.table(good, run.manifest.schema), run.manifest.schema, 10)
    for stale in ("certificates", "images", "locations", "witnesses"):
        with pytest.raises(StoreError, match=r"made from other votes than those .* now"):
            open_run(run.out).table(stale)
    with pytest.raises(StoreError, match="it is of other votes"):
        run.store.read_summary()
    assert main(["verify", "--out", run.out]) == 1
    assert vote(folder, tiny_weights) == run.run_id
    after = run.store.read_summary()
    assert after["images_with_error"] == 0
    assert not pc_any(open_run(run.out).table("images")["error"])
    assert not list(Path(run.out, "summary").glob("*heatmap-24*"))
    capsys.readouterr()
    assert main(["verify", "--out", run.out]) == 1
    assert f"`patchcert witness --patch 16 --run-id {run.run_id}`" in capsys.readouterr().out
    assert main(["heatmap", "--patch", "24", "--out", run.out]) == 0
    assert main(["witness", "--patch", "16", "--out", run.out]) == 0
    assert main(["verify", "--out", run.out]) == 0


def pc_any(column) -> bool:
    return column.null_count < len(column)


def test_an_edited_summary_is_not_believed(run, capsys):
    path = Path(run.store.summary_path)
    good = path.read_bytes()
    edited = json.loads(good)
    edited["smoothed_accuracy"]["hits"] += 1
    path.write_text(json.dumps(edited))
    with pytest.raises(StoreError, match="changed since it was written"):
        run.store.read_summary()
    assert main(["sql", "FROM runs", "--out", run.out]) == 1
    assert f"run `patchcert certify --run-id {run.run_id}` again" in capsys.readouterr().err
    assert main(["verify", "--out", run.out]) == 1
    again = certify_votes(run.store, ClaimsConfig(patch=(16,)))
    assert again.computed
    assert path.read_bytes() == good


def test_what_was_asked_outlives_a_summary_that_is_not_believed(run):
    asked = certify_votes(run.store, ClaimsConfig(patch=(16, 24), detect=True)).summary
    Path(run.store.summary_path).write_text("{}")
    again = certify_votes(run.store, ClaimsConfig(patch=(16,)))
    assert again.summary == asked


def test_edited_certificates_are_found_by_verify_and_mended(run, capsys):
    path = Path(run.out, "certificates", f"run_id={run.run_id}", "part-00000.parquet")
    table = pq.read_table(path)
    place = table.schema.get_field_index("certified")
    every = pa.array([True] * table.num_rows)
    pq.write_table(table.set_column(place, table.schema.field(place), every), path)
    assert main(["verify", "--out", run.out]) == 1
    assert f"{path}: its rows are not those of the votes" in capsys.readouterr().out
    path.unlink()
    assert certify_votes(run.store, ClaimsConfig(patch=(16,))).computed
    assert main(["verify", "--out", run.out]) == 0


def test_what_was_proven_is_remembered_until_a_file_changes(run, monkeypatch):
    old = 1_700_000_000
    monkeypatch.setattr(proof_module, "_TICK_SECONDS", 0.0)
    first = run.store.proof(run.manifest)
    with monkeypatch.context() as patch:
        patch.setattr(proof_module, "read_unit_file", None)  # no file is read
        assert run.store.proof(run.manifest) == first
    os.utime(unit_path(run, 3), (old, old))
    with monkeypatch.context() as patch:
        patch.setattr(proof_module, "read_unit_file", None)
        with pytest.raises(TypeError):
            run.store.proof(run.manifest)
    assert run.store.proof(run.manifest) == first
    doubled(run)
    with pytest.raises(StoreError, match="it holds unit 2"):
        run.store.proof(run.manifest)


def test_files_that_may_still_change_are_not_remembered(run):
    for unit in range(IMAGES // UNIT):
        os.utime(unit_path(run, unit))
    Path(run.store.folder, ".proof.json").unlink(missing_ok=True)
    run.store.proof(run.manifest)
    assert not Path(run.store.folder, ".proof.json").exists()


def test_a_memory_that_is_no_memory_costs_time_only(run):
    Path(run.store.folder, ".proof.json").write_text("[1")
    assert isinstance(run.store.proof(run.manifest), Proof)


def test_the_digest_changes_no_byte_of_the_columns(run):
    """A digest is metadata: the columns are those that pyarrow writes of the rows alone."""
    path = unit_path(run, 0)
    plain = path.with_name("plain.parquet")
    pq.write_table(pq.read_table(path), plain, compression="zstd")
    bodies = [
        data[: -8 - int.from_bytes(data[-8:-4], "little")]
        for data in (path.read_bytes(), plain.read_bytes())
    ]
    assert bodies[0] == bodies[1]


def test_imported_votes_are_held_against_the_files_they_came_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    votes = rng.integers(0, 5, (600, 10)).astype(np.uint16)
    np.savez("v.npz", votes=votes, labels=rng.integers(-1, 5, 600))
    config = ImportConfig(views="column", size=2, stride=1, image_size="10", num_classes=5)
    imported = import_votes(["v.npz"], config, "out")
    run = open_run("out")
    proof = run.store.proof(run.manifest)
    assert (proof.units, proof.committed, proof.listed) == (3, 3, True)
    before = certify_votes(run.store, ClaimsConfig(patch=(2,))).summary
    earlier_version(run)
    assert run.store.proof(run.store.manifest()).committed == 0
    table = pq.read_table(unit_path(run, 1))
    rewrite(
        unit_path(run, 1),
        votes=[[4] * 10] * table.num_rows,
        prediction=[4] * table.num_rows,
    )
    with pytest.raises(StoreError, match=r"identity\.data\.fingerprint"):
        certify_votes(run.store, ClaimsConfig(patch=(2,)))
    shutil.rmtree(run.store.folder)
    assert import_votes(["v.npz"], config, "out").run_id == imported.run_id
    assert certify_votes(run.store, ClaimsConfig(patch=(2,))).summary == before


def test_pictures_of_the_same_votes_stay(run):
    """Drawn before the run is certified for the first time."""
    shutil.rmtree(Path(run.out, "summary"))
    for name in ("certificates", "images"):
        shutil.rmtree(Path(run.out, name))
    assert main(["heatmap", "--patch", "24", "--out", run.out]) == 0
    assert main(["certify", "--patch", "16", "--mlflow", "none", "--out", run.out]) == 0
    assert len(list(Path(run.out, "summary").glob("*heatmap-24*"))) == 1


def test_randomized_and_threshold_votes_are_proven_too(made, tiny_weights, tmp_path, monkeypatch):
    stages_here(monkeypatch)
    for number, flags in enumerate((("--randomized", "5"), ("--voting", "threshold"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copyfile(made / "images.tar", folder / "images.tar")
        vote(folder, tiny_weights, *flags)
        run = open_run(folder / "out")
        proof = run.store.proof(run.manifest)
        assert (proof.committed, proof.listed) == (6, True)
        assert main(["verify", "--out", run.out]) == 0
        doubled(run)
        with pytest.raises(StoreError, match="it holds unit 2 of"):
            certify_votes(run.store, ClaimsConfig(patch=(16,)))


class Killed(BaseException):
    """Ends the process, as far as the job can tell."""


@pytest.mark.parametrize("moment", ["before the file", "after the file"])
def test_a_kill_at_a_commit_leaves_no_file_without_its_digest(moment, made, tiny_weights, tmp_path):
    """Rows and digest are one file that appears by one rename; then the job resumes."""
    shutil.copyfile(made / "images.tar", tmp_path / "images.tar")
    real = os.replace

    def killed(source: str, target: str) -> None:
        if target.endswith("unit-00003.parquet"):
            if moment == "after the file":
                real(source, target)
            raise Killed
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        stages_here(patch)
        with pytest.MonkeyPatch.context() as kill:
            kill.setattr(os, "replace", killed)
            with pytest.raises(Killed):
                vote(tmp_path, tiny_weights)
        store = open_run(tmp_path / "out").store
        manifest = store.manifest()
        there = store.unit_files()
        assert sorted(there) == list(range(3 + (moment == "after the file")))
        assert store.proof(manifest).committed == len(there)
        vote(tmp_path, tiny_weights)
    assert store.proof(store.manifest()) == open_run(made / "out").store.proof(manifest)


def test_certificates_written_before_a_column_existed_hold(run, capsys):
    (path,) = Path(run.out, "certificates").glob("*/part-*.parquet")
    table = pq.read_table(path)
    assert table["on_grid"].null_count == table.num_rows
    earlier = table.drop_columns(["on_grid"])
    pq.write_table(earlier, path)
    assert main(["verify", "--out", run.out]) == 0
    place = earlier.schema.get_field_index("margin")
    wrong = pa.array([99] * table.num_rows, pa.int32())
    pq.write_table(earlier.set_column(place, earlier.schema.field(place), wrong), path)
    assert main(["verify", "--out", run.out]) == 1
    assert "its rows are not those of the votes" in capsys.readouterr().out
