"""The one door to files, local or on S3: everything that touches bytes by path goes through here.

Paths are absolute local paths or ``s3://bucket/key`` URLs. S3 credentials, region and endpoint
come from the environment alone (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ...), so that no
configuration, manifest or log can hold them.
"""

import contextlib
import os
import sys
import uuid
from typing import Any

import fsspec

from pipeline.patterns import PathError, expand_braces, natural_key
from pipeline.threads import in_threads

S3 = "s3://"
# Sequential scans of S3 objects fetch this much at once: with 0.1 MB images a request per tar
# header would be bound by latency (about 3 MB/s), while 8 MiB requests fill the network.
_READ_AHEAD = 8 * 2**20


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec filesystem of ``path``, and the path as that filesystem wants it.

    Raises:
        PathError: The path is empty, has a scheme other than ``s3://``, or holds credentials.
    """
    if path.startswith(S3):
        from pipeline.s3 import s3_filesystem  # noqa: PLC0415  (local paths need none of it)

        inner = path.removeprefix(S3).rstrip("/")
        if "@" in inner.split("/")[0]:
            # Not repeated in the message: a log keeps it.
            raise PathError(
                f"{S3}...@...: credentials in an address end up in logs and manifests; set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
            )
        return s3_filesystem(), inner
    if not path or "://" in path:
        raise PathError(f"{path!r} is not a path: use a local path or {S3}bucket/key")
    return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(path))


def full_path(path: str) -> str:
    """``path`` made absolute: what :func:`expand` and the listings return."""
    _, inner = filesystem(path)
    return S3 + inner if path.startswith(S3) else inner


def failures() -> tuple[type[BaseException], ...]:
    """What reading or writing may raise, for ``except storage.failures()``."""
    # botocore's own errors (no credentials, no connection) are not OSErrors; when it has not been
    # imported they cannot have been raised.
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError, PathError, *([botocore.BotoCoreError] if botocore else []))


def expand(pattern: str) -> list[str]:
    """Every file that ``pattern`` names: braces and the globs ``*``, ``?``, ``[...]``.

    Returns:
        Absolute paths or URLs, in natural order, each once.

    Raises:
        PathError: An alternative of the braces, or a glob, names nothing.
    """
    alternatives = expand_braces(pattern)
    found = in_threads(_matches, alternatives)
    missing = [name for name, paths in zip(alternatives, found, strict=True) if not paths]
    if missing:
        names = ", ".join(sorted(missing, key=natural_key)[:5])
        raise PathError(
            f"{pattern!r} names files that do not exist ({len(missing)} of {len(alternatives)}): "
            f"{names}; correct the path or restore the files"
        )
    return sorted({path for paths in found for path in paths}, key=natural_key)


def _matches(path: str) -> list[str]:
    fs, inner = filesystem(path)
    # A name that exists as written is meant as written, even one with brackets in it.
    if fs.exists(inner):
        return [full_path(path)]
    if not any(character in inner for character in "*?["):
        return []
    return [S3 + match if path.startswith(S3) else match for match in fs.glob(inner)]


def join(base: str, *parts: str) -> str:
    """``base/part/part``, for local paths and URLs alike."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def exists(path: str) -> bool:
    """Whether a file or directory is there."""
    fs, inner = filesystem(path)
    return bool(fs.exists(inner))


def is_directory(path: str) -> bool:
    """Whether ``path`` is a directory (on S3: a prefix of some key)."""
    fs, inner = filesystem(path)
    return bool(fs.isdir(inner))


def list_files(directory: str) -> list[str]:
    """Paths of the files directly in a directory, hidden ones too; none where there is none."""
    fs, root = filesystem(directory)
    with contextlib.suppress(FileNotFoundError):
        names = [entry["name"] for entry in fs.ls(root, detail=True) if entry["type"] == "file"]
        return sorted(S3 + name if directory.startswith(S3) else name for name in names)
    return []


def list_folders(directory: str) -> list[str]:
    """Names of the folders directly in a directory; none where there is none."""
    fs, root = filesystem(directory)
    with contextlib.suppress(FileNotFoundError):
        entries = [e["name"] for e in fs.ls(root, detail=True) if e["type"] == "directory"]
        return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in entries)
    return []


def remove(path: str) -> None:
    """Delete a file; it is no error if another process was faster."""
    fs, inner = filesystem(path)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(inner)


def open_read(path: str) -> Any:
    """A seekable binary file for a scan from front to back; close it."""
    fs, inner = filesystem(path)
    return fs.open(inner, "rb", block_size=_READ_AHEAD, cache_type="readahead")


def read_bytes(path: str, start: int | None = None, end: int | None = None) -> bytes:
    """Bytes ``start`` to ``end`` (exclusive) of a file, fewer where the file ends before."""
    fs, inner = filesystem(path)
    return bytes(fs.cat_file(inner, start=start, end=end))


def create(path: str, data: bytes) -> bool:
    """Write a whole file if there is none, atomically; whether it was written."""
    fs, inner = filesystem(path)
    if path.startswith(S3):
        try:
            fs.pipe_file(inner, data, mode="create")
        except FileExistsError:
            return False
        return True
    directory, name = os.path.split(inner)
    hidden = os.path.join(directory, f".{name}.{uuid.uuid4().hex}.new")
    write_atomically(hidden, data)
    try:
        os.link(hidden, inner)  # unlike a rename, it never replaces
    except FileExistsError:
        return False
    finally:
        os.unlink(hidden)
    return True


def write_atomically(path: str, data: bytes) -> None:
    """Write a whole file so that a reader sees the old content or the new, never a part.

    Local directories are made as needed. The bytes are on disk when this returns.
    """
    fs, inner = filesystem(path)
    if path.startswith(S3):
        fs.pipe_file(inner, data)  # an object appears when its upload is complete
        return
    directory, name = os.path.split(inner)
    os.makedirs(directory, exist_ok=True)
    # The leading dot hides it from every listing here, and from Parquet readers, if we are killed.
    temporary = os.path.join(directory, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, inner)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)  # the new name itself must survive a power cut
    finally:
        os.close(handle)
