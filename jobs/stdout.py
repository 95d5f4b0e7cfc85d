"""Standard output whose reader may go."""

import io
import os
import sys
from typing import Any


def let_readers_go() -> None:
    """Let ``patchcert classes | head`` end like ``patchcert classes``."""
    if sys.stdout is None:
        return
    raw = _Stdout(sys.stdout.fileno(), "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=sys.stdout.encoding,
        errors=sys.stdout.errors,
        line_buffering=raw.isatty(),
    )


class _Stdout(io.FileIO):
    """A file descriptor that drops what is written once nobody reads it.

    The command then ends with its own exit code: that of an attack that found something must not
    depend on who reads the table.
    """

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)
