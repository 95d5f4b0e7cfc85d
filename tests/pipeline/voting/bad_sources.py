"""Sources that are wrong as files or in their labels, and what must become of them."""

import base64
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
from PIL import Image

from pipeline.sources.base import SourceError, SourceOptions
from pipeline.sources.listing import list_images

Outcome = Literal["voted on", "error row", "refused"]
NO = SourceOptions()
PIXELS = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (64, 48), Image.BICUBIC
    )
)


@dataclass(frozen=True)
class Case:
    """One kind of bad data.

    Attributes:
        name: What is wrong.
        outcome: What must become of it.
        note: What is done with it, where it is voted on.
    """

    name: str
    outcome: Outcome
    note: str = ""


@dataclass(frozen=True)
class BadSource(Case):
    """A source.

    Attributes:
        write: Makes it in a folder and returns what --data would be.
        classes: Of the model that is to vote on it.
        mended: It once was something else: what.
    """

    write: Callable[[Path], str] = str
    classes: int = 10
    mended: str = ""


def encoded(mode: str = "RGB", kind: str = "JPEG", size=None, **options) -> bytes:
    """A picture, encoded."""
    image = Image.fromarray(PIXELS) if size is None else Image.new("RGB", size, (9, 90, 200))
    sink = io.BytesIO()
    image.convert(mode).save(sink, kind, **options)
    return sink.getvalue()


