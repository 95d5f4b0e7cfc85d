"""Files as their store describes them."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.storage.files import S3, filesystem, full_path, look_up, open_read
from pipeline.storage.parallel import in_threads
from pipeline.storage.patterns import PathError, natural_key


@dataclass(frozen=True)
class StoredFile:
    """One file as its store describes it.

    Attributes:
        path: Absolute path or URL.
        size: Bytes.
        etag: The content tag that S3 keeps; None for local files.
        modified_ns: When the contents of a local file were last written, by its own account.
        changed_ns: When anything of a local file was last changed, by the kernel's account.
    """

    path: str
    size: int
    etag: str | None = None
    modified_ns: int | None = None
    changed_ns: int | None = None

    @property
    def state(self) -> int:
        """The store's description of the file without its path, as 64 bits."""
        return hash64(f"{self.size} {self.etag} {self.modified_ns} {self.changed_ns}")


def hash64(text: str) -> int:
    """The first 64 bits of the sha256 of ``text``."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def digest_of(file: StoredFile) -> str:
    """The content tag of a file, or else the sha256 (hex) of its bytes."""
    if file.etag is not None:  # S3 keeps one, and hashing the bytes would read them all
        return file.etag
    with open_read(file.path) as stream:
        digest = hashlib.sha256()
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def stat(path: str) -> StoredFile:
    """Size and content tag of one file; FileNotFoundError if there is none."""
    fs, inner = filesystem(path)
    if not path.startswith(S3):
        return _local(inner)
    return _of_entry(path, fs.info(inner))


def find(pattern: str) -> list[StoredFile]:
    """The files that a pattern names, in natural order; on S3 each is asked for at most once.

    Raises:
        PathError: An alternative of the braces, or a glob, names nothing, or a broken link.
    """

    def described(found: tuple[str, dict[str, Any] | None]) -> StoredFile:
        path, entry = found
        return stat(path) if entry is None else _of_entry(path, entry)

    return in_threads(described, list(look_up(pattern).items()))


def _of_entry(path: str, entry: dict[str, Any]) -> StoredFile:
    return StoredFile(full_path(path), int(entry["size"]), _etag(entry))


def mistaken(head: bytes) -> str | None:
    """Name what a file holds in place of its data, by its first bytes, and the remedy."""
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer, not the file itself: fetch that with `git lfs pull`"
    if head.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html", b"<head")):
        return "a saved web page, not the file itself: download that"
    return None


def _local(path: str) -> StoredFile:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if not os.path.islink(path):
            raise
        raise PathError(
            f"{path} is a broken link: {os.readlink(path)} does not exist; restore that, or "
            "remove the link"
        ) from None
    return StoredFile(path, found.st_size, None, found.st_mtime_ns, found.st_ctime_ns)


def _etag(info: dict[str, Any]) -> str | None:
    tag = info.get("ETag")
    return str(tag).strip('"') if tag else None


def list_directory(path: str, *, recursive: bool = False) -> list[StoredFile]:
    """The files in a directory, in natural order; names that start with a dot are left out.

    Symbolic links are followed. Raises PathError for a broken one, OSError for a directory that
    cannot be read.
    """
    fs, root = filesystem(path)
    if not path.startswith(S3):
        # fsspec's walk skips symbolic links silently: images would be lost.
        files = [_local(name) for name in _walk(root, recursive)]
    else:
        entries = fs.find(root, detail=True).values() if recursive else fs.ls(root, detail=True)
        files = [
            _of_entry(S3 + entry["name"], entry)
            for entry in entries
            if entry["type"] == "file"
            and not any(p.startswith(".") for p in entry["name"][len(root) :].split("/"))
        ]
    return sorted(files, key=lambda file: natural_key(file.path))


def _walk(directory: str, recursive: bool, above: frozenset[str] = frozenset()) -> Iterator[str]:
    """Paths of the files below ``directory``; a link to a directory above it ends there."""
    above |= {os.path.realpath(directory)}
    with os.scandir(directory) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in visible:
        if not entry.is_dir():
            yield entry.path
        elif recursive and os.path.realpath(entry.path) not in above:
            yield from _walk(entry.path, recursive, above)
