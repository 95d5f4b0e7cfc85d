"""Loss of a training. Shapes: B images, n ablations of each, C classes."""

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import v2

from pipeline.training.config import Mix


def target_of(labels_b: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Return label-smoothed targets; float (B, C). ``labels_b`` may be mixed, (B, C)."""
    if labels_b.ndim == 1:
        labels_b = functional.one_hot(labels_b, num_classes)
    return labels_b.float() * (1 - smoothing) + smoothing / num_classes


def loss_of(logits_bnc: Tensor, target_bc: Tensor) -> Tensor:
    """Return the mean cross-entropy over all ablations of all images."""
    return losses_of(logits_bnc, target_bc).mean()


def losses_of(logits_bnc: Tensor, target_bc: Tensor) -> Tensor:
    """Return the cross-entropy of each ablation; float (B, n)."""
    log_p = functional.log_softmax(logits_bnc.float(), dim=-1)
    return -(target_bc[:, None] * log_p).sum(-1)


def shortfall_of(logits_bnc: Tensor, truth_b: Tensor, margin: float) -> Tensor:
    """Return the mean shortfall of the images' leads below ``margin``; 0 to 1 + ``margin``.

    The lead of an image is that of its true class over the next in the mean of its ablations'
    probabilities: the vote with shares in place of whole votes, which have no gradient.
    Cross-entropy trains every ablation alike; this trains the images that are not certified yet,
    and of these the ablations that can still be won: an ablation that is sure of another class
    has hardly a gradient. After BagCert, which minimizes a margin loss of the aggregated scores
    (Metzen & Yatsura, arXiv 2102.04154).

    Args:
        logits_bnc: Logits of n ablations of each image, spread over the family.
        truth_b: True classes; int64.
        margin: Lead to reach, as a share of the votes.
    """
    share_bc = torch.softmax(logits_bnc.float(), dim=-1).mean(1)
    true_b1 = truth_b[:, None]
    next_b = share_bc.scatter(1, true_b1, -1.0).amax(1)
    return (margin - (share_bc.gather(1, true_b1)[:, 0] - next_b)).relu().mean()


def mixed(
    kind: Mix, alpha: float, images_bhwc: Tensor, labels_b: Tensor, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Blend images and target distributions (B, C) in pairs, by torchvision.

    Draws from torch's generator of the CPU.
    """
    if kind == "none":
        return images_bhwc, labels_b
    blend = v2.MixUp if kind == "mixup" else v2.CutMix
    images = images_bhwc.permute(0, 3, 1, 2).float()
    images, labels = blend(alpha=alpha, num_classes=num_classes)(images, labels_b)
    return images.permute(0, 2, 3, 1), labels


def followed(target_bc: Tensor, teacher_bc: Tensor, weight: float) -> Tensor:
    """Mix the teacher's distribution into the targets; (B, C)."""
    return target_bc * (1 - weight) + torch.softmax(teacher_bc.float(), dim=-1) * weight
