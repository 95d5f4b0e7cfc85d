"""The columns of a listing, the options, and the protocol of every source of images."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn, Protocol

import numpy as np
import pyarrow as pa

from models.errors import RequestError
from pipeline.config.votes import Numbering
from pipeline.sources.stored_files import StoredFile, find, list_directory

Kind = Literal["webdataset", "parquet", "folder"]

# One row an image. ``offset`` and ``size`` say where its encoded bytes are: in a tar, the byte
# position and length of the member's data; in Parquet, the row number in the file and 0; in a
# folder, 0 and the file's length.
LABELLED = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        # The images of a file lie together, and hold its path once.
        pa.field("file", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        # Every class that is right, ascending; empty where none is known. Null, for all images,
        # unless the ground truth has several labels an image: then ``label`` is null instead.
        pa.field("labels", pa.list_(pa.int32())),
    ]
)
# 64 bits each of the store's description of the file as it was listed, and of its contents: by
# these a later reader checks that the bytes are the listed ones.
LISTING = pa.schema(
    [
        *LABELLED,
        pa.field("state", pa.uint64(), nullable=False),
        pa.field("digest", pa.uint64(), nullable=False),
    ]
)
# Rows that a source returns: labels as they are written, which become class numbers in one place.
RAW_LISTING = pa.schema([LISTING[0], pa.field("label", pa.string()), *list(LISTING)[2:5]])

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")


class SourceError(RequestError):
    """The data cannot be certified as given; the message has the rule and the remedy."""


@dataclass(frozen=True)
class SourceOptions:
    """Choices that the layout of a source leaves open.

    Attributes:
        image_column: Parquet column of the encoded images; None tries the usual names.
        label_column: Parquet column of the class numbers; None tries the usual names.
        label_map: File that gives the labels of the data, class folders, or images that lie in
            none, their numbers.
        ground_truth: File of one label an image in the order of validation images, or of several
            (JSON); replaces the source's own labels.
        numbering: Meaning of the integers of a plain ground-truth file.
        classes: Class numbers that the logits are restricted to; None for all of the model's.
    """

    image_column: str | None = None
    label_column: str | None = None
    label_map: str | None = None
    ground_truth: str | None = None
    numbering: Numbering | None = None
    classes: tuple[int, ...] | None = None

    def refuse(self, *fields: str, kind: Kind) -> None:
        """Raise SourceError if one of ``fields``, which have no meaning for ``kind``, is set."""
        for field in fields:
            if getattr(self, field) is not None:
                flag = "--" + field.replace("_", "-")
                raise SourceError(f"{flag} has no meaning for a {kind} source: leave it out")


@dataclass(frozen=True)
class Location:
    """The place that ``--data`` names, before its files are looked up.

    Attributes:
        data: As the user wrote it.
        names: Paths that the pattern spells out, or names directly inside the directory.
        is_directory: It is an existing directory.
    """

    data: str
    names: tuple[str, ...]
    is_directory: bool

    def any_ends_with(self, *suffixes: str) -> bool:
        """True where a name has one of ``suffixes``, in any case."""
        return any(name.lower().endswith(suffixes) for name in self.names)

    def files(self, *suffixes: str, recursive: bool = False) -> "FoundFiles":
        """The files of a pattern, or those with one of ``suffixes`` in the directory."""
        if not self.is_directory:
            return FoundFiles(find(self.data))
        files = list_directory(self.data, recursive=recursive)
        taken = [file.path.lower().endswith(suffixes) for file in files]
        return FoundFiles(
            [file for file, wanted in zip(files, taken, strict=True) if wanted],
            [file.path for file, wanted in zip(files, taken, strict=True) if not wanted],
        )


class FoundFiles(NamedTuple):
    """The files of a place.

    Attributes:
        files: Those that hold images, in the order their images are listed.
        others: Paths of those that are passed over.
    """

    files: list[StoredFile]
    others: Iterable[str] = ()


@dataclass(frozen=True)
class FileNotes:
    """Facts about a file beside its images; all of it can be kept as JSON.

    Attributes:
        passed_over: Members of an archive that are neither image nor label, by suffix.
        label_column: Column that the labels are from.
        columns: Columns but that of the images, and their types, as "name: type".
        class_names: Names that the file gives the classes of its label column.
    """

    passed_over: dict[str, int] = dataclasses.field(default_factory=dict)
    label_column: str | None = None
    columns: list[str] = dataclasses.field(default_factory=list)
    class_names: list[str] = dataclasses.field(default_factory=list)


class Source(Protocol):
    """One layout of images in files. A new one is a file like this and a line in the registry."""

    def matches(self, location: Location) -> bool:
        """True where ``--data`` looks like this layout."""

    def list_files(self, location: Location) -> FoundFiles:
        """The files that hold images, and those beside them that do not."""

    def list_file(
        self, file: StoredFile, options: SourceOptions
    ) -> tuple[pa.Table | None, FileNotes]:
        """The images in one file, as RAW_LISTING; None if the file is an image itself.

        Depends on the file, ``image_column`` and ``label_column`` alone: the outcome is kept.

        Raises:
            SourceError: The file is damaged, or does not have the layout.
        """

    def list_images(
        self,
        root: str,
        files: list[StoredFile],
        tables: list[pa.Table | None],
        options: SourceOptions,
    ) -> pa.Table:
        """Every image in ``files``, as RAW_LISTING in a fixed order.

        Args:
            root: Full path of the directory; for a pattern, of the deepest common one.
            files: The result of ``list_files``.
            tables: The images in each of them.
            options: The user's choices.

        Raises:
            SourceError: An option has no meaning for this layout.
        """

    def holds(self, path: str) -> bool:
        """True for a listed file of this layout."""

    def read(
        self, path: str, offsets: list[int], sizes: list[int], options: SourceOptions
    ) -> list[bytes | None]:
        """Encoded bytes of images in one file, in the order of ``offsets``; None for a null."""


def raw_listing(columns: list[Any]) -> pa.Table:
    """A table of the five columns of RAW_LISTING, from arrays or lists."""
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, type=field.type)
        for column, field in zip(columns, RAW_LISTING, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=RAW_LISTING)


def paths_of(path: str, images: int) -> pa.DictionaryArray:
    """Column ``file`` of so many images of one file."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(images, np.int32)), [path])


def printable(name: str) -> str:
    r"""``name`` as valid UTF-8: bytes of another encoding become ``\xNN``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def raise_changed(path: str) -> NoReturn:
    """Raise the error of a file that changed since it was listed."""
    raise SourceError(f"{path} is not what was listed: it changed since; start the job again")
