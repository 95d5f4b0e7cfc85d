"""Every image of the data, listed before any GPU time: its id, its label, where its bytes are."""

import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.sources.base import (
    IMAGE_SUFFIXES,
    LISTING,
    FileNotes,
    FoundFiles,
    Kind,
    Location,
    SourceError,
    SourceOptions,
)
from pipeline.sources.class_names import require_classes_on_top
from pipeline.sources.ground_truth import with_labels, without_labels
from pipeline.sources.listing_cache import CachedFile, ListingCache
from pipeline.sources.parquet import LABEL_COLUMNS
from pipeline.sources.reading import SOURCES
from pipeline.sources.stored_files import StoredFile, digest_of, hash64, list_directory, stat
from pipeline.storage.parallel import Spread, in_threads_or_tasks
from pipeline.storage.patterns import PathError, expand_braces, natural_key

_LAYOUTS = (
    "give tar shards (*.tar, {000..049}.tar), Parquet files (*.parquet), or a directory of "
    "either or of class folders with images"
)
_READ = f"read as .{', .'.join(IMAGE_SUFFIXES)}"
_MOST_SUFFIXES = 8

# Ids of so many images are Python's strings at once.
_IDS_AT_ONCE = 2**16


@dataclass(frozen=True)
class Listing:
    """All images of a source, or the first of them.

    Attributes:
        table: Columns of LISTING, one row an image, in an order that is the same on every machine.
        fingerprint: sha256 (hex) of the names, sizes and contents of the files, wherever they lie.
        kind: Layout of the files.
        files: How many there are.
        passed_over: Other files beside them, and members of archives, by suffix.
        labels_from: Of how many classes the labels are, and what says them, as words to append.
        hint: Why an image may have no label, and what to do about it.
    """

    table: pa.Table
    fingerprint: str
    kind: Kind
    files: int
    passed_over: Mapping[str, int]
    labels_from: str
    hint: str

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def head(self, limit: int | None) -> "Listing":
        """The first ``limit`` images; all of them if None. The fingerprint stays the files'."""
        if limit is not None and limit < 1:
            raise SourceError(f"limit={limit}: at least one image must be listed")
        return self if limit is None else replace(self, table=self.table.slice(0, limit))

    def words(self) -> list[str]:
        """Say what is listed, what is passed over and which labels are known, for a person."""
        images, kind = len(self), {"folder": "image"}.get(self.kind, self.kind)
        said = [f"images listed: {images:,}, of {self.files:,} {kind} files"]
        if self.passed_over:
            said.append(f"passed over:   {_counts(self.passed_over)}; images are {_READ}")
        label, several = self.table.column("label"), self.table.column("labels")
        classes = [pc.drop_null(label), pc.cast(pc.list_flatten(several), pa.int32())]
        answered = pc.sum(pc.greater(pc.list_value_length(several), 0), min_count=0).as_py()
        known = len(classes[0]) + int(answered)
        line = f"labels known:  of {known:,} of {images:,} images"
        if known:
            ends = pc.min_max(pa.chunked_array(classes[0].chunks + classes[1].chunks))
            line += f": classes {ends['min']} to {ends['max']}{self.labels_from}"
        return [*said, f"{line}; {self.hint}" if known < images else line]


