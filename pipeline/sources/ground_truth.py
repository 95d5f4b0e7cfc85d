"""The labels of a listing: the source's own, or those of a ground-truth file of one line an image.

The number in an image's name (``ILSVRC2012_val_00000293``) gives its line, so that a part of the
images, in any order, is labelled rightly; only a complete folder whose names have no number goes by
the order of its names. Every label must be a class that the model can answer.

ILSVRC2012 ids are the development kit's own numbering of the 1000 classes, in its own order: id 1
is the kit fox, class 0 of every published model the tench, so subtracting one is wrong. The kit's
table, which lies beside its ground truth, translates them.
"""

import io
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.sources.base import LABELLED, FileNotes, Kind, SourceError, SourceOptions
from pipeline.sources.class_names import (
    INTEGER,
    LABEL_MAP,
    WNID,
    class_numbers,
    folder_labels,
    imagenet_numbers,
    parse_json,
)
from pipeline.storage.patterns import natural_key

_TABLES = ("meta.mat", "map_clsloc.txt")
_LINE = re.compile(r"(n[0-9]{8})\s+([0-9]+)\s+\S+")
_NUMBERED = re.compile(r"ILSVRC20\d\d_val_(\d{8})", re.ASCII)
_FORMS = (
    "give a text file of one class number or wnid a line, or JSON with one list of class numbers "
    "an image"
)
_NUMBERING = (
    "say what its integers are: --numbering classes (the model's, 0 to 999), or --numbering "
    "ilsvrc2012 (1 to 1000, as in ILSVRC2012_validation_ground_truth.txt, which are in another "
    "order)"
)
_MOST_DIGITS = 9  # as of INTEGER: no class has more, and Arrow's integers hold them
_Labels = list[int] | list[list[int]]
_MAX_CLASS = 2**31 - 1


def without_labels(table: pa.Table) -> pa.Table:
    """A source's RAW_LISTING as LABELLED, without its labels."""
    nothing = [pa.nulls(table.num_rows, field.type) for field in (LABELLED[1], LABELLED[-1])]
    table = table.set_column(1, LABELLED[1], nothing[0])
    return table.append_column(LABELLED[-1], nothing[1])


def with_labels(
    table: pa.Table,
    options: SourceOptions,
    kind: Kind,
    num_classes: int | None,
    notes: FileNotes,
) -> pa.Table:
    """A source's RAW_LISTING as LABELLED: -1 becomes null, a ground-truth file replaces labels.

    Args:
        table: The listing.
        options: The user's choices.
        kind: Layout of the source.
        num_classes: Classes of the model; None if unknown.
        notes: What is known of the first file.

    Raises:
        SourceError: A label is no class that the model can answer, or the ground-truth file cannot
            be used.
    """
    ids = table.column("image_id")
    if options.ground_truth is not None:
        single, several = _file_labels(ids.to_pylist(), options, kind, num_classes)
        labels, multiple = pa.array(single, pa.int64()), pa.array(several, pa.list_(pa.int64()))
    elif options.numbering is not None:
        raise SourceError("--numbering has no meaning without --ground-truth: leave it out")
    else:
        labels = _own_labels(table, options, kind, num_classes, notes)
        multiple = pa.nulls(len(labels), pa.list_(pa.int64()))
    labels = pc.if_else(pc.equal(labels, -1), pa.scalar(None, pa.int64()), labels)
    remedy = _remedy(options, kind)
    _check_range(labels, ids, num_classes, remedy)
    owners = ids.take(pc.list_parent_indices(multiple))
    _check_range(pc.list_flatten(multiple), owners, num_classes, remedy)
    # Of several right labels some may be left out: the others can still be answered.
    _check_subset(labels, ids, options.classes)
    columns = [*table.columns, multiple.cast(LABELLED.field("labels").type)]
    columns[1] = labels.cast(pa.int32())
    return pa.Table.from_arrays(columns, schema=LABELLED)


def _own_labels(
    table: pa.Table, options: SourceOptions, kind: Kind, num_classes: int | None, notes: FileNotes
) -> pa.Array:
    """Class numbers of the labels that the source itself has; int64."""
    written = table.column("label").combine_chunks().dictionary_encode()
    names = written.dictionary.to_pylist()
    numbers: Mapping[str, int | None]
    if kind == "folder":
        # An image that lies in no folder is written with its own name.
        loose = set(names) & set(table.column("image_id").to_pylist())
        classes = sorted(set(names) - loose)
        numbers = folder_labels(classes, sorted(loose), options, num_classes)
    else:
        named, column = notes.class_names, notes.label_column
        where = table.column("file")[0].as_py() + (f", column {column!r}" if column else "")
        remedy = LABEL_MAP
        if len(notes.columns) > 1:
            remedy += f", or name another column with --label-column ({', '.join(notes.columns)})"
        if len(named) not in (0, num_classes) and num_classes and options.label_map is None:
            raise SourceError(
                f"{where}: the file names {len(named)} classes ({', '.join(named[:5])}"
                f"{', ...' * (len(named) > 5)}), but the model has {num_classes}: choose the model "
                f"of these classes, or {remedy}"
            )
        numbers = class_numbers(names, options, num_classes, where, remedy)
    return pa.array([numbers[name] for name in names], pa.int64()).take(written.indices)


