"""Read files of votes as arrays: npz, without opening any pickle, and Parquet.

Shape suffixes: N images of a file, V views, K labels of an image.
"""

import io
import zipfile
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.views.family import IntArray
from pipeline.config import ConfigError

SPEC = "spec"
"""Array of an npz, and metadata key of a Parquet file, that holds ``Spec.to_json``."""

PICKLE = (
    "files of Python objects can run code and are not opened: let their owner turn them into an "
    "npz, as docs/interchange.md shows"
)

NPZ_ARRAYS = ("votes", "labels", "image_ids", "plain", "errors", SPEC)
PARQUET_COLUMNS = ("image_id", "label", "labels", "votes", "plain_prediction", "error")

_UNREADABLE = (ValueError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError)


class Columns(NamedTuple):
    """Contents of a file of votes, whatever its format.

    Attributes:
        votes_nv: Class that each view voted for, -1 where an image has an error or the view was
            not asked; integers (N, V).
        labels: Right class of each image, -1 where unknown, int64 (N,); or its right classes, -1
            in empty slots, int64 (N, K).
        ids: Image ids; None where the file has none.
        plain_n: Class that the network gives the whole image; int64 (N,), or None where the file
            has none.
        errors: Reason why an image has no votes, None where it has them; None where the file has
            no such column.
        spec: Text of the spec in the file; None where it has none.
    """

    votes_nv: NDArray[Any]
    labels: IntArray
    ids: list[str] | None
    plain_n: IntArray | None
    errors: list[str | None] | None
    spec: str | None


def read_npz(path: str, data: bytes) -> Columns:
    """Read the arrays of an npz and check their shapes and types.

    Raises:
        ConfigError: It is no npz of votes; the message names the file and the array.
    """
    try:
        archive = np.load(io.BytesIO(data), allow_pickle=False)
        names = list(archive.files)
    except (*_UNREADABLE, AttributeError) as error:
        raise ConfigError(f"{path}: not an npz of arrays; {PICKLE}") from error
    unknown = sorted(set(names) - set(NPZ_ARRAYS))
    if unknown:
        raise ConfigError(
            f"{path}: array {unknown[0]!r} means nothing here; an npz of votes holds "
            f"{', '.join(NPZ_ARRAYS)}"
        )
    arrays = {name: _npz_array(path, archive, name) for name in names}
    for name in ("votes", "labels"):
        if name not in arrays:
            raise ConfigError(
                f"{path}: it has no array {name!r}; votes is (images, ablations), labels (images,)"
                " with -1 where unknown"
            )
    spec = arrays.get(SPEC)
    if spec is not None and (spec.dtype.kind != "U" or spec.ndim):
        raise ConfigError(f"{path}: its {SPEC} is no text; leave it out and give flags")
    errors = _npz_texts(path, "errors", arrays.get("errors"))
    plain = arrays.get("plain")
    return Columns(
        votes_nv=_npz_integers(path, "votes", arrays["votes"], 2),
        labels=_npz_integers(path, "labels", arrays["labels"], 1, 2).astype(np.int64),
        ids=_npz_texts(path, "image_ids", arrays.get("image_ids")),
        plain_n=None if plain is None else _npz_integers(path, "plain", plain, 1).astype(np.int64),
        errors=None if errors is None else [error or None for error in errors],
        spec=None if spec is None else str(spec),
    )


