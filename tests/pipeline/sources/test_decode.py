import contextlib
import dataclasses
import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from models.preprocess import PRESETS, Preprocess
from pipeline.sources import decode as module
from pipeline.sources.decode import UndecodableError, decode, prepared

RGB = np.random.default_rng(0).integers(0, 256, (16, 12, 3), dtype=np.uint8)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(mode="RGB"):
    return Image.fromarray(RGB).convert(mode)


def png(width, height, depth, colour, raw):
    def chunk(name, body):
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


SAMPLES = [
    (mode, kind, options)
    for kind, modes in (
        ("PNG", ["RGB", "RGBA", "L", "LA", "P", "1"]),
        ("JPEG", ["RGB", "L", "CMYK"]),
        ("WEBP", ["RGB", "RGBA"]),
    )
    for mode in modes
    for options in ([{}, {"progressive": True}] if kind == "JPEG" else [{}])
]


@pytest.mark.parametrize(("mode", "kind", "options"), SAMPLES)
def test_modes_become_rgb_as_pillow_converts(mode, kind, options):
    data = encoded(picture(mode), kind, **options)
    image = decode(data)
    assert type(image) is Image.Image
    assert (image.mode, image.size) == ("RGB", (12, 16))
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    assert np.array_equal(np.asarray(image), np.asarray(expected))
    if kind == "PNG" and mode == "RGB":
        assert np.array_equal(np.asarray(image), RGB)


def test_alpha_is_dropped_not_blended():
    image = Image.fromarray(np.dstack([RGB, np.zeros((16, 12), np.uint8)]))
    assert np.array_equal(np.asarray(decode(encoded(image, "PNG"))), RGB)


def test_16_bit_grey_keeps_its_high_byte_like_16_bit_colour():
    grey = np.array([[0, 255, 256], [0x8000, 0xFF00, 0xFFFF]], dtype=np.uint16)
    pixels = np.asarray(decode(encoded(Image.fromarray(grey), "PNG")))
    assert pixels[..., 0].tolist() == [[0, 0, 1], [128, 255, 255]]
    assert (pixels == pixels[..., :1]).all()
    rows = [b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in grey]
    assert np.array_equal(np.asarray(decode(png(3, 2, 16, 2, b"".join(rows)))), pixels)


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    plain, turned = encoded(picture(), "JPEG"), encoded(picture(), "JPEG", exif=exif)
    assert plain != turned
    assert np.array_equal(np.asarray(decode(plain)), np.asarray(decode(turned)))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), (red, 0, 0)) for red in (200, 50)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    assert decode(data).getpixel((0, 0)) == (200, 0, 0)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (1, 20_000)])
def test_extreme_sizes(size):
    assert decode(encoded(Image.new("L", size, 9), "PNG")).size == size


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "no bytes"),
        (b"", "zero bytes"),
        (b"garbage", "not a JPEG, PNG or WebP image"),
        (encoded(picture(), "GIF"), "not a JPEG, PNG or WebP image"),
        (encoded(picture(), "TIFF"), "not a JPEG, PNG or WebP image"),
        (encoded(picture(), "JPEG")[:-10], "truncated JPEG data (OSError)"),
    ],
)
def test_reasons_are_the_same_everywhere(data, reason):
    with pytest.raises(UndecodableError) as caught:
        decode(data)
    assert str(caught.value) == reason


@pytest.mark.parametrize(("mode", "kind", "options"), SAMPLES)
def test_truncation_at_every_byte_loses_no_pixel_unseen(mode, kind, options):
    """Pillow takes a PNG whose pixels are whole but whose trailer is not; nothing else."""
    data = encoded(picture(mode), kind, **options)
    pixels = np.asarray(decode(data))
    for cut in range(0, len(data), 1 if len(data) < 1000 else 3):
        try:
            image = decode(data[:cut])
        except UndecodableError:
            continue
        assert kind == "PNG"
        assert np.array_equal(np.asarray(image), pixels), cut
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize("action", ["ignore", "error"])
@pytest.mark.parametrize("side", [9_460, 13_400, 65_535])
def test_decompression_bombs_are_never_unpacked(side, action):
    bound = pytest.raises(UndecodableError, match="over the bound of 89,478,485 pixels")
    with warnings.catch_warnings(), bound:
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        decode(png(side, side, 8, 0, b""))


