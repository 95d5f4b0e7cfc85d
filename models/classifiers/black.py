"""Any network on black-masked images: the ``black`` token mode, and every CNN.

Shapes: B images, V views, S sequences of a microbatch, H x W model pixels, C classes.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from models.classifiers.base import AblatedPixels
from models.errors import UnsupportedModelError
from models.preprocess import Preprocess
from models.views.family import ViewFamily


class BlackMasked(AblatedPixels):
    """A timm network evaluated on whole images of which a view shows a part, the rest black.

    For convolutional networks this is de-randomized smoothing (Levine & Feizi 2020, with plain
    3-channel inputs as in Salman et al. 2022); for transformers hidden tokens enter as black
    pixels. The ablated batch exists one microbatch at a time, on the device, so memory is
    bounded by the microbatch and not by the number of views.

    Args:
        network: Any timm image classifier; to vote it must be in evaluation mode, for batch
            normalization in training mode mixes the images of a batch.
        views: The family of views, on the attacker's grid.
        preprocess: Normalization and model input size.

    Raises:
        UnsupportedModelError: A normalization has no running statistics, and so would always
            take them from the batch.
        ValueError: The views, the preprocessing and the network disagree on the input size.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, network: nn.Module, views: ViewFamily, preprocess: Preprocess) -> None:
        super().__init__(network, views, preprocess)
        _check_batch_independence(network)
        _check_input_size(network, self.model_px)
        rows, columns, self.hide = self.rectangles()
        self.register_buffer("rows", torch.from_numpy(rows), persistent=False)
        self.register_buffer("columns", torch.from_numpy(columns), persistent=False)

    def groups(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """One group: every view is an image of the full size. (0, all view numbers)."""
        yield 0, np.arange(len(self.views))

    def forward(self, tokens_bn: Tensor, image_s: Tensor, view_s: Tensor) -> Tensor:
        """Logits of sequences, each one view of one image; (S, C).

        Args:
            tokens_bn: Pixels from ``tokens``.
            image_s: Image of each sequence; int64 (S,).
            view_s: View of each sequence; int64 (S,).
        """
        rows, columns = self.rows[view_s], self.columns[view_s]
        visible = (rows[..., :, None] & columns[..., None, :]).any(dim=1) ^ self.hide
        return self._classify(self.blacken(tokens_bn[image_s], visible[:, None]))

    def whole(self, tokens_bn: Tensor, image_s: Tensor) -> Tensor:
        """Logits of whole images, nothing hidden; (S, C)."""
        return self._classify(tokens_bn[image_s])

    def _classify(self, pixels: Tensor) -> Tensor:
        # Pixel-major is the faster order for convolutions. It is set here because kernels, and with
        # them the last bits of logits, depend on the order in memory.
        logits: Tensor = self.network(pixels.contiguous(memory_format=torch.channels_last))
        if logits.ndim != 2:
            raise UnsupportedModelError(
                f"{type(self.network).__name__} gives an output of shape {tuple(logits.shape)}, "
                "not one row of logits an image; choose a classifier"
            )
        return logits


def _check_batch_independence(network: nn.Module) -> None:
    for name, module in network.named_modules():
        # Instance normalization, of the same base, takes its statistics from one image alone.
        of_batch = isinstance(module, _NormBase) and "Instance" not in type(module).__name__
        if of_batch and module.running_mean is None:
            raise UnsupportedModelError(
                f"{type(network).__name__}.{name} normalizes by the statistics of the batch, so "
                "that a vote would depend on the other images; choose a model with running "
                "statistics"
            )


def _check_input_size(network: nn.Module, model_px: tuple[int, int]) -> None:
    """Raise ValueError where a transformer of one fixed size is given another."""
    embed = getattr(network, "patch_embed", None)
    size = getattr(embed, "img_size", None)
    if size is None or not getattr(embed, "strict_img_size", False):
        return
    if tuple(size) != model_px:
        raise ValueError(
            f"the model takes {size[0]}x{size[1]} px, preprocessing gives "
            f"{model_px[0]}x{model_px[1]} px; they must agree"
        )
