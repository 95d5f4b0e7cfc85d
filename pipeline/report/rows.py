"""Rows of any columns as a table on a terminal."""

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.storage.tables import plain

_SHOWN_ITEMS = 8
_EXPLAIN = ["explain_key", "explain_value"]


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
