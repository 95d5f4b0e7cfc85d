"""A word on what a command waits for, on standard error."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console

# Waits that are shorter need no line in a log, and long ones need few.
_FIRST_SECONDS, _NEXT_SECONDS = 3.0, 60.0


@contextmanager
def waiting(what: str, stream: TextIO | None = None) -> Iterator[Callable[[str], None]]:
    """Say what a block waits for: a spinner on a terminal, a line now and then in a log.

    Args:
        what: The text, such as "listing images".
        stream: Where it is said; standard error where that is not silenced.

    Yields:
        A function that changes the text.
    """
    stream = stream or sys.stderr
    if stream.isatty():
        with Console(file=stream).status(what) as status:
            yield status.update
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
