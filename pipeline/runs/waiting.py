"""A word on what a command waits for, on standard error; with ``--verbose``, how long it took."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console

# Waits that are shorter need no line in a log, and long ones need few.
_FIRST_SECONDS, _NEXT_SECONDS = 3.0, 60.0
_say_stages = threading.Event()


def say_stages() -> None:
    """Say from now on, on standard error, how long each stage of this process took."""
    _say_stages.set()


def stage_took(what: str, seconds: float) -> None:
    """Say how long a stage took, and when after the start of this process it ended."""
    if _say_stages.is_set():
        print(f"stage: {what} took {seconds:.1f} s, at {_age():.1f} s", file=sys.stderr, flush=True)


def _age() -> float:
    """Seconds since this process was started, by Linux's own account."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as stream:
        ticks = int(stream.read().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def waiting(what: str, stream: TextIO | None = None) -> Iterator[Callable[[str], None]]:
    """Say what a block waits for: a spinner on a terminal, a line now and then in a log.

    Args:
        what: The text, such as "listing images".
        stream: Where it is said; standard error where that is not silenced.

    Yields:
        A function that changes the text.
    """
    stream, start = stream or sys.stderr, time.monotonic()
    if stream.isatty():
        with Console(file=stream).status(what) as status:
            yield status.update
        stage_took(what, time.monotonic() - start)
        return
    text, done = [what], threading.Event()

    def say() -> None:
        pause = _FIRST_SECONDS
        while not done.wait(pause):
            print(f"{text[0]} ...", file=stream, flush=True)
            pause = _NEXT_SECONDS

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield lambda changed: text.__setitem__(0, changed)
    finally:
        done.set()
        thread.join()
    stage_took(what, time.monotonic() - start)
