"""WebDataset shards: tar files whose members ``<key>.jpg``, ``<key>.cls`` make up one image."""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.sources.base import (
    IMAGE_SUFFIXES,
    Location,
    SourceError,
    SourceOptions,
    changed,
    raw_listing,
)
from pipeline.sources.files import StoredFile
from pipeline.sources.tar_scan import UNPACK, Member, scan

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# Up to this much unneeded data is read along rather than asking for the next image separately.
_JOIN_GAP = 2**20


@dataclass
class _Sample:
    """The members of one key."""

    image: Member | None = None
    label: tuple[str, int] | None = None  # name of the member, class number
    other: str | None = None  # a member that shows that an image was meant


class TarSource:
    """Tar shards in the WebDataset convention."""

    def matches(self, location: Location) -> bool:
        """A pattern of tar files, or a directory that directly holds some."""
        return location.any_ends_with(".tar", *_COMPRESSED)

    def list_files(self, location: Location) -> list[StoredFile]:
        """The shards; a compressed one is refused."""
        files = location.files(".tar", *_COMPRESSED)
        for file in files:
            if file.path.lower().endswith(_COMPRESSED):
                raise SourceError(f"{file.path} is compressed: {UNPACK}")
        return files

    def list_file(self, file: StoredFile, options: SourceOptions) -> pa.Table:
        """Images in the order of members; the id is ``<shard stem>/<key>``."""
        options.refuse("image_column", "label_column", "label_map", kind="webdataset")
        return _list_shard(file)

    def list_images(
        self,
        root: str,
        files: list[StoredFile],
        tables: list[pa.Table | None],
        options: SourceOptions,
        num_classes: int | None,
    ) -> pa.Table:
        """Images in the order of shards and members."""
        options.refuse("image_column", "label_column", "label_map", kind="webdataset")
        return pa.concat_tables(table for table in tables if table is not None)

    def holds(self, path: str) -> bool:
        """Whether the file is a shard."""
        return path.lower().endswith(".tar")

    def read(
        self, path: str, offsets: list[int], sizes: list[int], options: SourceOptions
    ) -> list[bytes | None]:
        """One range read for images that lie close together."""
        found: dict[tuple[int, int], bytes] = {}
        for span in _spans(sorted(zip(offsets, sizes, strict=True))):
            start, end = span[0][0], max(offset + size for offset, size in span)
            # S3 has no range of zero bytes.
            data = storage.read_bytes(path, start, end) if end > start else b""
            if len(data) != end - start:
                changed(path)
            found |= {(at, size): data[at - start : at - start + size] for at, size in span}
        return [found[place] for place in zip(offsets, sizes, strict=True)]


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


def _list_shard(file: StoredFile) -> pa.Table:
    stem = posixpath.basename(file.path)[: -len(".tar")]
    samples: dict[str, _Sample] = {}
    with storage.open_read(file.path) as stream:
        for member in scan(stream, file):
            _add(samples, member, stream, file)
    rows: list[tuple[str, int | None, str, int, int]] = []
    for key, sample in samples.items():
        label_name, label = sample.label or (None, None)
        if (image := sample.image) is not None:
            rows.append((f"{stem}/{key}", label, file.path, image.offset, image.size))
        elif evidence := label_name or sample.other:
            raise SourceError(
                f"{file.path}: key {key!r} has {evidence!r} but no image member "
                f"({', '.join(f'{key}.{suffix}' for suffix in IMAGE_SUFFIXES)}); "
                "a key ends at the first dot of the name: add the image, rename the member, "
                "or build the shard without it"
            )
    rows.sort(key=lambda row: row[3])
    return raw_listing(list(zip(*rows, strict=True)) if rows else [[]] * 5)


def _add(samples: dict[str, _Sample], member: Member, stream: Any, file: StoredFile) -> None:
    """File a member under its key: the name up to the first dot of its last part."""
    folder, slash, base = member.name.rpartition("/")
    stem, _, suffix = base.partition(".")
    suffix = suffix.lower()
    if not stem:  # hidden files, such as the ._a.jpg that macOS adds, belong to no key
        return
    if not member.is_plain:
        if suffix in (*IMAGE_SUFFIXES, "cls"):
            raise SourceError(
                f"{file.path}: member {member.name!r} is a link or a sparse file, which has no "
                "bytes of its own; build the shard from plain files (tar -h --hard-dereference)"
            )
        return
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


def _class_number(stream: Any, member: Member, file: StoredFile) -> int:
    stream.seek(member.offset)
    text = stream.read(min(member.size, 32)).strip()
    if not re.fullmatch(rb"[+-]?[0-9]{1,18}", text):
        raise SourceError(
            f"{file.path}: member {member.name!r} must hold a class number as text; rebuild the "
            "shard with the number, or leave the member out if the class is unknown"
        )
    return int(text)
