"""From embedded tokens to features, for the tokens that are kept; composed of timm's modules.

A transformer knows the place of a token by a position that is added to it (``AbsoluteEncoder``), or
by a bias of attention for each pair of tokens (``RelativeEncoder``). Shapes: S sequences, L tokens
of a sequence, K kept tokens, P prefix tokens, N tokens of the grid, D channels, A attention heads.
"""

import copy
from typing import Any, Protocol

import torch
from timm.layers.attention import Attention
from timm.models.beit import Attention as BeitAttention
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from models.networks.droppable import RELATIVE, Droppable
from models.networks.packed import PackedBlocks, can_pack


class Encoder(Protocol):
    """The part of a network between the embedding of tokens and the head."""

    def placed(self, zeros: Tensor) -> Tensor:
        """Prefix tokens, and the positions of zero tokens; (1, P + N, D).

        Args:
            zeros: Tokens of the grid; (1, rows, columns, D).
        """

    def __call__(self, x: Tensor, kept: Tensor) -> Tensor:
        """Features (S, P + K, D) of a sequence of prefix and kept tokens, or the first of them.

        A network whose head reads prefix tokens alone may get only those P.

        Args:
            x: Tokens with their positions; (S, P + K, D).
            kept: Grid places of the K, int64 (S, K), or (K,) if alike for all.
        """

    def pack(self) -> None:
        """Take copies of weights that make calls in inference mode fast, where there is such a way.

        To be done again when the weights change.
        """


def encoder_of(network: Droppable) -> Encoder:
    """The encoder of a network that ``droppable`` admits."""
    return RelativeEncoder(network) if type(network) in RELATIVE else AbsoluteEncoder(network)


class AbsoluteEncoder:
    """Positions are added to tokens; blocks need know nothing of them."""

    def __init__(self, network: Droppable) -> None:
        self.network = network
        # Where the head reads prefix tokens alone, the last block need compute no others.
        self.last = PrefixBlock.of(network.blocks[-1]) if reads_prefix_only(network) else None
        self.packed: PackedBlocks | None = None

    def pack(self) -> None:
        """Pack all blocks that compute every token, on a CPU."""
        weight = next(self.network.parameters())
        able = can_pack(weight.device, weight.dtype)
        self.packed = PackedBlocks(self._of_all_tokens()) if able else None

    def placed(self, zeros: Tensor) -> Tensor:
        """Prefix tokens, and the positions of zero tokens; (1, P + N, D).

        timm's own code computes them, so that every arrangement of class, distillation and
        register tokens is as in training.
        """
        network = self.network
        # Networks of dynamic size want the grid, the others want it flattened.
        placed: Tensor = network._pos_embed(
            zeros if network.dynamic_img_size else zeros.flatten(1, 2)
        )
        return placed

    def __call__(self, x: Tensor, kept: Tensor) -> Tensor:
        """As timm's ``forward_features`` after the embedding.

        Of a network whose head reads prefix tokens alone, those only: (S, P, D).
        """
        network = self.network
        x = network.norm_pre(network.patch_drop(network.pos_drop(x)))
        # Gradients, of an attack, need the weights themselves.
        packed = self.packed if torch.is_inference_mode_enabled() else None
        x = (packed or self._of_all_tokens())(x)
        if self.last is not None:
            x = self.last(x, network.num_prefix_tokens)
        features: Tensor = network.norm(x)
        return features

    def _of_all_tokens(self) -> nn.Sequential:
        """The blocks that compute every token."""
        blocks: nn.Sequential = self.network.blocks
        return blocks if self.last is None else blocks[:-1]


def reads_prefix_only(network: Droppable) -> bool:
    """True where the head takes nothing but prefix tokens from the encoder."""
    if type(network) is VisionTransformerDistilled:
        return True
    return network.global_pool == "token" and network.attn_pool is None


