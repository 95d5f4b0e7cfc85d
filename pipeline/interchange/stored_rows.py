"""Files of votes as rows of the votes dataset, a unit at a time."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.ballots import ranked_counts
from pipeline.config import ConfigError
from pipeline.interchange.given import Given, read_given
from pipeline.manifest import Manifest
from pipeline.schema import votes_schema

# Images made rows at once.
_IMAGES = 256


def units_of(files: Sequence[Mapping[str, Any]], manifest: Manifest) -> Iterator[pa.Table]:
    """The rows of every unit of a run, in order.

    Args:
        files: Path and sha256 of each file that has been looked through.
        manifest: The run that they make.

    Raises:
        ConfigError: A file is another by now.
    """
    unit_images = int(manifest.execution["unit_images"])
    return _cut(_all_rows(files, manifest), unit_images)


def _all_rows(files: Sequence[Mapping[str, Any]], manifest: Manifest) -> Iterator[pa.Table]:
    for file in files:
        given = read_given(str(file["path"]))
        if given.sha256 != file["sha256"]:
            raise ConfigError(f"{given.path}: it changed while it was read; import it again")
        rows, voted_n = _facts(given), given.voted_n
        for start in range(0, len(given), _IMAGES):
            images = slice(start, start + _IMAGES)
            facts = rows.slice(start, _IMAGES)
            yield _table(facts, given.columns.votes_nv[images], voted_n[images], manifest)


def _facts(given: Given) -> pa.Table:
    """What is said of each image beside its votes."""
    label = "labels" if given.several else "label"
    types = votes_schema(labels=True)
    columns = {
        "image_id": given.ids,
        label: given.labels(),
        "plain_prediction": given.plain(),
        "error": given.errors,
    }
    return pa.table({name: pa.array(of, types.field(name).type) for name, of in columns.items()})


def _table(
    facts: pa.Table, votes_nv: NDArray[Any], voted_n: NDArray[np.bool_], manifest: Manifest
) -> pa.Table:
    """Rows of the votes dataset."""
    counts = [
        ranked_counts(votes) if voted else None
        for votes, voted in zip(votes_nv, voted_n, strict=True)
    ]
    ends = np.cumsum(np.where(voted_n, manifest.votes_per_image, 0))
    columns = {
        "votes": pa.ListArray.from_arrays(
            pa.array(np.append(0, ends), pa.int32()),
            pa.array(votes_nv[voted_n].astype(np.uint16).ravel()),
            mask=pa.array(~voted_n),
        ),
        "counts": counts,
        "prediction": [ranked and ranked[0]["class"] for ranked in counts],
    }
    arrays = []
    for field in manifest.schema:
        if field.name in facts.schema.names:
            arrays.append(facts[field.name])
        else:
            arrays.append(pa.array(columns.get(field.name, [None] * len(counts)), field.type))
    return pa.table(arrays, schema=manifest.schema)


def _cut(tables: Iterable[pa.Table], unit_images: int) -> Iterator[pa.Table]:
    """Rows cut anew, so many at a time; the last unit may hold fewer."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        rows = pa.concat_tables(waiting)
        whole = rows.num_rows - rows.num_rows % unit_images
        for start in range(0, whole, unit_images):
            yield rows.slice(start, unit_images).combine_chunks()
        waiting = [rows.slice(whole)]
    if waiting and waiting[0].num_rows:
        yield waiting[0].combine_chunks()
