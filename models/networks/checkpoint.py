"""Reading weight files into tensors: the only code that may meet a pickle.

A pickle can run any code when it is opened. Everything here therefore reads tensors alone, and
unpickles only where the caller states that the file is trusted.
"""

import argparse
import importlib.util
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models.errors import WeightsError
from models.networks.weights import check_content, check_weights_path

_CONVERT = "patchcert convert {path} out.safetensors --model NAME --trust-pickle"
# Where training scripts keep the weights among other things. The first that is there is taken, as
# timm does: the moving average of the weights (EMA) before the raw ones.
_STATE_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
# Around every name: torch.compile, and DataParallel or AveragedModel (SWA), which also counts.
_WRAPPERS, _COUNTER = ("_orig_mod.", "module."), "n_averaged"


def read_state(path: str) -> dict[str, Tensor]:
    """The tensors of a weight file by name, without ever unpickling it.

    Raises:
        WeightsError: The file is missing, damaged, needs unpickling, holds no state dict, or
            weights that are not finite.
    """
    check_weights_path(path)
    return state_of(read_checkpoint(path), path)


def read_checkpoint(path: str, *, trust_pickle: bool = False) -> Any:
    """Read what ``torch.save`` wrote: tensors and plain values only, unless the pickle is trusted.

    A safetensors file holds tensors alone.

    Raises:
        WeightsError: The file is missing or damaged, or reading it means running code.
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"weights {path}: no such file; give an existing checkpoint")
    check_content(file)
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            raise WeightsError(
                f"weights {path}: not a readable safetensors file ({error})"
            ) from error
    if _is_torchscript(file):
        raise WeightsError(
            f"weights {path}: a TorchScript archive, whose program is never run here; save its "
            f"state dict: torch.save(torch.jit.load({path!r}, map_location='cpu').state_dict(), "
            "'weights.pth')"
        )
    try:
        # Of the objects that trainings save beside their weights, one that cannot run code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        # A zip file that is whole holds a pickle that is whole: then it is the content.
        if found is None and not zipfile.is_zipfile(file):
            raise _damaged(path, error) from error
        if not trust_pickle:
            raise WeightsError(_refusal(path, found[1] if found else "")) from None
    # Damage shows as RuntimeError (zip), EOFError or any error that a cut pickle leads to.
    except Exception as error:
        raise _damaged(path, error) from error
    return _unpickle(file)


def state_of(checkpoint: Any, path: str) -> dict[str, Tensor]:
    """The state dict in a checkpoint (``state_key``), under the network's own names.

    Raises:
        WeightsError: There is none, or it holds something else than finite tensors.
    """
    key = state_key(checkpoint)
    state = checkpoint if key is None else checkpoint[key]
    if isinstance(state, nn.Module):
        state = state.state_dict()
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(
            f"weights {path}: holds {type(state).__name__}, not a state dict; save "
            "network.state_dict(), alone or as {'state_dict': ...}"
        )
    strange = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise WeightsError(
            f"weights {path}: {len(strange)} entries of its state dict are no tensors: "
            f"{', '.join(strange[:10])}; save network.state_dict()"
        )
    named = _unwrapped({str(key): value for key, value in state.items()})
    check_finite(named, path)
    return named


def state_key(checkpoint: Any) -> str | None:
    """The key under which a checkpoint holds its weights; None where it is them."""
    held = checkpoint if isinstance(checkpoint, Mapping) else {}
    return next(
        (key for key in _STATE_KEYS if isinstance(held.get(key), Mapping | nn.Module)), None
    )


def check_finite(state: Mapping[str, Tensor], path: str) -> None:
    """Raise WeightsError for NaN and infinity among weights: a network of them computes nothing."""
    # The sum of finite numbers is finite in float64, and needs no second tensor.
    broken = [
        name
        for name, value in state.items()
        if value.is_floating_point() and not value.sum(dtype=torch.float64).isfinite()
    ]
    if broken:
        raise WeightsError(
            f"weights {path}: {len(broken)} of {len(state)} tensors are not finite (NaN or "
            f"infinity): {', '.join(broken[:10])}; take weights from before the training diverged, "
            "or fetch the file again"
        )


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo wrappers around the whole network, whose prefix every tensor has."""
    wrapped = {name: value for name, value in state.items() if name != _COUNTER}
    for prefix in _WRAPPERS:
        if wrapped and all(name.startswith(prefix) for name in wrapped):
            return _unwrapped({name.removeprefix(prefix): v for name, v in wrapped.items()})
    return state


def _is_torchscript(file: Path) -> bool:
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _refusal(path: str, needs: str) -> str:
    return (
        f"weights {path}: holds more than tensors{f' ({needs})' if needs else ''}, so reading it "
        "means unpickling it, which runs whatever code its maker put inside. Nothing was run. If "
        f"you trust where it came from: {_CONVERT.format(path=path)}"
    )


def _damaged(path: str, error: Exception) -> WeightsError:
    reason = str(error).strip().splitlines()
    return WeightsError(
        f"weights {path}: truncated, damaged, or no PyTorch checkpoint "
        f"({type(error).__name__}: {reason[0] if reason else 'no reason given'}); fetch it again"
    )


def _unpickle(file: Path) -> Any:
    """Open a trusted pickle, which runs the code in it."""
    try:
        return torch.load(
            file,
            map_location="cpu",
            weights_only=False,
            pickle_module=_pickle_module(),
        )
    except ModuleNotFoundError as error:
        module = (error.name or "").split(".")[0]
        raise WeightsError(
            f"weights {file}: was pickled with the package {module}, which is not installed: "
            f"pip install {module}"
        ) from error
    # A trusted pickle runs its own code, which may raise anything.
    except Exception as error:
        raise WeightsError(
            f"weights {file}: cannot be unpickled here ({type(error).__name__}: {error}); open it "
            "with the Python and the packages that made it, and save {'state_dict': ...}"
        ) from error


def _pickle_module() -> ModuleType:
    """Dill where installed: the robustness library pickles with it, and it reads all pickles."""
    name = "dill" if importlib.util.find_spec("dill") else "pickle"
    return importlib.import_module(name)
