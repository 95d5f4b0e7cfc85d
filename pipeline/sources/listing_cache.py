"""What earlier jobs found in the files of a source, so that a resume need not read them all again.

Kept under ``<out>/listings/``, one Parquet file a source. Of each file it holds what its store said
of it, the digest of its contents and the images in it. It is believed only of a file of which the
store still says the same: path, size and content tag on S3; path, size, and the times of the last
change of contents and of attributes in nanoseconds locally. Contents that change behind all of
these (a clock set back, a disk written past the file system) go unseen; ``--overwrite`` does not
help then, deleting ``listings/`` does.
"""

import hashlib
import io
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.sources.base import RAW_LISTING, SourceOptions
from pipeline.sources.stored_files import StoredFile
from pipeline.storage.tables import write_parquet

# To be raised whenever a source lists other images, ids or labels from the same files.
_REVISION = 1
# A file may change twice within one tick of its clock, which its times would not show.
_TICK_SECONDS = 2.0
_FILES = b"patchcert.files"


@dataclass(frozen=True)
class Remembered:
    """What is known of one file.

    Attributes:
        digest: Of its contents.
        images: RAW_LISTING of the images in it; None if its kind is listed without opening it.
    """

    digest: str
    images: pa.Table | None


@dataclass
class ListingCache:
    """What is known of a source's files.

    Attributes:
        known: From earlier jobs, by the file as it was then.
        found: By this job.
    """

    known: Mapping[StoredFile, Remembered] = field(default_factory=dict)
    found: dict[StoredFile, Remembered] = field(default_factory=dict)


@contextmanager
def remembered_listing(out: str, data: str, options: SourceOptions) -> Iterator[ListingCache]:
    """The memory of one source, kept for later jobs unless the block fails.

    A memory that cannot be read or written costs time only.
    """
    request = [_REVISION, storage.full_path(data), options.image_column, options.label_column]
    name = hashlib.sha256(json.dumps(request).encode()).hexdigest()[:16]
    path = storage.join(out, "listings", f"{name}.parquet")
    memory, started = ListingCache(_load(path)), time.time()
    yield memory
    settled = {
        file: found
        for file, found in memory.found.items()
        if file.changed_ns is None or file.changed_ns / 1e9 < started - _TICK_SECONDS
    }
    if settled and settled != memory.known:
        with suppress(*storage.failures()):
            write_parquet(path, _to_table(settled))


def _to_table(found: Mapping[StoredFile, Remembered]) -> pa.Table:
    parts = [one.images for one in found.values() if one.images is not None]
    files = [
        [asdict(file), one.digest, None if one.images is None else one.images.num_rows]
        for file, one in found.items()
    ]
    table = pa.concat_tables([RAW_LISTING.empty_table(), *parts])
    return table.replace_schema_metadata({_FILES: json.dumps(files).encode()})


def _load(path: str) -> dict[StoredFile, Remembered]:
    try:
        table = pq.read_table(io.BytesIO(storage.read_bytes(path)))
        entries = json.loads(table.schema.metadata[_FILES])
        images, start = table.replace_schema_metadata(None).cast(RAW_LISTING), 0
        known = {}
        for file, digest, rows in entries:
            part = None if rows is None else images.slice(start, rows)
            start += rows or 0
            known[StoredFile(**file)] = Remembered(digest, part)
    except (pa.ArrowException, ValueError, KeyError, TypeError, *storage.failures()):
        return {}
    return known
