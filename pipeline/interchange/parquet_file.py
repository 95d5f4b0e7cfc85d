"""Rows of votes in Parquet, with the column names that the votes of a run have."""

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config import ConfigError
from pipeline.interchange.columns import SPEC, Columns

IntArray = NDArray[np.int64]

_COLUMNS = ("image_id", "label", "labels", "votes", "plain_prediction", "error")


def read_parquet(path: str, data: bytes) -> Columns:
    """The columns of a file, checked for shape and type; other columns are left aside.

    Raises:
        ConfigError: It holds no votes; the message names the file and the column.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        schema = file.schema_arrow
        names = [name for name in _COLUMNS if name in schema.names]
        _refuse_doubled(path, names, schema)
        table = file.read(columns=names)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: not a whole Parquet file ({error}); give it again") from error
    if "votes" not in names or not {"label", "labels"} & set(names):
        raise ConfigError(
            f"{path}: it has the columns {', '.join(schema.names)}; votes (lists of class numbers) "
            "and label, or labels (lists), are needed"
        )
    told = (schema.metadata or {}).get(SPEC.encode())
    columns = {name: table[name].combine_chunks() for name in names}
    plain, errors = columns.get("plain_prediction"), columns.get("error")
    voted = errors is None or errors.null_count
    several = "labels" in names and (
        "label" not in names or columns["labels"].null_count < table.num_rows
    )
    return Columns(
        votes_nv=_lists(path, "votes", columns["votes"], equally_long=True),
        labels=_lists(path, "labels", columns["labels"])
        if several
        else _numbers(path, "label", columns["label"]),
        ids=_strings(path, "image_id", columns.get("image_id")),
        plain_n=None
        if plain is None or (voted and plain.null_count == len(plain))
        else _numbers(path, "plain_prediction", plain),
        errors=_strings(path, "error", errors),
        told=None if told is None else told.decode(errors="replace"),
    )


def _refuse_doubled(path: str, names: list[str], schema: pa.Schema) -> None:
    for name in names:
        if schema.names.count(name) > 1:
            raise ConfigError(f"{path}: it has {schema.names.count(name)} columns {name}; keep one")


def _lists(path: str, name: str, column: pa.Array, *, equally_long: bool = False) -> NDArray[Any]:
    """Lists as rows, -1 in empty slots and where a list is null; integers (N, longest)."""
    of = column.type
    listed = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(one(of) for one in listed) or not pa.types.is_integer(of.value_type):
        raise ConfigError(f"{path}: column {name} is {of}: it must be lists of integers")
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    sizes = np.zeros(len(column), np.int64)
    kept = column.filter(column.is_valid())
    sizes[valid] = kept.cast(pa.large_list(of.value_type)).value_lengths().to_numpy()
    width = int(sizes.max(initial=0))
    short = np.flatnonzero(valid & (sizes != width))
    if equally_long and len(short):
        raise ConfigError(
            f"{path}, row {short[0]}: {sizes[short[0]]} votes where others have {width}: every "
            "image has one vote of each ablation"
        )
    cells = kept.flatten()
    if cells.null_count:
        raise ConfigError(f"{path}: column {name} has a null inside a list; give every class")
    if equally_long and len(kept) == len(column):
        as_they_are: NDArray[Any] = cells.to_numpy(zero_copy_only=False)
        return as_they_are.reshape(len(column), width)
    rows = np.full((len(column), max(width, 1)), -1, np.int64)
    rows[np.arange(rows.shape[1]) < sizes[:, None]] = _wide(path, name, cells)
    return rows


def _numbers(path: str, name: str, column: pa.Array) -> IntArray:
    if not pa.types.is_integer(column.type):
        raise ConfigError(f"{path}: column {name} is {column.type}: it must be integers")
    return _wide(path, name, column)


def _wide(path: str, name: str, column: pa.Array) -> IntArray:
    """Integers; null is -1."""
    try:
        found: IntArray = column.cast(pa.int64()).fill_null(-1).to_numpy()
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{path}: column {name} holds no classes ({error})") from error
    return found


def _strings(path: str, name: str, column: pa.Array | None) -> Any:
    if column is None or (name == "error" and column.null_count == len(column)):
        return None
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise ConfigError(f"{path}: column {name} is {column.type}: it must be text")
    if name == "image_id" and column.null_count:
        raise ConfigError(f"{path}: column {name} has a null; every image needs an id of its own")
    try:
        texts: list[str] = column.to_pylist()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: column {name} is not UTF-8 ({error}); write it anew") from error
    return texts
