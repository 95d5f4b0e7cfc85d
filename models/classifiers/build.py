"""Build the base classifier of a token mode, of all its classes or of some (``--classes``)."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.classifiers.base import BaseClassifier
from models.classifiers.black import BlackMasked
from models.classifiers.drop import TokenDropViT
from models.networks.systems import TokenMode
from models.preprocess import Preprocess
from models.views.family import ViewFamily


def base_classifier(
    network: nn.Module, views: ViewFamily, preprocess: Preprocess, tokens: TokenMode
) -> TokenDropViT | BlackMasked:
    """``network`` on views: hidden tokens dropped, or hidden pixels black.

    Raises:
        UnsupportedModelError: The network cannot be evaluated soundly in this mode.
        ValueError: The mode is unknown, or the sizes disagree.
    """
    if tokens == "drop":
        return TokenDropViT(network, views, preprocess)
    if tokens == "black":
        return BlackMasked(network, views, preprocess)
    raise ValueError(f"tokens={tokens!r}: choose drop or black")


class ClassSubset:
    """A base classifier whose logits outside ``classes`` are the lowest number, below all others.

    Not minus infinity: a logit that is not finite is no vote. Votes keep the model's own class
    numbers, so labels and class names keep theirs; a softmax is over the allowed classes alone.

    Args:
        classifier: The base classifier of all classes.
        classes: Allowed classes, ascending, at least two.
        device: Where its logits are.
    """

    def __init__(
        self, classifier: BaseClassifier, classes: Sequence[int], device: torch.device
    ) -> None:
        self.classifier, self.views = classifier, classifier.views
        self.classes = torch.tensor(classes, device=device)

    @classmethod
    def of(
        cls, classifier: BaseClassifier, classes: Sequence[int] | None, device: torch.device
    ) -> BaseClassifier:
        """``classifier`` itself where ``classes`` is None."""
        return classifier if classes is None else cls(classifier, classes, device)

    def groups(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """As those of the classifier of all classes."""
        return self.classifier.groups()

    def tokens(self, images_bhwc: Tensor) -> Tensor:
        """As those of the classifier of all classes."""
        return self.classifier.tokens(images_bhwc)

    def __call__(self, tokens_bn: Tensor, image_s: Tensor, view_s: Tensor) -> Tensor:
        """Logits (S, C), the lowest number outside the allowed classes."""
        return self._masked(self.classifier(tokens_bn, image_s, view_s))

    def whole(self, tokens_bn: Tensor, image_s: Tensor) -> Tensor:
        """Logits (S, C) of whole images, the lowest number outside the allowed classes."""
        return self._masked(self.classifier.whole(tokens_bn, image_s))

    def _masked(self, logits_sc: Tensor) -> Tensor:
        masked = torch.full_like(logits_sc, torch.finfo(logits_sc.dtype).min)
        masked[:, self.classes] = logits_sc[:, self.classes]
        return masked