def tar_of(folder: Path, members: list[tuple[str, bytes]], name: str = "s.tar") -> bytes:
    """A shard's bytes, which are also written."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for member, data in members:
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    (folder / name).write_bytes(sink.getvalue())
    return sink.getvalue()


_GOOD = [("a.png", encoded(kind="PNG")), ("a.cls", b"1"), ("b.png", encoded(kind="PNG"))]


def _cut_tar(at: Callable[[bytes], int]) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        whole = tar_of(folder, [*_GOOD, ("b.cls", b"2")])
        (folder / "s.tar").write_bytes(whole[: at(whole)])
        return str(folder)

    return write


def _tar(*members: tuple[str, bytes]) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        tar_of(folder, list(members))
        return str(folder)

    return write


def _two_tars(folder: Path) -> str:
    for name in ("x", "y"):
        (folder / name).mkdir()
        tar_of(folder / name, _GOOD)
    return f"{folder}/*/s.tar"


def _joined(folder: Path) -> str:
    whole = tar_of(folder, _GOOD)
    (folder / "s.tar").write_bytes(whole + tar_of(folder, [("c.png", _GOOD[0][1])]))
    return str(folder)


def _parquet(cut: float | None = None, **columns) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        path = folder / "p.parquet"
        pq.write_table(pa.table(columns), path)
        if cut is not None:
            path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
        return str(path)

    return write


def bad_sources() -> Iterator[BadSource]:
    """Shards and Parquet files that are wrong as files."""
    image, label = _GOOD[0][1], b"1"
    header = lambda whole: whole.index(b"b.png") + 100  # noqa: E731
    yield BadSource("tar: cut in a header", "refused", write=_cut_tar(header))
    yield BadSource(
        "tar: cut exactly before a header",
        "refused",
        write=_cut_tar(lambda whole: whole.index(b"b.png")),
    )
    yield BadSource(
        "tar: cut in the data of an image",
        "refused",
        write=_cut_tar(lambda whole: whole.index(b"b.png") + 700),
    )
    yield BadSource("tar: empty file", "refused", write=_cut_tar(lambda whole: 0))
    yield BadSource("tar: two archives joined", "refused", write=_joined)
    yield BadSource(
        "tar: a key twice",
        "refused",
        write=_tar(("a.png", image), ("a.cls", label), ("a.png", b"")),
    )
    yield BadSource(
        "tar: one key, two formats", "refused", write=_tar(("a.png", image), ("a.jpg", image))
    )
    yield BadSource(
        "tar: an image without a label", "voted on", "its label is unknown", _tar(*_GOOD)
    )
    yield BadSource(
        "tar: a label without an image", "refused", write=_tar(*_GOOD, ("c.cls", label))
    )
    yield BadSource(
        "tar: a label that is no number", "refused", write=_tar(("a.png", image), ("a.cls", b"cat"))
    )
    yield BadSource(
        "tar: a label beyond the model's classes",
        "refused",
        write=_tar(("a.png", image), ("a.cls", b"10")),
    )
    yield BadSource(
        "tar: a member ../../x.png", "voted on", "a name is only text", _tar(("../../x.png", image))
    )
    yield BadSource("two tars of one name", "refused", write=_two_tars)
    yield BadSource("Parquet: no image column", "refused", write=_parquet(other=[b"x"], label=[1]))
    yield BadSource("Parquet: images as text", "refused", write=_parquet(image=["x"], label=[1]))
    yield BadSource(
        "Parquet: labels as text",
        "voted on",
        "numbers are numbers",
        _parquet(image=[image], label=["1"]),
        mended="refused",
    )
    yield BadSource(
        "Parquet: no label column", "voted on", "labels are unknown", _parquet(image=[image])
    )
    yield BadSource(
        "Parquet: a null label",
        "voted on",
        "its label is unknown",
        _parquet(image=[image], label=pa.nulls(1, pa.int64())),
    )
    yield BadSource("Parquet: cut", "refused", write=_parquet(0.5, image=[image], label=[1]))
    yield BadSource("Parquet: no rows", "refused", write=_parquet(image=pa.array([], pa.binary())))


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
_NAMED = json.dumps({"info": {"features": {"label": {"names": ["cat", "dog"]}}}}).encode()


def _folder(*names: str, data: bytes = _GOOD[0][1], beside: bytes = b"") -> Callable[[Path], str]:
    """Class folders; the files are images, those in the root itself something else."""

    def write(folder: Path) -> str:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data if "/" in name else beside)
        return str(folder)

    return write


def _named_classes(folder: Path) -> str:
    table = pa.table({"image": [_GOOD[0][1]], "label": [1]})
    pq.write_table(table.replace_schema_metadata({b"huggingface": _NAMED}), folder / "p.parquet")
    return str(folder)


def _broken_link(folder: Path) -> str:
    _folder("0/a.png")(folder)
    (folder / "0/b.png").symlink_to("/nowhere/b.png")
    return str(folder)


def _encrypted(folder: Path) -> str:
    table = pa.table({"image": [_GOOD[0][1]], "label": [1]})
    keys = pe.EncryptionConfiguration(footer_key="k", column_keys={"c": ["label"]})
    factory = pe.CryptoFactory(lambda _: Keys())
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), keys)
    path = folder / "p.parquet"
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    return str(path)


class Keys(pe.KmsClient):
    """Keys that are wrapped in nothing."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        """The key, as text."""
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        """The key again."""
        return base64.b64decode(wrapped_key)


def _inner(cell: bytes) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": cell, "path": None}], kind)


def reported_sources() -> Iterator[BadSource]:
    """Sources of which people reported that tools like this one made something else of them."""
    image, wnid = _GOOD[0][1], "n01440764"
    severities = [f"{severity}/{wnid}/x.JPEG" for severity in range(1, 6)]
    said = "said before any vote, with the flag that helps"
    yield BadSource(
        "ImageNet-C: a folder of severities",
        "refused",
        write=_folder(*severities),
        classes=1000,
        mended="classes 1 to 5",
    )
    yield BadSource(
        "a split in place of classes",
        "refused",
        write=_folder("train/cat/a.png", "train/dog/b.png", "val/cat/c.png", "val/dog/d.png"),
        classes=2,
        mended="classes 0 and 1",
    )
    yield BadSource(
        "class folders with a folder of images each",
        "voted on",
        "the upper folder is the class",
        _folder("0/images/a.png", "1/images/b.png"),
    )
    yield BadSource(
        "class folders and a tar",
        "refused",
        write=_folder(f"{wnid}/x.JPEG", "ILSVRC2012_img_val.tar"),
        classes=1000,
        mended="the tar alone, unlabelled",
    )
    yield BadSource(
        "files of other suffixes beside images",
        "voted on",
        "counted by suffix and said before any vote",
        _folder("0/a.JPEG", "0/b.bmp", "0/c.tif"),
        mended="not said",
    )
    yield BadSource("a folder of .bmp alone", "refused", write=_folder("0/a.bmp"))
    yield BadSource(
        "images as Git LFS pointers",
        "refused",
        write=_folder("0/a.png", data=_POINTER),
        mended="an error row each",
    )
    for suffix in ("tar", "parquet"):
        yield BadSource(
            f"a Git LFS pointer as .{suffix}",
            "refused",
            write=_folder(f"a.{suffix}", beside=_POINTER),
            mended="called damaged",
        )
        yield BadSource(
            f"a saved web page as .{suffix}",
            "refused",
            write=_folder(f"a.{suffix}", beside=b"<!DOCTYPE html><html>Sign in</html>" * 30),
            mended="called damaged",
        )
    yield BadSource("a broken link", "refused", write=_broken_link, mended="without a remedy")
    yield BadSource(
        "Parquet: encrypted", "refused", write=_encrypted, mended='"copy or write it again"'
    )
    yield BadSource(
        "Parquet: a column `image.bytes` before the struct `image`",
        "voted on",
        "the pictures of `image`",
        _parquet(**{"image.bytes": [b"other"], "image": _inner(image), "label": [1]}),
        mended="the other pictures",
    )
    yield BadSource(
        "Parquet: `fine_label` and `coarse_label`",
        "voted on",
        said,
        _parquet(image=[image], fine_label=[1], coarse_label=[0]),
        mended="not said",
    )
    yield BadSource(
        "tar: labels in .json or .txt",
        "voted on",
        said,
        _tar(("a.png", image), ("a.json", b'{"label": 1}'), ("a.txt", b"1")),
        mended="not said",
    )
    yield BadSource(
        "Parquet: the file names 2 classes, the model has 10",
        "refused",
        write=_named_classes,
        mended="labels of other classes",
    )
    yield BadSource(
        "Parquet: ImageNet's labels, a model of 10 classes",
        "refused",
        write=_parquet(image=[image], label=[217]),
        mended="three messages in a circle",
    )
    yield BadSource(
        "Parquet: ImageNet's labels, a model of 1001 classes",
        "voted on",
        "said: of 1001 classes, with --label-map",
        _parquet(image=[image], label=[217]),
        classes=1001,
        mended="not said",
    )
    yield BadSource(
        "Parquet: dictionary-encoded numbers",
        "voted on",
        "numbers are numbers",
        _parquet(image=[image], label=pa.array([1]).dictionary_encode()),
        mended="refused",
    )
    yield BadSource(
        "Parquet: categories that are names",
        "refused",
        write=_parquet(image=[image], label=pa.array(["cat"]).dictionary_encode()),
        mended="without a remedy",
    )
    yield BadSource(
        "Parquet: wnids, a model of 1000 classes",
        "voted on",
        "ImageNet's numbers",
        _parquet(image=[image], label=[wnid]),
        classes=1000,
        mended="refused",
    )


def outcomes_of_sources(
    folder: Path, cases: Iterable[BadSource]
) -> list[tuple[BadSource, Outcome, str]]:
    """The outcome of each bad source: the case, what became of it, and with which words."""
    found: list[tuple[BadSource, Outcome, str]] = []
    for number, case in enumerate(cases):
        place = folder / str(number)
        place.mkdir()
        data = case.write(place)
        try:
            list_images(data, NO, case.classes)
            found.append((case, "voted on", ""))
        except SourceError as error:
            found.append((case, "refused", str(error).replace(str(place), "DIR")))
    return found
