"""How far a job is: a bar on a terminal, plain lines in a log; always on standard error."""

import sys
import threading
import time
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

_SECONDS_BETWEEN_LINES = 10.0
# Of what is mostly over at once: how long nothing is said of it, then how often in a log, and how
# often a terminal is drawn anew.
_QUIET_SECONDS, _CALM_SECONDS, _DRAWN_SECONDS = 5.0, 30.0, 0.5


class CalmProgress:
    """Progress of what is mostly over at once: nothing for some seconds, then where it is.

    Attributes:
        done: Images finished so far; whoever works sets it, from any thread.

    Args:
        what: What goes on, such as ``certifying``.
        total: Images in all; None where they are not counted and only time can be told.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total, self.done = what, total, 0
        self._over = threading.Event()
        # Work that never comes back to say how far it is must not end in silence: a thread watches.
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watcher.join()

    def _watch(self) -> None:
        if self._over.wait(_QUIET_SECONDS):
            return
        if not sys.stderr.isatty():
            while True:
                print(self._line(), file=sys.stderr, flush=True)
                if self._over.wait(_CALM_SECONDS):
                    return
        with Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            transient=True,
        ) as bar:
            task = bar.add_task(self._line(), total=None)
            while not self._over.wait(_DRAWN_SECONDS):
                bar.update(task, description=self._line())

    def _line(self) -> str:
        seconds = f"{time.monotonic() - self._start:.0f} s so far"
        if self.total is None:
            return f"{self.what}: {seconds}"
        return f"{self.what}: {self.done} of {self.total} images, {seconds}"


class VotesProgress:
    """Progress over images, with rate, remaining time, busy actors and errors.

    Args:
        total: Images of the job.
        done: Images finished by earlier runs; they do not count towards the rate.
        actors: Copies of the network that vote, each on a GPU if there are any.
    """

    def __init__(self, total: int, done: int, actors: int) -> None:
        self.total, self.done, self.errors, self.actors = total, done, 0, actors
        self._busy = 0.0
        self._voting_since: float | None = None
        self._resumed = done
        self._start = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("votes"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("images"),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("", total=total, completed=done, rate="starting")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        else:
            self._print(f"votes: {self.done} of {self.total} images done, starting")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def add(self, images: int, errors: int, seconds: float) -> None:
        """Count a committed unit, with the time that an actor had it."""
        if self._voting_since is None:
            # Starting actors and loading weights is no idling.
            self._voting_since = time.monotonic() - seconds
        self.done += images
        self.errors += errors
        self._busy += seconds
        if self._bar:
            self._bar.update(self._task, completed=self.done, rate=self._rate())
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES or self.done >= self.total:
            self._last_line = now
            self._print(f"votes: {self.done} of {self.total} images, {self._rate()}")

    def _rate(self) -> str:
        rate = (self.done - self._resumed) / max(time.monotonic() - self._start, 1e-9)
        left = (self.total - self.done) / rate if rate else float("inf")
        text = f"{rate:.1f} images/s, {left:.0f} s left, actors {100 * self.busy:.0f} % busy"
        return text + (f", {self.errors} with errors" if self.errors else "")

    @property
    def busy(self) -> float:
        """Share of their time that the actors voted, of units that are committed.

        The rest is waiting: for images to be decoded, or for votes to be written.
        """
        if self._voting_since is None:
            return 0.0
        since = max(time.monotonic() - self._voting_since, 1e-9)
        return min(self._busy / (self.actors * since), 1.0)

    @staticmethod
    def _print(line: str) -> None:
        print(line, file=sys.stderr, flush=True)
