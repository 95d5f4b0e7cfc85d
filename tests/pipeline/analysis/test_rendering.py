"""Answers as tables, CSV and JSON."""

import csv
import io
import json
from datetime import datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from pipeline.report.rows import print_rows
from pipeline.storage import tables as rendering

TABLE = pa.table(
    {
        "id": ["a[b]", "[red]c[/red]", None],
        "votes": [list(range(20)), [], None],
        "share": [0.25, float("nan"), None],
        "sum": pa.array([Decimal(7), Decimal("7.5"), None], pa.decimal128(38, 1)),
        "at": [datetime(2026, 11, 22, 17, 35), None, None],
        "right": [True, False, None],
        "best": [{"class": 1, "votes": 2}, None, None],
    }
)


def printed(limit=None, *, terminal=False, width=300):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)
    more = print_rows(TABLE.schema, TABLE.to_batches(max_chunksize=1), console, limit)
    return console.file.getvalue(), more


def test_table():
    text, more = printed()
    assert not more
    for cell in ("a[b]", "[red]c[/red]", "0.25", "NULL", "true", "2026-11-22T17:35:00", "7.5"):
        assert cell in text
    assert "18, 19]" in text
    assert "{" in text


def test_terminals_get_the_first_rows_and_short_lists():
    text, more = printed(2, terminal=True)
    assert more
    assert "red" in text
    assert text.count("NULL") == 2  # both of the second row
    assert "[0, 1, 2, 3, 4, 5, 6, 7, ... 20 in all]" in text
    assert not printed(3)[1]
    narrow = printed(terminal=True, width=60)[0]
    assert max(map(len, narrow.splitlines())) <= 60


def test_csv():
    sink = io.StringIO()
    rendering.write_csv(TABLE.schema, TABLE.to_batches(), sink)
    rows = list(csv.DictReader(io.StringIO(sink.getvalue())))
    assert rows[0]["id"] == "a[b]"
    assert json.loads(rows[0]["votes"]) == list(range(20))
    assert (rows[0]["sum"], rows[0]["right"], rows[0]["share"]) == ("7", "true", "0.25")
    assert json.loads(rows[0]["best"]) == {"class": 1, "votes": 2}
    assert set(rows[2].values()) == {""}


def test_json():
    sink = io.StringIO()
    rendering.write_json(TABLE.to_batches(), sink)
    first, second, third = json.loads(sink.getvalue())
    assert first["sum"] == 7
    assert first["at"] == "2026-11-22T17:35:00"
    assert second["share"] is None
    assert set(third.values()) == {None}
    sink = io.StringIO()
    rendering.write_json([], sink)
    assert json.loads(sink.getvalue()) == []


def test_parquet():
    assert pq.read_table(io.BytesIO(rendering.parquet(TABLE))).schema == TABLE.schema
