"""The bench of the control plane: its made-up votes, its command, one small job and its resume."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest

import pipeline.identity
from jobs import bench_control_plane
from jobs.cli import main
from pipeline.bench import control_plane
from pipeline.bench.control_plane import MadeUp, made_up_votes, peak_mib
from pipeline.decoding import DECODED
from pipeline.identity import rows_digest
from pipeline.schema import VOTES
from pipeline.sources.base import LISTING
from pipeline.store import check_rows
from pipeline.tracking.measurements import points_in


def test_made_up_votes_depend_on_the_ids_alone(tmp_path):
    ids = [f"s/{number}" for number in range(5)]
    first = made_up_votes(ids, 224)
    assert np.array_equal(first, made_up_votes(ids, 224))
    assert not np.array_equal(first, made_up_votes(ids[::-1], 224))
    columns = {"unit": [3] * 5, "image_id": ids, "label": list(range(5))}
    decoded = pa.table(
        {name: columns.get(name, [None] * 5) for name in DECODED.names}, schema=DECODED
    )
    rows = MadeUp(VOTES, 224, str(tmp_path))(decoded)
    check_rows(rows.drop_columns(["unit", "seconds"]).cast(VOTES), VOTES, 224)
    assert np.array_equal(rows["votes"].to_pylist(), first)
    (noted,) = tmp_path.iterdir()
    assert 0 < float(noted.read_text()) <= peak_mib()


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_the_digest_of_all_rows_does_not_depend_on_how_many_are_taken_at_a_time(monkeypatch, rows):
    table = pa.table(
        {
            "image_id": ["a/0", "a/1", "b/0", "b/é"],
            "label": [1, None, 0, 7],
            "file": ["f"] * 4,
            "offset": [0] * 4,
            "size": [1] * 4,
            "labels": [None, [1, 2], [], None],
            "state": [0] * 4,
            "digest": [0] * 4,
        },
        schema=LISTING,
    )
    monkeypatch.setattr(pipeline.identity, "_DIGEST_ROWS", rows)
    lines = "a/0\0001\0None\na/1\0None\0[1, 2]\nb/0\0000\0[]\nb/é\0007\0None\n"
    assert rows_digest(table) == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize(
    ("given", "message"),
    [(["--per-shard", "0"], "--per-shard 0"), (["--images", "1500"], "multiples of")],
)
def test_mistakes(given, message, capsys):
    assert main(["bench", "control-plane", *given]) == 2
    assert message in capsys.readouterr().err


def test_jobs_are_logged_where_it_is_asked(monkeypatch, capsys):
    figures = {"images": 80, "listing_seconds": 1.5}
    monkeypatch.setattr(bench_control_plane, "_in_words", str)
    monkeypatch.setattr(control_plane, "measure_control_plane", lambda *_: figures)
    logged = []
    monkeypatch.setattr(bench_control_plane, "log", lambda *given: logged.append(given))
    monkeypatch.setattr(bench_control_plane, "reach", lambda *given: logged.append(given))
    command = ["bench", "control-plane", "--images", "80", "--per-shard", "40"]
    assert main([*command, "--mlflow", "http://server", "--experiment", "speed"]) == 0
    reached, (name, result, config) = logged
    assert reached == ("http://server", "speed")
    assert (name, config.mlflow, config.per_shard) == ("bench control-plane", "http://server", 40)
    (point,) = (point for point in points_in(result) if "listing" in point.name)
    assert (point.name, point.value) == ("jobs/80/listing_seconds", 1.5)


@pytest.mark.services
def test_the_command_states_what_it_measured(tmp_path, capsys):
    command = ["bench", "control-plane", "--images", "80", "--per-shard", "40"]
    assert main([*command, "--folder", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (job,) = result["jobs"]
    assert (job["images"], job["shards"], job["units"]) == (80, 2, 5)
    assert job["driver_start_mib"] <= job["driver_planned_mib"] <= job["driver_peak_mib"]
    assert job["actor_peak_mib"] > 0
    assert 0 < job["resume_planned_seconds"] < job["resume_first_commit_seconds"]
    assert not list(tmp_path.iterdir())
