"""Encoded bytes of listed images: what a task does with its slice of the listing."""

import pyarrow as pa

from pipeline.sources.base import Source, SourceError, SourceOptions
from pipeline.sources.registry import SOURCES
from pipeline.threads import in_threads


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
        SourceError: A file is no longer what was listed, or a Parquet page is damaged.
        OSError: The store failed; worth another try.
    """
    by_file: dict[str, list[int]] = {}
    for index, path in enumerate(rows.column("file").to_pylist()):
        by_file.setdefault(path, []).append(index)
    offsets, sizes = rows.column("offset").to_pylist(), rows.column("size").to_pylist()

    def read(path: str) -> list[bytes | None]:
        places = by_file[path]
        return _source_of(path).read(
            path, [offsets[i] for i in places], [sizes[i] for i in places], options
        )

    result: list[bytes | None] = [None] * rows.num_rows
    for path, images in zip(by_file, in_threads(read, list(by_file)), strict=True):
        for index, data in zip(by_file[path], images, strict=True):
            result[index] = data
    return result


def _source_of(path: str) -> Source:
    for source in SOURCES.values():
        if source.holds(path):
            return source
    raise SourceError(f"{path} is of no known kind of source: list the images again")
