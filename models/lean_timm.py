"""Import timm without torch's compiler, which takes longer to import than all else of it.

Two modules ask the compiler for a decorator when they are imported: ``torchvision.ops.roi_align``
(torchvision 0.26 to 0.29) and ``timm.models.naflexvit``. Nothing here compiles, so both are given a
stand-in, for as long as timm is imported. Whoever wants the compiler afterwards gets the true one.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"


def import_timm_lean() -> None:
    """Let the first import of timm in this process leave the compiler out."""
    if not {"timm", _COMPILER} & sys.modules.keys():
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self.loader
        try:
            with _without_compiler():
                self.loader.exec_module(module)
        except (ImportError, AttributeError):  # a release that asks the compiler for more
            for name in [name for name in sys.modules if name.startswith("timm.")]:
                del sys.modules[name]
            self.loader.exec_module(module)


@contextmanager
def _without_compiler() -> Iterator[None]:
    importlib.import_module("torch")  # as it is
    if _COMPILER in sys.modules:
        yield
        return
    compiler, parts = ModuleType(_COMPILER), ModuleType(f"{_COMPILER}.utils")
    vars(compiler).update(__path__=[], disable=_disable, utils=parts)
    vars(parts).update(is_compile_supported=_is_compile_supported)
    stand_ins = {module.__name__: module for module in (compiler, parts)}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]


def _disable(function: Callable[..., Any] | None = None, *_: Any, **__: Any) -> Callable[..., Any]:
    """Mark nothing: the mark keeps the compiler out of a function."""
    return function if function is not None else lambda marked: marked


def _is_compile_supported(device: str) -> bool:
    return bool(importlib.import_module(f"{_COMPILER}.utils").is_compile_supported(device))
