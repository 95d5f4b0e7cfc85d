"""From encoded bytes to RGB pixels, or one stated reason why not."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from models.preprocess import MAX_PIXELS, Preprocess

FORMATS = ("JPEG", "PNG", "WEBP")
# Begin of the OSError of Pillow's decoders in C when they cannot get memory.
_OUT_OF_MEMORY = "out of memory"


class UndecodableError(ValueError):
    """The bytes are no image that can be certified.

    The message is one short reason, the same on every machine, with nothing of the bytes in it.
    """


def prepared(data: bytes | None, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Decode an image and make it the model's input; uint8 (*model_px, 3).

    Raises:
        UndecodableError, WrongSizeError: The image cannot be used; the reason.
    """
    return preprocess(decode_for(data, preprocess))


def decode_for(data: bytes | None, preprocess: Preprocess) -> Image.Image:
    """Decode an image as ``preprocess`` takes it.

    Raises:
        UndecodableError: The image cannot be used; the reason.
    """
    return decode(data, preprocess.resize if preprocess.scaled_decode else None)


def decode(data: bytes | None, at_least: int | None = None) -> Image.Image:
    """Decode a JPEG, PNG or WebP image to RGB, 8 bits a channel.

    Grey, palette and CMYK images become RGB and alpha is dropped, as Pillow's ``convert("RGB")``
    and so torchvision's ``ImageFolder`` do. 16-bit grey keeps its high byte, as Pillow does for
    16-bit colour, where ``convert`` would clip it to white. EXIF orientation is ignored, as
    torchvision does. Of an animation the first frame is taken. The format is read from the bytes,
    not from a name. A file that lacks pixels is an error, never filled with grey.

    Args:
        data: The encoded file; None for an image that the source lists without bytes.
        at_least: A JPEG may come out at a half, a quarter or an eighth of its size, shrunk by
            libjpeg as it decodes, as long as both sides keep so many pixels; None: as it is.

    Returns:
        Mode RGB, of the size stored in the file or a part of it, at most MAX_PIXELS.

    Raises:
        UndecodableError: The bytes are damaged or no such image.
        MemoryError: There is too little memory, which is no fault of theirs.
    """
    if not data:
        raise UndecodableError("no bytes" if data is None else "zero bytes")
    kind = "image"
    # A global that any library may set: missing pixels would come out grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            kind = image.format or kind
            if image.width * image.height > MAX_PIXELS:  # before any pixel is decoded
                raise UndecodableError(
                    f"{image.width}x{image.height} px is over the bound of {MAX_PIXELS:,} pixels"
                )
            if at_least is not None:
                image.draft(None, (at_least, at_least))  # of use to JPEG alone
            image.load()
            return _rgb(image)
    except UndecodableError:
        raise
    except UnidentifiedImageError:
        raise UndecodableError("not a JPEG, PNG or WebP image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UndecodableError(f"over the bound of {MAX_PIXELS:,} pixels") from None
    # The worker's, not the image's, whose demands are bounded: an error row would stay for good,
    # while a job that fails resumes.
    except MemoryError:
        raise
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, EOFError, zlib.error,
    # IndexError and more for bad bytes, and the list changes with its versions. One image must cost
    # one row, so any of them is its fault. The text is left out: it may quote the bytes or a
    # memory address.
    except Exception as error:
        if str(error).startswith(_OUT_OF_MEMORY):
            raise MemoryError(str(error)) from error
        fault = "truncated" if "truncated" in str(error).lower() else "damaged"
        raise UndecodableError(f"{fault} {kind} data ({type(error).__name__})") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        image = Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")
