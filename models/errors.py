"""The two ways a command fails with a message in place of a traceback."""

import sys


class RequestError(ValueError):
    """The request is wrong: nothing was computed; exit code 2."""


class JobError(RuntimeError):
    """The job failed: what it stored stays, and running again resumes; exit code 1."""


def exit_code_of(error: Exception) -> int | None:
    """2 where the request was wrong, 1 where the job failed, None for a bug of this program."""
    if isinstance(error, RequestError):
        return 2
    # Storage of s3:// raises botocore's errors; they can only come from a module in memory.
    botocore = sys.modules.get("botocore.exceptions")
    foreign = (OSError,) if botocore is None else (OSError, botocore.BotoCoreError)
    return 1 if isinstance(error, (JobError, *foreign)) else None
