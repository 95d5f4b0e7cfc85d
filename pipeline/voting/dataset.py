"""The three stages as a Ray Data job: decode, vote, commit."""

import logging
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext

from pipeline.cluster.errors import in_words
from pipeline.cluster.resources import BLOCK_BYTES, COMMIT_CPUS, DECODE_CPUS, Resources
from pipeline.voting.commit import CommitUnit
from pipeline.voting.isolation import IMAGE_SHARE, Deaths, Guarded, Handler

# Actors die over images (``isolation`` sees to these) and with their nodes. Without a bound
# an actor that cannot live at all would be restarted without end.
_BOUNDED: dict[str, Any] = {"max_restarts": 3, "max_task_retries": 3}


class InOneThread:
    """A handler that is made and called in one thread, whichever thread asks.

    OpenMP keeps a pool of threads, and their number, for each thread that calls it, and Ray
    constructs in one and calls from another. Two pools are more threads than cores, which then
    sleep where they wait for each other instead of spinning: a third of the time.

    Args:
        make: Makes the handler.
    """

    def __init__(self, make: Callable[[], Handler]) -> None:
        self.thread = ThreadPoolExecutor(1)
        self.handler = self.thread.submit(make).result()

    def __call__(self, rows: pa.Table) -> pa.Table:
        """As the handler."""
        return self.thread.submit(self.handler, rows).result()

    def failed(self, rows: pa.Table, reason: str) -> pa.Table:
        """As the handler."""
        return self.thread.submit(self.handler.failed, rows, reason).result()


def run_units(
    units: Sequence[pa.Table],
    decode: Callable[[], Handler],
    vote: Callable[[], Handler],
    commit: CommitUnit,
    share: Resources,
    *,
    stall_seconds: float,
    verbose: bool,
) -> Generator[pa.Table, None, None]:
    """Stream units through decode, vote and commit; yields a receipt per committed unit.

    Args:
        units: Rows of the listing, each unit with its number.
        decode: Makes the handler of a decoding task; picklable, as is ``vote``.
        vote: Makes that of an actor.
        commit: Writes a unit.
        share: What each actor gets.
        stall_seconds: How long nothing may come to an end.
        verbose: Show Ray's own log.

    Raises:
        WorkersDiedError: Too many processes or nodes died.
        StalledError: Nothing came to an end for so long.
        JobError: A stage failed for good.
    """
    decode_deaths, vote_deaths = Deaths(commit.store, "decode"), Deaths(commit.store, "vote")
    pinned: dict[str, Any] = (
        {"accelerator_type": share.accelerator_type} if share.accelerator_type else {}
    )
    patience = IMAGE_SHARE * stall_seconds
    with _settings(stall_seconds, verbose=verbose), warnings.catch_warnings():
        # Bounded restarts have no other name yet (Ray 2.60); they go with these in 2.64.
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        dataset = (
            ray.data.from_arrow(list(units))
            .map_batches(
                Guarded(decode, decode_deaths, patience),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=DECODE_CPUS,
            )
            .map_batches(
                Guarded,
                fn_constructor_args=(partial(InOneThread, vote), vote_deaths, patience),
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
                num_cpus=COMMIT_CPUS,
            )
        )
        stalled = (
            f"nothing came to an end for {stall_seconds / 60:g} minutes (--stall-minutes): "
            "an image or a worker hangs, the cluster has no room, or units take that long here and "
            "need more minutes or fewer --unit-images; run again to resume"
        )
        with in_words(stalled):
            yield from dataset.iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=0
            )


@contextmanager
def _settings(stall_seconds: float, *, verbose: bool) -> Iterator[None]:
    """Set Ray Data up for a job of this program, and put the settings back afterwards.

    These settings have no stable name in Ray's interface.
    """
    context = DataContext.get_current()
    settings = {
        "target_max_block_size": BLOCK_BYTES,
        "enable_progress_bars": verbose,
        "execution_no_progress_timeout_s": stall_seconds,
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
