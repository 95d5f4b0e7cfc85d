"""Data that is wrong in every way we know, and what becomes of it; docs/bad-data.md shows it.

``python -m tests.pipeline.voting.bad_data`` prints that page. All in it is what happened, not what
was meant to happen; ``test_bad_data.py`` holds it against the outcomes stated here.
"""

import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from models.preprocess import Preprocess
from pipeline.sources.listing import list_images
from pipeline.voting.decode import DecodeUnit
from pipeline.voting.job import plan_units
from tests.pipeline.voting.bad_sources import (
    NO,
    PIXELS,
    Case,
    Outcome,
    bad_sources,
    encoded,
    outcomes_of_sources,
    reported_sources,
)

SMALL = Preprocess(
    resize=32, crop=32, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)


@dataclass(frozen=True)
class BadImage(Case):
    """An image, handed over among good ones.

    Attributes:
        data: Its bytes; None for a null.
    """

    data: bytes | None = None


def deep_png(colour: int) -> bytes:
    """A PNG of 16 bits a channel, grey (0) or RGB (2), which Pillow cannot write itself."""
    values = (PIXELS if colour == 2 else PIXELS[..., :1]).astype(">u2") * 257
    raw = b"".join(b"\0" + row.tobytes() for row in values)
    return png_of(PIXELS.shape[1], PIXELS.shape[0], 16, colour, zlib.compress(raw))


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


_REPORTED = """
## What held and what was mended

Sources that people who do this work reported, and what once became of them here.
"""


def page() -> str:
    """docs/bad-data.md."""
    lines = [_HEAD, "## Images", "", "| image | outcome | |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        for case, outcome, error, _ in outcomes_of_images(Path(name)):
            lines.append(f"| {case.name} | {outcome} | {case.note or error} |")
    lines += ["", "## Shards and Parquet files", "", "| source | outcome | |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        for source, outcome, words in outcomes_of_sources(Path(name), bad_sources()):
            lines.append(f"| {source.name} | {outcome} | {source.note or words} |")
    lines += [_REPORTED, "| source | outcome | | until mended |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        for source, outcome, words in outcomes_of_sources(Path(name), reported_sources()):
            before = source.mended or "(held)"
            lines.append(f"| {source.name} | {outcome} | {source.note or words} | {before} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
