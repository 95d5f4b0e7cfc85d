"""Networks that a Python program made itself: what identifies one, and what it must keep to.

timm cannot build such a network again, so its class, its settings and its code stand for it.
"""

import copy
import hashlib
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.errors import UnsupportedModelError
from models.networks.checkpoint import check_finite
from models.networks.droppable import droppable
from models.networks.systems import TokenMode

_PLAIN = (bool, int, float, str, bytes, complex, type(None))
# Their versions are part of a run's identity, or they hold no weights of their own.
_LIBRARIES = ("torch", "timm", "builtins")
# Attributes of every module that change nothing in evaluation mode.
_ASIDE = ("training", "_is_full_backward_hook")


def module_name(module: nn.Module) -> str:
    """Qualified name of a module's class."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def module_sha256(module: nn.Module) -> str:
    """Digest of what a module computes: its state, and the class, settings and code of each part.

    Settings are the attributes that are plain values, such as a number of heads; code is that of
    the methods of classes outside torch and timm. Functions that a method calls elsewhere, and
    hooks, are not seen.
    """
    digest = hashlib.sha256()
    for name, part in module.named_modules():
        settings = {
            key: _stable(value)
            for key, value in sorted(vars(part).items())
            if key not in _ASIDE and isinstance(value, (*_PLAIN, tuple, list))
        }
        digest.update(repr((name, module_name(part), settings, list(_code(part)))).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _code(part: nn.Module) -> Iterator[Any]:
    """The methods of a module's classes outside the libraries, without names of files and lines."""
    for kind in type(part).__mro__:
        if kind.__module__.split(".")[0] in _LIBRARIES:
            continue
        for name, value in sorted(vars(kind).items()):
            if isinstance(value, FunctionType):
                yield name, _stable(value.__code__), _stable(value.__defaults__)


def _stable(value: Any) -> Any:
    """A plain value as it is, all else as what has the same text in every process."""
    if isinstance(value, CodeType):
        return value.co_code.hex(), value.co_names, [_stable(one) for one in value.co_consts]
    if isinstance(value, tuple | list):
        return [_stable(one) for one in value]
    if isinstance(value, frozenset):
        return sorted(repr(_stable(one)) for one in value)
    return value if isinstance(value, _PLAIN) else type(value).__qualname__


class Adopted(NamedTuple):
    """A copy of a module, known to vote soundly.

    Attributes:
        module: The copy: on the CPU, in float32, in evaluation mode.
        name: Qualified name of its class.
        sha256: Its digest (``module_sha256``).
        num_classes: Length of its logits.
        tokens: Treatment of hidden tokens that it allows.
    """

    module: nn.Module
    name: str
    sha256: str
    num_classes: int
    tokens: TokenMode


def adopt(module: nn.Module, model_px: tuple[int, int]) -> Adopted:
    """Copy a module, and ask the copy about two images.

    Args:
        module: A network that takes normalized batches (B, 3, height, width).
        model_px: Height and width of its input.

    Raises:
        WeightsError: Weights of it are not finite.
        UnsupportedModelError: It has none, takes no such batches, gives no row of logits an image,
            or its answer depends on chance or on what shares the batch.
    """
    # Around the whole network: torch.compile, and DataParallel.
    module = getattr(module, "_orig_mod", module)
    module = module.module if isinstance(module, nn.DataParallel) else module
    name = module_name(module)
    if next(module.parameters(), None) is None:
        raise UnsupportedModelError(
            f"model {name}: it has no parameters, by which one network can be told from another; "
            "make the network that it calls a submodule of it"
        )
    # A program's own code may raise anything.
    try:
        own = copy.deepcopy(module).to("cpu", torch.float32).eval()
    except Exception as error:
        raise UnsupportedModelError(
            f"model {name}: it cannot be copied ({type(error).__name__}: {error}); give a module "
            "that copy.deepcopy copies, with all its weights made"
        ) from error
    check_finite(own.state_dict(), name)
    takes, num_classes = _tried(own, name, model_px)
    return Adopted(takes, name, module_sha256(own), num_classes, _token_mode(own))


def _token_mode(module: nn.Module) -> TokenMode:
    """Drop for a transformer that is known to compute the same without its hidden tokens.

    One that was changed by hooks or by a method of its own must be called as a whole.
    """
    changed = any(
        "forward" in vars(part) or part._forward_hooks or part._forward_pre_hooks
        for part in module.modules()
    )
    try:
        droppable(module)
    except UnsupportedModelError:
        return "black"
    return "black" if changed else "drop"


class _RowMajor(nn.Module):
    """A module that is given its pixels channel by channel, for ``view`` in its code."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, pixels: Tensor) -> Any:
        return self.module(pixels.contiguous())


def _tried(module: nn.Module, name: str, model_px: tuple[int, int]) -> tuple[nn.Module, int]:
    """What can vote, and the length of its logits; errors as ``adopt``."""
    one, other = torch.rand((2, 3, *model_px), generator=torch.Generator().manual_seed(0))
    batches = [
        torch.stack(pair).contiguous(memory_format=torch.channels_last)
        for pair in ((one, other), (one, torch.zeros_like(one)))
    ]
    try:
        try:
            answers = _answers(module, batches)
        except RuntimeError as error:
            if "view" not in str(error):
                raise
            module = _RowMajor(module)
            answers = _answers(module, batches)
    except Exception as error:
        raise UnsupportedModelError(
            f"model {name}: it does not take a normalized float32 batch (B, 3, {model_px[0]}, "
            f"{model_px[1]}) ({type(error).__name__}: {error}); give the size of its input with "
            "preprocess="
        ) from error
    first, second = answers
    if not isinstance(first, Tensor) or first.ndim != 2 or len(first) != 2 or first.shape[1] < 2:
        shape = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
        raise UnsupportedModelError(
            f"model {name}: of a batch of 2 images it gives {shape}, not one row of logits an "
            "image, (2, classes); wrap it in a module that returns the logits alone"
        )
    if not torch.equal(first[0], second[0]):
        raise UnsupportedModelError(
            f"model {name}: its logits of an image change with the other images of the batch, or "
            "by chance, although it is in evaluation mode (normalization by the batch, dropout "
            "that ignores eval()?); a vote must depend on its own view alone"
        )
    return module, first.shape[1]


def _answers(module: nn.Module, batches: list[Tensor]) -> list[Any]:
    with torch.inference_mode():
        return [module(batch) for batch in batches]