class PrefixBlock:
    """The last block of a network whose head reads the prefix tokens only, computed only there.

    It needs keys and values at every token, but everything else, ten twelfths of its products, at
    the prefix tokens only: the class token, and a distillation token.
    The same modules and weights, and the same arithmetic at those tokens: a block acts on each
    token by itself but for attention, and attention on each query by itself.
    """

    def __init__(self, block: Any) -> None:
        self.block = block

    @classmethod
    def of(cls, block: nn.Module) -> "PrefixBlock | None":
        """The block, if it is of the one kind that is known here, else None."""
        plain = type(block) is Block and type(block.attn) is Attention
        return cls(block) if plain else None

    def __call__(self, x: Tensor, prefix: int) -> Tensor:
        """Tokens after the block; (S, P, D) of (S, L, D)."""
        block = self.block
        read = x[:, :prefix]
        read = read + block.drop_path1(block.ls1(self._attend(block.norm1(x), prefix)))
        after: Tensor = read + block.drop_path2(block.ls2(block.mlp(block.norm2(read))))
        return after

    def _attend(self, x: Tensor, prefix: int) -> Tensor:
        """As timm's ``Attention.forward``, of the first queries over all keys; (S, P, D)."""
        attention: Any = self.block.attn
        width = attention.attn_dim
        weight, bias = attention.qkv.weight, attention.qkv.bias
        q = functional.linear(x[:, :prefix], weight[:width], None if bias is None else bias[:width])
        kv = functional.linear(x, weight[width:], None if bias is None else bias[width:])
        heads = (attention.num_heads, attention.head_dim)
        q = attention.q_norm(q.view(*q.shape[:2], *heads).transpose(1, 2))
        k, v = kv.view(*x.shape[:2], 2, *heads).permute(2, 0, 3, 1, 4).unbind(0)
        k = attention.k_norm(k)
        dropout = attention.attn_drop.p if attention.training else 0.0
        mixed = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        mixed = attention.norm(mixed.transpose(1, 2).flatten(2))
        if attention.gate is not None:
            mixed = mixed * torch.sigmoid(attention.gate(x[:, :prefix]))
        projected: Tensor = attention.proj_drop(attention.proj(mixed))
        return projected


class RelativeEncoder(nn.Module):
    """Attention is biased by a table over pairs of places, of which kept pairs are gathered.

    timm's blocks either hold a table for the whole grid or are given a bias by the network. Here
    they are all given it: copies of the blocks, sharing the weights, have their table set aside,
    and receive the rows and columns of the kept tokens through the argument that timm has for a
    bias shared by all blocks.
    """

    def __init__(self, network: Droppable) -> None:
        super().__init__()
        # In a tuple, so that the network is not registered twice.
        self._network = (network,)
        self._argument = "shared_rel_pos_bias" if isinstance(network, Beit) else "shared_rel_pos"
        shared = {id(weight): weight for weight in network.parameters()}
        self.blocks = nn.ModuleList(copy.deepcopy(block, shared) for block in network.blocks)
        table = "relative_position_bias_table" if isinstance(network, Beit) else "rel_pos"
        for block in self.blocks:
            setattr(block.attn, table, None)

    def pack(self) -> None:
        """Leave the weights as they are."""

    def placed(self, zeros: Tensor) -> Tensor:
        """Class token, if any, and an absolute position embedding, if any."""
        (network,) = self._network
        placed = zeros.flatten(1, 2)
        if network.cls_token is not None:
            placed = torch.cat([network.cls_token, placed], dim=1)
        position = getattr(network, "pos_embed", None)
        return placed if position is None else placed + position

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        """As timm's ``forward_features`` after the embedding."""
        (network,) = self._network
        prefix = network.num_prefix_tokens
        first = torch.arange(prefix, device=kept.device).expand(*kept.shape[:-1], prefix)
        place = torch.cat([first, kept + prefix], dim=-1)
        shared = self._shared_bias(network)
        for own, block in zip(network.blocks, self.blocks, strict=True):
            bias = _sum(self._own_bias(own.attn), shared)
            x = block(x, **{self._argument: None if bias is None else _of_pairs(bias, place)})
        features: Tensor = network.norm(x)
        return features

    def _shared_bias(self, network: Droppable) -> Tensor | None:
        """Bias of every block, (A, P + N, P + N)."""
        bias: Tensor | None = None
        if isinstance(network, Beit):
            if network.rel_pos_bias is not None:
                bias = network.rel_pos_bias()
        elif network.shared_rel_pos is not None:
            bias = network.shared_rel_pos.get_bias()[0]
        return bias

    def _own_bias(self, attention: Any) -> Tensor | None:
        """Bias of one block by its own table, (A, P + N, P + N)."""
        bias: Tensor | None = None
        if isinstance(attention, BeitAttention):
            if attention.relative_position_bias_table is not None:
                bias = attention._get_rel_pos_bias()[0]
        elif attention.rel_pos is not None:
            bias = attention.rel_pos.get_bias()[0]
        return bias


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _of_pairs(bias: Tensor, place: Tensor) -> Tensor:
    """The rows and columns ``place`` of a bias.

    Args:
        bias: Of all pairs; (A, P + N, P + N).
        place: Which of the P + N; int64 (S, L), or (L,) if alike for all.

    Returns:
        (S, A, L, L) or (A, L, L).
    """
    pairs = bias[:, place.unsqueeze(-1), place.unsqueeze(-2)]
    return pairs.movedim(0, -3).contiguous()
