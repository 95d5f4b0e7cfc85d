"""The published way of dropping tokens, as plainly as it can be written: a baseline.

What smoothed-vit does (Salman et al. 2022), written anew from its description: float32; for one
band at a time, the whole batch of images is masked, all of their patches are embedded, the band's
tokens are picked, and every token goes through every block.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from models.vit import TokenDropViT


class PublishedDrop:
    """Votes of a batch by the published path.

    Args:
        classifier: Holds the network, the ablation and the normalization, in evaluation mode; a
            Vision Transformer with a class token.
    """

    def __init__(self, classifier: TokenDropViT) -> None:
        self.classifier = classifier

    @torch.inference_mode()
    def __call__(self, images_bhwc: Tensor) -> Tensor:
        """The class of each ablation of each image; int64 (B, V).

        Args:
            images_bhwc: uint8 (B, H, W, 3), on the classifier's device.
        """
        views = range(len(self.classifier.ablation))
        images = images_bhwc.permute(0, 3, 1, 2).float() / 255
        return torch.stack([self._logits(images, view).argmax(1) for view in views], dim=1)

    def _logits(self, images: Tensor, view: int) -> Tensor:
        classifier = self.classifier
        network: Any = classifier.network
        rows, columns = classifier.visible_axes()
        shown = torch.from_numpy(rows[view][:, None] & columns[view][None, :]).to(images.device)
        masked = (images * shown - classifier.mean) / classifier.std
        ty, tx = classifier.token_px
        embedded = network._pos_embed(network.patch_embed(masked))
        prefix = network.num_prefix_tokens
        kept = functional.max_pool2d(shown[None].float(), (ty, tx), (ty, tx)).flatten() > 0
        x = torch.cat([embedded[:, :prefix], embedded[:, prefix:][:, kept]], dim=1)
        logits: Tensor = network.forward_head(network.norm(network.blocks(x)))
        return logits
