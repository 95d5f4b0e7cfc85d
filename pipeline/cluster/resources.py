"""The CPUs and GPUs of a cluster that each actor gets. Arithmetic only: Ray is not imported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.config import ConfigError
from pipeline.runs.numerics import Numerics

DECODE_CPUS, COMMIT_CPUS = 0.5, 0.25
"""CPUs that a task of decoding, and one of committing, reserves."""

_TASK_CPUS = DECODE_CPUS + COMMIT_CPUS

BLOCK_BYTES = 2**31 - 1
"""Size up to which Ray Data does not split a block, and a unit must stay one."""

GPUS_OF, GPUS_ON, CPUS_OF = "GPU:", "GPU@", "CPU:"
"""Prefixes of names that count GPUs by model, GPUs by node, and CPUs by node."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """CPUs and GPUs of each actor.

    Attributes:
        actors: Copies of the network.
        cpus: CPUs an actor reserves, less than it uses, so that tasks can always run beside it.
        gpus: GPUs an actor reserves.
        accelerator_type: Ray's name of the GPU model that actors are bound to; None for any.
    """

    actors: int
    cpus: float
    gpus: float
    accelerator_type: str | None = None


def plan_resources(
    available: Mapping[str, float],
    numerics: Numerics,
    actors: int | None,
    units: int,
    accelerator_type: str | None = None,
) -> Resources:
    """Divide a cluster so that decoding and committing can never be starved.

    Ray waits without end or message when actors hold every CPU that tasks need.

    Raises:
        ConfigError: More GPUs are asked for than there are, the CPUs do not suffice, or GPUs are
            of several models and none is named.
    """
    cpus, gpus = available.get("CPU", 0.0), available.get("GPU", 0.0)
    if numerics.device == "cuda":
        check_accelerators(available, accelerator_type)
        if accelerator_type is not None:
            gpus = available.get(GPUS_OF + accelerator_type, 0.0)
        # A cluster that scales from zero has no GPU until one is asked for.
        most = int(gpus) or (actors or 1)
    else:
        most = max(1, int(cpus) // max(1, numerics.threads))
    count = min(actors or most, max(1, units))
    if numerics.device == "cuda" and count > most:
        which = f" {accelerator_type}" if accelerator_type else ""
        raise ConfigError(
            f"--actors {count}: the cluster has {most}{which} GPUs; ask for fewer actors"
        )
    cuda = numerics.device == "cuda"
    each = share_of_cpus(available, count, _TASK_CPUS, cuda=cuda, accelerator_type=accelerator_type)
    if each <= 0:
        raise ConfigError(
            f"{count} actors on {cpus:g} CPUs: decoding and writing need {_TASK_CPUS:g} of them on "
            "one node; ask for fewer --actors or add CPUs"
        )
    return Resources(
        actors=count,
        cpus=each,
        gpus=1.0 if cuda else 0.0,
        accelerator_type=accelerator_type if cuda else None,
    )


def share_of_cpus(
    available: Mapping[str, float],
    actors: int,
    task_cpus: float,
    *,
    cuda: bool,
    accelerator_type: str | None = None,
) -> float:
    """The most CPUs, up to one, that each actor may reserve; 0 if there is no such share.

    Args:
        available: Resources of the cluster, also by node.
        actors: How many of them run at once.
        task_cpus: CPUs that one node must keep for tasks beside them.
        cuda: True if each has a GPU.
        accelerator_type: The model of the GPUs; None for any.
    """
    nodes = [number for name, number in available.items() if name.startswith(CPUS_OF)]
    each = _largest_share(nodes or [available.get("CPU", 0.0)], actors, task_cpus)
    return min(each, _share_beside_gpus(available, actors, accelerator_type)) if cuda else each


def _largest_share(nodes: Sequence[float], actors: int, task_cpus: float) -> float:
    """The most CPUs, up to one, at which some node has those of the tasks; 0 if there is no share.

    That must hold for any placement of the actors. A node is full with one actor more than its
    spare CPUs allow; there must be fewer actors than fill all.
    """
    spare = [round(100 * (cpus - task_cpus)) for cpus in nodes if cpus >= task_cpus]
    for hundredths in range(100, 0, -1):
        if sum(left // hundredths + 1 for left in spare) > actors:
            return hundredths / 100
    return 0.0


def _share_beside_gpus(
    available: Mapping[str, float], actors: int, accelerator_type: str | None
) -> float:
    """The most CPUs, up to one, at which so many actors find a GPU and their CPUs on one node.

    1 where the nodes' GPUs are not known, or too few by themselves: those are still to come.
    """
    nodes = []
    for name, gpus in available.items():
        node, _, model = name.removeprefix(GPUS_ON).partition(":")
        if name.startswith(GPUS_ON) and accelerator_type in (None, model):
            nodes.append((int(gpus), available.get(CPUS_OF + node, 0.0)))
    if sum(gpus for gpus, _ in nodes) < actors:
        return 1.0
    for hundredths in range(100, 0, -1):
        if sum(min(gpus, int(100 * cpus) // hundredths) for gpus, cpus in nodes) >= actors:
            return hundredths / 100
    return 0.0


def check_accelerators(available: Mapping[str, float], accelerator_type: str | None) -> None:
    """Check that all GPUs which a job may get are of one model, since that decides its votes.

    Args:
        available: Resources of the cluster, its GPUs counted by model.
        accelerator_type: The required model; None for any.

    Raises:
        ConfigError: They are of several, and none is named.
    """
    models = gpu_models(available)
    if accelerator_type is None and len(models) > 1:
        found = ", ".join(f"{available[GPUS_OF + model]:g} x {model}" for model in models)
        raise ConfigError(
            f"the cluster has GPUs of several models ({found}), and a run's votes are those of "
            f"one: give --accelerator-type {models[0]} (or another of them)"
        )


def gpu_models(available: Mapping[str, float]) -> list[str]:
    """Ray's names of the GPU models of a cluster, ascending."""
    return sorted(name[len(GPUS_OF) :] for name in available if name.startswith(GPUS_OF))
