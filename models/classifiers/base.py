"""The protocol of base classifiers, and the pixels that they take, common to every token mode.

Shapes: B images, V views, K rectangles a view, S sequences of a microbatch, H x W model pixels, C
classes.
"""

from collections.abc import Iterator
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.preprocess import Preprocess
from models.views.family import Rectangles, ViewFamily


class BaseClassifier(Protocol):
    """A network that classifies views; ``models.classifiers.build`` makes them."""

    views: ViewFamily

    def groups(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield the views of equal shape: (token count, view numbers)."""

    def tokens(self, images_bhwc: Tensor) -> Tensor:
        """Normalized pixels, from which sequences gather; computed once an image."""

    def __call__(self, tokens_bn: Tensor, image_s: Tensor, view_s: Tensor) -> Tensor:
        """Logits (S, C) of view ``view_s`` of image ``image_s``."""

    def whole(self, tokens_bn: Tensor, image_s: Tensor) -> Tensor:
        """Logits (S, C) of the whole images ``image_s``."""


class AblatedPixels(nn.Module):
    """The input of a base classifier: checks of its size, normalization, black pixels.

    Black is 0 in [0, 1] space, before normalization, as published: a hidden pixel reaches the
    network as -mean / std.

    Args:
        network: A timm network, in evaluation or training mode.
        views: The family of views, on the attacker's grid.
        preprocess: Normalization and model input size.

    Raises:
        ValueError: The views and the preprocessing disagree on the input size.
    """

    mean: Tensor
    std: Tensor
    black: Tensor

    def __init__(self, network: nn.Module, views: ViewFamily, preprocess: Preprocess) -> None:
        super().__init__()
        self.network, self.views = network, views
        scale = views.pixel_scale
        self.model_px = (views.height * scale, views.width * scale)
        if preprocess.model_px != self.model_px:
            given = preprocess.model_px
            raise ValueError(
                f"preprocessing gives {given[0]}x{given[1]} px and the views cover "
                f"{self.model_px[0]}x{self.model_px[1]} px; they must agree"
            )
        mean = torch.tensor(preprocess.mean).view(3, 1, 1)
        std = torch.tensor(preprocess.std).view(3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.register_buffer("black", (torch.zeros_like(mean) - mean) / std, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """The arithmetic's type: that of the weights."""
        return next(self.network.parameters()).dtype

    def tokens(self, images_bhwc: Tensor) -> Tensor:
        """Normalized pixels in the arithmetic's type, as ``forward`` takes them.

        Args:
            images_bhwc: uint8 pixels as the preprocessing gives them, on this module's device.
        """
        return self.arrange(self.normalize(images_bhwc))

    def pack(self) -> Self:
        """Make calls in inference mode fast at the price of copies of weights; return this.

        To be called on the device and in the type of the votes, and again when the weights change.
        """
        return self

    def arrange(self, pixels_bchw: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in the order in which ``forward`` takes them: here as they lie."""
        return pixels_bchw

    def normalize(self, images_bhwc: Tensor) -> Tensor:
        """Normalized pixels in the arithmetic's type; (B, 3, H, W).

        Args:
            images_bhwc: uint8 pixels as the preprocessing gives them, on this module's device.
        """
        images = images_bhwc.permute(0, 3, 1, 2).to(torch.float32, copy=True)
        images = images.div_(255.0).sub_(self.mean).div_(self.std).to(self.dtype)
        # Kernels, and with them the last bits, depend on the order in memory: fix it.
        return images.contiguous()

    def blacken(self, pixels: Tensor, visible: Tensor) -> Tensor:
        """``pixels`` (..., 3, h, w) where ``visible`` (..., 1, h, w), else black.

        Chosen by ``where``, not multiplied by a mask: a hidden pixel takes part in no
        arithmetic, and a NaN in it does no harm.
        """
        return torch.where(visible, pixels, self.black.to(pixels.dtype))

    def rectangles(self) -> Rectangles:
        """Model pixel rows (V, K, H) and columns (V, K, W) of what each view shows or hides."""
        rows_vkh, columns_vkw, hide = self.views.rectangles
        scale = self.views.pixel_scale
        return Rectangles(
            rows_vkh.repeat(scale, axis=2), columns_vkw.repeat(scale, axis=2), hide=hide
        )
