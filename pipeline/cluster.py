"""Ray, local or a cluster: joining it, sharing out its CPUs and GPUs, running the three stages.

The only module that starts Ray. Knobs that have no stable name in Ray's interface are kept here.
"""

import contextlib
import logging
import math
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError, RayTaskError

from pipeline.committing import CommitUnit
from pipeline.config import ConfigError, Device
from pipeline.decoding import DecodeUnit
from pipeline.isolation import Deaths, Guarded
from pipeline.numerics import Machine, Numerics, on_cluster, probe_machine
from pipeline.resolve import Voter
from pipeline.voting import VoteOnUnit, build_classifier, check_worker

_DECODE_CPUS, _COMMIT_CPUS = 0.5, 0.25
# What Ray calls a node that has GPUs of a model, and what we call the number of them.
_MODEL_RESOURCE, _GPUS_OF = "accelerator_type:", "GPU:"
# Actors die over images (pipeline.isolation sees to these) and with their nodes. Without a bound
# an actor that cannot live at all would be restarted for ever.
_BOUNDED: dict[str, Any] = {"max_restarts": 3, "max_task_retries": 3}
_SILENCE_SECONDS = 1800
# A unit must stay one block; Ray splits blocks above this size.
_BLOCK_BYTES = 2**31 - 1

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class JobError(RuntimeError):
    """The job failed; what it committed stays, and running again resumes."""


class WorkersDiedError(JobError):
    """Processes or nodes died more often than Ray restarts them; worth another pass."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What each actor gets.

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


def plan_share(
    available: Mapping[str, float],
    numerics: Numerics,
    actors: int | None,
    units: int,
    accelerator_type: str | None = None,
) -> Share:
    """Divide a cluster so that decoding and committing can never be starved.

    Ray waits for ever, without a word, when actors hold every CPU that tasks need.

    Raises:
        ConfigError: More GPUs are asked for than there are, the CPUs do not suffice, or GPUs are
            of several models and none is named.
    """
    cpus, gpus = available.get("CPU", 0.0), available.get("GPU", 0.0)
    if numerics.device == "cuda":
        check_accelerators(available, accelerator_type)
        if accelerator_type is not None:
            gpus = available.get(_GPUS_OF + accelerator_type, 0.0)
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
    spare = cpus - _DECODE_CPUS - _COMMIT_CPUS
    # Two decimals, rounded down: the sum must not exceed what is there.
    each = math.floor(min(1.0, spare / count) * 100) / 100
    if each <= 0:
        raise ConfigError(
            f"{count} actors on {cpus:g} CPUs: decoding and writing need {cpus - spare:g} of them; "
            "ask for fewer --actors or add CPUs"
        )
    cuda = numerics.device == "cuda"
    return Share(
        actors=count,
        cpus=each,
        gpus=1.0 if cuda else 0.0,
        accelerator_type=accelerator_type if cuda else None,
    )


def check_accelerators(available: Mapping[str, float], accelerator_type: str | None) -> None:
    """Demand that all GPUs which a job may get are of one model, since that decides its votes.

    Raises:
        ConfigError: They are of several, and none is named.
    """
    models = sorted(name[len(_GPUS_OF) :] for name in available if name.startswith(_GPUS_OF))
    if accelerator_type is None and len(models) > 1:
        raise ConfigError(
            f"the cluster has GPUs of several models ({', '.join(models)}), and a run's votes are "
            "those of one: give --accelerator-type one of them"
        )


def probe_worker(device: Device, *, verbose: bool, accelerator_type: str | None = None) -> Machine:
    """What ``device`` means on a worker of the cluster: the driver may have no GPU.

    With ``cuda`` this waits until the cluster has a GPU, so that autoscalers add one.

    Raises:
        ConfigError: GPUs are of several models and none is named.
    """
    with ray_cluster(verbose=verbose) as available:
        wants_gpu = device == "cuda" or (device == "auto" and available.get("GPU", 0) >= 1)
        if wants_gpu:
            check_accelerators(available, accelerator_type)
        task = ray.remote(probe_machine).options(**_one_worker(wants_gpu, accelerator_type))
        machine: Machine = ray.get(task.remote("cuda" if wants_gpu else "cpu"))
        return machine


def load_on_worker(voter: Voter, numerics: Numerics, accelerator_type: str | None) -> str:
    """Load a voter's network on one worker of the cluster that is joined; that node's name.

    Raises:
        JobError: It does not load there, or the worker is not what the run says.
    """
    cuda = numerics.device == "cuda"
    task = ray.remote(_load).options(**_one_worker(cuda, accelerator_type))
    try:
        node: str = ray.get(task.remote(voter, numerics))
    except RayError as error:
        raise JobError(_last_line(error)) from error
    return node


def _load(voter: Voter, numerics: Numerics) -> str:
    check_worker(voter, numerics)
    build_classifier(voter, numerics)
    return platform.node()


def _one_worker(cuda: bool, accelerator_type: str | None) -> dict[str, Any]:
    """Ray's options of a task that stands for an actor."""
    pinned: dict[str, Any] = (
        {"accelerator_type": accelerator_type} if cuda and accelerator_type else {}
    )
    return {"num_cpus": _DECODE_CPUS, "num_gpus": 1 if cuda else 0, **pinned}


