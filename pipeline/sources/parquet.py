"""Parquet of encoded images: a column of bytes, flat or as Hugging Face's struct, and a label."""

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.sources.base import (
    FileNotes,
    FoundFiles,
    Location,
    SourceError,
    SourceOptions,
    paths_of,
    raise_changed,
    raw_listing,
)
from pipeline.sources.class_names import parse_json
from pipeline.sources.stored_files import StoredFile, mistaken

_IMAGE_COLUMNS = ("image", "img", "jpg", "png", "bytes")
LABEL_COLUMNS = ("label", "labels", "cls")
_LABEL_TYPES = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
_BATCH_ROWS = 256  # rows decoded at a time, to bound memory
_BUFFER_BYTES = 1 << 20


class ParquetSource:
    """Rows of Parquet files."""

    def matches(self, location: Location) -> bool:
        """A pattern of Parquet files, or a directory that directly holds some."""
        return location.any_ends_with(".parquet")

    def list_files(self, location: Location) -> FoundFiles:
        """The Parquet files; names with a leading underscore are other programs' metadata."""
        found = location.files(".parquet")
        if not location.is_directory:
            return found
        plain = [file for file in found.files if not posixpath.basename(file.path).startswith("_")]
        return found._replace(files=plain)

    def list_file(self, file: StoredFile, options: SourceOptions) -> tuple[pa.Table, FileNotes]:
        """Images in the order of rows; the id is ``<file stem>/<row>``."""
        return _list_file(file, options)

    def list_images(
        self,
        root: str,
        files: list[StoredFile],
        tables: list[pa.Table | None],
        options: SourceOptions,
    ) -> pa.Table:
        """Images in the order of files and rows."""
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
    file: pq.ParquetFile, group: int, column: tuple[str, str], rows: Any, first: int
) -> dict[int, bytes | None]:
    """Cells of ``rows`` (ascending, counted within the row group), by row number in the file."""
    found: dict[int, bytes | None] = {}
    start = 0
    # The name of a leaf may be that of a flat column too (``image.bytes``): Arrow reads both, and
    # the field tells which is meant.
    field, leaf = column
    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[leaf]):
        here = rows[(rows >= start) & (rows < start + batch.num_rows)]
        cells = batch.column(field)
        for row in here.tolist():
            cell = cells[row - start].as_py()
            found[first + row] = cell["bytes"] if isinstance(cell, dict) else cell
        start += batch.num_rows
        if start > rows[-1]:
            break
    return found


@contextmanager
def _open(path: str, size: int | None = None) -> Iterator[pq.ParquetFile]:
    with storage.open_read(path, size) as stream:
        try:
            # Neither read ahead nor, by the buffer, whole: a row group of images may be gigabytes.
            yield pq.ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        except (pa.ArrowException, OSError) as error:
            # Arrow reports damage as OSError too; the store's own failures keep their type.
            own = isinstance(error, OSError) and (type(error) is not OSError or error.errno)
            if own or isinstance(error, MemoryError):
                raise
            if "crypt" in str(error).lower():
                raise SourceError(
                    f"{path} is encrypted, and keys are not taken here: decrypt it, that is, write "
                    "it again without encryption, with a program that has its keys"
                ) from error
            if (what := mistaken(storage.read_bytes(path, 0, 512))) is not None:
                raise SourceError(f"{path} is {what}") from error
            raise SourceError(
                f"{path} is not a readable Parquet file: {error}; copy or write it again"
            ) from error


def _list_file(file: StoredFile, options: SourceOptions) -> tuple[pa.Table, FileNotes]:
    stem = posixpath.basename(file.path)[: -len(".parquet")]
    with _open(file.path, file.size) as parquet:
        schema = parquet.schema_arrow
        image, _ = _image_column(schema, file.path, options.image_column)
        column = _label_column(schema, file.path, options.label_column)
        count = parquet.metadata.num_rows
        labels = pa.nulls(count, pa.string())
        if column is not None:
            found = parquet.read(columns=[column]).column(column)
            labels = found.cast(_value_type(found.type)).cast(pa.string()).combine_chunks()
    table = raw_listing(
        [
            [f"{stem}/{row}" for row in range(count)],
            labels,
            paths_of(file.path, count),
            pa.array(np.arange(count)),
            pa.array(np.zeros(count, dtype=np.int64)),
        ]
    )
    return table, FileNotes(
        label_column=column,
        columns=[f"{field.name}: {field.type}" for field in schema if field.name != image],
        class_names=_class_names(schema, column),
    )


def _class_names(schema: pa.Schema, column: str | None) -> list[str]:
    """Names of the classes of a column, as Hugging Face's ``datasets`` notes them in the schema."""
    try:
        features = parse_json((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[column]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


def _value_type(kind: pa.DataType) -> pa.DataType:
    """Type of the values, of categories too."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _image_column(schema: pa.Schema, path: str, named: str | None) -> tuple[str, str]:
    """Column of the encoded images, and its leaf in Parquet's dotted notation."""
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
            return name, usable[name]
    what = f"column {named!r}" if named is not None else f"any of {', '.join(_IMAGE_COLUMNS)}"
    raise SourceError(
        f"{path}: {what} must hold encoded images, as binary or struct<bytes, path>; "
        f"columns: {_columns(schema)}; name the right one with --image-column"
    )


def _label_column(schema: pa.Schema, path: str, named: str | None) -> str | None:
    """The column of labels; None if none is named and none has a usual name."""
    names = (named,) if named is not None else LABEL_COLUMNS
    name = next((name for name in names if name in schema.names), None)
    if name is None and named is None:
        return None
    if name is not None:
        _require_one(schema, path, name, "--label-column")
    kind = None if name is None else _value_type(schema.field(name).type)
    if kind is None or not any(is_kind(kind) for is_kind in _LABEL_TYPES):
        raise SourceError(
            f"{path}: column {name or named!r} must hold class numbers, as integers, or names, as "
            f"text; columns: {_columns(schema)}; name the right one with --label-column"
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
