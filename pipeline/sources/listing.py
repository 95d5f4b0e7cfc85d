"""Every image of the data, listed before any GPU time: its id, its label, where its bytes are."""

import hashlib
import json
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.sources.base import LISTING, Kind, Location, SourceError, SourceOptions
from pipeline.sources.ground_truth import with_labels
from pipeline.sources.listing_cache import CachedFile, ListingCache
from pipeline.sources.reading import SOURCES
from pipeline.sources.stored_files import StoredFile, digest_of, hash64, list_directory
from pipeline.storage.parallel import in_threads
from pipeline.storage.patterns import PathError, expand_braces, natural_key

_LAYOUTS = (
    "give tar shards (*.tar, {000..049}.tar), Parquet files (*.parquet), or a directory of "
    "either or of class folders with images"
)


@dataclass(frozen=True)
class Listing:
    """All images of a source, or the first of them.

    Attributes:
        table: Columns of LISTING, one row an image, in an order that is the same on every machine.
        fingerprint: sha256 (hex) of the names, sizes and contents of the files, wherever they lie.
        kind: Layout of the files.
    """

    table: pa.Table
    fingerprint: str
    kind: Kind

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def head(self, limit: int | None) -> "Listing":
        """The first ``limit`` images; all of them if None. The fingerprint stays the files'."""
        if limit is not None and limit < 1:
            raise SourceError(f"limit={limit}: at least one image must be listed")
        return self if limit is None else replace(self, table=self.table.slice(0, limit))


def list_images(
    data: str,
    options: SourceOptions,
    num_classes: int | None,
    cache: ListingCache | None = None,
) -> Listing:
    """List every image of ``data``, a path, directory or pattern, local or on S3.

    Tar shards are read through once (headers here, contents for the fingerprint); of Parquet only
    the footer and the labels are read.

    Args:
        data: Tar or Parquet pattern, or directory.
        options: Choices that the layout leaves open.
        num_classes: Classes of the model, which labels must fit; None if unknown.
        cache: Contents of files that earlier jobs listed and that have not changed; added to.

    Raises:
        SourceError: There is no image, a file is damaged, an id is doubled, a label is no class of
            the model, or the store cannot be read.
    """
    with _in_words(data):
        location = _locate(data)
        kind = _kind_of(location)
        source = SOURCES[kind]
        files = source.list_files(location)
        if not files:
            raise SourceError(f"{data} holds no {kind} images: {_LAYOUTS}")
        _require_utf8(files)
        root = storage.full_path(data) if location.is_directory else _common_root(files)
        cache = cache or ListingCache()

        def open_file(file: StoredFile) -> CachedFile:
            known = cache.known.get(file)
            return known or CachedFile(digest_of(file), source.list_file(file, options))

        contents = in_threads(open_file, files)
        cache.found.update(zip(files, contents, strict=True))
        tables = [one.images for one in contents]
        table = source.list_images(root, files, tables, options, num_classes)
        if table.num_rows == 0:
            raise SourceError(
                f"{data}: none of its {len(files)} files holds an image; check the path, and that "
                "the members are named <key>.jpg, .jpeg, .png or .webp"
            )
        _check_unique(table)
        table = with_labels(table, options, kind, num_classes)
        digests = [one.digest for one in contents]
        table = _with_states(table, files, digests)
        return Listing(table, _fingerprint(files, digests, root), kind)


def find_files(data: str) -> tuple[Kind, list[StoredFile]]:
    """Layout and files of ``data``, none of them opened.

    Raises:
        SourceError: There is no file of a known layout, or the store cannot be read.
    """
    with _in_words(data):
        location = _locate(data)
        kind = _kind_of(location)
        files = SOURCES[kind].list_files(location)
        if not files:
            raise SourceError(f"{data} holds no {kind} images: {_LAYOUTS}")
        return kind, files


@contextmanager
def _in_words(data: str) -> Iterator[None]:
    """Turn the errors of a store into SourceError."""
    try:
        yield
    except SourceError:
        raise
    except PathError as error:
        raise SourceError(str(error)) from error
    except storage.failures() as error:
        raise SourceError(
            f"{data} cannot be listed: {error}; check the path, its permissions and, for s3://, "
            "the AWS_* variables of the environment"
        ) from error


def _locate(data: str) -> Location:
    if storage.is_directory(data):
        names = [posixpath.basename(file.path) for file in list_directory(data)]
        return Location(data, tuple(names), is_directory=True)
    return Location(data, tuple(expand_braces(data)), is_directory=False)


def _kind_of(location: Location) -> Kind:
    kinds: list[Kind] = [kind for kind, source in SOURCES.items() if source.matches(location)]
    if not kinds:
        storage.expand(location.data)  # a path that does not exist deserves that message
        raise SourceError(f"{location.data} is no source of images: {_LAYOUTS}")
    specific = [kind for kind in kinds if kind != "folder"]
    if len(specific) > 1:
        raise SourceError(
            f"{location.data} holds files of several kinds ({', '.join(specific)}): name those "
            "meant by a pattern, such as DIR/*.tar or DIR/*.parquet"
        )
    return kinds[0]


def _require_utf8(files: list[StoredFile]) -> None:
    for file in files:
        try:
            file.path.encode()
        except UnicodeEncodeError:
            raise SourceError(
                f"{file.path!r}: the name is not UTF-8, so it can be no image id; rename the file"
            ) from None


def _common_root(files: list[StoredFile]) -> str:
    folders = {posixpath.dirname(storage.filesystem(file.path)[1]) for file in files}
    root = posixpath.commonpath(folders)
    return storage.S3 + root if files[0].path.startswith(storage.S3) else root


def _check_unique(table: pa.Table) -> None:
    counts = pc.value_counts(table.column("image_id"))
    doubled = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(doubled) == 0:
        return
    shown = doubled.slice(0, 5)
    where = table.filter(pc.is_in(table.column("image_id"), value_set=shown)).column("file")
    paths = sorted(set(where.to_pylist()), key=natural_key)[:10]
    raise SourceError(
        f"{len(doubled)} image ids occur more than once, such as "
        f"{', '.join(shown.to_pylist())} in {', '.join(paths)}: an id is <file name>/<key or row>, "
        "so files need different names; rename one of them"
    )


def _with_states(table: pa.Table, files: list[StoredFile], digests: list[str]) -> pa.Table:
    """Add the state and the digest of each image's file: LABELLED to LISTING."""
    # The states are those before the files were read, so that a change in between shows later.
    by_file = pa.array([file.path for file in files], pa.string())
    places = pc.index_in(table.column("file"), value_set=by_file)
    states = pa.array([file.state for file in files], pa.uint64())
    contents = pa.array([hash64(digest) for digest in digests], pa.uint64())
    columns = [*table.columns, states.take(places), contents.take(places)]
    return pa.Table.from_arrays(columns, schema=LISTING)


def _fingerprint(files: list[StoredFile], digests: list[str], root: str) -> str:
    names = [file.path[len(root) :].lstrip("/") for file in files]
    sizes = [file.size for file in files]
    entries = sorted(zip(names, sizes, digests, strict=True))
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()
