"""Rows as a table for a terminal, as CSV and as JSON."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

_SHOWN_ITEMS = 8
_EXPLAIN = ["explain_key", "explain_value"]


def plain(value: Any) -> Any:
    """A value as JSON knows it: numbers, text, lists, objects; null for what is no number."""
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


def print_rows(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch], console: Console, limit: int | None
) -> bool:
    """Print rows as a table; whether there were more than ``limit``.

    On a terminal, long lists and cells that do not fit are cut short.
    """
    whole = not console.is_terminal
    rows: list[list[Any]] = []
    for batch in batches:
        columns = [column.to_pylist() for column in batch.columns]
        rows += [list(row) for row in zip(*columns, strict=True)]
        if limit is not None and len(rows) > limit:
            break
    more = limit is not None and len(rows) > limit
    if schema.names == _EXPLAIN:
        for _, plan in rows:
            console.print(Text(plan), soft_wrap=True)
        return False
    table = Table(show_edge=False)
    for field in schema:
        right = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        right = right or pa.types.is_decimal(field.type)
        table.add_column(
            Text(field.name),
            justify="right" if right else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in rows[:limit]:
        table.add_row(*(_cell(value, whole=whole) for value in row))
    console.print(table)
    return more


def _cell(value: Any, *, whole: bool) -> Text:
    """One cell; never markup, which brackets of a list would be."""
    if value is None:
        return Text("NULL", style="dim")
    return Text(_shown(value, whole=whole))


def _shown(value: Any, *, whole: bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and not whole and len(value) > _SHOWN_ITEMS:
        shown = ", ".join(str(plain(item)) for item in value[:_SHOWN_ITEMS])
        return f"[{shown}, ... {len(value)} in all]"
    if isinstance(value, list | dict):
        return json.dumps(plain(value))
    return str(plain(value))


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


def parquet(table: pa.Table) -> bytes:
    """A Parquet file of the rows."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        yield from batch.to_pylist()
