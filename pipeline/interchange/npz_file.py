"""Arrays of votes in an npz, read without opening any pickle."""

import io
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ConfigError
from pipeline.interchange.columns import PICKLE, SPEC, Columns

_ARRAYS = ("votes", "labels", "image_ids", "plain", "errors", SPEC)
_UNREADABLE = (ValueError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError)


def read_npz(path: str, data: bytes) -> Columns:
    """The arrays of a file, checked for shape and type.

    Raises:
        ConfigError: It is no npz of votes; the message names the file and the array.
    """
    try:
        archive = np.load(io.BytesIO(data), allow_pickle=False)
        names = list(archive.files)
    except (*_UNREADABLE, AttributeError) as error:
        raise ConfigError(f"{path}: not an npz of arrays; {PICKLE}") from error
    unknown = sorted(set(names) - set(_ARRAYS))
    if unknown:
        raise ConfigError(
            f"{path}: array {unknown[0]!r} means nothing here; an npz of votes holds "
            f"{', '.join(_ARRAYS)}"
        )
    arrays = {name: _array(path, archive, name) for name in names}
    for name in ("votes", "labels"):
        if name not in arrays:
            raise ConfigError(
                f"{path}: it has no array {name!r}; votes is (images, ablations), labels (images,)"
                " with -1 where unknown"
            )
    told = arrays.get(SPEC)
    if told is not None and (told.dtype.kind != "U" or told.ndim):
        raise ConfigError(f"{path}: its {SPEC} is no text; leave it out and give flags")
    errors = _texts(path, "errors", arrays.get("errors"))
    plain = arrays.get("plain")
    return Columns(
        votes_nv=_integers(path, "votes", arrays["votes"], 2),
        labels=_integers(path, "labels", arrays["labels"], 1, 2).astype(np.int64),
        ids=_texts(path, "image_ids", arrays.get("image_ids")),
        plain_n=None if plain is None else _integers(path, "plain", plain, 1).astype(np.int64),
        errors=None if errors is None else [error or None for error in errors],
        told=None if told is None else str(told),
    )


def _array(path: str, archive: Any, name: str) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.asarray(archive[name])
    except _UNREADABLE as error:
        # numpy's words for object arrays speak of a setting that is not to be changed.
        reason = "Python objects" if "pickle" in str(error) else str(error)
        raise ConfigError(f"{path}: array {name!r} cannot be read ({reason}); {PICKLE}") from error
    return found


def _integers(path: str, name: str, found: NDArray[Any], *dimensions: int) -> NDArray[Any]:
    if found.dtype.kind not in "iu" or found.ndim not in dimensions:
        hint = "; of logits take the argmax over classes" if found.dtype.kind == "f" else ""
        raise ConfigError(
            f"{path}: {name} of shape {found.shape} and type {found.dtype}: they must be integers "
            f"in {' or '.join(map(str, dimensions))} dimensions{hint}"
        )
    if found.dtype == np.uint64:  # beside -1 it would become floats
        if found.size and found.max() > np.iinfo(np.int64).max:
            raise ConfigError(f"{path}: {name} {found.max()}: this is no class")
        return found.astype(np.int64)
    return found


def _texts(path: str, name: str, found: NDArray[Any] | None) -> list[str] | None:
    if found is None:
        return None
    if found.ndim != 1 or found.dtype.kind != "U":
        raise ConfigError(
            f"{path}: {name} of shape {found.shape} and type {found.dtype}: give one text an "
            "image, as in np.array(ids, dtype=str)"
        )
    texts: list[str] = found.tolist()
    return texts
