"""Passes of a votes job: what is missing goes through the cluster until all is committed.

Workers may die more often than Ray restarts them, or hang. What is missing then goes through again,
as long as a pass commits something; what hangs is isolated in the third pass over it
(``pipeline.voting.isolation``).
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import NamedTuple

import pyarrow as pa

from models.errors import StalledError, WorkersDiedError
from pipeline.cluster.executor import Executor
from pipeline.cluster.resources import plan_resources
from pipeline.config import VotesConfig
from pipeline.runs.defense import Defense
from pipeline.runs.lease import Lease
from pipeline.runs.manifest import Manifest, ManifestError, finish_manifest
from pipeline.runs.numerics import Numerics
from pipeline.runs.progress import VotesProgress
from pipeline.runs.store import StoreError, VotesStore
from pipeline.sources.base import SourceOptions
from pipeline.sources.listing import Listing
from pipeline.voting.commit import CommitUnit
from pipeline.voting.decode import DecodeUnit
from pipeline.voting.isolation import IMAGE_SHARE, Deaths, Guarded, Handler

# Passes without a unit after which what hangs had its chance to be isolated.
_BARREN_STALLS = 2


@dataclass(frozen=True, kw_only=True)
class VotesJob:
    """A votes job that holds its run's lease.

    Attributes:
        defense: What votes.
        numerics: In which arithmetic.
        options: How the source is read.
        store: Where votes go.
        lease: Checked at every committed unit.
        config: What was asked.
        executor: Where it runs.
    """

    defense: Defense
    numerics: Numerics
    options: SourceOptions
    store: VotesStore
    lease: Lease
    config: VotesConfig
    executor: Executor

    def handlers(self, schema: pa.Schema) -> tuple[Callable[[], Handler], Callable[[], Handler]]:
        """Makers of the handlers of decoding tasks and of voting actors, both picklable."""
        from pipeline.voting.vote import VoteOnUnit  # noqa: PLC0415  (it imports torch)

        return (
            partial(DecodeUnit, self.options, self.defense.model_input),
            partial(VoteOnUnit, self.defense, self.numerics, schema),
        )


class Finished(NamedTuple):
    """A finished run, and what this call did for it.

    Attributes:
        manifest: As it was when the run was finished.
        voted: Images voted on.
        seconds: How long that took.
    """

    manifest: Manifest
    voted: int
    seconds: float


def finish_run(job: VotesJob, wanted: Manifest, listing: Listing) -> Finished:
    """Vote on what has no votes, and say in the manifest that the run is finished.

    Args:
        job: The job.
        wanted: The manifest that the run is begun with, if it is not begun.
        listing: Every image of the run.

    Raises:
        ManifestError, StoreError, LeaseError, JobError: The job failed; running again resumes.
    """
    store = job.store
    manifest = open_run(store, wanted, overwrite=job.config.overwrite)
    if (found := store.finished()) is not None:  # by the job that was waited for
        return Finished(found, 0, 0.0)
    store.clean_up()
    units = plan_units(listing.table, manifest.execution.unit_images)
    voted, barren, seconds = 0, 0, 0.0
    missing = store.missing(manifest)
    while missing:
        pending = [units[number] for number in missing]
        notes = store.notes()
        try:
            took, died = _vote_on(job, manifest, units, pending)
        except KeyboardInterrupt:
            # Who stops a job does so for no image's sake.
            store.take_back(notes)
            raise
        seconds += took
        before, missing = missing, store.missing(manifest)
        voted += sum(units[number].num_rows for number in set(before) - set(missing))
        if died is not None:
            barren = barren + 1 if len(missing) == len(before) else 0
            # What kills every worker before one unit is done will go on doing so.
            if barren > (_BARREN_STALLS if isinstance(died, StalledError) else 0):
                raise died
            if missing:
                job.executor.rejoin()
        elif missing:
            raise StoreError(
                f"run_id={store.run_id}: {len(missing)} of {len(units)} units were not committed; "
                "run again to resume"
            )
    store.clean_up()
    errors = store.error_images(manifest)
    job.lease.check()  # the manifest is no longer ours to write if another job has taken the run
    whole = voted == manifest.execution.images
    done = finish_manifest(manifest, seconds if whole else None, errors)
    store.write_manifest(done)
    return Finished(done, voted, seconds)


def _vote_on(
    job: VotesJob, manifest: Manifest, units: list[pa.Table], pending: list[pa.Table]
) -> tuple[float, Exception | None]:
    """Send pending units through the cluster.

    Returns:
        The seconds it took, and what ended it early if too many workers died.
    """
    unit_rows = [unit.num_rows for unit in units]
    done = sum(unit_rows) - sum(unit.num_rows for unit in pending)
    schema = manifest.schema
    with job.executor.join() as available:
        share = plan_resources(
            available,
            job.numerics,
            job.config.actors,
            len(pending),
            job.config.accelerator_type,
        )
        start = time.monotonic()
        died = None
        committed = _stages(job.executor)(
            pending,
            *job.handlers(schema),
            CommitUnit(job.store.anywhere(), unit_rows, schema, manifest.defense.votes_per_image),
            share,
            stall_seconds=60.0 * job.config.stall_minutes,
            verbose=job.executor.verbose,
        )
        # Closed however this ends: workers must not go on for a job that has lost its lease.
        with (
            VotesProgress(sum(unit_rows), done, share.actors) as progress,
            contextlib.closing(committed) as receipts,
        ):
            try:
                for receipt in itertools.chain.from_iterable(map(pa.Table.to_pylist, receipts)):
                    job.lease.check()
                    progress.add(receipt["images"], receipt["errors"], receipt["seconds"])
            except WorkersDiedError as error:
                died = error
        return time.monotonic() - start, died


def _stages(executor: Executor) -> Callable[..., Generator[pa.Table, None, None]]:
    """Return what sends units through the stages, here or on Ray, as ``dataset.run_units`` does."""
    if executor.in_process:
        return _units_here
    # Ray is not needed to say that a run is finished.
    from pipeline.voting.dataset import run_units  # noqa: PLC0415

    return run_units


def _units_here(
    units: Sequence[pa.Table],
    decode: Callable[[], Handler],
    vote: Callable[[], Handler],
    commit: CommitUnit,
    *_: object,
    stall_seconds: float,
    verbose: bool,
) -> Generator[pa.Table, None, None]:
    """Decode a unit while the one before it is voted on."""
    patience = IMAGE_SHARE * stall_seconds
    decoding = Guarded(decode, Deaths(commit.store, "decode"), patience)
    voting = Guarded(vote, Deaths(commit.store, "vote"), patience)
    coming = _meanwhile(decoding, units[0])
    for following in (*units[1:], None):
        decoded = coming.result()
        if following is not None:
            coming = _meanwhile(decoding, following)
        yield commit(voting(decoded))


def _meanwhile(handler: Callable[[pa.Table], pa.Table], rows: pa.Table) -> "Future[pa.Table]":
    """Handle a unit in a daemon thread: a pool's would hold up the exit if it hung."""
    done: Future[pa.Table] = Future()

    def work() -> None:
        try:
            done.set_result(handler(rows))
        except BaseException as error:  # the caller's, whatever it is
            done.set_exception(error)

    Thread(target=work, daemon=True).start()
    return done


