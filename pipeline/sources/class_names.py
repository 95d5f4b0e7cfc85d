"""From labels as they are written, or the names of class folders, to class numbers.

A label is written as its class number or as its wnid, or a label map gives its class. Folders of
other names, as many of them as the model has classes, are numbered in the order of their names,
as torchvision's ``ImageFolder`` numbers them for training; anything else is refused.
"""

import csv
import functools
import io
import json
import posixpath
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from pipeline import storage
from pipeline.sources.base import SourceError, SourceOptions

WNID = re.compile(r"n[0-9]{8}")
"""ImageNet's name of a class: a WordNet noun."""

INTEGER = re.compile(r"-?[0-9]{1,9}")
LABEL_MAP = (
    'give --label-map FILE (JSON {"name": class}, or TSV/CSV rows "name, class": a name is that of '
    "a folder, or a label as the data have it; a class is its number, or, for a model of 1000 "
    "classes, its wnid; -1 where the model has none)"
)
_LABEL = re.compile(r"-?[0-9]{1,18}")
# Kaggle's answers for the ImageNet validation images: the wnid and then boxes.
_KAGGLE = ["ImageId", "PredictionString"]


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
        SourceError: The label map lacks a name, the names alone do not give the number, or two
            are one number.
    """
    if options.label_map is not None:
        table = _label_map(options.label_map, num_classes)
        # Lists of images often leave out ".JPEG".
        keys = {name: name for name in classes}
        keys |= {name: name if name in table else posixpath.splitext(name)[0] for name in loose}
        _require(list(keys.values()), table, f"the label map {options.label_map}")
        return {name: table[key] for name, key in keys.items()}
    numbers: dict[str, int | None] = dict.fromkeys(loose)
    if all(INTEGER.fullmatch(name) for name in classes):
        _require_different(classes)
        return numbers | {name: int(name) for name in classes}
    if num_classes == 1000 and all(WNID.fullmatch(name) for name in classes):
        table = imagenet_numbers()
        _require(classes, table, "ImageNet's list of 1000 classes")
        return numbers | {name: table[name] for name in classes}
    # Restricted, the folders may be those of the remaining classes: their order has no meaning.
    if len(classes) == num_classes and options.classes is None:
        return numbers | {name: number for number, name in enumerate(classes)}
    raise SourceError(
        f"the {len(classes)} class folders ({_some(classes)})"
        f" do not tell their class numbers: they are neither integers nor, for a model of 1000 "
        f"classes, wnids, and there are not {num_classes or 'a known number of'} of them; "
        + LABEL_MAP
    )


def require_classes_on_top(ids: list[str], root: str) -> None:
    """Refuse folders that seem to hold the class folders rather than to be them.

    Such are ``noise/1/n01440764/x.JPEG`` and ``train/cat/x.JPEG``: the labels would be those of the
    severity and of the split.

    Args:
        ids: Paths of the images below the root.
        root: Full path of the directory.

    Raises:
        SourceError: It is so; names the directories that have class folders directly in them.
    """
    folders = [name.split("/")[:-1] for name in ids if "/" in name]
    deeper = [names for names in folders if len(names) > 1]
    wnids = [names for names in deeper if _wnid_place(names)]
    # Folders of one name, as ``<class>/images/x.JPEG``, tell no classes apart.
    split = len(deeper) == len(folders) and len({names[1] for names in deeper}) > 1
    if not wnids and (not split or all(WNID.fullmatch(names[0]) for names in folders)):
        return
    found = wnids or deeper
    places = sorted({"/".join(names[: _wnid_place(names) or -1]) for names in found})
    more = "".join(f" or {storage.join(root, place)}" for place in places[1:2])
    more += ", ..." * (len(places) > 2)
    raise SourceError(
        f"the class folders of {root} would be {_some(sorted({names[0] for names in folders}))}, "
        f"but their images lie deeper, as in {'/'.join(found[0])}: give --data "
        f"{storage.join(root, places[0])}{more}; or, if those folders are the classes, {LABEL_MAP}"
    )


def _wnid_place(names: list[str]) -> int:
    """Place of the first folder inside another that is named by another wnid; 0 if none is."""
    places = (place for place, name in enumerate(names) if place and WNID.fullmatch(name))
    return next((place for place in places if names[place] != names[0]), 0)


def class_numbers(
    names: list[str], options: SourceOptions, num_classes: int | None, where: str, remedy: str
) -> dict[str, int]:
    """The class number of every label as it is written in the data.

    Args:
        names: The labels, each once.
        options: Holds the label map, if any; it wins over everything else.
        num_classes: Classes of the model; None if unknown.
        where: What the labels are from.
        remedy: What to do where the labels do not tell.

    Raises:
        SourceError: The label map lacks a label, or the labels alone do not give the number.
    """
    if options.label_map is not None:
        table = {"-1": -1} | _label_map(options.label_map, num_classes)
        _require(names, table, f"the label map {options.label_map}")
    elif all(_LABEL.fullmatch(name) for name in names):
        table = {name: int(name) for name in names}
    elif num_classes == 1000 and all(WNID.fullmatch(name) for name in names):
        table = imagenet_numbers()
        _require(names, table, "ImageNet's list of 1000 classes")
    else:
        raise SourceError(
            f"{where}: the {len(names)} labels ({_some(sorted(names))}) do not tell their class "
            f"numbers: they are neither integers nor, for a model of 1000 classes, wnids; {remedy}"
        )
    return {name: table[name] for name in names}


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + ", ..." * (len(names) > 5)


def _require_different(names: list[str]) -> None:
    folders: dict[int, str] = {}
    for name in names:
        if (other := folders.setdefault(int(name), name)) != name:
            raise SourceError(
                f"the class folders {other!r} and {name!r} are both class {int(name)}; put their "
                f"images into one, rename one, or {LABEL_MAP}"
            )


def _require(names: list[str], table: dict[str, int], where: str) -> None:
    missing = [name for name in names if name not in table]
    if missing:
        raise SourceError(
            f"{where} lacks {len(missing)} of {len(names)} names: {', '.join(missing[:5])}; "
            + LABEL_MAP
        )


def class_subset(given: str, num_classes: int) -> tuple[int, ...]:
    """The classes that ``--classes`` names, ascending, under the model's own numbers.

    Args:
        given: Numbers or wnids with commas between, or a file of them, one a line.
        num_classes: Classes of the model.

    Raises:
        SourceError: A class is unknown or named twice, or fewer than two are named.
    """
    where = f"--classes {given}"
    names = _words(given)
    if not all(INTEGER.fullmatch(name) or WNID.fullmatch(name) for name in names):
        names = _words(_text_of(given))
    try:
        numbers = [_number(name, num_classes) for name in names]
    except ValueError as error:
        raise SourceError(f"{where}: {error}") from error
    outside = [number for number in numbers if not 0 <= number < num_classes]
    if outside:
        raise SourceError(
            f"{where}: {outside[0]} is none of the model's classes, 0 to {num_classes - 1}; give "
            "the model's own numbers"
        )
    doubled = [number for number, count in Counter(numbers).items() if count > 1]
    if doubled:
        raise SourceError(f"{where}: names class {doubled[0]} twice; keep one")
    if len(numbers) < 2:
        raise SourceError(f"{where}: a prediction needs a rival; name at least 2 classes")
    return tuple(sorted(numbers))


def _text_of(given: str) -> str:
    kinds: tuple[type[BaseException], ...] = (ValueError, *storage.failures())
    try:
        return storage.read_bytes(given).decode("utf-8-sig")
    except kinds as error:
        raise SourceError(
            f"--classes {given}: is neither a comma list of class numbers or wnids nor a readable "
            f"file of them ({error})"
        ) from error


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\s,]+", text) if word]


def _number(text: str, num_classes: int | None) -> int:
    """Class number of a number or wnid; ValueError if it is neither, or no wnid is known."""
    if INTEGER.fullmatch(text):
        return int(text)
    if not WNID.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is neither a class number nor a wnid")
    if num_classes != 1000:
        raise ValueError(
            f"{text} is one of ImageNet's 1000 classes, but the model has "
            f"{num_classes or 'an unknown number of'}; give its class numbers"
        )
    if text not in (numbers := imagenet_numbers()):
        raise ValueError(f"{text} is none of ImageNet's 1000 classes")
    return numbers[text]


@functools.cache
def imagenet_numbers() -> dict[str, int]:
    """The class number of every wnid of ImageNet-1k."""
    # Imported here: it drags in torch, which light tasks and --help must not pay for.
    from timm.data.imagenet_info import ImageNetInfo  # noqa: PLC0415

    names: list[str] = ImageNetInfo("imagenet-1k").label_names()  # type: ignore[no-untyped-call]
    return {name: number for number, name in enumerate(names)}


def _label_map(path: str, num_classes: int | None) -> dict[str, int]:
    """Read a label map; a name given twice must have one number."""
    try:
        text = storage.read_bytes(path).decode("utf-8-sig")
        pairs = _json_pairs(text) if path.lower().endswith(".json") else _table_pairs(text)
        numbered = [(name, _number(given, num_classes)) for name, given in pairs]
    except (ValueError, csv.Error) as error:
        raise SourceError(f"the label map {path} cannot be used: {error}; {LABEL_MAP}") from error
    except storage.failures() as error:
        raise SourceError(f"the label map {path} cannot be read: {error}; {LABEL_MAP}") from error
    numbers: dict[str, int] = {}
    for name, number in numbered:
        if numbers.setdefault(name, number) != number:
            raise SourceError(
                f"the label map {path} gives {name!r} two numbers, {numbers[name]} and {number}; "
                "keep one"
            )
    return numbers


def _json_pairs(text: str) -> list[tuple[str, str]]:
    # Pairs rather than a dict, so that a name given twice is seen.
    pairs = parse_json(text, list)
    # A bool is an int to isinstance.
    if not isinstance(pairs, list) or not all(
        isinstance(pair, tuple) and type(pair[1]) in (int, str) for pair in pairs
    ):
        raise ValueError("it must be one JSON object of names and integers, or wnids")
    return [(name, str(given)) for name, given in pairs]


def parse_json(text: str | bytes, pairs_hook: Callable[[list[tuple[str, Any]]], Any] = dict) -> Any:
    """Parse a user's JSON; ValueError for any fault."""
    try:
        return json.loads(text, object_pairs_hook=pairs_hook)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def _table_pairs(text: str) -> list[tuple[str, str]]:
    delimiter = next((mark for mark in "\t," if mark in text), " ")
    rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    kaggle = rows[:1] == [_KAGGLE]
    pairs = []
    for number, row in enumerate(rows[kaggle:], start=1 + kaggle):
        if not row:
            continue
        given = row[1].strip() if len(row) == 2 else ""
        if kaggle:
            given = given.split(" ")[0]
        if not (INTEGER.fullmatch(given) or WNID.fullmatch(given)):
            raise ValueError(f'line {number} must be "name, number", with no heading')
        pairs.append((row[0].strip(), given))
    return pairs
