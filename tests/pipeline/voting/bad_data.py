"""Data that is wrong in every way we know, and what becomes of it; docs/bad-data.md shows it.

``python -m tests.pipeline.voting.bad_data`` prints that page. All in it is what happened, not what
was meant to happen; ``test_bad_data.py`` holds it against the outcomes stated here.
"""

import io
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from models.preprocess import Preprocess
from pipeline.sources.base import SourceError, SourceOptions
from pipeline.sources.listing import list_images
from pipeline.voting.decode import DecodeUnit
from pipeline.voting.job import plan_units

Outcome = Literal["voted on", "error row", "refused"]
NO = SourceOptions()
SMALL = Preprocess(
    resize=32, crop=32, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
_PIXELS = np.asarray(
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
class BadImage(Case):
    """An image, handed over among good ones.

    Attributes:
        data: Its bytes; None for a null.
    """

    data: bytes | None = None


@dataclass(frozen=True)
class BadSource(Case):
    """A source; ``write`` makes it in a folder and returns what --data would be."""

    write: Callable[[Path], str] = str


def encoded(mode: str = "RGB", kind: str = "JPEG", size=None, **options) -> bytes:
    """A picture, encoded."""
    image = Image.fromarray(_PIXELS) if size is None else Image.new("RGB", size, (9, 90, 200))
    sink = io.BytesIO()
    image.convert(mode).save(sink, kind, **options)
    return sink.getvalue()


def deep_png(colour: int) -> bytes:
    """A PNG of 16 bits a channel, grey (0) or RGB (2), which Pillow cannot write itself."""
    values = (_PIXELS if colour == 2 else _PIXELS[..., :1]).astype(">u2") * 257
    raw = b"".join(b"\0" + row.tobytes() for row in values)
    return png_of(_PIXELS.shape[1], _PIXELS.shape[0], 16, colour, zlib.compress(raw))


def png_of(width: int, height: int, depth: int, colour: int, packed: bytes) -> bytes:
    """A PNG with the given header, whatever its data."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", packed), (b"IEND", b"")]
    body = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def jpeg_places(data: bytes) -> dict[str, int]:
    """A place inside each kind of segment of a JPEG, the first of its kind."""
    names = {0xE0: "JFIF header", 0xDB: "quantization table", 0xC0: "frame header"}
    names |= {0xC4: "Huffman table", 0xDA: "scan header"}
    places, at = {}, 2
    while data[at + 1] != 0xD9:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        # The table's first entry, mean brightness, is one that every picture shows.
        inside = 3 if marker == 0xDB else length // 2
        places.setdefault(names[marker], at + 2 + inside)
        at += 2 + length
        if marker == 0xDA:
            break
    end = len(data) - 2
    return places | {
        "first bytes of the pixels": at + 3,
        "middle of the pixels": (at + end) // 2,
        "last bytes of the pixels": end - 2,
        "end marker": end,
    }


def bad_images() -> Iterator[BadImage]:
    """Images, good and bad."""
    jpeg = encoded()
    exif = Image.Exif()
    exif[0x0112] = 6
    yield BadImage("null in Parquet", "error row", data=None)
    yield BadImage("zero bytes", "error row", data=b"")
    yield BadImage("random bytes", "error row", data=np.random.default_rng(1).bytes(4000))
    yield BadImage("text, an HTML error page", "error row", data=b"<html>404 Not Found</html>")
    for kind in ("GIF", "TIFF", "BMP"):
        yield BadImage(f"a {kind} under the name .jpg", "error row", data=encoded(kind=kind))
    for kind in ("PNG", "WEBP"):
        note = "read by its content"
        yield BadImage(f"a {kind} under the name .jpg", "voted on", note, data=encoded(kind=kind))
    yield BadImage("JPEG: only the start marker", "error row", data=jpeg[:2])
    for place, at in jpeg_places(jpeg).items():
        yield BadImage(f"JPEG: cut in the {place}", "error row", data=jpeg[:at])
    unseen: dict[str, tuple[Outcome, str]] = {
        "JFIF header": ("voted on", "the header has no pixels"),
        "quantization table": ("voted on", "other pixels: JPEG has no checksum"),
        "first bytes of the pixels": ("voted on", "other pixels: JPEG has no checksum"),
        "middle of the pixels": ("voted on", "other pixels: JPEG has no checksum"),
        "last bytes of the pixels": ("voted on", "other pixels: JPEG has no checksum"),
        "end marker": ("voted on", "all pixels are there"),
    }
    for place, at in jpeg_places(jpeg).items():
        garbled = jpeg[:at] + bytes(255 - byte for byte in jpeg[at : at + 2]) + jpeg[at + 2 :]
        outcome, note = unseen.get(place, ("error row", ""))
        yield BadImage(f"JPEG: two bytes garbled in the {place}", outcome, note, data=garbled)
    png = encoded(kind="PNG")
    for name, at in (("header", 20), ("pixels", len(png) // 2)):
        yield BadImage(f"PNG: cut in the {name}", "error row", data=png[:at])
        garbled = png[:at] + b"\xff\0\xff" + png[at + 3 :]
        yield BadImage(f"PNG: garbled in the {name}", "error row", data=garbled)
    yield BadImage("WebP: cut", "error row", data=encoded(kind="WEBP")[:-100])
    yield BadImage("1x1 px", "voted on", "resized like any other", data=encoded(size=(1, 1)))
    wide = encoded(size=(20_000, 1), kind="PNG")
    yield BadImage("20,000x1 px", "voted on", "resized like any other", data=wide)
    for side in (13_400, 65_535):
        bomb = png_of(side, side, 8, 0, zlib.compress(b""))
        yield BadImage(f"decompression bomb of {side:,}x{side:,} px", "error row", data=bomb)
    for mode in ("CMYK", "L"):
        yield BadImage(f"{mode} JPEG", "voted on", "converted to RGB", data=encoded(mode))
    for mode in ("P", "RGBA", "LA", "1"):
        note = "converted to RGB" + (", transparency dropped" if "A" in mode else "")
        yield BadImage(f"{mode} PNG", "voted on", note, data=encoded(mode, "PNG"))
    for colour, name in ((0, "grey"), (2, "RGB")):
        note = "the high byte of each value"
        yield BadImage(f"16-bit {name} PNG", "voted on", note, data=deep_png(colour))
    for kind in ("PNG", "WEBP"):
        frames = {"save_all": True, "append_images": [Image.new("RGB", (64, 48))]}
        moving = encoded(kind=kind, **frames)
        yield BadImage(f"animated {kind}", "voted on", "its first frame", data=moving)
    yield BadImage(
        "EXIF orientation", "voted on", "ignored, as torchvision does", data=encoded(exif=exif)
    )


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
    yield BadSource("Parquet: labels as text", "refused", write=_parquet(image=[b"x"], label=["1"]))
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


def outcomes_of_images(folder: Path) -> list[tuple[BadImage, Outcome, str, bool]]:
    """What becomes of each bad image among good ones.

    Returns:
        The case, its outcome, its error, and whether the good images around it kept their pixels.
    """
    cases, good = list(bad_images()), encoded(kind="PNG")
    cells = [data for case in cases for data in (good, case.data)] + [good]
    pq.write_table(pa.table({"image": pa.array(cells, pa.binary())}), folder / "p.parquet")
    listing = list_images(str(folder / "p.parquet"), NO, None)
    (unit,) = plan_units(listing.table, len(cells))
    decoded = DecodeUnit(NO, SMALL)(unit)
    pixels, errors = decoded["pixels"].to_pylist(), decoded["error"].to_pylist()
    kept = [one == pixels[0] and one is not None for one in pixels[::2]]
    return [
        (case, "voted on" if error is None else "error row", error or "", before and after)
        for case, error, before, after in zip(cases, errors[1::2], kept, kept[1:], strict=False)
    ]


def outcomes_of_sources(folder: Path) -> list[tuple[BadSource, Outcome, str]]:
    """What becomes of each bad source: the case, its outcome, and with which words."""
    found: list[tuple[BadSource, Outcome, str]] = []
    for number, case in enumerate(bad_sources()):
        place = folder / str(number)
        place.mkdir()
        data = case.write(place)
        try:
            list_images(data, NO, 10)
            found.append((case, "voted on", ""))
        except SourceError as error:
            found.append((case, "refused", str(error).replace(str(place), "DIR")))
    return found


_HEAD = """# What becomes of bad data

Written by `python -m tests.pipeline.voting.bad_data` from what happens to the tests' corpus, which
fail when this page is out of date.

- **Voted on**: the image counts like any other.
- **Error row**: the image has a row with its `error` in place of votes, and counts as wrong. The
  good images of the same shard keep their votes.
- **Refused**: the job ends with exit code 2 before any GPU time, since every file is listed first.

When more than `--max-error-rate` of all images (1 % unless given) have an error, the job fails with
exit code 1 at its end, after everything is written, and names some of them. An image that kills the
process that reads it or votes on it is given up after two such deaths and two more of child
processes that handle it alone; it becomes an error row, and the job goes on.
"""


def page() -> str:
    """docs/bad-data.md."""
    lines = [_HEAD, "## Images", "", "| image | outcome | |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        for case, outcome, error, _ in outcomes_of_images(Path(name)):
            lines.append(f"| {case.name} | {outcome} | {case.note or error} |")
    lines += ["", "## Shards and Parquet files", "", "| source | outcome | |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        for source, outcome, words in outcomes_of_sources(Path(name)):
            lines.append(f"| {source.name} | {outcome} | {source.note or words} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
