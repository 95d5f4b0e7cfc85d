"""Networks that compute the same without their hidden tokens.

A token may be dropped iff everything that mixes tokens is global attention (or a pooling of it)
over the tokens that are there. That is a property of code, not of weights, so networks are
admitted by the classes they are made of: an unknown part is refused, never assumed harmless.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

from timm.layers.patch_embed import PatchEmbed
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import nn

from models.errors import UnsupportedModelError
from models.networks.systems import drop_refusal

Droppable: TypeAlias = Any
"""A network that ``droppable`` admits; timm leaves the types of its parts open."""

ABSOLUTE = (VisionTransformer, VisionTransformerDistilled)
"""Networks that add a position to each token."""

RELATIVE = (Beit, VisionTransformerRelPos)
"""Networks whose attention is biased by the distance of two tokens."""

# Parts that treat each token by itself, by class name; all of timm or torch.
_TOKEN_WISE = frozenset(
    [
        *("Linear", "Identity", "Dropout", "DropPath", "LayerScale", "Mlp", "GluMlp", "SwiGLU"),
        *("LayerNorm", "LayerNormFp32", "RMSNorm", "RmsNorm", "RmsNormFp32", "SimpleNorm"),
        *("GELU", "GELUTanh", "QuickGELU", "ReLU", "SiLU", "Sigmoid", "Tanh"),
        *("Sequential", "ModuleList", "ModuleDict"),
    ]
)
# Parts that mix tokens by attention over all that are there.
_ATTENTION = frozenset(
    [
        *("Attention", "Block", "ResPostBlock", "ParallelScalingBlock", "ParallelThingsBlock"),
        *("DiffAttention", "DiffParallelScalingBlock", "AttentionPoolLatent", "AttentionPoolPrr"),
        *("RelPosAttention", "RelPosBlock", "ResPostRelPosBlock", "RelPosBias", "RelPosMlp"),
    ]
)


def droppable(network: Droppable) -> Droppable:
    """Return the network, known to compute the same without any of its hidden tokens.

    Raises:
        UnsupportedModelError: It does not, or is not known to; with the reason.
    """
    name = type(network).__name__
    # Exactly these classes: a subclass may do anything between the blocks.
    if type(network) not in ABSOLUTE + RELATIVE:
        raise UnsupportedModelError(
            f"{name} is not a plain Vision Transformer: it {drop_refusal(type(network).__module__)}"
            ". Tokens without a visible pixel cannot be dropped soundly from it; use --tokens "
            "black, or choose a ViT or DeiT model"
        )
    _check_embedding(name, network.patch_embed)
    if type(network) in ABSOLUTE and network.pos_embed is None:
        raise UnsupportedModelError(f"{name} has no absolute position embedding to keep")
    if not network.global_pool:
        raise UnsupportedModelError(
            f"{name} does not pool its tokens, so it has no logits of an image; choose a classifier"
        )
    for where, part in _parts(network):
        kind = type(part)
        known = kind.__name__ in _TOKEN_WISE | _ATTENTION
        if not known or not kind.__module__.startswith(("timm.", "torch.nn.")):
            raise UnsupportedModelError(
                f"{name}: {where} is a {kind.__name__}, which is not known to leave a token alone "
                "when others are dropped; use --tokens black"
            )
    return network


def _check_embedding(name: str, embed: Any) -> None:
    """Raise UnsupportedModelError unless every pixel enters exactly one token."""
    whole = type(embed) is PatchEmbed and (
        embed.proj.kernel_size == embed.proj.stride == tuple(embed.patch_size)
        and embed.proj.padding == (0, 0)
        and embed.proj.groups == 1
    )
    if not whole:
        raise UnsupportedModelError(
            f"{name}: its tokens share pixels ({type(embed).__name__}), so a hidden token cannot "
            "be dropped soundly; use --tokens black, or choose a model with non-overlapping patches"
        )


def _parts(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module that tokens pass through after their projection, with its name."""
    for stage in ("patch_embed.norm", "norm_pre", "blocks", "norm", "attn_pool", "fc_norm"):
        module: nn.Module | None = network
        for attribute in stage.split("."):
            module = getattr(module, attribute, None)
        if module is not None:
            for name, part in module.named_modules():
                yield f"{stage}.{name}".rstrip("."), part
