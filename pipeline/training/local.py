"""Train without Ray: plain torch on this machine, in one process or several."""

import socket
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessContext, ProcessException, start_processes

from pipeline.config import ConfigError
from pipeline.runs.cpus import usable_cpus
from pipeline.runs.numerics import pin_mkl
from pipeline.training.config import TrainingPlace
from pipeline.training.feed import MemoryFeed
from pipeline.training.loop import Training
from pipeline.training.recipe import Recipe
from pipeline.training.reporting import Reporter, SilentReporter

# Workers wait for the first while it writes, and for each other on shared CPUs.
_PATIENCE = timedelta(hours=2)


def train_locally(recipe: Recipe, place: TrainingPlace, reporter: Reporter) -> str:
    """Train with plain torch; return the path of the weights.

    Raises:
        ConfigError: The workers cannot share the batch, or the checkpoint is another training's.
        DivergedError: The loss is not finite.
        ChildProcessError: Another worker than the first failed.
        WeightsError, UnsupportedModelError: The network or its weights do not fit.
        SourceError: An image cannot be used.
    """
    cuda = place.device != "cpu" and torch.cuda.is_available()
    if place.device == "cuda" and not cuda:
        raise ConfigError("--device cuda: no CUDA device is visible; use --device cpu or auto")
    world = place.workers or (torch.cuda.device_count() if cuda else 1)
    if cuda and world > torch.cuda.device_count():
        raise ConfigError(f"--workers {world}: there are {torch.cuda.device_count()} CUDA devices")
    check_shares(recipe, world)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        group = _Group(world=world, port=probe.getsockname()[1], cuda=cuda)
    others: ProcessContext | None = None
    if world > 1:
        others = start_processes(  # type: ignore[no-untyped-call]
            _other, (group, recipe, place), nprocs=world - 1, join=False
        )
    try:
        path = group.work(0, recipe, place, reporter)
        _join(others)
    except RuntimeError as error:
        if "onnection" in str(error):
            _join(others)  # of the worker that failed, torch only says that it is gone
        raise
    finally:
        for process in others.processes if others is not None else ():
            process.terminate()  # where this one failed, they would wait for it
    assert path is not None
    return path


def _join(others: ProcessContext | None) -> None:
    """Wait for the other workers.

    Raises:
        ChildProcessError: One of them failed; with its reason.
    """
    try:
        while others is not None and not others.join():
            pass
    except ProcessException as error:
        reason = str(error).strip().splitlines()[-1]
        raise ChildProcessError(f"training failed: {reason}") from error


def check_shares(recipe: Recipe, world: int) -> None:
    """Raise ConfigError unless ``world`` workers can share the batch evenly, and the estimates."""
    batch = recipe.config.batch
    if batch % world:
        raise ConfigError(f"--batch {batch}: it must be a multiple of the {world} workers' number")
    estimated = min(recipe.config.estimate, len(recipe.held_out))
    if 0 < estimated < world:
        raise ConfigError(
            f"--estimate: each of the {world} workers votes on some of the held-out images, and "
            f"there are {estimated}; hold more out (--validation, --estimate), or --estimate 0"
        )


def prepare(place: TrainingPlace, world: int) -> None:
    """Set threads and reproducible products of this process; call it before the first product."""
    pin_mkl()
    torch.set_num_threads(place.threads or max(1, usable_cpus() // world))


@dataclass(frozen=True, kw_only=True)
class _Group:
    """The processes of a training on this machine.

    Attributes:
        world: Number of processes.
        port: Port at which they connect.
        cuda: True if each has a GPU.
    """

    world: int
    port: int
    cuda: bool

    def work(
        self, rank: int, recipe: Recipe, place: TrainingPlace, reporter: Reporter
    ) -> str | None:
        """Train as the process of this rank."""
        prepare(place, self.world)
        device = torch.device("cuda", rank) if self.cuda else torch.device("cpu")
        if self.cuda:
            torch.cuda.set_device(device)
        if self.world > 1:
            dist.init_process_group(
                "nccl" if self.cuda else "gloo",
                init_method=f"tcp://127.0.0.1:{self.port}",
                rank=rank,
                world_size=self.world,
                timeout=_PATIENCE,
            )
        try:
            training = Training(recipe, place, device, reporter, rank=rank, world=self.world)
            return training.run(MemoryFeed(recipe, rank, self.world))
        finally:
            if self.world > 1:
                dist.destroy_process_group()


def _other(index: int, group: _Group, recipe: Recipe, place: TrainingPlace) -> None:
    group.work(index + 1, recipe, place, SilentReporter())
