"""A cache of the contents of a source's files, so that a resume need not read them all again.

Kept under ``<out>/listings/``, one Parquet file a source. It holds, for each file, its description
by the store, the digest of its contents and the images in it. An entry is used only while the
description is the same: path, size and content tag on S3; path, size, and the times of the last
change of contents and of attributes in nanoseconds locally. A change of the contents that changes
none of these (a clock set back, a disk written past the file system) goes unseen; ``--overwrite``
does not help then, deleting ``listings/`` does.
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
from pipeline.sources.base import RAW_LISTING, FileNotes, SourceOptions, paths_of
from pipeline.sources.stored_files import StoredFile
from pipeline.storage.tables import write_parquet

# To be raised whenever a source lists other images, ids or labels from the same files.
_REVISION = 2
# A file may change twice within one tick of its clock, which its times would not show.
_TICK_SECONDS = 2.0
_FILES = b"patchcert.files"
_LONGEST_TEXT = 2**31 - 1
# Stored once a file.
_PATHS = "file"
_PLACE = RAW_LISTING.get_field_index(_PATHS)


@dataclass(frozen=True)
class CachedFile:
    """Contents of one file.

    Attributes:
        digest: Of its contents.
        images: RAW_LISTING of the images in it; None if it is an image itself.
        notes: What else is known of it.
    """

    digest: str
    images: pa.Table | None
    notes: FileNotes


@dataclass
class ListingCache:
    """Contents of a source's files.

    Attributes:
        known: Found by earlier jobs, by the file as it was then.
        found: Found by this job.
    """

    known: Mapping[StoredFile, CachedFile] = field(default_factory=dict)
    found: dict[StoredFile, CachedFile] = field(default_factory=dict)


@contextmanager
def cached_listing(
    out: str, data: str, options: SourceOptions, *, keep: bool = True
) -> Iterator[ListingCache]:
    """The cache of one source, kept for later jobs unless the block fails or ``keep`` is False.

    A cache that cannot be read or written costs time only.
    """
    request = [_REVISION, storage.full_path(data), options.image_column, options.label_column]
    name = hashlib.sha256(json.dumps(request).encode()).hexdigest()[:16]
    path = storage.join(out, "listings", f"{name}.parquet")
    cache, started = ListingCache(_load(path)), time.time()
    yield cache
    settled = {
        file: found
        for file, found in cache.found.items()
        if file.changed_ns is None or file.changed_ns / 1e9 < started - _TICK_SECONDS
    }
    if keep and settled and settled != cache.known:
        with suppress(*storage.failures()):
            write_parquet(path, _to_table(settled))


def _to_table(found: Mapping[StoredFile, CachedFile]) -> pa.Table:
    parts = [one.images for one in found.values() if one.images is not None]
    files = [
        [
            asdict(file),
            one.digest,
            None if one.images is None else one.images.num_rows,
            asdict(one.notes),
        ]
        for file, one in found.items()
    ]
    table = pa.concat_tables([RAW_LISTING.empty_table(), *parts]).drop_columns(_PATHS)
    return table.replace_schema_metadata({_FILES: json.dumps(files).encode()})


def _load(path: str) -> dict[StoredFile, CachedFile]:
    try:
        # Parquet's own limit on a text would refuse the files' descriptions of a million files.
        table = pq.read_table(
            io.BytesIO(storage.read_bytes(path)), thrift_string_size_limit=_LONGEST_TEXT
        )
        entries = json.loads(table.schema.metadata[_FILES])
        stored = RAW_LISTING.remove(_PLACE)
        images, start = table.replace_schema_metadata(None).cast(stored), 0
        known = {}
        for file, digest, rows, notes in entries:
            part = None
            if rows is not None:
                paths = paths_of(file["path"], rows)
                part = images.slice(start, rows).add_column(_PLACE, RAW_LISTING[_PLACE], paths)
                start += rows
            known[StoredFile(**file)] = CachedFile(digest, part, FileNotes(**notes))
    except (pa.ArrowException, ValueError, KeyError, TypeError, *storage.failures()):
        return {}
    return known
