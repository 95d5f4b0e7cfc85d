"""Votes on views that hide: out and back again, and what is refused of other people's."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from models.views.family import Patch
from models.views.masks import Masks, Placement
from pipeline.analysis import open_run
from pipeline.certificates.early_exit import EarlyExit
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.interchange.config import ExportConfig, ImportConfig
from pipeline.interchange.exporting import export_run
from pipeline.interchange.importing import import_votes
from pipeline.runs.store import VotesStore
from pipeline.scoring.certify import certify_votes
from tests.pipeline.interchange.votes_made_up import CLASSES, wavering, write_npz, write_parquet

SIDE, IMAGES = 12, 24
AXIS = Placement.covering(SIDE, 3, 3)
PAIRS = Masks.placed(
    height=SIDE, width=SIDE, placements=[(AXIS, AXIS)], pairs=True, covers=(Patch(3, 3),)
)
FLAGS = ImportConfig(
    views="mask-pair", covers="3", masks="3", image_size=str(SIDE), num_classes=CLASSES
)


def asked_of(votes_nv: np.ndarray, plain_n: np.ndarray, views: Masks = PAIRS) -> np.ndarray:
    """The votes that early exit asks for, -1 elsewhere."""
    exits, found = EarlyExit(views), np.full(votes_nv.shape, -1)
    for image, votes_v in enumerate(votes_nv):
        while True:
            more = exits.next(found[image], np.zeros(len(votes_v)), int(plain_n[image]))
            if more is None:
                break
            found[image, more] = votes_v[more]
    return found


@pytest.fixture(scope="module")
def cast():
    """Votes of all views, those of early exit, labels and plain predictions."""
    votes, labels = wavering(IMAGES, len(PAIRS), seed=3)
    plain = votes[:, 0]
    some = asked_of(votes, plain)
    assert 0 < (some < 0).sum() < some.size
    return votes, some, labels, plain


def certificates(out, run_id) -> list[dict]:
    certify_votes(VotesStore(str(out), run_id), ClaimsConfig(mlflow="none"))
    rows = open_run(out, run_id).table("certificates").to_pylist()
    names = ("image_id", "rule", "threat", "prediction", "certified", "assumes")
    return [{name: row[name] for name in names} for row in rows]


def test_votes_of_early_exit_answer_as_all_do_and_come_back(cast, tmp_path):
    votes, some, labels, plain = cast
    out, ids = tmp_path / "out", [f"i{number}" for number in range(IMAGES)]
    whole = write_npz(tmp_path / "a.npz", votes=votes, labels=labels, plain=plain, image_ids=ids)
    left = write_npz(tmp_path / "b.npz", votes=some, labels=labels, plain=plain, image_ids=ids)
    nulls = [[None if one < 0 else int(one) for one in row] for row in some]
    as_parquet = write_parquet(
        tmp_path / "b.parquet",
        image_id=ids,
        label=labels,
        plain_prediction=plain,
        votes=pa.array(nulls, pa.list_(pa.uint16())),
    )
    every, early = (import_votes([file], FLAGS, str(out)) for file in (whole, left))
    again = import_votes([as_parquet], FLAGS, str(out))
    assert (again.run_id, again.computed) == (early.run_id, False)
    run = open_run(out, early.run_id)
    assert run.table("votes")["votes"].to_pylist() == nulls
    assert run.manifest.defense.views == PAIRS
    assert run.manifest.defense.voting.early_exit
    assert not open_run(out, every.run_id).manifest.defense.voting.early_exit
    assert certificates(out, early.run_id) == certificates(out, every.run_id)

    files = export_run(run, ExportConfig(to=str(tmp_path / "sent"), votes="parquet"))
    back = import_votes([files["votes.parquet"]], ImportConfig(model="imported"), str(out))
    assert (back.run_id, back.computed) == (early.run_id, False)
    # What was stored is held against the votes that the run is named by.
    assert run.store.proof(run.manifest, remembered=False).listed


def test_an_export_says_what_its_figures_claim_and_assume(cast, tmp_path):
    votes, _, labels, plain = cast
    file = write_npz(tmp_path / "a.npz", votes=votes, labels=labels, plain=plain)
    done = import_votes([file], FLAGS, str(tmp_path / "out"))
    run = open_run(tmp_path / "out", done.run_id)
    files = export_run(run, ExportConfig(to=str(tmp_path / "sent")))
    with open(files["summary.json"]) as stream:
        figures = json.load(stream)["figures"]
    told = {(one["figure"], one.get("rule")): one for one in figures}
    rules = ("two-location", "one-location")
    assert set(told) == {
        ("plain_accuracy", None),
        *((figure, rule) for figure in ("clean_accuracy", "certified_accuracy") for rule in rules),
    }
    assumed = "by a decision that assumes a patch of at most 3x3 px"
    for (figure, rule), one in told.items():
        assert (assumed in one["claim"]) is (rule is not None), figure
    assert "an alert is raised" in told["certified_accuracy", "one-location"]["claim"]
    assert "is right and stays so" in told["certified_accuracy", "two-location"]["claim"]
    rows = pq.read_table(files["images.parquet"]).to_pylist()
    for rule in rules:
        right = [row[f"answer_{rule}_3x3"] == row["label"] for row in rows]
        held = [row[f"certified_{rule}_3x3"] for row in rows]
        assert told["clean_accuracy", rule]["hits"] == sum(right)
        both = sum(a and b for a, b in zip(right, held, strict=True))
        assert told["certified_accuracy", rule]["hits"] == both > 0


@pytest.mark.parametrize(
    ("flags", "masks"),
    [
        ({"views": "mask-pair", "covers": "3x5", "masks": "2x3"}, 6),
        ({"views": "mask", "size": 6, "stride": 3}, 9),
        ({"views": "mask-pair", "size": 6, "stride": 3, "covers": "2"}, 9),
        ({"views": "mask", "size": 8, "stride": 4, "wrap": True}, 9),
    ],
)
def test_families_are_stated_as_for_a_run(flags, masks, tmp_path):
    views = masks * (masks + 1) // 2 if flags["views"] == "mask-pair" else masks
    votes, labels = wavering(6, views)
    file = write_npz(tmp_path / "v.npz", votes=votes, labels=labels)
    config = ImportConfig(**flags, image_size="12", model_size="24", num_classes=CLASSES)
    done = import_votes([file], config, str(tmp_path / "out"))
    family = open_run(tmp_path / "out", done.run_id).manifest.defense.views
    assert isinstance(family, Masks)
    assert (len(family.masks), family.pixel_scale) == (masks, 2)
    assert certificates(tmp_path / "out", done.run_id)


def test_a_view_that_the_decision_needs_must_have_its_vote(cast, tmp_path):
    _, some, labels, plain = cast
    out = str(tmp_path / "out")
    image = int((some >= 0).all(axis=1).argmax())
    needed = some.copy()
    needed[image, -2] = -1
    file = write_npz(tmp_path / "v.npz", votes=needed, labels=labels, plain=plain)
    with pytest.raises(ConfigError, match=rf"image v/{image}: view {len(PAIRS) - 2} has no vote"):
        import_votes([file], FLAGS, out)
    file = write_npz(tmp_path / "v.npz", votes=some, labels=labels)
    with pytest.raises(ConfigError, match="no plain predictions, which the decision then needs"):
        import_votes([file], FLAGS, out)
    single = wavering(2, 4)[0]
    single[1, 3] = -1
    file = write_npz(tmp_path / "v.npz", votes=single, labels=[0, 1])
    one = ImportConfig(views="mask", covers="3", masks="2", image_size="12", num_classes=CLASSES)
    with pytest.raises(ConfigError, match="image v/1, ablation 3: vote -1: classes run from 0"):
        import_votes([file], one, out)
    assert not (tmp_path / "out/votes").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--views", "mask-pair"], "does not say what voted: give --image-size, --num-classes"),
        (["--covers", "3"], "--covers: only masks have it; leave it out, or add --views"),
        (["--views", "column", "--masks", "3"], "--masks: only masks have it"),
        (["--views", "mask-pair", "--positions", "random:3"], "give --image-size"),
    ],
)
def test_flags_that_say_too_little_are_refused(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("v.npz", votes=np.zeros((2, 10), int), labels=[0, 1])
    assert main(["import", "v.npz", *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_flags_that_contradict_the_file_are_refused(cast, tmp_path):
    votes, _, labels, plain = cast
    file = write_npz(tmp_path / "a.npz", votes=votes, labels=labels, plain=plain)
    done = import_votes([file], FLAGS, str(tmp_path / "out"))
    run = open_run(tmp_path / "out", done.run_id)
    files = export_run(run, ExportConfig(to=str(tmp_path / "sent"), votes="parquet"))
    sent, out = files["votes.parquet"], str(tmp_path / "out")
    assert import_votes([sent], FLAGS, out).run_id == done.run_id
    for flags, message in (
        ({"covers": "2", "masks": "2"}, r"votes are of 9 masks of 6x6 px.* the flags say 4 masks"),
        ({"views": "column", "size": 2}, "votes are of 9 masks .* the flags say column"),
        ({"num_classes": 7}, "num_classes is 5, the flag says 7"),
    ):
        with pytest.raises(ConfigError, match=message):
            import_votes([sent], ImportConfig(**flags), out)
