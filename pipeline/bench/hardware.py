"""Describe the machine of a measurement, so that its figures can be read later."""

import os
import platform
import resource
import time
from collections.abc import Callable
from typing import Any

from pipeline.runs.cpus import usable_cpus
from pipeline.runs.numerics import processor
from pipeline.runs.versions import installed_version

_LIBRARIES = ("patchcert", "torch", "timm", "numpy", "pyarrow", "ray")


def hardware() -> dict[str, Any]:
    """Processor, memory, accelerator, versions and date, as plain JSON."""
    import torch  # noqa: PLC0415

    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": processor(),
        "cpus": usable_cpus(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: found for name in _LIBRARIES if (found := installed_version(name))},
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def peak_memory_mib() -> float:
    """Most memory that this process has ever held at once, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_gpu_memory_mib(task: Callable[[], object], device: Any) -> float | None:
    """Most memory of a GPU that is held at once during a call, in MiB; None elsewhere.

    Args:
        task: The call.
        device: A ``torch.device``.
    """
    if device.type != "cuda":
        return None
    import torch  # noqa: PLC0415

    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    task()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) / 2**20


def hardware_line(facts: dict[str, Any]) -> str:
    """One line for a terminal or a document."""
    where = facts.get("gpu") or f"{facts['cpus']} CPUs of {facts['cpu']}"
    if facts.get("instructions"):
        where += f" ({facts['instructions']})"
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return f"{facts['date']}, {where}, {facts['memory_gib']} GiB; {versions}"
