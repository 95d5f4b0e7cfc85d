"""Blocks of a Vision Transformer in the form that votes fastest on a CPU.

The same products in another order of sums: weights in the layout of the processor's matrix kernels,
GELU inside the product before it, and attention over few tokens by plain products. oneDNN's names
are those that torch's own compiler calls; there is no public way to a packed weight.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn

# Tokens below which products, a softmax and products take less time than the fused kernel.
_FEW_TOKENS = {torch.float32: 64, torch.bfloat16: 256}
# Rows of a product in a microbatch, about: the layout of weights is chosen for them.
_ROWS = 2048


class PackedBlocks:
    """Blocks with packed weights, for calls without gradients.

    Args:
        blocks: timm's, on the CPU in evaluation mode, to be packed again when their weights change.
            Those of a kind that is not known here are called as they are.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        self.many: list[nn.Module] = [_packed(block) for block in blocks]
        self.few: list[nn.Module] = [_with_plain_attention(block) for block in self.many]

    def __call__(self, x: Tensor) -> Tensor:
        """Tokens after the blocks; (S, L, D) of (S, L, D)."""
        few = x.shape[1] < _FEW_TOKENS[x.dtype]
        for block in self.few if few else self.many:
            x = block(x)
        return x

    @property
    def blocks(self) -> list[nn.Module]:
        """All blocks that may be called."""
        return [*self.many, *self.few]


class PackedLinear(nn.Module):
    """A linear layer, and the activation after it.

    Args:
        linear: Its weights are copied.
        activation: The GELU that follows; None for none.
    """

    def __init__(self, linear: nn.Linear, activation: nn.GELU | None = None) -> None:
        super().__init__()
        pack: Any = torch.ops.mkldnn._reorder_linear_weight
        self.packed = pack(linear.weight.detach(), _ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.after = ("none", "") if activation is None else ("gelu", activation.approximate)

    def forward(self, x: Tensor) -> Tensor:
        """Rows (..., outputs) of rows (..., inputs)."""
        name, algorithm = self.after
        product: Any = torch.ops.mkldnn._linear_pointwise
        found: Tensor = product(x, self.packed, self.bias, name, [], algorithm)
        return found


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """True where oneDNN multiplies packed weights of the type, and that is what votes run on."""
    backends: Any = torch.backends  # its stubs leave types open
    if device.type != "cpu" or dtype not in _FEW_TOKENS:
        return False
    # MKL stands for x86: elsewhere oneDNN cannot have GELU inside a fast product.
    if not (backends.mkldnn.is_available() and backends.mkl.is_available()):
        return False
    return dtype is torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packed(block: Any) -> Any:
    """A copy with packed weights of a block of the one kind that is known here; else the block."""
    parts = block, getattr(block, "attn", None), getattr(block, "mlp", None)
    if not all(map(_is_plain, parts, (Block, Attention, Mlp))):
        return block
    mlp = block.mlp
    followed = _is_plain(mlp.fc1, nn.Linear) and _is_plain(mlp.act, nn.GELU)
    after = {mlp.fc1: mlp.act} if followed else {}
    replaced: dict[int, Any] = {id(activation): nn.Identity() for activation in after.values()}
    for part in block.modules():
        if _is_plain(part, nn.Linear):
            replaced[id(part)] = PackedLinear(part, after.get(part))
    return _copied(block, replaced)


def _is_plain(part: Any, kind: type[nn.Module]) -> bool:
    """True for a part of exactly this kind, with ordinary weights, that nobody has changed."""
    if type(part) is not kind or "forward" in vars(part):
        return False
    ordinary = all(type(weight) is nn.Parameter for weight in part.parameters(recurse=False))
    return ordinary and not (part._forward_hooks or part._forward_pre_hooks)


def _with_plain_attention(block: Any) -> Any:
    """A copy of a packed block that attends by plain products; another block as it is."""
    packed = {id(part): part for part in block.modules() if isinstance(part, PackedLinear)}
    if not packed:
        return block
    found = _copied(block, packed)
    found.attn.fused_attn = False
    return found


def _copied(block: nn.Module, replaced: dict[int, Any]) -> Any:
    """A copy in which some parts are replaced, and the weights of the others are shared."""
    shared = {id(weight): weight for weight in block.parameters()}
    return copy.deepcopy(block, {**shared, **replaced})
