"""The arithmetic that votes are computed in: everything that decides the last bits of a logit."""

import os
import platform
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config import ConfigError, Device, VotesConfig

# More threads than this pay little on sequences of some 30 tokens; more actors do.
_MOST_THREADS = 4
_MICROBATCH = {"cpu": 128, "cuda": 512}


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """Arithmetic of a run; part of its identity.

    Attributes:
        dtype: Type of weights and activations.
        device: ``cpu`` or ``cuda``.
        device_model: Which processor, and on a CPU which instruction set torch uses.
        microbatch: Sequences a forward pass.
        threads: CPU threads an actor, 0 on CUDA, where they do not matter.
    """

    dtype: str
    device: str
    device_model: str
    microbatch: int
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def device_model(device: Device) -> tuple[str, str]:
    """The device that ``device`` means on this machine, and its model: (``cpu``, ``AMD ...``).

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    import torch  # noqa: PLC0415  (heavy; a finished run is reported without it elsewhere)

    if device != "cpu" and torch.cuda.is_available():
        return "cuda", torch.cuda.get_device_name()
    if device == "cuda":
        raise ConfigError("--device cuda: no CUDA device is visible; use --device cpu or auto")
    return "cpu", f"{_processor()} {torch.backends.cpu.get_cpu_capability()}"


def resolve_numerics(
    config: VotesConfig, device: str, model: str, cpus: int | None = None
) -> Numerics:
    """Fill in the arithmetic that ``config`` leaves open for a device, ``cpus`` of a node."""
    threads = config.threads or min(cpus or os.cpu_count() or 1, _MOST_THREADS)
    return Numerics(
        dtype=config.dtype or ("bfloat16" if device == "cuda" else "float32"),
        device=device,
        device_model=model,
        microbatch=config.microbatch or _MICROBATCH[device],
        threads=threads if device == "cpu" else 0,
    )


def _processor() -> str:
    """The processor's name, as the kernel reports it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
