"""Rows as CSV, JSON and Parquet."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage import write_atomically


def plain(value: Any) -> Any:
    """A value in the types of JSON; null for NaN and infinity."""
    if isinstance(value, Decimal):
        # Sums of integers come as decimals.
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, date | datetime):
        return value.isoformat()
    return value if isinstance(value, bool | int | str | None) else str(value)


def write_csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch], stream: TextIO) -> None:
    """Write rows as CSV with a header; null is empty, lists and structs are JSON."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(schema.names)
    for row in _rows(batches):
        writer.writerow([_csv_cell(value) for value in row.values()])


def _csv_cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    value = plain(value)
    return json.dumps(value) if isinstance(value, list | dict) else value


def write_json(batches: Iterable[pa.RecordBatch], stream: TextIO) -> None:
    """Write rows as a JSON array of objects, one a line."""
    stream.write("[")
    for number, row in enumerate(_rows(batches)):
        stream.write(("\n " if number == 0 else ",\n ") + json.dumps(plain(row)))
    stream.write("\n]\n")


def parquet(table: pa.Table, compression: str = "zstd") -> bytes:
    """Return the rows as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression=compression)
    return sink.getvalue()


def write_parquet(path: str, table: pa.Table, compression: str = "zstd") -> None:
    """Write the rows as a Parquet file, atomically."""
    write_atomically(path, parquet(table, compression))


@contextmanager
def parquet_writer(path: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Write rows part by part; the file appears, atomically, unless the block fails."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        yield writer
    write_atomically(path, sink.getvalue())


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        yield from batch.to_pylist()
