"""Images that kill or hang the process that handles them, found and turned into rows with an error.

A stage notes each unit it begins, and forgets it when the unit is done. What remains of a process
that died is the note; Ray runs the unit again, and from the third time on the stage hands it, an
image at a time, to a child process. The image under which the child dies, or that it does not get
done with, becomes an error row. The notes lie beside the votes, so that the count outlives actors,
nodes and drivers; a process that hangs dies with the pass that gives it up (``pipeline.passes``).
"""

import multiprocessing
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal, NamedTuple, Protocol

import pyarrow as pa

from pipeline import storage
from pipeline.store import VotesStore

Stage = Literal["decode", "vote"]
# A node that is taken away also counts as a death, so the first is no reason yet.
_DEATHS_BEFORE_ISOLATION = 2
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
    """How often processes died over a unit, in one stage of one run."""

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
            RuntimeError: Processes keep dying over the unit whatever is done.
        """
        unit = rows["unit"][0].as_py()
        before = self.deaths.begin(unit)
        if before >= _MOST_DEATHS:
            self.deaths.end(unit)
            raise RuntimeError(
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

    An image is given up when a second child dies over it, or does not get done with it in
    ``patience`` seconds: the first may have been killed, or slow, by chance.

    Raises:
        RuntimeError: A child fails before its first image, or in words.
    """
    parts: list[pa.Table] = []
    suspect = -1
    while len(parts) < rows.num_rows:
        end = _work_through(make, rows, parts, patience)
        if len(parts) == rows.num_rows:
            break
        if not end.ready or end.exitcode >= 0:
            raise RuntimeError(f"a child process for single images ended with code {end.exitcode}")
        if suspect == len(parts):
            how = signal.Signals(-end.exitcode).name
            reason = (
                f"takes its process more than {patience:g} s"
                if end.late
                else f"kills the process that handles it ({how})"
            )
            parts.append(handler.failed(rows.slice(suspect, 1), reason))
        else:
            suspect = len(parts)
    return pa.concat_tables(parts).combine_chunks()


class _End(NamedTuple):
    """How a child came to its end, after it was ready to begin or before, by itself or too late."""

    exitcode: int
    ready: bool
    late: bool


def _work_through(
    make: Callable[[], Handler], rows: pa.Table, parts: list[pa.Table], patience: float
) -> _End:
    """Let one child add to ``parts`` until it is done, dead or late."""
    ours, theirs = multiprocessing.Pipe()
    # Not forked: the parent has threads, and perhaps a GPU.
    child = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, make))
    child.start()
    theirs.close()
    ready = late = False
    with suppress(EOFError, OSError):
        ready = ours.recv()
        for index in range(len(parts), rows.num_rows):
            ours.send(rows.slice(index, 1))
            if late := not ours.poll(patience):
                child.kill()
                break
            parts.append(ours.recv())
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
