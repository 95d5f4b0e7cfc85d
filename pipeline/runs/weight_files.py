"""Weight files: local paths of them (``s3://`` from a cache), and names of new ones."""

import hashlib
import os
import posixpath
from pathlib import Path

from models.errors import JobError, WeightsError
from models.networks.weights import MODULE
from pipeline import storage
from pipeline.config import ConfigError
from pipeline.sources.stored_files import stat

_CACHE = "PATCHCERT_CACHE"  # environment variable: folder in place of ~/.cache/patchcert


def local_weights(path: str) -> str:
    """A local path of the weight file ``path``; an object on S3 is fetched once a machine.

    The copy's name depends on the object's content tag, so that a new upload is a new copy. Every
    actor compares the sha256 of the copy with the run's.

    Raises:
        WeightsError: There is no such object.
        JobError: The copy cannot be kept.
    """
    if not path.startswith(storage.S3):
        return path
    try:
        file = stat(path)
    except FileNotFoundError as error:
        raise WeightsError(f"weights {path}: no such object; correct --weights") from error
    version = hashlib.sha256(f"{file.path}\0{file.etag}\0{file.size}".encode()).hexdigest()[:32]
    folder = cache_folder() / "weights" / version
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(
            f"weights {path}: their copy cannot be kept in {folder} ({error.strerror}); set "
            f"{_CACHE} to a folder that can be written"
        ) from error
    copy = folder / posixpath.basename(file.path)
    if not copy.is_file():
        data = storage.read_bytes(path)
        if len(data) != file.size:
            raise WeightsError(
                f"weights {path}: {len(data)} of {file.size} bytes came; it changes at this "
                "moment: run again"
            )
        storage.write_atomically(str(copy), data)
    return str(copy)


def check_rebuildable(weights: str) -> None:
    """Raise WeightsError where no file holds the network: a Python program had it in memory."""
    if weights.startswith(MODULE):
        raise WeightsError(
            f"the network of this run is a {weights.removeprefix(MODULE)} that a Python program "
            "handed to pipeline.notebook.evaluate, so that it cannot be built again here; what is "
            "stored can be asked (certify, sql, report, heatmap, verify). For this command vote "
            "with a network that timm knows by name: save its weights, safetensors.torch.save_file("
            "model.state_dict(), 'model.safetensors'), and `patchcert run --model NAME --weights "
            "model.safetensors` (--num-classes and --preprocess too, where they are not timm's)"
        )


def weights_key(file: str) -> str | None:
    """The key under which a checkpoint holds the weights that are taken; None without one.

    Raises:
        WeightsError: The checkpoint cannot be read.
    """
    if file.endswith(".safetensors"):
        return None
    # torch is heavy, and not needed where the weight file speaks for itself.
    from models.networks.checkpoint import read_checkpoint, state_key  # noqa: PLC0415

    return state_key(read_checkpoint(file))


def check_new_weights(out: str) -> None:
    """Raise ConfigError unless ``out`` is a name for new weights."""
    if not out.endswith(".safetensors"):
        raise ConfigError(f"{out}: weights are safetensors; end the name in .safetensors")
    if storage.exists(out):
        raise ConfigError(f"{out}: exists already; remove it or choose another name")


def cache_folder() -> Path:
    """Folder of fetched files; the root folder stands for a user that has no home."""
    home = os.path.expanduser("~")
    return Path(os.environ.get(_CACHE) or Path("/", home.lstrip("~"), ".cache", "patchcert"))
