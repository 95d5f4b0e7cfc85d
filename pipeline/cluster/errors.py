"""Errors of a job on Ray, and their translation from Ray's errors."""

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import ActorDiedError, RayError, RayTaskError, UserCodeException

from models.errors import JobError, StalledError, WorkersDiedError
from pipeline.config import ConfigError

# Between an exception and the one raised from it, in a traceback.
_WRAPPED = "\nThe above exception was the direct cause of the following exception:\n"
# The module of the exception in a traceback's last line, which messages leave out.
_MODULE = re.compile(r"^(?:\w+\.)+(?=\w+(?::|$))")
# Of ray.data.exceptions, which takes a second to import, and not in the oldest Ray that is allowed.
_NO_PROGRESS = "ExecutionTimeoutError"


@contextmanager
def in_words(stalled: str | None = None) -> Iterator[None]:
    """Turn Ray's errors into this program's: a task that failed, workers that died, or a stall.

    Args:
        stalled: Message where a dataset did nothing for too long; None where there is no dataset.
    """
    try:
        yield
    except RayTaskError as error:
        if isinstance(error, ConfigError):  # Ray gives it the class of the worker's error
            raise ConfigError(str(error.cause)) from error
        raise JobError(error_text(error)) from error
    except ActorDiedError as error:
        # An actor that fails as it starts does so every time, unlike one that dies of an image or
        # with a node.
        kind = JobError if error.actor_init_failed else WorkersDiedError
        raise kind(error_text(error)) from error
    except RayError as error:
        raise WorkersDiedError(error_text(error)) from error
    except Exception as error:
        if stalled is None or type(error).__name__ != _NO_PROGRESS:
            raise
        raise StalledError(stalled) from error


def error_text(error: RayError) -> str:
    """Describe an error in a worker in one line, without the traceback."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, UserCodeException) and isinstance(error, RayTaskError):
        return _raised_in_stage(error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    if isinstance(cause, RayError):  # the lines before are Ray's traceback
        lines = lines[-1:]
    return f"{type(cause).__name__}: {' '.join(lines) or 'no message'}"


def _raised_in_stage(error: RayTaskError) -> str:
    """Find the exception of a stage of Ray Data, which Ray keeps as text only."""
    before, wrapped, _ = str(error).rpartition(_WRAPPED)
    # Frames are indented; the exception and the lines of its message are not.
    lines = before.rstrip().splitlines() if wrapped else []
    message = list(itertools.takewhile(lambda line: not line.startswith(" "), reversed(lines)))
    raised = " ".join(reversed(message)) or "a stage failed; --verbose shows Ray's own log"
    return _MODULE.sub("", raised)