def _remedy(options: SourceOptions, kind: Kind) -> str:
    """The remedy for a label that is none of the model's classes."""
    if options.ground_truth is not None:
        return "give a --ground-truth of the model's own class numbers"
    if options.label_map is not None:
        return f"correct the --label-map {options.label_map}, or choose another model"
    column = ", or name another column with --label-column" if kind == "parquet" else ""
    return f"choose the model of these classes, or {LABEL_MAP}{column}"


def _check_range(
    labels: pa.Array, ids: pa.ChunkedArray, num_classes: int | None, remedy: str
) -> None:
    limit = _MAX_CLASS if num_classes is None else num_classes
    wrong = pc.or_(pc.less(labels, 0), pc.greater_equal(labels, limit))
    if (first := pc.index(pc.fill_null(wrong, False), True).as_py()) >= 0:
        known = f"the model has {num_classes} classes" if num_classes else "classes start at 0"
        raise SourceError(
            f"image {ids[first].as_py()!r} has label {labels[first].as_py()}, "
            f"but {known}, and only -1 stands for unknown; {remedy}"
        )


def _check_subset(labels: pa.Array, ids: pa.ChunkedArray, classes: tuple[int, ...] | None) -> None:
    if classes is None:
        return
    allowed = pc.is_in(labels, value_set=pa.array([*classes, None], pa.int64()))
    if (first := pc.index(allowed, False).as_py()) >= 0:
        raise SourceError(
            f"image {ids[first].as_py()!r} has label {labels[first].as_py()}, which is none of the "
            f"{len(classes)} --classes, so no answer could be right; name that class too, or give "
            "--data without its images"
        )


def _file_labels(
    ids: list[str], options: SourceOptions, kind: Kind, num_classes: int | None
) -> tuple[list[int | None], list[list[int] | None]]:
    """The label of each image, and all that are right where the file has several.

    Args:
        ids: Image ids of the listing.
        options: Name of the file and meaning of its integers.
        kind: Layout of the source; only a folder's own names have an order.
        num_classes: Classes of the model; None if unknown.

    Raises:
        SourceError: The file is malformed, its numbering is not stated, or the lines cannot
            be assigned to images.
    """
    path = options.ground_truth
    assert path is not None
    for flag, given in (("map", options.label_map), ("column", options.label_column)):
        if given is not None:
            raise SourceError(
                f"--label-{flag} and --ground-truth each give every image its label: leave one out"
            )
    if options.numbering == "ilsvrc2012" and path.lower().endswith(".json"):
        raise SourceError(
            f"the ground truth {path}: --numbering ilsvrc2012 has no meaning for JSON, whose "
            "integers are the model's class numbers; leave it out, or translate the file"
        )
    labels = _read(path, options, num_classes)
    places = _places(ids, len(labels), path, kind)
    chosen = [labels[place] for place in places]
    single = [None if isinstance(label, list) else label for label in chosen]
    several = [sorted(set(label)) if isinstance(label, list) else None for label in chosen]
    return single, several


def _read(path: str, options: SourceOptions, num_classes: int | None) -> _Labels:
    try:
        text = storage.read_bytes(path).decode("utf-8-sig")
        if path.lower().endswith(".json"):
            return _json_labels(text)
    except ValueError as error:
        raise SourceError(f"the ground truth {path} cannot be used: {error}; {_FORMS}") from error
    except storage.failures() as error:
        raise SourceError(f"the ground truth {path} cannot be read: {error}") from error
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if all(WNID.fullmatch(line) for line in lines):
        return _wnid_labels(lines, path, num_classes)
    for number, line in enumerate(lines, start=1):
        if not INTEGER.fullmatch(line):
            raise SourceError(
                f"the ground truth {path}, line {number}: {line[:40]!r} is no class number; "
                f"{_FORMS}. Lines with the image's name belong in a --label-map"
            )
    if options.numbering is None:
        raise SourceError(f"the ground truth {path}: {_NUMBERING}")
    if options.numbering == "classes":
        return [int(line) for line in lines]
    wnids = _wnids_of_ids(path)
    unknown = next((line for line in lines if int(line) not in wnids), None)
    if unknown is not None:
        raise SourceError(
            f"the ground truth {path}: {unknown} is no ILSVRC2012 id, which run from 1 to 1000; "
            + _NUMBERING
        )
    return _wnid_labels([wnids[int(line)] for line in lines], path, num_classes)


