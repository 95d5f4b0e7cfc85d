"""The arithmetic that votes are computed in: everything that decides the last bits of a logit."""

import math
import os
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any, NamedTuple

from models import ENGINE
from models.views.family import ViewFamily
from pipeline.config import MICROBATCH_STEP, ConfigError, Device, VotesConfig
from pipeline.runs.cpus import usable_cpus
from pipeline.runs.defense import Defense
from pipeline.runs.waiting import waiting

# More threads than this pay little on sequences of some 30 tokens; more actors do.
_MOST_THREADS = 4
MICROBATCH = {"cpu": 64, "cuda": 512}
"""Sequences a forward pass on each kind of device, where a run does not say otherwise."""
# Of a microbatch of images of which a view hides a part, on a CPU.
_PIXELS = 16 * 224 * 224
# MKL may treat rows differently by their place and their thread unless told to be reproducible;
# AUTO asks for that at no measurable cost. It must be set before the first matrix product.
_MKL_MODE, _MKL_REPRODUCIBLE = "MKL_CBWR", "AUTO"
_VERSIONED = ("patchcert", "numpy", "pillow", "timm", "torch")


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """Arithmetic of a run; part of its identity.

    Attributes:
        dtype: Type of weights and activations.
        device: ``cpu`` or ``cuda``.
        device_model: Which processor, and on a CPU which instruction set torch uses.
        microbatch: Sequences a forward pass.
        threads: CPU threads an actor, 0 on CUDA, where they do not matter.
        versions: Versions of the libraries that compute.
    """

    dtype: str = "unknown"
    device: str = "unknown"
    device_model: str = ""
    microbatch: int = 0
    threads: int = 0
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class Machine(NamedTuple):
    """Properties of a node that decide votes.

    Attributes:
        device: ``cpu`` or ``cuda``.
        device_model: Which one.
        cpus: CPUs of the node that a process may use: of a container its share.
        versions: Versions of the libraries that compute, and MKL's mode.
    """

    device: str
    device_model: str
    cpus: int
    versions: dict[str, str]


def pin_mkl() -> str:
    """Make MKL's products reproducible in this process, unless the user chose a mode; the mode."""
    return os.environ.setdefault(_MKL_MODE, _MKL_REPRODUCIBLE)


@waiting("looking at the device")
def probe_machine(device: Device) -> Machine:
    """Find the device of this machine that a request means.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    import torch  # noqa: PLC0415  (heavy, and not needed for --help)

    cpus = usable_cpus()
    versions = {name: version(name) for name in _VERSIONED}
    versions |= {"engine": str(ENGINE), _MKL_MODE: pin_mkl()}
    if device != "cpu" and torch.cuda.is_available():
        return Machine("cuda", torch.cuda.get_device_name(), cpus, versions)
    if device == "cuda":
        raise ConfigError("--device cuda: no CUDA device is visible; use --device cpu or auto")
    model = f"{processor()} {torch.backends.cpu.get_cpu_capability()}"
    return Machine("cpu", model, cpus, versions)


def require_one_gpu_model() -> None:
    """Demand that all GPUs which this process sees are of one model.

    Ray names a node's GPUs after the first of them, so that only the node itself can tell.

    Raises:
        ConfigError: They are of several.
    """
    import torch  # noqa: PLC0415  (heavy, and not needed for --help)

    names = [torch.cuda.get_device_name(gpu) for gpu in range(torch.cuda.device_count())]
    if len(set(names)) > 1:
        seen = ", ".join(f"{gpu}: {name}" for gpu, name in enumerate(names))
        raise ConfigError(
            f"this machine has GPUs of several models ({seen}), and a run's votes are those of "
            "one: set CUDA_VISIBLE_DEVICES to the numbers of those to use"
        )


def microbatch_of(device: str, views: ViewFamily, model_px: tuple[int, int]) -> int:
    """Return the sequences a forward pass of a run that does not say otherwise."""
    if device != "cpu" or not views.hides:
        return MICROBATCH[device]
    # A view shows most of the image, and early exit asks a few of each shape at a time: as many as
    # 16 of 224 px, so that the activations stay in the caches.
    steps = _PIXELS // (MICROBATCH_STEP * math.prod(model_px))
    return min(MICROBATCH[device], MICROBATCH_STEP * max(1, steps))


def resolve_numerics(
    config: VotesConfig, machine: Machine, defense: Defense | None = None
) -> Numerics:
    """Fill in the arithmetic that ``config`` leaves open for a machine.

    Args:
        config: The request.
        machine: The machine that votes.
        defense: The defense; None for one of ablations.
    """
    microbatch = MICROBATCH[machine.device]
    if defense is not None:
        microbatch = microbatch_of(machine.device, defense.views, defense.model_input.model_px)
    threads = config.threads or min(machine.cpus, _MOST_THREADS)
    return Numerics(
        dtype=config.dtype or ("bfloat16" if machine.device == "cuda" else "float32"),
        device=machine.device,
        device_model=machine.device_model,
        microbatch=config.microbatch or microbatch,
        threads=threads if machine.device == "cpu" else 0,
        versions=machine.versions,
    )


def processor() -> str:
    """The processor's name, as the kernel reports it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
