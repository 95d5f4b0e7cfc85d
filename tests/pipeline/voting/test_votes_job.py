"""The whole path on real files, real Ray and real Parquet; nothing is mocked."""

import dataclasses
import json
import shutil
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from pytest import fixture, mark, raises

from models.classifiers.smoothed import SmoothedClassifier
from models.networks.zoo import load_network
from pipeline.config import ConfigError, OutputConfig, VotesConfig
from pipeline.runs.manifest import ManifestError
from pipeline.runs.resolve import resolve_defense
from pipeline.runs.schema import votes_schema
from pipeline.runs.store import VotesStore
from pipeline.sources.base import SourceError
from pipeline.voting.plan import count_votes
from tests.conftest import (
    TINY,
    TINY_CLASSES,
    random_images,
    tiny_ablation,
    tiny_model,
)
from tests.in_process import stages_here

pytestmark = mark.usefixtures("ray_session")


def config_for(shards: Path, weights: Path, **changes) -> VotesConfig:
    fields = {
        "data": str(shards),
        "weights": str(weights),
        "microbatch": 16,
        "threads": 1,
        "unit_images": 6,
        "actors": 1,
    }
    return VotesConfig(**(fields | changes))


def vote(config: VotesConfig, out: Path):
    return count_votes(config, resolve_defense(config), OutputConfig(out=str(out)))


@fixture(scope="module")
def finished(shards, tiny_weights, tmp_path_factory, ray_session):
    """A run over the two shards: (out, outcome)."""
    out = tmp_path_factory.mktemp("out")
    return out, vote(config_for(shards, tiny_weights), out)


def rows_of(out: Path, run_id: str) -> list[dict]:
    folder = out / "votes" / f"run_id={run_id}"
    table = pq.read_table(sorted(folder.glob("*.parquet")))
    return sorted(table.to_pylist(), key=lambda row: row["image_id"])


def test_every_listed_image_has_exactly_one_row(finished):
    out, outcome = finished
    rows = rows_of(out, outcome.run_id)
    assert outcome.images == outcome.voted == len(rows) == 23
    assert len({row["image_id"] for row in rows}) == 23
    assert rows[0]["image_id"] == "shard-000/000"
    assert rows[12]["image_id"] == "shard-001/012"


def test_votes_are_those_of_the_network_called_directly(finished):
    out, outcome = finished
    rows = {row["image_id"]: row for row in rows_of(out, outcome.run_id)}
    images = random_images(21)
    manifest = VotesStore(str(out), outcome.run_id).read_manifest()
    network = load_network(TINY, TINY_CLASSES, manifest.execution.weights)
    classifier = SmoothedClassifier(tiny_model(network, tiny_ablation()), torch.device("cpu"), 16)
    ballot = classifier(images)
    assert len(np.unique(ballot.votes_bv)) > 3
    for index in range(21):
        row = rows[f"shard-{index // 12:03d}/{index:03d}"]
        assert row["votes"] == ballot.votes_bv[index].tolist()
        assert row["plain_prediction"] == ballot.plain_b[index]
        counts = np.bincount(ballot.votes_bv[index])
        assert row["prediction"] == counts.argmax()
        assert row["counts"][0] == {"class": counts.argmax(), "votes": counts.max()}
        assert sum(entry["votes"] for entry in row["counts"]) == 10
        assert row["label"] == (None if index == 4 else index % TINY_CLASSES)


def test_images_that_cannot_be_read_are_rows_with_an_error(finished):
    out, outcome = finished
    rows = {row["image_id"]: row for row in rows_of(out, outcome.run_id)}
    undecodable, other_size = rows["shard-001/021"], rows["shard-001/022"]
    assert undecodable["error"]
    assert "160x50 px" in other_size["error"]
    for row in (undecodable, other_size):
        assert row["label"] is not None
        assert row["votes"] is row["counts"] is row["prediction"] is None