def test_the_bound_itself_is_allowed(monkeypatch):
    monkeypatch.setattr(module, "MAX_PIXELS", 12 * 16)
    decode(encoded(picture(), "PNG"))
    monkeypatch.setattr(module, "MAX_PIXELS", 12 * 16 - 1)
    with pytest.raises(UndecodableError, match="12x16 px"):
        decode(encoded(picture(), "PNG"))


HEADS = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x20\0\0\0WEBPVP8 "]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(HEADS), st.binary(max_size=300))
def test_garbage_never_escapes(head, tail):
    with contextlib.suppress(UndecodableError):
        assert decode(head + tail).mode == "RGB"


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["PNG", "JPEG", "WEBP"]), st.data())
def test_flipped_bytes_never_escape(kind, draw):
    data = bytearray(encoded(picture(), kind))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(UndecodableError):
        assert decode(bytes(data)).mode == "RGB"


@pytest.mark.parametrize("error", [IndexError, struct.error, SyntaxError, RecursionError])
def test_whatever_the_decoder_raises(monkeypatch, error):
    def fail(*args):
        raise error("secret bytes")

    monkeypatch.setattr(module, "_rgb", fail)
    with pytest.raises(UndecodableError) as caught:
        decode(encoded(picture(), "PNG"))
    assert str(caught.value) == f"damaged PNG data ({error.__name__})"


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory when reading image file")])
def test_a_worker_short_of_memory_condemns_no_image(monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(module, "_rgb", fail)
    with pytest.raises(MemoryError):
        decode(encoded(picture(), "JPEG"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_half_an_image_is_none_whatever_another_library_allows(monkeypatch, kind):
    data = encoded(PHOTO.reduce(5), kind)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(UndecodableError):
        decode(data[: len(data) // 2])


PHOTO = Image.fromarray(
    np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8)
).resize((1600, 1200), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(
    ("at_least", "size"),
    [
        (None, (1600, 1200)),
        (601, (1600, 1200)),
        (600, (800, 600)),
        (256, (400, 300)),
        (1, (200, 150)),
    ],
)
def test_a_large_jpeg_comes_out_smaller_but_never_too_small(at_least, size):
    assert decode(encoded(PHOTO, "JPEG"), at_least).size == size


def test_other_formats_and_modes_do_not_mind():
    assert decode(encoded(PHOTO, "PNG"), 64).size == PHOTO.size
    grey = decode(encoded(PHOTO.convert("L"), "JPEG"), 256)
    assert (grey.mode, grey.size) == ("RGB", (400, 300))
    with pytest.raises(UndecodableError, match="truncated"):
        decode(encoded(PHOTO, "JPEG")[:-4000], 256)


def test_scaled_decoding_is_asked_for_and_differs_little():
    whole = PRESETS["imagenet"]
    scaled = dataclasses.replace(whole, scaled_decode=True)
    data = encoded(PHOTO, "JPEG", quality=95)
    assert np.array_equal(prepared(data, whole), whole(decode(data)))
    differing = np.abs(prepared(data, scaled).astype(int) - prepared(data, whole))
    assert 0 < differing.max() < 16
    # Identities of runs that decode as ever say nothing of it.
    assert "scaled_decode" not in whole.to_dict()
    assert Preprocess(**scaled.to_dict()) == scaled
    with pytest.raises(ValueError, match="--resize"):
        dataclasses.replace(PRESETS["cifar10"], scaled_decode=True)
