"""From the names of class folders to class numbers, never by guess."""

import csv
import io
import json
import re

from pipeline import storage
from pipeline.sources.base import SourceError, SourceOptions

_WNID = re.compile(r"n[0-9]{8}")
_INTEGER = re.compile(r"-?[0-9]{1,9}")
_REMEDY = 'give --label-map FILE (JSON {"name": number}, or TSV/CSV rows "name, number")'


def folder_labels(
    classes: list[str], loose: list[str], options: SourceOptions, num_classes: int | None
) -> dict[str, int | None]:
    """The class number of every name.

    Args:
        classes: Names of the class folders, sorted.
        loose: Names of images that lie in no class folder; unknown unless a label map has them.
        options: Holds the label map, if any; it wins over everything else.
        num_classes: Classes of the model; None if unknown.

    Raises:
        SourceError: The label map lacks a name, or the names alone do not tell the number.
    """
    if options.label_map is not None:
        table = _label_map(options.label_map)
        _require(classes + loose, table, f"the label map {options.label_map}")
        return {name: table[name] for name in classes + loose}
    numbers: dict[str, int | None] = dict.fromkeys(loose)
    if all(_INTEGER.fullmatch(name) for name in classes):
        return numbers | {name: int(name) for name in classes}
    if num_classes == 1000 and all(_WNID.fullmatch(name) for name in classes):
        table = _imagenet_classes()
        _require(classes, table, "ImageNet's list of 1000 classes")
        return numbers | {name: table[name] for name in classes}
    if len(classes) == num_classes:
        return numbers | {name: number for number, name in enumerate(classes)}
    raise SourceError(
        f"the {len(classes)} class folders ({', '.join(classes[:5])}{', ...' * (len(classes) > 5)})"
        f" do not tell their class numbers: they are neither integers nor, for a model of 1000 "
        f"classes, wnids, and there are not {num_classes or 'a known number of'} of them; {_REMEDY}"
    )


def _require(names: list[str], table: dict[str, int], where: str) -> None:
    missing = [name for name in names if name not in table]
    if missing:
        raise SourceError(
            f"{where} lacks {len(missing)} of {len(names)} names: {', '.join(missing[:5])}; "
            + _REMEDY
        )


def _imagenet_classes() -> dict[str, int]:
    # Imported here: it drags in torch, which light tasks and --help must not pay for.
    from timm.data.imagenet_info import ImageNetInfo  # noqa: PLC0415

    names: list[str] = ImageNetInfo("imagenet-1k").label_names()  # type: ignore[no-untyped-call]
    return {name: number for number, name in enumerate(names)}


def _label_map(path: str) -> dict[str, int]:
    """Read a label map; a name given twice must have one number."""
    try:
        text = storage.read_bytes(path).decode("utf-8-sig")
        pairs = _json_pairs(text) if path.lower().endswith(".json") else _table_pairs(text)
    except (ValueError, csv.Error) as error:
        raise SourceError(f"the label map {path} cannot be used: {error}; {_REMEDY}") from error
    except storage.failures() as error:
        raise SourceError(f"the label map {path} cannot be read: {error}; {_REMEDY}") from error
    numbers: dict[str, int] = {}
    for name, number in pairs:
        if numbers.setdefault(name, number) != number:
            raise SourceError(
                f"the label map {path} gives {name!r} two numbers, {numbers[name]} and {number}; "
                "keep one"
            )
    return numbers


def _json_pairs(text: str) -> list[tuple[str, int]]:
    # Pairs rather than a dict, so that a name given twice is seen.
    pairs = json.loads(text, object_pairs_hook=list)
    if not isinstance(pairs, list) or not all(
        isinstance(pair, tuple) and type(pair[1]) is int for pair in pairs
    ):
        raise ValueError("it must be one JSON object of names and integers")
    return pairs


def _table_pairs(text: str) -> list[tuple[str, int]]:
    delimiter = "\t" if "\t" in text else ","
    pairs = []
    for number, row in enumerate(csv.reader(io.StringIO(text), delimiter=delimiter), start=1):
        if not row:
            continue
        if len(row) != 2 or not _INTEGER.fullmatch(row[1].strip()):
            raise ValueError(f'line {number} must be "name, number", with no heading')
        pairs.append((row[0].strip(), int(row[1])))
    return pairs
