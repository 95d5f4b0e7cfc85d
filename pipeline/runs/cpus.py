"""The CPUs that this process may use, which can be fewer than the machine has."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def usable_cpus() -> int:
    """Count the CPUs of this process: those of its affinity, within its containers' quotas."""
    with suppress(AttributeError):  # macOS binds no process to CPUs
        return max(1, min([len(os.sched_getaffinity(0)), *map(int, cpu_quotas())]))
    return os.cpu_count() or 1


def cpu_quotas(
    membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> Iterator[float]:
    """Yield the CPUs that each control group around this process allows.

    Args:
        membership: The groups that the process is in, by controller.
        mount: The tree of groups; within a container its own group may be the root.
    """
    lines = []
    with suppress(OSError):
        lines = membership.read_text("utf-8").splitlines()
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mount / "cpu" if controllers else mount  # version 1; version 2
        folder = root / group.lstrip("/")
        for above in (folder, *folder.parents):
            with suppress(OSError, ValueError):
                yield _quota(above)
            if above == root:
                break


def _quota(group: Path) -> float:
    """Read a group's quota.

    Raises:
        OSError, ValueError: It has none.
    """
    if (group / "cpu.max").exists():
        quota, period = (group / "cpu.max").read_text("ascii").split()
    else:
        quota, period = (
            (group / f"cpu.cfs_{name}_us").read_text("ascii") for name in ("quota", "period")
        )
    if int(quota) <= 0:
        raise ValueError("no limit")
    return int(quota) / int(period)
