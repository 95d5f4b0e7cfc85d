"""An independent evaluation of an ablation: ablate pixels, normalize, timm's own forward.

Shares no code with models.vit: visibility comes from modular arithmetic on pixels written out
here, and hidden tokens are excluded from attention by a mask instead of being dropped.
"""

import numpy as np
import torch


def visible_mask(
    kind: str, size: int, stride: int, side: int, view: int, *, offset: int = 0, wrap: bool = True
) -> np.ndarray:
    """bool (side, side); ``offset`` and ``wrap`` make mutants."""
    count = -(-side // stride)
    y, x = divmod(view, count) if kind == "block" else (view, view)
    shown = np.zeros((side, side), dtype=bool)

    def band(start: int) -> list[int]:
        places = [start * stride + offset + step for step in range(size)]
        return [place % side for place in places if wrap or place < side]

    rows = band(y) if kind in ("row", "block") else list(range(side))
    columns = band(x) if kind in ("column", "block") else list(range(side))
    shown[np.ix_(rows, columns)] = True
    return shown


@torch.no_grad()
def dense_logits(
    network: torch.nn.Module,
    image_hwc: np.ndarray,
    shown: np.ndarray,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    token: int,
    fill: float = 0.0,
) -> torch.Tensor:
    """Logits (C,) of one image of which only ``shown`` pixels are visible."""
    pixels = torch.from_numpy(image_hwc.copy()).permute(2, 0, 1).float() / 255
    pixels = torch.where(torch.from_numpy(shown), pixels, torch.tensor(fill))
    normalized = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    side = shown.shape[0] // token
    kept = shown.reshape(side, token, side, token).any(axis=(1, 3)).reshape(-1)
    attend = torch.from_numpy(np.concatenate([[True] * network.num_prefix_tokens, kept]))
    mask = attend.view(1, 1, 1, -1).expand(1, 1, len(attend), len(attend))
    return network(normalized[None], attn_mask=mask)[0]