def _npz_array(path: str, archive: Any, name: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.asarray(archive[name])
    except _UNREADABLE as error:
        # numpy's message about object arrays names a setting that must not be changed.
        reason = "Python objects" if "pickle" in str(error) else str(error)
        raise ConfigError(f"{path}: array {name!r} cannot be read ({reason}); {PICKLE}") from error
    return array


def _npz_integers(path: str, name: str, array: NDArray[Any], *dimensions: int) -> NDArray[Any]:
    if array.dtype.kind not in "iu" or array.ndim not in dimensions:
        hint = "; of logits take the argmax over classes" if array.dtype.kind == "f" else ""
        raise ConfigError(
            f"{path}: {name} of shape {array.shape} and type {array.dtype}: they must be integers "
            f"in {' or '.join(map(str, dimensions))} dimensions{hint}"
        )
    if array.dtype == np.uint64:  # numpy turns uint64 beside -1 into floats
        if array.size and array.max() > np.iinfo(np.int64).max:
            raise ConfigError(f"{path}: {name} {array.max()}: this is no class")
        return array.astype(np.int64)
    return array


def _npz_texts(path: str, name: str, array: NDArray[Any] | None) -> list[str] | None:
    if array is None:
        return None
    if array.ndim != 1 or array.dtype.kind != "U":
        raise ConfigError(
            f"{path}: {name} of shape {array.shape} and type {array.dtype}: give one text an "
            "image, as in np.array(ids, dtype=str)"
        )
    texts: list[str] = array.tolist()
    return texts


def read_parquet(path: str, data: bytes) -> Columns:
    """Read the columns of a Parquet file and check their types; other columns are ignored.

    Raises:
        ConfigError: It holds no votes; the message names the file and the column.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        schema = file.schema_arrow
        names = [name for name in PARQUET_COLUMNS if name in schema.names]
        for name in names:
            if schema.names.count(name) > 1:
                raise ConfigError(
                    f"{path}: it has {schema.names.count(name)} columns {name}; keep one"
                )
        table = file.read(columns=names)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: not a whole Parquet file ({error}); give it again") from error
    if "votes" not in names or not {"label", "labels"} & set(names):
        raise ConfigError(
            f"{path}: it has the columns {', '.join(schema.names)}; votes (lists of class numbers) "
            "and label, or labels (lists), are needed"
        )
    spec = (schema.metadata or {}).get(SPEC.encode())
    columns = {name: table[name].combine_chunks() for name in names}
    plain, errors = columns.get("plain_prediction"), columns.get("error")
    any_voted = errors is None or errors.null_count
    several = "labels" in names and (
        "label" not in names or columns["labels"].null_count < table.num_rows
    )
    return Columns(
        votes_nv=_parquet_lists(path, "votes", columns["votes"], equally_long=True),
        labels=_parquet_lists(path, "labels", columns["labels"])
        if several
        else _parquet_integers(path, "label", columns["label"]),
        ids=_parquet_texts(path, "image_id", columns.get("image_id")),
        plain_n=None
        if plain is None or (any_voted and plain.null_count == len(plain))
        else _parquet_integers(path, "plain_prediction", plain),
        errors=_parquet_texts(path, "error", errors),
        spec=None if spec is None else spec.decode(errors="replace"),
    )


def _parquet_lists(
    path: str, name: str, column: pa.Array, *, equally_long: bool = False
) -> NDArray[Any]:
    """Read lists as rows, -1 in empty slots and where a list is null; integers (N, longest)."""
    kind = column.type
    is_list = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(test(kind) for test in is_list) or not pa.types.is_integer(kind.value_type):
        raise ConfigError(f"{path}: column {name} is {kind}: it must be lists of integers")
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    sizes = np.zeros(len(column), np.int64)
    kept = column.filter(column.is_valid())
    sizes[valid] = kept.cast(pa.large_list(kind.value_type)).value_lengths().to_numpy()
    width = int(sizes.max(initial=0))
    short = np.flatnonzero(valid & (sizes != width))
    if equally_long and len(short):
        raise ConfigError(
            f"{path}, row {short[0]}: {sizes[short[0]]} votes where others have {width}: every "
            "image has one vote of each ablation"
        )
    cells = kept.flatten()
    if cells.null_count and not equally_long:
        raise ConfigError(f"{path}: column {name} has a null inside a list; give every class")
    if equally_long and len(kept) == len(column) and not cells.null_count:
        in_own_type: NDArray[Any] = cells.to_numpy(zero_copy_only=False)
        return in_own_type.reshape(len(column), width)
    rows = np.full((len(column), max(width, 1)), -1, np.int64)
    rows[np.arange(rows.shape[1]) < sizes[:, None]] = _int64(path, name, cells)
    return rows


def _parquet_integers(path: str, name: str, column: pa.Array) -> IntArray:
    if not pa.types.is_integer(column.type):
        raise ConfigError(f"{path}: column {name} is {column.type}: it must be integers")
    return _int64(path, name, column)


def _int64(path: str, name: str, column: pa.Array) -> IntArray:
    """Convert to int64; null becomes -1."""
    try:
        integers: IntArray = column.cast(pa.int64()).fill_null(-1).to_numpy()
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{path}: column {name} holds no classes ({error})") from error
    return integers


def _parquet_texts(path: str, name: str, column: pa.Array | None) -> Any:
    if column is None or (name == "error" and column.null_count == len(column)):
        return None
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise ConfigError(f"{path}: column {name} is {column.type}: it must be text")
    if name == "image_id" and column.null_count:
        raise ConfigError(f"{path}: column {name} has a null; every image needs an id of its own")
    try:
        texts: list[str] = column.to_pylist()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: column {name} is not UTF-8 ({error}); write it again"
        ) from error
    return texts