@contextmanager
def ray_cluster(*, verbose: bool) -> Iterator[Mapping[str, float]]:
    """Join the cluster of the environment, or start a local one; yields its resources.

    A cluster that was already joined is left as it was.
    """
    started = not ray.is_initialized()
    if started:
        quiet: dict[str, Any] = {} if verbose else {"logging_level": logging.ERROR}
        if not on_cluster():
            # The whole machine; no dashboard, which costs a second and a port. ``local``, since
            # another Ray may be running here that nobody asked to join.
            quiet |= {"address": "local", "include_dashboard": False, "num_cpus": os.cpu_count()}
            if not verbose:
                # Ray's core warns of each restartable actor; the driver outlives them here.
                os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        # Workers' output is noise on a user's terminal; errors reach the driver as exceptions.
        with contextlib.nullcontext() if verbose else _silent_stderr():
            ray.init(log_to_driver=verbose, **quiet)
    try:
        yield _resources()
    finally:
        if started:
            ray.shutdown()


def _resources() -> dict[str, float]:
    """What the cluster has, and under ``GPU:<model>`` its GPUs of each model."""
    found: dict[str, float] = dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        gpus = node["Resources"].get("GPU", 0.0) if node["Alive"] else 0.0
        for name in node["Resources"] if gpus else ():
            if name.startswith(_MODEL_RESOURCE):
                model = _GPUS_OF + name.removeprefix(_MODEL_RESOURCE)
                found[model] = found.get(model, 0.0) + gpus
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


def run_units(
    units: Sequence[pa.Table],
    decode: DecodeUnit,
    voter: Mapping[str, Any],
    commit: CommitUnit,
    share: Share,
    *,
    verbose: bool,
) -> Iterator[pa.Table]:
    """Stream units through decode, vote and commit; yields a receipt per committed unit.

    Raises:
        WorkersDiedError: Too many processes or nodes died.
        JobError: A stage failed for good.
    """
    decode_deaths, vote_deaths = Deaths(commit.store, "decode"), Deaths(commit.store, "vote")
    pinned: dict[str, Any] = (
        {"accelerator_type": share.accelerator_type} if share.accelerator_type else {}
    )
    with _data_context(verbose=verbose), warnings.catch_warnings():
        # Bounded restarts have no other name yet (Ray 2.60); they go with these in 2.64.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        dataset = (
            ray.data.from_arrow(list(units))
            .map_batches(
                Guarded(partial(DecodeUnit, decode.options, decode.preprocess), decode_deaths),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=_DECODE_CPUS,
            )
            .map_batches(
                Guarded,
                fn_constructor_args=(partial(VoteOnUnit, **voter), vote_deaths),
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=share.actors),
                num_cpus=share.cpus,
                num_gpus=share.gpus or None,
                **_BOUNDED,
                **pinned,
            )
            .map_batches(
                commit,
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=_COMMIT_CPUS,
            )
        )
        with _in_words():
            yield from dataset.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )


@contextmanager
def _in_words() -> Iterator[None]:
    """Turn Ray's errors into ours: a task that failed, or workers that died."""
    try:
        yield
    except RayTaskError as error:
        raise JobError(_last_line(error)) from error
    except RayError as error:
        raise WorkersDiedError(_last_line(error)) from error


def _last_line(error: BaseException) -> str:
    """What went wrong in a worker, without the traceback around it."""
    cause = getattr(error, "cause", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1] if lines else 'no message'}"


@contextmanager
def _data_context(*, verbose: bool) -> Iterator[None]:
    """Settings of this job's dataset, put back afterwards."""
    context = DataContext.get_current()
    settings = {
        "target_max_block_size": _BLOCK_BYTES,
        "enable_progress_bars": verbose,
        "execution_no_progress_timeout_s": _SILENCE_SECONDS,
        "print_on_execution_start": verbose,
    }
    # Names differ between Ray releases; setting one that does not exist would be silent.
    known = {name: getattr(context, name) for name in settings if hasattr(context, name)}
    logger = logging.getLogger("ray.data")
    level = logger.level
    try:
        for name in known:
            setattr(context, name, settings[name])
        if not verbose:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        logger.setLevel(level)
        for name, value in known.items():
            setattr(context, name, value)


def run_tasks(
    task: Callable[[_In], _Out], items: Sequence[_In], *, verbose: bool
) -> Iterator[_Out]:
    """Apply a function to every item as a Ray Data job, one CPU an item; results as they come.

    Raises:
        WorkersDiedError: Too many processes or nodes died.
        JobError: The function failed.
    """
    with _data_context(verbose=verbose):
        dataset = ray.data.range(len(items), override_num_blocks=len(items)).map(
            lambda row: {"result": task(items[row["id"]])}, num_cpus=1
        )
        with _in_words():
            for row in dataset.iter_rows():
                yield row["result"]
