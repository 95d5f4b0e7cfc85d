"""Ray, local or a cluster: joining it, and asking a worker what it is.

The only module that starts Ray.
"""

import contextlib
import logging
import os
import platform
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TextIO
from urllib.parse import urlsplit

import ray
from ray._private import services, utils
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from models.errors import JobError
from pipeline.cluster.errors import in_words
from pipeline.cluster.resources import CPUS_OF, DECODE_CPUS, GPUS_OF, GPUS_ON, check_accelerators
from pipeline.cluster.session import end_of_job, own_ray
from pipeline.cluster.token import authentication
from pipeline.config import ConfigError, Device
from pipeline.runs.numerics import Machine, probe_machine
from pipeline.runs.waiting import waiting

# What Ray calls a node that has GPUs of a model.
_MODEL_RESOURCE = "accelerator_type:"
# For nodes to say what they are; a worker that imports torch for the first time takes seconds.
_WAIT_SECONDS = 30.0
# Starts of a local Ray, each of which may take a busy machine a minute.
_STARTS = 4
_REACH_SECONDS = 5.0
# Beginning of a connection, with an empty frame of settings; and the type of that frame.
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_HTTP2_SETTINGS = b"\4"
_joined_here = False


@contextmanager
def ray_cluster(address: str | None, *, verbose: bool) -> Iterator[Mapping[str, float]]:
    """Join the cluster at an address, or start a local one for None; yields its resources.

    A cluster that was already joined is left as it was; within ``session.one_ray`` what is joined
    or started is left at the end of that block.

    Raises:
        JobError: The cluster does not answer, or a local one does not start.
    """
    global _joined_here  # noqa: PLW0603  (Ray's connection is the process's, too)
    with ExitStack() as block:
        if not ray.is_initialized():
            _join(address, verbose=verbose)
            _joined_here = True
            (end_of_job() or block).callback(_leave)
        yield _resources()


def _leave() -> None:
    global _joined_here  # noqa: PLW0603
    _joined_here = False
    ray.shutdown()


def rejoin(address: str | None, *, verbose: bool) -> None:
    """Leave the cluster and join it again, so that nothing of a pass that failed lives on there.

    Ray Data only lets go of a dataset's actors, and Ray ends them when nobody can ask for what they
    made: until then they keep their CPUs, and the next pass's actors may wait for these.
    The end of the connection is also theirs. One that the program around us made is left alone.
    """
    if _joined_here:
        ray.shutdown()
        _join(address, verbose=verbose)


def _join(address: str | None, *, verbose: bool) -> None:
    """Join, or start, with what Ray does to the process put back.

    Workers' output is noise on a user's terminal; errors reach the driver as exceptions.
    """
    settings: dict[str, Any] = {"log_to_driver": verbose}
    if not verbose:
        settings["logging_level"] = logging.ERROR
    # Ray's own handler of SIGTERM ends the process without a word, or with a dump of its C++ core.
    handler = signal.getsignal(signal.SIGTERM)
    try:
        loud = contextlib.nullcontext(sys.stderr)
        with loud if verbose else _silent_stderr() as stream:
            if address:
                with waiting(f"joining the Ray cluster at {address}", stream):
                    _join_cluster(address, settings)
            else:
                _start(settings, stream)
    except SystemExit as stop:  # that handler was there for a moment
        raise KeyboardInterrupt(signal.SIGTERM) from stop
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _join_cluster(address: str, settings: dict[str, Any]) -> None:
    authentication(address)
    try:
        if address != "auto":
            _reach(address)
        ray.init(address, **settings)
    except Exception as error:
        raise JobError(
            f"RAY_ADDRESS={address}: no Ray cluster can be joined there ({_first_line(error)}); "
            "start it, correct RAY_ADDRESS, or unset it to compute on this machine"
        ) from error


def _reach(address: str) -> None:
    """Ask for a first sign of a gRPC server, for which Ray itself would wait a quarter of an hour.

    Raises:
        OSError: Nothing answers, or something else.
    """
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    with socket.create_connection((parts.hostname, parts.port), _REACH_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return  # then it is Ray that must speak first
        connection.sendall(_HTTP2_PREFACE)
        if connection.recv(4)[3:] != _HTTP2_SETTINGS:
            raise OSError("what answers is not Ray, whose own port is mostly 6379")


def _start(settings: dict[str, Any], stream: TextIO) -> None:
    """Start a Ray of this machine; each time that fails, again and in a new session directory."""
    if "logging_level" in settings:
        # Ray's core warns of each restartable actor; the driver outlives them here.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Of the two waits of Ray's start this is the one that can be told to be patient.
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "60")
    own = own_ray()
    for attempt in range(1, _STARTS + 1):
        try:
            with waiting("starting Ray on this machine", stream), _own_process_groups():
                ray.init(**own, **settings)
        except Exception as error:
            ray.shutdown()
            # Ports, paths and rights do not change by waiting; processes that are slow do.
            if attempt == _STARTS or isinstance(error, (OSError, ValueError)):
                raise JobError(
                    f"Ray does not start on this machine ({_first_line(error)}): it may be too "
                    "busy, or short of memory or of room in /tmp; run again when it is less so, "
                    "to resume (--verbose shows Ray's own log)"
                ) from error
            print(
                f"Ray did not start ({_first_line(error)}); again, {attempt + 1} of {_STARTS} ...",
                file=stream,
                flush=True,
            )
        else:
            return


@contextmanager
def _own_process_groups() -> Iterator[None]:
    """Start Ray's processes in groups of their own, as Ray does on Windows.

    A signal to our group (from a terminal, ``timeout`` or a queue) would end them too, and where
    they end first, Ray's core ends this process, without a word and with code 1 instead of 143.
    The kernel ends them with this process, as before.
    """
    try:
        popen = services.ConsolePopen
        # Where not, Ray ends them as members of our group.
        apart = utils.detect_fate_sharing_support()  # type: ignore[no-untyped-call]
    except AttributeError:  # a Ray that has other names for it
        apart = False
    if not apart:
        yield
        return
    vars(services)["ConsolePopen"] = partial(popen, process_group=0)
    try:
        yield
    finally:
        vars(services)["ConsolePopen"] = popen


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


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
def _silent_stderr() -> Iterator[TextIO]:
    """Keep what Ray's C++ core says of its own log settings off the terminal; yields the latter."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        with open(kept, "w", encoding="utf-8", closefd=False) as stream:
            yield stream
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def probe_worker(
    address: str | None, device: Device, accelerator_type: str | None, *, verbose: bool
) -> Machine:
    """Find the machine that ``device`` means on the workers: the driver may have no GPU.

    Every node that could hold an actor is asked. Where none has a GPU yet and one is wanted, this
    waits until the cluster has one, so that autoscalers add it.

    Args:
        address: The cluster.
        device: What was asked for.
        accelerator_type: The GPU model that is asked for; None for whatever there is.
        verbose: Show Ray's own log.

    Raises:
        ConfigError: Devices are of several models, or there is no CUDA.
        JobError: Workers died of the question.
    """
    with ray_cluster(address, verbose=verbose) as available:
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
    # A cluster that is to grow, or other jobs: both can take without end.
    with waiting("waiting for a worker that can vote"):
        ray.wait(asked)
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
