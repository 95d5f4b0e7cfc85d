"""Every recipe of docs/cookbook.md is run; what it answers is computed again by other means."""

import re
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from models.preprocess import PRESETS
from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.analysis import open_run
from pipeline.analysis.sql import VIEWS, Answer, connect
from pipeline.certificates import exact_margins, uniform_margins
from pipeline.config import ClaimsConfig
from pipeline.runs.store import VotesStore
from pipeline.scoring.certify import certify_votes
from tests.conftest import REPOSITORY
from tests.pipeline.analysis.conftest import wavering_votes
from tests.pipeline.analysis.stored_runs import write_run

TEXT = (REPOSITORY / "docs/cookbook.md").read_text()
SECTIONS = dict(part.split("\n", 1) for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:])
SQL = {
    title: re.search(r"```sql\n(.*?)```", body, re.DOTALL)[1]
    for title, body in SECTIONS.items()
    if "```sql" in body
}
DELIVERED = "Patches on the picture as it is delivered"
# No image has a certificate against larger ones.
SIDES = range(1, 140)


def ask(answered, title: str) -> list[dict]:
    with connect(str(answered.out)) as connection:
        return Answer(connection, SQL[title]).table().to_pylist()


@pytest.fixture(scope="module")
def images(answered):
    """By run and image: label, predictions, error, and the margins of both rules by side."""
    found = defaultdict(dict)
    for run_id in (answered.first, answered.second):
        run = open_run(answered.out, run_id)
        rows = run.table("votes").sort_by("image_id").to_pylist()
        voted = [row for row in rows if row["error"] is None]
        votes = np.array([row["votes"] for row in voted])
        margins = {
            (rule, side): function(votes, run.ablation, Patch.square(side), 5)
            for rule, function in (("exact", exact_margins), ("uniform", uniform_margins))
            for side in SIDES
        }
        for row in rows:
            found[run_id][row["image_id"]] = row
        for place, row in enumerate(voted):
            row["margins"] = {key: int(of[place]) for key, of in margins.items()}
            row["largest"] = {
                rule: max([side for side in SIDES if margins[rule, side][place] >= 0] or [0])
                for rule in ("exact", "uniform")
            }
    return found


@pytest.fixture(scope="module")
def delivered(tmp_path_factory) -> SimpleNamespace:
    """A run over pictures of two sizes, certified against a patch on them."""
    out = tmp_path_factory.mktemp("delivered") / "out"
    views = Ablation(kind="column", size=19, stride=10, height=224, width=224)
    truth = np.random.default_rng(0).integers(0, 5, 30)
    run_id = write_run(
        out,
        wavering_votes(truth, len(views), 0.3, seed=1),
        truth.tolist(),
        ablation=views,
        classes=5,
        sizes=[(375, 500) if image % 3 else (256, 256) for image in range(30)],
        preprocess=PRESETS["imagenet"].to_dict(),
    )
    certify_votes(VotesStore(str(out), run_id), ClaimsConfig(patch=("source:40", "32")))
    return SimpleNamespace(out=out)


def test_every_recipe_answers(answered, delivered):
    assert len(SQL) >= 12
    for title in SQL:
        assert ask(delivered if title == DELIVERED else answered, title), title


def test_the_table_of_views_is_complete():
    assert re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE) == list(VIEWS)


def test_certified_accuracy_by_class(answered, images):
    for row in ask(answered, "Certified accuracy by class"):
        of_class = [i for i in images[row["run_id"]].values() if i["label"] == row["label"]]
        right = [
            i["error"] is None and i["prediction"] == i["label"] and i["margins"]["exact", 32] >= 0
            for i in of_class
        ]
        assert row["images"] == len(of_class)
        assert row["certified_accuracy"] == pytest.approx(np.mean(right))


def test_lost_between_two_sizes(answered, images):
    lost = {
        (run_id, image_id)
        for run_id, of_run in images.items()
        for image_id, i in of_run.items()
        if i["error"] is None and i["margins"]["exact", 32] >= 0 > i["margins"]["exact", 39]
    }
    rows = ask(answered, "Images that lose their certificate between 32 and 39 px")
    assert {(row["run_id"], row["image_id"]) for row in rows} == lost


def test_certified_accuracy_at_every_size(answered, images):
    rows = ask(answered, "Certified accuracy at every patch size")
    assert len(rows) == 2 * 112
    for row in rows:
        labelled = [i for i in images[row["run_id"]].values() if i["label"] is not None]
        right = [
            i["error"] is None
            and i["prediction"] == i["label"]
            and i["margins"]["exact", row["side"]] >= 0
            for i in labelled
        ]
        assert row["accuracy"] == pytest.approx(np.mean(right))


def test_patches_on_the_picture(delivered):
    """40x40 px of 256x256 are that many on the grid; of 375x500 px they shrink, with a rim."""
    rows = ask(delivered, DELIVERED)
    assert {row["on_grid"] for row in rows} == {"29x29", "40x40"}
    run = open_run(delivered.out)
    heights = run.table("votes").sort_by("image_id")["height"].to_numpy()
    certified = {side: run.certified("exact", side) for side in (29, 40)}
    for row in rows:
        side = int(row["on_grid"][:2])
        holds = certified[side][heights == (256 if side == 40 else 375)]
        assert row["images"] == len(holds)
        if row["rule"] == "exact":
            assert row["certified"] == pytest.approx(np.mean(holds))


