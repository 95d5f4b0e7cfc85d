"""Labels that lie beside flat validation images, one line an image in a fixed order.

Which line is an image's follows from the number in its name (``ILSVRC2012_val_00000293``), so that
a part of the images, in any order, is labelled rightly; only a complete folder whose names have
no number goes by the order of its names.
"""

import re
from collections.abc import Sequence

from pipeline import storage
from pipeline.patterns import natural_key
from pipeline.sources.base import Kind, SourceError, SourceOptions
from pipeline.sources.class_names import INTEGER, WNID, imagenet_numbers, parsed
from pipeline.sources.ilsvrc import wnids_of_ids

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

Labels = list[int] | list[list[int]]


def ground_truth(
    ids: list[str], options: SourceOptions, kind: Kind, num_classes: int | None
) -> tuple[list[int | None], list[list[int] | None]]:
    """The label of each image, and all that are right where the file has several.

    Args:
        ids: Image ids of the listing.
        options: Name of the file and meaning of its integers.
        kind: Layout of the source; only a folder's own names have an order.
        num_classes: Classes of the model; None if unknown.

    Raises:
        SourceError: The file is malformed, its numbering is not stated, or it does not tell which
            line is whose.
    """
    path = options.ground_truth
    assert path is not None
    options.refuse("label_map", "label_column", kind=kind)
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


def _read(path: str, options: SourceOptions, num_classes: int | None) -> Labels:
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
    wnids = wnids_of_ids(path)
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
    labels = parsed(text)
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
    """Which line of the file is each image's, from 0."""
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
    remedy = "give a --label-map of names and numbers instead"
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
