"""Every access to files by path, local or on S3.

Paths are absolute local paths or ``s3://bucket/key`` URLs. S3 credentials, region and endpoint
come from the environment alone (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ...), so that no
configuration, manifest or log can hold them.
"""

import contextlib
import errno
import glob
import os
import sys
import uuid
from typing import Any

import fsspec

from pipeline.storage.addresses import holds_userinfo, redact
from pipeline.storage.parallel import in_threads
from pipeline.storage.patterns import PathError, expand_braces, hidden, local_matches, natural_key

S3 = "s3://"
# Sequential scans of S3 objects fetch this much at once: with 0.1 MB images a request per tar
# header would be bound by latency (about 3 MB/s), while 8 MiB requests fill the network.
_READ_AHEAD = 8 * 2**20
# Errors of systems whose file system (exFAT, a shared folder, a mounted bucket) has no links.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


def filesystem(path: str) -> tuple[Any, str]:
    """The fsspec filesystem of ``path``, and the path as that filesystem wants it.

    Raises:
        PathError: The path is empty, has a scheme other than ``s3://``, or holds credentials.
    """
    if path.lower().startswith(S3) and holds_userinfo(path):
        # Not repeated in the message: a log keeps it.
        raise PathError(
            f"{S3}***@...: credentials in an address end up in logs and manifests; set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        )
    if path.startswith(S3):
        from pipeline.storage.s3 import s3_filesystem  # noqa: PLC0415  (local paths need none of it)

        return s3_filesystem(), path.removeprefix(S3).rstrip("/")
    if not path or "://" in path:
        raise PathError(f"{redact(path)!r} is not a path: use a local path or {S3}bucket/key")
    return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(path))


def full_path(path: str) -> str:
    """``path`` made absolute, as :func:`expand` and the listings return it."""
    _, inner = filesystem(path)
    return S3 + inner if path.startswith(S3) else inner


def failures() -> tuple[type[BaseException], ...]:
    """Errors that reading or writing may raise, for ``except storage.failures()``."""
    # botocore's own errors (no credentials, no connection) are not OSErrors; when it has not been
    # imported they cannot have been raised.
    botocore = sys.modules.get("botocore.exceptions")
    return (OSError, PathError, *([botocore.BotoCoreError] if botocore else []))


def expand(pattern: str) -> list[str]:
    """Every file that ``pattern`` names: braces and the globs ``*``, ``**``, ``?``, ``[...]``.

    Links are followed. As in a shell, a wildcard stands for no name that starts with a dot.

    Returns:
        Absolute paths or URLs, in natural order, each once.

    Raises:
        PathError: An alternative of the braces, or a glob, names nothing.
        OSError: A folder that a glob looks into cannot be read.
    """
    return list(look_up(pattern))


def look_up(pattern: str) -> dict[str, dict[str, Any] | None]:
    """The files of :func:`expand`, with the answer that S3 gave for each; None for local files."""
    alternatives = expand_braces(pattern)
    found = in_threads(_matches, alternatives)
    missing = [name for name, paths in zip(alternatives, found, strict=True) if not paths]
    if missing:
        names = ", ".join(sorted(missing, key=natural_key)[:5])
        raise PathError(
            f"{pattern!r} names files that do not exist ({len(missing)} of {len(alternatives)}): "
            f"{names}; correct the path or restore the files"
        )
    entries = {path: entry for paths in found for path, entry in paths.items()}
    return {path: entries[path] for path in sorted(entries, key=natural_key)}


def _matches(path: str) -> dict[str, dict[str, Any] | None]:
    fs, inner = filesystem(path)
    on_s3 = path.startswith(S3)
    # A name that exists as written is meant as written, even one with brackets in it.
    if on_s3:
        with contextlib.suppress(FileNotFoundError):
            return {full_path(path): fs.info(inner)}
    elif fs.exists(inner):
        return {full_path(path): None}
    if not glob.has_magic(inner):
        return {}
    if not on_s3:
        return dict.fromkeys(local_matches(inner))
    matches = fs.glob(inner, detail=True).items()
    return {S3 + match: entry for match, entry in matches if hidden(match) == hidden(inner)}


def join(base: str, *parts: str) -> str:
    """``base/part/part``, for local paths and URLs alike."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def exists(path: str) -> bool:
    """True where a file or directory exists."""
    fs, inner = filesystem(path)
    return bool(fs.exists(inner))


def is_directory(path: str) -> bool:
    """True where ``path`` is a directory (on S3: a prefix of some key)."""
    fs, inner = filesystem(path)
    return bool(fs.isdir(inner))


def list_files(directory: str) -> list[str]:
    """Paths of the files directly in a directory, hidden ones too; none where there is none."""
    if directory.startswith(S3):
        return sorted(S3 + entry["name"] for entry in _s3_entries(directory, "file"))
    return sorted(entry.path for entry in _local_entries(directory) if entry.is_file())


def list_folders(directory: str) -> list[str]:
    """Names of the folders directly in a directory; none where there is none."""
    if directory.startswith(S3):
        names = [entry["name"].rstrip("/") for entry in _s3_entries(directory, "directory")]
        return sorted(name.rsplit("/", 1)[-1] for name in names)
    return sorted(entry.name for entry in _local_entries(directory) if entry.is_dir())


def _s3_entries(directory: str, kind: str) -> list[dict[str, Any]]:
    fs, root = filesystem(directory)
    with contextlib.suppress(FileNotFoundError):
        return [entry for entry in fs.ls(root, detail=True) if entry["type"] == kind]
    return []


def _local_entries(directory: str) -> list[os.DirEntry[str]]:
    """Entries of a directory, whose is_file() and is_dir() follow links, unlike fsspec."""
    with (
        contextlib.suppress(FileNotFoundError, NotADirectoryError),
        os.scandir(filesystem(directory)[1]) as entries,
    ):
        return list(entries)
    return []


def remove(path: str) -> None:
    """Delete a file; it is no error if another process was faster."""
    fs, inner = filesystem(path)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(inner)


def open_read(path: str, size: int | None = None) -> Any:
    """A seekable binary file for a scan from front to back; close it.

    Args:
        path: The file.
        size: Its bytes, where they are known: S3 is asked for them otherwise.
    """
    fs, inner = filesystem(path)
    if size is None or not path.startswith(S3):
        return fs.open(inner, "rb", block_size=_READ_AHEAD, cache_type="readahead")
    stream = fs.open(inner, "rb", block_size=_READ_AHEAD, cache_type="readahead", size=size)
    stream.details = {"name": inner, "size": size}  # which its first read would ask for
    return stream


def read_bytes(path: str, start: int | None = None, end: int | None = None) -> bytes:
    """Bytes ``start`` to ``end`` (exclusive) of a file, fewer where the file ends before."""
    fs, inner = filesystem(path)
    return bytes(fs.cat_file(inner, start=start, end=end))


def create(path: str, data: bytes) -> bool:
    """Write a whole file if there is none, atomically; return True if it was written.

    Raises:
        OSError: The file system has no hard links, or fails.
    """
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
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # There is no other way. A file that is created exclusively and then filled exists before it
        # is whole: another job would take a lease that it cannot read yet for an abandoned one, and
        # refuse a manifest. A job killed in between would leave such a manifest forever.
        raise OSError(
            f"{directory}: its file system has no hard links ({error.strerror}), which see to it "
            "that of jobs started at once just one begins a run; give --out on another (ext4, XFS, "
            f"APFS, NFS), or on {S3}"
        ) from error
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
