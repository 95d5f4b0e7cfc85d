"""Train with Ray: Ray Train runs the workers, Ray Data feeds them."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray
import ray.train
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.data import ExecutionOptions
from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Empty, Queue

from models.errors import JobError
from pipeline import storage
from pipeline.cluster.executor import LOCAL, Executor
from pipeline.cluster.resources import share_of_cpus
from pipeline.config import ConfigError
from pipeline.training.checkpoint import read_checkpoint
from pipeline.training.config import TrainingPlace
from pipeline.training.learner import DivergedError
from pipeline.training.local import check_shares, prepare
from pipeline.training.loop import Training
from pipeline.training.recipe import Recipe
from pipeline.training.reporting import Reporter
from pipeline.training.stream import DECODE_CPUS, StreamFeed, batches_left

# A failed worker is replaced once, from the checkpoint; a reclaimed machine without limit.
_RESTARTS = 1
_SECONDS_BETWEEN_LOOKS = 0.5


def train_on_cluster(
    recipe: Recipe, place: TrainingPlace, reporter: Reporter, executor: Executor = LOCAL
) -> str:
    """Train on a cluster, or a local Ray; return the path of the weights.

    Raises:
        ConfigError: The workers cannot share the batch, or the cluster has fewer GPUs.
        JobError: A worker failed for good; running again resumes.
    """
    if place.checkpoint_minutes:
        raise ConfigError(
            "--checkpoint-minutes: with Ray a training resumes from a whole epoch; leave it out, "
            "or add --no-ray"
        )
    state = read_checkpoint(place.out, recipe)
    if state is not None and state["learner"]["done"] % recipe.order.steps:
        raise ConfigError(
            f"--out {place.out}: its checkpoint lies within an epoch, and with Ray a training "
            "resumes from a whole one; add --no-ray, or start again with --overwrite"
        )
    # Ray Train's workers run in another directory.
    place = replace(place, out=storage.full_path(place.out))
    with executor.join() as available:
        scaling = plan_workers(available, place)
        world = scaling.num_workers
        assert isinstance(world, int)
        check_shares(recipe, world)
        if not place.verbose:
            logging.getLogger("ray.train").setLevel(logging.ERROR)
        reports = Queue(actor_options={"num_cpus": 0})
        trainer = TorchTrainer(
            _work,
            train_loop_config={"recipe": recipe, "place": place, "reports": reports},
            scaling_config=scaling,
            # Called again when workers are replaced, so that they resume from the checkpoint.
            datasets={"train": lambda: batches_left(recipe, place)},
            dataset_config=DataConfig(execution_options=ExecutionOptions(preserve_order=True)),
            run_config=_run_config(recipe, place),
        )
        return _fit(trainer, reports, reporter)


def plan_workers(available: Mapping[str, float], place: TrainingPlace) -> ScalingConfig:
    """Plan workers and what each reserves, such that decoding always finds a CPU.

    Raises:
        ConfigError: More GPUs are asked for than there are, or CPUs are lacking.
    """
    cpus, gpus = available.get("CPU", 0.0), int(available.get("GPU", 0))
    cuda = place.device == "cuda" or (place.device == "auto" and gpus >= 1)
    # A cluster that scales from zero has no GPU until one is asked for.
    world = place.workers or (max(1, gpus) if cuda else 1)
    if cuda and gpus and world > gpus:
        raise ConfigError(f"--workers {world}: the cluster has {gpus} GPUs; ask for fewer")
    # Less than a worker uses: Ray waits forever, without a message, if no CPU is left for tasks.
    each = share_of_cpus(available, world, DECODE_CPUS, cuda=cuda)
    if each <= 0:
        raise ConfigError(
            f"--workers {world}: on {cpus:g} CPUs none is left to decode images; ask for fewer"
        )
    return ScalingConfig(num_workers=world, use_gpu=cuda, resources_per_worker={"CPU": each})


class _QueueReporter:
    """Reports through a queue to the driver, which has the terminal and MLflow."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def say(self, line: str) -> None:
        self.queue.put(("say", (line,)))

    def epoch(self, epoch: int, figures: dict[str, float]) -> None:
        self.queue.put(("epoch", (epoch, figures)))


def _work(config: dict[str, Any]) -> None:
    """Train as one of the workers."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    recipe, place = config["recipe"], config["place"]
    prepare(place, world)
    reporter = _QueueReporter(config["reports"])
    training = Training(recipe, place, get_device(), reporter, rank=rank, world=world)
    try:
        path = training.run(StreamFeed(recipe, ray.train.get_dataset_shard("train"), world))
    except DivergedError as error:
        # Not raised here: a worker that fails is replaced, and would do the same again.
        if rank == 0:
            reporter.queue.put(("diverged", (str(error),)))
        return
    if path is not None:
        reporter.queue.put(("weights", (path,)))


def _run_config(recipe: Recipe, place: TrainingPlace) -> RunConfig:
    """Let Ray Train keep its own records beside ours."""
    filesystem, folder = storage.filesystem(storage.join(place.out, "ray"))
    return RunConfig(
        name=recipe.training_id,
        storage_path=folder,
        storage_filesystem=PyFileSystem(FSSpecHandler(filesystem)),
        failure_config=FailureConfig(max_failures=_RESTARTS),
    )


def _fit(trainer: TorchTrainer, reports: Queue, reporter: Reporter) -> str:
    """Run the trainer and pass on the reports of its first worker; return the weights' path."""
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # raised by the main thread
            failure.append(error)

    thread = threading.Thread(target=fit, daemon=True)
    thread.start()
    path = diverged = None
    while thread.is_alive() or not reports.empty():
        try:
            kind, arguments = reports.get(timeout=_SECONDS_BETWEEN_LOOKS)
        except Empty:
            continue
        if kind == "weights":
            (path,) = arguments
        elif kind == "diverged":
            (diverged,) = arguments
        else:
            getattr(reporter, kind)(*arguments)
    if failure:
        if isinstance(failure[0], TrainingFailedError):
            raise JobError(f"training failed: {_reason(failure[0])}") from failure[0]
        raise failure[0]
    if diverged is not None:
        raise DivergedError(diverged)
    assert isinstance(path, str)
    return path


def _reason(error: BaseException) -> str:
    """Return the error of the first worker that failed, without its traceback."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    failure = failures[min(failures)]
    cause = getattr(failure, "cause", None) or failure
    # Ray adds its own text after the first line of a message.
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__