def test_gained_by_the_exact_rule(answered, images):
    gained = {
        (run_id, image_id, i["largest"]["uniform"], i["largest"]["exact"])
        for run_id, of_run in images.items()
        for image_id, i in of_run.items()
        if i["error"] is None and i["largest"]["exact"] > i["largest"]["uniform"]
    }
    rows = ask(answered, "Images that the exact rule gains over the uniform one")
    assert {tuple(row.values()) for row in rows} == gained


def test_where_two_models_disagree(answered, images):
    first, second = sorted((answered.first, answered.second))
    differ = {
        (name, images[first][name]["prediction"], images[second][name]["prediction"])
        for name in images[first]
        if images[first][name]["prediction"] != images[second][name]["prediction"]
    }
    rows = ask(answered, "Where two models disagree")
    found = {(row["image_id"], row["prediction"], row["other_prediction"]) for row in rows}
    assert found == differ
    assert any(None in row for row in differ)  # an error in one of them is a difference


def test_certified_and_wrong_and_nearly_certified(answered, images):
    for row in ask(answered, "Certified and yet wrong"):
        image = images[row["run_id"]][row["image_id"]]
        assert image["prediction"] != image["label"]
        assert image["margins"]["exact", 32] == row["margin"] >= 0
    for row in ask(answered, "Nearly certified"):
        side = int(row["threat"].split("x")[0])
        margin = images[row["run_id"]][row["image_id"]]["margins"]["exact", side]
        assert row["margin"] == margin
        assert margin in (-1, -2)


def test_worst_places(answered):
    rows = ask(answered, "Patch locations that break most images")
    assert len(rows) == 10
    best = rows[0]
    run = open_run(answered.out, best["run_id"])
    right = run.votes.labels.accept(
        np.array([np.bincount(v, minlength=5).argmax() for v in run.votes.votes])
    )
    broken = np.zeros(len(right), bool)
    for images, found in run.location_margins(Patch.square(32)):
        broken[images] = found.margins_nyx[:, 0, best["x"]] < 0
    assert best["y"] is None
    assert best["uncertified_right"] == (broken & right).sum() > 0
    assert best["share"] == pytest.approx((broken & right).sum() / right.sum())
    assert [row["share"] for row in rows] == sorted((row["share"] for row in rows), reverse=True)


def test_which_bands_vote_rightly(answered, images):
    rows = ask(answered, "Which bands vote for the right class")
    assert [row["x"] for row in rows] == 2 * list(range(0, 224, 10))
    for row in rows:
        votes = [
            i["votes"][row["x"] // 10] == i["label"]
            for i in images[row["run_id"]].values()
            if i["error"] is None and i["label"] is not None
        ]
        assert row["right_votes"] == pytest.approx(np.mean(votes))


def test_detection_is_the_summary(answered):
    rows = ask(answered, "What an alert at near ties detects")
    for run_id in (answered.first, answered.second):
        for curve in open_run(answered.out, run_id).summary["detection"]:
            places = {tau: place for place, tau in enumerate(curve["tau"])}
            mine = [r for r in rows if (r["run_id"], r["threat"]) == (run_id, curve["threat"])]
            assert len(mine) == 14
            for row in mine:
                place = places[row["tau"]]
                for name, key in (
                    ("right_unalerted", "clean"),
                    ("detected", "certified_detection"),
                ):
                    assert row[name] == pytest.approx(curve[key][place] / curve["of"])


def test_which_class_wins(answered, images):
    rows = ask(answered, "Which class wins where an image is lost")
    lost = sum(
        i["error"] is None and i["prediction"] == i["label"] and i["margins"]["exact", 32] < 0
        for of_run in images.values()
        for i in of_run.values()
    )
    assert sum(row["images"] for row in rows) == lost
    assert all(row["rival"] != row["prediction"] for row in rows)


def test_certified_true_empirical(answered, images):
    rows = ask(answered, "Certified, true and empirical robust accuracy")
    assert [row["run_id"] for row in rows] == sorted((answered.first, answered.second))
    for row in rows:
        labelled = [i for i in images[row["run_id"]].values() if i["label"] is not None]
        right = [i for i in labelled if i["error"] is None and i["prediction"] == i["label"]]
        certified = sum(i["margins"]["exact", 32] >= 0 for i in right)
        assert (row["patch_px"], row["attacked"]) == (32, 3)
        assert row["smoothed"] == pytest.approx(len(right) / len(labelled))
        assert row["certified"] == pytest.approx(certified / len(labelled))
        stand = certified + (len(right) - certified) * 2 / 3
        assert row["empirical"] == pytest.approx(stand / len(labelled))


def test_errors_are_listed(answered):
    rows = ask(answered, "Images with errors")
    assert [row["image_id"][-3:] for row in rows] == ["007", "007", "009"]


def test_python(answered, monkeypatch, images):
    (code,) = re.findall(r"```python\n(.*?)```", SECTIONS["In Python"], re.DOTALL)
    monkeypatch.chdir(answered.out.parent)
    assert 'open_run("out")' in code
    code = code.replace('open_run("out")', f'open_run("out", "{answered.first}")')
    names = {}
    exec(compile(code, "cookbook", "exec"), names)
    of_run = images[answered.first].values()
    certified = [i["error"] is None and i["margins"]["exact", 32] >= 0 for i in of_run]
    assert names["share"] == pytest.approx(np.mean(certified))
    voted = [i for i in of_run if i["error"] is None]
    assert names["right"] == pytest.approx(
        np.mean([np.array(i["votes"]) == (-1 if i["label"] is None else i["label"]) for i in voted])
    )
    assert names["broken"].sum() == sum(i["margins"]["exact", 32] < 0 for i in voted)
    assert isinstance(names["run"].table("images"), pa.Table)
