"""Pixels of the model's input: what a view shows of them, and the tokens that it keeps."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.views.family import BoolArray, ViewFamily


def visible(views: ViewFamily, view: int) -> BoolArray:
    """Pixels that a view shows; bool (model height, model width)."""
    return enlarged(views.visible(view), (views.pixel_scale, views.pixel_scale))


def kept(views: ViewFamily, view: int, token_px: tuple[int, int]) -> BoolArray:
    """Pixels of the tokens that a view keeps; bool (model height, model width)."""
    rows, columns = (
        length * views.pixel_scale // token
        for length, token in zip((views.height, views.width), token_px, strict=True)
    )
    tokens = np.zeros(rows * columns, bool)
    tokens[views.kept_tokens(view, token_px)] = True
    return enlarged(tokens.reshape(rows, columns), token_px)


def enlarged(array: NDArray[Any], by: tuple[int, int]) -> NDArray[Any]:
    """Repeat each row and each column."""
    return array.repeat(by[0], axis=0).repeat(by[1], axis=1)
