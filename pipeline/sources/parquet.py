"""Parquet of encoded images: a column of bytes, flat or as Hugging Face's struct, and a label."""

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.sources.base import Location, SourceError, SourceOptions, raise_changed, raw_listing
from pipeline.sources.stored_files import StoredFile

_IMAGE_COLUMNS = ("image", "img", "jpg", "png", "bytes")
_LABEL_COLUMNS = ("label", "labels", "cls")
_BATCH_ROWS = 256  # rows decoded at a time, to bound memory


class ParquetSource:
    """Rows of Parquet files."""

    def matches(self, location: Location) -> bool:
        """A pattern of Parquet files, or a directory that directly holds some."""
        return location.any_ends_with(".parquet")

    def list_files(self, location: Location) -> list[StoredFile]:
        """The Parquet files; names with a leading underscore are other programs' metadata."""
        files = location.files(".parquet")
        if not location.is_directory:
            return files
        return [file for file in files if not posixpath.basename(file.path).startswith("_")]

    def list_file(self, file: StoredFile, options: SourceOptions) -> pa.Table:
        """Images in the order of rows; the id is ``<file stem>/<row>``."""
        options.refuse("label_map", kind="parquet")
        return _list_file(file, options)

    def list_images(
        self,
        root: str,
        files: list[StoredFile],
        tables: list[pa.Table | None],
        options: SourceOptions,
        num_classes: int | None,
    ) -> pa.Table:
        """Images in the order of files and rows."""
        options.refuse("label_map", kind="parquet")
        return pa.concat_tables(table for table in tables if table is not None)

    def holds(self, path: str) -> bool:
        """True for a Parquet file."""
        return path.lower().endswith(".parquet")

    def read(
        self, path: str, offsets: list[int], sizes: list[int], options: SourceOptions
    ) -> list[bytes | None]:
        """Read the image column of the row groups that hold the rows."""
        found: dict[int, bytes | None] = {}
        wanted = np.unique(np.asarray(offsets, dtype=np.int64))
        with _open(path) as file:
            column = _image_column(file.schema_arrow, path, options.image_column)
            sizes_of_groups = [
                file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)
            ]
            bounds = np.cumsum([0, *sizes_of_groups])
            if wanted.size and (wanted[0] < 0 or wanted[-1] >= bounds[-1]):
                raise_changed(path)
            for group in np.unique(np.searchsorted(bounds, wanted, side="right") - 1).tolist():
                first, last = int(bounds[group]), int(bounds[group + 1])
                rows = wanted[(wanted >= first) & (wanted < last)]
                found |= _read_group(file, group, column, rows - first, first)
        return [found[row] for row in offsets]


def _read_group(
    file: pq.ParquetFile, group: int, column: str, rows: Any, first: int
) -> dict[int, bytes | None]:
    """Cells of ``rows`` (ascending, counted within the row group), by row number in the file."""
    found: dict[int, bytes | None] = {}
    start = 0
    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[column]):
        here = rows[(rows >= start) & (rows < start + batch.num_rows)]
        cells = batch.column(0)
        for row in here.tolist():
            cell = cells[row - start].as_py()
            found[first + row] = cell["bytes"] if isinstance(cell, dict) else cell
        start += batch.num_rows
        if start > rows[-1]:
            break
    return found


@contextmanager
def _open(path: str) -> Iterator[pq.ParquetFile]:
    with storage.open_read(path) as stream:
        try:
            # The pages are not read ahead: one row group of images may be gigabytes.
            yield pq.ParquetFile(stream, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            # Arrow reports damage as OSError too; the store's own failures keep their type.
            if isinstance(error, OSError) and (type(error) is not OSError or error.errno):
                raise
            raise SourceError(
                f"{path} is not a readable Parquet file: {error}; copy or write it again"
            ) from error


def _list_file(file: StoredFile, options: SourceOptions) -> pa.Table:
    stem = posixpath.basename(file.path)[: -len(".parquet")]
    with _open(file.path) as parquet:
        schema = parquet.schema_arrow
        _image_column(schema, file.path, options.image_column)
        column = _label_column(schema, file.path, options.label_column)
        count = parquet.metadata.num_rows
        labels = pa.nulls(count, pa.int64())
        if column is not None:
            labels = parquet.read(columns=[column]).column(0).combine_chunks().cast(pa.int64())
    return raw_listing(
        [
            [f"{stem}/{row}" for row in range(count)],
            labels,
            [file.path] * count,
            pa.array(np.arange(count)),
            pa.array(np.zeros(count, dtype=np.int64)),
        ]
    )


def _image_column(schema: pa.Schema, path: str, named: str | None) -> str:
    """Leaf of the encoded images, in Parquet's dotted notation."""
    usable: dict[str, str] = {}
    for field in schema:
        inner = field.type
        leaf = field.name
        if pa.types.is_struct(inner) and inner.get_field_index("bytes") >= 0:
            leaf, inner = f"{field.name}.bytes", inner.field("bytes").type
        if pa.types.is_binary(inner) or pa.types.is_large_binary(inner):
            usable[field.name] = leaf
    for name in [named] if named is not None else _IMAGE_COLUMNS:
        if name in usable:
            _require_one(schema, path, name, "--image-column")
            return usable[name]
    what = f"column {named!r}" if named is not None else f"any of {', '.join(_IMAGE_COLUMNS)}"
    raise SourceError(
        f"{path}: {what} must hold encoded images, as binary or struct<bytes, path>; "
        f"columns: {_columns(schema)}; name the right one with --image-column"
    )


def _label_column(schema: pa.Schema, path: str, named: str | None) -> str | None:
    """The column of class numbers; None if none is named and none has a usual name."""
    names = (named,) if named is not None else _LABEL_COLUMNS
    name = next((name for name in names if name in schema.names), None)
    if name is None and named is None:
        return None
    if name is not None:
        _require_one(schema, path, name, "--label-column")
    if name is None or not pa.types.is_integer(schema.field(name).type):
        raise SourceError(
            f"{path}: column {name or named!r} must hold class numbers, as integers; columns: "
            f"{_columns(schema)}; name the right one with --label-column"
        )
    return name


def _require_one(schema: pa.Schema, path: str, name: str, flag: str) -> None:
    if (count := schema.names.count(name)) > 1:
        raise SourceError(
            f"{path}: {count} columns are named {name!r}, so which is meant is unknown; write the "
            f"file with one of them, or name another with {flag}"
        )


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)
