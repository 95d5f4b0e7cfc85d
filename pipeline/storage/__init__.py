"""Every access to files, on a disk or on S3."""

from pipeline.storage.files import (
    S3,
    create,
    exists,
    expand,
    failures,
    filesystem,
    full_path,
    is_directory,
    join,
    list_files,
    list_folders,
    open_read,
    read_bytes,
    remove,
    write_atomically,
)

__all__ = [
    "S3",
    "create",
    "exists",
    "expand",
    "failures",
    "filesystem",
    "full_path",
    "is_directory",
    "join",
    "list_files",
    "list_folders",
    "open_read",
    "read_bytes",
    "remove",
    "write_atomically",
]
