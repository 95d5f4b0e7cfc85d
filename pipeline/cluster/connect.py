"""Ray, local or a cluster: joining it, and asking a worker what it is.

The only module that starts Ray.
"""

import contextlib
import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.cluster.errors import in_words
from pipeline.cluster.resources import CPUS_OF, DECODE_CPUS, GPUS_OF, GPUS_ON, check_accelerators
from pipeline.cluster.session import own_ray
from pipeline.config import ConfigError, Device
from pipeline.runs.numerics import Machine, on_cluster, probe_machine

# What Ray calls a node that has GPUs of a model.
_MODEL_RESOURCE = "accelerator_type:"
# For nodes to say what they are; a worker that imports torch for the first time takes seconds.
_WAIT_SECONDS = 30.0
_joined_here = False


@contextmanager
def ray_cluster(*, verbose: bool) -> Iterator[Mapping[str, float]]:
    """Join the cluster of the environment, or start a local one; yields its resources.

    A cluster that was already joined is left as it was.
    """
    global _joined_here  # noqa: PLW0603  (Ray's connection is the process's, too)
    started = not ray.is_initialized()
    if started:
        _join(verbose=verbose)
        _joined_here = True
    try:
        yield _resources()
    finally:
        if started:
            _joined_here = False
            ray.shutdown()


def rejoin(*, verbose: bool) -> None:
    """Leave the cluster and join it again, so that nothing of a pass that failed lives on there.

    Ray Data only lets go of a dataset's actors, and Ray ends them when nobody can ask for what they
    made: until then they keep their CPUs, and the next pass's actors may wait for these.
    The end of the connection is also theirs. One that the program around us made is left alone.
    """
    if _joined_here:
        ray.shutdown()
        _join(verbose=verbose)


def _join(*, verbose: bool) -> None:
    quiet: dict[str, Any] = {} if verbose else {"logging_level": logging.ERROR}
    if not on_cluster():
        quiet |= own_ray()
        if not verbose:
            # Ray's core warns of each restartable actor; the driver outlives them here.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Workers' output is noise on a user's terminal; errors reach the driver as exceptions.
    with contextlib.nullcontext() if verbose else _silent_stderr():
        ray.init(log_to_driver=verbose, **quiet)


def _resources() -> dict[str, float]:
    """Resources of the cluster, also by GPU model (``GPU:<model>``) and by node.

    By node: ``CPU:<node>``, and ``GPU@<node>:<model>``.
    """
    found: dict[str, float] = dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if not node["Alive"]:
            continue
        found[CPUS_OF + node["NodeID"]] = node["Resources"].get("CPU", 0.0)
        gpus = node["Resources"].get("GPU", 0.0)
        for name in node["Resources"] if gpus else ():
            if name.startswith(_MODEL_RESOURCE):
                model = GPUS_OF + name.removeprefix(_MODEL_RESOURCE)
                found[model] = found.get(model, 0.0) + gpus
                found[f"{GPUS_ON}{node['NodeID']}:{name.removeprefix(_MODEL_RESOURCE)}"] = gpus
    return found


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep what Ray's C++ core says of its own log settings off the terminal."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def probe_worker(device: Device, *, verbose: bool, accelerator_type: str | None = None) -> Machine:
    """Find the machine that ``device`` means on the workers: the driver may have no GPU.

    Every node that could hold an actor is asked. Where none has a GPU yet and one is wanted, this
    waits until the cluster has one, so that autoscalers add it.

    Args:
        device: What was asked for.
        verbose: Show Ray's own log.
        accelerator_type: The GPU model that is asked for; None for whatever there is.

    Raises:
        ConfigError: Devices are of several models, or there is no CUDA.
        JobError: Workers died of the question.
    """
    with ray_cluster(verbose=verbose) as available:
        cuda = device == "cuda" or (device == "auto" and available.get("GPU", 0) >= 1)
        if cuda:
            check_accelerators(available, accelerator_type)
        task, needs = ray.remote(_describe), one_worker(cuda, accelerator_type)
        # Where there is no such node yet: any that comes.
        places: list[Any] = [
            {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)}
            for node in _nodes_for_actors(cuda, accelerator_type)
        ] or [{}]
        kind: Device = "cuda" if cuda else "cpu"
        with in_words():
            found = _answers([task.options(**needs, **place).remote(kind) for place in places])
    return one_machine(found)


def _describe(device: Device) -> tuple[str, Machine]:
    return platform.node(), probe_machine(device)


def _nodes_for_actors(cuda: bool, accelerator_type: str | None) -> list[str]:
    """Ids of the nodes that an actor fits on."""
    wanted = ["GPU"] if cuda else ["CPU"]
    if cuda and accelerator_type is not None:
        wanted.append(_MODEL_RESOURCE + accelerator_type)
    return [
        node["NodeID"]
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"] and all(node["Resources"].get(name, 0.0) > 0 for name in wanted)
    ]


def _answers(asked: list["ray.ObjectRef[Any]"]) -> list[tuple[str, Machine]]:
    """Answers of the nodes: of one in any case, of those busy with other jobs perhaps not."""
    ready: list[Any] = []
    while not ready:
        ready, _ = ray.wait(asked, timeout=_WAIT_SECONDS)
        if not ready:
            # A cluster that is to grow, or other jobs: both can take without end.
            print("waiting for a worker that can vote ...", file=sys.stderr, flush=True)
    ready, busy = ray.wait(asked, num_returns=len(asked), timeout=_WAIT_SECONDS)
    for one in busy:
        ray.cancel(one)
    return ray.get(ready)


def one_machine(found: Sequence[tuple[str, Machine]]) -> Machine:
    """The machine that a run's identity speaks of, from what nodes say of themselves.

    Args:
        found: Names of nodes, and what they are.

    Raises:
        ConfigError: The nodes' devices are of several models.
    """
    nodes: dict[str, set[str]] = {}
    for name, machine in found:
        nodes.setdefault(machine.device_model, set()).add(name)
    if len(nodes) > 1:
        said = "; ".join(
            f"{model} on {', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''}"
            for model, names in sorted(nodes.items())
        )
        pin = (
            "--accelerator-type where Ray's names tell them apart"
            if found[0][1].device == "cuda"
            else "`ray start --num-cpus 0` on the nodes that shall not vote"
        )
        raise ConfigError(
            f"the cluster has devices of several models ({said}), and a run's votes are those of "
            f"one: keep to one ({pin})"
        )
    # Of equal processors the node with the fewest CPUs decides the threads: all have so many.
    return min((machine for _, machine in found), key=lambda machine: machine.cpus)


def one_worker(cuda: bool, accelerator_type: str | None) -> dict[str, Any]:
    """Ray's options of a task that stands for an actor."""
    pinned: dict[str, Any] = (
        {"accelerator_type": accelerator_type} if cuda and accelerator_type else {}
    )
    return {"num_cpus": DECODE_CPUS, "num_gpus": 1 if cuda else 0, **pinned}
