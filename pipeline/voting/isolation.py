"""Images that kill or hang the process that handles them, found and turned into rows with an error.

A stage notes each unit it begins, and forgets it when the unit is done. What remains of a process
that died is the note; Ray runs the unit again, and from the third time on the stage hands it, an
image at a time, to a child process. The image under which the child dies, or that it does not get
done with, becomes an error row. The notes lie beside the votes, so that the count outlives actors,
nodes and drivers; a process that hangs dies with the pass that gives it up (``job``).
"""

import multiprocessing
import signal
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Literal, NamedTuple, Protocol

import pyarrow as pa

from models.errors import JobError
from pipeline import storage
from pipeline.runs.store import VotesStore

Stage = Literal["decode", "vote"]
# A node that is taken away also counts as a death, so the first is no reason yet.
_DEATHS_BEFORE_ISOLATION = 2
# How many times longer than the slowest of the others an image may take, and what is never late.
_LATE, _LEAST_LIMIT = 10.0, 30.0
# Share of the time without a finished unit, after which a stage is given up, that a child has for
# an image: it is given up before the stage that waits for it.
IMAGE_SHARE = 0.25
# Beyond this it is not the images: even children for single images do not help.
_MOST_DEATHS = 8


class Handler(Protocol):
    """A stage's work on the rows of one unit, which have their ``unit``."""

    def __call__(self, rows: pa.Table, /) -> pa.Table:
        """The stage's output, a row for each of ``rows``, in order."""

    def failed(self, rows: pa.Table, reason: str, /) -> pa.Table:
        """The stage's output for rows that have ``reason`` as their error."""


@dataclass(frozen=True)
class Deaths:
    """Deaths of processes over a unit, in one stage of one run."""

    store: VotesStore
    stage: Stage

    def _path(self, unit: int) -> str:
        return self.store.note_path(unit, self.stage)

    def begin(self, unit: int) -> int:
        """Note that a process begins a unit; how many have died over it before."""
        try:
            before = int(storage.read_bytes(self._path(unit)) or b"0")
        except FileNotFoundError:
            before = 0
        storage.write_atomically(self._path(unit), b"%d" % (before + 1))
        return before

    def end(self, unit: int) -> None:
        """The unit is done, or failed in words; nobody died."""
        storage.remove(self._path(unit))


class Guarded:
    """A stage whose images may kill its process.

    Args:
        make: Makes the stage's handler; must be picklable, since children call it too.
        deaths: The stage's notes.
        patience: Seconds a child may take for an image.
    """

    def __init__(self, make: Callable[[], Handler], deaths: Deaths, patience: float) -> None:
        self.make, self.deaths, self.patience = make, deaths, patience
        self.handler = make()

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The handler's output for one unit.

        Raises:
            JobError: Processes keep dying over the unit whatever is done.
        """
        unit = rows["unit"][0].as_py()
        before = self.deaths.begin(unit)
        if before >= _MOST_DEATHS:
            self.deaths.end(unit)
            raise JobError(
                f"unit {unit}: {before} processes died over it, though its images were taken one "
                "at a time; see the log of the cluster (out of memory?), then run again to resume"
            )
        try:
            if before >= _DEATHS_BEFORE_ISOLATION:
                done = in_children(self.make, self.handler, rows, self.patience)
            else:
                done = self.handler(rows)
        except Exception:
            # No death: it fails the job, in words. An exit is one, when what hangs is given up.
            self.deaths.end(unit)
            raise
        self.deaths.end(unit)
        return done


def in_children(
    make: Callable[[], Handler], handler: Handler, rows: pa.Table, patience: float
) -> pa.Table:
    """The output for ``rows``, each handled alone by a child process that may die over it.

    An image is given up at the second child that dies over it, since the first may have been killed
    by chance; or that is late with it, where others of the unit were in time. Where no child can be
    begun at all, the unit is handled whole, as before. How fast the machine
    is never decides alone: late is ten times the slowest of the others, which also bounds how long
    several images without end can hold up a unit. ``patience`` is all there is before the first,
    and for an image that is a unit by itself.

    Args:
        make: Makes the child's handler.
        handler: Says what a row with an error looks like.
        rows: The images.
        patience: Seconds a child may take for an image.

    Raises:
        JobError: A child fails in words, or all images are late.
    """
    work = _Work(patience)
    pending = deque(range(rows.num_rows))
    deaths: Counter[int] = Counter()
    while pending:
        end = _work_through(make, rows, pending, work)
        if not pending:
            break
        if not end.ready:
            # A second network has no room beside the first, or the program cannot be begun again:
            # a module of its own, or a script without a guard.
            return handler(rows)
        if end.exitcode >= 0:
            raise JobError(f"a child process for single images ended with code {end.exitcode}")
        suspect = pending[0]
        deaths[suspect] += 1
        alone = rows.num_rows == 1  # no other can tell how long an image takes here
        if end.late and not work.slowest and not alone and all(deaths[at] for at in pending):
            raise JobError(
                f"no image of this unit was done in {patience:g} s, which is a fourth of "
                "--stall-minutes: if that is how long they take, give more minutes"
            )
        if deaths[suspect] == 1:
            if end.late:  # others first: they tell how long an image takes here
                pending.rotate(-1)
            continue
        reason = (
            f"was not done in {patience:g} s, twice"
            if end.late and alone
            else "has no end, while others of its unit came to theirs"
            if end.late
            else f"kills the process that handles it ({signal.Signals(-end.exitcode).name})"
        )
        work.done[suspect] = handler.failed(rows.slice(suspect, 1), reason)
        pending.popleft()
    return pa.concat_tables(work.done[image] for image in range(rows.num_rows)).combine_chunks()


@dataclass
class _Work:
    """Times of what children have done, and the time that one may take for the next image."""

    patience: float
    done: dict[int, pa.Table] = field(default_factory=dict)
    slowest: float = 0.0

    @property
    def limit(self) -> float:
        """Seconds."""
        if not self.slowest:
            return self.patience
        return min(self.patience, max(_LEAST_LIMIT, _LATE * self.slowest))

    def add(self, image: int, output: pa.Table, seconds: float) -> None:
        """An image is done."""
        self.done[image] = output
        self.slowest = max(self.slowest, seconds)


class _End(NamedTuple):
    """End of a child: after it was ready to begin or before, by itself or too late."""

    exitcode: int
    ready: bool
    late: bool


def _work_through(
    make: Callable[[], Handler], rows: pa.Table, pending: deque[int], work: _Work
) -> _End:
    """Let one child take images from ``pending`` until none is left or it is dead or late."""
    ours, theirs = multiprocessing.Pipe()
    # Not forked: the parent has threads, and perhaps a GPU.
    child = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, make))
    try:
        child.start()
    except Exception:  # what is handled with cannot be sent
        return _End(1, ready=False, late=False)
    theirs.close()
    ready = late = False
    with suppress(EOFError, OSError):
        ready = ours.recv()
        while pending:
            start = time.monotonic()
            ours.send(rows.slice(pending[0], 1))
            if late := not ours.poll(work.limit):
                child.kill()
                break
            output = ours.recv()
            work.add(pending.popleft(), output, time.monotonic() - start)
    ours.close()
    child.join()
    return _End(child.exitcode or 0, ready, late)


def _serve(connection: Connection, make: Callable[[], Handler]) -> None:
    handler = make()
    connection.send(True)
    while True:
        try:
            rows = connection.recv()
        except EOFError:
            return
        connection.send(handler(rows))
