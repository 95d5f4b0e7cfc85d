"""Image folders: ``root/<class>/**/*.JPEG``, and flat folders of images without a class."""

from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.sources.base import (
    IMAGE_SUFFIXES,
    FileNotes,
    FoundFiles,
    Location,
    SourceError,
    SourceOptions,
    raise_changed,
    raw_listing,
)
from pipeline.sources.stored_files import StoredFile, mistaken

_SUFFIXES = tuple(f".{suffix}" for suffix in IMAGE_SUFFIXES)
_POINTER_BYTES = 200  # no pointer of Git LFS is longer, and few images are so short


class FolderSource:
    """One file an image."""

    def matches(self, location: Location) -> bool:
        """Any directory."""
        return location.is_directory

    def list_files(self, location: Location) -> FoundFiles:
        """Images at any depth, of any case of suffix."""
        return location.files(*_SUFFIXES, recursive=True)

    def list_file(self, file: StoredFile, options: SourceOptions) -> tuple[None, FileNotes]:
        """None: a file is an image; one that stands for an image elsewhere is refused."""
        small = file.size < _POINTER_BYTES and file.size > 0
        if small and (what := mistaken(storage.read_bytes(file.path, 0, file.size))):
            raise SourceError(f"{file.path} is {what}")
        return None, FileNotes()

    def list_images(
        self,
        root: str,
        files: list[StoredFile],
        tables: list[pa.Table | None],
        options: SourceOptions,
    ) -> pa.Table:
        """Images in the order of their paths; the id is the path below the root."""
        options.refuse("image_column", "label_column", kind="folder")
        ids = [file.path[len(root) :].lstrip("/") for file in files]
        columns: list[Any] = [
            ids,
            # The folder directly below the root; of an image in the root itself its own name.
            [name.split("/")[0] for name in ids],
            [file.path for file in files],
            [0] * len(files),
            [file.size for file in files],
        ]
        return raw_listing(columns)

    def holds(self, path: str) -> bool:
        """True for a file that is an image by its name."""
        return path.lower().endswith(_SUFFIXES)

    def read(
        self, path: str, offsets: list[int], sizes: list[int], options: SourceOptions
    ) -> list[bytes | None]:
        """The whole file."""
        # A range, though it is the whole file, saves S3 a request for the length. S3 has no range
        # of zero bytes.
        data = storage.read_bytes(path, 0, sizes[0]) if sizes[0] else b""
        if any(size != len(data) for size in sizes):
            raise_changed(path)
        return [data] * len(sizes)
