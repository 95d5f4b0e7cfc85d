"""The bench of the control plane: its made-up votes, one small job and its resume."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.runs.schema import VOTES
from pipeline.runs.store import check_rows
from pipeline.sources import listing
from pipeline.voting.decode import DECODED
from tests.benchmarks.control_plane import (
    MadeUp,
    made_up_votes,
    measure_control_plane,
    measure_memory,
    peak_mib,
)


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


def test_a_listing_of_made_up_shards_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "_open", None)  # to be what it was, afterwards
    found = measure_memory(tmp_path, shards=3)
    assert found["images"] == 3000
    assert 0 < found["table_bytes_an_image"] <= found["arrow_peak_bytes_an_image"]
    assert found["grown_mib"] >= 0


@pytest.mark.services
def test_it_states_what_it_measured(tmp_path):
    job = measure_control_plane(tmp_path, shards=2, per_shard=40)
    assert (job["images"], job["shards"], job["units"]) == (80, 2, 5)
    assert job["driver_start_mib"] <= job["driver_planned_mib"] <= job["driver_peak_mib"]
    assert job["actor_peak_mib"] > 0
    assert 0 < job["resume_planned_seconds"] < job["resume_first_commit_seconds"]