def list_images(
    data: str,
    options: SourceOptions,
    num_classes: int | None,
    cache: ListingCache | None = None,
    *,
    labelled: bool = True,
    spread: Spread | None = None,
) -> Listing:
    """List every image of ``data``, a path, directory or pattern, local or on S3.

    Tar shards are read through once (headers here, contents for the fingerprint); of Parquet only
    the footer and the labels are read.

    Args:
        data: Tar or Parquet pattern, or directory.
        options: Choices that the layout leaves open.
        num_classes: Classes of the model, which labels must fit; None if unknown.
        cache: Contents of files that earlier jobs listed and that have not changed; added to.
        labelled: False leaves the labels out, where only the images are needed.
        spread: Opens, in tasks, what this process's threads would take long for; None has them
            open all. The listing is the same.

    Raises:
        SourceError: There is no image, a file is damaged, an id is doubled, a label is no class of
            the model, or the store cannot be read.
    """
    with _in_words(data):
        location = _locate(data)
        kind = _kind_of(location)
        source = SOURCES[kind]
        files, others = _files_of(location, kind)
        _require_utf8(files)
        root = storage.full_path(data) if location.is_directory else _common_root(files)
        cache = cache or ListingCache()
        new = [file for file in files if file not in cache.known]
        opened = in_threads_or_tasks(
            partial(_open, kind, options),
            partial(_try_to_open, kind, options),
            new,
            [file.size for file in new],
            spread,
        )
        found = dict(zip(new, opened, strict=True))
        contents = [found.get(file) or cache.known[file] for file in files]
        cache.found.update(zip(files, contents, strict=True))
        tables = [one.images for one in contents]
        table = source.list_images(root, files, tables, options)
        if table.num_rows == 0:
            raise SourceError(
                f"{data}: none of its {len(files)} files holds an image; check the path, and that "
                "the members are named <key>.jpg, .jpeg, .png or .webp"
            )
        _check_unique(table)
        notes = contents[0].notes
        if not labelled:
            table = without_labels(table)
        else:
            if kind == "folder" and options.label_map is None and options.ground_truth is None:
                require_classes_on_top(table.column("image_id").to_pylist(), root)
            table = with_labels(table, options, kind, num_classes, notes)
        digests = [one.digest for one in contents]
        passed_over = _by_suffix(others)
        for one in contents:
            passed_over.update(one.notes.passed_over)
        return Listing(
            table=_with_states(table, files, digests),
            fingerprint=_fingerprint(files, digests, root),
            kind=kind,
            files=len(files),
            passed_over=passed_over,
            labels_from=(f" of the model's {num_classes}" if num_classes else "")
            + f", by {_labels_from(options, kind, notes, num_classes)}",
            hint=_hint(options, kind, notes),
        )


def _open(kind: Kind, options: SourceOptions, file: StoredFile) -> CachedFile:
    return CachedFile(digest_of(file), *SOURCES[kind].list_file(file, options))


def _try_to_open(kind: Kind, options: SourceOptions, file: StoredFile) -> CachedFile | None:
    """Open a file in a task; None for one that the driver shall open itself.

    That is one that fails, since errors are the driver's to say, and a local one that is not the
    driver's: a node may have a copy of its own, or none.
    """
    try:
        same = file.path.startswith(storage.S3) or stat(file.path) == file
        return _open(kind, options, file) if same else None
    except SourceError:
        return None
    except storage.failures():
        return None


def _labels_from(
    options: SourceOptions, kind: Kind, notes: FileNotes, num_classes: int | None
) -> str:
    if options.ground_truth is not None:
        return f"--ground-truth {options.ground_truth}"
    own = {
        "webdataset": "<key>.cls",
        "parquet": f"column {notes.label_column!r}",
        "folder": "the names of the class folders",
    }[kind]
    if options.label_map is not None:
        return f"{own} through --label-map {options.label_map}"
    # ImageNet's classes and 'background', which nothing but the number tells.
    if num_classes == 1001:
        own += " (if class 0 of the model is 'background', ImageNet's 0 to 999 need a --label-map)"
    return own


def _hint(options: SourceOptions, kind: Kind, notes: FileNotes) -> str:
    """The reason why images have no label, and the remedy."""
    if options.ground_truth is not None:
        return "the ground truth has none (-1, or an empty list) for the others"
    if kind == "parquet" and notes.label_column is None:
        columns = f" (columns: {', '.join(notes.columns)})" if notes.columns else ""
        return (
            f"no column is named {', '.join(LABEL_COLUMNS[:-1])} or {LABEL_COLUMNS[-1]}: give "
            f"--label-column NAME{columns}"
        )
    if options.label_map is not None:
        return "the label map gives -1 to the others, or they have none in the data"
    if kind == "parquet":
        return "the column has none (null or -1) for the others"
    truth = "--ground-truth FILE for images named as ILSVRC2012_val_00000001"
    if kind == "webdataset":
        return (
            "of members, <key>.cls alone gives a label, no .json or .txt: write it into the shard, "
            f"or give {truth}"
        )
    return f"images outside of class folders: give --label-map FILE of their names, or {truth}"


