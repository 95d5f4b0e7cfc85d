"""A network at its fastest where there is a compiler for it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def compiled(
    network: nn.Module, batch: Tensor, compiler: Callable[..., Any] = torch.compile
) -> tuple[Callable[[Tensor], Any], str]:
    """A network compiled for one shape, and what it is; itself where that fails.

    Args:
        network: In evaluation mode, on its device.
        batch: Of the shape and type that it will be given.
        compiler: As ``torch.compile``.
    """
    try:
        fast = compiler(network, dynamic=False)
        # Nothing is compiled before the first call.
        with torch.inference_mode():
            fast(batch)
    except Exception as error:  # whatever a machine without a compiler lacks
        return network, f"not compiled ({type(error).__name__})"
    return fast, "compiled"
