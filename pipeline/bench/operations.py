"""Count the operations of a votes pass, and measure those that the machine can do.

One multiplication and one addition are two operations. *Nominal* operations are those of the
network on the kept tokens, every token in every block; *executed* ones are what the engine really
computes, less where it leaves out what no vote depends on.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop

from models.classifiers.black import BlackMasked
from models.classifiers.drop import TokenDropViT

# The counter of torch does not know the CPU's fused attention.
_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
# Rows, inner length and columns of large products: the machine's own rate is the best of them.
_SHAPES = ((4096, 768, 3072), (4096, 3072, 768), (8192, 1024, 1024), (2048, 2048, 2048))


class Operations(NamedTuple):
    """Operations of the votes pass of one image: every view, and the whole image once.

    Attributes:
        nominal: Of the network on the kept tokens, every token in every block.
        executed: Those that the engine computes.
        whole: Nominal ones of the whole image alone.
    """

    nominal: float
    executed: float
    whole: float

    @property
    def full_passes(self) -> float:
        """Cost of the pass, in classifications of a whole image."""
        return self.nominal / self.whole


def operations_an_image(classifier: TokenDropViT | BlackMasked) -> Operations:
    """Operations of the votes pass of one image.

    Args:
        classifier: On the CPU or a GPU; a few sequences of each token count are run.
    """
    height, width = classifier.model_px
    device = next(classifier.parameters()).device
    with torch.inference_mode():
        image = torch.zeros((1, height, width, 3), dtype=torch.uint8, device=device)
        tokens = classifier.tokens(image)
    image_s = torch.zeros(1, dtype=torch.int64, device=device)

    def whole() -> float:
        return counted(partial(classifier.whole, tokens, image_s))

    def executed() -> float:
        total = whole()
        for _, views in classifier.groups():
            view_s = torch.from_numpy(views[:1]).to(device)
            total += len(views) * counted(partial(classifier, tokens, image_s, view_s))
        return total

    done = executed()
    encoder: Any = getattr(classifier, "encoder", None)
    last = getattr(encoder, "last", None)
    if last is None:
        return Operations(done, done, whole())
    try:
        encoder.last = None
        return Operations(executed(), done, whole())
    finally:
        encoder.last = last


def counted(task: Callable[[], object]) -> float:
    """Operations of one call.

    Not in inference mode, whose packed products the counter does not know.
    """
    counter = FlopCounterMode(display=False, custom_mapping={_CPU_ATTENTION: _attention})
    with torch.no_grad(), counter:
        task()
    return float(counter.get_total_flops())


def matmul_tasks(dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], object]]:
    """Large products to time beside everything else, by name."""
    tasks: dict[str, Callable[[], object]] = {}
    for rows, inner, columns in _SHAPES:
        left = torch.randn(rows, inner, device=device).to(dtype)
        right = torch.randn(columns, inner, device=device).to(dtype)
        name = f"{rows}x{inner}x{columns}"
        tasks[name] = partial(torch.nn.functional.linear, left, right)
    return tasks


def operations_of_matmul(name: str) -> float:
    """Operations of a product named by its shape."""
    rows, inner, columns = map(int, name.split("x"))
    return 2.0 * rows * inner * columns


def _attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_flop(query, key, value))
