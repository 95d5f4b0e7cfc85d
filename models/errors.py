"""The two ways a command fails with a message in place of a traceback, and the models' errors."""

import sys


class RequestError(ValueError):
    """The request is wrong: nothing was computed; exit code 2."""


class JobError(RuntimeError):
    """The job failed: what it stored stays, and running again resumes; exit code 1."""


class WorkersDiedError(JobError):
    """Processes or nodes died more often than Ray restarts them; worth another pass."""


class StalledError(WorkersDiedError):
    """Nothing finished for too long: something hangs; worth another pass, or two."""


class UnknownModelError(RequestError):
    """timm has no model of that name."""


class WeightsError(RequestError):
    """A weight file is missing, damaged, or not of the network asked for."""


class UnsupportedModelError(RequestError):
    """A network cannot be evaluated soundly as asked: its tokens cannot be dropped, say."""


class WrongSizeError(ValueError):
    """An image does not have the size that the preprocessing demands."""


def said_of(error: BaseException) -> str:
    """Return an error's message, or its name if it has none, as timeouts of S3 do."""
    said = str(error)
    return said if said.strip() else type(error).__name__


def exit_code_of(error: Exception) -> int | None:
    """Return 2 for a wrong request, 1 for a failed job, None for a bug of this program."""
    if isinstance(error, RequestError):
        return 2
    # Storage of s3:// raises botocore's errors; they can only come from a module in memory.
    botocore = sys.modules.get("botocore.exceptions")
    foreign = () if botocore is None else (botocore.BotoCoreError,)
    return 1 if isinstance(error, (JobError, OSError, MemoryError, *foreign)) else None
