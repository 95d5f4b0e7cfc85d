"""Vision transformers that see only the visible tokens of an ablation.

Shapes: B images, N tokens of an image, V ablations, S sequences of a microbatch, K kept tokens,
F = 3 * P * P pixel values of a token, D channels, C classes.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from models.ablation import Ablation
from models.preprocess import Preprocess


class UnsupportedModelError(ValueError):
    """The tokens of a network cannot be dropped soundly."""


class TokenDropViT(nn.Module):
    """A timm Vision Transformer evaluated on ablations without processing hidden tokens.

    Composition over the timm network, whose modules and weights are used as they are. A token
    with no visible pixel never enters; a partly visible one carries black (0 before
    normalization) where it is hidden, chosen by ``where``, so that a hidden pixel takes part
    in no arithmetic. Kept tokens keep their position embedding, and prefix tokens (class,
    registers) stay (Salman et al. 2022, section 4).

    Args:
        network: The transformer, in evaluation or training mode.
        ablation: The family of ablations, on the attacker's grid.
        preprocess: Normalization and model input size.

    Raises:
        UnsupportedModelError: The network is not a plain, column-wise droppable transformer.
        ValueError: The ablation, the preprocessing and the network disagree on the input size.
    """

    def __init__(self, network: nn.Module, ablation: Ablation, preprocess: Preprocess) -> None:
        super().__init__()
        self.network = droppable(network)
        self.ablation = ablation
        embed = self.network.patch_embed
        token_px, grid = tuple(embed.patch_size), tuple(embed.grid_size)
        model_px = (
            ablation.height * ablation.pixel_scale,
            ablation.width * ablation.pixel_scale,
        )
        expected = (grid[0] * token_px[0], grid[1] * token_px[1])
        if model_px != expected or preprocess.model_px != model_px[0]:
            raise ValueError(
                f"the model takes {expected[0]}x{expected[1]} px, preprocessing gives "
                f"{preprocess.model_px} px and the ablation covers {model_px[0]}x{model_px[1]} px; "
                "they must agree"
            )
        self.token_px, self.grid = token_px, grid
        mean = torch.tensor(preprocess.mean).view(3, 1, 1)
        std = torch.tensor(preprocess.std).view(3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.register_buffer("black", (torch.zeros_like(mean) - mean) / std, persistent=False)
        self._place_views()

    mean: Tensor
    std: Tensor
    black: Tensor
    visible_rows: Tensor
    visible_columns: Tensor

    def _place_views(self) -> None:
        """Store, per ablation, its kept tokens and which pixel rows and columns it shows."""
        ablation, scale = self.ablation, self.ablation.pixel_scale
        rows = ablation.visible_rows.repeat(scale, axis=1)
        columns = ablation.visible_columns.repeat(scale, axis=1)
        rows = rows.reshape(len(ablation), self.grid[0], self.token_px[0])
        columns = columns.reshape(len(ablation), self.grid[1], self.token_px[1])
        self.register_buffer("visible_rows", torch.from_numpy(rows), persistent=False)
        self.register_buffer("visible_columns", torch.from_numpy(columns), persistent=False)
        kept = [ablation.kept_tokens(view, self.token_px) for view in range(len(ablation))]
        self.token_counts: NDArray[np.int64] = np.array([len(tokens) for tokens in kept])
        # Padded to one length so that a single gather serves; the padding is cut off again,
        # since all views of a microbatch keep equally many tokens.
        table = np.zeros((len(ablation), self.token_counts.max()), dtype=np.int64)
        for view, tokens in enumerate(kept):
            table[view, : len(tokens)] = tokens
        self.register_buffer("kept", torch.from_numpy(table), persistent=False)

    kept: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """The arithmetic's type: that of the weights."""
        return next(self.network.parameters()).dtype

    def groups(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Ablations that keep equally many tokens: (token count, view numbers), ascending."""
        for count in np.unique(self.token_counts):
            yield int(count), np.flatnonzero(self.token_counts == count)

    def tokens(self, images_bhwc: Tensor) -> Tensor:
        """Normalized pixels of every token; (B, N, 3, P, P) in the arithmetic's type.

        Args:
            images_bhwc: uint8 pixels as the preprocessing gives them, on this module's device.
        """
        (rows, columns), (ty, tx) = self.grid, self.token_px
        images = images_bhwc.permute(0, 3, 1, 2).to(torch.float32, copy=True)
        images = images.div_(255.0).sub_(self.mean).div_(self.std).to(self.dtype)
        images = images.reshape(len(images), 3, rows, ty, columns, tx)
        return images.permute(0, 2, 4, 1, 3, 5).reshape(len(images), rows * columns, 3, ty, tx)

    def forward(self, tokens_bn: Tensor, image_s: Tensor, view_s: Tensor) -> Tensor:
        """Logits of sequences, each one ablation of one image; (S, C).

        Args:
            tokens_bn: Pixels from ``tokens``.
            image_s: Which image each sequence shows; int64 (S,).
            view_s: Which ablation, all keeping equally many tokens; int64 (S,).
        """
        count = int(self.token_counts[int(view_s[0])])
        kept_sk = self.kept[view_s, :count]
        pixels = tokens_bn[image_s[:, None], kept_sk]
        rows = self.visible_rows[view_s[:, None], kept_sk // self.grid[1]]
        columns = self.visible_columns[view_s[:, None], kept_sk % self.grid[1]]
        visible = rows[:, :, None, :, None] & columns[:, :, None, None, :]
        pixels = torch.where(visible, pixels, self.black.to(pixels.dtype))
        return self._classify(pixels, kept_sk)

    def whole(self, tokens_bn: Tensor, image_s: Tensor) -> Tensor:
        """Logits of whole images, every token kept; (S, C)."""
        everything = torch.arange(tokens_bn.shape[1], device=tokens_bn.device)
        return self._classify(tokens_bn[image_s], everything)

    def _classify(self, pixels: Tensor, kept: Tensor) -> Tensor:
        """Logits of token pixels (S, K, 3, P, P) that lie at the grid places ``kept``."""
        network = self.network
        projection = network.patch_embed.proj
        embedded = functional.linear(
            pixels.flatten(2), projection.weight.flatten(1), projection.bias
        )
        positions, prefix = self._positions()
        x = network.patch_embed.norm(embedded) + positions[kept]
        x = torch.cat([prefix.expand(len(x), -1, -1), x], dim=1)
        x = network.blocks(network.norm_pre(network.patch_drop(network.pos_drop(x))))
        logits: Tensor = network.forward_head(network.norm(x))
        return logits

    def _positions(self) -> tuple[Tensor, Tensor]:
        """What timm adds to a token and puts before the first: (N, D) and (1, prefix, D).

        Asked of timm's own code with zero tokens, so that every arrangement of class,
        distillation and register tokens is placed as the network was trained.
        """
        network = self.network
        zeros = self.black.new_zeros((1, *self.grid, network.embed_dim), dtype=self.dtype)
        # Networks of dynamic size want the grid, the others want it flattened.
        placed = network._pos_embed(zeros if network.dynamic_img_size else zeros.flatten(1, 2))
        prefix = network.num_prefix_tokens
        return placed[0, prefix:], placed[:, :prefix]


def droppable(network: nn.Module) -> VisionTransformer:
    """The network itself, known to compute the same whichever hidden tokens are left out.

    Raises:
        UnsupportedModelError: Tokens share pixels, attend only within windows, or have no
            absolute position.
    """
    name = type(network).__name__
    if not isinstance(network, VisionTransformer):
        raise UnsupportedModelError(
            f"{name} is not a plain Vision Transformer: tokens without a visible pixel cannot be "
            "dropped soundly from it; choose a ViT or DeiT model"
        )
    embed = network.patch_embed
    if not isinstance(embed, PatchEmbed) or embed.proj.kernel_size != embed.proj.stride:
        raise UnsupportedModelError(
            f"{name}: its tokens share pixels ({type(embed).__name__}), so a hidden token cannot "
            "be dropped soundly; choose a model with non-overlapping patches"
        )
    if network.pos_embed is None:
        raise UnsupportedModelError(f"{name} has no absolute position embedding to keep")
    return network
