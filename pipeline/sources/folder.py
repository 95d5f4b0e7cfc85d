"""Image folders: ``root/<class>/**/*.JPEG``, and flat folders of images without a class."""

from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.sources.base import (
    IMAGE_SUFFIXES,
    Location,
    SourceOptions,
    raise_changed,
    raw_listing,
)
from pipeline.sources.class_names import folder_labels
from pipeline.sources.stored_files import StoredFile, list_directory

_SUFFIXES = tuple(f".{suffix}" for suffix in IMAGE_SUFFIXES)


class FolderSource:
    """One file an image."""

    def matches(self, location: Location) -> bool:
        """Any directory."""
        return location.is_directory

    def list_files(self, location: Location) -> list[StoredFile]:
        """Images at any depth, of any case of suffix."""
        files = list_directory(location.data, recursive=True)
        return [file for file in files if file.path.lower().endswith(_SUFFIXES)]

    def list_file(self, file: StoredFile, options: SourceOptions) -> None:
        """None: a file is an image and need not be opened."""

    def list_images(
        self,
        root: str,
        files: list[StoredFile],
        tables: list[pa.Table | None],
        options: SourceOptions,
        num_classes: int | None,
    ) -> pa.Table:
        """Images in the order of their paths; the id is the path below the root."""
        options.refuse("image_column", "label_column", kind="folder")
        ids = [file.path[len(root) :].lstrip("/") for file in files]
        # The folder directly below the root gives an image its class. An image in the root itself
        # has no class, unless a label map names the image.
        loose = [name for name in ids if "/" not in name]
        classes = sorted({name.split("/")[0] for name in ids if "/" in name})
        if options.ground_truth is not None:
            labels: dict[str, int | None] = dict.fromkeys(classes + loose)
        else:
            labels = folder_labels(classes, loose, options, num_classes)
        columns: list[Any] = [
            ids,
            [labels[name.split("/")[0]] for name in ids],
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
