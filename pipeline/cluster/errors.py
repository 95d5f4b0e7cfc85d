"""How a job on Ray fails, and Ray's errors in our words."""

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import ActorDiedError, RayError, RayTaskError, UserCodeException

from models.errors import JobError
from pipeline.config import ConfigError

# Between an exception and the one raised from it, in a traceback.
_WRAPPED = "\nThe above exception was the direct cause of the following exception:\n"
# A traceback's last line names the exception's module, elsewhere we do not.
_MODULE = re.compile(r"^(?:\w+\.)+(?=\w+(?::|$))")
# Of ray.data.exceptions, which takes a second to import, and not in the oldest Ray that is allowed.
_NO_PROGRESS = "ExecutionTimeoutError"


class WorkersDiedError(JobError):
    """Processes or nodes died more often than Ray restarts them; worth another pass."""


class StalledError(WorkersDiedError):
    """Nothing came to an end for too long: something hangs; worth another pass, or two."""


@contextmanager
def in_words(stalled: str | None = None) -> Iterator[None]:
    """Turn Ray's errors into ours: a task that failed, workers that died, or nothing at all.

    Args:
        stalled: What to say where a dataset did nothing for too long; None where there is none.
    """
    try:
        yield
    except RayTaskError as error:
        if isinstance(error, ConfigError):  # the worker's own words, as Ray sees to
            raise ConfigError(str(error.cause)) from error
        raise JobError(told(error)) from error
    except ActorDiedError as error:
        # One that fails as it begins is not what dies of an image or with a node: it never will.
        kind = JobError if error.actor_init_failed else WorkersDiedError
        raise kind(told(error)) from error
    except RayError as error:
        raise WorkersDiedError(told(error)) from error
    except Exception as error:
        if stalled is None or type(error).__name__ != _NO_PROGRESS:
            raise
        raise StalledError(stalled) from error


def told(error: RayError) -> str:
    """What went wrong in a worker, in one line without the traceback around it."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, UserCodeException) and isinstance(error, RayTaskError):
        return _raised_in_stage(error)
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1] if lines else 'no message'}"


def _raised_in_stage(error: RayTaskError) -> str:
    """What a stage of Ray Data raised: Ray keeps its own advice as the cause, ours as text only."""
    before, wrapped, _ = str(error).rpartition(_WRAPPED)
    # Frames are indented; the exception and the lines of its message are not.
    said = before.rstrip().splitlines() if wrapped else []
    message = list(itertools.takewhile(lambda line: not line.startswith(" "), reversed(said)))
    raised = " ".join(reversed(message)) or "a stage failed; --verbose shows Ray's own log"
    return _MODULE.sub("", raised)
