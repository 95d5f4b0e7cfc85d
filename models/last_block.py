"""The last block, for the tokens that are read after it.

A head that reads the class token alone needs of the last block its keys and values at every token
but everything else, ten twelfths of the block's products, at the class token only (two queries for
a distilled model). Shapes: S sequences, L tokens of a sequence, P prefix tokens, D channels.
"""

from typing import Any

import torch
from timm.layers.attention import Attention
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from models.droppable import Droppable


def reads_prefix_only(network: Droppable) -> bool:
    """Whether the head takes nothing but prefix tokens from the encoder."""
    if type(network) is VisionTransformerDistilled:
        return True
    return network.global_pool == "token" and network.attn_pool is None


class PrefixBlock:
    """A timm ``Block`` whose output is wanted at the prefix tokens only.

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
