"""The bench of certificates: hard votes, the same answers by loop and by rules, its figures."""

from pathlib import Path

import numpy as np
import pytest

from models.views.ablations import Ablation
from models.views.family import Patch
from pipeline.certificates import largest_certified, margins
from pipeline.config import ClaimsConfig
from pipeline.scoring.certify import certify_votes
from tests.benchmarks.certificates import (
    BLOCKS,
    COLUMNS,
    distinct_touched,
    largest_by_loop,
    measure,
)
from tests.benchmarks.synthetic import UNIT_IMAGES, first_images, synthetic_votes, write_votes


@pytest.mark.parametrize("ablation", [COLUMNS, BLOCKS], ids=["columns", "blocks"])
def test_votes_are_hard(ablation):
    """What the issue of the figures demands, on what is certified in earnest."""
    votes = synthetic_votes(400, len(ablation), 1000, np.random.default_rng(5))
    assert votes.shape == (400, len(ablation))
    assert votes.max() < 1000
    assert min(len(np.unique(row)) for row in votes) >= 21
    exact = margins("exact", votes, ablation, Patch.square(32), 1000) >= 0
    uniform = margins("uniform", votes, ablation, Patch.square(32), 1000) >= 0
    assert exact.mean() >= 0.4
    assert exact.sum() > uniform.sum()


def test_the_loop_and_the_rules_agree():
    ablation = Ablation(kind="block", size=10, stride=4, height=32, width=32)
    votes = synthetic_votes(40, len(ablation), 50, np.random.default_rng(0))
    sides = range(1, 17)
    touched = {side: distinct_touched(ablation, side) for side in sides}
    found = largest_by_loop(votes, touched, 50)
    assert found.tolist() == largest_certified(votes, ablation, 50).tolist()
    assert len(set(found.tolist())) >= 3


def test_a_part_of_a_run_is_its_first_images(tmp_path):
    ablation = Ablation(kind="column", size=4, stride=1, height=48, width=48)
    store = write_votes(str(tmp_path / "all"), ablation, 40, 2 * UNIT_IMAGES + 5)
    again = write_votes(str(tmp_path / "again"), ablation, 40, 2 * UNIT_IMAGES + 5)
    assert [table.to_pydict() for table in store.read()] == [
        table.to_pydict() for table in again.read()
    ]
    part = first_images(store, str(tmp_path / "part"), UNIT_IMAGES)
    assert sum(table.num_rows for table in part.read()) == UNIT_IMAGES
    linked = next(Path(part.folder).glob("unit-*.parquet"))
    assert linked.stat().st_nlink == 2
    assert certify_votes(part, ClaimsConfig(patch=(4,))).summary["images"] == UNIT_IMAGES
    with pytest.raises(ValueError, match="choose a multiple of 256"):
        first_images(store, str(tmp_path / "odd"), 100)


def test_it_states_what_it_measured(tmp_path):
    found = measure(tmp_path, images=256, num_classes=1000, loop=1, rounds=1, scale=())
    for family in ("columns", "blocks"):
        of = found[family]
        assert of["images"] == 256
        assert of["ratio"] == pytest.approx(of["loop_seconds"] / of["seconds"])
        assert of["certified_32px"] >= 0.4
        assert of["voted_classes"]["least"] >= 20
    assert found["two_location"].keys() == {"columns", "mask_pairs"}
    assert all(of["seconds"] > 0 for of in found["two_location"].values())
    assert found["scale"] == []