def find_files(data: str) -> tuple[Kind, list[StoredFile]]:
    """Layout and files of ``data``, none of them opened.

    Raises:
        SourceError: There is no file of a known layout, or the store cannot be read.
    """
    with _in_words(data):
        location = _locate(data)
        kind = _kind_of(location)
        return kind, _files_of(location, kind).files


def _files_of(location: Location, kind: Kind) -> FoundFiles:
    """The files of a location; SourceError if it has none."""
    found = SOURCES[kind].list_files(location)
    if not found.files:
        others = _by_suffix(found.others)
        what = f"; passed over: {_counts(others)}; images are {_READ}" if others else ""
        raise SourceError(f"{location.data} holds no {kind} images{what}: {_LAYOUTS}")
    return found


def _by_suffix(paths: Iterable[str]) -> Counter[str]:
    return Counter(posixpath.splitext(path)[1].lower() for path in paths)


def _counts(by_suffix: Mapping[str, int]) -> str:
    counts = sorted(by_suffix.items(), key=lambda entry: (-entry[1], entry[0]))
    said = [f"{suffix or 'no suffix'} {count:,}" for suffix, count in counts[:_MOST_SUFFIXES]]
    more = ", ..." if len(counts) > _MOST_SUFFIXES else ""
    return f"{sum(by_suffix.values()):,} ({', '.join(said)}{more})"


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
            "the AWS_* variables of the environment (PATCHCERT_S3_ANONYMOUS=1 reads a public "
            "bucket without credentials)"
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
    if specific and location.is_directory:
        _refuse_images_beside(location, specific[0])
    return kinds[0]


def _refuse_images_beside(location: Location, kind: Kind) -> None:
    """Refuse class folders in which a shard was left lying: it would hide all of their images."""
    images = SOURCES["folder"].list_files(location).files
    if not images:
        return
    is_shard = SOURCES[kind].matches
    shard = next(n for n in location.names if is_shard(Location(n, (n,), is_directory=False)))
    suffix = posixpath.splitext(shard)[1]
    raise SourceError(
        f"{location.data} holds {len(images):,} image files, such as {images[0].path}, and {shard} "
        f"({kind}), so which are meant is unknown: give --data {location.data.rstrip('/')}/*"
        f"{suffix} for the latter, or move it out of there for the former"
    )


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
    # Different hashes are of different ids. A table of all ids, which Arrow would make, is as large
    # as the listing.
    parts = [
        np.fromiter(map(hash, batch.column(0).to_pylist()), np.int64, batch.num_rows)
        for batch in table.select(["image_id"]).to_batches(max_chunksize=_IDS_AT_ONCE)
    ]
    hashes = np.concatenate(parts)
    hashes.sort()
    if (hashes[1:] != hashes[:-1]).all():
        return
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
    places = pa.chunked_array(
        [
            pc.index_in(chunk.dictionary, value_set=by_file).take(chunk.indices)
            for chunk in table.column("file").chunks
        ],
        pa.int32(),
    )
    states = pa.array([file.state for file in files], pa.uint64())
    contents = pa.array([hash64(digest) for digest in digests], pa.uint64())
    columns = [*table.columns, states.take(places), contents.take(places)]
    return pa.Table.from_arrays(columns, schema=LISTING)


def _fingerprint(files: list[StoredFile], digests: list[str], root: str) -> str:
    names = [file.path[len(root) :].lstrip("/") for file in files]
    sizes = [file.size for file in files]
    entries = sorted(zip(names, sizes, digests, strict=True))
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()
