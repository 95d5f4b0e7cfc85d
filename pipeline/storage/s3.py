"""S3 through s3fs, with retries: throttling, 5xx answers and outages cost time, not data.

Botocore and s3fs each retry a handful of times, within seconds; two such layers multiply when a
server is down and still give up before it is back. Here one layer retries, by the clock.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import s3fs
from aiohttp import ClientPayloadError
from botocore import exceptions as botocore
from fsspec.asyn import sync_wrapper
from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)
from urllib3.exceptions import IncompleteRead

from models.errors import RequestError

PATIENCE = "PATCHCERT_S3_PATIENCE"
"""Environment variable: seconds for which a request is repeated before the job fails."""

ANONYMOUS = "PATCHCERT_S3_ANONYMOUS"
"""Environment variable: 1 sends no credentials, which public buckets need none of."""

_PATIENCE_SECONDS = 180.0
# Full jitter: a thousand tasks that were refused together must not come back together.
_WAIT = wait_random_exponential(multiplier=0.2, max=10)
_TRANSIENT_STATUS = (429, 500, 502, 503, 504)
_TRANSIENT_CODES = (
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "RequestTimeout",
    "InternalError",
    "ServiceUnavailable",
    # Two conditional writes of one key at once: AWS asks to try again.
    "ConditionalRequestConflict",
)


_LOST = (
    botocore.ConnectionError,
    botocore.HTTPClientError,
    ClientPayloadError,
    IncompleteRead,
    TimeoutError,
)


class _Received:
    """The bytes of an answer, which s3fs reads as a whole."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read(self) -> bytes:
        return self.data

    def close(self) -> None:
        """Nothing is open."""


class NoAnswerError(OSError):
    """The server did not recover in time; of a type of its own, since Arrow's damage is OSError."""


class _Override:
    """Shorter patience for a while; for all threads, since requests run in fsspec's own."""

    seconds: float | None = None


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Repeat requests of this process for so many seconds only, as a first contact should."""
    before, _Override.seconds = _Override.seconds, min(seconds, _seconds())
    try:
        yield
    finally:
        _Override.seconds = before


def _seconds() -> float:
    """Seconds for which requests are repeated at present.

    Raises:
        RequestError: The environment says no number of seconds.
    """
    if _Override.seconds is not None:
        return _Override.seconds
    text = os.environ.get(PATIENCE, str(_PATIENCE_SECONDS))
    try:
        if 0 <= (seconds := float(text)) < math.inf:
            return seconds
    except ValueError:
        pass
    raise RequestError(f"{PATIENCE}={text}: give seconds, such as 180")


def is_transient(error: BaseException) -> bool:
    """True where the same request may succeed later: the server is busy, failing or away."""
    if (answer := _answer(error)) is not None:
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in _TRANSIENT_STATUS or _code_of(error) in _TRANSIENT_CODES
    return isinstance(error, _LOST)


def _answer(error: BaseException) -> dict[str, Any] | None:
    """The server's answer in an error of botocore's or in s3fs' translation of it."""
    cause = error if isinstance(error, botocore.ClientError) else error.__cause__
    return cause.response if isinstance(cause, botocore.ClientError) else None


def _code_of(error: BaseException) -> str | None:
    code: str | None = (_answer(error) or {}).get("Error", {}).get("Code")
    return code


class PatientS3FileSystem(s3fs.S3FileSystem):  # type: ignore[misc]  # (s3fs has no types)
    """S3 whose requests are repeated, by the clock, while the server is busy or away.

    Every request passes through ``_call_s3``, those of open files and of listings too.
    """

    async def _call_s3(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        """One request, repeated while its failure is transient.

        Raises:
            PermissionError: The credentials are refused, or may not do this.
            NoAnswerError: The server did not recover in time.
            OSError: It refuses for another reason.
        """
        attempts = AsyncRetrying(
            retry=retry_if_exception(is_transient),
            wait=_WAIT,
            stop=stop_after_delay(_seconds()),
            reraise=True,
        )
        try:
            return await attempts(self._whole_answer, method, *akwarglist, **kwargs)
        except botocore.NoCredentialsError as error:
            raise PermissionError(
                f"s3://{_place(kwargs)}: no credentials are found: set AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY, or {ANONYMOUS}=1, which reads public buckets without"
            ) from error
        except PermissionError as error:
            raise PermissionError(
                f"s3://{_place(kwargs)} is refused ({error}): check AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY (or the machine's role), and what they may do there, or set "
                f"{ANONYMOUS}=1 for a public bucket"
            ) from error
        except Exception as error:
            if _code_of(error) == "PreconditionFailed" and "IfNoneMatch" in kwargs:
                # s3fs recognizes it by a detail of the answer that only AWS sends.
                raise FileExistsError(f"s3://{_place(kwargs)} is there already") from error
            if not is_transient(error):
                raise
            # An OSError, which no layer above repeats.
            raise NoAnswerError(
                f"s3://{_place(kwargs)} does not answer, for {_seconds():g} s now ({error}): check "
                f"AWS_ENDPOINT_URL and the server, then run again ({PATIENCE} sets the seconds)"
            ) from error

    async def _whole_answer(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        """One request with the bytes of an object: a connection may be lost as they come."""
        answer = await super()._call_s3(method, *akwarglist, **kwargs)
        if method == "get_object":
            body = answer["Body"]
            try:
                answer["Body"] = _Received(await body.read())
            finally:
                body.close()
        return answer

    call_s3 = sync_wrapper(_call_s3)  # open files that are written use it


def _place(kwargs: dict[str, Any]) -> str:
    key = kwargs.get("Key") or kwargs.get("Prefix") or ""
    return f"{kwargs.get('Bucket', '')}/{key}".rstrip("/")


def s3_filesystem() -> PatientS3FileSystem:
    """The S3 of the environment; one object a process and environment.

    Its listings are never cached: they would hide later commits of other processes.
    """
    return PatientS3FileSystem(
        anon=os.environ.get(ANONYMOUS) == "1",
        use_listings_cache=False,
        # Only PatientS3FileSystem retries.
        config_kwargs={"retries": {"max_attempts": 0}},
    )
