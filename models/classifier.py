"""The base classifier of a token mode."""

from torch import nn

from models.ablation import Ablation
from models.masked import BlackMasked
from models.preprocess import Preprocess
from models.systems import TokenMode
from models.vit import TokenDropViT


def base_classifier(
    network: nn.Module, ablation: Ablation, preprocess: Preprocess, tokens: TokenMode
) -> TokenDropViT | BlackMasked:
    """``network`` on ablations: hidden tokens dropped, or hidden pixels black.

    Raises:
        UnsupportedModelError: The network cannot be evaluated soundly in this mode.
        ValueError: The mode is unknown, or the sizes disagree.
    """
    if tokens == "drop":
        return TokenDropViT(network, ablation, preprocess)
    if tokens == "black":
        return BlackMasked(network, ablation, preprocess)
    raise ValueError(f"tokens={tokens!r}: choose drop or black")
