"""Reading weight files into tensors: the only code that may meet a pickle.

A pickle can run any code when it is opened. Everything here therefore reads tensors alone, and
unpickles only where the caller states that the file is trusted.
"""

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
from torch import Tensor

from models.errors import WeightsError
from models.networks.weights import check_weights_path

_CONVERT = "patchcert convert {path} out.safetensors --model NAME --trust-pickle"
# Where training scripts keep the weights among other things; the first that is there is taken.
_STATE_KEYS = ("state_dict", "model")


def read_state(path: str) -> dict[str, Tensor]:
    """The tensors of a weight file by name, without ever unpickling it.

    Raises:
        WeightsError: The file is missing, damaged, needs unpickling, or holds no state dict.
    """
    file = check_weights_path(path)
    if file.suffix != ".safetensors":
        return state_of(read_checkpoint(path), path)
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"weights {path}: not a readable safetensors file ({error})") from error


def read_checkpoint(path: str, *, trust_pickle: bool = False) -> Any:
    """Read what ``torch.save`` wrote: tensors and plain values only, unless the pickle is trusted.

    Raises:
        WeightsError: The file is missing or damaged, or reading it means running code.
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"weights {path}: no such file; give an existing checkpoint")
    try:
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
    """The state dict in a checkpoint: itself, or its ``state_dict`` or ``model``.

    Raises:
        WeightsError: There is none, or it holds something else than tensors.
    """
    state = checkpoint
    if isinstance(checkpoint, Mapping):
        held = (checkpoint.get(key) for key in _STATE_KEYS)
        state = next((value for value in held if isinstance(value, Mapping)), checkpoint)
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
    return {str(key): value for key, value in state.items()}


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