def _wnid_labels(wnids: Sequence[str], path: str, num_classes: int | None) -> list[int]:
    if num_classes != 1000:
        raise SourceError(
            f"the ground truth {path} names ImageNet's 1000 classes, the model has "
            f"{num_classes or 'an unknown number of'} classes; give class numbers of the model"
        )
    numbers = imagenet_numbers()
    unknown = next((wnid for wnid in wnids if wnid not in numbers), None)
    if unknown is not None:
        raise SourceError(f"the ground truth {path}: {unknown} is none of ImageNet's 1000 classes")
    return [numbers[wnid] for wnid in wnids]


def _json_labels(text: str) -> list[list[int]]:
    """ReaL's form (Beyer et al., "Are we done with ImageNet?", 2020): class numbers, 0 to 999."""
    labels = parse_json(text)
    # bool is an int to isinstance.
    if not isinstance(labels, list) or not all(
        isinstance(several, list) and all(type(label) is int for label in several)
        for several in labels
    ):
        raise ValueError("it must be one JSON list with a list of integers for each image")
    large = next((one for several in labels for one in several if abs(one) >= 10**_MOST_DIGITS), 0)
    if large:
        raise ValueError(f"it has a class number of over {_MOST_DIGITS} digits")
    return labels


def _places(ids: list[str], lines: int, path: str, kind: Kind) -> list[int]:
    """The line of each image in the file, from 0."""
    found = [_NUMBERED.search(image.rpartition("/")[2]) for image in ids]
    places = [int(match[1]) - 1 for match in found if match]
    if len(places) == len(ids):
        outside = next((i for i, place in enumerate(places) if not 0 <= place < lines), None)
        if outside is not None:
            raise SourceError(
                f"the ground truth {path} has {lines} lines, none of them for image "
                f"{ids[outside]!r}; give the file of the whole validation set"
            )
        return places
    without = next(image for image, match in zip(ids, found, strict=True) if match is None)
    remedy = {
        "folder": "give a --label-map of names and numbers instead",
        "webdataset": "write each label into the shard as <key>.cls, or name the keys so",
        "parquet": "write the labels into the file as a column and name it with --label-column",
    }[kind]
    if places or kind != "folder":
        raise SourceError(
            f"image {without!r} has no number in its name (ILSVRC2012_val_00000001), so its line "
            f"of the ground truth {path} is unknown; {remedy}"
        )
    if lines != len(ids):
        raise SourceError(
            f"the ground truth {path} has {lines} lines for {len(ids)} images, whose names have no "
            f"number (ILSVRC2012_val_00000001): which line is whose is unknown; {remedy}"
        )
    # 1, 2, 10 by their numbers, but 1, 10, 2 by their letters: the file may follow either.
    ordered = sorted(ids)
    folders = {image.rpartition("/")[0] for image in ids}
    if len(folders) > 1 or ordered != sorted(ids, key=natural_key):
        why = "lie in several folders" if len(folders) > 1 else "differ by letters and by numbers"
        raise SourceError(
            f"the ground truth {path} goes by the order of file names, but these {why}; put them "
            f"into one folder, numbers padded with zeros, or {remedy}"
        )
    rank = {image: place for place, image in enumerate(ordered)}
    return [rank[image] for image in ids]


def _wnids_of_ids(ground_truth: str) -> dict[int, str]:
    """The wnid of every id, 1 to 1000, by the table beside ``ground_truth``.

    Raises:
        SourceError: There is no table, or it is not one of 1000 classes.
    """
    folder = posixpath.dirname(ground_truth)
    for name in _TABLES:
        path = storage.join(folder, name) if folder else name
        try:
            if not storage.exists(path):
                continue
            data = storage.read_bytes(path)
            wnids = _of_mat(data) if name.endswith(".mat") else _of_text(data)
        except storage.failures() as error:
            raise SourceError(f"{path} cannot be read: {error}") from error
        # scipy raises many kinds for bytes that are no MATLAB file.
        except Exception as error:
            raise SourceError(f"{path} is no table of ILSVRC2012 ids: {error}") from error
        if sorted(wnids) != list(range(1, 1001)) or len(set(wnids.values())) != 1000:
            raise SourceError(
                f"{path}: does not give the ids 1 to 1000 a class each; take the one of the "
                "ILSVRC2012 development kit"
            )
        return wnids
    raise SourceError(
        f"the ground truth {ground_truth}: ILSVRC2012 ids are in an order of their own, told by "
        f"{' or '.join(_TABLES)} of the development kit (folder data), which is not beside it; "
        "put it there, or give class numbers or wnids instead"
    )


def _of_text(data: bytes) -> dict[int, str]:
    matches = (_LINE.match(line) for line in data.decode().splitlines())
    return {int(match[2]): match[1] for match in matches if match}


def _of_mat(data: bytes) -> dict[int, str]:
    # Heavy, and needed for this one file.
    from scipy.io import loadmat  # noqa: PLC0415

    synsets: Any = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
    pairs = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
    # Above 1000 are the inner nodes of the hierarchy, which are no classes.
    return {int(number): str(wnid) for number, wnid in pairs if int(number) <= 1000}
