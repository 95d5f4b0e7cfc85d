"""Networks that a Python program made itself: what identifies one, and what it must keep to.

timm cannot build such a network again, so its class, its settings and its code stand for it.
"""

import copy
import hashlib
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import is_dataclass
from types import CellType, CodeType, FunctionType, MethodType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.errors import UnsupportedModelError
from models.networks.checkpoint import check_finite
from models.networks.droppable import droppable
from models.networks.systems import TokenMode

_PLAIN = (bool, int, float, str, bytes, complex, type(None))
# Their versions are part of a run's identity, or they hold no weights of their own.
_LIBRARIES = ("torch", "timm", "builtins")


class _Annotated:
    nothing: None


# Attributes of every class, such as its documentation, that say nothing of what it computes.
_OF_CLASSES = frozenset(vars(_Annotated))
# Attributes of every module: its tensors and parts come one by one, and hooks are not seen.
_ASIDE = frozenset(vars(nn.Module()))


def module_name(module: nn.Module) -> str:
    """Qualified name of a module's class."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def module_sha256(module: nn.Module) -> str:
    """Digest of what a module computes: its tensors, and the class, settings and code of each part.

    Settings are its other attributes: plain values, tensors and arrays, functions by their name and
    code, and containers and dataclasses of these; of any other object only its class. Code is all
    that classes outside torch and timm define. Functions that a method calls elsewhere, and hooks,
    are not seen.
    """
    digest = hashlib.sha256()
    for name, part in module.named_modules():
        settings = [(key, _stable(value)) for key, value in sorted(_own(part).items())]
        digest.update(repr((name, module_name(part), settings, list(_code(part)))).encode())
    # Buffers that are no part of the state decide as well.
    for name, tensor in sorted({**dict(module.named_buffers()), **module.state_dict()}.items()):
        digest.update(repr((name, _stable(tensor))).encode())
    return digest.hexdigest()


def _own(part: nn.Module) -> dict[str, Any]:
    """Attributes of a module that not every module has."""
    return {key: value for key, value in vars(part).items() if key not in _ASIDE}


def _code(part: nn.Module) -> Iterator[Any]:
    """Yield the methods and values that a module's classes define outside the libraries."""
    for kind in type(part).__mro__:
        if kind.__module__.split(".")[0] in _LIBRARIES:
            continue
        for name, value in sorted(vars(kind).items()):
            if name not in _OF_CLASSES:
                yield name, _stable(value)


def _stable(value: Any) -> Any:
    """A value as what has the same text in every process."""
    kind = type(value).__qualname__
    if isinstance(value, _PLAIN):
        stable: Any = value
    elif isinstance(value, FunctionType | staticmethod | classmethod | property):
        stable = [kind, *_of_function(value)]
    elif isinstance(value, CodeType):
        stable = value.co_code.hex(), value.co_names, [_stable(one) for one in value.co_consts]
    elif isinstance(value, tuple | list):
        stable = [_stable(one) for one in value]
    elif isinstance(value, set | frozenset):
        stable = sorted(repr(_stable(one)) for one in value)
    elif isinstance(value, dict):
        stable = [(_stable(key), _stable(one)) for key, one in value.items()]
    elif isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        stable = str(value.dtype), tuple(value.shape), hashlib.sha256(data.tobytes()).hexdigest()
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        stable = str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()
    elif hasattr(value, "__qualname__"):  # a class, or a function of a library
        stable = kind, value.__module__, value.__qualname__
    elif is_dataclass(value) or isinstance(value, SimpleNamespace | Namespace):
        stable = kind, _stable(vars(value))
    else:
        stable = kind
    return stable


def _of_function(value: Any) -> Iterator[Any]:
    """Code and defaults of a function, and of those that it wraps or closes over."""
    if isinstance(value, property):
        parts: list[Any] = [value.fget]
    else:
        parts = [getattr(value, "__func__", value)]
    known = set()
    while parts:
        one = parts.pop()
        if not isinstance(one, FunctionType):
            yield _stable(one)
        elif id(one) not in known:
            known.add(id(one))
            yield one.__qualname__, _stable(one.__code__), _stable(one.__defaults__)
            yield _stable(one.__kwdefaults__)
            cells = [cell.cell_contents for cell in one.__closure__ or () if _filled(cell)]
            parts += [getattr(one, "__wrapped__", None), *cells]


def _filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a name that is given its value later
        return False


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
    if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):
        raise UnsupportedModelError(
            f"model {name}: a scripted module hides its code, by which one network can be told "
            "from another; give the module it was made from"
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
        part._forward_hooks
        or part._forward_pre_hooks
        or any(isinstance(value, FunctionType | MethodType) for value in _own(part).values())
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
    """Try a module on two images; what can be called, and the number of classes.

    Raises:
        UnsupportedModelError: As ``adopt``.
    """
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
    if isinstance(first, Tensor) and not first.isfinite().all():
        raise UnsupportedModelError(
            f"model {name}: its logits of pixels between 0 and 1 are not finite (NaN or infinity), "
            "so that it has no vote; look at its weights and its normalization"
        )
    if isinstance(first, Tensor) and first.ndim == 2 and first.shape[1] == 1:
        raise UnsupportedModelError(
            f"model {name}: it gives one number an image; a vote needs a logit for each of 2 "
            "classes or more"
        )
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
