"""Witnesses replayed on stored votes: all of them flip, and planted faults are caught."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.views.family import Patch
from pipeline.attack import witness
from pipeline.attack.config import WitnessConfig
from pipeline.attack.witness import replay_witnesses
from pipeline.certificates import rules
from pipeline.certificates.witness import witnesses
from pipeline.config import ConfigError
from pipeline.runs.schema import WITNESSES
from tests.conftest import TINY_CLASSES, png, write_shard
from tests.pipeline.attack.conftest import IMAGES
from tests.pipeline.attack.small_runs import PATCH, finished_run, stored_votes

SQUARE, ASKED = Patch.square(PATCH), WitnessConfig(patch=PATCH)


def test_every_image_without_a_certificate_has_one_that_flips_it(copied):
    replayed = replay_witnesses(copied, ASKED)
    manifest, votes = copied.manifest(), stored_votes(copied)
    margins = rules.margins("exact", votes, manifest.defense.views, SQUARE, TINY_CLASSES)
    assert not replayed.failures
    assert replayed.images == 24
    assert replayed.certified == (margins >= 0).sum() > 0
    table = pq.read_table(replayed.rows_path)
    assert table.schema.equals(WITNESSES)
    assert replayed.witnesses == table.num_rows == (margins < 0).sum()
    for row in table.to_pylist():
        number = int(row["image_id"].split("/")[1])
        before = votes[number]
        assert row["margin"] == margins[number] < 0
        assert row["prediction"] == np.bincount(before).argmax()
        assert row["y"] is None
        # Which bands the patch covers, by their columns modulo the width.
        columns = [{(16 * view + i) % 160 for i in range(24)} for view in range(10)]
        seen = [bool(shown & set(range(row["x"], row["x"] + PATCH))) for shown in columns]
        after = np.where(seen, row["rival"], before)
        assert row["touched"] == sum(seen)
        assert row["rewritten"] == (before != after).sum() > 0
        assert row["prediction_after"] == np.bincount(after).argmax() != row["prediction"]


@pytest.mark.parametrize(
    "changes",
    [
        {"views": "row"},
        {"views": "block", "size": 64, "stride": 40},
        {"voting": "threshold", "theta": 0.3},
        {"voting": "threshold", "theta": 0.2, "classes": "1,2,4,6"},
        {"classes": "1,2,4,6"},
        {"positions": "random:9", "stride": None},
    ],
    ids=str,
)
def test_every_kind_of_votes(changes, tiny_weights, tmp_path):
    samples = {f"{number}.png": png(image) for number, image in enumerate(IMAGES)}
    samples["broken.png"] = b"no picture"
    shard = str(write_shard(tmp_path / "s.tar", samples))
    store = finished_run(tmp_path / "out", shard, tiny_weights, **changes)
    replayed = replay_witnesses(store, ASKED)
    assert not replayed.failures
    assert replayed.images == 24
    assert replayed.witnesses > 0
    rows = pq.read_table(replayed.rows_path).to_pylist()
    assert len(rows) == replayed.witnesses
    kind = changes.get("views", "column")
    for row in rows:
        assert (row["y"] is None, row["x"] is None) == (kind == "column", kind == "row")
        assert row["prediction_after"] != row["prediction"]
        assert row["rewritten"] <= row["touched"]


def planted(monkeypatch, **wrong):
    """Witnesses with some columns replaced by what a function makes of them."""

    def lying(*given):
        found = witnesses(*given)
        return found._replace(**{name: lie(getattr(found, name)) for name, lie in wrong.items()})

    monkeypatch.setattr(witness, "witnesses", lying)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"margins_n": lambda m: m + 1}, "is certified (margin 0)"),
        ({"margins_n": lambda m: m - 1}, "is not certified (margin -1)"),
        ({"rivals_n": lambda r: (r + 1) % TINY_CLASSES}, "does not change it"),
        ({"xs_n": lambda x: (x + 80) % 150}, "does not change it"),
    ],
    ids=["generous", "strict", "rival", "place"],
)
def test_a_rule_or_a_witness_that_is_wrong_is_caught(copied, monkeypatch, wrong, said):
    planted(monkeypatch, **wrong)
    failures = replay_witnesses(copied, ASKED).failures
    assert any(said in failure for failure in failures)


def test_refusals(copied, labelled, tiny_weights, tmp_path):
    with pytest.raises(ConfigError, match="choose a smaller --patch"):
        replay_witnesses(copied, WitnessConfig(patch=161))
    store = finished_run(tmp_path / "drawn", labelled, tiny_weights, randomized=12, stride=None)
    with pytest.raises(ConfigError, match="randomized: its certificate is about the ideal"):
        replay_witnesses(store, ASKED)
