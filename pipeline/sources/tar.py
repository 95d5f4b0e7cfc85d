"""WebDataset shards: tar files whose members ``<key>.jpg``, ``<key>.cls`` make up one image.

Members are listed by the headers of the archive, with proof that the file is whole: Python's
tarfile (and so every reader built on it) takes an archive that was cut at a header for a shorter
one; here the end-of-archive marker must follow the last member.
"""

import itertools
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
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
    printable,
    raise_changed,
    raw_listing,
)
from pipeline.sources.stored_files import StoredFile, mistaken

_UNPACK = "images are read by position, which needs plain tar; unpack it (gunzip) and list the .tar"
_MAGIC = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
_MARKER = 2 * tarfile.BLOCKSIZE  # two blocks of zeros end an archive
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# Up to this much unneeded data is read along rather than asking for the next image separately.
_JOIN_GAP = 2**20


class TarSource:
    """Tar shards in the WebDataset convention."""

    def matches(self, location: Location) -> bool:
        """A pattern of tar files, or a directory that directly holds some."""
        return location.any_ends_with(".tar", *_COMPRESSED)

    def list_files(self, location: Location) -> FoundFiles:
        """The shards; a compressed one is refused."""
        found = location.files(".tar", *_COMPRESSED)
        for file in found.files:
            if file.path.lower().endswith(_COMPRESSED):
                raise SourceError(f"{file.path} is compressed: {_UNPACK}")
        return found

    def list_file(self, file: StoredFile, options: SourceOptions) -> tuple[pa.Table, FileNotes]:
        """Images in the order of members; the id is ``<shard stem>/<key>``."""
        options.refuse("image_column", "label_column", kind="webdataset")
        return _list_shard(file)

    def list_images(
        self,
        root: str,
        files: list[StoredFile],
        tables: list[pa.Table | None],
        options: SourceOptions,
    ) -> pa.Table:
        """Images in the order of shards and members."""
        options.refuse("image_column", "label_column", kind="webdataset")
        return pa.concat_tables(table for table in tables if table is not None)

    def holds(self, path: str) -> bool:
        """True for a shard."""
        return path.lower().endswith(".tar")

    def read(
        self, path: str, offsets: list[int], sizes: list[int], options: SourceOptions
    ) -> list[bytes | None]:
        """Read images that lie close together by one range."""
        found: dict[tuple[int, int], bytes] = {}
        for span in _spans(sorted(zip(offsets, sizes, strict=True))):
            start, end = span[0][0], max(offset + size for offset, size in span)
            # S3 has no range of zero bytes.
            data = storage.read_bytes(path, start, end) if end > start else b""
            if len(data) != end - start:
                raise_changed(path)
            found |= {(at, size): data[at - start : at - start + size] for at, size in span}
        return [found[place] for place in zip(offsets, sizes, strict=True)]


@dataclass(frozen=True)
class _Member:
    """One entry of an archive.

    Attributes:
        name: As stored, without a leading ``./``. Only text: nothing is ever unpacked, so ``..``
            and absolute names can do no harm.
        offset: Byte position of the data in the archive.
        size: Bytes of data.
        is_plain: The data are the file's; not so for links and sparse files.
    """

    name: str
    offset: int
    size: int
    is_plain: bool


@dataclass
class _Sample:
    """The members of one key."""

    image: _Member | None = None
    label: tuple[str, int] | None = None  # name of the member, class number
    other: str | None = None  # a member that shows that an image was meant


