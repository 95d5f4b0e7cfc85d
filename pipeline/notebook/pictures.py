"""Images of a torch ``Dataset`` as Parquet files, which are a source like any other."""

import hashlib
import io
import operator
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline import storage
from pipeline.config import ConfigError
from pipeline.runs.waiting import waiting
from pipeline.storage.tables import parquet

_SCHEMA = pa.schema([("image", pa.binary()), ("label", pa.int64())])
# Images a file: encoded photographs of so many take some hundred megabytes of memory.
_IMAGES = 1000


def write_dataset(dataset: Any, out: str, limit: int | None = None) -> str:
    """Write the images of a map-style dataset as PNG, once; the pattern of their files.

    A file's name has the digest of its images and labels, so equal images are one source.

    Args:
        dataset: Pairs of an image (a PIL image, or uint8 pixels) and its class number.
        out: Folder of all results; the files go to ``pictures/`` below it.
        limit: Only the first so many images.

    Raises:
        ConfigError: It is no such dataset, or an image has no uint8 pixels.
    """
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        loader = " (of a DataLoader give its .dataset)" if hasattr(dataset, "dataset") else ""
        raise ConfigError(
            f"data: a {type(dataset).__name__} is neither a source nor a map-style Dataset of "
            f"(image, label), which has a length and takes an index{loader}"
        )
    count = len(dataset) if limit is None else min(limit, len(dataset))
    if not count:
        raise ConfigError(f"data: the {type(dataset).__name__} holds no image")
    names: list[str] = []
    with waiting("writing the images of the dataset") as say:
        rows = (_row(dataset, index) for index in range(count))
        while part := list(islice(rows, _IMAGES)):
            names.append(_write(part, len(names), storage.join(out, "pictures")))
            say(f"writing the images of the dataset: {min(len(names) * _IMAGES, count)} of {count}")
    stems = names[0] if len(names) == 1 else "{" + ",".join(names) + "}"
    return storage.join(out, "pictures", f"{stems}.parquet")


def _write(rows: list[tuple[bytes, int]], number: int, folder: str) -> str:
    """Write a file unless it is there; its name without the ending."""
    digest = hashlib.sha256()
    for data, label in rows:
        digest.update(f"{len(data)} {label}\n".encode() + data)
    name = f"{number:05d}-{digest.hexdigest()[:16]}"
    path = storage.join(folder, f"{name}.parquet")
    if not storage.exists(path):
        columns = [pa.array(column) for column in zip(*rows, strict=True)]
        storage.write_atomically(path, parquet(pa.table(columns, schema=_SCHEMA), "none"))
    return name


def _row(dataset: Any, index: int) -> tuple[bytes, int]:
    """One image as PNG, and its class number."""
    item = dataset[index]
    try:
        image, label = item
        number = operator.index(label.item() if hasattr(label, "item") else label)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"data[{index}]: {_kind(item)} is no pair (image, class number); give a Dataset that "
            "returns such pairs"
        ) from error
    sink = io.BytesIO()
    # The least compression: the time goes into votes, and the bytes are exact all the same.
    _picture(image, index).save(sink, "PNG", compress_level=1)
    return sink.getvalue(), number


def _picture(image: Any, index: int) -> Image.Image:
    if isinstance(image, Image.Image) and image.mode in ("F", "I"):
        raise ConfigError(
            f"data[{index}]: the image is of mode {image.mode}, whose pixels are no bytes; give "
            "images of 8 bits a channel, convert('L') after scaling them to 0..255"
        )
    if isinstance(image, Image.Image):
        # As a source would read it; 16-bit grey is PNG's own.
        return image if image.mode in ("RGB", "L", "I;16") else image.convert("RGB")
    is_tensor = hasattr(image, "detach")
    pixels = np.asarray(image.detach().cpu() if is_tensor else image)
    if pixels.dtype != np.uint8:
        raise ConfigError(
            f"data[{index}]: the image is {_kind(image)} of {pixels.dtype}, whose pixels are "
            "scaled or normalized already, while an attacker writes uint8 pixels; take ToTensor, "
            "ToDtype and Normalize out of the dataset's transform (what the network needs is said "
            "by preprocess=)"
        )
    channels_first = pixels.ndim == 3 and (is_tensor or pixels.shape[-1] not in (1, 3))
    if channels_first and pixels.shape[0] in (1, 3):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim != 2 and (pixels.ndim != 3 or pixels.shape[-1] != 3):
        raise ConfigError(
            f"data[{index}]: the image has the shape {tuple(image.shape)}; give a PIL image, or "
            "uint8 pixels (height, width, 3) or (3, height, width)"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))


def _kind(thing: Any) -> str:
    name = type(thing).__name__
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"