def test_other_tools_read_the_votes_without_this_project(finished):
    out, outcome = finished
    folder = out / "votes" / f"run_id={outcome.run_id}"
    assert pq.read_schema(next(iter(folder.glob("*.parquet")))).equals(votes_schema(sizes=True))
    count = duckdb.connect().execute(
        f"select count(*), count(distinct image_id), max(len(votes)) from '{folder}/*.parquet'"
    )
    assert count.fetchall() == [(23, 23, 10)]
    frame = pd.read_parquet(folder)
    assert len(frame) == 23
    assert list(frame.columns) == votes_schema(sizes=True).names
    voted = frame[frame["error"].isna()]
    assert set(zip(voted["height"], voted["width"], strict=True)) == {(160, 160)}
    assert frame[frame["error"].notna()][["height", "width"]].isna().all(axis=None)


def test_a_second_call_computes_nothing(finished, shards, tiny_weights):
    out, outcome = finished
    again = vote(config_for(shards, tiny_weights), out)
    assert again.voted == 0
    assert again.run_id == outcome.run_id


def test_resuming_computes_only_what_is_missing_and_the_same(
    finished, shards, tiny_weights, tmp_path
):
    """Even with another number of actors and a wish for another unit size."""
    out, outcome = finished
    shutil.copytree(out, tmp_path / "out")
    folder = tmp_path / "out" / "votes" / f"run_id={outcome.run_id}"
    (folder / "unit-00001.parquet").unlink()
    (folder / "unit-00003.parquet").unlink()
    (folder / ".unit-00003.parquet.dead.tmp").write_bytes(b"half a file")
    changed = config_for(shards, tiny_weights, actors=2, unit_images=2)
    resumed = vote(changed, tmp_path / "out")
    assert resumed.run_id == outcome.run_id
    assert resumed.voted == 6 + 5
    assert rows_of(tmp_path / "out", resumed.run_id) == rows_of(out, outcome.run_id)


def test_overwrite_starts_again(finished, shards, tiny_weights, tmp_path, monkeypatch):
    stages_here(monkeypatch)
    out, outcome = finished
    shutil.copytree(out, tmp_path / "out")
    again = vote(config_for(shards, tiny_weights, overwrite=True), tmp_path / "out")
    assert again.voted == 23
    assert rows_of(tmp_path / "out", again.run_id) == rows_of(out, outcome.run_id)


def test_other_settings_are_another_run_beside_it(finished, shards, tiny_weights, monkeypatch):
    stages_here(monkeypatch)
    out, outcome = finished
    limited = vote(config_for(shards, tiny_weights, limit=3, stride=80), out)
    assert limited.run_id != outcome.run_id
    assert limited.images == 3
    assert {len(row["votes"]) for row in rows_of(out, limited.run_id)} == {2}
    assert len(rows_of(out, outcome.run_id)) == 23


def test_an_edited_manifest_is_refused(finished, shards, tiny_weights, tmp_path):
    out, outcome = finished
    shutil.copytree(out, tmp_path / "out")
    path = tmp_path / "out" / "votes" / f"run_id={outcome.run_id}" / "_manifest.json"
    body = json.loads(path.read_text())
    body["identity"]["ablation"]["stride"] = 20
    path.write_text(json.dumps(body))
    with raises(ManifestError, match=r"ablation\.stride"):
        vote(config_for(shards, tiny_weights), tmp_path / "out")


def test_nothing_is_written_for_a_request_that_cannot_be_met(shards, tiny_weights, tmp_path):
    out = tmp_path / "out"
    good = config_for(shards, tiny_weights)
    bad_label = tmp_path / "labels"
    shutil.copytree(shards, bad_label)
    for changes, error, message in [
        ({"data": str(tmp_path / "absent")}, SourceError, "absent"),
        ({"size": 161}, ConfigError, "1 to 160"),
        ({"stride": 161}, ConfigError, "1 to 160"),
    ]:
        with raises(error, match=message):
            vote(dataclasses.replace(good, **changes), out)
    assert not out.exists()
