"""Ray, local or a cluster: joining it, sharing out its CPUs and GPUs, running the three stages.

The only module that starts Ray. Knobs that have no stable name in Ray's interface are kept here.
"""

import contextlib
import logging
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from pipeline.committing import CommitUnit
from pipeline.config import ConfigError, Device
from pipeline.decoding import DecodeUnit
from pipeline.numerics import Machine, Numerics, on_cluster, probe_machine
from pipeline.voting import VoteOnUnit

_DECODE_CPUS, _COMMIT_CPUS = 0.5, 0.25
# A sample that kills its process would otherwise restart the actor for ever.
_BOUNDED: dict[str, Any] = {"max_restarts": 3, "max_task_retries": 3}
_SILENCE_SECONDS = 1800
# A unit must stay one block; Ray splits blocks above this size.
_BLOCK_BYTES = 2**31 - 1


class JobError(RuntimeError):
    """The job failed; what it committed stays, and running again resumes."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What each actor gets.

    Attributes:
        actors: Copies of the network.
        cpus: CPUs an actor reserves, less than it uses, so that tasks can always run beside it.
        gpus: GPUs an actor reserves.
    """

    actors: int
    cpus: float
    gpus: float


def plan_share(
    available: Mapping[str, float], numerics: Numerics, actors: int | None, units: int
) -> Share:
    """Divide a cluster so that decoding and committing can never be starved.

    Ray waits for ever, without a word, when actors hold every CPU that tasks need.

    Raises:
        ConfigError: More GPUs are asked for than there are, or the CPUs do not suffice.
    """
    cpus, gpus = available.get("CPU", 0.0), available.get("GPU", 0.0)
    if numerics.device == "cuda":
        # A cluster that scales from zero has no GPU until one is asked for.
        most = int(gpus) or (actors or 1)
    else:
        most = max(1, int(cpus) // max(1, numerics.threads))
    count = min(actors or most, max(1, units))
    if numerics.device == "cuda" and count > most:
        raise ConfigError(f"--actors {count}: the cluster has {most} GPUs; ask for fewer actors")
    spare = cpus - _DECODE_CPUS - _COMMIT_CPUS
    # Two decimals, rounded down: the sum must not exceed what is there.
    each = math.floor(min(1.0, spare / count) * 100) / 100
    if each <= 0:
        raise ConfigError(
            f"{count} actors on {cpus:g} CPUs: decoding and writing need {cpus - spare:g} of them; "
            "ask for fewer --actors or add CPUs"
        )
    return Share(actors=count, cpus=each, gpus=1.0 if numerics.device == "cuda" else 0.0)


def probe_worker(device: Device, *, verbose: bool) -> Machine:
    """What ``device`` means on a worker of the cluster: the driver may have no GPU.

    With ``cuda`` this waits until the cluster has a GPU, so that autoscalers add one.
    """
    with ray_cluster(verbose=verbose) as available:
        wants_gpu = device == "cuda" or (device == "auto" and available.get("GPU", 0) >= 1)
        task = ray.remote(probe_machine).options(
            num_cpus=_DECODE_CPUS, num_gpus=1 if wants_gpu else 0
        )
        machine: Machine = ray.get(task.remote("cuda" if wants_gpu else "cpu"))
        return machine


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
        yield ray.cluster_resources()  # type: ignore[no-untyped-call]
    finally:
        if started:
            ray.shutdown()


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
        JobError: A stage failed for good.
    """
    with _data_context(verbose=verbose), warnings.catch_warnings():
        # Bounded restarts have no other name yet (Ray 2.60); they go with these in 2.64.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        dataset = (
            ray.data.from_arrow(list(units))
            .map_batches(
                decode,
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=_DECODE_CPUS,
            )
            .map_batches(
                VoteOnUnit,
                fn_constructor_kwargs=dict(voter),
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=share.actors),
                num_cpus=share.cpus,
                num_gpus=share.gpus or None,
                **_BOUNDED,
            )
            .map_batches(
                commit,
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=_COMMIT_CPUS,
            )
        )
        try:
            yield from dataset.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )
        except RayError as error:
            raise JobError(_last_line(error)) from error


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
