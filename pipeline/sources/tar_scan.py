"""The members of a tar file, by its headers alone, with proof that the file is whole.

Python's tarfile (and so every reader built on it) takes an archive that was cut at a header for a
shorter one; here the end-of-archive marker must follow the last member.
"""

import itertools
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.sources.base import SourceError, printable
from pipeline.sources.files import StoredFile

UNPACK = "images are read by position, which needs plain tar; unpack it (gunzip) and list the .tar"
_MAGIC = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
_MARKER = 2 * tarfile.BLOCKSIZE  # two blocks of zeros end an archive


@dataclass(frozen=True)
class Member:
    """One entry of an archive.

    Attributes:
        name: As stored, without a leading ``./``. Only text: nothing is ever unpacked, so ``..``
            and absolute names can do no harm.
        offset: Byte position of the data in the archive.
        size: Bytes of data.
        is_plain: Whether the data are the file's; not so for links and sparse files.
    """

    name: str
    offset: int
    size: int
    is_plain: bool


def scan(stream: Any, file: StoredFile) -> Iterator[Member]:
    """Every member but directories, each after proving that its data lie inside the file.

    Between two members the caller may move ``stream``.

    Raises:
        SourceError: The archive is cut, damaged, compressed, or followed by something else.
    """
    position = 0
    try:
        # Closing the stream is the caller's affair; the archive object owns nothing else.
        archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115
        while (entry := archive.next()) is not None:
            position = entry.offset
            if entry.size < 0 or (entry.isreg() and entry.offset_data + entry.size > file.size):
                raise tarfile.ReadError(f"the data of {entry.name!r} reach beyond the end")
            if not entry.isdir():
                name = printable(re.sub(r"^(\./+)+", "", entry.name))
                is_plain = entry.isreg() and not entry.issparse()
                yield Member(name, entry.offset_data, entry.size, is_plain)
            position = archive.offset
    except SourceError:  # the caller's, while it handled a member
        raise
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        if position == 0:
            _refuse_compressed(stream, file)
        raise _damaged(file, position, str(error)) from error
    _check_end(stream, file, position)


def _refuse_compressed(stream: Any, file: StoredFile) -> None:
    stream.seek(0)
    if (packed := _MAGIC.get(stream.read(2))) is not None:
        raise SourceError(f"{file.path} is {packed} data, not a tar: {UNPACK}")


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