def _spans(places: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Group (offset, size) pairs, sorted by offset, whose gaps are not worth another request."""
    span: list[tuple[int, int]] = []
    for place in places:
        if span and place[0] - sum(span[-1]) > _JOIN_GAP:
            yield span
            span = []
        span.append(place)
    if span:
        yield span


def _list_shard(file: StoredFile) -> tuple[pa.Table, FileNotes]:
    stem = posixpath.basename(file.path)[: -len(".tar")]
    samples: dict[str, _Sample] = {}
    others: Counter[str] = Counter()
    with storage.open_read(file.path, file.size) as opened:
        stream = _Placed(opened)
        for member in _scan(stream, file):
            if not _add(samples, member, stream, file):
                others[posixpath.splitext(member.name)[1].lower()] += 1
    rows: list[tuple[str, str | None, str, int, int]] = []
    for key, sample in samples.items():
        label_name, label = sample.label or (None, None)
        if (image := sample.image) is not None:
            written = None if label is None else str(label)
            rows.append((f"{stem}/{key}", written, file.path, image.offset, image.size))
        elif evidence := label_name or sample.other:
            raise SourceError(
                f"{file.path}: key {key!r} has {evidence!r} but no image member "
                f"({', '.join(f'{key}.{suffix}' for suffix in IMAGE_SUFFIXES)}); "
                "a key ends at the first dot of the name: add the image, rename the member, "
                "or build the shard without it"
            )
    rows.sort(key=lambda row: row[3])
    table = raw_listing(list(zip(*rows, strict=True)) if rows else [[]] * 5)
    return table, FileNotes(passed_over=dict(others))


class _Placed:
    """A stream that remembers its place.

    A file of Python asks the kernel for it, several times a member, and lets another thread go on
    meanwhile: sixteen threads listed local shards more slowly than one.
    """

    def __init__(self, stream: Any) -> None:
        self._stream, self._place = stream, 0

    def tell(self) -> int:
        return self._place

    def seek(self, place: int) -> int:
        self._place = self._stream.seek(place)
        return self._place

    def read(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        self._place += len(data)
        return data


def _add(samples: dict[str, _Sample], member: _Member, stream: Any, file: StoredFile) -> bool:
    """File a member under its key, the name up to the first dot; False if it is passed over."""
    folder, slash, base = member.name.rpartition("/")
    stem, _, suffix = base.partition(".")
    suffix = suffix.lower()
    if not stem:  # hidden files, such as the ._a.jpg that macOS adds, belong to no key
        return True
    if not member.is_plain:
        if suffix in (*IMAGE_SUFFIXES, "cls"):
            raise SourceError(
                f"{file.path}: member {member.name!r} is a link or a sparse file, which has no "
                "bytes of its own; build the shard from plain files (tar -h --hard-dereference)"
            )
        return False
    sample = samples.setdefault(folder + slash + stem, _Sample())
    earlier = None
    if suffix in IMAGE_SUFFIXES:
        earlier = sample.image and sample.image.name
        sample.image = member
    elif suffix == "cls":
        earlier = sample.label and sample.label[0]
        # Read now, while the bytes are at hand: going back would fetch them from S3 again.
        sample.label = member.name, _class_number(stream, member, file)
    elif suffix.endswith(tuple(f".{image}" for image in IMAGE_SUFFIXES)):
        sample.other = member.name
    if earlier is not None:
        raise SourceError(
            f"{file.path}: members {earlier!r} and {member.name!r} share one key, which may have "
            "one image and one label; rename one (a key ends at the first dot of the name)"
        )
    return suffix in (*IMAGE_SUFFIXES, "cls")


def _class_number(stream: Any, member: _Member, file: StoredFile) -> int:
    stream.seek(member.offset)
    text = stream.read(min(member.size, 32)).strip()
    if not re.fullmatch(rb"[+-]?[0-9]{1,18}", text):
        raise SourceError(
            f"{file.path}: member {member.name!r} must hold a class number as text; rebuild the "
            "shard with the number, or leave the member out if the class is unknown"
        )
    return int(text)


def _scan(stream: Any, file: StoredFile) -> Iterator[_Member]:
    """Yield every member but directories, each after proving that its data lie inside the file.

    Between two members the caller may move ``stream``.

    Raises:
        SourceError: The archive is cut, damaged, compressed, or followed by something else.
    """
    position = 0
    try:
        # The caller closes the stream; the archive object owns nothing else.
        archive = tarfile.TarFile(fileobj=stream)
        while (entry := archive.next()) is not None:
            position = entry.offset
            if entry.size < 0 or (entry.isreg() and entry.offset_data + entry.size > file.size):
                raise tarfile.ReadError(f"the data of {entry.name!r} reach beyond the end")
            if not entry.isdir():
                name = printable(re.sub(r"^(\./+)+", "", entry.name))
                is_plain = entry.isreg() and not entry.issparse()
                yield _Member(name, entry.offset_data, entry.size, is_plain)
            position = archive.offset
            headers: Any = archive  # its stubs lack the attribute
            headers.members.clear()  # it keeps every header, of millions too
    except SourceError:  # the caller's, while it handled a member
        raise
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        if position == 0:
            _refuse_others(stream, file)
        raise _damaged(file, position, str(error)) from error
    _check_end(stream, file, position)


def _refuse_others(stream: Any, file: StoredFile) -> None:
    stream.seek(0)
    head = stream.read(tarfile.BLOCKSIZE)
    if (packed := _MAGIC.get(head[:2])) is not None:
        raise SourceError(f"{file.path} is {packed} data, not a tar: {_UNPACK}")
    if (what := mistaken(head)) is not None:
        raise SourceError(f"{file.path} is {what}")


def _check_end(stream: Any, file: StoredFile, position: int) -> None:
    stream.seek(position)
    marker = stream.read(_MARKER)
    if len(marker) < _MARKER or marker.strip(b"\0"):
        raise _damaged(file, position, "no end-of-archive marker after the last whole member")
    for start in itertools.count(position + _MARKER, 2**20):
        rest = stream.read(2**20)
        if rest.strip(b"\0"):
            raise _damaged(file, start, "data after the end of the archive (joined with cat?)")
        if not rest:
            return


def _damaged(file: StoredFile, position: int, reason: str) -> SourceError:
    return SourceError(
        f"{file.path}: truncated or damaged tar at byte {position:,} of {file.size:,}: {reason}; "
        "copy or build the shard again"
    )
