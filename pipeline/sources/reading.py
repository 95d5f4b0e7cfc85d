"""The registry of sources, and the encoded bytes of listed images.

A file must be unchanged since it was listed, since votes are filed under the fingerprint of the
listing: on S3 the object of that content tag; locally the file of that size and those times, or,
where these differ (it was touched, or a node has a copy of its own), one of the same contents.
"""

import functools

import pyarrow as pa

from pipeline import storage
from pipeline.sources.base import Kind, Source, SourceError, SourceOptions, raise_changed
from pipeline.sources.folder import FolderSource
from pipeline.sources.parquet import ParquetSource
from pipeline.sources.stored_files import StoredFile, digest_of, hash64, stat
from pipeline.sources.tar import TarSource
from pipeline.storage.parallel import in_threads

SOURCES: dict[Kind, Source] = {
    "webdataset": TarSource(),
    "parquet": ParquetSource(),
    "folder": FolderSource(),  # last: it takes any directory
}
"""Every source; the first that matches ``--data`` is taken."""


def read_bytes_of(rows: pa.Table, options: SourceOptions) -> list[bytes | None]:
    """Read the encoded images of a slice of the listing, in its order.

    Costs one range read a file and run of neighbouring images for tars, the row groups concerned
    for Parquet, one read an image for folders.

    Args:
        rows: Some rows of a listing.
        options: As given to ``list_images``.

    Returns:
        Bytes an image; None where Parquet has a null.

    Raises:
        SourceError: A file changed since it was listed, or a Parquet page is damaged.
        OSError: The store failed; worth another try.
    """
    by_file: dict[str, list[int]] = {}
    for index, path in enumerate(rows.column("file").to_pylist()):
        by_file.setdefault(path, []).append(index)
    offsets, sizes = rows.column("offset").to_pylist(), rows.column("size").to_pylist()
    states, digests = rows.column("state"), rows.column("digest")

    def read(path: str) -> list[bytes | None]:
        places = by_file[path]
        source, state = _source_of(path), states[places[0]].as_py()
        if not path.startswith(storage.S3):
            state = _state_of_same(path, state, digests[places[0]].as_py())
        found = source.read(path, [offsets[i] for i in places], [sizes[i] for i in places], options)
        # Checked after the read: bytes read while the file changed are not of its listed state.
        if stat(path).state != state:
            raise_changed(path)
        return found

    result: list[bytes | None] = [None] * rows.num_rows
    for path, images in zip(by_file, in_threads(read, list(by_file)), strict=True):
        for index, data in zip(by_file[path], images, strict=True):
            result[index] = data
    return result


def _state_of_same(path: str, state: int, digest: int) -> int:
    """The present state of a local file, whose contents must be the listed ones."""
    now = stat(path)
    if now.state != state and _contents(now) != digest:
        raise_changed(path)
    return now.state


@functools.lru_cache(maxsize=4096)
def _contents(file: StoredFile) -> int:
    return hash64(digest_of(file))


def _source_of(path: str) -> Source:
    for source in SOURCES.values():
        if source.holds(path):
            return source
    raise SourceError(f"{path} is of no known kind of source: list the images again")
