"""Vision transformers that see only the visible tokens of a view.

Shapes: B images, N tokens of an image, V views, S sequences of a microbatch, K kept tokens,
P x P pixels of a token, D channels, C classes.
"""

from collections.abc import Iterator
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.classifiers.base import AblatedPixels
from models.networks.droppable import Droppable, droppable
from models.networks.encoders import encoder_of
from models.preprocess import Preprocess
from models.views.family import ViewFamily


class TokenDropViT(AblatedPixels):
    """A timm Vision Transformer evaluated on views without processing hidden tokens.

    Composition over the timm network, whose modules and weights are used as they are. A token
    with no visible pixel never enters; a partly visible one carries black (0 before
    normalization) where it is hidden, chosen by ``where``, so that a hidden pixel takes part
    in no arithmetic. Kept tokens keep their position embedding or their relative position bias,
    and prefix tokens (class, distillation, registers) stay (Salman et al. 2022, section 4). A
    network that pools its tokens pools the kept ones: their mean, not the mean over the grid.

    Args:
        network: The transformer, in evaluation or training mode.
        views: The family of views, on the attacker's grid.
        preprocess: Normalization and model input size.

    Raises:
        UnsupportedModelError: Dropping tokens would change what the network computes.
        ValueError: The views, the preprocessing and the network disagree on the input size.
    """

    network: Droppable
    rows: Tensor
    columns: Tensor
    kept: Tensor
    counts: Tensor

    def __init__(self, network: Droppable, views: ViewFamily, preprocess: Preprocess) -> None:
        super().__init__(droppable(network), views, preprocess)
        self.token_px, self.grid = _grid_of(network, self.model_px)
        self.encoder = encoder_of(network)
        self._place_views()

    def _place_views(self) -> None:
        """Store, per view, its kept tokens and the rows and columns of its rectangles."""
        rows, columns, self.hide = self.rectangles()
        rows = rows.reshape(*rows.shape[:2], self.grid[0], self.token_px[0])
        columns = columns.reshape(*columns.shape[:2], self.grid[1], self.token_px[1])
        self.register_buffer("rows", torch.from_numpy(rows), persistent=False)
        self.register_buffer("columns", torch.from_numpy(columns), persistent=False)
        views = range(len(self.views))
        kept = [self.views.kept_tokens(view, self.token_px) for view in views]
        self.token_counts: NDArray[np.int64] = np.array([len(tokens) for tokens in kept])
        # Padded to one length so that a single gather serves; the padding is cut off again,
        # since all views of a microbatch keep equally many tokens.
        table = np.zeros((len(views), self.token_counts.max()), dtype=np.int64)
        for view, tokens in enumerate(kept):
            table[view, : len(tokens)] = tokens
        self.register_buffer("kept", torch.from_numpy(table), persistent=False)
        self.register_buffer("counts", torch.from_numpy(self.token_counts), persistent=False)

    def pack(self) -> Self:
        """Pack the encoder, on a CPU."""
        self.encoder.pack()
        return self

    def groups(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Views that keep equally many tokens: (token count, view numbers), ascending."""
        for count in np.unique(self.token_counts):
            yield int(count), np.flatnonzero(self.token_counts == count)

    def arrange(self, pixels_bchw: Tensor) -> Tensor:
        """Pixels token by token; (B, N, 3, P, P) of (B, 3, H, W)."""
        (rows, columns), (ty, tx) = self.grid, self.token_px
        pixels = pixels_bchw.reshape(len(pixels_bchw), 3, rows, ty, columns, tx)
        return pixels.permute(0, 2, 4, 1, 3, 5).reshape(len(pixels), rows * columns, 3, ty, tx)

    def forward(self, tokens_bn: Tensor, image_s: Tensor, view_s: Tensor) -> Tensor:
        """Logits of sequences, each one view of one image; (S, C).

        Args:
            tokens_bn: Pixels from ``tokens``.
            image_s: Image of each sequence; int64 (S,).
            view_s: View of each sequence, all keeping equally many tokens; int64 (S,).
        """
        count = int(self.token_counts[int(view_s[0])])
        return self._visible(tokens_bn, image_s, view_s, self.kept[view_s, :count])

    def sampled(self, tokens_bn: Tensor, image_s: Tensor, view_s: Tensor, count: int) -> Tensor:
        """Logits of ``count`` of each view's kept tokens, drawn without replacement; (S, C).

        For training (PatchDropout, Liu et al., arXiv 2208.07220): views of any token count go
        through the network in one piece. Draws from torch's generator of the device.

        Args:
            tokens_bn: Pixels from ``tokens``.
            image_s: Image of each sequence; int64 (S,).
            view_s: View of each sequence; int64 (S,).
            count: Tokens of a sequence; no view keeps fewer.
        """
        draws_sk = torch.rand(len(view_s), self.kept.shape[1], device=view_s.device)
        padding_sk = (
            torch.arange(self.kept.shape[1], device=view_s.device) >= self.counts[view_s, None]
        )
        drawn_sk = draws_sk.masked_fill(padding_sk, -1.0).topk(count).indices
        return self._visible(tokens_bn, image_s, view_s, self.kept[view_s].gather(1, drawn_sk))

    def _visible(
        self, tokens_bn: Tensor, image_s: Tensor, view_s: Tensor, kept_sk: Tensor
    ) -> Tensor:
        """Logits of tokens of the views, black where the view hides them; (S, C)."""
        pixels = tokens_bn[image_s[:, None], kept_sk]
        # Rows and columns of token k inside each of the view's rectangles; (S, K, rectangles, P).
        rows = self.rows[view_s[:, None], :, kept_sk // self.grid[1]]
        columns = self.columns[view_s[:, None], :, kept_sk % self.grid[1]]
        visible = (rows[..., :, None] & columns[..., None, :]).any(dim=2) ^ self.hide
        return self._classify(self.blacken(pixels, visible[:, :, None]), kept_sk)

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
        logits: Tensor = network.forward_head(self.encoder(x, kept))
        return logits

    def _positions(self) -> tuple[Tensor, Tensor]:
        """Positions added to tokens, (N, D), and the prefix before them, (1, prefix, D)."""
        channels, prefix = self.network.embed_dim, self.network.num_prefix_tokens
        zeros = self.black.new_zeros((1, *self.grid, channels), dtype=self.dtype)
        placed = self.encoder.placed(zeros)
        return placed[0, prefix:], placed[:, :prefix]


def _grid_of(
    network: Droppable, model_px: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Pixels of a token and tokens of the grid, (height, width) each.

    Raises:
        ValueError: The network takes another size, or its tokens do not tile this one.
    """
    embed = network.patch_embed
    high, wide = embed.patch_size
    # A network of dynamic size takes any that its tokens tile, resampling its positions.
    dynamic = getattr(network, "dynamic_img_size", False)
    grid = (model_px[0] // high, model_px[1] // wide) if dynamic else tuple(embed.grid_size)
    expected = (grid[0] * high, grid[1] * wide)
    if model_px != expected:
        raise ValueError(
            f"the model takes {expected[0]}x{expected[1]} px in tokens of {high}x{wide}, "
            f"preprocessing gives {model_px[0]}x{model_px[1]} px; they must agree"
        )
    return (high, wide), (grid[0], grid[1])
