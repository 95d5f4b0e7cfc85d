"""Forward pass of training: that of evaluation, for several ablations of each image.

Shapes: B images, n ablations of each, C classes.
"""

import torch
from torch import Tensor, nn

from models.classifiers.build import base_classifier
from models.classifiers.drop import TokenDropViT
from models.networks.systems import TokenMode
from models.preprocess import Preprocess
from models.views.family import ViewFamily


class AblationLogits(nn.Module):
    """Logits of chosen ablations, by the same base classifier that votes.

    One call a step, so that it can be wrapped for data-parallel training.

    Raises:
        UnsupportedModelError: The network cannot be evaluated soundly in this mode.
    """

    group_v: Tensor
    grid_pixel: Tensor

    def __init__(
        self, network: nn.Module, views: ViewFamily, preprocess: Preprocess, tokens: TokenMode
    ) -> None:
        super().__init__()
        self.classifier = base_classifier(network, views, preprocess, tokens)
        self.tokens_of_view: int | None = None
        group_v = torch.zeros(len(views), dtype=torch.int64)
        groups = [numbers for _, numbers in self.classifier.groups()]
        for group, numbers in enumerate(groups):
            group_v[torch.from_numpy(numbers)] = group
        self.groups = len(groups)
        self.register_buffer("group_v", group_v, persistent=False)
        grid = torch.arange(3 * views.height * views.width)
        grid = grid.reshape(1, 3, views.height, views.width)
        scale = preprocess.pixel_scale
        enlarged = grid.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        # For each pixel that the classifier takes, the pixel of the grid that it copies.
        self.register_buffer("grid_pixel", self.classifier.arrange(enlarged)[0], persistent=False)

    def drop_tokens(self, rate: float) -> None:
        """Leave out this share of the mean view's tokens, at random, from now on; 0: none.

        All views then have one token count, so that a step is one piece for the processor.

        Args:
            rate: From 0 to below 1; the base classifier is one that drops hidden tokens.
        """
        self.tokens_of_view = None
        if rate:
            assert isinstance(self.classifier, TokenDropViT)  # a recipe refuses any other
            counts_v = self.classifier.token_counts
            kept = min(int((1 - rate) * counts_v.mean()), int(counts_v.min()))
            self.tokens_of_view = max(1, kept)

    def forward(self, images_bhwc: Tensor, views_bn: Tensor) -> Tensor:
        """Return logits (B, n, C).

        Args:
            images_bhwc: Pixels of the attacker's grid, 0 to 255, uint8 or float.
            views_bn: Numbers of the ablations of each image; int64 (B, n).
        """
        tokens = self.tokens(images_bhwc)
        view_s = views_bn.flatten()
        image_s = torch.arange(len(views_bn), device=view_s.device).repeat_interleave(
            views_bn.shape[1]
        )
        group_s = self.group_v[view_s]
        if self.tokens_of_view is not None:
            assert isinstance(self.classifier, TokenDropViT)
            logits = self.classifier.sampled(tokens, image_s, view_s, self.tokens_of_view)
            return logits.reshape(*views_bn.shape, -1)
        # Sequences of equal token count go together, as when voting.
        parts, places = [], []
        for group in range(self.groups):
            place = torch.nonzero(group_s == group).flatten()
            if len(place):
                parts.append(self.classifier(tokens, image_s[place], view_s[place]))
                places.append(place)
        logits = torch.cat(parts)[torch.argsort(torch.cat(places))]
        return logits.reshape(*views_bn.shape, -1)

    def whole(self, images_bhwc: Tensor) -> Tensor:
        """Return logits of whole images; (B, C)."""
        tokens = self.tokens(images_bhwc)
        return self.classifier.whole(tokens, torch.arange(len(tokens), device=tokens.device))

    def tokens(self, images_bhwc: Tensor) -> Tensor:
        """Return the classifier's own ``tokens`` of the enlarged images, bit for bit.

        Images are normalized before they are enlarged, and laid out by one gather: on CIFAR-10,
        where one pixel becomes 49, the usual order takes a tenth of a step.
        """
        pixels = self.classifier.normalize(images_bhwc).flatten(1)
        copies = pixels.index_select(1, self.grid_pixel.flatten())
        return copies.reshape(len(pixels), *self.grid_pixel.shape)