def plan_units(table: pa.Table, unit_images: int) -> list[pa.Table]:
    """Cut a listing into units of ``unit_images`` rows, each with its number in ``unit``."""
    starts = range(0, table.num_rows, unit_images)
    units = []
    for number, start in enumerate(starts):
        rows = table.slice(start, unit_images)
        # A slice takes every path along that its chunk holds, in a folder those of all images.
        paths = rows["file"].cast(pa.string()).dictionary_encode()
        rows = rows.set_column(rows.schema.get_field_index("file"), rows.field("file"), paths)
        units.append(rows.append_column("unit", pa.array([number] * rows.num_rows, pa.int64())))
    return units


def open_run(store: VotesStore, wanted: Manifest, *, overwrite: bool) -> Manifest:
    """Find or begin a run; the manifest on disk wins, since its units are.

    Raises:
        ManifestError: The manifest on disk contradicts its id or the listing.
    """
    if overwrite:
        store.delete()
    # Of two starts at once the first decides how units are cut; the other reads what it wrote.
    found = store.read_manifest() or store.create_manifest(wanted)
    check_images(found, wanted.execution.images, store.manifest_path)
    return found


def check_images(found: Manifest, listed: int, where: str) -> None:
    """Hold a stored manifest against the number of listed images.

    Raises:
        ManifestError: It says another.
    """
    if found.execution.images != listed:
        raise ManifestError(
            f"{where}: execution.images says {found.execution.images}, the source lists "
            f"{listed}; run again with --overwrite"
        )
