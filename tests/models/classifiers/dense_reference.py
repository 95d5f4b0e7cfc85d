"""An independent evaluation of ablations: ablate pixels, normalize, timm's own forward.

Shares no code with models: visibility comes from modular arithmetic on pixels written out here,
and hidden tokens are excluded from attention by a mask instead of being dropped.
"""

from contextlib import ExitStack
from unittest import mock

import numpy as np
import torch


def visible_mask(
    kind: str,
    size: int,
    stride: int,
    side: int | tuple[int, int],
    view: int,
    *,
    offset: int = 0,
    wrap: bool = True,
) -> np.ndarray:
    """bool (height, width); ``offset`` and ``wrap`` make mutants."""
    height, width = (side, side) if isinstance(side, int) else side
    y, x = divmod(view, -(-width // stride)) if kind == "block" else (view, view)

    def band(start: int, length: int) -> list[int]:
        places = [start * stride + offset + step for step in range(size)]
        return [place % length for place in places if wrap or place < length]

    shown = np.zeros((height, width), dtype=bool)
    rows = band(y, height) if kind in ("row", "block") else list(range(height))
    columns = band(x, width) if kind in ("column", "block") else list(range(width))
    shown[np.ix_(rows, columns)] = True
    return shown


@torch.no_grad()
def dense_logits(
    network: torch.nn.Module,
    image_hwc: np.ndarray,
    shown_v: np.ndarray,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    token: int | None,
    fill: float = 0.0,
    pool_hidden: bool = False,
) -> torch.Tensor:
    """Logits (V, C) of one image of which only the pixels ``shown_v`` (V, h, w) are visible.

    ``token`` is the side of a token of which those wholly hidden are dropped; None drops none.
    ``pool_hidden`` makes a mutant that averages over hidden tokens too.
    """
    pixels = torch.from_numpy(image_hwc.copy()).permute(2, 0, 1).float() / 255
    pixels = torch.where(torch.from_numpy(shown_v)[:, None], pixels, torch.tensor(fill))
    normalized = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    if token is None:
        return network(normalized)
    views, height, width = shown_v.shape
    tiles = shown_v.reshape(views, height // token, token, width // token, token)
    kept = tiles.any(axis=(2, 4)).reshape(views, -1)
    always = np.ones((views, network.num_prefix_tokens), dtype=bool)
    attend = torch.from_numpy(np.concatenate([always, kept], axis=1))
    features = _masked_features(network, normalized, attend)
    return torch.cat(
        [
            _head(network, one[None] if pool_hidden else one[None, shown])
            for one, shown in zip(features, attend, strict=True)
        ]
    )


def _masked_features(network, normalized, attend):
    """timm's features (V, tokens, D) where no token attends to those not in ``attend`` (V, T)."""
    mask = attend[:, None, None, :].expand(-1, 1, attend.shape[1], -1)
    if type(network).__name__.startswith("VisionTransformer") and hasattr(network, "_pos_embed"):
        return network.forward_features(normalized, attn_mask=mask)
    # Relative positions: minus infinity joins the bias of every pair with a hidden key.
    barrier = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    with ExitStack() as patches:
        for module in network.modules():
            if getattr(module, "relative_position_bias_table", None) is not None and hasattr(
                module, "_get_rel_pos_bias"
            ):
                own = module._get_rel_pos_bias()
                patches.enter_context(
                    mock.patch.object(module, "_get_rel_pos_bias", lambda b=own + barrier: b)
                )
            elif hasattr(module, "get_bias"):
                own = module.get_bias()
                patches.enter_context(
                    mock.patch.object(module, "get_bias", lambda b=own + barrier: b)
                )
            elif type(module).__name__ == "RelativePositionBias":
                own = module()
                patches.enter_context(
                    mock.patch.object(module, "forward", lambda b=own + barrier: b)
                )
        return network.forward_features(normalized)


def _head(network, features):
    """Logits (1, C) of the features (1, tokens, D) that are pooled."""
    if getattr(network, "global_pool", "") == "avg":
        pooled = features[:, network.num_prefix_tokens :].sum(dim=1)
        pooled = pooled / (features.shape[1] - network.num_prefix_tokens)
        return network.head(network.fc_norm(pooled))
    if hasattr(network, "head_dist"):
        return (network.head(features[:, 0]) + network.head_dist(features[:, 1])) / 2
    return network.forward_head(features)
