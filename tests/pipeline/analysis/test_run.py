"""One stored run in Python: the examples of its docstrings, and votes of every kind."""

import doctest
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from models.views.family import Patch
from models.views.masks import Masks, Placement
from pipeline.analysis import open_run
from pipeline.analysis import run as run_module
from pipeline.certificates import exact_margins, uniform_margins
from pipeline.config import ConfigError
from pipeline.runs.store import StoreError
from tests.pipeline.analysis.stored_runs import COLUMNS, write_run

HAND = np.array(
    [
        [1] * 10,
        [2] * 8 + [0] * 2,
        [0] * 6 + [3] * 4,
        [1, 0] * 5,
        [0] * 10,  # an error takes its place
        [3] * 10,
    ]
)


@pytest.fixture
def out(tmp_path):
    write_run(tmp_path, HAND, [1, 2, 0, 1, 0, None], errors=(4,))
    return tmp_path


def test_examples(out):
    results = doctest.testmod(run_module, extraglobs={"OUT": str(out)})
    assert results.attempted >= 9
    assert results.failed == 0


def test_a_run_is_named_by_the_beginning_of_its_id(tmp_path):
    with pytest.raises(ConfigError, match="0 runs: `patchcert run` makes one"):
        open_run(tmp_path)
    first = write_run(tmp_path, HAND, [0] * 6)
    assert open_run(tmp_path).run_id == first
    second = write_run(tmp_path, HAND, [0] * 6, model="other")
    assert open_run(tmp_path, second[:6]).run_id == second
    for run_id, said in ((None, "holds 2 runs"), ("r", "2 runs begin so"), ("x", "no such run")):
        with pytest.raises(ConfigError, match=f"{said}.*{first}"):
            open_run(tmp_path, run_id)


def test_tables(out, monkeypatch):
    run = open_run(out)
    assert isinstance(run.table("votes"), pa.Table)
    assert run.table("images").num_rows == 0  # not certified
    assert run.table("votes", into="pandas").shape == (6, 14)
    with pytest.raises(ConfigError, match="choose votes, images"):
        run.table("image")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ConfigError, match="pip install polars"):
        run.table("votes", into="polars")
    monkeypatch.setitem(sys.modules, "polars", SimpleNamespace(from_arrow=lambda t: ("pl", t)))
    assert run.table("votes", into="polars")[0] == "pl"
    assert run.summary is None


def test_votes_and_rules(out):
    run = open_run(out)
    np.testing.assert_array_equal(run.votes.votes, HAND[[0, 1, 2, 3, 5]])
    assert run.votes.ids.tolist() == [f"shard-000/00{i}" for i in (0, 1, 2, 3, 5)]
    assert run.votes.labels.classes[:, 0].tolist() == [1, 2, 0, 1, -1]
    for rule, function in (("exact", exact_margins), ("uniform", uniform_margins)):
        expected = function(run.votes.votes, COLUMNS, Patch.square(2), 4)
        np.testing.assert_array_equal(run.margins(rule, 2), expected)
        np.testing.assert_array_equal(run.certified(rule, "2x2"), expected >= 0)
    with pytest.raises(ValueError, match="rule"):
        run.margins("exactly", 2)


def test_classes_that_cannot_be_voted_for_are_no_rivals(tmp_path):
    votes = np.array([[1] * 6 + [3] * 4, [3] * 6 + [1] * 4])
    write_run(tmp_path, votes, [1, 3], restricted=[1, 3])
    run = open_run(tmp_path)
    assert run.num_classes == 2
    expected = exact_margins(votes // 2, COLUMNS, Patch.square(1), 2)
    np.testing.assert_array_equal(run.margins("exact", 1), expected)
    np.testing.assert_array_equal(run.votes.votes, votes)
    assert run.witnesses(Patch.square(1)).rivals_n.tolist() == [1, 0]


def test_sets_of_votes_of_several_units(tmp_path):
    sets = np.full((6, 10, 3), -1)
    sets[:, :, 0] = HAND
    sets[5, 0] = [0, 1, 2]  # only the last unit has sets of three
    write_run(tmp_path, sets, [0] * 6, voting={"theta": 0.3, "gaps": False})
    run = open_run(tmp_path)
    np.testing.assert_array_equal(run.votes.votes, sets)
    expected = exact_margins(sets, COLUMNS, Patch.square(2), 4)
    np.testing.assert_array_equal(run.margins("exact", 2), expected)


def test_drawn_positions_have_no_places(tmp_path):
    write_run(tmp_path, HAND[:, :6], [0] * 6, randomized={"draws": 6, "seed": 1})
    run = open_run(tmp_path)
    assert run.margins("randomized", 1).shape == (6,)
    for ask in (run.location_margins, run.witnesses):
        with pytest.raises(ConfigError, match="drawn at random"):
            ask(Patch.square(1))
    with pytest.raises(ValueError, match="choose randomized"):
        run.margins("exact", 1)


def test_a_run_of_errors_alone(tmp_path):
    write_run(tmp_path, HAND[:2], [0, 1], errors=(0, 1))
    run = open_run(tmp_path)
    assert run.votes.votes.shape == (0, 10)
    assert run.margins("exact", 2).shape == (0,)


def test_votes_of_early_exit_answer_for_the_covered_patch_alone(tmp_path):
    axis = Placement.covering(10, 2, 3)
    masks = Masks.placed(
        height=10, width=10, placements=[(axis, axis)], pairs=True, covers=(Patch.square(2),)
    )
    votes = np.ones((2, len(masks)), int)
    write_run(tmp_path, votes, [1, 2], ablation=masks, voting={"theta": None, "early_exit": True})
    run = open_run(tmp_path)
    assert run.certified("two-location", 2).all()
    for ask in (run.margins, run.certified):
        with pytest.raises(
            ValueError, match=r"patch 1x1: .* ask about that patch, or .*--all-views"
        ):
            ask("two-location", 1)
        with pytest.raises(ValueError, match=r"double-masking.*vote with --all-views"):
            ask("double-masking", 2)
        with pytest.raises(ValueError, match="does not speak of masks"):
            ask("exact", 2)


def test_missing_units_are_an_error(out):
    run = open_run(out)
    next(out.glob("votes/*/unit-00001.parquet")).unlink()
    with pytest.raises(StoreError, match="1 of 2 units have no votes yet"):
        run.margins("exact", 2)
