"""Made-up photographs: what decoding costs depends on their size and detail alone."""

import io

import numpy as np
from PIL import Image

PHOTO = (500, 375)
"""Width and height of a usual ImageNet photograph, in pixels."""

LARGE = (2000, 1500)
"""Width and height of a large one."""


def photo(width: int, height: int, seed: int) -> bytes:
    """A JPEG with the detail and size of a photograph: smooth shapes and fine noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noisy = smooth + rng.integers(-12, 13, smooth.shape)
    stream = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()
