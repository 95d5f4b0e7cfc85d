"""Progress of a job: a bar on a terminal, plain lines in a log; always on standard error."""

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from pipeline.runs.waiting import stage_took

_SECONDS_BETWEEN_LINES = 10.0


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
            stage_took("starting actors", self._voting_since - self._start)
            stage_took("the first unit's votes", seconds)
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
